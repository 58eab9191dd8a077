"""Columns that point into collections of which the query drops or reorders entries."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import BaseSchema, NanoAODSchema, NanoEventsFactory, PHYSLITESchema
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paces import FAST
from support.schemas import Quiet

from coffea_sx import derive_form
from coffea_sx.cli import main
from coffea_sx.errors import MisdirectedIndices
from coffea_sx.forms.cross_references import misdirected_indices
from coffea_sx.local import LocalServiceX
from coffea_sx.local.codegen import generate_source
from coffea_sx.local.transformer import transform_file
from coffea_sx.query import RESULT_FORMATS

EVENTS = "(call EventDataset 'x' 'Events')"
LISTS = {
    "GenPart": ["pt", "eta", "phi", "mass", "pdgId", "genPartIdxMother"],
    "Muon": ["pt", "eta", "phi", "mass", "charge", "genPartIdx", "jetIdx"],
    "Jet": ["pt", "eta", "phi", "mass", "nConstituents", "svIdx1"],
    "JetPFCands": ["pt"],
    "SV": ["pt"],
}
SCALARS = ["run", "luminosityBlock", "event", "MET_pt", "MET_phi"]


def input_form() -> Any:
    forms = {name: ak.forms.NumpyForm("float32") for name in SCALARS}
    for collection, quantities in LISTS.items():
        for quantity in quantities:
            kind = "int32" if "Idx" in quantity or quantity[0] == "n" else "float32"
            forms[f"{collection}_{quantity}"] = ak.forms.ListOffsetForm(
                "i64", ak.forms.NumpyForm(kind)
            )
    return ak.forms.RecordForm(list(forms.values()), list(forms))


FORM = input_form()


def column(name: str) -> str:
    return f"(subscript e '{name}')"


def where(source: str, condition: str) -> str:
    return f"(call Where {source} (lambda (list g) {condition}))"


def selecting(columns: dict[str, str], source: str = EVENTS) -> str:
    return f"(call Select {source} (lambda (list e) {dict_of(columns)}))"


def whole(*names: str) -> dict[str, str]:
    return {name: column(name) for name in names}


def dict_of(columns: dict[str, str]) -> str:
    return f"(dict (list {' '.join(map(repr, columns))}) (list {' '.join(columns.values())}))"


def zip_of(columns: dict[str, str]) -> str:
    return f"(call Zip {dict_of(columns)})"


def zipped(*quantities: str, collection: str = "GenPart") -> str:
    return zip_of({quantity: column(f"{collection}_{quantity}") for quantity in quantities})


def select(source: str, value: str) -> str:
    return f"(call Select {source} (lambda (list g) {value}))"


PT, ID = column("GenPart_pt"), column("GenPart_pdgId")
HARD = where(PT, "(> g 5)")
INDEX = whole("Muon_genPartIdx")
HARD_GEN = where(zipped("pt", "pdgId"), "(> (attr g 'pt') 5)")
SOME_OF_G = dict_of(
    {"pt": "(attr g 'pt')", "id": "(attr g 'pdgId')", "twice": "(* (attr g 'pt') 2)"}
)
TWICE = f"(call Select {EVENTS} (lambda (list e) (dict (list 'gen' 'i') (list {{}} {{}}))))"

# Queries, and the columns that point to wrong entries.
CUT: dict[str, tuple[str, list[str]]] = {
    "where": (selecting({**INDEX, "GenPart_pt": HARD}), ["Muon_genPartIdx"]),
    "index first": (selecting({"GenPart_pt": HARD, **INDEX}), ["Muon_genPartIdx"]),
    "where of another column": (
        selecting({**INDEX, "GenPart_pt": where(PT, f"(== {ID} 23)")}),
        ["Muon_genPartIdx"],
    ),
    "where twice": (
        selecting({**INDEX, "GenPart_pt": where(HARD, "(< g 50)")}),
        ["Muon_genPartIdx"],
    ),
    "where and computed": (
        selecting({**INDEX, "GenPart_pt": f"(/ {HARD} 1000.0)"}),
        ["Muon_genPartIdx"],
    ),
    "where and a function": (
        selecting({**INDEX, "GenPart_pt": f"(call (attr np 'sqrt') {HARD})"}),
        ["Muon_genPartIdx"],
    ),
    "computed, then where": (
        selecting({**INDEX, "GenPart_pt": where(f"(* {PT} 2)", "(> g 5)")}),
        ["Muon_genPartIdx"],
    ),
    "select, then where": (
        selecting(
            {
                **INDEX,
                "GenPart_pt": where(f"(call Select {PT} (lambda (list h) (* h 2)))", "(> g 5)"),
            }
        ),
        ["Muon_genPartIdx"],
    ),
    "where, then select": (
        selecting({**INDEX, "GenPart_pt": f"(call Select {HARD} (lambda (list h) (* h 2)))"}),
        ["Muon_genPartIdx"],
    ),
    "sorted": (
        selecting({**INDEX, "GenPart_pt": f"(call OrderBy {PT} (lambda (list g) g))"}),
        ["Muon_genPartIdx"],
    ),
    "sorted down": (
        selecting({**INDEX, "GenPart_pt": f"(call OrderByDescending {PT} (lambda (list g) g))"}),
        ["Muon_genPartIdx"],
    ),
    "mask": (
        selecting({**INDEX, "GenPart_pt": f"(subscript {PT} (> {PT} 5))"}),
        ["Muon_genPartIdx"],
    ),
    "zipped": (
        selecting(
            {**INDEX, "GenPart_pt": f"(call Select {HARD_GEN} (lambda (list g) (attr g 'pt')))"}
        ),
        ["Muon_genPartIdx"],
    ),
    "two selects": (
        f"(call Select {TWICE.format(HARD_GEN, INDEX['Muon_genPartIdx'])} (lambda (list x) "
        "(dict (list 'GenPart_pt' 'GenPart_pdgId' 'Muon_genPartIdx') "
        "(list (attr (attr x 'gen') 'pt') (attr (attr x 'gen') 'pdgId') (attr x 'i')))))",
        ["Muon_genPartIdx"],
    ),
    "a record": (selecting({**INDEX, "GenPart": HARD_GEN}), ["Muon_genPartIdx"]),
    "a record, then a dict": (
        selecting({**INDEX, "GenPart": select(HARD_GEN, SOME_OF_G)}),
        ["Muon_genPartIdx"],
    ),
    "a record of columns": (
        selecting(
            {
                **INDEX,
                "GenPart": zip_of({"pt": HARD, "eta": where(column("GenPart_eta"), f"(> {PT} 5)")}),
            }
        ),
        ["Muon_genPartIdx"],
    ),
    "a record, sorted": (
        selecting(
            {**INDEX, "GenPart": f"(call OrderBy {zipped('pt')} (lambda (list g) (attr g 'pt')))"}
        ),
        ["Muon_genPartIdx"],
    ),
    "a record of vectors": (
        selecting(
            {
                **INDEX,
                "GenPart": where(
                    f"(call (attr {zipped('pt', 'eta', 'phi', 'mass')} 'ToFourMomenta'))",
                    "(> (attr g 'pt') 5)",
                ),
            }
        ),
        ["Muon_genPartIdx"],
    ),
    "a record in a record": (
        selecting(
            {
                **INDEX,
                "GenPart": where(
                    zip_of({"p": zipped("pt", "eta"), "pdgId": ID}), "(== (attr g 'pdgId') 23)"
                ),
            }
        ),
        ["Muon_genPartIdx"],
    ),
    "the index in a record": (
        selecting({"Muon": zipped("pt", "genPartIdx", collection="Muon"), "GenPart_pt": HARD}),
        ["Muon_genPartIdx"],
    ),
    "a record with an index of itself": (
        selecting(
            {"GenPart": where(zipped("pt", "genPartIdxMother"), "(> (attr g 'pt') 5)")},
        ),
        ["GenPart_genPartIdxMother"],
    ),
    "a condition that counts others": (
        selecting(
            {
                **INDEX,
                "GenPart_pt": where(
                    PT,
                    f"(== (call Count (call Where {column('Muon_pt')} "
                    "(lambda (list m) (> m g)))) 0)",
                ),
            }
        ),
        ["Muon_genPartIdx"],
    ),
    "events are cut, too": (
        selecting({**INDEX, "GenPart_pt": HARD}, where(EVENTS, "(> (attr g 'MET_pt') 20)")),
        ["Muon_genPartIdx"],
    ),
    "muons are cut, too": (
        selecting(
            {
                "Muon_genPartIdx": where(column("Muon_genPartIdx"), f"(> {column('Muon_pt')} 5)"),
                "GenPart_pt": HARD,
            }
        ),
        ["Muon_genPartIdx"],
    ),
    "a column of itself": (
        selecting(
            {
                "GenPart_pt": HARD,
                "GenPart_genPartIdxMother": where(
                    column("GenPart_genPartIdxMother"), f"(> {PT} 5)"
                ),
            }
        ),
        ["GenPart_genPartIdxMother"],
    ),
    "no reference of the schema": (
        selecting({**whole("Jet_svIdx1"), "SV_pt": where(column("SV_pt"), "(> g 5)")}),
        ["Jet_svIdx1"],
    ),
    "several": (
        selecting(
            {
                **whole("Muon_genPartIdx", "Muon_jetIdx"),
                "GenPart_pt": HARD,
                "Jet_pt": where(column("Jet_pt"), "(> g 5)"),
            }
        ),
        ["Muon_genPartIdx", "Muon_jetIdx"],
    ),
}
FINE = {
    "everything": EVENTS,
    "whole": selecting(whole("Muon_genPartIdx", "GenPart_pt", "GenPart_genPartIdxMother")),
    "events are cut": selecting(
        whole("Muon_genPartIdx", "GenPart_pt"), where(EVENTS, "(> (attr g 'MET_pt') 20)")
    ),
    "events are cut by lists": selecting(
        whole("Muon_genPartIdx", "GenPart_pt"),
        where(
            EVENTS, "(> (call Count (call Where (attr g 'Jet_pt') (lambda (list j) (> j 3)))) 1)"
        ),
    ),
    "the source is cut": selecting(
        {
            "Muon_genPartIdx": where(column("Muon_genPartIdx"), f"(> {column('Muon_pt')} 5)"),
            "Muon_pt": where(column("Muon_pt"), "(> g 5)"),
            **whole("GenPart_pt"),
        }
    ),
    "no index": selecting({"GenPart_pt": HARD, **whole("Muon_pt")}),
    "an index of others": selecting({"GenPart_pt": HARD, **whole("Muon_jetIdx", "Jet_pt")}),
    "no target": selecting({**INDEX, "hard_pt": HARD}),
    "a copy that is cut": selecting({**INDEX, **whole("GenPart_pt"), "hardGen_pt": HARD}),
    "scaled": selecting({**INDEX, "GenPart_pt": f"(/ {PT} 1000.0)"}),
    "select": selecting({**INDEX, "GenPart_pt": f"(call Select {PT} (lambda (list g) (* g 2)))"}),
    "zipped": selecting(
        {
            **INDEX,
            "GenPart_pt": f"(call Select {zipped('pt', 'eta')} (lambda (list g) (attr g 'pt')))",
        }
    ),
    "a record": selecting({**INDEX, "GenPart": zipped("pt", "genPartIdxMother")}),
    "a record, then a dict": selecting(
        {**INDEX, "GenPart": select(zipped("pt", "pdgId"), SOME_OF_G)}
    ),
    "a record of columns": selecting(
        {**INDEX, "GenPart": zip_of({"pt": f"(/ {PT} 1000.0)", "met": column("MET_pt")})}
    ),
    "a record in a record": selecting(
        {**INDEX, "GenPart": zip_of({"p": zipped("pt", "eta"), "pdgId": ID})}
    ),
    "a record of events that are cut": selecting(
        {**INDEX, "GenPart": zipped("pt", "genPartIdxMother")},
        where(EVENTS, "(> (attr g 'MET_pt') 20)"),
    ),
    "a condition on the events of a record": selecting(
        {**INDEX, "GenPart": where(zipped("pt"), f"(> {column('MET_pt')} 20)")}
    ),
    "the first of a record": selecting({**INDEX, "GenPart": f"(call First {HARD_GEN})"}),
    "a record of the source is cut": selecting(
        {
            "Muon": where(zipped("pt", "genPartIdx", collection="Muon"), "(> (attr g 'pt') 5)"),
            "GenPart": zipped("pt", "genPartIdxMother"),
        }
    ),
    "a record of no index": selecting({"GenPart": HARD_GEN, **whole("Muon_pt")}),
    "a record that is a copy": selecting({**INDEX, "GenPart": zipped("pt"), "hardGen": HARD_GEN}),
    "counted": selecting({**INDEX, **whole("GenPart_pt"), "n_hard": f"(call Count {HARD})"}),
    "compared": selecting({**INDEX, **whole("GenPart_pt"), "GenPart_hard": f"(> {PT} 5)"}),
    "conditional": selecting({**INDEX, "GenPart_pt": f"(if (> {PT} 5) {PT} {ID})"}),
    "a condition on events": selecting(
        {**INDEX, "GenPart_pt": where(PT, f"(> {column('MET_pt')} 20)")}
    ),
    "a computed index": selecting(
        {"Muon_genPartIdx": f"(- {column('Muon_genPartIdx')} 1)", "GenPart_pt": HARD}
    ),
}


def sentences_on(query: Any, schemaclass: Any, codegen: str, form: Any = FORM) -> list[str]:
    return misdirected_indices(derive_form(query, form, "parquet", codegen), schemaclass)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("schemaclass", [NanoAODSchema, BaseSchema])
@pytest.mark.parametrize("name", CUT)
def test_indices_into_lists_that_are_cut(name: str, schemaclass: Any) -> None:
    query, expected = CUT[name]
    sentences = sentences_on(query, schemaclass, "uproot")
    assert len(sentences) == len(expected)
    for sentence, index in zip(sentences, expected, strict=True):
        assert f"delivers {index} as in the input" in sentence
        assert "cut it in the analysis, or leave out" in sentence


@pytest.mark.sampled(7)
@pytest.mark.parametrize("schemaclass", [NanoAODSchema, BaseSchema])
@pytest.mark.parametrize("name", FINE)
def test_no_sentence_on_other_queries(name: str, schemaclass: Any) -> None:
    assert sentences_on(FINE[name], schemaclass, "uproot") == []


@pytest.mark.parametrize(
    "made",
    [
        dict_of({**INDEX, "GenPart": HARD_GEN, **whole("MET_pt")}),
        dict_of({"GenPart": select(HARD_GEN, SOME_OF_G)}),
        HARD_GEN,
        where(
            zip_of({"GenPart": zipped("pt", "eta"), "id": ID}),
            "(> (attr (attr g 'GenPart') 'pt') 5)",
        ),
        select(HARD_GEN, dict_of({"GenPart": SOME_OF_G, "all": "g", "pt": "(attr g 'pt')"})),
    ],
)
def test_columns_of_records_have_the_names_in_the_file(made: str) -> None:
    query = f"(call Select {EVENTS} (lambda (list e) {made}))"
    delivered = derive_form(query, FORM, "root-file", "uproot")
    alignment = delivered.alignment[delivered.tree]
    assert list(alignment) == [c for c in delivered.columns if c not in delivered.counters]


@pytest.mark.parametrize("is_cut", ["Jet", "JetPFCands"])
def test_numbers_of_entries_of_another_collection(is_cut: str) -> None:
    """NanoAODSchema gives each jet its number of candidates, in the order of the candidates."""
    columns = whole("Jet_nConstituents", "Jet_pt", "JetPFCands_pt")
    assert sentences_on(selecting(columns), NanoAODSchema, "uproot") == []
    columns[f"{is_cut}_pt"] = where(column(f"{is_cut}_pt"), "(> g 5)")
    (sentence,) = sentences_on(selecting(columns), NanoAODSchema, "uproot")
    assert (
        f"Jet_nConstituents as in the input, and filters or sorts the lists of {is_cut}" in sentence
    )


# -- uproot-raw

GEN = ["GenPart_pt", "GenPart_pdgId", "GenPart_genPartIdxMother"]
RAW_CUT: dict[str, dict[str, Any]] = {
    "lists": {"filter_name": GEN, "cut": "GenPart_pt > 5"},
    "lists by an alias": {
        "expressions": GEN,
        "cut": "hard",
        "aliases": {"hard": "(GenPart_pt > 5) & (MET_pt > 20)"},
    },
    "mask": {
        "expressions": ["GenPart_genPartIdxMother", "GenPart_hard"],
        "aliases": {"GenPart_hard": "GenPart_pt[GenPart_pt > 5]"},
    },
    "the first two": {
        "expressions": ["GenPart_genPartIdxMother", "GenPart_hard"],
        "aliases": {"GenPart_hard": "GenPart_pt[:, :2]"},
    },
    "sorted": {
        "expressions": ["GenPart_genPartIdxMother", "GenPart_hard"],
        "aliases": {"GenPart_hard": "sort(get('GenPart_pt'))"},
    },
    "sorted by indices": {
        "expressions": ["GenPart_genPartIdxMother", "GenPart_hard"],
        "aliases": {"GenPart_hard": "GenPart_pt[argsort(GenPart_pdgId)] * 2"},
    },
}
RAW_FINE: dict[str, dict[str, Any]] = {
    "whole": {"filter_name": GEN},
    "events": {"filter_name": GEN, "cut": "MET_pt > 20"},
    "events by lists": {"filter_name": GEN, "cut": "any(GenPart_pt > 5) & (num(Muon_pt) > 1)"},
    "no index": {"filter_name": GEN[:2], "cut": "GenPart_pt > 5"},
    "scaled": {
        "expressions": ["GenPart_genPartIdxMother", "GenPart_GeV"],
        "aliases": {"GenPart_GeV": "where(GenPart_pt > 5, GenPart_pt / 1000, 0)"},
    },
    "events of a list": {
        "expressions": ["GenPart_genPartIdxMother", "GenPart_some"],
        "aliases": {"GenPart_some": "GenPart_pt[MET_pt > 20]"},
    },
}


def raw(request: dict[str, Any]) -> str:
    return json.dumps([{"treename": "Events", **request}])


@pytest.mark.parametrize("name", RAW_CUT)
def test_raw_queries_that_cut_lists(name: str) -> None:
    (sentence,) = sentences_on(raw(RAW_CUT[name]), NanoAODSchema, "uproot-raw")
    assert "delivers GenPart_genPartIdxMother as in the input" in sentence


@pytest.mark.parametrize("name", RAW_FINE)
def test_no_sentence_on_other_raw_queries(name: str) -> None:
    assert sentences_on(raw(RAW_FINE[name]), NanoAODSchema, "uproot-raw") == []


def test_each_tree_by_itself() -> None:
    cut = {"treename": {"Events": "hard"}, "filter_name": GEN, "cut": "GenPart_pt > 5"}
    both = json.dumps([{"treename": {"Events": "all"}, "filter_name": GEN}, cut])
    delivered = derive_form(both, FORM, "root-file", "uproot-raw")
    assert misdirected_indices(delivered, NanoAODSchema) == []
    assert len(misdirected_indices(delivered.of("hard"), NanoAODSchema)) == 1


# -- links of PHYSLITE

LINK = "AnalysisMuonsAuxDyn.combinedTrackParticleLink.m_persIndex"
TRACK = "CombinedMuonTrackParticlesAuxDyn."
CHILD = "TruthBosonAuxDyn.childLinks.m_persIndex"


def physlite_form() -> Any:
    jagged = ak.forms.ListOffsetForm("i64", ak.forms.NumpyForm("float32"))
    nested = ak.forms.ListOffsetForm("i64", jagged)
    columns = dict.fromkeys(
        (LINK, f"{TRACK}z0", "AnalysisJetsAuxDyn.pt", "TruthMuonsAuxDyn.px"), jagged
    )
    return ak.forms.RecordForm([*columns.values(), nested], [*columns, CHILD])


@pytest.mark.parametrize(
    ("link", "cut", "is_wrong"),
    [
        (LINK, f"{TRACK}z0", True),
        (LINK, "AnalysisJetsAuxDyn.pt", False),
        (CHILD, "TruthMuonsAuxDyn.px", True),
        (CHILD, f"{TRACK}z0", False),
    ],
)
def test_links_of_physlite(link: str, cut: str, is_wrong: bool) -> None:
    query = selecting({link: column(link), cut: where(column(cut), "(> g 1)")})
    sentences = sentences_on(query, PHYSLITESchema, "uproot", physlite_form())
    assert bool(sentences) == is_wrong
    assert all(f"delivers {link} as in the input" in sentence for sentence in sentences)


# -- random queries: there is a sentence if, and only if, entries are dropped or moved


@st.composite
def lists(draw: st.DrawFn, depth: int) -> str:
    """Make lists of particles of the input, whose values are positions."""
    if depth == 0:
        return column("GenPart_pdgId")
    source = draw(lists(depth - 1))
    condition = draw(st.sampled_from(["(> g 1)", "(!= (% g 2) 0)", f"(> {column('MET_pt')} -1)"]))
    kind = draw(st.sampled_from(["where", "sorted", "select", "plus"]))
    if kind == "where":
        return where(source, condition)
    if kind == "sorted":
        return f"(call OrderByDescending {source} (lambda (list g) g))"
    if kind == "select":
        return f"(call Select {source} (lambda (list g) (+ g 0)))"
    return f"(+ {source} 0)"


N_PARTICLES = 4


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of events with four particles each, whose values are their places."""
    path = tmp_path_factory.mktemp("places") / "in.root"
    lists = ak.values_astype(ak.Array([list(range(N_PARTICLES))] * 5), "int32")
    columns = {
        "MET_pt": np.arange(5, dtype="float32"),
        "GenPart_pdgId": lists,
        "Muon_genPartIdx": lists,
    }
    with uproot.recreate(path) as file:
        types = {"MET_pt": "float32", "GenPart_pdgId": lists.type, "Muon_genPartIdx": lists.type}
        file.mktree("Events", types).extend(columns)
    return path


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(lists(3), st.booleans(), st.sampled_from(["column", "record", "where", "select"]))
def test_sentences_are_on_entries_that_moved(
    places: Path, particles: str, cuts_events: bool, kind: str
) -> None:
    source = where(EVENTS, "(> (attr g 'MET_pt') 1)") if cuts_events else EVENTS
    record = zip_of({"pdgId": particles})
    if kind == "where":
        record = where(record, "(> (attr g 'pdgId') 1)")
    elif kind == "select":
        record = select(record, dict_of({"pdgId": "(attr g 'pdgId')"}))
    selected = {"GenPart_pdgId": particles} if kind == "column" else {"GenPart": record}
    query = selecting({**INDEX, **selected}, source)
    sentences = sentences_on(query, NanoAODSchema, "uproot")
    output = str(places.with_name("out.parquet"))
    outcome = transform_file("uproot", generate_source(query), [str(places)], output, "parquet")
    assert not outcome.reason
    # The value of each particle is its place, unless it was moved.
    delivered = ak.from_parquet(output)
    values = delivered.GenPart_pdgId if kind == "column" else delivered.GenPart.pdgId
    entries = values.to_list()
    assert bool(sentences) == (entries != [list(range(N_PARTICLES))] * len(entries))


