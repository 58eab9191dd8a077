"""Derived forms of uproot-raw queries are those of the files that a server delivers."""

from __future__ import annotations

import contextlib
import io
import json
import re

import awkward as ak
import fsspec
import numpy as np
import pyarrow.parquet
import pytest
import uproot
from servicex import query as q
from support.derived_files import described, written
from support.strategies import connected
from support.unreadable import write_unreadable

from coffea_sx.errors import QueryError, RequestRefused, UnknownColumn
from coffea_sx.forms.derivation import form_of_selection
from coffea_sx.forms.input_form import input_form
from coffea_sx.forms.uproot_raw import parse_selection, raw_forms
from coffea_sx.policy import LENIENT, STRICT
from coffea_sx.polling.outcomes import Failed
from coffea_sx.query import Selection, select
from coffea_sx.storage.filesystem import address

MUONS = {"treename": "Events", "filter_name": ["MET_pt", "Muon_*"]}
LEAD = {"lead": "fill_none(firsts(Muon_pt), -1)"}


def events(**what):
    return [{"treename": "Events", **what}]


# Delivered in every format.
QUERIES = {
    "everything": events(),
    "name": events(filter_name="MET_pt"),
    "glob": events(filter_name="Muon_*"),
    "regular expression": events(filter_name=["/.*_pt/", "run"]),
    "another order": events(filter_name=["Muon_pt", "run", "event"]),
    "type name": events(filter_typename="float[]"),
    "type names": events(filter_typename=["float", "/u?int(32|64)_t/"]),
    "name and type name": events(filter_name="Muon_*", filter_typename="int32_t[]"),
    "one expression": events(expressions="Muon_pt"),
    "expressions": events(expressions=["MET_pt", "Muon_pt*2", "sqrt(MET_pt)", "nMuon+1"]),
    "expressions in another order": events(expressions=["Muon_pt", "run", "MET_pt"]),
    "expressions beside filters": events(expressions=["run"], filter_name="MET_pt"),
    "cut": events(**{**MUONS, "cut": "MET_pt>20"}),
    "nothing passes": events(cut="MET_pt<0"),
    "cut per event": events(filter_name="Muon_pt", cut="any(Muon_pt>20) & (num(Muon_pt)>1)"),
    "cut with its own axis": events(filter_name="run", cut="sum(Muon_pt, axis=1)>50"),
    "cut in the lists": events(filter_name="Muon_*", cut="Muon_pt>20"),
    "alias": events(expressions=["lead", "MET_pt"], aliases=LEAD),
    "aliases of aliases": events(
        expressions=["a", "b"], aliases={"a": "b/1000", "b": "Muon_pt*2"}, cut="any(a>0.04)"
    ),
    "reducers": events(
        expressions=[
            *("sum(Muon_pt)", "prod(Muon_charge)", "count(Muon_pt)", "count_nonzero(Muon_pt)"),
            *("all(Muon_pt>20)", "nansum(Muon_pt)", "num(Muon_pt)", "any(Muon_charge>0)"),
        ]
    ),
    "moments": events(expressions=["mean(Muon_pt)", "std(Muon_pt)", "var(Muon_pt)"]),
    "softmax": events(expressions=["softmax(Muon_eta)"]),
    "concatenated": events(expressions=["concatenate([Muon_pt, Muon_eta])"]),
    "sorted": events(expressions=["sort(Muon_pt)", "argsort(Muon_pt, ascending=False)"]),
    "sliced": events(expressions=["Muon_pt[Muon_eta>0]", "Muon_pt[:, :1]", "get('Muon_pt')"]),
    "broadcast": events(expressions=["Muon_pt+MET_pt", "where(MET_pt>20, 1, 0)"]),
    "no longer events": events(expressions=["flatten(Muon_pt, axis=1)"]),
    "standard axis": events(
        expressions=["sum(Muon_pt, axis=1)"], cut="num(Muon_pt)>0", use_standard_awkward_axis=True
    ),
    "other key": events(filter_name="run", something="else"),
    "renamed tree": [{**MUONS, "treename": {"Events": "muons"}}],
    "missing tree": [{**MUONS, "treename": ["Events", "Missing"]}],
    "only a missing tree": [{**MUONS, "treename": "Missing"}],
    "tree that is there": [{**MUONS, "fail_on_missing_trees": True}],
    "trees of one structure": [{**MUONS, "treename": ["Events", "Shifted"], "cut": "MET_pt>20"}],
    "the same tree twice": [
        {**MUONS, "treename": {"Events": "soft"}, "cut": "MET_pt<20"},
        {**MUONS, "treename": {"Events": "hard"}, "cut": "MET_pt>20"},
    ],
    "the later one wins": [events(filter_name="run")[0], events(filter_name="event")[0]],
}
# Parquet has one structure for all, and no place for histograms.
ROOT_QUERIES = {
    "different trees": [*events(filter_name="run"), {"treename": "Shifted", "cut": "MET_pt>50"}],
    "one of them missing": [*events(filter_name="run"), {"treename": {"Missing": "x"}}],
    "all at once": [
        {
            "treename": {"Events": "out_a", "Shifted": "out_b"},
            "expressions": ["Muon_pt", "lead"],
            "aliases": LEAD,
            "cut": "any(Muon_pt>20)",
        },
        {"treename": "folder/Deep", "filter_typename": "double"},
        {"copy_histograms": ["cutflow", "folder/f*"]},
    ],
    "histogram": [*events(filter_name="run"), {"copy_histograms": "cut*"}],
    "histograms only": [{"copy_histograms": "/.*flow/"}],
    "tree in a folder": [{"treename": "folder/Deep"}],
}
# The server cannot compute the result, or cannot write it, for any file.
REFUSED = {
    "unknown column": events(expressions=["nMuno"]),
    "unknown column in a cut": events(filter_name="run", cut="nMuno>1"),
    "unknown column in an alias": events(expressions=["a"], aliases={"a": "nMuno+1"}),
    "unknown column by get": events(expressions=["get('nMuno')"]),
    "unknown function": events(expressions=["sum_of(Muon_pt)"]),
    "no expression": events(expressions=["MET_pt +"]),
    "two expressions": events(expressions=["MET_pt; run"]),
    "alias of itself": events(expressions=["a"], aliases={"a": "a+1"}),
    "jagged cut on events": events(filter_name=["MET_pt", "Muon_pt"], cut="Muon_pt>20"),
    "one value": events(expressions=["sum(Muon_pt, axis=None)"]),
    "one value by the standard axis": events(
        expressions=["sum(Muon_pt)"], use_standard_awkward_axis=True
    ),
    "a constant": events(expressions=["MET_pt", "1"]),
    "axis too deep": events(expressions=["flatten(Muon_pt)"]),
    "no column": events(filter_name="Tau_*"),
    "no column of that type": events(filter_typename="TString"),
    "missing tree": [{"treename": "Missing", "fail_on_missing_trees": True}],
    "numbers": events(expressions=[5]),
    "private": events(expressions=["MET_pt.__class__"]),
    "private of a constant": events(expressions=["run if ().__class__ else event"]),
    "method": events(expressions=["(MET_pt+0).to_numpy()"]),
    "function out of a list": events(expressions=["[(MET_pt+0).to_numpy][0]()"]),
    "other code": events(expressions=["run;"], cut="__import__('os').getcwd()"),
}
# Refused before any file is read.
REFUSED_AT_ONCE = {"unknown function", "two expressions", "numbers", "private", "other code"}
REFUSED_AT_ONCE |= {"private of a constant", "method", "function out of a list"}
FORMATS = ("root-file", "root-rntuple", "parquet")


