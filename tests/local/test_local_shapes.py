"""Responses have the keys and types of a real server's, and files its columns."""

from __future__ import annotations

import io
from typing import Any

import awkward as ak
import pyarrow.parquet
import pytest
import uproot
from support.strategies import columns

STATUS: dict[str, type | tuple[type, ...]] = {
    "request_id": str,
    "title": str,
    "did": str,
    "did_id": int,
    "selection": str,
    "tree-name": type(None),
    "image": str,
    "workers": int,
    "result-destination": str,
    "result-format": str,
    "generated-code-cm": str,
    "status": str,
    "failure-info": type(None),
    "app-version": str,
    "code-gen-image": str,
    "files": int,
    "files-completed": int,
    "files-failed": int,
    "files-remaining": int,
    "submit-time": str,
    "finish-time": str,
    "minio-endpoint": str,
    "minio-secured": bool,
    "minio-access-key": str,
    "minio-secret-key": str,
}
ROW = {
    "id": int,
    "request-id": str,
    "file-id": int,
    "file-path": str,
    "s3-object-name": str,
    "transform_status": str,
    "transform_time": int,
    "total-events": int,
    "total-bytes": int,
    "avg-rate": float,
    "created_at": str,
}
FILE = {"id": int, "adler32": str, "file_size": int, "file_events": int, "paths": str}


def assert_shape(value: dict[str, Any], shape: dict[str, Any]) -> None:
    """Compare the names and the types of a JSON object."""
    assert sorted(value) == sorted(shape)
    for name, kind in shape.items():
        assert type(value[name]) is kind, name


@pytest.fixture(scope="module")
def request_id(client: Any, inputs: Any, corrupt: Any) -> str:
    request_id: str = client.submit([*inputs[:2], corrupt])
    client.wait(request_id)
    return request_id


def test_the_status_of_a_transform(client: Any, request_id: str) -> None:
    status = client.status(request_id)
    assert_shape(status, STATUS)
    assert status["generated-code-cm"] == f"{request_id}-generated-source"
    assert (status["files"], status["files-completed"], status["files-failed"]) == (3, 2, 1)


def test_the_list_of_transforms_has_no_keys_of_the_store(client: Any, request_id: str) -> None:
    requests = client.http.get("/servicex/transformation").json()["requests"]
    (status,) = (request for request in requests if request["request_id"] == request_id)
    assert set(status) == {name for name in STATUS if not name.startswith("minio-")}


def test_rows_of_results(client: Any, request_id: str, corrupt: Any) -> None:
    rows = client.rows(request_id)
    for row in rows:
        assert_shape(row, ROW)
        assert row["file-id"] == row["id"]
    (failed,) = (row for row in rows if row["transform_status"] == "failure")
    assert failed["file-path"] == str(corrupt)
    assert (failed["s3-object-name"], failed["total-events"], failed["total-bytes"]) == (
        "none",
        0,
        0,
    )
    assert {row["transform_status"] for row in rows} == {"failure", "success"}


def test_the_dataset_of_a_list(client: Any, request_id: str) -> None:
    dataset = client.http.get(f"/servicex/datasets/{client.status(request_id)['did_id']}").json()
    assert dataset["lookup_status"] == "complete"
    assert (
        dataset["n_files"] == 0
    )  # not the number of files, which real servers count with look-ups
    for file in dataset["files"]:
        assert_shape(file, FILE)


def test_the_server(client: Any) -> None:
    info = client.http.get("/servicex").json()
    assert sorted(info) == ["app-version", "capabilities", "code-gen-image"]
    assert {"poll_local_transformation_results", "generate_file_urls"} <= set(info["capabilities"])


def test_an_unknown_transform(client: Any) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    answer = client.http.get(f"/servicex/transformation/{unknown}")
    assert answer.status_code == 404
    assert answer.json() == {"message": f"Transformation request not found with id: {unknown}"}
    assert client.rows(unknown) == []


TUPLE = (
    "(call Select (call EventDataset 'bogus.root' 'Events') "
    "(lambda (list e) (list (subscript e 'MET_pt') (subscript e 'Muon_pt'))))"
)
SINGLE = (
    "(call Select (call EventDataset 'bogus.root' 'Events') "
    "(lambda (list e) (subscript e 'MET_pt')))"
)
RAW = '[{"treename": "Events", "filter_name": ["MET_pt", "Muon_pt"]}]'
NO_TREE = '[{"treename": "Nothing", "filter_name": ["MET_pt"]}]'
TWO = columns("MET_pt", "Muon_pt")
# Codegen, selection and format; the tree and the columns of the file, None for a failure.
LAYOUTS = [
    ("uproot", TWO, "root-file", "servicex", ["MET_pt", "Muon_pt", "nMuon_pt"]),
    ("uproot", TWO, "root-rntuple", "servicex", ["MET_pt", "Muon_pt"]),
    ("uproot", TWO, "parquet", None, ["MET_pt", "Muon_pt"]),
    ("uproot", TUPLE, "root-file", "servicex", ["0", "1", "n1"]),
    ("uproot", TUPLE, "parquet", None, [""]),
    ("uproot", SINGLE, "root-file", None, None),
    ("uproot", SINGLE, "parquet", None, [""]),
    ("uproot-raw", RAW, "root-file", "Events", ["MET_pt", "Muon_pt", "nMuon_pt"]),
    ("uproot-raw", RAW, "root-rntuple", "Events", ["MET_pt", "Muon_pt"]),
    ("uproot-raw", RAW, "parquet", None, ["MET_pt", "Muon_pt", "treename"]),
    ("uproot-raw", NO_TREE, "root-file", None, []),
    ("uproot-raw", NO_TREE, "parquet", None, []),
]


@pytest.mark.parametrize(("codegen", "selection", "result_format", "tree", "names"), LAYOUTS)
def test_the_columns_of_a_file(
    client: Any,
    inputs: Any,
    codegen: str,
    selection: str,
    result_format: str,
    tree: str | None,
    names: list[str] | None,
) -> None:
    body = {"codegen": codegen, "selection": selection, "result-format": result_format}
    request_id = client.submit([inputs[0]], **body)
    status = client.wait(request_id)
    if names is None:
        assert (status["files-completed"], status["files-failed"]) == (0, 1)
        return
    (content,) = client.objects(request_id).values()
    if result_format == "parquet":
        assert sorted(pyarrow.parquet.read_schema(io.BytesIO(content)).names) == sorted(names)
        return
    with uproot.open(io.BytesIO(content)) as file:
        assert file.keys(recursive=False, cycle=False) == ([] if tree is None else [tree])
        if tree is not None:
            assert sorted(file[tree].keys()) == sorted(names)
            kept = file[tree].arrays(["MET_pt"] if "MET_pt" in names else ["0"])
            assert ak.type(kept).content.contents[0] == ak.types.NumpyType("float32")
