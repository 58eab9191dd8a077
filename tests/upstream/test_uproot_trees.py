"""Canaries for internals of ``HasBranches.arrays`` of uproot."""

from __future__ import annotations

import awkward as ak
import pytest
import uproot

from coffea_sx._upstream.uproot_trees import RowlessTree


@pytest.fixture
def tree():
    number = ak.forms.NumpyForm("float32")
    forms = {"met": number, "pt": ak.forms.ListOffsetForm("i64", number)}
    return RowlessTree("Events", forms, {"met": "float", "pt": "float[]"})


def test_rowless_tree_has_keys(tree):
    assert tree.keys() == tree.keys(full_paths=True) == ["met", "pt"]
    assert tree.keys(filter_typename="float[]") == ["pt"]


def test_rowless_tree_is_read_by_uproot(tree):
    arrays = tree.arrays(
        ["double", "met"], "met > 1", aliases={"double": "pt * 2"}, array_cache=None, entry_stop=0
    )
    assert str(arrays.type) == "0 * {double: var * float32, met: float32}"


def test_rowless_tree_has_filters(tree):
    arrays = tree.arrays(filter_name="p*", filter_typename="float[]", array_cache=None)
    assert arrays.fields == ["pt"]


def test_rowless_tree_has_the_error_for_missing_columns(tree):
    with pytest.raises(uproot.KeyInFileError, match="nonsense"):
        tree.arrays(["nonsense"], array_cache=None)
