"""A schema and columns of NanoAOD for tests."""

from __future__ import annotations

from coffea.nanoevents import NanoAODSchema

EVENT_IDS = ["run", "luminosityBlock", "event"]
MUON = [f"Muon_{name}" for name in ("pt", "eta", "phi", "mass", "charge")]


class Quiet(NanoAODSchema):
    """A NanoAOD schema that does not warn of missing collections."""

    warn_missing_crossrefs = False
