"""Files with other columns than expected are refused."""

from __future__ import annotations

import itertools
import pickle

import awkward as ak
import numpy as np
import pytest
import uproot

from coffea_sx.errors import FormMismatch
from coffea_sx.forms.mismatch import check_columns
from coffea_sx.forms.output_form import as_output_form
from coffea_sx.readers.root import branch_forms

DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float32", "float64",
]  # fmt: skip


@pytest.fixture
def tree_of(tmp_path):
    """Write columns into a file and open it: ``tree_of(pt=[…])``."""
    opened = []

    def write(**columns):
        path = str(tmp_path / f"{len(opened)}.root")
        with uproot.recreate(path) as file:
            file.mktree("servicex", {n: ak.Array(v).type for n, v in columns.items()}).extend(
                columns
            )
        opened.append(uproot.open(path))
        return opened[-1]["servicex"]

    yield write
    for file in opened:
        file.close()


def expected_form(**types):
    """Return the form of columns, by dtypes; a dtype in a list is that of a jagged column."""
    contents = [
        ak.forms.ListOffsetForm("i64", ak.forms.NumpyForm(t[0]))
        if isinstance(t, list)
        else ak.forms.NumpyForm(t)
        for t in types.values()
    ]
    return as_output_form(ak.forms.RecordForm(contents, list(types))).base_form


def extremes(dtype):
    """Return the values of a type that a conversion loses first."""
    if dtype == "bool":
        return np.array([False, True])
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    last = [info.max - 1, info.max // 2 + 1] if np.dtype(dtype).kind in "iu" else [info.tiny]
    return np.array([info.min, 0, 1, info.max, *last], dtype)


def holds_all(wide, narrow):
    """Return True if a type holds every value of another: a table independent of numpy."""
    integers = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
    naturals = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}
    mantissas = {"float32": 24, "float64": 53}
    bits = {**integers, **naturals}
    if narrow in mantissas:
        return wide == "float64"
    if narrow == "bool" or wide == "bool":
        return False
    if wide in mantissas:
        return bits[narrow] < mantissas[wide]
    return bits[narrow] <= bits[wide] and (narrow in naturals or wide in integers)


def check(tree, names, *arguments):
    """Check the columns of a tree, as the reader does."""
    return check_columns(branch_forms(tree, names), names, *arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_expected_types_are_accepted(tree_of, dtype):
    values = np.array([0, 1], dtype)
    tree = tree_of(x=values, y=ak.unflatten(values, [2, 0]))
    check(tree, ["x", "y", "ny"], expected_form(x=dtype, y=[dtype], ny="int32"), "/in.root")


@pytest.mark.parametrize(("expected", "found"), list(itertools.permutations(DTYPES, 2)))
def test_other_types_are_refused_or_converted_without_loss(tree_of, expected, found):
    values = extremes(found)
    tree = tree_of(x=values, y=ak.unflatten(values, [len(values)] + [0] * (len(values) - 1)))
    if holds_all(expected, found):
        wider = check(tree, ["x", "y"], expected_form(x=expected, y=[expected]), "/in.root")
        assert wider == {"x": np.dtype(expected), "y": np.dtype(expected)}
        assert values.astype(expected).tolist() == values.tolist()
        return
    with pytest.raises(FormMismatch) as caught:
        check(tree, ["x"], expected_form(x=expected), "/in.root")
    error = caught.value
    assert (error.input_file, error.column) == ("/in.root", "x")
    assert (error.expected, error.found) == (expected, found)
    assert all(part in str(error) for part in ("/in.root", "'x'", expected, found))
    with pytest.raises(FormMismatch) as caught:
        check(tree, ["y"], expected_form(y=[expected]), "/in.root")
    assert caught.value.column == "y"


def test_a_float64_column_that_should_be_float32(tree_of):
    tree = tree_of(pt=np.array([1.5, 2.5, 3.5], "float64"))
    plain = ak.forms.RecordForm([ak.forms.NumpyForm("float32")], ["pt"])
    unchecked = uproot.dask(
        {tree.file.file_path: "servicex"}, open_files=False, known_base_form=plain
    )
    # uproot has only an assertion against it, which python -O leaves out.
    with pytest.raises(AssertionError):
        unchecked.pt.compute(scheduler="synchronous")
    with pytest.raises(FormMismatch, match="float32, found float64"):
        check(tree, ["pt"], as_output_form(plain).base_form, "/in.root")


def test_a_missing_column(tree_of):
    with pytest.raises(FormMismatch, match="no such column") as caught:
        check(tree_of(x=[1.0]), ["x", "y"], expected_form(x="float64", y="float64"), "/in.root")
    assert caught.value.column == "y"


@pytest.mark.parametrize(("values", "dtype"), [([1.0, 2.0], ["float64"]), ([[1.0], []], "float64")])
def test_jagged_and_flat(tree_of, values, dtype):
    with pytest.raises(FormMismatch):
        check(tree_of(x=values), ["x"], expected_form(x=dtype), "/in.root")


def test_columns_that_are_not_read_may_be_anything(tree_of):
    tree = tree_of(x=[1.0], other=np.array([1], "int8"))
    check(tree, ["x"], expected_form(x="float64", other="float32", missing="int64"), "/in.root")
    check(tree, [], expected_form(x="float32"), "/in.root")


def test_documentation_does_not_matter(tree_of):
    plain = ak.forms.RecordForm(
        [ak.forms.NumpyForm("float64", parameters={"__doc__": "energy in GeV"})], ["x"]
    )
    check(tree_of(x=[1.0]), ["x"], plain, "/in.root")


def test_the_error_can_be_pickled(tree_of):
    with pytest.raises(FormMismatch) as caught:
        check(tree_of(x=[1.0]), ["x"], expected_form(x="float32"), "/in.root")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.input_file, again.column, again.expected, again.found) == (
        "/in.root",
        "x",
        "float32",
        "float64",
    )