def text(query):
    return json.dumps(query)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A file with three trees, one of them in a folder, and two histograms."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("raw") / "in.root"
    with uproot.recreate(path) as file:
        for name in ("Events", "Shifted"):
            columns = some_events(rng, 200)
            types = {field: column.type for field, column in columns.items()}
            tree = file.mktree(name, types, counter_name=lambda _: "nMuon")
            tree.extend(columns)
        file["cutflow"] = np.histogram([1.0, 2.0, 2.0], bins=3)
        deep = file.mktree("folder/Deep", {"x": "float64", "y": "int32"})
        deep.extend({"x": np.arange(5.0), "y": np.arange(5, dtype=np.int32)})
        file["folder/flow"] = np.histogram([1.0], bins=2)
    return str(path)


def some_events(rng, n_events):
    counts = rng.integers(0, 4, n_events)
    n_muons = int(counts.sum())

    def jagged(values, dtype):
        return ak.unflatten(values.astype(dtype), counts)

    return {
        "run": ak.Array(np.full(n_events, 1, np.uint32)),
        "event": ak.Array(np.arange(n_events, dtype=np.uint64)),
        "MET_pt": ak.Array(rng.exponential(30, n_events).astype(np.float32)),
        "HLT_IsoMu24": ak.Array(rng.random(n_events) > 0.5),
        "Muon_pt": jagged(rng.exponential(30, n_muons), np.float32),
        "Muon_eta": jagged(rng.normal(0, 1, n_muons), np.float32),
        "Muon_charge": jagged(rng.choice([-1, 1], n_muons), np.int32),
    }


