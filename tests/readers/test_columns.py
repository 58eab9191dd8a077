"""Columns of an open file: what is checked after they are read."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from coffea_sx.errors import CorruptFile, FormMismatch
from coffea_sx.readers.columns import Columns


def test_lists_beyond_their_entries_are_an_error_of_the_file() -> None:
    lists = ak.Array(
        ak.contents.ListOffsetArray(
            ak.index.Index64(np.array([0, 3, 1, 4])), ak.contents.NumpyArray(np.arange(4.0))
        )
    )
    columns = Columns("o.root", 3, {"x"}, dict, lambda *args: {"x": lists}, {})
    with pytest.raises(CorruptFile, match=r"o\.root.*'x'") as caught:
        columns.arrays(["x"], 0, 3)
    assert caught.value.object_name == "o.root"


def test_a_counter_that_the_file_lacks() -> None:
    lists = ak.Array([[1.0, 2.0], [], [3.0]])
    columns = Columns("o.root", 3, {"x"}, dict, lambda *args: {"x": lists}, {"nx": "x"})
    assert "nx" in columns
    assert columns.in_file(["nx", "x"]) == ["x"]
    arrays = columns.arrays(["nx", "x"], 0, 3)
    assert arrays["nx"].to_list() == [2, 0, 1]
    assert str(arrays["nx"].type.content) == "int32"


def test_columns_of_a_collection_with_other_numbers_of_entries() -> None:
    lists = {"x": ak.Array([[1], [2]]), "y": ak.Array([[1], [2, 3]])}
    columns = Columns("o.root", 2, {"x", "y"}, dict, lambda *args: lists, {})
    columns.collections = [("x", "y")]
    with pytest.raises(
        FormMismatch, match=r"'x' and 'y' .* have 1 and 2 entries in event 1"
    ) as caught:
        columns.arrays(["x", "y"], 0, 2)
    assert caught.value.column == "y"
