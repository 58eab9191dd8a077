"""Queries of analyses, and every construct of the language, for a small input file."""

# func_adl finds the source of a lambda by its line. Comparisons and builtins that look like
# mistakes are never evaluated in this process.
from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import qastle
import uproot
from servicex import query as q

from coffea_sx.demo.samples import sample_events

NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NUMBERS += ["float32", "float64", "bool"]

IN_EVENTS = [
    "flat_bool",
    "flat_float32",
    "flat_int16",
    "flat_int32",
    "flat_int64",
    "flat_int8",
    "flat_uint32",
    "flat_uint8",
    "some_bool",
    "some_float32",
    "some_int32",
    "some_int8",
    "some_uint16",
]


def write_input(path: Path, n_events: int) -> str:
    """Write a file with every type of column that uproot can write to a TTree."""
    rng = np.random.default_rng(7)
    columns = sample_events(n_events, rng)
    jets, muons = columns["Jet"], columns["Muon"]
    jets["btag"] = ak.values_astype(jets.pt % 1, np.float32)
    jets["tight"] = jets.eta > 0
    jets["id"] = ak.values_astype(jets.pt % 8, np.uint8)
    muons["iso"] = ak.values_astype(muons.pt % 1, np.float32)
    muons["type"] = ak.values_astype(muons.charge * 2, np.int8)
    columns["weight"] = ak.Array(rng.normal(size=n_events))
    columns["vertex"] = rng.normal(size=(n_events, 3)).astype(np.float32)
    columns["matrix"] = rng.integers(0, 9, (n_events, 2, 3)).astype(np.int32)
    columns["label"] = ak.Array(["", "ab", "c"])[rng.integers(0, 3, n_events)]
    columns["with.dot"] = columns["MET_pt"]
    numbers = _numbers(rng, n_events)
    columns |= {name: numbers[name] for name in IN_EVENTS}
    with uproot.recreate(path) as file:
        _write_tree(file, "Events", columns)
        _write_tree(file, "Numbers", numbers)
        _write_tree(file, "Runs", {"run": np.array([1, 2], dtype=np.uint32)})
    return str(path)


def _numbers(rng: np.random.Generator, n_events: int) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in NUMBERS:
        columns[f"flat_{name}"] = ak.Array(rng.integers(0, 2, n_events).astype(name))
        counts = rng.integers(0, 4, n_events)
        some = rng.integers(0, 2, int(counts.sum())).astype(name)
        columns[f"some_{name}"] = ak.unflatten(some, counts)
    return columns


def _write_tree(file: Any, name: str, columns: dict[str, Any]) -> None:
    types = {
        name: np.dtype((column.dtype, column.shape[1:]))
        if isinstance(column, np.ndarray)
        else column.type.content
        for name, column in columns.items()
    }
    tree = file.mktree(name, types, title="")
    if len(next(iter(columns.values()))):
        tree.extend(columns)


def written(query: str) -> str:
    """Return the text of a query, without the checks of types that func_adl makes."""
    whole = query.replace("events()", "EventDataset('bogus.root', 'Events')")
    tree = ast.parse(f"({whole})", mode="eval").body
    return qastle.python_ast_to_text_ast(qastle.insert_linq_nodes(tree))


def events() -> Any:
    return q.FuncADL_Uproot().FromTree("Events")


def numbers() -> Any:
    return q.FuncADL_Uproot().FromTree("Numbers")


# -- analyses