@pytest.fixture(scope="module")
def forms(sample):
    """The same as forms, as they come from a sample."""
    trees = ("Events", "Shifted", "folder/Deep")
    return {name: input_form({sample: name}, None) for name in trees}


@pytest.fixture
def deliver(servicex, watching, sample):
    """Transform the sample: the number of rows and the bytes of the delivered file."""

    def run(query, result_format, failure_policy=STRICT):
        selection = Selection(text(query), "uproot-raw", result_format, None, "test")
        poller = watching(servicex, selection, [sample])
        outcome = poller.wait(0, failure_policy=failure_policy)
        if isinstance(outcome, Failed):
            return outcome
        with fsspec.open(address(poller.address.request_id, outcome.object_name)) as file:
            return outcome.n_events, file.read()

    return run


ALL = [(name, form) for name in QUERIES for form in FORMATS]
ALL += [(name, form) for name in ROOT_QUERIES for form in ("root-file", "root-rntuple")]
# In the other formats only the queries that they treat differently.
SELECTED = {"everything", "cut", "alias", "renamed tree", "missing tree", "only a missing tree"}
SELECTED |= {"trees of one structure", "the same tree twice", "all at once", "moments"}
PAIRS = [(name, form) for name, form in ALL if form == "root-file" or name in SELECTED]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("name", "result_format"), PAIRS)
def test_the_derived_form_is_the_delivered_one(name, result_format, forms, deliver):
    query = {**QUERIES, **ROOT_QUERIES}[name]
    derived = raw_forms(text(query), forms)
    n_rows, content = deliver(query, result_format)
    found = described(content, result_format)
    assert described(written(derived, result_format), result_format) == found
    file = io.BytesIO(content)
    if result_format == "parquet":
        with pyarrow.parquet.ParquetFile(file) as opened:
            assert opened.metadata.num_rows == n_rows
    else:
        assert list(derived) == list(found[0])
        with uproot.open(file) as opened:
            assert sum(opened[tree].num_entries for tree in derived) == n_rows


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", [*QUERIES, *ROOT_QUERIES])
def test_an_open_tree_gives_the_same(name, forms, sample):
    selection = text({**QUERIES, **ROOT_QUERIES}[name])
    with uproot.open(sample) as file:
        trees = {tree: file[tree] for tree in forms}
        found = raw_forms(selection, trees)
    derived = raw_forms(selection, forms)
    assert {tree: str(form.type) for tree, form in derived.items()} == {
        tree: str(form.type) for tree, form in found.items()
    }
    assert [form.fields for form in derived.values()] == [form.fields for form in found.values()]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", REFUSED)
