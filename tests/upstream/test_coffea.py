"""Canaries for private API of coffea: each fails by name when coffea changes it."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask_awkward as dak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import BaseSchema, NanoAODSchema, PHYSLITESchema

from coffea_sx._upstream import coffea

DOCUMENTATION = {"__doc__": "title", "typename": "typename"}
JAGGED = ak.forms.ListOffsetForm("i64", ak.forms.NumpyForm("float32"))


def events_form(schemaclass: Any, **columns: Any) -> Any:
    """Return the form of events that a schema makes of columns."""
    documented = [
        form.copy(parameters=dict.fromkeys(DOCUMENTATION, "")) for form in columns.values()
    ]
    form = ak.forms.RecordForm(documented, list(columns), parameters={"__doc__": ""})
    mapping = coffea.SchemaMapping(
        schemaclass=schemaclass, behavior={}, metadata=None, version="latest"
    )
    form, _ = mapping(form)
    return form


class Quiet(NanoAODSchema):
    """A NanoAOD schema that needs no event numbers, and no collection to point into."""

    warn_missing_crossrefs = False
    event_ids: list[str] = []


def counter() -> Any:
    return ak.forms.NumpyForm("int32")


def test_schema_mapping(tmp_path: Path) -> None:
    path = str(tmp_path / "events.root")
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "float64", "y": "var * int32"}).extend(
            {"x": np.arange(3.0), "y": ak.Array([[1, 2], [], [3]])}
        )
    mapping = coffea.SchemaMapping(
        schemaclass=BaseSchema, behavior={}, metadata={"sample": "dy"}, version="latest"
    )
    options: dict[str, Any] = {"full_paths": True, "ak_add_doc": DOCUMENTATION}
    events = uproot.dask({path: "Events"}, form_mapping=mapping, **options)
    array = events.compute(scheduler="synchronous")
    assert array.x.to_list() == [0, 1, 2]
    assert array.y.to_list() == [[1, 2], [], [3]]
    assert array.layout.parameters["metadata"] == {"sample": "dy"}


def test_lazy_form() -> None:
    form = coffea.lazy_form(JAGGED, "Muon_pt,!load", "transverse momentum", "float[]")
    assert form["form_key"] == coffea.form_key("Muon_pt,!load")
    assert form["content"]["form_key"] == coffea.form_key("Muon_pt,!load,!content")
    assert form["content"]["parameters"] == {
        "__doc__": "transverse momentum",
        "typename": "float[]",
    }


def test_form_key_and_loaded_column() -> None:
    loaded = ak.forms.NumpyForm("int32", form_key=coffea.form_key("a/b,!load,!content"))
    assert "/" not in loaded.form_key
    assert coffea.loaded_column(loaded) == "a/b"
    calculated = loaded.copy(form_key=coffea.form_key("a,!item"))
    assert coffea.loaded_column(calculated) is None


def test_loaded_column_of_a_collection() -> None:
    events = events_form(Quiet, nMuon=counter(), Muon_pt=JAGGED)
    muon = events.content("Muon")
    assert coffea.loaded_column(muon) == "nMuon"
    assert coffea.loaded_column(muon.content.content("pt")) == "Muon_pt"


@pytest.mark.parametrize(("leaf", "expected"), [(b"TLeafD", True), (b"TLeafQ", False)])
def test_is_interpretable(leaf: bytes, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "events.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "float64"})
    path.write_bytes(path.read_bytes().replace(b"TLeafD", leaf))
    with uproot.open({str(path): "Events"}) as tree:
        assert coffea.is_interpretable(tree["x"], warns=False) == expected
        if not expected:
            with pytest.warns(UserWarning, match="Skipping x"):
                coffea.is_interpretable(tree["x"])


def test_supports_dask() -> None:
    assert coffea.supports_dask(NanoAODSchema)
    assert coffea.supports_dask(type("Own", (BaseSchema,), {}))
    assert not coffea.supports_dask(dict)


def test_cross_references() -> None:
    assert coffea.cross_references(Quiet)["Jet_muonIdx1"] == "Muon"
    index = ak.forms.ListOffsetForm("i64", ak.forms.NumpyForm("int32"))
    columns = {"nJet": counter(), "Jet_pt": JAGGED, "Jet_muonIdx1": index, "Muon_pt": JAGGED}
    jet = events_form(Quiet, nMuon=counter(), **columns).content("Jet").content
    assert "muonIdx1G" in jet.fields
    without_counter = events_form(Quiet, **columns).content("Jet").content
    assert "muonIdx1G" not in without_counter.fields


def test_nested_counts() -> None:
    assert ("Jet_nConstituents", "JetPFCands") in coffea.nested_counts(Quiet)
    index = ak.forms.ListOffsetForm("i64", ak.forms.NumpyForm("int32"))
    columns = {"nJet": counter(), "Jet_nConstituents": index, "nJetPFCands": counter()}
    jet = events_form(Quiet, **columns, JetPFCands_pt=JAGGED).content("Jet").content
    assert "pFCandsIdxG" in jet.fields


def test_filled_columns() -> None:
    assert coffea.filled_columns(Quiet)["Jet_charge"] == "Jet"
    jet = events_form(Quiet, nJet=counter(), Jet_pt=JAGGED).content("Jet").content
    assert jet.fields == ["pt", "charge"]


def test_mixin() -> None:
    assert coffea.mixin(NanoAODSchema, "FatJet") == "FatJet"
    assert coffea.mixin(PHYSLITESchema, "TruthMuons") == "TruthParticle"
    assert coffea.mixin(PHYSLITESchema, "Nothing") is None


def test_truth_collections() -> None:
    assert "TruthMuons" in coffea.truth_collections(PHYSLITESchema)


def make_events(n_events: int, form_mapping: Any) -> Any:
    return dak.from_awkward(ak.Array({form_mapping: list(range(n_events))}), npartitions=1)


def test_a_dask_events_factory_calls_its_source_with_the_form_mapping() -> None:
    factory = coffea.DaskEventsFactory._of("x", source := partial(make_events, 3))
    assert (factory._source, factory._form_mapping) == (source, "x")
    events = factory.events()
    assert isinstance(events, dak.Array)
    assert events.x.compute(scheduler="synchronous").to_list() == [0, 1, 2]


def test_a_dask_events_factory_keeps_its_source_when_it_is_pickled() -> None:
    factory = pickle.loads(pickle.dumps(coffea.DaskEventsFactory._of("x", partial(make_events, 2))))
    assert len(factory.events().x.compute(scheduler="synchronous")) == 2


@pytest.mark.parametrize("cached", [False, True])
def test_column_events_factory(cached: bool) -> None:
    reads: list[str] = []

    class Column:
        def __init__(self, name: str, array: Any) -> None:
            self._name, self._array = name, array

        def __getitem__(self, events: slice) -> Any:
            assert events == slice(0, 3)
            reads.append(self._name)
            return self._array

    arrays = {"x": ak.Array(np.arange(3.0)), "Muon_pt": ak.Array([[1.0, 2.0], [], [3.0]])}
    form = events_form(BaseSchema, **{name: array.layout.form for name, array in arrays.items()})
    columns = {name: Column(name, array) for name, array in arrays.items()}
    log: list[Any] = []
    cache: dict[str, Any] | None = {} if cached else None
    factory = coffea.ColumnEventsFactory.of(
        form, BaseSchema.behavior(), columns, 3, "id", access_log=log, buffer_cache=cache
    )
    events = factory.events()
    assert (len(events), reads, log) == (3, [], [])
    assert events.Muon_pt.to_list() == [[1, 2], [], [3]]
    assert set(reads) == {access.branch for access in log} == {"Muon_pt"}
    assert factory.access_log is log
    assert bool(cache) is cached
    assert events.x.to_list() == [0, 1, 2]
