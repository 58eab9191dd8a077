"""Skims of NanoAOD that select no counters, whose jets refer to their muons by index."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import uproot
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from coffea_sx.local import LocalServiceX
from support.paces import FAST
from support.strategies import columns

EVENT = ("run", "luminosityBlock", "event")
MUON = tuple(f"Muon_{name}" for name in ("pt", "eta", "phi", "mass", "charge"))
JET = tuple(f"Jet_{name}" for name in ("pt", "eta", "phi", "mass", "muonIdx1", "muonIdx2"))


class WithoutWarnings(NanoAODSchema):
    """Do not warn of cross-references to collections that are not selected."""

    warn_missing_crossrefs = False


def write_jets_with_muons(path: Path, n_events: int = 200) -> str:
    """Write events in which some jets refer to one or two muons of their event, others to none."""
    random = np.random.default_rng(5)
    n_muons, n_jets = random.integers(0, 4, (2, n_events))

    def collection(names: tuple[str, ...], counts: np.ndarray) -> ak.Array:
        values = {
            name.partition("_")[2]: random.exponential(30, counts.sum()).astype(np.float32)
            for name in names
        }
        return ak.unflatten(ak.zip(values), counts)

    jets, muons = collection(JET, n_jets), collection(MUON, n_muons)
    muons["charge"] = ak.values_astype(ak.where(muons.pt > 20, 1, -1), np.int32)
    n_muons_of_jet = np.repeat(n_muons, n_jets)
    first = np.where(random.random(n_jets.sum()) < 0.5, n_muons_of_jet, 0) - 1
    jets["muonIdx1"] = ak.unflatten(first.astype(np.int32), n_jets)
    second = np.where(first > 0, 0, -1)
    jets["muonIdx2"] = ak.unflatten(second.astype(np.int32), n_jets)
    numbers = np.arange(n_events)
    events = {
        "run": np.ones(n_events, np.uint32),
        "luminosityBlock": np.ones(n_events, np.uint32),
        "event": numbers.astype(np.uint64),
        "Muon": muons,
        "Jet": jets,
    }
    with uproot.recreate(path) as file:
        types = {name: ak.Array(column).type.content for name, column in events.items()}
        file.mktree("Events", types).extend(events)
    return str(path)


def assert_jets_have_their_muons(servicex: LocalServiceX, path: str) -> None:
    """Compare the muons of jets in a skim without counters with those of the whole file."""
    factory = NanoEventsFactory.from_servicex(
        columns(*EVENT, *MUON, *JET),
        [path],
        codegen="uproot",
        url=servicex.url,
        schemaclass=WithoutWarnings,
        pace=FAST,
    )
    events = factory.events()
    source = NanoEventsFactory.from_root(
        {path: "Events"}, mode="eager", schemaclass=WithoutWarnings
    )
    expected = source.events().Jet
    muons = events.Jet.matched_muons.pt.compute(scheduler="synchronous")
    assert ak.any(ak.num(muons[~ak.is_none(muons, axis=2)], axis=2) > 0)
    assert muons.to_list() == expected.matched_muons.pt.to_list()
    charges = events.Jet.charge.compute(scheduler="synchronous")
    assert charges.to_list() == expected.charge.to_list()
