"""Recorded requests, sent to the embedded server: its responses have the recorded shape."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.rest_client import make_input

RAW_OF_2024 = "a transformer of 2024, which could not write uproot-raw results to Parquet"
DIED = "a pod was killed: the server of the recording lost its queue"
INTERNAL = "reports to the internal interface, which this server does not have"
OLD_TEMPLATE = "an older template, which wrote a single column to ROOT"

NOT_REPLAYED = {
    "duplicate_report.json": INTERNAL,
    "fatal_and_late_report_after_cancel.json": INTERNAL,
    "lookup_premature_complete.json": "a look-up in two parts that ends early, a bug of 2024",
    "race_later_than_1500_12.json": "a summary of a race between processes, no exchanges",
    "race_later_than_1500_6.json": "a summary of a race between processes, no exchanges",
    "rest_funcadl_single_root.json": OLD_TEMPLATE,
    "rest_raw_parquet.json": RAW_OF_2024,
    "worker_killed.json": DIED,
    "worker_killed_two_pods.json": DIED,
}
REPLAYED = [
    "auth.json",
    "bucket_gone.json",
    "cancel_running.json",
    "client_all_failed.json",
    "client_raw_root.json",
    "client_uproot_parquet.json",
    "client_uproot_root_signed.json",
    "dup_comma_replicas.json",
    "dup_name_collision.json",
    "dup_same_path.json",
    "errors.json",
    "full_funcadl_nocount_parquet.json",
    "full_funcadl_nocount_root.json",
    "full_funcadl_parquet.json",
    "full_funcadl_rntuple.json",
    "full_funcadl_root.json",
    "full_raw_parquet.json",
    "full_raw_root.json",
    "legacy_v153_client_root.json",
    "long_name.json",
    "lookup_empty.json",
    "rest_all_failed.json",
    "rest_funcadl_cut_parquet.json",
    "rest_funcadl_cut_root.json",
    "rest_funcadl_parquet.json",
    "rest_funcadl_rntuple_new.json",
    "rest_funcadl_root.json",
    "rest_funcadl_root_new.json",
    "rest_funcadl_single_parquet.json",
    "rest_funcadl_single_root_new.json",
    "rest_funcadl_tuple_parquet.json",
    "rest_funcadl_tuple_root.json",
    "rest_raw_missing_tree_parquet.json",
    "rest_raw_missing_tree_root.json",
    "rest_raw_parquet_new.json",
    "rest_raw_rntuple_new.json",
    "rest_raw_root.json",
    "rest_raw_root_new.json",
    "rest_raw_two_parquet.json",
    "rest_raw_two_parquet_new.json",
    "rest_raw_two_root.json",
    "rntuple_funcadl.json",
    "smoke.json",
]
SPECIAL = {"auth.json", "bucket_gone.json"}
ENDED = ("Complete", "Canceled", "Fatal", "Bad Dataset")
# Parts of answers that name the server's own software, or a service that it does not have.
OWN_TEXTS = ("atlasxaod",)


@pytest.fixture(scope="module")
def data(tmp_path_factory, recordings) -> Path:
    """Every input file that the recordings name, below one folder."""
    folder = tmp_path_factory.mktemp("data")
    inputs = recordings / "inputs"
    sources = {f"nano_{i}.root": f"nano_{i}.root" for i in (0, 1, 3, 4)}
    sources |= {"nano_2.root": "nano_0.root", "nano_5.root": "nano_0.root"}
    sources |= {"a/b.root": "nano_0.root", "a:b.root": "nano_1.root"}
    long = recorded(recordings, "long_name.json")[0]["request"]["json"]["file-list"][0]
    sources[long.removeprefix("/data/")] = "nano_1.root"
    for name, source in sources.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(inputs / source, target)
    make_input(folder / "full" / "nano_0.root", 1000)
    make_input(folder / "full" / "nano_4.root", 0)
    return folder


def recorded(recordings: Path, name: str) -> list[dict[str, Any]]:
    content = json.loads((recordings / "exchanges" / name).read_text())
    return content if isinstance(content, list) else content["exchanges"]


class Replay:
    """Sends recorded requests, with the paths and ids that they have here."""

    def __init__(self, client: Any, data: Path) -> None:
        self.client = client
        self.data = data
        self.request_ids: dict[str, str] = {}
        self.dataset_ids: dict[str, int] = {}

    def send(self, request: dict[str, Any], **more: Any) -> Any:
        body = request.get("json")
        if isinstance(body, dict) and body.get("file-list"):
            here = f"{self.data}/"
            paths = [path.replace("/data/", here) for path in body["file-list"]]
            body = {**body, "file-list": paths}
        parts = urlsplit(request.get("path") or request["url"])
        url = self.translate(parts.path) + (f"?{parts.query}" if parts.query else "")
        params = {
            key: self.later_than.get(value, value)
            for key, value in request.get("params", {}).items()
        }
        extra = {"params": params} if params else {}
        return self.client.http.request(request["method"], url, json=body, **extra, **more)

    later_than: dict[str, str] = {}

    def translate(self, text: str) -> str:
        for theirs, ours in self.request_ids.items():
            text = text.replace(theirs, ours)
        found = re.fullmatch(r"/servicex/datasets/(\d+)", text)
        if found and found[1] in self.dataset_ids:
            text = f"/servicex/datasets/{self.dataset_ids[found[1]]}"
        return text

    def learn(self, expected: Any, found: Any) -> None:
        """Remember which ids of the recording are which of ours."""
        if isinstance(expected, dict) and "request_id" in expected:
            self.request_ids[expected["request_id"]] = found["request_id"]
            if "did_id" in expected:
                self.dataset_ids[str(expected["did_id"])] = found["did_id"]


def check_shape(expected: Any, found: Any, where: str = "") -> None:
    """Compare keys and types, recursively."""
    if where.endswith(("/code-gen-image", "/capabilities")) and not isinstance(found, str):
        assert type(found) is type(expected), where
        assert all(isinstance(item, str) for item in found), where
    elif isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert sorted(found) == sorted(expected), where
        for key, value in expected.items():
            check_shape(value, found[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        if expected and found:
            for item in found:
                check_shape(expected[0], item, f"{where}/0")
    else:
        assert type(found) is type(expected), f"{where}: {expected!r} {found!r}"


def check_end(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Compare what does not depend on the moment once a request has ended."""
    same = ["title", "selection", "status", "files", "result-format", "workers", "tree-name"]
    same += ["files-completed", "files-failed", "files-remaining", "result-destination"]
    for key in same:
        assert found[key] == expected[key], key


