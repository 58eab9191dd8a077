"""Columns that collections of events need, and that the query does not deliver."""

from __future__ import annotations

from typing import Any

import pytest
from coffea.nanoevents import BaseSchema
from servicex import query
from support.schemas import EVENT_IDS, MUON, Quiet
from support.strategies import columns

from coffea_sx import OutputForm, derive_form
from coffea_sx.forms.mapping import form_mapping
from coffea_sx.forms.requirements import unmet_requirements


@pytest.fixture(scope="module")
def derive(nano_files: list[str]) -> Any:
    def derived(*names: str) -> Any:
        return derive_form(columns(*names), {nano_files[0]: "Events"}, codegen="uproot")

    return derived


def requirements(output_form: OutputForm, schemaclass: Any = Quiet) -> list[str]:
    return unmet_requirements(output_form, form_mapping(output_form, schemaclass))


def test_nothing_is_missing_of_whole_collections(derive: Any) -> None:
    assert requirements(derive(*EVENT_IDS, *MUON, "MET_pt", "MET_phi")) == []


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
        # the schema makes the charge of jets from a counter
        (["Jet_pt", "Jet_eta", "Jet_phi", "Jet_mass"], []),
    ],
)
def test_columns_that_behaviours_need_are_named(
    derive: Any, names: list[str], sentences: list[str]
) -> None:
    assert requirements(derive(*EVENT_IDS, *names)) == sentences


def test_a_collection_with_the_named_columns_can_be_used(derive: Any) -> None:
    (sentence,) = requirements(derive(*EVENT_IDS, "Muon_pt"))
    missing = ["Muon_charge", "Muon_phi", "Muon_eta", "Muon_mass"]
    assert all(name in sentence for name in missing)
    assert requirements(derive(*EVENT_IDS, "Muon_pt", *missing)) == []


def test_a_column_that_the_writer_replaces(nano_files: list[str]) -> None:
    clash = (
        query.FuncADL_Uproot()
        .FromTree("Events")
        .Select(lambda e: {"nMuon_pt": e["nJet"], "Muon_pt": e["Muon_pt"]})
    )
    delivered = derive_form(clash, {nano_files[0]: "Events"})
    assert delivered.clashes == ("nMuon_pt",)
    (sentence,) = requirements(delivered, BaseSchema)
    assert sentence.startswith("'nMuon_pt' counts the entries of 'Muon_pt'")
    in_parquet = derive_form(clash, {nano_files[0]: "Events"}, "parquet")
    assert in_parquet.clashes == ()
