"""Forms of the results of func_adl queries, and errors that name the parts of the query."""

from __future__ import annotations

import awkward as ak
import pytest
from servicex import query as q
from support.strategies import columns

from coffea_sx.errors import QueryError, UnknownColumn
from coffea_sx.forms.func_adl_uproot import func_adl_form
from coffea_sx.forms.input_form import input_form
from coffea_sx.query import select

SCALARS = [
    "(call Count (call EventDataset 'bogus.root' 'Events'))",
    "(call Sum (call Select (call EventDataset 'bogus.root' 'Events') "
    "(lambda (list e) (subscript e 'MET_pt'))))",
]


@pytest.fixture(scope="module")
def form(nano_files):
    return input_form({nano_files[0]: "Events"}, None)


def events():
    return q.FuncADL_Uproot().FromTree("Events")


def translate(query, form):
    return func_adl_form(select(query, codegen="uproot").text, form)


@pytest.mark.parametrize(
    "query",
    [
        events().Select(lambda e: {"n": e["nMuno"]}),
        events().Select(lambda e: {"n": e.nMuno}),
        events().Where(lambda e: e["nMuno"] > 1).Select(lambda e: {"n": e["nMuon"]}),
        events().Where(lambda e: e.nMuno > 1).Select(lambda e: {"n": e["nMuon"]}),
        columns("MET_pt", "nMuno"),
    ],
    ids=["subscript", "attribute", "where", "where attribute", "text"],
)
def test_unknown_column(query, form):
    with pytest.raises(UnknownColumn) as caught:
        translate(query, form)
    assert caught.value.column == "nMuno"


@pytest.mark.parametrize("query", [columns("nMuno"), events().Select(lambda e: {"n": e.nMuno})])
def test_the_nearest_columns_are_named(query, form):
    with pytest.raises(UnknownColumn, match="Did you mean 'nMuon'") as caught:
        translate(query, form)
    assert caught.value.nearest[0] == "nMuon"
    assert set(caught.value.nearest) <= set(form.fields)


def test_names_with_odd_characters(form):
    with pytest.raises(UnknownColumn) as caught:
        translate(columns("L1 seed: 'x'".replace("'", "")), form)
    assert caught.value.column == "L1 seed: x"


def test_a_jagged_condition_on_events(form):
    query = events().Where(lambda e: e["Muon_pt"] > 20).Select(lambda e: {"a": e["MET_pt"]})
    with pytest.raises(QueryError, match=r"jagged.*one answer for each event.*Count\(\) > 0"):
        translate(query, form)


@pytest.mark.parametrize(
    "query",
    [
        events().Where(lambda e: True).Select(lambda e: {"a": e["MET_pt"]}),
        events().Where(lambda e: 1 < 2).Select(lambda e: {"a": e["MET_pt"]}),
        events().Where(lambda e: 1 < 2 and 2 < 3).Select(lambda e: {"a": e["MET_pt"]}),
        events().Select(lambda e: {"a": e["Muon_pt"].Where(lambda pt: True)}),
        events().Select(lambda e: {"a": e["Muon_pt"].Where(lambda pt: 1 < 2)}),
        events().Select(lambda e: {"a": e["Muon_pt"].Where(lambda pt: 1)}),
    ],
)
def test_a_condition_with_one_value_for_all_events(query, form):
    """awkward would take True for a new dimension, and 1 for the second event."""
    with pytest.raises(QueryError, match=r"one value, (True|1), for all .*one answer for each"):
        translate(query, form)


@pytest.mark.parametrize(
    ("body", "what_to_change"),
    [
        ("len(e.Muon_pt)", r"\.Count\(\) for len"),
        ("sum(e.Muon_pt)", r"\.Sum\(\) for sum"),
        ("int(e.MET_pt)", "functions of numpy"),
        ("round(e.MET_pt)", r"np\.rint"),
        ("e.Muon_pt[0]", r"write \.First\(\)"),
        ("e.MET_pt.Count()", "this column has one value for each event"),
        ("e.MET_pt == 'x'", "Columns of numbers have arithmetic"),
        ("1", r'event\["run"\] \* 0 \+ 1'),
        ("sqrt(e.MET_pt)", r"np\.sqrt"),
        ("e.Muon_pt.Median()", r"calls Median\(\).*Lists have Select"),
        ("e.Muon_pt.Where(lambda pt: pt)", "pt > 0 in place of pt"),
    ],
)
def test_errors_say_what_to_change(body, what_to_change, form):
    with pytest.raises(QueryError, match=what_to_change):
        translate(events().Select(f"lambda e: {{'a': {body}}}"), form)


def test_a_second_select_has_other_columns(form):
    inner = columns("MET_pt")
    text = f"(call Select {inner} (lambda (list x) (dict (list 'a') (list (subscript x 'run')))))"
    with pytest.raises(QueryError, match="sees only the columns that the first Select names"):
        translate(text, form)


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_are_no_events(text, form):
    with pytest.raises(QueryError, match="one row for each event"):
        translate(text, form)


@pytest.mark.parametrize(
    "body",
    [
        "(call __import__ 'os')",
        "(call (attr (call __import__ 'os') 'getcwd'))",
        "(attr e '__class__')",
    ],
)
def test_no_other_code_is_run(body, form, monkeypatch):
    ran = []
    monkeypatch.setattr("os.getcwd", lambda: ran.append(1) or "/")
    text = f"(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) {body}))"
    with pytest.raises(QueryError):
        translate(text, form)
    assert not ran


def test_types_are_those_of_the_input(form):
    translated = translate(
        events().Select(
            lambda e: {
                "run": e["run"],
                "scaled": e["Muon_pt"] / 1000.0,
                "n": e["Muon_pt"].Count(),
                "is_hard": e["MET_pt"] > 25,
            }
        ),
        form,
    )
    assert str(translated.type) == ("{run: uint32, scaled: var * float32, n: int64, is_hard: bool}")


def test_the_input_form_is_not_changed(form):
    before = form.to_dict()
    translate(columns("MET_pt"), form)
    assert form.to_dict() == before


def test_nothing_is_computed():
    """A form that no file has is enough."""
    form = ak.forms.RecordForm([ak.forms.NumpyForm("float64")], ["x"])
    assert str(translate(columns("x"), form).type) == "{x: float64}"
