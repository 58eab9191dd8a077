"""What the writers write is read back as it was."""

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
        found = ak.from_parquet(path)
    else:
        with uproot.open({str(path): TREE}) as tree:
            found = tree.arrays(["met", "pt"])
    assert found.fields == array.fields
    assert ak.array_equal(found, array)


def test_a_ttree_has_a_counter_for_each_jagged_column(tmp_path):
    write(ARRAY, str(tmp_path / "out"), "root-file")
    with uproot.open({str(tmp_path / "out"): TREE}) as tree:
        assert tree.keys() == ["met", "npt", "pt"]


def test_a_file_that_exists_is_replaced(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"x" * 100_000)
    write(ARRAY, str(path), "root-file")
    assert path.stat().st_size < 100_000


def test_unknown_format():
    with pytest.raises(ValueError, match="'arrow'"):
        write(ARRAY, io.BytesIO(), "arrow")


def test_a_ttree_needs_a_column():
    with pytest.raises(ValueError, match="at least one branch"):
        write(ak.Array([1, 2]), io.BytesIO(), "root-file")