def check_rows(expected: list[dict[str, Any]], found: list[dict[str, Any]], data: Path) -> None:
    """Compare which files succeeded and which failed."""
    there = [(row["file-path"], row["transform_status"]) for row in expected]
    here = [(r["file-path"].replace(f"{data}/", "/data/"), r["transform_status"]) for r in found]
    assert sorted(here) == sorted(there)


def hold_all_but_first() -> Any:
    reported: list[str] = []

    async def hold(path: str) -> None:
        reported.append(path)
        if len(reported) > 1:
            await asyncio.sleep(3600)

    return hold


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", [name for name in REPLAYED if name not in SPECIAL])
def test_replay(name, serve, recordings, data, tmp_path):
    exchanges = recorded(recordings, name)
    options: dict[str, Any] = {}
    if name == "cancel_running.json":
        options["before_report"] = hold_all_but_first()
    if name == "legacy_v153_client_root.json":
        options["generation"] = "1.5"
    if name == "lookup_empty.json":
        options["datasets"] = {exchanges[0]["request"]["json"]["did"]: []}
    if name == "rest_all_failed.json":
        # Its transformer was broken; here the input files are.
        data = tmp_path / "data"
        data.mkdir()
        for i in range(6):
            (data / f"nano_{i}.root").write_bytes(b"root" + bytes(300))
    replay = Replay(serve(**options), data)
    if name == "errors.json":
        prepare_earlier_request(replay, recordings)
    for exchange in exchanges:
        if "/internal/" not in exchange["request"].get("path", ""):
            replay_one(replay, name, exchange)


def replay_one(replay: Replay, name: str, exchange: dict[str, Any]) -> None:
    expected, request = exchange["response"], exchange["request"]
    if isinstance(expected, dict) and expected.get("status") in ENDED:
        replay.client.wait(replay.request_ids[expected.get("request_id") or expected["request-id"]])
    if name == "cancel_running.json" and request["path"].endswith("/cancel"):
        replay.client.wait(*replay.request_ids.values(), n_rows=1)
    answer = replay.send(request)
    if name == "errors.json" and request["method"] == "DELETE":
        # The recorded server was of 2024 and could not delete.
        assert (exchange["status"], answer.status_code) == (405, 404)
        return
    where = f"{request['method']} {request.get('path') or request['url']}"
    assert answer.status_code == exchange["status"], f"{where}: {answer.text}"
    assert answer.headers["content-type"] == exchange.get("content-type", "application/json")
    if isinstance(expected, str):
        assert answer.text == expected
        return
    found = answer.json()
    check_shape(expected, found, where)
    replay.learn(expected, found)
    if expected.get("status") in ENDED and "title" in expected:
        check_end(expected, found)
    if expected.get("results") and "params" not in request and name != "cancel_running.json":
        # Rows of a moment in between are compared by their shape only.
        status = replay.client.status(next(iter(replay.request_ids.values())))
        if status["files"] == len(expected["results"]) == len(found["results"]):
            check_rows(expected["results"], found["results"], replay.data)
    if "message" in expected and request.get("json", {}).get("codegen") not in OWN_TEXTS:
        assert found["message"] == replay.translate(expected["message"])


