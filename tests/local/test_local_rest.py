"""The REST interface: submission, life cycle, datasets, tokens."""

from __future__ import annotations

import hashlib

import pytest


def test_results_and_status_agree(client, inputs):
    request_id = client.submit(inputs)
    status = client.wait(request_id)
    assert (status["status"], status["files"], status["files-completed"]) == ("Complete", 4, 4)
    assert (status["files-failed"], status["files-remaining"]) == (0, 0)
    rows = {row["file-path"]: row for row in client.rows(request_id)}
    assert [rows[str(path)]["total-events"] for path in inputs] == [50, 51, 52, 0]
    assert all(row["file-id"] == row["id"] for row in rows.values())
    by_row_id = client.status(str(1))
    assert by_row_id["request_id"]


def test_a_corrupt_file_fails_alone_with_a_reason(client, inputs, corrupt):
    request_id = client.submit([inputs[0], corrupt, inputs[1]])
    status = client.wait(request_id)
    assert (status["status"], status["files-completed"], status["files-failed"]) == (
        "Complete",
        2,
        1,
    )
    (failed,) = [r for r in client.rows(request_id) if r["transform_status"] == "failure"]
    assert (failed["s3-object-name"], failed["total-bytes"]) == ("none", 0)
    reasons = client.reasons(request_id)
    assert list(reasons) == [str(corrupt)]
    assert "Error" in reasons[str(corrupt)]
    assert "Traceback" not in reasons[str(corrupt)]


def test_all_failed_is_complete(client, corrupt):
    status = client.wait(client.submit([corrupt]))
    assert (status["status"], status["files-failed"]) == ("Complete", 1)


def test_a_missing_column_is_named(client, inputs):
    selection = (
        "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) "
        "(dict (list 'a') (list (subscript e 'Nope')))))"
    )
    request_id = client.submit(inputs[:1], selection=selection)
    client.wait(request_id)
    assert "Nope" in client.reasons(request_id)[str(inputs[0])]


def test_column_without_a_name_needs_parquet(client, inputs):
    selection = (
        "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) "
        "(subscript e 'MET_pt')))"
    )
    as_root = client.submit(inputs[:1], selection=selection)
    as_parquet = client.submit(inputs[:1], selection=selection, **{"result-format": "parquet"})
    client.wait(as_root)
    assert "TTree must have at least one branch" in client.reasons(as_root)[str(inputs[0])]
    assert client.wait(as_parquet)["files-completed"] == 1


def test_replicas_are_tried_in_order(client, inputs, corrupt):
    request_id = client.submit([f"{corrupt},{inputs[0]}", f"{corrupt},/nowhere.root"])
    client.wait(request_id)
    rows = {row["file-path"]: row["transform_status"] for row in client.rows(request_id)}
    assert rows == {str(inputs[0]): "success", str(corrupt): "failure"}


def test_same_path_twice_is_two_rows_of_one_object(client, inputs):
    request_id = client.submit([inputs[0], inputs[0]])
    status = client.wait(request_id)
    assert (status["files"], status["files-completed"]) == (2, 2)
    names = {row["s3-object-name"] for row in client.rows(request_id)}
    assert len(names) == 1


def test_later_than_misses_no_row(client, inputs):
    request_id = client.submit(inputs)
    client.wait(request_id)
    rows = client.rows(request_id)
    assert len({row["created_at"] for row in rows}) == len(rows)
    assert client.rows(request_id, later_than=rows[1]["created_at"]) == rows[2:]
    assert client.rows(request_id, later_than=rows[1]["created_at"] + "+00:00") == rows[2:]
    assert client.rows(request_id, later_than="0001-01-01T00:00:00+00:00") == rows


