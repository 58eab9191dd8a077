"""Functions of awkward give what dask-awkward's give, and refuse what these refuse."""

from __future__ import annotations

import functools
import inspect
from typing import Any
from uuid import uuid4

import awkward as ak
import numpy as np
import pytest
import vector
from func_adl_uproot.transformer import PythonSourceGeneratorTransformer
from support import corpus
from support.corpus import CORPUS, written

from coffea_sx._upstream.func_adl import python_expression
from coffea_sx.errors import QueryError
from coffea_sx.forms import vocabulary
from coffea_sx.forms.array_functions import FUNCTIONS, getitem, no_column, truth
from coffea_sx.forms.func_adl_uproot import func_adl_form
from coffea_sx.forms.input_form import form_of_file
from coffea_sx.query import select

dak = pytest.importorskip("dask_awkward")
dask = pytest.importorskip("dask")


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = corpus.write_input(tmp_path_factory.mktemp("functions") / "in.root", 3)
    return {tree: form_of_file(path, tree) for tree in ("Events", "Numbers", "Runs")}


def form_of_dask_awkward(text: str, form: Any) -> Any:
    """Return the form that the expression of the translator has, evaluated with dask-awkward."""
    import qastle

    query = qastle.insert_linq_nodes(qastle.text_ast_to_python_ast(text).body[0].value)
    events = dak.from_map(
        lambda _: ak.Array(form.length_zero_array(highlevel=False)),
        [0],
        token=uuid4().hex,
        meta=ak.typetracer.typetracer_from_form(form),
    )
    vector.register_awkward()
    names = {"np": np, "dak": dak, "functools": functools, "EventDataset": lambda: events}
    result = eval(python_expression(query, "EventDataset"), names)
    if not isinstance(result, dak.Array):
        raise TypeError("not one row for each event")
    try:
        result.compute(scheduler=dask.get)
    except OverflowError:
        raise
    except Exception:
        return result.layout.form  # as for files without rows, whose errors say nothing
    return result.layout.form


def check(text: str, form: Any) -> None:
    try:
        expected = form_of_dask_awkward(text, form)
    except Exception:
        with pytest.raises(QueryError):
            func_adl_form(text, form)
    else:
        assert func_adl_form(text, form) == expected


@pytest.mark.parametrize("name", CORPUS)
def test_arrays_of_awkward_give_the_same_forms(name: str, forms: dict[str, Any]) -> None:
    selection = select(CORPUS[name], codegen="uproot")
    if selection.tree not in forms:
        pytest.skip("there is no such tree")
    check(selection.text, forms[selection.tree])


COLUMNS = ["e.MET_pt", "e.Muon_pt", "e.run", "e.Muon_charge, 2", "e.MET_pt, e.Muon_pt"]


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", sorted(vocabulary.NP_FUNCTIONS))
def test_functions_of_numpy_give_the_same_forms(
    name: str, columns: str, forms: dict[str, Any]
) -> None:
    body = f"events().Select(lambda e: {{'a': np.{name}({columns}), 'b': e.run}})"
    check(written(body), forms["Events"])


@pytest.mark.parametrize("columns", [*COLUMNS, "[e.MET_pt, e.MET_phi]"])
@pytest.mark.parametrize("name", [*vocabulary.BUILTINS, "pow"])
def test_functions_of_python_give_the_same_forms(
    name: str, columns: str, forms: dict[str, Any]
) -> None:
    body = f"events().Select(lambda e: {{'a': e.run * {name}({columns}), 'b': e.run}})"
    check(written(body), forms["Events"])


def test_functions_with_two_results_are_refused(forms: dict[str, Any]) -> None:
    assert not {"divmod", "modf", "frexp"} & vocabulary.NP_FUNCTIONS.keys()
    for call in ("divmod(e.run, 2)", "np.divmod(e.run, 2)", "np.modf(e.MET_pt)"):
        text = written(f"events().Select(lambda e: {{'a': {call}}})")
        with pytest.raises(QueryError):
            func_adl_form(text, forms["Events"])


def test_every_function_of_the_translator_is_there() -> None:
    assert set(FUNCTIONS) == set(vocabulary.DAK_FUNCTIONS)
    assert "dak." in inspect.getsource(PythonSourceGeneratorTransformer)


NUMBERS = ak.Array([[1, 2], [], [3]])


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("argsort", [NUMBERS], {"axis": 0, "ascending": True}),
        ("combinations", [NUMBERS, 2], {"axis": 0}),
        ("cartesian", [(NUMBERS, NUMBERS)], {"axis": 2, "nested": True}),
        ("cartesian", [(1, 2)], {"axis": 1, "nested": True}),
        ("concatenate", [[NUMBERS, 1]], {"axis": 0}),
        ("full_like", [NUMBERS, "a"], {"dtype": str}),
        ("num", [[1, 2]], {"axis": 1}),
        ("unzip", [1], {}),
        ("zip", [{"a": NUMBERS, "b": 1}], {}),
        ("zip", [[1, 2]], {}),
        ("zip", [NUMBERS], {}),
    ],
)
def test_calls_that_dask_awkward_refuses(
    name: str, arguments: list[Any], options: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError, NotImplementedError)):
        FUNCTIONS[name](*arguments, **options)


def test_columns_have_no_truth_value() -> None:
    assert truth([0])
    assert no_column(3) == 3
    for value in (NUMBERS, ak.Array([True]), ak.Array([{"x": 1}])[0]):
        with pytest.raises(TypeError, match="take no columns"):
            truth(value)


def test_a_condition_is_a_column_of_truth_values() -> None:
    assert getitem(NUMBERS, NUMBERS > 1).to_list() == [[2], [], [3]]
    assert getitem(NUMBERS, ak.Array([2, 0])).to_list() == [[3], [1, 2]]
    for item in (NUMBERS * 1.5, ak.zip({"x": NUMBERS})):
        with pytest.raises(TypeError, match="is no condition"):
            getitem(NUMBERS, item)