ANALYSES = {
    # The eight ADL benchmark queries, as far as they are selections of columns.
    "adl 1: met": events().Select(lambda e: {"met": e.MET_pt}),
    "adl 2: jets": events().Select(lambda e: {"jet_pt": e.Jet_pt}),
    "adl 3: central jets": events().Select(
        lambda e: {
            "jet_pt": {"pt": e.Jet_pt, "eta": e.Jet_eta}.Zip()
            .Where(lambda j: abs(j.eta) < 1)
            .Select(lambda j: j.pt)
        }
    ),
    "adl 4: met with two jets": events()
    .Where(lambda e: e.Jet_pt.Where(lambda pt: pt > 40).Count() >= 2)
    .Select(lambda e: {"met": e.MET_pt}),
    "adl 5: met with a dimuon": events()
    .Where(lambda e: e.nMuon >= 2)
    .Where(lambda e: e.Muon_charge.Sum() == 0)
    .Select(lambda e: {"met": e.MET_pt, "pt": e.Muon_pt, "mass": e.Muon_mass}),
    "adl 5: dimuon mass": events()
    .Select(
        lambda e: {
            "met": e.MET_pt,
            "muons": {
                "pt": e.Muon_pt,
                "eta": e.Muon_eta,
                "phi": e.Muon_phi,
                "mass": e.Muon_mass,
                "charge": e.Muon_charge,
            }.Zip().ToFourMomenta(),
        }
    )
    .Select(
        lambda x: {
            "met": x.met,
            "masses": x.muons.Select(lambda a: x.muons.Select(lambda b: (a + b).mass)),
        }
    ),
    "adl 6: best trijet": events()
    .Where(lambda e: e.nJet >= 3)
    .Select(
        lambda e: {
            "pt": e.Jet_pt,
            "eta": e.Jet_eta,
            "phi": e.Jet_phi,
            "mass": e.Jet_mass,
            "btag": e.Jet_btag,
        }
    ),
    "adl 7: isolated jets": events().Select(
        lambda e: {
            "sum": {"pt": e.Jet_pt, "eta": e.Jet_eta, "phi": e.Jet_phi}.Zip()
            .Where(lambda j: j.pt > 30)
            .Select(lambda j: j.pt)
            .Sum()
        }
    ),
    "adl 8: third lepton": events()
    .Where(lambda e: e.nMuon + e.nElectron >= 3)
    .Select(
        lambda e: {
            "lepton_pt": e.Muon_pt.Concat(e.Electron_pt),
            "lepton_charge": e.Muon_charge.Concat(e.Electron_charge),
            "met": e.MET_pt,
            "phi": e.MET_phi,
        }
    ),
    # AGC ttbar: one lepton, four jets of which one or two are tagged.
    "ttbar": events()
    .Where(
        lambda e: (
            (e.Electron_pt.Where(lambda pt: pt > 25).Count())
            + (e.Muon_pt.Where(lambda pt: pt > 25).Count())
            == 1
        )
    )
    .Where(lambda e: e.Jet_pt.Where(lambda pt: pt > 25).Count() >= 4)
    .Select(
        lambda e: {
            "electron_pt": e.Electron_pt,
            "muon_pt": e.Muon_pt,
            "jet_pt": e.Jet_pt,
            "jet_eta": e.Jet_eta,
            "jet_phi": e.Jet_phi,
            "jet_mass": e.Jet_mass,
            "jet_btag": e.Jet_btag,
            "n_electron": e.nElectron,
            "weight": e.weight,
        }
    ),
    "ttbar without cuts": events().Select(
        lambda e: {
            "run": e.run,
            "Jet_pt": e.Jet_pt,
            "nJet": e.nJet,
            "b": e.Jet_btag > 0.5,
            "n_b": e.Jet_btag.Where(lambda b: b > 0.5).Count(),
        }
    ),
    # ATLAS H to ZZ: four leptons, energies to GeV.
    "hzz": events()
    .Where(lambda e: e.flat_bool != 0)
    .Select(
        lambda e: {
            "lep_pt": e.Muon_pt / 1000.0,
            "lep_eta": e.Muon_eta,
            "lep_energy": np.sqrt(e.Muon_pt**2 + e.Muon_mass**2) / 1000.0,
            "lep_charge": e.Muon_charge,
            "lep_type": abs(e.Muon_type),
            "mcWeight": e.weight,
            "scaleFactor": e.weight * e.flat_float32,
        }
    ),
    "hzz good leptons": events()
    .Where(lambda e: e.Muon_pt.Count() == 4 or e.Muon_pt.Count() + e.Electron_pt.Count() == 4)
    .Select(
        lambda e: {
            "good": (e.Muon_iso < 0.3) & (e.Muon_pt > 5) & (abs(e.Muon_eta) < 2.5),
            "sum_charge": e.Muon_charge.Sum(),
            "channel": e.flat_uint32,
        }
    ),
    # The examples of ServiceX's documentation.
    "docs: one column": events().Select(lambda e: {"el_pt": e["Electron_pt"]}),
    "docs: cut on a collection": events()
    .Where(lambda e: e["Electron_pt"].Count() > 0)
    .Select(lambda e: {"el_pt": e["Electron_pt"]}),
    "docs: three columns": events().Select(
        lambda e: {"pt": e["Muon_pt"], "eta": e["Muon_eta"], "phi": e["Muon_phi"]}
    ),
    "docs: leading": events()
    .Where(lambda e: e.nJet > 0)
    .Select(lambda e: {"lead": e["Jet_pt"].First(), "met": e["MET_pt"] / 1000}),
}

# -- single constructs

