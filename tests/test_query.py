"""Selections of queries, and errors with advice."""

from __future__ import annotations

import pytest
from servicex import query as q
from servicex.models import ResultFormat
from support.strategies import columns

from coffea_sx.errors import QueryError
from coffea_sx.query import RESULT_FORMATS, advice_on_writing, select


def test_func_adl_query():
    query = q.FuncADL_Uproot().FromTree("Events").Select(lambda e: {"pt": e["MET_pt"]})
    selection = select(query)
    assert selection.codegen == "uproot"
    assert selection.is_func_adl_uproot
    assert selection.tree == "Events"
    assert selection.result_format == "root-file"
    assert "(subscript e 'MET_pt')" in selection.text
    assert selection.title


def test_text_is_sent_unchanged():
    text = columns("MET_pt")
    selection = select(text, codegen="uproot", title="mine")
    assert (selection.text, selection.tree, selection.title) == (text, "Events", "mine")


def test_text_needs_a_codegen():
    with pytest.raises(QueryError, match="codegen="):
        select(columns("MET_pt"))


def test_a_given_codegen_wins():
    query = q.FuncADL_Uproot().FromTree("Events").Select(lambda e: {"pt": e["MET_pt"]})
    selection = select(query, codegen="uproot-new")
    assert selection.codegen == "uproot-new"
    assert not selection.is_func_adl_uproot


def test_other_codegens_are_not_parsed():
    selection = select("print('hello')", codegen="python")
    assert (selection.tree, selection.is_func_adl_uproot) == (None, False)


def test_raw_and_python_queries():
    raw = q.UprootRaw([{"treename": "Events", "filter_name": ["MET_pt"]}])
    assert select(raw).codegen == "uproot-raw"

    def run_query(input_filenames=None):
        return []

    assert select(q.PythonFunction().with_uproot_function(run_query)).codegen == "python"


def test_a_query_without_tree():
    query = q.FuncADL_Uproot().Select(lambda e: {"pt": e["MET_pt"]})
    with pytest.raises(QueryError, match=r"which tree.*FromTree"):
        select(query)


@pytest.mark.parametrize(
    "text",
    [
        "(call EventDataset 'bogus.root')",
        "(call EventDataset)",
        "(call Select (call EventDataset 'bogus.root') (lambda (list e) e))",
    ],
)
def test_text_without_tree(text):
    with pytest.raises(QueryError, match="which tree"):
        select(text, codegen="uproot")


def test_text_without_a_dataset():
    with pytest.raises(QueryError, match="EventDataset"):
        select("(list 1 2)", codegen="uproot")


@pytest.mark.parametrize("text", ["", "(", "nonsense (", "(call Select", "SELECT pt FROM Events"])
def test_not_qastle(text):
    with pytest.raises(QueryError, match=r"not valid qastle|EventDataset"):
        select(text, codegen="uproot")


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        ("f'{e.x}'", "ServiceX has no f-strings"),
        ("e.xs[:2]", r"write \.First\(\)"),
        ("e.x not in [1, 2]", r"Write not \(\.\.\. in \[\.\.\.\]\)"),
        ("e.x is 1", "Compare with =="),
        ("{e.x}", "Name the columns"),
        ("e.x @ e.y", "Only arithmetic"),
        ("(y := e.x)", "Only arithmetic"),
        ("e.x * 1j", "a constant that is no number"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is. with:SyntaxWarning")
def test_unsendable_queries_come_with_advice(body, advice):
    query = q.FuncADL_Uproot().FromTree("Events").Select(f"lambda e: {{'a': {body}}}")
    with pytest.raises(QueryError, match=advice):
        select(query)


def test_limits_of_func_adl_come_with_advice():
    """func_adl raises these errors while a query is made."""
    events = q.FuncADL_Uproot().FromTree("Events")
    with pytest.raises(KeyError) as minus:
        events.Select(lambda e: {"a": -e.x})
    assert 'e["x"] in place of e.x' in advice_on_writing(minus.value)
    with pytest.raises(ValueError, match="on same line") as twice:
        events.Select(lambda e: {"a": e.x}).Select(lambda e: {"b": e.a})
    assert "Call the argument differently" in advice_on_writing(twice.value)
    with pytest.raises(ValueError, match="boolean") as no_condition:
        events.Where(lambda e: e.x)
    assert "e.x > 0" in advice_on_writing(no_condition.value)
    assert "lines of its own" in advice_on_writing(AssertionError())


def test_formats_as_text_and_as_enum():
    text = columns("MET_pt")
    for value in ("root-file", ResultFormat.root_ttree):
        assert select(text, codegen="uproot", result_format=value).result_format == "root-file"


@pytest.mark.parametrize("value", ["arrow", "", None, "ROOT-FILE", 3])
def test_unknown_formats(value):
    with pytest.raises(QueryError, match="ServiceX delivers no") as caught:
        select(columns("MET_pt"), codegen="uproot", result_format=value)
    assert all(name in str(caught.value) for name in RESULT_FORMATS)


@pytest.mark.parametrize("value", [None, 3, ["Events"], {"a": 1}, b"(call EventDataset)", object])
def test_not_a_query(value):
    with pytest.raises(QueryError, match=r"servicex\.query"):
        select(value)


def test_a_selection_is_a_value():
    text = columns("MET_pt")
    assert select(text, codegen="uproot") == select(text, codegen="uproot")
    assert len({select(text, codegen="uproot"), select(text, codegen="uproot")}) == 1