def prepare_earlier_request(replay: Replay, recordings: Path) -> None:
    """Submit the request that errors.json asks about."""
    exchanges = recorded(recordings, "rest_funcadl_root.json")
    for exchange in exchanges[1:3]:
        replay.learn(exchange["response"], replay.send(exchange["request"]).json())
    (request_id,) = replay.request_ids.values()
    replay.client.wait(request_id)
    theirs = exchanges[-1]["response"]["results"]
    ours = replay.client.rows(request_id)
    replay.later_than = {
        their["created_at"] + zone: our["created_at"] + zone
        for their, our in zip(theirs, ours, strict=True)
        for zone in ("", "+00:00")
    }


def test_replay_bucket_gone(serve, recordings, data):
    client = serve()
    replay = Replay(client, data)
    prepare_earlier_request(replay, recordings)
    (request_id,) = replay.request_ids.values()
    name = client.rows(request_id)[0]["s3-object-name"]
    url = client.urls(request_id, [name])[name][0]
    shutil.rmtree(client.server.directory / "objects" / request_id)
    exchanges = recorded(recordings, "bucket_gone.json")
    for exchange in exchanges[:2]:
        replay_one(replay, "bucket_gone.json", exchange)
    (expected,) = [exchange for exchange in exchanges if "presigned_get" in exchange]
    answer = client.http.get(url)
    assert answer.status_code == expected["presigned_get"]
    for part in ("<Code>NoSuchBucket</Code>", "<Message>The specified bucket does not exist</Me"):
        assert part in expected["body"]
        assert part in answer.text
    assert f"<BucketName>{request_id}</BucketName>" in answer.text


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name", ["smoke.json", "rest_funcadl_root.json", "client_uproot_root_signed.json"]
)
def test_replay_with_results_in_s3(name, serve, recordings, data, s3_store):
    """The recorded server kept its results in MinIO, so here all has to be the same."""
    replay = Replay(serve(object_store=s3_store.url), data)
    for exchange in recorded(recordings, name):
        replay_one(replay, name, exchange)
        expected = exchange["response"]
        if "capabilities" in expected:
            found = replay.send(exchange["request"]).json()
            # The recorded server was on its way to 2026.
            assert {*expected["capabilities"]} - {*found["capabilities"]} == {
                "post_cancel_transform"
            }


def test_replay_bucket_gone_from_s3(serve, recordings, data, s3_store):
    client = serve(object_store=s3_store.url)
    replay = Replay(client, data)
    prepare_earlier_request(replay, recordings)
    (request_id,) = replay.request_ids.values()
    name = client.rows(request_id)[0]["s3-object-name"]
    store = s3_store.client()
    url = store.presigned_get_object(request_id, name)
    for found in list(store.list_objects(request_id)):
        store.remove_object(request_id, found.object_name)
    store.remove_bucket(request_id)
    exchanges = recorded(recordings, "bucket_gone.json")
    for exchange in exchanges[:2]:
        replay_one(replay, "bucket_gone.json", exchange)
    (expected,) = [exchange for exchange in exchanges if "presigned_get" in exchange]
    answer = client.http.get(url)
    assert answer.status_code == expected["presigned_get"]
    for part in ("<Code>NoSuchBucket</Code>", f"<BucketName>{request_id}</BucketName>"):
        assert part in answer.text


def test_replay_auth(serve, recordings, data):
    client = serve(tokens=True)
    replay = Replay(client, data)
    refresh = client.server.refresh_token
    header = {"authorization": f"Bearer {refresh}"}
    access = client.http.post("/token/refresh", headers=header).json()["access_token"]
    claims = json.loads(base64.urlsafe_b64decode(access.split(".")[1] + "=="))
    assert claims["exp"] - claims["iat"] == 21600
    serve_expired = serve(tokens=True, access_token_s=-1)
    header = {"authorization": f"Bearer {serve_expired.server.refresh_token}"}
    expired = serve_expired.http.post("/token/refresh", headers=header).json()["access_token"]
    sent = {
        "info without token (open)": (client, None),
        "no token": (client, None),
        "garbage token": (client, "garbage"),
        "refresh: no token": (client, None),
        "refresh: garbage": (client, "a.b.c"),
        "refresh ok": (client, refresh),
        "with access token": (client, access),
        "refresh token used as access token": (client, refresh),
        "expired access token": (serve_expired, expired),
    }
    nobody_waits = {"refresh pending user", "pending user"}  # there is one user here
    exchanges = recorded(recordings, "auth.json")
    assert {exchange["what"] for exchange in exchanges} == set(sent) | nobody_waits
    for exchange in exchanges:
        if exchange["what"] in nobody_waits:
            continue
        replay.client, token = sent[exchange["what"]]
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        answer = replay.send(exchange["request"], headers=headers)
        assert answer.status_code == exchange["status"], exchange["what"]
        check_shape(exchange["response"], answer.json(), exchange["what"])
        if exchange["status"] != 200:
            assert answer.json() == exchange["response"]


def test_every_recording_is_accounted_for(recordings):
    names = {path.name for path in (recordings / "exchanges").glob("*.json")}
    assert names == set(REPLAYED) | set(NOT_REPLAYED)
    assert not set(REPLAYED) & set(NOT_REPLAYED)