SHAPES = {
    "whole events": events(),
    "cut events": events().Where(lambda e: e.MET_pt > 10),
    "dict": events().Select(lambda e: {"b": e.MET_pt, "a": e.Muon_pt}),
    "dict of one": events().Select(lambda e: {"b": e.Muon_pt}),
    "empty dict": events().Select(lambda e: {}),
    "tuple": events().Select(lambda e: (e.MET_pt, e.Muon_pt)),
    "tuple of one": events().Select(lambda e: (e.MET_pt,)),
    "tuple of eleven": events().Select(
        lambda e: (
            e.run,
            e.run,
            e.run,
            e.run,
            e.event,
            e.run,
            e.run,
            e.run,
            e.run,
            e.run,
            e.weight,
        )
    ),
    "list": events().Select(lambda e: [e.MET_pt, e.Muon_pt]),
    "list of one": events().Select(lambda e: [e.Muon_pt]),
    "scalar": events().Select(lambda e: e.MET_pt),
    "jagged scalar": events().Select(lambda e: e.Muon_pt),
    "constant": events().Select(lambda e: 1),
    "constant text": events().Select(lambda e: "a"),
    "constant in dict": events().Select(lambda e: {"one": 1, "met": e.MET_pt}),
    "only a constant in dict": events().Select(lambda e: {"one": 1}),
    "column SelectMany": events().SelectMany(lambda e: e.Muon_pt),
    "SelectMany of a dict": events().SelectMany(lambda e: {"pt": e.Muon_pt, "eta": e.Muon_eta}),
    "SelectMany of a Zip": events().SelectMany(lambda e: {"p": e.Jet_pt, "i": e.Jet_id}.Zip()),
    "SelectMany then Select": events()
    .SelectMany(lambda e: e.Jet_pt)
    .Select(lambda pt: {"pt": pt * 2}),
    "SelectMany of a flat column": events().SelectMany(lambda e: e.MET_pt),
    "inner SelectMany": events().Select(
        lambda e: {"all": e.Jet_pt.SelectMany(lambda a: e.Muon_pt.Select(lambda b: a + b))}
    ),
    "Select of Select": events()
    .Select(lambda e: {"a": e.MET_pt, "b": e.Muon_pt})
    .Select(lambda x: {"c": x.a, "d": x["b"]}),
    "Select of tuple items": events()
    .Select(lambda e: (e.MET_pt, e.Muon_pt))
    .Select(lambda x: {"c": x[0], "d": x[1]}),
    "Where after Select": events()
    .Select(lambda e: {"a": e.MET_pt, "b": e.Muon_pt})
    .Where(lambda x: x.a > 20),
    "Where after a scalar": events().Select(lambda e: e.MET_pt).Where(lambda x: x > 20),
    "nothing passes": events().Where(lambda e: e.MET_pt < 0),
    "a constant condition": events().Where(lambda e: True).Select(lambda e: {"a": e.MET_pt}),
    "a condition that is a number": written(
        "events().Where(lambda e: e.nMuon).Select(lambda e: {'a': e.MET_pt})"
    ),
    "a jagged condition": events()
    .Where(lambda e: e.Muon_pt > 20)
    .Select(lambda e: {"a": e.Muon_pt}),
    "whole events in a dict": events().Select(lambda e: {"e": e, "met": e.MET_pt}),
    "identity": events().Select(lambda e: e),
}

NAMES = {
    "unknown column": events().Select(lambda e: {"a": e.MET_tp}),
    "unknown column by item": events().Select(lambda e: {"a": e["Muon"]}),
    "unknown in Where": events().Where(lambda e: e.mET_pt > 1).Select(lambda e: {"a": e.MET_pt}),
    "unknown after Select": written("""events()
    .Select(lambda e: {"a": e.MET_pt})
    .Select(lambda x: {"b": x.MET_pt})"""),
    "a column like an attribute": events().Select(lambda e: {"a": e.fields}),
    "a method like a column": events().Select(lambda e: {"type": e.Muon_type, "ndim": e.run}),
    "with a dot": written(
        'events().Select(lambda e: {"with.dot": e["with.dot"], "x": e["with.dot"]})'
    ),
    "renamed with a dot": written('events().Select(lambda e: {"a.b": e.MET_pt, "c.d": e.Muon_pt})'),
    "with a slash": written('events().Select(lambda e: {"a/b": e.MET_pt, "c": e.Muon_pt})'),
    "with a blank": written('events().Select(lambda e: {"a b": e.MET_pt, "c d": e.Muon_pt})'),
    "no name": written('events().Select(lambda e: {"": e.MET_pt})'),
    "a number": written('events().Select(lambda e: {"0": e.MET_pt, "1": e.Muon_pt})'),
    "not ASCII": events().Select(lambda e: {"mü": e.MET_pt, "η": e.Muon_eta}),
    "not a text": written("events().Select(lambda e: {1: e.MET_pt, 2: e.Muon_eta})"),
    "not sorted": events().Select(lambda e: {"z": e.run, "B": e.run, "a": e.Muon_pt, "_": e.run}),
    "same key twice": written("events().Select(lambda e: {'a': e.MET_pt, 'a': e.run})"),
    "brackets": written('events().Select(lambda e: {"a[b]": e.MET_pt, "c[n]": e.Muon_pt})'),
    "own counter after": events().Select(lambda e: {"pt": e.Muon_pt, "npt": e.nMuon}),
    "own counter before": events().Select(lambda e: {"npt": e.nMuon, "pt": e.Muon_pt}),
    "a counter that counts another": events().Select(lambda e: {"npt": e.Jet_pt, "pt": e.Muon_pt}),
    "a counter that is a float": events().Select(lambda e: {"npt": e.MET_pt, "pt": e.Muon_pt}),
    "another tree": q.FuncADL_Uproot().FromTree("Runs").Select(lambda r: {"run": r.run}),
    "no such tree": q.FuncADL_Uproot().FromTree("Lumis").Select(lambda r: {"run": r.run}),
}

