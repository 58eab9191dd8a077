"""Canaries for private API of uproot: each fails by name when uproot changes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from coffea_sx._upstream.coffea import SchemaMapping
from coffea_sx._upstream.uproot import (
    RowlessTree,
    columns_to_read,
    page_ranges,
    partition_reader,
    read_entries,
    tree_form,
)

DOCUMENTATION = {"__doc__": "title", "typename": "typename"}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Any]:
    path = str(tmp_path / "events.root")
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "float64", "y": "int32"}).extend(
            {"x": np.arange(5.0), "y": np.arange(5, dtype="int32")}
        )
    with uproot.open({path: "Events"}) as opened:
        yield opened


@pytest.fixture
def reader() -> Any:
    number, whole = (
        ak.forms.NumpyForm(dtype, parameters=dict.fromkeys(DOCUMENTATION, ""))
        for dtype in ("float64", "int32")
    )
    form = ak.forms.RecordForm([number, whole], ["x", "y"], parameters={"__doc__": ""})
    return partition_reader(form, "Events", SchemaMapping(version="latest"), DOCUMENTATION)


def test_partition_reader(reader: Any) -> None:
    """No file is opened, and dask-awkward's protocols are there."""
    assert ak.fields(reader.mock()) == ["x", "y"]
    empty = reader.mock_empty(backend="cpu")
    assert (len(empty), ak.fields(empty)) == (0, ["x", "y"])


class _FormMade(Exception):
    """Ends `uproot.dask` when it has made a form."""


def form_of_dask(tree: Any, **options: Any) -> Any:
    def end(form: Any) -> Any:
        raise _FormMade(form)

    with pytest.raises(_FormMade) as made:
        uproot.dask(tree, form_mapping=end, **options)
    return made.value.args[0]


def test_tree_form(tree: Any) -> None:
    def is_x(branch: Any) -> bool:
        return branch.name == "x"

    documented = {"full_paths": True, "ak_add_doc": DOCUMENTATION}
    assert tree_form(tree, is_x).to_dict() == form_of_dask(tree, filter_branch=is_x).to_dict()
    assert (
        tree_form(tree, lambda _: True, full_paths=True, documentation=DOCUMENTATION).to_dict()
        == form_of_dask(tree, **documented).to_dict()
    )
    with pytest.raises(ValueError, match="no branch of the tree 'Events' can be read"):
        tree_form(tree, lambda _: False)


def test_columns_to_read(reader: Any) -> None:
    assert columns_to_read(reader) == {"x", "y"}
    assert columns_to_read(reader.project_manually(frozenset({"y"}))) == {"y"}


def test_read_entries(reader: Any, tree: Any) -> None:
    assert read_entries(reader, tree, 1, 3).x.to_list() == [1, 2]
    projected = read_entries(reader.project_manually(frozenset({"y"})), tree, 0, 5)
    assert projected.y.to_list() == [0, 1, 2, 3, 4]


class Recorder(uproot.MemmapSource):
    """A file, and the ranges of bytes that uproot reads from it."""

    ranges: list[tuple[int, int]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ranges = []

    def chunk(self, start: int, stop: int) -> Any:
        self.ranges.append((start, stop))
        return super().chunk(start, stop)

    def chunks(self, ranges: Any, notifications: Any) -> Any:
        self.ranges.extend(ranges)
        return super().chunks(ranges, notifications)


@pytest.mark.parametrize("entries", [(0, 300), (0, 50), (150, 250)])
@pytest.mark.parametrize("names", [["x"], ["y"], ["x", "y"]])
def test_page_ranges(names: list[str], entries: tuple[int, int], tmp_path: Path) -> None:
    """The ranges are those from which uproot reads the pages of the fields."""
    path = str(tmp_path / "ntuple.root")
    rng = np.random.default_rng(1)
    with uproot.recreate(path) as file:
        batch = {"x": rng.normal(size=100), "y": ak.unflatten(rng.normal(size=100), [1] * 100)}
        ntuple = file.mkrntuple("Events", batch)
        ntuple.extend(batch)
        ntuple.extend(batch)
    with uproot.open(path, handler=Recorder) as file:
        ntuple = file["Events"]
        form, _ = ntuple.to_akform(filter_name=names)
        ranges = set(page_ranges(ntuple, form, *entries))
        file.file.source.ranges.clear()
        array = ntuple.arrays(filter_name=names, entry_start=entries[0], entry_stop=entries[1])
        assert len(array) == entries[1] - entries[0]
        assert set(file.file.source.ranges) == ranges


@pytest.fixture
def rowless():
    number = ak.forms.NumpyForm("float32")
    forms = {"met": number, "pt": ak.forms.ListOffsetForm("i64", number)}
    return RowlessTree("Events", forms, {"met": "float", "pt": "float[]"})


def test_rowless_tree_has_keys(rowless):
    assert rowless.keys() == rowless.keys(full_paths=True) == ["met", "pt"]
    assert rowless.keys(filter_typename="float[]") == ["pt"]


def test_rowless_tree_is_read_by_uproot(rowless):
    arrays = rowless.arrays(
        ["double", "met"], "met > 1", aliases={"double": "pt * 2"}, array_cache=None, entry_stop=0
    )
    assert str(arrays.type) == "0 * {double: var * float32, met: float32}"


def test_rowless_tree_has_filters(rowless):
    arrays = rowless.arrays(filter_name="p*", filter_typename="float[]", array_cache=None)
    assert arrays.fields == ["pt"]


def test_rowless_tree_has_the_error_for_missing_columns(rowless):
    with pytest.raises(uproot.KeyInFileError, match="nonsense"):
        rowless.arrays(["nonsense"], array_cache=None)
