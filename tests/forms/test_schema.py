"""coffea's schemas on delivered columns: the same events as of an opened file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import uproot
from coffea.nanoevents import (
    BaseSchema,
    NanoEventsFactory,
    PFNanoAODSchema,
)
from support.schemas import EVENT_IDS, MUON, Quiet
from support.skims import assert_jets_have_their_muons, write_jets_with_muons
from support.strategies import columns

from coffea_sx import derive_form
from coffea_sx.forms.mapping import form_mapping
from coffea_sx.forms.schema import collection_columns
from coffea_sx.forms.writers import write
from coffea_sx.local import LocalServiceX


@pytest.fixture(scope="module")
def derive(nano_files: list[str]) -> Any:
    def derived(*names: str) -> Any:
        return derive_form(columns(*names), {nano_files[0]: "Events"}, codegen="uproot")

    return derived


@pytest.mark.parametrize("schemaclass", [BaseSchema, Quiet, PFNanoAODSchema])
@pytest.mark.filterwarnings("ignore:Missing cross-reference:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_events_are_those_of_the_opened_file(
    derive: Any, schemaclass: Any, servicex: LocalServiceX, nano_files: list[str], tmp_path: Path
) -> None:
    names = [*EVENT_IDS, *MUON, "nMuon"]
    derived, _ = form_mapping(derive(*names), schemaclass)(derive(*names).base_form)
    path = str(tmp_path / "delivered.root")
    with uproot.open({nano_files[0]: "Events"}) as tree:
        write(tree.arrays(names), path, "root-file")
    of_file = NanoEventsFactory.from_root(
        {path: "servicex"}, mode="dask", schemaclass=schemaclass
    ).events()
    assert derived == of_file.layout.form


def test_columns_of_a_collection_and_what_counts_them(derive: Any) -> None:
    derived = derive(*EVENT_IDS, *MUON, "nMuon", "MET_pt")
    events = form_mapping(derived, Quiet).events_form(derived)
    assert collection_columns(events) == (("nMuon", *MUON),)


@pytest.mark.filterwarnings("ignore:Branch .* already exists:RuntimeWarning")
def test_cross_references_of_a_skim_without_counters(
    servicex: LocalServiceX, tmp_path: Path
) -> None:
    """Jets find their muons though no counter is selected."""
    assert_jets_have_their_muons(servicex, write_jets_with_muons(tmp_path / "nano.root"))
