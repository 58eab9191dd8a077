"""Delivered files equal those of real transformers, byte layout aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import awkward as ak
import pyarrow.parquet
import pytest
import uproot

NAMES = [
    "rest_funcadl_cut_parquet",
    "rest_funcadl_cut_root",
    "rest_funcadl_parquet",
    "rest_funcadl_rntuple_new",
    "rest_funcadl_root",
    "rest_funcadl_root_new",
    "rest_funcadl_single_parquet",
    "rest_funcadl_tuple_parquet",
    "rest_funcadl_tuple_root",
    "rest_raw_missing_tree_parquet",
    "rest_raw_missing_tree_root",
    "rest_raw_parquet_new",
    "rest_raw_rntuple_new",
    "rest_raw_root",
    "rest_raw_root_new",
    "rest_raw_two_root",
]
# Written by a server of 2024, which compressed otherwise.
OTHER_COMPRESSION = {"rest_raw_root", "rest_raw_two_root"}
NO_REFERENCE = {"rest_funcadl_single_root": "an older template wrote the single column"}


def test_every_output_is_compared(recordings):
    found = {path.name for path in (recordings / "outputs").iterdir()}
    assert found == set(NAMES) | set(NO_REFERENCE)


@pytest.fixture(scope="module")
def delivered(client, recordings, tmp_path_factory):
    """Run a recorded query over the inputs that exist; give the pairs of files."""
    folder = tmp_path_factory.mktemp("delivered")

    def deliver(name: str) -> dict[Path, Path]:
        recording = json.loads((recordings / "exchanges" / f"{name}.json").read_text())
        body = recording["exchanges"][1]["request"]["json"]
        inputs = [recordings / "inputs" / Path(path).name for path in body["file-list"]]
        inputs = [
            path for path in inputs if path.name in ("nano_0.root", "nano_1.root", "nano_4.root")
        ]
        request_id = client.submit(
            inputs,
            selection=body["selection"],
            codegen=body["codegen"],
            **{"result-format": body["result-format"]},
        )
        assert client.wait(request_id)["files-completed"] == len(inputs)
        theirs = recording["exchanges"][-1]["response"]["results"]
        assert counts(client.rows(request_id)).items() <= counts(theirs).items()
        pairs = {}
        for path, content in client.objects(request_id).items():
            suffix = ".parquet" if body["result-format"] == "parquet" else ""
            ours = folder / f"{name}-{Path(path).name}{suffix}"
            ours.write_bytes(content)
            pairs[recordings / "outputs" / name / f"{Path(path).name}{suffix}"] = ours
        return pairs

    return deliver


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {Path(row["file-path"]).name: row["total-events"] for row in rows}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NAMES)
def test_same_as_recorded(name, delivered):
    pairs = delivered(name)
    assert len(pairs) >= 2
    for theirs, ours in pairs.items():
        if ours.suffix == ".parquet":
            compare_parquet(theirs, ours)
        else:
            compare_root(theirs, ours)


def compare_root(theirs: Path, ours: Path) -> None:
    with uproot.open(theirs) as their_file, uproot.open(ours) as our_file:
        assert our_file.classnames() == their_file.classnames()
        if theirs.parent.name not in OTHER_COMPRESSION:
            assert our_file.file.compression == their_file.file.compression
        for name, kind in their_file.classnames(cycle=False).items():
            compare_trees(their_file[name], our_file[name], kind)


def compare_trees(theirs: uproot.TTree, ours: uproot.TTree, kind: str) -> None:
    assert ours.keys() == theirs.keys()
    assert ours.num_entries == theirs.num_entries
    if kind == "TTree":
        assert ours.title == theirs.title
        assert [describe(branch) for branch in ours.branches] == [
            describe(branch) for branch in theirs.branches
        ]
    same_arrays(ours.arrays(), theirs.arrays())


def describe(branch: uproot.TBranch) -> tuple[object, ...]:
    return branch.name, branch.title, branch.typename, str(branch.interpretation)


def compare_parquet(theirs: Path, ours: Path) -> None:
    with (
        pyarrow.parquet.ParquetFile(theirs) as their_file,
        pyarrow.parquet.ParquetFile(ours) as our_file,
    ):
        assert our_file.schema_arrow.equals(their_file.schema_arrow, check_metadata=True)
        assert our_file.metadata.num_row_groups == their_file.metadata.num_row_groups == 1
        if not their_file.metadata.num_columns:
            return
        columns = [file.metadata.row_group(0).column(0) for file in (their_file, our_file)]
        assert columns[0].compression == columns[1].compression
    same_arrays(ak.from_parquet(ours), ak.from_parquet(theirs))


def same_arrays(ours: ak.Array, theirs: ak.Array) -> None:
    assert str(ours.type) == str(theirs.type)
    assert ak.array_equal(ours, theirs, check_parameters=True)
