"""The derived form is the form of the files that a server delivers."""

from __future__ import annotations

import re

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from servicex import query as q

from coffea_sx._upstream.coffea import is_interpretable
from coffea_sx.errors import QueryError, UnknownColumn
from coffea_sx.forms import derive_form
from coffea_sx.forms.derivation import form_of_selection
from coffea_sx.forms.file_forms import DOCUMENTATION, read_forms
from coffea_sx.forms.input_form import input_form
from coffea_sx.forms.writers import TREE
from coffea_sx.policy import LENIENT
from coffea_sx.polling.outcomes import Failed
from coffea_sx.query import select
from coffea_sx.storage.filesystem import address


def events():
    return q.FuncADL_Uproot().FromTree("Events")


QUERIES = {
    "flat": events().Select(lambda e: {"run": e["run"], "event": e["event"], "met": e.MET_pt}),
    "jagged": events().Select(lambda e: {"pt": e["Muon_pt"], "q": e["Muon_charge"]}),
    "with a counter": events().Select(lambda e: {"nMuon": e.nMuon, "Muon_pt": e.Muon_pt}),
    "cut": events().Where(lambda e: e.MET_pt > 25).Select(lambda e: {"pt": e["Jet_pt"]}),
    "nothing passes": events().Where(lambda e: e.MET_pt < 0).Select(lambda e: {"pt": e["Jet_pt"]}),
    "counted": events()
    .Where(lambda e: e["Muon_pt"].Count() >= 2)
    .Select(lambda e: {"n": e["Muon_pt"].Count(), "pt": e["Muon_pt"]}),
    "scaled": events().Select(
        lambda e: {"met": e.MET_pt / 1000.0, "pt": e.Muon_pt / 1000.0, "n": e.nMuon * 2}
    ),
    "sum": events().Select(lambda e: {"sum": e["Muon_pt"].Sum()}),
    "inner cut": events().Select(lambda e: {"pt": e["Muon_pt"].Where(lambda pt: pt > 20)}),
    "inner select": events().Select(lambda e: {"pt": e["Muon_pt"].Select(lambda pt: pt * 1000)}),
    "bool": events().Select(lambda e: {"hard": e.MET_pt > 25, "are": e["Muon_pt"] > 20}),
    "twice": events()
    .Select(lambda e: {"a": e.MET_pt, "b": e["Muon_pt"]})
    .Select(lambda x: {"c": x["a"], "d": x["b"]}),
    "tuple": events().Select(lambda e: (e["MET_pt"], e["Muon_pt"])),
    "mixed types": events().Select(
        lambda e: {
            "sum": e["Muon_pt"] + e["MET_pt"],
            "run": e["run"] + 1,
            "event": e["event"] - 1,
            "charge": e["Muon_charge"] * 1.5,
        }
    ),
    "first": events().Where(lambda e: e.nMuon > 0).Select(lambda e: {"pt": e.Muon_pt.First()}),
    "choice": events().Select(lambda e: {"hard": 1 if e["MET_pt"] > 25 else 0}),
    "nested": events().Select(lambda e: {"muon": {"pt": e["Muon_pt"]}}),
    "everything": events(),
}
# Every file of such a query fails on the server, so the query is refused before.
REFUSED = {
    "single column": events().Select(lambda e: e["MET_pt"]),
    "flattened": events().SelectMany(lambda e: e["Muon_pt"]),
    "options": events().Select(lambda e: {"max": e["Muon_pt"].Max()}),
    "lists in records": events().Select(
        lambda e: {"muon": {"pt": e["Muon_pt"], "eta": e["Muon_eta"]}}
    ),
    "unknown column": events().Select(lambda e: {"n": e["nMuno"]}),
}


@pytest.fixture(scope="module")
def form(nano_files):
    return input_form({nano_files[0]: "Events"}, None)


def form_of(path, tree):
    """Read the form of a tree from the file itself, with the options of coffea."""
    forms = []

    def keep(form):
        forms.append(form)
        return uproot._dask.TrivialFormMapping()(form)

    uproot.dask(
        {path: tree},
        full_paths=True,
        ak_add_doc=DOCUMENTATION,
        filter_branch=is_interpretable,
        form_mapping=keep,
    )
    return forms[0]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", QUERIES)
def test_the_derived_form_is_the_delivered_one(name, form, servicex, watching, nano_files):
    selection = select(QUERIES[name])
    derived = form_of_selection(selection, form)
    poller = watching(servicex, selection, nano_files[:1])
    delivered = poller.wait(0)
    where = address(poller.address.request_id, delivered.object_name)
    with uproot.open({where: None}) as file:
        assert file.keys(cycle=False) == [derived.tree]
        tree = file[derived.tree]
        found = form_of(where, derived.tree)
        assert derived.columns == tree.keys(full_paths=True)
        assert [c.to_dict() for c in derived.base_form.contents] == [
            c.to_dict() for c in found.contents
        ]
        assert derived.base_form == found
        assert delivered.n_events == tree.num_entries
        titles = [content.parameters["__doc__"] for content in derived.base_form.contents]
        assert titles == [tree[column].title for column in derived.columns]


