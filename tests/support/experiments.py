"""Files with the columns of other experiments than CMS, and a schema that coffea does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from coffea.nanoevents import (
    BaseSchema,
    DelphesSchema,
    PHYSLITESchema,
    ScoutingNanoAODSchema,
    TreeMakerSchema,
)
from coffea.nanoevents.methods import base, vector
from coffea.nanoevents.schemas.base import zip_forms
from coffea.nanoevents.transforms import counts2offsets_form, local2global_form
from coffea.util import dask_property

N_EVENTS = 60
Columns = dict[str, ak.Array]


class Collection:
    """Columns of a collection, with given numbers of entries in each event."""

    def __init__(self, rng: np.random.Generator, counts: Any) -> None:
        self.rng = rng
        self.counts = np.broadcast_to(counts, N_EVENTS).astype(np.int64)
        self.size = int(self.counts.sum())

    def of(self, values: Any, dtype: str = "float32") -> ak.Array:
        return ak.unflatten(np.asarray(values).astype(dtype), self.counts)

    def energies(self, dtype: str = "float32") -> ak.Array:
        return self.of(self.rng.exponential(40, self.size) + 5, dtype)

    def angles(self, dtype: str = "float32") -> ak.Array:
        return self.of(self.rng.uniform(-3, 3, self.size), dtype)

    def whole(self, low: int, high: int, dtype: str = "int32") -> ak.Array:
        return self.of(self.rng.integers(low, high, self.size), dtype)

    def indices(self, target: Collection, dtype: str = "int32") -> ak.Array:
        """Return positions in another collection of the same event; -1 stands for no entry."""
        numbers = np.repeat(target.counts, self.counts)
        return self.of(self.rng.integers(-1, np.maximum(numbers, 0)), dtype)

    def four_vectors(self, prefix: str, names: str, dtype: str = "float32") -> Columns:
        """Return pt, eta, phi and mass or energy, under these names."""
        makers = (self.energies, self.angles, self.angles, self.energies)
        return {
            prefix + name: make(dtype) for name, make in zip(names.split(), makers, strict=False)
        }


def numbers(dtype: str, first: int = 0) -> ak.Array:
    """Return a number for each event."""
    return ak.Array(np.arange(first, first + N_EVENTS).astype(dtype))


def some(rng: np.random.Generator) -> Collection:
    return Collection(rng, rng.integers(0, 4, N_EVENTS))


def physlite(rng: np.random.Generator) -> Columns:
    muons, tracks, jets, truth = (some(rng) for _ in range(4))
    link = muons.indices(tracks)
    track, muon = "CombinedMuonTrackParticlesAuxDyn.", "AnalysisMuonsAuxDyn."
    return {
        "EventInfoAuxDyn.runNumber": numbers("uint32", 284500),
        "EventInfoAuxDyn.eventNumber": numbers("uint64"),
        **muons.four_vectors(muon, "pt eta phi"),
        muon + "charge": muons.of(muons.rng.choice([-1, 1], muons.size)),
        # a link without a key leads nowhere
        muon + "combinedTrackParticleLink.m_persKey": ak.values_astype(
            ak.where(link < 0, 0, 880543321), "uint32"
        ),
        muon + "combinedTrackParticleLink.m_persIndex": ak.values_astype(
            ak.where(link < 0, 0, link), "uint32"
        ),
        track + "qOverP": tracks.of(rng.uniform(1e-5, 1e-4, tracks.size)),
        track + "theta": tracks.of(rng.uniform(0.2, 2.9, tracks.size)),
        track + "phi": tracks.angles(),
        track + "z0": tracks.angles(),
        **jets.four_vectors("AnalysisJetsAuxDyn.", "pt eta phi m"),
        **{f"TruthMuonsAuxDyn.{name}": truth.energies() for name in ("px", "py", "pz", "e", "m")},
    }


def delphes(rng: np.random.Generator) -> Columns:
    single, jets, muons, particles = Collection(rng, 1), some(rng), some(rng), some(rng)
    return {
        "Event.Number": single.of(np.arange(N_EVENTS), "int64"),
        "Event.Weight": single.energies(),
        "MissingET.MET": single.energies(),
        "MissingET.Eta": single.angles(),
        "MissingET.Phi": single.angles(),
        **jets.four_vectors("Jet.", "PT Eta Phi Mass"),
        "Jet.BTag": jets.whole(0, 2, "uint32"),
        **muons.four_vectors("Muon.", "PT Eta Phi"),
        "Muon.Charge": muons.of(rng.choice([-1, 1], muons.size), "int32"),
        **particles.four_vectors("Particle.", "PT Eta Phi Mass"),
        "Particle.PID": particles.whole(-20, 20),
    }


def treemaker(rng: np.random.Generator) -> Columns:
    jets, fat, vertices = some(rng), some(rng), some(rng)
    n_subjets = fat.whole(0, 3)
    subjets = Collection(rng, ak.sum(n_subjets, axis=1).to_numpy())
    momentum = "fPt fEta fPhi fE"
    return {
        "RunNum": numbers("uint32", 1),
        "EvtNum": numbers("uint64"),
        "HT": ak.Array(rng.exponential(300, N_EVENTS)),
        **jets.four_vectors("Jets.fCoordinates.", momentum, "float64"),
        "Jets_jecFactor": jets.energies("float64"),
        "Jets_multiplicity": jets.whole(1, 50),
        **fat.four_vectors("JetsAK8.fCoordinates.", momentum, "float64"),
        "JetsAK8_softDropMass": fat.energies("float64"),
        "JetsAK8_subjetsCounts": n_subjets,
        **subjets.four_vectors("JetsAK8_subjets.fCoordinates.", momentum, "float64"),
        **{f"PrimaryVertices.fCoordinates.f{axis}": vertices.angles("float64") for axis in "XYZ"},
        "PrimaryVertices_nTracks": vertices.whole(1, 60),
    }


def scouting(rng: np.random.Generator) -> Columns:
    jets, electrons, muons, generated = (some(rng) for _ in range(4))
    return {
        "run": numbers("uint32", 1),
        "luminosityBlock": numbers("uint32"),
        "event": numbers("uint64"),
        "ScoutingMET_pt": ak.Array(rng.exponential(30, N_EVENTS).astype(np.float32)),
        "ScoutingMET_phi": ak.Array(rng.uniform(-3, 3, N_EVENTS).astype(np.float32)),
        **jets.four_vectors("ScoutingJet_", "pt eta phi mass"),
        "ScoutingJet_nCh": jets.whole(0, 40),
        **electrons.four_vectors("ScoutingElectron_", "pt eta phi m"),
        "ScoutingElectron_charge": electrons.of(rng.choice([-1, 1], electrons.size), "int32"),
        **muons.four_vectors("ScoutingMuonVtx_", "pt eta phi m"),
        "ScoutingMuonVtx_charge": muons.of(rng.choice([-1, 1], muons.size), "int32"),
        **generated.four_vectors("GenPart_", "pt eta phi mass"),
        "GenPart_genPartIdxMother": generated.of(
            ak.flatten(ak.local_index(generated.energies())) - 1, "int32"
        ),
        "GenPart_pdgId": generated.whole(-20, 20),
    }


def beam(rng: np.random.Generator) -> Columns:
    tracks, hits = some(rng), some(rng)
    return {
        "spill": numbers("int32"),
        **{f"track_{name}": tracks.energies() for name in ("x", "y", "z", "t")},
        "hit_time": hits.energies(),
        "hit_trackIdx": hits.indices(tracks),
    }


BEAM = {**base.behavior, **vector.behavior}


@ak.mixin_class(BEAM)
class Hit(base.NanoCollection):
    """A hit of a test beam, with its track."""

    @dask_property
    def track(self) -> Any:
        return self._events().track._apply_global_index(self.trackIdxG)

    @track.dask
    def track(self, dask_array: Any) -> Any:
        return dask_array._events().track._apply_global_index(dask_array.trackIdxG)


BEAM.update(ak._util.copy_behaviors("LorentzVector", "BeamTrack", BEAM))


@ak.mixin_class(BEAM)
class BeamTrack(vector.LorentzVector, base.NanoCollection):
    """A track of a test beam."""


for kind in ("Array", "Record"):
    track = globals()[f"BeamTrack{kind}"]
    track.ProjectionClass2D = getattr(vector, f"TwoVector{kind}")
    track.ProjectionClass3D = getattr(vector, f"ThreeVector{kind}")
    track.ProjectionClass4D = track
    track.MomentumClass = getattr(vector, f"LorentzVector{kind}")


class BeamSchema(BaseSchema):
    """A schema of a user: collections by prefix, and counters as uproot writes them."""

    mixins = {"track": "BeamTrack", "hit": "Hit"}

    def __init__(self, base_form: Any, version: str = "latest") -> None:
        super().__init__(base_form)
        columns = dict(zip(self._form["fields"], self._form["contents"], strict=True))
        offsets = {name: counts2offsets_form(columns[f"n{name}_{first}"]) for name, first in FIRST}
        columns["hit_trackIdxG"] = local2global_form(columns["hit_trackIdx"], offsets["track"])
        events = {"spill": columns["spill"]}
        for name, mixin in self.mixins.items():
            content = {
                column.removeprefix(f"{name}_"): form
                for column, form in columns.items()
                if column.startswith(f"{name}_")
            }
            events[name] = zip_forms(content, name, mixin, offsets=offsets[name])
            events[name]["content"]["parameters"]["collection_name"] = name
        self._form["fields"], self._form["contents"] = list(events), list(events.values())

    @classmethod
    def behavior(cls) -> Any:
        return BEAM


FIRST = (("track", "x"), ("hit", "time"))


@dataclass(frozen=True)
class Experiment:
    """Columns of an experiment, the collections that coffea makes of them, and expressions.

    Attributes
    ----------
    schemaclass : coffea schema
    tree : str
    columns : callable
        Makes the columns from random numbers.
    counter : callable
        Returns the name of the counter of a column in files of the experiment.
    collections : dict of str to str
        Behaviour of each collection.
    expressions : dict of str to callable
        Calculations with events, as in an analysis.
    not_selected : tuple of str
        Columns that queries leave out.
    """

    schemaclass: Any
    tree: str
    columns: Callable[[np.random.Generator], Columns]
    counter: Callable[[str], str]
    collections: dict[str, str]
    expressions: dict[str, Callable[[Any], Any]]
    not_selected: tuple[str, ...] = ()

    def write(self, path: Path, by_path: bool = False) -> str:
        """Write a file; with ``by_path``, split objects as coffea sees those of ROOT."""
        columns = self.columns(np.random.default_rng(8))
        if by_path:
            columns = {path_in_file(name): column for name, column in columns.items()}
        with uproot.recreate(path) as file:
            types = {name: column.type for name, column in columns.items()}
            tree = file.mktree(
                self.tree, types, counter_name=lambda name: self.counter(name.split("/")[-1])
            )
            tree.extend(columns)
        return str(path)

    @property
    def names(self) -> list[str]:
        """The columns that a query selects."""
        columns = self.columns(np.random.default_rng(8))
        return [name for name in columns if name not in self.not_selected]


def path_in_file(name: str) -> str:
    """Return the path of a branch in a file that ROOT has written; uproot writes no paths.

    >>> path_in_file("Jet.PT"), path_in_file("AnalysisJetsAuxDyn.pt"), path_in_file("HT")
    ('Jet/Jet.PT', 'AnalysisJetsAuxDyn.pt', 'HT')
    """
    parent, _, leaf = name.rpartition(".")
    if "AuxDyn" in name:
        return f"{parent}/{name}" if leaf.startswith("m_pers") else name
    return f"{name.split('.')[0]}/{name}" if leaf != name else name


def of_collection(counter: str, separators: str = "._") -> Callable[[str], str]:
    """Return a function that names counters after the collections of columns."""

    def name(column: str) -> str:
        ends = [column.index(s) for s in separators if s in column]
        return counter.format(column[: min(ends)])

    return name


def of_treemaker(column: str) -> str:
    return f"n_{column.partition('.')[0] if '.' in column else column.partition('_')[0]}"


def pairs(collection: str) -> Callable[[Any], Any]:
    """Return the mass of the first two entries."""

    def mass(events: Any) -> Any:
        entries = events[collection]
        entries = entries[ak.num(entries) >= 2]
        return (entries[:, 0] + entries[:, 1]).mass

    return mass


def distances(first: str, second: str) -> Callable[[Any], Any]:
    """Return the distance between the first entries of two collections."""

    def delta_r(events: Any) -> Any:
        both = events[(ak.num(events[first]) > 0) & (ak.num(events[second]) > 0)]
        return both[first][:, 0].delta_r(both[second][:, 0])

    return delta_r


EXPERIMENTS = {
    "PHYSLITE": Experiment(
        PHYSLITESchema,
        "CollectionTree",
        physlite,
        of_collection("n_{}", "."),
        {
            "Muons": "Muon",
            "CombinedMuonTrackParticles": "TrackParticle",
            "Jets": "Particle",
            "TruthMuons": "TruthParticle",
            "EventInfo": "",
        },
        {
            "column": lambda events: events.Jets.pt,
            "number": lambda events: events.EventInfo.eventNumber,
            "sum": pairs("Muons"),
            "distance": distances("Muons", "Jets"),
            "cartesian": lambda events: events.TruthMuons.pt,
            "of a track": lambda events: events.CombinedMuonTrackParticles.pz,
            "reference": lambda events: events.Muons.trackParticle.z0,
        },
        # a vector has an energy or a mass, not both
        not_selected=("TruthMuonsAuxDyn.m",),
    ),
    "Delphes": Experiment(
        DelphesSchema,
        "Delphes",
        delphes,
        of_collection("{}_size"),
        {"Jet": "Jet", "Muon": "Muon", "Particle": "Particle", "MissingET": "MissingET"},
        {
            "column": lambda events: events.Jet.BTag,
            "number": lambda events: events.Event.Number,
            "offsets": lambda events: events["Jet.offsets"],
            "sum": pairs("Jet"),
            "distance": distances("Muon", "Jet"),
            "missing momentum": lambda events: events.MissingET.px,
        },
    ),
    "TreeMaker": Experiment(
        TreeMakerSchema,
        "PreSelection",
        treemaker,
        of_treemaker,
        {
            "Jets": "PtEtaPhiELorentzVector",
            "JetsAK8": "PtEtaPhiELorentzVector",
            "PrimaryVertices": "ThreeVector",
        },
        {
            "column": lambda events: events.Jets.jecFactor,
            "number": lambda events: events.HT,
            "sum": pairs("Jets"),
            "distance": distances("Jets", "JetsAK8"),
            "vertex": lambda events: events.PrimaryVertices.rho,
            "nested": lambda events: events.JetsAK8.subjets.px,
        },
    ),
    "Scouting": Experiment(
        ScoutingNanoAODSchema,
        "Events",
        scouting,
        of_collection("n{}"),
        {
            "ScoutingJet": "Jet",
            "ScoutingElectron": "Electron",
            "ScoutingMuonVtx": "Muon",
            "ScoutingMET": "MissingET",
            "GenPart": "GenParticle",
        },
        {
            "column": lambda events: events.ScoutingJet.nCh,
            "number": lambda events: events.event,
            "sum": pairs("ScoutingMuonVtx"),
            "distance": distances("ScoutingElectron", "ScoutingJet"),
            "missing momentum": lambda events: events.ScoutingMET.px,
            "reference": lambda events: events.GenPart.parent.pt,
        },
    ),
    "test beam": Experiment(
        BeamSchema,
        "beam",
        beam,
        "n{}".format,
        {"track": "BeamTrack", "hit": "Hit"},
        {
            "column": lambda events: events.hit.time,
            "number": lambda events: events.spill,
            "sum": pairs("track"),
            "distance": lambda events: events.track.delta_r(events.track),
            "reference": lambda events: events.hit.track.pt,
        },
    ),
}
