"""Generations: the routes, responses and results of each, as clients see them."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import minio
import pytest
import uproot

from coffea_sx.errors import ConfigurationError
from coffea_sx.local import LocalServiceX
from coffea_sx.local.generations import GENERATIONS
from coffea_sx.local.settings import ServerSettings

BASE = "/servicex/transformation"
EACH = list(GENERATIONS)
OLD = ["2025", "1.5"]
HTML = "text/html; charset=utf-8"


def store_of(status: dict[str, Any], **options: Any) -> minio.Minio:
    """Return a client of the store, made as clients without ``file-urls`` make it."""
    return minio.Minio(
        status["minio-endpoint"],
        access_key=status["minio-access-key"],
        secret_key=status["minio-secret-key"],
        secure=status["minio-secured"],
        **options,
    )


def listed(store: minio.Minio, bucket: str) -> list[str]:
    return [str(entry.object_name) for entry in store.list_objects(bucket, recursive=True)]


def events_in(content: bytes) -> int:
    with uproot.open(io.BytesIO(content)) as file:
        return int(file["servicex"].num_entries)


def delivered(status: dict[str, Any], **options: Any) -> list[int]:
    """Return the numbers of events of all objects in the bucket of a request."""
    store, bucket = store_of(status, **options), status["request_id"]
    urls = [
        store.presigned_get_object(bucket, name, expires=timedelta(minutes=1))
        for name in listed(store, bucket)
    ]
    return sorted(events_in(httpx.get(url).raise_for_status().content) for url in urls)


@pytest.fixture(params=EACH)
def each_client(request: pytest.FixtureRequest, clients_of: Any) -> Any:
    """A client of a server of every generation, one after the other."""
    return clients_of[request.param]


# -- routes and responses


@pytest.mark.parametrize(
    ("generation", "capabilities"),
    [
        (
            "2026",
            [
                "generate_file_urls",
                "long_sample_titles_10240",
                "poll_local_transformation_results",
                "post_cancel_transform",
                "transformation_errors",
            ],
        ),
        ("2025", ["long_sample_titles_10240", "poll_local_transformation_results"]),
        ("1.5", None),
    ],
)
def test_capabilities(clients_of, generation, capabilities):
    info = clients_of[generation].http.get("/servicex").json()
    if capabilities is None:
        assert "capabilities" not in info
    else:
        assert sorted(info["capabilities"]) == capabilities


@pytest.mark.parametrize(
    ("generation", "method", "path", "status"),
    [
        ("2025", "POST", f"{BASE}/file-urls", 405),
        ("2025", "POST", f"{BASE}/{{id}}/cancel", 405),
        ("2025", "GET", f"{BASE}/{{id}}/errors", 404),
        ("1.5", "POST", f"{BASE}/file-urls", 405),
        ("1.5", "POST", f"{BASE}/{{id}}/cancel", 405),
        ("1.5", "GET", f"{BASE}/{{id}}/errors", 404),
        ("1.5", "GET", f"{BASE}/{{id}}/results", 404),
        ("1.5", "DELETE", f"{BASE}/{{id}}", 405),
        ("1.5", "GET", "/servicex/datasets", 404),
        ("1.5", "GET", "/servicex/datasets/1", 404),
        ("1.5", "DELETE", "/servicex/datasets/1", 404),
    ],
)
def test_routes_that_older_servers_lack(clients_of, generation, method, path, status, inputs):
    client = clients_of[generation]
    request_id = client.submit(inputs[:1])
    client.wait(request_id)
    response = client.http.request(method, path.format(id=request_id))
    assert response.status_code == status
    assert response.headers["content-type"] == HTML


def test_routes_of_all_servers(each_client, inputs):
    request_id = each_client.submit(inputs)
    each_client.wait(request_id)
    rates = each_client.http.get(f"{BASE}/{request_id}/status").json()
    assert (rates["status"], rates["files-completed"]) == ("Complete", 4)
    listed = each_client.http.get(BASE).json()["requests"]
    (listing,) = [request for request in listed if request["request_id"] == request_id]
    assert "minio-secret-key" not in listing
    unknown = each_client.http.get(f"{BASE}/nope")
    assert unknown.json() == {"message": "Transformation request not found with id: nope"}


def test_the_status_has_the_same_keys(clients_of, inputs):
    statuses = [client.status(client.submit(inputs[:1])) for client in clients_of.values()]
    assert len({frozenset(status) for status in statuses}) == 1


@pytest.mark.sampled(3)
def test_results_are_read_with_the_keys_of_the_status(each_client, inputs):
    status = each_client.wait(each_client.submit(inputs))
    assert delivered(status) == [0, 50, 51, 52]
    assert delivered(status, region="us-east-1") == [0, 50, 51, 52]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("generation", EACH)
def test_a_listing_of_many_pages(generation, serve, inputs):
    client = serve(generation=generation, settings=ServerSettings(listed_objects=1))
    status = client.wait(client.submit(inputs))
    names = listed(store_of(status), status["request_id"])
    assert names == sorted(str(path).replace("/", ":") for path in inputs)


def test_wrong_keys_list_nothing(each_client, inputs):
    status = each_client.wait(each_client.submit(inputs[:1]))
    store = store_of({**status, "minio-secret-key": "other"}, region="us-east-1")
    with pytest.raises(minio.error.S3Error, match="SignatureDoesNotMatch"):
        listed(store, status["request_id"])


# -- requests


@pytest.mark.sampled(3)
@pytest.mark.parametrize("generation", EACH)
def test_cancel_by_get(generation, serve, inputs):
    async def hold(path: str) -> None:
        await asyncio.sleep(0 if path == str(inputs[1]) else 3600)

    client = serve(generation=generation, before_report=hold)
    request_id = client.submit(inputs)
    client.wait(request_id, n_rows=1)
    response = client.http.get(f"{BASE}/{request_id}/cancel")
    assert response.json() == {"message": f"Canceled transformation request {request_id}"}
    status = client.status(request_id)
    assert (status["status"], status["files-remaining"]) == ("Canceled", 3)
    assert status["finish-time"] != "None"
    assert delivered(status) == [51]


@pytest.mark.parametrize(("generation", "code"), [("2026", 200), ("2025", 200), ("1.5", 400)])
def test_submission_of_rntuples(clients_of, inputs, generation, code):
    client = clients_of[generation]
    response = client.post(inputs[:1], **{"result-format": "root-rntuple"})
    assert response.status_code == code
    if code == 400:
        assert response.json()["message"].startswith("The json request was malformed: 400")


@pytest.mark.parametrize(
    ("generation", "status_of_unknown", "has_time"),
    [("2026", "Bad Dataset", True), ("2025", "Bad Dataset", True), ("1.5", "Complete", False)],
)
def test_requests_without_files(generation, status_of_unknown, has_time, serve):
    client = serve(generation=generation, datasets={"rucio://empty": []})
    empty = client.wait(client.submit(did="rucio://empty"))
    unknown = client.wait(client.submit(did="rucio://unknown"))
    assert (empty["status"], unknown["status"]) == ("Complete", status_of_unknown)
    for status in (empty, unknown):
        assert (status["files"], status["files-remaining"]) == (0, None)
        assert (status["finish-time"] != "None") == has_time
        rates = client.http.get(f"{BASE}/{status['request_id']}/status").json()
        assert rates["finish-time"] == status["finish-time"]
        assert rates["status"] == status["status"]


def test_a_directory_is_used_by_servers_of_all_generations(serve, inputs, tmp_path):
    client = serve(tmp_path)
    request_id = client.submit(inputs)
    client.wait(request_id)
    rows = client.rows(request_id)
    for generation in reversed(EACH):
        client.server.stop()
        client = serve(tmp_path, generation=generation)
        assert delivered(client.wait(request_id)) == [0, 50, 51, 52]
    assert client.rows(request_id) == rows
    assert len(client.objects(request_id)) == 4


# -- choice of a generation


@pytest.mark.parametrize("generation", ["2024", "", 2026])
def test_unknown_generations(generation):
    with pytest.raises(ConfigurationError, match=r"take one of '2026', '2025', '1\.5'") as caught:
        LocalServiceX(generation=generation)
    assert str(caught.value).startswith(f"generation={generation!r}:")


def test_the_generation_is_shown(each_client):
    assert re.search(r"generation</th><td>(2026|2025|1\.5)<", each_client.server._repr_html_())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("generation", EACH)
def test_results_in_another_store(generation, serve, inputs, s3_store):
    client = serve(object_store=s3_store.url, generation=generation)
    info = client.http.get("/servicex").json()
    assert tuple(info.get("capabilities", ())) == GENERATIONS[generation].capabilities
    status = client.wait(client.submit(inputs))
    assert status["minio-endpoint"] == s3_store.endpoint
    assert delivered(status) == [0, 50, 51, 52]


def test_a_server_of_2026_signs_urls_of_another_store(serve, inputs, s3_store):
    client = serve(object_store=s3_store.url, generation="2026")
    request_id = client.submit(inputs)
    client.wait(request_id)
    contents = client.objects(request_id)
    assert sorted(map(events_in, contents.values())) == [0, 50, 51, 52]
    name = client.rows(request_id)[0]["s3-object-name"]
    url = client.urls(request_id, [name])[name][0]
    assert url.startswith(f"http://{s3_store.endpoint}/{request_id}/")


# -- the clients


@pytest.mark.long
@pytest.mark.parametrize("generation", OLD)
@pytest.mark.parametrize("delivery", ["LocalCache", "URLs"])
def test_the_servicex_client(delivery, generation, serve, inputs, tmp_path):
    from support.deliver import DELIVER, run

    client = serve(generation=generation)
    cache = f"cache_path: {tmp_path / 'cache'}\n"
    (tmp_path / "servicex.yaml").write_text(client.server.servicex_yaml() + cache)
    (tmp_path / "deliver.py").write_text(DELIVER)
    out = run(tmp_path, sys.executable, "deliver.py", delivery, "root-ttree", *inputs)
    if delivery == "URLs":
        urls = re.findall(r"^http://127\.0\.0\.1:\S+", out, re.MULTILINE)
        contents = [httpx.get(url).raise_for_status().content for url in urls]
    else:
        contents = [Path(line).read_bytes() for line in out.splitlines() if line.startswith("/")]
    assert sorted(map(events_in, contents)) == [0, 50, 51, 52]
    requested = {exchange.path.rpartition("/")[2] for exchange in client.server.exchanges}
    assert ("results" in requested) == (generation == "2025")
