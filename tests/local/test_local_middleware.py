"""Middleware: host names, the log of requests, and limits for bodies."""

from __future__ import annotations

import json

import pytest

from coffea_sx.local.settings import ServerSettings

SUBMIT = "/servicex/transformation"


def test_the_sum_of_bodies_in_work_is_limited(serve):
    client = serve(settings=ServerSettings(max_bytes_in_work=1000))
    headers = {"content-type": "application/json"}
    response = client.http.post(SUBMIT, content=b"[" * 1001, headers=headers)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    for _ in range(3):  # refused bodies do not count any more
        assert client.http.post(SUBMIT, content=b"[" * 900, headers=headers).status_code == 400


@pytest.mark.slow
def test_a_long_file_list_is_accepted(serve):
    client = serve()
    paths = [f"root://store.example.org//{'directory/' * 20}{i:06}.root" for i in range(100_000)]
    assert len(json.dumps(paths)) > 20e6
    request_id = client.submit(paths)
    assert client.status(request_id)["files"] == len(paths)
    client.http.post(f"{SUBMIT}/{request_id}/cancel")


def test_long_paths_are_cut_in_the_log(serve):
    client = serve()
    client.server.exchanges.clear()
    assert client.http.get(f"/{'x' * 10_000}").status_code == 404
    (exchange,) = client.server.exchanges
    assert len(exchange.path) == 400


def test_other_host_names_are_refused(client):
    response = client.http.get("/servicex", headers={"host": "evil.example"})
    assert response.status_code == 400


def test_exchanges_are_logged_without_queries(client):
    client.server.exchanges.clear()
    body = client.http.get("/servicex?secret=1").content
    (exchange,) = client.server.exchanges
    assert (exchange.method, exchange.path, exchange.status) == ("GET", "/servicex", 200)
    assert exchange.nbytes_sent == len(body)