def test_queries_that_fail_for_all_files_are_refused(name, forms, sample, deliver, servicex):
    with pytest.raises(QueryError) as caught:
        raw_forms(text(REFUSED[name]), forms)
    with uproot.open(sample) as file, pytest.raises(type(caught.value)):
        raw_forms(text(REFUSED[name]), {"Events": file["Events"]})
    if name in REFUSED_AT_ONCE:
        selection = Selection(text(REFUSED[name]), "uproot-raw", "root-file", None, "test")
        with (
            contextlib.closing(connected(servicex.url)) as client,
            pytest.raises(RequestRefused, match="Failed to generate translation code"),
        ):
            client.submit(selection, did=None, files=[sample])
    else:
        assert isinstance(deliver(REFUSED[name], "root-file", LENIENT), Failed)


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith("unknown column")])
def test_the_nearest_columns_are_named(name, forms):
    with pytest.raises(UnknownColumn, match="Did you mean 'nMuon'") as caught:
        raw_forms(text(REFUSED[name]), forms)
    assert caught.value.column == "nMuno"
    assert caught.value.nearest[0] == "nMuon"


@pytest.mark.parametrize("name", ["private of a constant", "method", "function out of a list"])
def test_no_other_code_is_run(name, forms):
    with pytest.raises(QueryError, match=r"is not allowed"):
        raw_forms(text(REFUSED[name]), forms)


def test_the_nearest_aliases_are_named(forms):
    query = events(expressions=["laed"], aliases=LEAD)
    with pytest.raises(UnknownColumn, match="'lead'"):
        raw_forms(text(query), forms)


def test_the_trees_of_the_input_are_named(forms):
    with pytest.raises(QueryError, match="no tree 'Missing'; it has 'Events', 'Shifted'"):
        raw_forms(text(REFUSED["missing tree"]), forms)
    with pytest.raises(QueryError, match="it has nothing"):
        raw_forms(text(REFUSED["missing tree"]), {})


@pytest.mark.parametrize(
    "selection",
    ["not json", "", "5", "{}", "[1]", "[{}]", '[{"treename": ""}]', '[{"treename": 5}]'],
)
def test_texts_that_are_no_selections(selection, forms):
    with pytest.raises(QueryError, match="not an uproot-raw query"):
        raw_forms(selection, forms)


@pytest.mark.parametrize(
    ("expression", "is_masked"),
    [("max(Muon_pt)", True), ("argmin(Muon_pt)", True), ("firsts(Muon_pt)", False)],
)
def test_options_are_written_where_they_can_be(expression, is_masked, forms, deliver):
    query = events(expressions=[expression])
    (derived,) = raw_forms(text(query), forms).values()
    assert derived.content(expression).is_option
    for result_format in FORMATS:
        if result_format == "root-file" or (result_format == "root-rntuple" and is_masked):
            assert isinstance(deliver(query, result_format, LENIENT), Failed)
            with pytest.raises(TypeError):
                written({"Events": derived}, result_format)
        else:
            _, content = deliver(query, result_format)
            theirs = described(content, result_format)
            assert described(written({"Events": derived}, result_format), result_format) == theirs


def test_different_trees_have_no_parquet(forms, deliver):
    query = ROOT_QUERIES["different trees"]
    assert isinstance(deliver(query, "parquet", LENIENT), Failed)
    with pytest.raises(ValueError, match="schema"):
        written(raw_forms(text(query), forms), "parquet")


def test_parquet_names_the_tree_of_each_row(deliver):
    n_rows, content = deliver(QUERIES["the same tree twice"], "parquet")
    with pyarrow.parquet.ParquetFile(io.BytesIO(content)) as opened:
        assert opened.metadata.num_row_groups == 2
        array = ak.from_arrow(opened.read())
    assert array.fields[-1] == "treename"
    assert set(array.treename.to_list()) == {"soft", "hard"}
    assert ak.all((array.MET_pt > 20) == (array.treename == "hard"))
    assert len(array) == n_rows == 200


@pytest.mark.parametrize("result_format", ["root-file", "root-rntuple"])
def test_histograms_are_copied(deliver, sample, result_format):
    query = ROOT_QUERIES["all at once"][-1:]
    n_rows, content = deliver([{**query[0], "copy_histograms": "*flow"}], result_format)
    assert n_rows == 0
    with uproot.open(io.BytesIO(content)) as ours, uproot.open(sample) as theirs:
        assert set(ours.keys(cycle=False)) == {"cutflow", "folder", "folder/flow"}
        for name in ("cutflow", "folder/flow"):
            assert ours[name].classname == theirs[name].classname
            pairs = zip(ours[name].to_numpy(), theirs[name].to_numpy(), strict=True)
            assert all(copy.tolist() == original.tolist() for copy, original in pairs)