TYPES = {
    "flat numbers": numbers().Select(
        lambda e: {
            "i1": e.flat_int8,
            "i2": e.flat_int16,
            "i4": e.flat_int32,
            "i8": e.flat_int64,
            "u1": e.flat_uint8,
            "u2": e.flat_uint16,
            "u4": e.flat_uint32,
            "u8": e.flat_uint64,
            "f4": e.flat_float32,
            "f8": e.flat_float64,
            "b": e.flat_bool,
        }
    ),
    "jagged numbers": numbers().Select(
        lambda e: {
            "i1": e.some_int8,
            "i2": e.some_int16,
            "i4": e.some_int32,
            "i8": e.some_int64,
            "u1": e.some_uint8,
            "u2": e.some_uint16,
            "u4": e.some_uint32,
            "u8": e.some_uint64,
            "f4": e.some_float32,
            "f8": e.some_float64,
            "b": e.some_bool,
        }
    ),
    "promotion of integers": numbers().Select(
        lambda e: {
            "a": e.flat_int8 + e.flat_uint8,
            "b": e.flat_int32 + e.flat_uint32,
            "c": e.flat_int64 + e.flat_uint64,
            "d": e.flat_uint8 + 1,
            "e": e.flat_uint8 - 1,
            "f": e.flat_int16 * 2.5,
            "g": e.flat_uint64 * 2,
            "h": e.flat_bool + e.flat_bool,
            "i": e.flat_bool + 1,
        }
    ),
    "promotion with literals": numbers().Select(
        lambda e: {
            "a": e.flat_float32 * 2,
            "b": e.flat_float32 * 2.5,
            "c": e.flat_float32 + e.flat_float64,
            "d": e.flat_float32 + e.flat_int32,
            "e": e.flat_float32 + e.flat_int8,
            "f": e.flat_int64 / 2,
            "g": e.flat_int8 / e.flat_int8,
            "h": 1 / (e.flat_float32 + 2),
        }
    ),
    "a literal too large": numbers().Select(lambda e: {"a": e.flat_int8 + 1000}),
    "a negative literal": numbers().Select(lambda e: {"a": e.flat_uint8 + -1}),
    "a huge literal": numbers().Select(lambda e: {"a": e.flat_int64 + 36893488147419103232}),
    "sums of numbers": numbers().Select(
        lambda e: {
            "i1": e.some_int8.Sum(),
            "u1": e.some_uint8.Sum(),
            "i4": e.some_int32.Sum(),
            "u8": e.some_uint64.Sum(),
            "f4": e.some_float32.Sum(),
            "f8": e.some_float64.Sum(),
            "b": e.some_bool.Sum(),
        }
    ),
    "fixed size": events().Select(lambda e: {"v": e.vertex, "m": e.matrix}),
    "sum of fixed size": events().Select(lambda e: {"v": e.vertex.Sum()}),
    "first of fixed size": events().Select(lambda e: {"v": e.vertex.First()}),
    "element of a matrix": events().Select(lambda e: {"m": e.matrix.ElementAt(1)}),
    "scaled fixed size": events().Select(lambda e: {"v": e.vertex * e.MET_pt, "m": e.matrix * 2}),
    "text": events().Select(lambda e: {"label": e.label, "run": e.run}),
    "text compared": written("""events()
    .Where(lambda e: e.label == "ab")
    .Select(lambda e: {"is": e.label == "c", "run": e.run})"""),
    "complex": events().Select(lambda e: {"z": e.MET_pt * complex(0, 1)}),
}

REDUCTIONS = {
    "First": events().Select(lambda e: {"a": e.Jet_pt.First()}),
    "First after a cut": events()
    .Where(lambda e: e.Jet_pt.Count() > 0)
    .Select(lambda e: {"a": e.Jet_pt.First(), "b": e.Jet_id.First(), "c": e.Jet_tight.First()}),
    "First of a cut": events().Select(lambda e: {"a": e.Jet_pt.Where(lambda x: x > 25).First()}),
    "First event": written("events().First()"),
    "Last": events().Where(lambda e: e.nJet > 0).Select(lambda e: {"a": e.Jet_pt.Last()}),
    "ElementAt": events()
    .Where(lambda e: e.nJet > 1)
    .Select(lambda e: {"a": e.Jet_pt.ElementAt(1)}),
    "ElementAt out of range": events().Select(lambda e: {"a": e.Jet_pt.ElementAt(99)}),
    "First of a Zip": events()
    .Where(lambda e: e.nMuon > 0)
    .Select(lambda e: {"m": {"pt": e.Muon_pt, "q": e.Muon_charge}.Zip().First()}),
    "Count": events().Select(lambda e: {"n": e.Jet_pt.Count()}),
    "Count of a flat column": events().Select(lambda e: {"n": e.MET_pt.Count()}),
    "Count of events": written("events().Count()"),
    "Count of a cut": events().Select(lambda e: {"n": e.Jet_pt.Where(lambda x: x > 25).Count()}),
    "Sum": events().Select(lambda e: {"s": e.Jet_pt.Sum(), "q": e.Muon_charge.Sum()}),
    "Sum of a condition": events().Select(lambda e: {"s": (e.Jet_pt > 30).Sum()}),
    "Sum of events": written("events().Select(lambda e: e.MET_pt).Sum()"),
    "Min": events().Select(lambda e: {"a": e.Jet_pt.Min(), "b": e.Muon_charge.Min()}),
    "Max": events().Select(lambda e: {"a": e.Jet_pt.Max()}),
    "Max after a cut": events()
    .Where(lambda e: e.nJet > 0)
    .Select(lambda e: {"a": e.Jet_pt.Max(), "met": e.MET_pt}),
    "Max compared": events().Where(lambda e: e.Jet_pt.Max() > 30).Select(lambda e: {"a": e.MET_pt}),
    "Max of bool": events().Select(lambda e: {"a": e.some_bool.Max()}),
    "Any": events().Select(lambda e: {"a": e.Jet_pt.Any(lambda x: x > 30)}),
    "All": events().Select(lambda e: {"a": e.Jet_pt.All(lambda x: x > 25)}),
    "All in Where": written("""events()
    .Where(lambda e: e.Jet_pt.All(lambda x: x > 25))
    .Select(lambda e: {"a": e.Jet_pt})"""),
    "Any in Where": written("""events()
    .Where(lambda e: e.Jet_tight.Any(lambda x: x))
    .Select(lambda e: {"a": e.Jet_tight})"""),
    "Aggregate": events().Select(
        lambda e: {"a": e.Jet_pt.Aggregate(0, lambda total, x: total + x)}
    ),
}