def test_dataset_keeps_the_order_and_the_id(client, inputs):
    paths = [str(path) for path in reversed(inputs)]
    first, second = client.submit(paths), client.submit(paths)
    status = client.status(first)
    assert status["did"] == hashlib.sha256(" ".join(paths).encode()).hexdigest()
    assert client.status(second)["did_id"] == status["did_id"]
    dataset = client.http.get(f"/servicex/datasets/{status['did_id']}").json()
    assert [file["paths"] for file in dataset["files"]] == paths
    listed = client.http.get("/servicex/datasets", params={"did-finder": "user"}).json()
    assert status["did_id"] in [entry["id"] for entry in listed["datasets"]]
    forgotten = client.http.delete(f"/servicex/datasets/{status['did_id']}").json()
    assert forgotten["stale"] is True
    assert client.status(client.submit(paths))["did_id"] != status["did_id"]


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"result-destination": None}, 400, "malformed"),
        ({"result-format": "csv"}, 400, "malformed"),
        ({"file-list": []}, 400, "Must provide did or file-list but not both"),
        ({"file-list": 1}, 400, "malformed"),
        ({"did": "rucio://a:b"}, 400, "Must provide did or file-list but not both"),
        ({"file-list": None, "did": "bogus://x"}, 400, "DID scheme is not supported: bogus"),
        ({"codegen": "nope"}, 500, "Invalid Codegen Image Passed in Request: nope"),
        ({"selection": ""}, 500, "Requested codegen for an empty string."),
        ({"selection": None}, 500, "object of type 'NoneType' has no len()"),
        ({"selection": "(not qastle"}, 500, "Unexpected end-of-input"),
    ],
)
def test_bad_submissions(client, inputs, changes, status, message):
    response = client.post(inputs[:1], **changes)
    assert response.status_code == status
    assert message in response.json()["message"]


def test_routing_errors_are_pages(client):
    for method, path, status in [
        ("GET", "/servicex/nonsense", 404),
        ("GET", "/nonsense", 404),
        ("DELETE", "/servicex", 405),
        ("GET", "/servicex/datasets/abc", 404),
        ("GET", "/servicex/", 404),
    ]:
        response = client.http.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "text/html; charset=utf-8"


def test_delete_removes_rows_and_objects(serve, inputs):
    client = serve()
    request_id = client.submit(inputs[:1])
    client.wait(request_id)
    (url, _, _), *_ = client.urls(
        request_id, [client.rows(request_id)[0]["s3-object-name"]]
    ).values()
    folder = client.server.directory / "objects" / request_id
    assert len(list(folder.iterdir())) == 1
    assert client.http.delete(f"/servicex/transformation/{request_id}").status_code == 200
    assert not folder.exists()
    assert client.rows(request_id) == []
    assert client.http.get(f"/servicex/transformation/{request_id}").status_code == 404
    gone = client.http.get(url)
    assert gone.status_code == 404
    assert "<Code>NoSuchBucket</Code>" in gone.text


def test_dids(serve, inputs):
    files = [str(path) for path in inputs]
    client = serve(datasets={"rucio://user:ttbar": files, "xrootd://empty": []})
    request_id = client.submit(did="rucio://user:ttbar")
    status = client.wait(request_id)
    assert (status["did"], status["files-completed"]) == ("rucio://user:ttbar", 4)
    dataset = client.http.get(f"/servicex/datasets/{status['did_id']}").json()
    assert (dataset["did_finder"], dataset["n_files"], dataset["lookup_status"]) == (
        "rucio",
        4,
        "complete",
    )
    assert [file["paths"] for file in dataset["files"]] == files
    again = client.submit(did="rucio://user:ttbar")
    assert client.status(again)["did_id"] == status["did_id"]
    assert client.wait(client.submit(did="rucio://user:ttbar?files=2"))["files"] == 2

    empty = client.wait(client.submit(did="xrootd://empty"))
    assert (empty["status"], empty["files"], empty["files-remaining"]) == ("Complete", 0, None)
    assert empty["finish-time"] != "None"

    bad = client.wait(client.submit(did="rucio://user:nope"))
    assert (bad["status"], bad["files"]) == ("Bad Dataset", 0)
    dataset = client.http.get(f"/servicex/datasets/{bad['did_id']}").json()
    assert (dataset["lookup_status"], dataset["is_stale"]) == ("does_not_exist", True)


def test_tokens(serve, inputs):
    client = serve(tokens=True)
    refresh = client.server.refresh_token
    assert f"token: {refresh}" in client.server.servicex_yaml()
    assert client.http.get("/servicex").status_code == 200
    assert client.post(inputs[:1]).status_code == 401
    header = {"authorization": f"Bearer {refresh}"}
    access = client.http.post("/token/refresh", headers=header).json()["access_token"]
    client.http.headers["authorization"] = f"Bearer {access}"
    assert client.wait(client.submit(inputs[:1]))["files-completed"] == 1
    assert refresh not in repr(client.server) + client.server._repr_html_()
