"""Analysis of the demo: a query and a coffea processor.

The processor is independent of the source of the events.
"""

from __future__ import annotations

from typing import Any

import awkward as ak
import hist
from coffea import processor
from coffea.nanoevents import NanoAODSchema


class SelectionSchema(NanoAODSchema):
    """NanoAOD without warnings of collections that the selection does not contain."""

    warn_missing_crossrefs = False


def dimuon_query() -> Any:
    """Return the query: events with at least two muons, the columns that the processor needs."""
    from servicex import query

    return (
        query.FuncADL_Uproot()
        .FromTree("Events")
        .Where(lambda event: event["nMuon"] >= 2)
        .Select(
            lambda event: {
                "run": event["run"],
                "luminosityBlock": event["luminosityBlock"],
                "event": event["event"],
                "Muon_pt": event["Muon_pt"],
                "Muon_eta": event["Muon_eta"],
                "Muon_phi": event["Muon_phi"],
                "Muon_mass": event["Muon_mass"],
                "Muon_charge": event["Muon_charge"],
                "nJet": event["nJet"],  # the schema needs it for Jet.charge
                "Jet_pt": event["Jet_pt"],
                "Jet_eta": event["Jet_eta"],
                "Jet_phi": event["Jet_phi"],
                "Jet_mass": event["Jet_mass"],
            }
        )
    )


class DimuonProcessor(processor.ProcessorABC):
    """Dimuon mass and jet multiplicity of events with two muons of opposite charge."""

    def process(self, events: Any) -> dict[str, Any]:
        """Fill the histograms of events; in dask mode, these may not exist yet."""
        muons = events.Muon[(events.Muon.pt > 10) & (abs(events.Muon.eta) < 2.4)]
        is_pair = (ak.num(muons) == 2) & (ak.sum(muons.charge, axis=1) == 0)
        pairs = muons[is_pair]
        new = _new_histogram(events)
        jets = events.Jet[(events.Jet.pt > 30) & (abs(events.Jet.eta) < 4.7)]
        mass = (
            new.Reg(60, 20, 140, name="mass", label=r"$m_{\mu\mu}$ [GeV]")
            .Double()
            .fill(mass=(pairs[:, 0] + pairs[:, 1]).mass)
        )
        n_jets = (
            new.Integer(0, 8, name="n_jets", label="jets")
            .Double()
            .fill(n_jets=ak.num(jets)[is_pair])
        )
        return {"mass": mass, "n_jets": n_jets}

    def postprocess(self, accumulator: Any) -> Any:
        """Return the histograms as they are."""
        return accumulator


def _new_histogram(events: Any) -> Any:
    """Return the builder of histograms for events: those of dask are filled when computed."""
    if isinstance(events, ak.Array):
        return hist.Hist.new
    from hist import dask

    return dask.Hist.new
