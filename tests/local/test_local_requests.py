"""Requests that are malformed or rare: the responses are those of a real server."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

SUBMIT = "/servicex/transformation"
URLS = f"{SUBMIT}/file-urls"
HTML = "text/html; charset=utf-8"
MALFORMED = (
    "The json request was malformed: 400 Bad Request: The browser (or proxy) sent a request that "
    "this server could not understand."
)
YEAR_S = 365 * 24 * 3600


@pytest.fixture(scope="module")
def request_id(client: Any, inputs: Any) -> str:
    submitted: str = client.submit(inputs[:2])
    client.wait(submitted)
    return submitted


def check_page(response: Any, status: int, title: str) -> None:
    assert (response.status_code, response.headers["content-type"]) == (status, HTML)
    assert response.text.startswith(f"<!doctype html>\n<html lang=en>\n<title>{status} {title}</ti")


# -- submission


@pytest.mark.parametrize(
    ("paths", "detail"),
    [
        ([1, 2], "sequence item 0: expected str instance, int found"),
        (["/data/a.root", None], "sequence item 1: expected str instance, NoneType found"),
    ],
)
def test_file_lists_must_hold_texts(client, paths, detail):
    response = client.post(**{"file-list": paths})
    assert response.status_code == 500
    assert response.json() == {"message": f"Something went wrong ({detail})"}


def test_a_text_is_read_as_a_list_of_letters(client):
    status = client.status(client.submit(**{"file-list": "ab"}))
    dataset = client.http.get(f"/servicex/datasets/{status['did_id']}").json()
    assert [file["paths"] for file in dataset["files"]] == ["a", "b"]


def test_the_format_is_parquet_by_default(client, inputs):
    body = {"codegen": "uproot", "result-destination": "object-store"}
    body |= {"file-list": [str(inputs[0])], "selection": client.status("1")["selection"]}
    response = client.http.post(SUBMIT, json=body)
    status = client.wait(response.json()["request_id"])
    assert (status["result-format"], status["files-completed"]) == ("parquet", 1)
    (content,) = client.objects(status["request_id"]).values()
    assert content.startswith(b"PAR1")
    assert client.post(inputs[:1], **{"result-format": None}).json() == {"message": MALFORMED}


def test_a_volume_is_a_destination(client, inputs):
    status = client.wait(client.submit(inputs[:1], **{"result-destination": "volume"}))
    assert (status["result-destination"], status["files-completed"]) == ("volume", 1)
    response = client.post(inputs[:1], **{"result-destination": "elsewhere"})
    assert (response.status_code, response.json()) == (400, {"message": MALFORMED})


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_other_content_types_than_json_fail(client, kind):
    headers = {} if kind is None else {"content-type": kind}
    response = client.http.post(SUBMIT, content=b"{}", headers=headers)
    assert response.status_code == 500
    assert response.json()["message"].startswith("Something went wrong (415 Unsupported Media Type")
    check_page(
        client.http.post(URLS, content=b"{}", headers=headers), 415, "Unsupported Media Type"
    )


@pytest.mark.parametrize("body", [b"{", b"", b"null", b"[]", b"[" * 100_000, b"\xff"])
def test_malformed_bodies(client, body):
    headers = {"content-type": "application/json"}
    response = client.http.post(SUBMIT, content=body, headers=headers)
    assert (response.status_code, response.json()) == (400, {"message": MALFORMED})
    check_page(client.http.post(URLS, content=body, headers=headers), 400, "Bad Request")


@pytest.mark.parametrize("body", [[1], "text", 5])
def test_a_body_must_be_an_object(client, body):
    response = client.http.post(SUBMIT, json=body)
    assert response.status_code == 500
    assert response.json()["message"].startswith("Something went wrong (")


@pytest.mark.parametrize("workers", ["x", "", {}, "1.5"])
def test_workers_must_be_a_number(client, inputs, workers):
    response = client.post(inputs[:1], workers=workers)
    assert (response.status_code, response.json()) == (400, {"message": MALFORMED})


@pytest.mark.parametrize(("workers", "recorded"), [(7, 7), ("3", 3), (2.5, 2), (None, None)])
def test_workers_and_tree_are_recorded(client, inputs, workers, recorded):
    request_id = client.submit(inputs[:1], workers=workers, **{"tree-name": "mine"})
    status = client.status(request_id)
    assert (status["workers"], status["tree-name"]) == (recorded, "mine")
    listed = client.http.get(SUBMIT).json()["requests"]
    (row,) = [row for row in listed if row["request_id"] == request_id]
    assert (row["workers"], row["tree-name"]) == (recorded, "mine")


def test_numbers_are_read_as_texts(client, inputs):
    assert client.status(client.submit(inputs[:1], title=5))["title"] == "5"
    response = client.post(inputs[:1], codegen=5)
    assert (response.status_code, response.json()["message"]) == (
        500,
        "Invalid Codegen Image Passed in Request: 5",
    )


# -- results


@pytest.mark.parametrize(
    "time",
    ["2026-01-01T00:00:00Z", "20260101T000000", "2026-W01-1", "2026-01-01T00:00:00.1", "garbage"],
)
def test_times_that_a_real_server_refuses(client, request_id, time):
    response = client.http.get(f"{SUBMIT}/{request_id}/results", params={"later_than": time})
    assert response.status_code == 400
    assert response.json() == {
        "message": f"later_than value {time} is not an ISO 8601 compliant datetime"
    }


@pytest.mark.parametrize(
    "time",
    ["", "2026-01-01", "2026-01-01T00", "2001-01-01 00:00", "2001-01-01T00:00:00.000001+02:00"],
)
def test_times_that_a_real_server_accepts(client, request_id, time):
    assert len(client.rows(request_id, later_than=time)) == 2


# -- URLs


@pytest.mark.parametrize(
    "changes",
    [
        {"file_list": ...},
        {"request_id": ...},
        {"file_list": 5},
        {"scheme": "https"},
        {"scheme": None},
        {"scheme": 1},
    ],
)
def test_malformed_requests_for_urls_get_a_page(client, request_id, changes):
    body = {"request_id": request_id, "file_list": [], **changes}
    response = client.http.post(URLS, json={k: v for k, v in body.items() if v is not ...})
    check_page(response, 400, "Bad Request")


@pytest.mark.parametrize("names", [None, [1]])
def test_object_names_must_be_texts(client, request_id, names):
    response = client.http.post(URLS, json={"request_id": request_id, "file_list": names})
    check_page(response, 500, "Internal Server Error")


@pytest.mark.parametrize("scheme", ["http", "xrootd"])
def test_schemes_of_urls(client, request_id, scheme):
    body = {"request_id": request_id, "file_list": "ab", "scheme": scheme}
    response = client.http.post(URLS, json=body)
    assert response.status_code == 200
    assert list(response.json()["uris"]) == ["a", "b"]  # a text is read as a list of letters


def test_urls_have_the_signature_of_a_real_server(serve, inputs):
    client = serve(url_expiry_s=YEAR_S)
    request_id = client.submit(inputs[:1])
    client.wait(request_id)
    (row,) = client.rows(request_id)
    url, headers, expiry = client.urls(request_id, [row["s3-object-name"]])[row["s3-object-name"]]
    assert headers == {}
    assert abs(expiry - time.time() - YEAR_S) < 60
    query = parse_qs(urlsplit(url).query)
    assert sorted(query) == ["AWSAccessKeyId", "Expires", "Signature"]
    assert query["Expires"] == [str(expiry)]
    assert len(client.http.get(url).content) == row["total-bytes"]
    later = url.replace(f"Expires={expiry}", f"Expires={expiry + 1}")
    assert client.http.get(later).status_code == 403
    assert client.http.delete(url).status_code == 403


def test_urls_expire_after_ten_minutes_by_default(client, request_id):
    (row, *_) = client.rows(request_id)
    _, _, expiry = client.urls(request_id, [row["s3-object-name"]])[row["s3-object-name"]]
    assert abs(expiry - time.time() - 600) < 60


# -- users


@pytest.mark.parametrize("user", ["x", "", "1.5"])
def test_submitted_by_must_be_a_number(client, user):
    response = client.http.get(SUBMIT, params={"submitted_by": user})
    check_page(response, 400, "Bad Request")


def test_requests_of_a_user(client, request_id, serve, inputs):
    # Without tokens the requests belong to no user.
    assert client.http.get(SUBMIT, params={"submitted_by": "1"}).json() == {"requests": []}
    assert client.http.get(SUBMIT).json()["requests"]
    other = serve(tokens=True)
    header = {"authorization": f"Bearer {other.server.refresh_token}"}
    access = other.http.post("/token/refresh", headers=header).json()["access_token"]
    other.http.headers["authorization"] = f"Bearer {access}"
    mine = other.submit(inputs[:1])
    listed = other.http.get(SUBMIT, params={"submitted_by": "1"}).json()["requests"]
    assert [row["request_id"] for row in listed] == [mine]
    assert other.http.get(SUBMIT, params={"submitted_by": "2"}).json() == {"requests": []}


def test_tokens_are_checked_even_if_none_is_needed(client):
    response = client.http.post("/token/refresh")
    assert (response.status_code, response.json()) == (401, {"msg": "Missing Authorization Header"})
    response = client.http.post("/token/refresh", headers={"authorization": "Bearer a.b.c"})
    assert (response.status_code, response.json()) == (422, {"msg": "Invalid header padding"})