def test_histograms_have_no_place_in_parquet(deliver):
    failed = deliver(ROOT_QUERIES["histogram"], "parquet", LENIENT)
    assert isinstance(failed, Failed)
    assert "cutflow" in str(failed.reason)


def test_axis_of_server_generations(forms):
    """Before May 2025 awkward's own default joined events to events."""
    query = text(events(expressions=["concatenate([Muon_pt, MET_pt[:, None]])"]))
    assert "var * float32" in str(raw_forms(query, forms)["Events"].type)
    flat = text(events(expressions=["flatten(Muon_pt)"]))
    old = raw_forms(flat, forms, standard_axis=True)["Events"]
    assert str(old.type) == '{"flatten(Muon_pt)": float32}'
    with pytest.raises(QueryError, match="AxisError"):
        raw_forms(flat, forms)
    with pytest.raises(QueryError, match="scalar"):
        raw_forms(text(events(expressions=["sum(Muon_pt)"])), forms, standard_axis=True)


def test_positional_axis_is_no_longer_one(forms):
    with pytest.raises(QueryError, match="TypeError"):
        raw_forms(text(events(expressions=["sum(Muon_pt, 1)"])), forms)


def test_type_names_of_forms():
    """Branches of a form have the type names that uproot would give them."""
    number = ak.forms.NumpyForm("float32")
    numbers = ak.forms.ListOffsetForm("i64", number)
    string = ak.forms.from_type(
        ak.types.ListType(
            ak.types.NumpyType("uint8", parameters={"__array__": "char"}),
            parameters={"__array__": "string"},
        )
    )
    columns = {
        "float[]": numbers,
        "std::vector<std::vector<float>>": ak.forms.ListOffsetForm("i64", numbers),
        "float[3]": ak.forms.RegularForm(number, 3),
        "double[2][2]": ak.forms.NumpyForm("float64", (2, 2)),
        "std::string": string,
        "std::vector<std::string>": ak.forms.ListOffsetForm("i64", string),
        "bool": ak.forms.NumpyForm("bool"),
        "uint8_t": ak.forms.NumpyForm("uint8"),
        "Own<float>": number.copy(parameters={"typename": "Own<float>", "__doc__": "title"}),
    }
    names = [f"c{i}" for i in range(len(columns))]
    form = ak.forms.RecordForm(list(columns.values()), names)
    for i, typename in enumerate(columns):
        query = [{"treename": "t", "filter_typename": f"/{re.escape(typename)}/"}]
        found = raw_forms(text(query), {"t": form})
        assert found["t"].fields == [f"c{i}"]
    everything = raw_forms(text([{"treename": "t"}]), {"t": form})["t"]
    assert (
        everything.type
        == ak.forms.RecordForm(
            [
                content.copy(parameters={}) if i == 8 else content
                for i, content in enumerate(form.contents)
            ],
            names,
        ).type
    )


def test_type_names_are_those_of_branches(sample, forms):
    with uproot.open(sample) as file:
        for name, form in forms.items():
            for typename in set(file[name].typenames().values()):
                query = text([{"treename": name, "filter_typename": typename}])
                expected = file[name].keys(filter_typename=typename)
                assert raw_forms(query, {name: form})[name].fields == expected


def test_columns_with_odd_names():
    number = ak.forms.NumpyForm("float64")
    names = ["a.b", "f(x)", "_x", "class", "x y", "sum"]
    form = ak.forms.RecordForm([number] * len(names), names)
    assert raw_forms(text([{"treename": "t"}]), {"t": form})["t"].fields == names
    query = [
        {"treename": "t", "expressions": ["f(x)", "a.b", "get('x y')", "get('a.b')*2", "_x+1"]}
    ]
    assert raw_forms(text(query), {"t": form})["t"].fields == query[0]["expressions"]


