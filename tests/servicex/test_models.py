"""Responses of servers as models: keys that are missing or wrong are named."""

from __future__ import annotations

import time

import pytest
from support.strategies import row, status_json

from coffea_sx.errors import ProtocolError
from coffea_sx.redact import redact
from coffea_sx.servicex.models import (
    DatasetInfo,
    ResultRow,
    ServerInfo,
    SignedUrl,
    StoreKeys,
    TransformStatus,
    failure_reasons,
    parse_status,
    parse_time,
    signed_urls,
)

INFO = {"app-version": "1", "code-gen-image": {"uproot": "image"}}
KEYS = {
    "minio-endpoint": "store.org:9000",
    "minio-access-key": "an access key",
    "minio-secret-key": "a secret key",
    "minio-secured": True,
}


def without(response, key):
    return {name: value for name, value in response.items() if name != key}


@pytest.mark.parametrize(
    ("model", "response", "key"),
    [
        (ServerInfo, INFO, "app-version"),
        (ServerInfo, INFO, "code-gen-image"),
        *((TransformStatus, status_json(), key) for key in ("status", "files", "files-failed")),
        *((StoreKeys, KEYS, key) for key in KEYS),
        *(
            (ResultRow, row(1, "/a.root"), key)
            for key in ("id", "file-path", "s3-object-name", "transform_status", "total-bytes")
        ),
        (DatasetInfo, {"files": []}, "files"),
    ],
)
def test_a_missing_key_is_named(model, response, key):
    model.from_json(response)
    with pytest.raises(ProtocolError, match=f"no '{key}'"):
        model.from_json(without(response, key))


@pytest.mark.parametrize(
    ("model", "response"),
    [
        (ServerInfo, {**INFO, "app-version": 1}),
        (ServerInfo, {**INFO, "capabilities": 3}),
        (TransformStatus, status_json(None)),
        (TransformStatus, status_json(n_files="many")),
        (ResultRow, {**row(1, "/a.root"), "id": None}),
        (ResultRow, {**row(1, "/a.root"), "total-events": "many"}),
        (DatasetInfo, {"files": [{"id": 1}]}),
        (DatasetInfo, {"files": [{"id": "1", "paths": "/a.root"}]}),
        (DatasetInfo, {"files": None}),
        *((model, value) for model in (ServerInfo, ResultRow) for value in ([], "text", None, 3)),
    ],
)
def test_a_wrong_value_is_an_error(model, response):
    with pytest.raises(ProtocolError):
        model.from_json(response)


def test_a_wrong_key_of_a_store_is_not_shown():
    with pytest.raises(ProtocolError) as caught:
        StoreKeys.from_json({**KEYS, "minio-secret-key": ["CANARY"]})
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ((4, 2, 1), (4, 2, 1)),
        ((4, 9, 1), (4, 3, 1)),
        ((4, 2, 9), (4, 0, 4)),
        ((4, -1, -1), (4, 0, 0)),
        ((None, None, None), (0, 0, 0)),
        ((0, 3, 1), (0, 0, 0)),
    ],
)
def test_counters_are_clipped(counters, expected):
    n_files, n_completed, n_failed = counters
    status = TransformStatus.from_json(
        status_json(n_files=n_files, files_completed=n_completed, files_failed=n_failed)
    )
    assert (status.n_files, status.n_completed, status.n_failed) == expected


@pytest.mark.parametrize(
    ("name", "is_over", "is_dead"),
    [
        ("Running", False, False),
        ("Complete", True, False),
        ("Canceled", True, True),
        ("Fatal", True, True),
        ("Bad Dataset", True, True),
        ("Reticulating", False, False),
    ],
)
def test_the_end_of_a_transform(name, is_over, is_dead):
    status = TransformStatus.from_json(status_json(name))
    assert (status.is_over, status.is_dead) == (is_over, is_dead)


def test_a_status_does_not_hold_the_keys_of_the_store_but_hides_them():
    status = parse_status({**status_json(), **KEYS})
    assert "a secret key" not in repr(status)
    assert redact("this is a secret key") == "this is ..."


def test_the_number_of_a_dataset_may_be_zero():
    assert TransformStatus.from_json(status_json()).did_id is None
    assert TransformStatus.from_json({**status_json(), "did_id": 0}).did_id == 0


def test_capabilities():
    old = ServerInfo.from_json(INFO)
    assert not any([old.lists_results, old.generates_urls, old.gives_reasons, old.cancels_by_post])
    names = ["generate_file_urls", "long_sample_titles_10240", "long_sample_titles_x"]
    new = ServerInfo.from_json({**INFO, "capabilities": names})
    assert new.generates_urls
    assert (old.longest_title, new.longest_title) == (128, 10240)


def test_files_of_a_dataset_are_in_the_order_of_their_ids():
    files = [{"id": i, "paths": f"/{i}.root"} for i in (8, 3, 11)]
    assert DatasetInfo.from_json({"files": files}).files == ("/3.root", "/8.root", "/11.root")


def test_urls_that_cannot_be_opened_are_left_out():
    urls = {
        "a": ["http://store/a", None, 5],
        "b": ["ftp://store/b", {}, 5],
        "c": ["http://store/c"],
        "d": None,
    }
    assert signed_urls(urls) == {"a": SignedUrl("http://store/a", {}, 5.0)}


def test_a_url_is_fresh_if_it_outlives_a_request():
    assert SignedUrl("u", {}, time.time() + 600).is_fresh()
    assert not SignedUrl("u", {}, time.time() + 1).is_fresh()
    assert SignedUrl("u", {}, time.time() + 1).is_fresh(0.1)


def test_reasons_that_are_none_are_left_out():
    rows = [{"file-path": "/a", "info": "no tree"}, {"file-path": "/b", "info": None}, {}, None]
    assert failure_reasons(rows) == {"/a": "no tree"}


@pytest.mark.parametrize("text", ["", "None", "yesterday", "5"])
def test_what_is_no_time(text):
    assert parse_time(text) is None


def test_times_are_in_utc_if_they_name_no_zone():
    times = [parse_time(f"2026-11-22T14:43:41.069160{zone}") for zone in ("", "Z", "+00:00")]
    assert len(set(times)) == 1
