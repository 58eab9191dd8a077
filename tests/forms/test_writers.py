"""Files are read back as they were written."""

from __future__ import annotations

import io

import awkward as ak
import numpy as np
import pytest
import uproot

from coffea_sx.forms.writers import TREE, write

ARRAY = ak.Array({"met": np.float32([1, 2, 3]), "pt": [[1.0, 2.0], [], [3.0]]})


@pytest.mark.parametrize("array", [ARRAY, ARRAY[:0]], ids=["events", "no events"])
@pytest.mark.parametrize("result_format", ["root-file", "root-rntuple", "parquet"])
def test_round_trip(array, result_format, tmp_path):
    path = tmp_path / "out"
    assert write(array, str(path), result_format) == len(array)
    if result_format == "parquet":
        read = ak.from_parquet(path)
    else:
        with uproot.open({str(path): TREE}) as tree:
            read = tree.arrays(["met", "pt"])
    assert read.fields == array.fields
    assert ak.array_equal(read, array)


def test_a_ttree_has_a_counter_for_each_jagged_column(tmp_path):
    write(ARRAY, str(tmp_path / "out"), "root-file")
    with uproot.open({str(tmp_path / "out"): TREE}) as tree:
        assert tree.keys() == ["met", "npt", "pt"]


def test_a_file_that_exists_is_replaced(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"x" * 100_000)
    write(ARRAY, str(path), "root-file")
    assert path.stat().st_size < 100_000


def test_an_unknown_format():
    with pytest.raises(ValueError, match="'arrow'"):
        write(ARRAY, io.BytesIO(), "arrow")


def test_a_ttree_needs_a_column():
    with pytest.raises(ValueError, match="at least one branch"):
        write(ak.Array([1, 2]), io.BytesIO(), "root-file")


OPTIONS = {
    "flat": ak.Array([2.0, None, 3.0, None, 7.0]),
    "in lists": ak.Array([[1.0, None], [], [None], [2.0], [None, 3.0]]),
    "lists": ak.Array([[1.0, 2.0], None, [], [3.0], None]),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("result_format", ["root-rntuple", "parquet"])
def test_missing_values_stay_where_they_are(name, result_format, tmp_path):
    array = ak.zip({"x": OPTIONS[name]}, depth_limit=1)
    path = str(tmp_path / "out")
    write(array, path, result_format)
    if result_format == "parquet":
        read = ak.from_parquet(path)
    else:
        with uproot.open({path: TREE}) as tree:
            read = tree.arrays()
    assert read.to_list() == array.to_list()


def test_values_under_a_mask_are_not_written_into_other_rows(tmp_path):
    """Of lists of which some are empty, uproot 5.7 writes 2, -inf, 3 for 2, None, 3, 7."""
    largest = ak.max(ak.Array([[1.0, 2.0], [], [3.0], [], [7.0]]), axis=1)
    array = ak.zip({"x": largest}, depth_limit=1)
    with pytest.raises(TypeError, match="masked values of 'x' into other rows"):
        write(array, str(tmp_path / "out"), "root-rntuple")
    write(array, str(tmp_path / "out"), "parquet")
    assert ak.from_parquet(tmp_path / "out").x.to_list() == [2.0, None, 3.0, None, 7.0]