COMBINATIONS = {
    "inner Where": events().Select(lambda e: {"pt": e.Jet_pt.Where(lambda x: x > 30)}),
    "inner Where of bools": events().Select(lambda e: {"t": e.Jet_tight.Where(lambda x: x)}),
    "inner Select": events().Select(lambda e: {"pt": e.Jet_pt.Select(lambda x: x / 1000)}),
    "inner Select of a constant": events().Select(lambda e: {"n": e.Jet_pt.Select(lambda x: 1)}),
    "inner Select of a dict": events().Select(
        lambda e: {"j": e.Jet_pt.Select(lambda x: {"a": x, "b": x * 2})}
    ),
    "inner Select of a tuple": events().Select(
        lambda e: {"j": e.Jet_pt.Select(lambda x: (x, x * 2))}
    ),
    "nested dict": events().Select(lambda e: {"muon": {"pt": e.Muon_pt}}),
    "nested dict of two": events().Select(
        lambda e: {"muon": {"pt": e.Muon_pt, "q": e.Muon_charge}}
    ),
    "nested dict of flat": events().Select(lambda e: {"met": {"pt": e.MET_pt, "phi": e.MET_phi}}),
    "nested dict beside": events().Select(
        lambda e: {"met": {"pt": e.MET_pt, "phi": e.MET_phi}, "run": e.run}
    ),
    "nested dicts of different depths": events().Select(
        lambda e: {"a": {"met": e.MET_pt, "pt": e.Muon_pt}}
    ),
    "nested twice": events().Select(lambda e: {"a": {"b": {"c": e.MET_pt}}}),
    "nested tuple": events().Select(lambda e: {"a": (e.MET_pt, e.MET_phi)}),
    "Zip": events().Select(lambda e: {"m": {"pt": e.Muon_pt, "q": e.Muon_charge}.Zip()}),
    "Zip of two": events().Select(
        lambda e: {
            "m": {"pt": e.Muon_pt, "q": e.Muon_charge}.Zip(),
            "j": {"pt": e.Jet_pt, "tight": e.Jet_tight}.Zip(),
        }
    ),
    "Zip alone": events().Select(lambda e: {"pt": e.Muon_pt, "q": e.Muon_charge}.Zip()),
    "Zip of a tuple": events().Select(lambda e: {"m": (e.Muon_pt, e.Muon_charge).Zip()}),
    "Zip with a flat column": events().Select(
        lambda e: {"m": {"pt": e.Muon_pt, "met": e.MET_pt}.Zip()}
    ),
    "Zip of different lengths": events().Select(
        lambda e: {"m": {"pt": e.Muon_pt, "j": e.Jet_pt}.Zip()}
    ),
    "Zip with fixed size": events().Select(lambda e: {"m": {"v": e.vertex, "met": e.MET_pt}.Zip()}),
    "cut Zip": events().Select(
        lambda e: {
            "j": {"pt": e.Jet_pt, "eta": e.Jet_eta}.Zip().Where(
                lambda j: j.pt > 30 and abs(j.eta) < 2
            )
        }
    ),
    "field of a Zip": events().Select(
        lambda e: {"pt": {"pt": e.Jet_pt, "eta": e.Jet_eta}.Zip().pt}
    ),
    "Choose": events().Select(lambda e: {"pairs": e.Jet_pt.Choose(2)}),
    "Choose three": events().Select(lambda e: {"triples": e.Jet_pt.Choose(3), "met": e.MET_pt}),
    "Choose from a Zip": events().Select(
        lambda e: {"p": {"pt": e.Jet_pt, "eta": e.Jet_eta}.Zip().Choose(2)}
    ),
    "sum of Choose": events().Select(
        lambda e: {"s": e.Jet_pt.Choose(2).Select(lambda pair: pair.First() + pair.Last())}
    ),
    "items of Choose": events().Select(
        lambda e: {"s": e.Jet_pt.Choose(2).Select(lambda pair: pair[0] + pair[1])}
    ),
    "OrderBy": events().Select(lambda e: {"pt": e.Jet_pt.OrderBy(lambda x: x)}),
    "OrderByDescending": events().Select(
        lambda e: {"pt": e.Jet_pt.OrderByDescending(lambda x: -x), "met": e.MET_pt}
    ),
    "OrderBy of a Zip": events().Select(
        lambda e: {
            "j": {"pt": e.Jet_pt, "eta": e.Jet_eta}.Zip()
            .OrderByDescending(lambda j: j.eta)
            .Select(lambda j: j.pt)
        }
    ),
    "OrderBy of events": events().OrderBy(lambda e: e.MET_pt).Select(lambda e: {"a": e.MET_pt})
    if hasattr(q.FuncADL_Uproot, "OrderBy")
    else events().Select("lambda e: {'a': OrderBy(e.vertex, lambda x: x)}"),
    "Concat": events().Select(lambda e: {"pt": e.Muon_pt.Concat(e.Electron_pt)}),
    "Concat of different types": events().Select(
        lambda e: {"a": e.Muon_pt.Concat(e.Muon_charge), "b": e.some_int8.Concat(e.some_uint16)}
    ),
    "Concat with bool": events().Select(lambda e: {"a": e.some_bool.Concat(e.some_float32)}),
    "Concat with a flat column": events().Select(lambda e: {"a": e.Muon_pt.Concat(e.MET_pt)}),
    "Concat of Zips": events().Select(
        lambda e: {
            "l": {"pt": e.Muon_pt, "q": e.Muon_charge}.Zip().Concat(
                {"pt": e.Electron_pt, "q": e.Electron_charge}.Zip()
            )
        }
    ),
    "Concat of unlike Zips": events().Select(
        lambda e: {"l": {"pt": e.Muon_pt}.Zip().Concat({"eta": e.Electron_eta}.Zip())}
    ),
    "Contains": events().Select(lambda e: {"a": e.Muon_charge.Contains(1)}),
    "Contains a column": events().Select(lambda e: {"a": e.some_int32.Contains(e.flat_int32)}),
    "in a list": events().Select(lambda e: {"a": e.run in [1, 362104], "b": e.nMuon in (0, 2)}),
    "not in a list": written("events().Select(lambda e: {'a': not [1, 2].Contains(e.some_int8)})"),
    "in a collection": written(
        """events().Where(lambda e: e.Muon_charge.Contains(1))
        .Select(lambda e: {"q": e.Muon_charge})"""
    ),
    "Select over an outer collection": events().Select(
        lambda e: {"s": e.Jet_pt.Select(lambda a: e.Muon_pt.Select(lambda b: a + b))}
    ),
    "Select over an outer collection of dicts": events().Select(
        lambda e: {
            "s": e.Jet_pt.Select(lambda a: e.Muon_pt.Select(lambda b: {"x": a, "y": b})),
            "met": e.MET_pt,
        }
    ),
    "Count over an outer collection": events().Select(
        lambda e: {
            "n": e.Jet_pt.Select(lambda a: e.Muon_pt.Where(lambda b: b > a).Count()),
        }
    ),
    "Any over an outer collection": events().Select(
        lambda e: {"j": e.Jet_eta.Where(lambda a: e.Muon_eta.Any(lambda b: abs(a - b) < 0.4))}
    ),
    "Select over an outer scalar": events().Select(
        lambda e: {"s": e.Jet_pt.Select(lambda a: a / e.MET_pt)}
    ),
    "Sum of a Where of a Zip": events().Select(
        lambda e: {
            "ht": {"pt": e.Jet_pt, "ok": e.Jet_tight}.Zip()
            .Where(lambda j: j.ok)
            .Select(lambda j: j.pt)
            .Sum(),
        }
    ),
}

