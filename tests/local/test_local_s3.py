"""Buckets in a real S3 server, with a server that behaves like one of 2025."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import httpx
import minio
import pytest
import uproot
import yaml
from coffea.nanoevents import NanoEventsFactory
from support.paces import FAST

from coffea_sx.cli import main
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.errors import ConfigurationError
from coffea_sx.local import LocalServiceX
from coffea_sx.local.buckets import BucketError
from coffea_sx.local.s3 import S3Buckets, parse_object_store
from coffea_sx.testing.store import S3Store

pytestmark = pytest.mark.usefixtures("s3_store")

BASE = "/servicex/transformation"
KEYS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret"}


def names_in(store: S3Store, bucket: str) -> list[str]:
    return sorted(entry.object_name for entry in store.client().list_objects(bucket))


def delivered(store: S3Store, client: Any, request_id: str) -> dict[str, ak.Array]:
    """Read the delivered files by their input path."""
    arrays = {}
    for row in client.rows(request_id):
        if row["transform_status"] == "success":
            response = httpx.get(
                store.client().presigned_get_object(request_id, row["s3-object-name"])
            )
            assert response.status_code == 200
            assert len(response.content) == row["total-bytes"]
            with uproot.open(io.BytesIO(response.content)) as file:
                arrays[row["file-path"]] = file["servicex"].arrays(["MET_pt", "event"])
    return arrays


# -- the URL of the store


@pytest.mark.parametrize(
    ("url", "endpoint", "is_secured", "keys"),
    [
        ("s3://127.0.0.1:9000", "127.0.0.1:9000", False, ("me", "secret")),
        ("s3://127.8.8.8:9000/", "127.8.8.8:9000", False, ("me", "secret")),
        ("s3://localhost:9000", "localhost:9000", False, ("me", "secret")),
        ("s3://[::1]:9000", "[::1]:9000", False, ("me", "secret")),
        ("s3://store.example.org", "store.example.org", True, ("me", "secret")),
        ("s3://10.0.0.1:9000", "10.0.0.1:9000", True, ("me", "secret")),
        ("s3://localhost.example.org:1", "localhost.example.org:1", True, ("me", "secret")),
        ("s3://a:b@store.example.org:443", "store.example.org:443", True, ("a", "b")),
        ("s3://a%40:b%2F%3A@127.0.0.1:1", "127.0.0.1:1", False, ("a@", "b/:")),
    ],
)
def test_urls_of_stores(url, endpoint, is_secured, keys):
    location = parse_object_store(url, KEYS)
    assert (location.endpoint, location.is_secured) == (endpoint, is_secured)
    assert (location.keys.access_key, location.keys.secret_key) == keys
    assert keys[1] not in repr(location)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9000",
        "http://a:TopSecret@127.0.0.1:9000",
        "s3://",
        "s3://a:TopSecret@",
        "s3://a:TopSecret@host:",
        "s3://a:TopSecret@host:0",
        "s3://a:TopSecret@host:port",
        "s3://a:TopSecret@host:99999",
        "s3://a:TopSecret@[::1",
        "s3://a:TopSecret@ho st:1",
        "s3://a:TopSecret@host/bucket",
        "s3://a:TopSecret@host?secure=no",
        "s3://a:Top/Secret@host:9000",
        "s3://a:TopSecret/@host:9000",
    ],
)
def test_malformed_urls_are_refused_and_not_shown(url):
    with pytest.raises(ConfigurationError, match="s3://host:port, with or without") as caught:
        LocalServiceX(object_store=url)
    assert "Top" not in str(caught.value)
    assert caught.value.__context__ is None
    assert b"Top" not in pickle.dumps(caught.value)


@pytest.mark.parametrize("url", ["s3://h", "s3://@h", "s3://a@h", "s3://a:@h", "s3://:TopSecret@h"])
def test_missing_keys(url):
    with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID") as caught:
        parse_object_store(url, {"AWS_ACCESS_KEY_ID": "me"})
    assert "Top" not in str(caught.value)


def test_keys_of_the_environment(s3_store, monkeypatch, inputs, serve):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_store.secret_key)
    client = serve(object_store=f"s3://{s3_store.endpoint}")
    request_id = client.submit(inputs[:1])
    assert client.wait(request_id)["files-completed"] == 1
    assert len(names_in(s3_store, request_id)) == 1


@pytest.mark.parametrize("what", ["no server", "other secret", "no S3"])
def test_a_store_that_cannot_be_used(what, s3_store, closed_port, servicex, tmp_path):
    url = {
        "no server": f"s3://a:TopSecret@127.0.0.1:{closed_port}",
        "other secret": f"s3://{s3_store.access_key}:TopSecret@{s3_store.endpoint}",
        "no S3": f"s3://a:TopSecret@{servicex.url.removeprefix('http://')}",
    }[what]
    server = LocalServiceX(tmp_path, object_store=url)
    threads = threading.active_count()
    with pytest.raises(ConfigurationError, match=r"object store at 127\.0\.0\.1:") as caught:
        server.start()
    assert "TopSecret" not in str(caught.value)
    assert threading.active_count() == threads
    with LocalServiceX(tmp_path):
        pass  # the directory is free


# -- responses of a server of 2025


def test_the_status_has_the_keys_as_given(s3_store, serve, inputs):
    port = s3_store.endpoint.partition(":")[2]
    url = f"s3://{s3_store.access_key}:{s3_store.secret_key}@localhost:{port}"
    client = serve(object_store=url)
    request_id = client.submit(inputs[:1])
    status = client.wait(request_id)
    assert {key: value for key, value in status.items() if key.startswith("minio")} == {
        "minio-endpoint": f"localhost:{port}",
        "minio-secured": False,
        "minio-access-key": s3_store.access_key,
        "minio-secret-key": s3_store.secret_key,
    }
    assert s3_store.secret_key not in client.http.get(BASE).text
    assert s3_store.secret_key not in client.http.get(f"{BASE}/{request_id}/status").text


def test_a_server_of_2025(client_of_2025, inputs):
    info = client_of_2025.http.get("/servicex").json()
    assert sorted(info["capabilities"]) == [
        "long_sample_titles_10240",
        "poll_local_transformation_results",
    ]
    request_id = client_of_2025.submit(inputs[:1])
    client_of_2025.wait(request_id)
    name = client_of_2025.rows(request_id)[0]["s3-object-name"]
    body = {"request_id": request_id, "file_list": [name]}
    # The path is that of a request with this id, to which nothing can be posted.
    assert client_of_2025.http.post(f"{BASE}/file-urls", json=body).status_code == 405
    assert client_of_2025.http.get(f"{BASE}/{request_id}/errors").status_code == 404
    assert client_of_2025.http.get(f"/{request_id}/{name}").status_code == 404
    assert not (client_of_2025.server.directory / "objects").exists()


def test_all_results_are_in_the_bucket(client_of_2025, client, s3_store, inputs, corrupt):
    paths = [*inputs, corrupt]
    request_id = client_of_2025.submit(paths)
    status = client_of_2025.wait(request_id)
    assert (status["status"], status["files-completed"], status["files-failed"]) == (
        "Complete",
        4,
        1,
    )
    arrays = delivered(s3_store, client_of_2025, request_id)
    assert sorted(arrays) == sorted(map(str, inputs))
    rows = [row for row in client_of_2025.rows(request_id) if row["transform_status"] == "success"]
    assert names_in(s3_store, request_id) == sorted(row["s3-object-name"] for row in rows)
    plain = client.submit(inputs)
    client.wait(plain)
    for path, content in client.objects(plain).items():
        with uproot.open(io.BytesIO(content)) as file:
            expected = file["servicex"].arrays(["MET_pt", "event"])
        assert ak.array_equal(arrays[path], expected, dtype_exact=True)
    assert list((client_of_2025.server.directory / "scratch").iterdir()) == []


def test_an_object_is_there_before_its_row(client_of_2025, s3_store, inputs):
    request_id = client_of_2025.submit(inputs)
    client_of_2025.wait(request_id, n_rows=1)
    rows = {row["s3-object-name"] for row in client_of_2025.rows(request_id)}
    assert rows <= set(names_in(s3_store, request_id))
    client_of_2025.wait(request_id)


# -- life cycle of buckets


def test_cancel_keeps_the_bucket_and_delete_removes_it(s3_store, serve, inputs):
    async def hold(path: str) -> None:
        await asyncio.sleep(0 if path == str(inputs[0]) else 3600)

    client = serve(object_store=s3_store.url, before_report=hold)
    request_id = client.submit(inputs)
    client.wait(request_id, n_rows=1)
    assert client.http.get(f"{BASE}/{request_id}/cancel").status_code == 200
    assert len(names_in(s3_store, request_id)) == 1
    assert list(delivered(s3_store, client, request_id)) == [str(inputs[0])]
    assert client.http.delete(f"{BASE}/{request_id}").status_code == 200
    assert not s3_store.client().bucket_exists(request_id)
    assert client.http.get(f"{BASE}/{request_id}").status_code == 404


def test_a_request_without_its_bucket_can_be_deleted(client_of_2025, s3_store, inputs):
    request_id = client_of_2025.submit(inputs[:1])
    client_of_2025.wait(request_id)
    store = s3_store.client()
    store.remove_object(request_id, names_in(s3_store, request_id)[0])
    store.remove_bucket(request_id)
    assert len(client_of_2025.rows(request_id)) == 1
    assert client_of_2025.http.delete(f"{BASE}/{request_id}").status_code == 200
    assert client_of_2025.rows(request_id) == []


def test_a_restart_keeps_results(s3_store, serve, inputs, tmp_path):
    first = serve(tmp_path, object_store=s3_store.url)
    request_id = first.submit(inputs)
    first.wait(request_id)
    rows, before = first.rows(request_id), delivered(s3_store, first, request_id)
    first.server.stop()
    assert len(names_in(s3_store, request_id)) == len(inputs)
    second = serve(tmp_path, object_store=s3_store.url)
    assert second.wait(request_id)["files-completed"] == len(inputs)
    assert second.rows(request_id) == rows
    after = delivered(s3_store, second, request_id)
    assert all(ak.array_equal(after[path], before[path]) for path in before)
    assert second.http.delete(f"{BASE}/{request_id}").status_code == 200
    assert not s3_store.client().bucket_exists(request_id)


def test_other_keys_after_a_restart(serve, inputs, tmp_path):
    with S3Store() as store:
        first = serve(tmp_path, object_store=store.url)
        request_id = first.submit(inputs)
        first.wait(request_id)
        first.server.stop()
        store.rotate_keys()
        second = serve(tmp_path, object_store=store.url)
        status = second.status(request_id)
        assert status["minio-secret-key"] == store.secret_key
        assert len(delivered(store, second, request_id)) == len(inputs)
        second.server.stop()


def test_a_store_that_fails_fails_files_and_requests(serve, inputs):
    with S3Store() as store:

        async def rotate_keys(path: str) -> None:
            if path == str(inputs[1]):
                store.rotate_keys()

        client = serve(object_store=store.url, workers=1, before_report=rotate_keys)
        request_id = client.submit(inputs[:2])
        status = client.wait(request_id)
        assert (status["files-completed"], status["files-failed"]) == (1, 1)
        failed = {r["file-path"]: r for r in client.rows(request_id)}[str(inputs[1])]
        assert (failed["s3-object-name"], failed["total-bytes"]) == ("none", 0)
        assert list((client.server.directory / "scratch").iterdir()) == []
        refused = client.post(inputs[:1])
        assert refused.status_code == 500
        assert "InvalidAccessKeyId" in refused.json()["message"]
        assert len(client.http.get(BASE).json()["requests"]) == 1
        refused = client.http.delete(f"{BASE}/{request_id}")
        assert refused.status_code == 500
        assert client.status(request_id)["status"] == "Complete"  # and can be deleted later
        client.server.stop()


def test_a_did_can_be_submitted_again_after_the_store_failed(serve, inputs):
    did = "rucio://user:files"
    with S3Store() as store:
        keys = (store.access_key, store.secret_key)
        client = serve(object_store=store.url, datasets={did: [str(inputs[0])]})
        store.rotate_keys()
        assert client.post(did=did).status_code == 500
        store.access_key, store.secret_key = keys
        store._end_process()
        store._launch()
        assert client.wait(client.submit(did=did))["files-completed"] == 1
        client.server.stop()


def test_a_bucket_is_removed_despite_a_late_upload(s3_store, monkeypatch):
    bucket, client = str(uuid.uuid4()), s3_store.client()
    remove, uploads = minio.Minio.remove_bucket, ["a", "b", "c", "d"]

    def remove_after_an_upload(store: minio.Minio, bucket: str) -> None:
        if uploads:
            client.put_object(bucket, uploads.pop(), io.BytesIO(b"x"), 1)
        remove(store, bucket)

    monkeypatch.setattr(minio.Minio, "remove_bucket", remove_after_an_upload)
    buckets = S3Buckets(parse_object_store(s3_store.url))
    asyncio.run(buckets.make(bucket))
    with pytest.raises(BucketError, match="BucketNotEmpty"):
        asyncio.run(buckets.drop(bucket))  # uploads go on
    assert uploads == ["a"]
    asyncio.run(buckets.drop(bucket))
    assert not client.bucket_exists(bucket)
    asyncio.run(buckets.drop(bucket))
    buckets.close()


# -- secrets


def test_the_secret_is_not_shown(s3_store, serve, inputs, caplog):
    with caplog.at_level(logging.DEBUG):
        client = serve(object_store=s3_store.url)
        request_id = client.submit(inputs[:1])
        client.wait(request_id)
        client.http.delete(f"{BASE}/{request_id}")
    server = client.server
    shown = [repr(server), server._repr_html_(), server.servicex_yaml(), repr(server.exchanges)]
    assert s3_store.endpoint in server._repr_html_()
    assert s3_store.secret_key not in "".join(shown) + caplog.text
    for path in server.directory.rglob("*"):
        assert path.is_dir() or s3_store.secret_key.encode() not in path.read_bytes()


# -- the clients


@pytest.fixture
def events_of(nano_files):
    def events(server: LocalServiceX, files: list[str] = nano_files, **options: Any) -> Any:
        return NanoEventsFactory.from_servicex(
            dimuon_query(),
            files,
            input_form={nano_files[0]: "Events"},
            url=server.url,
            schemaclass=SelectionSchema,
            **{"pace": FAST, **options},
        ).events()

    return events


def values(events: Any) -> Any:
    """Some columns of all kinds."""
    arrays = (events.event, events.Muon.pt, events.Jet.mass)
    return dask.compute(*arrays, scheduler="synchronous")


def test_the_same_events_as_with_the_plain_server(events_of, of_2025, servicex, s3_store):
    start = len(of_2025.exchanges)
    from_s3, expected = values(events_of(of_2025)), values(events_of(servicex))
    assert len(expected[0]) > 0
    for ours, theirs in zip(from_s3, expected, strict=True):
        assert ak.array_equal(ours, theirs, dtype_exact=True)
    requested = [exchange.path for exchange in list(of_2025.exchanges)[start:]]
    assert not any(path.endswith(("file-urls", "errors")) for path in requested)


def test_failed_files_are_skipped(events_of, of_2025, nano_files, corrupt):
    files = [nano_files[0], str(corrupt), nano_files[1]]
    events, report = events_of(of_2025, files, on_failure="skip")
    numbers, report = dask.compute(events.event, report, scheduler="synchronous")
    expected = values(events_of(of_2025, [nano_files[0], nano_files[1]]))[0]
    assert ak.array_equal(numbers, expected)
    (failed,) = report[~ak.is_none(report.exception)].to_list()
    assert (failed["input_file"], failed["failed_at"]) == (str(corrupt), "transform")


@pytest.mark.long
@pytest.mark.parametrize("delivery", ["LocalCache", "URLs"])
def test_the_servicex_client(delivery, s3_store, serve, inputs, tmp_path):
    from support.deliver import DELIVER, run

    client = serve(object_store=s3_store.url)
    cache = f"cache_path: {tmp_path / 'cache'}\n"
    (tmp_path / "servicex.yaml").write_text(client.server.servicex_yaml() + cache)
    (tmp_path / "deliver.py").write_text(DELIVER)
    out = run(tmp_path, sys.executable, "deliver.py", delivery, "root-ttree", *inputs)
    if delivery == "URLs":
        urls = re.findall(rf"^http://{re.escape(s3_store.endpoint)}/\S+", out, re.MULTILINE)
        sources = [io.BytesIO(httpx.get(url).content) for url in urls]
    else:
        sources = [Path(line) for line in out.splitlines() if line.startswith("/")]
    n_events = []
    for source in sources:
        with uproot.open(source) as file:
            n_events.append(file["servicex"].num_entries)
    assert sorted(n_events) == [0, 50, 51, 52]


def test_serve_with_an_object_store(s3_store, inputs, query):
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": s3_store.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_store.secret_key,
    }
    command = [sys.executable, "-m", "coffea_sx", "serve"]
    with subprocess.Popen(
        [*command, "--object-store", f"s3://{s3_store.endpoint}"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        try:
            assert server.stdout is not None
            lines = [server.stdout.readline() for _ in range(3)]
            assert lines[-1], "the server ended"
            path = Path(lines[1].rpartition(" is ")[2].strip())
            (endpoint,) = yaml.safe_load(path.read_text())["api_endpoints"]
            info = httpx.get(f"{endpoint['endpoint']}/servicex").json()
            assert "generate_file_urls" not in info["capabilities"]
            assert s3_store.secret_key not in "".join(lines)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_serve_with_a_malformed_object_store(capsys):
    assert main(["serve", "--object-store", "s3://a:TopSecret@"]) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("coffea-sx: object_store= must name an S3 server")
    assert "TopSecret" not in stderr