@pytest.mark.parametrize("name", REFUSED)
def test_queries_that_fail_for_every_file_are_refused(name, form, servicex, watching, nano_files):
    selection = select(REFUSED[name])
    with pytest.raises(QueryError):
        form_of_selection(selection, form)
    poller = watching(servicex, selection, nano_files[:1])
    assert isinstance(poller.wait(0, failure_policy=LENIENT), Failed)


@pytest.mark.parametrize(
    ("name", "what_to_change"),
    [
        ("single column", "Name the columns"),
        ("options", r"'max' of the result, of type \?float32.*result_format=.parquet.*ak\.max"),
        ("lists in records", r"'muon' of the result.*Select columns side by side"),
    ],
)
def test_errors_of_the_writer_say_what_to_change(name, what_to_change, form):
    with pytest.raises(QueryError, match=re.compile(what_to_change, re.DOTALL)):
        form_of_selection(select(REFUSED[name]), form)


@pytest.mark.parametrize(
    ("queries", "what_to_change"),
    [
        (
            [{"treename": "Events", "expressions": ["max(Muon_pt)"]}],
            r"fill_none\(max\(Muon_pt\), -1\)",
        ),
        ([{"copy_histograms": "*"}], "reads no tree"),
        ([{"treename": "Events;1"}], r'name it yourself, .*"Events;1": "Events"'),
    ],
)
def test_raw_queries_say_what_to_change(queries, what_to_change, nano_files):
    with pytest.raises(QueryError, match=what_to_change):
        derive_form(q.UprootRaw(queries), nano_files[0])


def test_coffea_sees_the_same_events(form, servicex, watching, nano_files):
    """Events of the delivered file, opened by coffea itself, have the derived type."""
    selection = select(QUERIES["mixed types"])
    derived = form_of_selection(selection, form)
    poller = watching(servicex, selection, nano_files[:1])
    where = address(poller.address.request_id, poller.wait(0).object_name)
    events = NanoEventsFactory.from_root(
        {where: TREE}, schemaclass=BaseSchema, mode="dask"
    ).events()
    assert set(events.fields) == set(derived.columns)
    for column in events.fields:
        expected = ak.Array(derived.base_form.content(column).length_zero_array(highlevel=False))
        found = events[column]._meta.layout.form.length_zero_array(highlevel=False)
        assert str(bare(expected).type) == str(bare(ak.Array(found)).type), column


def bare(array):
    return ak.without_parameters(array)


# -- odd input files


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    """Trees of two cycles, trees in directories, and a column that uproot cannot read."""
    directory = tmp_path_factory.mktemp("odd")
    numbers = {"float32": np.arange(3, dtype="float32"), "float64": np.arange(5, dtype="float64")}
    trees = {
        "cycles": [("Events", "float32"), ("Events", "float64")],
        "directories": [("dir/Events", "float32"), ("dir/sub/Events", "float64")],
    }
    for file_name, written in trees.items():
        with uproot.recreate(directory / f"{file_name}.root") as file:
            for name, dtype in written:
                file.mktree(name, {"x": dtype}).extend({"x": numbers[dtype]})
    path = directory / "uninterpretable.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "float64", "y": "float32"}).extend(
            {"x": np.arange(3.0), "y": np.arange(3, dtype="float32")}
        )
    path.write_bytes(path.read_bytes().replace(b"TLeafD", b"TLeafQ"))
    return {path.stem: str(path) for path in directory.iterdir()}


@pytest.mark.parametrize("is_raw", [False, True], ids=["func_adl", "raw"])
@pytest.mark.parametrize(
    ("file", "tree", "column", "type_"),
    [
        ("cycles", "Events", "x", "float64"),
        ("cycles", "Events;1", "x", "float32"),
        ("directories", "dir/Events", "x", "float32"),
        ("directories", "/dir/Events", "x", "float32"),
        ("directories", "dir/sub/Events", "x", "float64"),
        ("uninterpretable", "Events", "y", "float32"),
    ],
)
def test_odd_files(file, tree, column, type_, is_raw, odd_files, servicex, watching):
    path = odd_files[file]
    if is_raw:
        output = tree.strip("/").partition(";")[0]
        query = q.UprootRaw([{"treename": {tree: output}, "filter_name": [column]}])
    else:
        query = q.FuncADL_Uproot().FromTree(tree).Select(lambda e: {"x": e[column]})
    selection = select(query)
    derived = form_of_selection(selection, path)
    (form,) = derived.base_form.contents
    assert form.primitive == type_
    poller = watching(servicex, selection, [path])
    where = address(poller.address.request_id, poller.wait(0).object_name)
    assert read_forms(where, "root-file") == derived.trees


@pytest.mark.parametrize("is_raw", [False, True], ids=["func_adl", "raw"])
def test_a_column_that_uproot_cannot_read_is_left_out(is_raw, odd_files):
    query = (
        q.UprootRaw([{"treename": "Events", "expressions": ["x"]}])
        if is_raw
        else q.FuncADL_Uproot().FromTree("Events").Select(lambda e: {"x": e["x"]})
    )
    with pytest.raises(UnknownColumn, match="It has 'y'"):
        derive_form(query, odd_files["uninterpretable"])


def test_other_codegens_need_a_form(form):
    with pytest.raises(QueryError, match="form="):
        form_of_selection(select("text", codegen="python"), form)