# -- the whole way from the query to events


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of muons with indices of their generated particles."""
    pts = ak.values_astype(ak.Array([[1.0, 20.0, 30.0], [2.0], [40.0, 3.0]]), "float32")
    index = ak.values_astype(ak.Array([[2], [], [0]]), "int32")
    muon = ak.values_astype(index, "float32")
    columns: dict[str, Any] = {
        "run": np.ones(3, "u4"),
        "luminosityBlock": np.ones(3, "u4"),
        "event": np.arange(3, dtype="u8"),
        "Muon_genPartIdx": index,
        "Muon_charge": index,
        **{f"Muon_{quantity}": muon for quantity in ("pt", "eta", "phi", "mass")},
        **{f"GenPart_{quantity}": pts for quantity in ("pt", "eta", "phi", "mass")},
    }
    path = str(tmp_path_factory.mktemp("generated") / "in.root")
    types = {k: v.type if isinstance(v, ak.Array) else v.dtype for k, v in columns.items()}
    with uproot.recreate(path) as file:
        file.mktree("Events", types).extend(columns)
    return path


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_from_servicex_warns(servicex: LocalServiceX, generated: str, result_format: str) -> None:
    with uproot.open({generated: "Events"}) as tree:
        names = [branch.name for branch in tree.branches if branch.name[0] != "n"]
    gen = [name for name in names if name.startswith("GenPart_")]
    hard = {name: where(column(name), f"(> {column('GenPart_pt')} 5)") for name in gen}
    options = {
        "codegen": "uproot",
        "url": servicex.url,
        "schemaclass": Quiet,
        "result_format": result_format,
    }
    with pytest.warns(
        MisdirectedIndices, match="Muon_genPartIdx as in the input.*GenPart"
    ) as warned:
        cut = NanoEventsFactory.from_servicex(
            selecting({**whole(*names), **hard}), [generated], **{"pace": FAST, **options}
        )
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factory = NanoEventsFactory.from_servicex(
            selecting(whole(*names)), [generated], **{"pace": FAST, **options}
        )
    matched = [
        events.Muon.matched_gen.pt.compute(scheduler="synchronous").to_list()
        for events in (cut.events(), factory.events())
    ]
    assert matched[1] == [[30], [], [40]]
    assert matched[0] != matched[1]


def test_check_prints_the_sentence(
    generated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = whole("run", "luminosityBlock", "event")
    muons = whole(*(f"Muon_{quantity}" for quantity in ("pt", "eta", "phi", "mass", "charge")))
    selection = tmp_path / "selection.txt"
    options = ["--codegen", "uproot", "--input", f"{generated}:Events", "--schema", "BaseSchema"]
    for gen, status in ((HARD, 1), (PT, 0)):
        selection.write_text(selecting({**ids, **muons, **INDEX, "GenPart_pt": gen}))
        assert main(["check", str(selection), *options]) == status
        printed = capsys.readouterr().out
        assert ("delivers Muon_genPartIdx as in the input" in printed) == bool(status)