def test_forms_may_have_what_no_tree_can_hold():
    """A form is enough: options and records, for which uproot's writer has no branches."""
    array = ak.Array(
        [{"jets": [{"pt": 1.0, "tags": [1, 2]}], "met": None}, {"jets": [], "met": 2.0}]
    )
    query = text([{"treename": "t", "expressions": ["jets.pt", "met"]}])
    with pytest.raises(QueryError, match=r"'jets\.pt'"):
        raw_forms(query, {"t": array.layout.form})
    query = text([{"treename": "t", "expressions": ["get('jets')['pt']", "met"]}])
    found = raw_forms(query, {"t": array.layout.form})["t"]
    assert [str(content.type) for content in found.contents] == ["var * float64", "?float64"]


def test_results_without_a_type_before_there_are_rows(forms):
    with pytest.raises(QueryError, match="before there are rows"):
        raw_forms(text(events(expressions=["broadcast_arrays(MET_pt, Muon_pt)"])), forms)


def test_the_input_form_is_not_changed(forms):
    before = forms["Events"].to_dict()
    raw_forms(text(QUERIES["everything"]), forms)
    assert forms["Events"].to_dict() == before


def test_queries_of_the_client(forms):
    """Selections that the query objects of the client write."""
    query = q.UprootRaw([{**MUONS, "cut": "MET_pt>20"}, {"copy_histograms": "cutflow"}])
    selection = query.generate_selection_string()
    assert list(raw_forms(selection, forms)) == ["Events"]
    assert parse_selection(selection)[1] == {"copy_histograms": "cutflow"}


# -- columns that uproot understands and cannot make arrays of


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return write_unreadable(tmp_path_factory.mktemp("things") / "things.root")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("what", [{}, {"filter_name": "*"}, {"expressions": ["x", "thing"]}])
@pytest.mark.parametrize("result_format", FORMATS)
def test_columns_that_cannot_be_read_are_refused_before(
    what, result_format, things, servicex, watching, tmp_path
):
    selection = Selection(text(events(**what)), "uproot-raw", result_format, None, "test")
    saved = tmp_path / "form.json"
    saved.write_text(json.dumps(input_form({things: "Events"}, None).to_dict()))
    with uproot.open({things: "Events"}) as tree:
        for given in ({things: "Events"}, tree, str(saved)):
            with pytest.raises(QueryError, match=r"every file would fail.*: 'thing' \(TH1F\)"):
                form_of_selection(selection, given)
    assert isinstance(
        watching(servicex, selection, [things]).wait(0, failure_policy=LENIENT), Failed
    )


@pytest.mark.parametrize("what", [{"filter_name": "x"}, {"filter_typename": "float"}])
@pytest.mark.parametrize("result_format", FORMATS)
def test_the_other_columns_are_delivered(what, result_format, things, servicex, watching):
    selection = Selection(text(events(**what)), "uproot-raw", result_format, None, "test")
    assert form_of_selection(selection, {things: "Events"}).events_form.fields == ["x"]
    assert watching(servicex, selection, [things]).wait(0).n_events == 3


def test_func_adl_reads_the_other_columns(things, servicex, watching):
    everything = select(q.FuncADL_Uproot().FromTree("Events"))
    assert form_of_selection(everything, {things: "Events"}).columns == ["x"]
    assert watching(servicex, everything, [things]).wait(0).n_events == 3


@pytest.mark.parametrize("result_format", FORMATS)
@pytest.mark.parametrize("is_jagged", [False, True])
def test_objects_without_members_are_refused_before(is_jagged, result_format):
    """uproot reads EventInfoAux. of PHYSLITE, and others, as a class without members."""
    empty = ak.forms.RecordForm([], [], parameters={"__record__": "xAOD::AuxInfoBase"})
    column = ak.forms.ListOffsetForm("i64", empty) if is_jagged else empty
    form = ak.forms.RecordForm([column, ak.forms.NumpyForm("float32")], ["EventInfoAux.", "x"])
    selection = Selection(text(events()), "uproot-raw", result_format, None, "test")
    with pytest.raises(QueryError, match=r"'EventInfoAux\.' \("):
        form_of_selection(selection, form)
