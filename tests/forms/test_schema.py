"""What coffea makes of delivered columns, before any is delivered."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from coffea.nanoevents import (
    BaseSchema,
    NanoAODSchema,
    NanoEventsFactory,
    PFNanoAODSchema,
)
from servicex import query
from support.skims import assert_jets_have_their_muons, write_jets_with_muons

from coffea_sx import derive_form
from coffea_sx.errors import BadInput, FormError
from coffea_sx.forms.schema import form_mapping, missing
from coffea_sx.local import LocalServiceX


class Quiet(NanoAODSchema):
    """Says nothing of collections that are not there."""

    warn_missing_crossrefs = False


IDS = ["run", "luminosityBlock", "event"]


def selecting(*names: str) -> Any:
    """Make a query of columns by their names."""
    pairs = [f"(subscript e '{name}')" for name in names]
    return (
        "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) (dict (list "
        + " ".join(map(repr, names))
        + ") (list "
        + " ".join(pairs)
        + "))))"
    )


@pytest.fixture(scope="module")
def derive(nano_files: list[str]) -> Any:
    def derived(*names: str) -> Any:
        return derive_form(selecting(*names), {nano_files[0]: "Events"}, codegen="uproot")

    return derived


def test_nothing_is_missing_of_whole_collections(derive: Any) -> None:
    muon = [f"Muon_{name}" for name in ("pt", "eta", "phi", "mass", "charge")]
    delivered = derive(*IDS, *muon, "MET_pt", "MET_phi")
    assert missing(delivered, form_mapping(delivered, Quiet)) == []


@pytest.mark.parametrize(
    ("names", "sentences"),
    [
        (["MET_pt"], ["events.MET needs MET_phi: add that to the query."]),
        (
            ["Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass"],
            ["events.Muon needs Muon_charge: add that to the query."],
        ),
        (
            ["Electron_pt"],
            [
                "events.Electron needs Electron_charge, Electron_phi, Electron_eta and "
                "Electron_mass: add that to the query."
            ],
        ),
        # the schema itself makes the charge of jets, of a counter that it is given
        (["Jet_pt", "Jet_eta", "Jet_phi", "Jet_mass"], []),
    ],
)
def test_what_behaviours_miss_is_named(derive: Any, names: list[str], sentences: list[str]) -> None:
    delivered = derive(*IDS, *names)
    assert missing(delivered, form_mapping(delivered, Quiet)) == sentences


def test_what_is_named_is_what_coffea_misses(derive: Any) -> None:
    delivered = derive(*IDS, "Muon_pt")
    mapping = form_mapping(delivered, Quiet)
    (sentence,) = missing(delivered, mapping)
    wanted = ["Muon_charge", "Muon_phi", "Muon_eta", "Muon_mass"]
    assert all(name in sentence for name in wanted)
    whole = derive(*IDS, "Muon_pt", *wanted)
    assert missing(whole, form_mapping(whole, Quiet)) == []


def test_event_ids_are_asked_for(derive: Any) -> None:
    with pytest.raises(FormError, match="Quiet needs luminosityBlock and event, which the query"):
        form_mapping(derive("run", "MET_pt", "MET_phi"), Quiet)


def test_a_column_that_the_writer_replaces(nano_files: list[str]) -> None:
    clash = (
        query.FuncADL_Uproot()
        .FromTree("Events")
        .Select(lambda e: {"nMuon_pt": e["nJet"], "Muon_pt": e["Muon_pt"]})
    )
    delivered = derive_form(clash, {nano_files[0]: "Events"})
    assert delivered.clashes == ("nMuon_pt",)
    (sentence,) = missing(delivered, form_mapping(delivered, BaseSchema))
    assert sentence.startswith("'nMuon_pt' counts the entries of 'Muon_pt'")
    in_parquet = derive_form(clash, {nano_files[0]: "Events"}, "parquet")
    assert in_parquet.clashes == ()


@pytest.mark.parametrize("schemaclass", [BaseSchema, Quiet, PFNanoAODSchema])
@pytest.mark.filterwarnings("ignore:Missing cross-reference:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_schema_gives_what_it_gives_of_the_file(
    derive: Any, schemaclass: Any, servicex: LocalServiceX, nano_files: list[str], tmp_path: Path
) -> None:
    from coffea_sx.forms.writers import write

    names = [*IDS, "Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass", "Muon_charge", "nMuon"]
    derived, _ = form_mapping(derive(*names), schemaclass)(derive(*names).base_form)
    import uproot

    path = str(tmp_path / "delivered.root")
    with uproot.open({nano_files[0]: "Events"}) as tree:
        write(tree.arrays(names), path, "root-file")
    of_file = NanoEventsFactory.from_root(
        {path: "servicex"}, mode="dask", schemaclass=schemaclass
    ).events()
    assert derived == of_file.layout.form


def test_a_schema_that_is_none(derive: Any) -> None:
    with pytest.raises(BadInput, match="does not work in dask mode"):
        form_mapping(derive("MET_pt"), dict)


def test_a_schema_that_fails(derive: Any) -> None:
    class Broken(BaseSchema):
        def __init__(self, base_form: Any, version: str = "latest") -> None:
            raise RuntimeError("no jets, no schema")

    with pytest.raises(FormError, match=r"Broken cannot make events.*no jets, no schema"):
        form_mapping(derive("MET_pt"), Broken)


def test_no_schema_writes_into_what_it_is_given(derive: Any) -> None:
    """coffea's do: NanoAODSchema gives a list of its own a behaviour where it stands."""

    class Scribbling(BaseSchema):
        def __init__(self, base_form: Any, version: str = "latest") -> None:
            def scribble(form: dict[str, Any]) -> None:
                form.setdefault("parameters", {})["__array__"] = "Scribble"
                for inner in (form.get("content"), *form.get("contents", ())):
                    if inner is not None:
                        scribble(inner)

            for content in base_form["contents"]:
                scribble(content)
            super().__init__(base_form)

    delivered = derive(*IDS, "Muon_pt", "MET_pt")
    before = delivered.base_form.to_json()
    mapping = form_mapping(delivered, Scribbling)
    missing(delivered, mapping)
    mapping(delivered.events_form)
    assert delivered.base_form.to_json() == before


def test_a_mapping_can_be_pickled(derive: Any) -> None:
    import cloudpickle

    mapping = form_mapping(derive(*IDS, "Jet_pt"), Quiet, {"dataset": "dy"})
    again = pickle.loads(cloudpickle.dumps(mapping))
    assert again.metadata["dataset"] == "dy"
    assert again.schemaclass == mapping.schemaclass


@pytest.mark.filterwarnings("ignore:Branch .* already exists:RuntimeWarning")
def test_cross_references_of_a_skim_without_counters(
    servicex: LocalServiceX, tmp_path: Path
) -> None:
    """Jets find their muons though no counter is selected."""
    assert_jets_have_their_muons(servicex, write_jets_with_muons(tmp_path / "nano.root"))