EXPRESSIONS = {
    "arithmetic": written("""events().Select(
        lambda e: {
            "add": e.MET_pt + e.weight,
            "sub": e.Jet_pt - e.MET_pt,
            "mul": e.Muon_charge * e.Muon_type,
            "div": e.Jet_pt / e.Jet_mass,
            "floor": e.Jet_pt // 10,
            "mod": e.run % 7,
            "pow": e.MET_pt**2,
            "neg": -e.Muon_charge,
            "pos": +e.MET_pt,
        }
    )"""),
    "floor of integers": events().Select(lambda e: {"a": e.run // 2, "b": e.flat_int8 // 2.0}),
    "power of integers": events().Select(lambda e: {"a": e.run**2, "b": e.some_int8**2}),
    "bits": written("""events().Select(
        lambda e: {
            "and": e.Jet_id & 1,
            "or": e.run | 1,
            "xor": e.flat_int64 ^ e.flat_int8,
            "left": e.Jet_id << 2,
            "right": e.Jet_id >> 1,
            "not": ~e.flat_int16,
        }
    )"""),
    "bits of floats": events().Select(lambda e: {"a": e.MET_pt & 1}),
    "minus a bool": written('events().Select(lambda e: {"a": -e.flat_bool})'),
    "bool minus bool": events().Select(lambda e: {"a": e.flat_bool - e.flat_bool}),
    "comparison": events().Select(
        lambda e: {
            "lt": e.MET_pt < 20,
            "le": e.Jet_pt <= 30.5,
            "gt": e.Jet_pt > e.MET_pt,
            "eq": e.Muon_charge == 1,
            "ne": e.run != 3,
        }
    ),
    "chained comparison": events().Select(lambda e: {"a": 10 < e.MET_pt < 30}),
    "boolean": written("""events().Select(
        lambda e: {
            "and": e.MET_pt > 20 and e.nMuon > 0,
            "or": e.flat_bool or e.MET_pt > 20 or e.nJet == 2,
            "not": not e.flat_bool,
            "jagged": e.Jet_pt > 30 and e.Jet_tight,
            "numbers": e.run and e.nMuon,
        }
    )"""),
    "bitwise boolean": events().Select(
        lambda e: {"a": (e.MET_pt > 20) & (e.nMuon > 0) | e.flat_bool}
    ),
    "conditional": events().Select(
        lambda e: {
            "int": 1 if e.MET_pt > 20 else 0,
            "float": 1.5 if e.MET_pt > 20 else 0.5,
            "bool": True if e.MET_pt > 20 else False,  # noqa: SIM210
            "mixed": 1.5 if e.MET_pt > 20 else 0,
            "columns": e.MET_pt if e.flat_bool else e.weight,
            "integers": e.flat_int8 if e.flat_bool else e.flat_uint8,
            "jagged": e.Jet_pt if e.Jet_tight else e.Jet_mass,
        }
    ),
    "conditional constant": events().Select(lambda e: {"a": e.MET_pt if e.flat_bool else -1}),
    "conditional of a collection": events().Select(
        lambda e: {"a": e.Jet_pt if e.MET_pt > 20 else e.Jet_mass}
    ),
    "conditional of different lengths": events().Select(
        lambda e: {"a": e.Jet_pt if e.MET_pt > 20 else e.Muon_pt}
    ),
    "conditional with option": events().Select(
        lambda e: {"a": e.Jet_pt.Max() if e.nJet > 0 else e.MET_pt}
    ),
    "conditional text": events().Select(lambda e: {"a": "x" if e.flat_bool else "y"}),
    "conditional inside": events().Select(
        lambda e: {"a": e.Jet_pt.Select(lambda x: 1 if x > 30 else 0)}
    ),
    "different lengths": events().Select(lambda e: {"a": e.Jet_pt + e.Muon_pt}),
    "np": events().Select(
        lambda e: {
            "sqrt": np.sqrt(e.MET_pt),
            "cos": np.cos(e.Jet_phi),
            "hypot": np.hypot(e.MET_pt, e.weight),
            "abs": np.abs(e.Muon_charge),
            "log": np.log(e.flat_int8 + 1),
            "floor": np.floor(e.Jet_pt),
            "nan": np.isnan(e.MET_pt),
            "max": np.maximum(e.Jet_pt, 30),
            "atan": np.arctan2(e.MET_phi, 1.0),
        }
    ),
    "np of integers": events().Select(
        lambda e: {"a": np.sqrt(e.flat_int8), "b": np.sqrt(e.flat_int16), "c": np.exp(e.run)}
    ),
    "np by name": events().Select(
        lambda e: {
            "rint": np.rint(e.MET_pt),
            "power": np.power(e.Jet_pt, 2),
            "clipped": np.minimum(np.maximum(e.Jet_pt, 30), 50),
            "either": np.logical_or(e.flat_bool, e.MET_pt > 20),
            "neither": np.logical_not(e.flat_bool),
            "inf": np.isposinf(e.MET_pt),
            "sign": np.sign(e.Muon_charge),
            "scaled": e.MET_pt * np.float32(2),
            "square": np.square(e.some_int8),
            "e": e.MET_pt * np.e,
        }
    ),
    "transverse mass": events().Select(
        lambda e: {
            "mt": np.sqrt(2 * e.Muon_pt * e.MET_pt * (1 - np.cos(e.Muon_phi - e.MET_phi))),
            "mass": np.sqrt(2 * e.MET_pt * (np.cosh(e.Jet_eta) - 1) * e.weight**2),
        }
    ),
    "a mean": events()
    .Where(lambda e: e.Jet_pt.Count() > 0)
    .Select(lambda e: {"mean": e.Jet_pt.Sum() / e.Jet_pt.Count(), "ht": e.Jet_pt.Sum()}),
    "np constants": events().Select(
        lambda e: {"a": e.MET_phi / np.pi, "b": e.MET_phi % (2 * np.pi)}
    ),
    "np that reduces": events().Select(lambda e: {"a": np.sum(e.Jet_pt)}),
    "np where": events().Select(lambda e: {"a": np.where(e.flat_bool, e.MET_pt, e.weight)}),
    "np of a type": events().Select(lambda e: {"a": np.float32(e.weight)}),
    "no such np": events().Select(lambda e: {"a": np.nonsense(e.MET_pt)}),
    "a root of text": events().Select(lambda e: {"a": np.sqrt(e.label)}),
    "abs": events().Select(lambda e: {"a": abs(e.MET_phi), "b": abs(e.Jet_eta)}),
    "pow": events().Select(lambda e: {"a": pow(e.MET_pt, 2)}),
    "divmod": events().Select(lambda e: {"a": divmod(e.MET_pt, 2)[0]}),
    "round": events().Select(lambda e: {"a": round(e.MET_pt)}),
    "float": events().Select(lambda e: {"a": float(e.run)}),
    "sum": events().Select(lambda e: {"a": sum([e.MET_pt, e.weight])}),
    "max of two": events().Select(lambda e: {"a": max(e.MET_pt, e.weight)}),
    "sorted": events().Select(lambda e: {"a": sorted([e.MET_pt])[0]}),
    "no such function": events().Select("lambda e: {'a': nonsense(e.MET_pt)}"),
    "a method": events().Select(lambda e: {"a": e.MET_pt.nonsense()}),
    "ndim": events().Select(lambda e: {"a": e.MET_pt.ndim, "b": e.MET_pt}),
    "a text added": events().Select(lambda e: {"a": e.MET_pt + "x"}),
}

MOMENTA = {
    "momenta": events().Select(
        lambda e: {
            "m": {
                "pt": e.Muon_pt,
                "eta": e.Muon_eta,
                "phi": e.Muon_phi,
                "mass": e.Muon_mass,
            }.Zip().ToFourMomenta()
        }
    ),
    "momenta alone": events().Select(
        lambda e: {
            "pt": e.Muon_pt,
            "eta": e.Muon_eta,
            "phi": e.Muon_phi,
            "mass": e.Muon_mass,
        }.Zip().ToFourMomenta()
    ),
    "parts of momenta": events()
    .Select(
        lambda e: {
            "pt": e.Muon_pt,
            "eta": e.Muon_eta,
            "phi": e.Muon_phi,
            "mass": e.Muon_mass,
        }.Zip().ToFourMomenta()
    )
    .Select(lambda m: {"px": m.px, "py": m.py, "pz": m.pz, "e": m.E, "pt": m.pt}),
    "leading mass": events()
    .Where(lambda e: e.nMuon >= 2)
    .Select(
        lambda e: {
            "pt": e.Muon_pt,
            "eta": e.Muon_eta,
            "phi": e.Muon_phi,
            "mass": e.Muon_mass,
        }.Zip().ToFourMomenta()
    )
    .Select(lambda m: {"mass": (m.ElementAt(0) + m.ElementAt(1)).mass}),
    "momenta added": events()
    .Select(
        lambda e: {
            "pt": e.Muon_pt,
            "eta": e.Muon_eta,
            "phi": e.Muon_phi,
            "mass": e.Muon_mass,
        }.Zip().ToFourMomenta()
    )
    .Select(lambda m: {"sum": m + m}),
    "one momentum": written("""events()
    .Select(
        lambda e: {
            "pt": e.MET_pt,
            "eta": e.MET_phi * 0,
            "phi": e.MET_phi,
            "mass": e.MET_pt * 0,
        }.ToFourMomentum()
    )
    .Select(lambda p: {"x": p.px, "y": p.py})"""),
    "distances": events()
    .Select(
        lambda e: {
            "pt": e.Jet_pt,
            "eta": e.Jet_eta,
            "phi": e.Jet_phi,
            "mass": e.Jet_mass,
        }.Zip().ToFourMomenta()
    )
    .Select(lambda j: {"dr": j.Select(lambda a: j.Select(lambda b: a.deltaR(b)))}),
    "angles between the first two": events()
    .Where(lambda e: e.nMuon >= 2)
    .Select(
        lambda e: {
            "pt": e.Muon_pt,
            "eta": e.Muon_eta,
            "phi": e.Muon_phi,
            "mass": e.Muon_mass,
        }.Zip().ToFourMomenta()
    )
    .Select(lambda m: {"a": m.First(), "b": m.ElementAt(1)})
    .Select(
        lambda m: {
            "dphi": m.a.deltaphi(m.b),
            "deta": m.a.deltaeta(m.b),
            "dot": m.a.dot(m.b),
            "mt": (m.a + m.b).mt,
            "rapidity": (m.a - m.b).rapidity,
        }
    ),
    "momenta boosted": events()
    .Select(
        lambda e: {
            "pt": e.Muon_pt,
            "eta": e.Muon_eta,
            "phi": e.Muon_phi,
            "mass": e.Muon_mass,
        }.Zip().ToFourMomenta()
    )
    .Select(
        lambda m: {
            "boosted": m.boostZ(0.5).pz,
            "turned": m.rotateZ(0.1).phi,
            "scaled": m.scale(2).E,
            "x": m.to_xyzt().x,
            "timelike": m.is_timelike(),
        }
    ),
    "a method that is not called": events()
    .Select(
        lambda e: {
            "pt": e.Muon_pt,
            "eta": e.Muon_eta,
            "phi": e.Muon_phi,
            "mass": e.Muon_mass,
        }.Zip().ToFourMomenta()
    )
    .Select("lambda m: {'a': m.unit}"),
    "mass of momenta that have none": events()
    .Select(lambda e: {"pt": e.Jet_pt, "eta": e.Jet_eta}.Zip().ToFourMomenta())
    .Select(lambda j: {"m": j.mass}),
}

# All names are unique.
CORPUS: dict[str, Any] = {}
for part in (ANALYSES, SHAPES, NAMES, TYPES, REDUCTIONS, COMBINATIONS, EXPRESSIONS, MOMENTA):
    assert not CORPUS.keys() & part.keys()
    CORPUS.update(part)
