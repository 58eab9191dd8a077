"""How long deriving a form takes, against opening a local file and asking uproot for its form.

``python benchmarks/forms.py [--out forms.json]``. Both are measured in turns in one run; what
counts is the ratio of the medians, and how it grows with the number of branches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import uproot
from servicex import query

from coffea_sx import derive_form
from coffea_sx.forms.input_form import input_form

ROUNDS = 7
PER_COLLECTION = 15


def top_quark_query() -> Any:
    """Make a query like that of an analysis of top quark pairs: leptons, jets, b tags."""
    return (
        query.FuncADL_Uproot()
        .FromTree("Events")
        .Where(lambda e: e["Electron_pt"].Where(lambda pt: pt > 30).Count() < 2)
        .Select(
            lambda e: {
                "run": e["run"],
                "luminosityBlock": e["luminosityBlock"],
                "event": e["event"],
                "Electron_pt": e["Electron_pt"],
                "Electron_eta": e["Electron_eta"],
                "Muon_pt": e["Muon_pt"],
                "Muon_eta": e["Muon_eta"],
                "Jet_pt": e["Jet_pt"],
                "Jet_eta": e["Jet_eta"],
                "Jet_phi": e["Jet_phi"],
                "Jet_mass": e["Jet_mass"],
                "Jet_scaled": e["Jet_pt"] * 1.03,
                "n_jets": e["Jet_pt"].Where(lambda pt: pt > 25).Count(),
            }
        )
    )


def write_wide(path: Path, n_branches: int) -> None:
    """Write a NanoAOD-like file: collections of jagged columns, each with its counter."""
    names = ["pt", "eta", "phi", "mass", *(f"v{i}" for i in range(PER_COLLECTION - 4))]
    collections = ["Electron", "Muon", "Jet"]
    per_collection = 2 * len(names)  # a counter for each jagged column
    collections += [f"C{i}" for i in range(max(0, n_branches // per_collection - 3))]
    counts = np.array([2, 0, 3])
    columns: dict[str, Any] = {name: np.arange(3) for name in ("run", "luminosityBlock", "event")}
    import awkward as ak

    for collection in collections:
        for name in names:
            values = np.arange(counts.sum(), dtype=np.float32)
            columns[f"{collection}_{name}"] = ak.unflatten(values, counts)
    with uproot.recreate(path) as file:
        types = {n: c.dtype if isinstance(c, np.ndarray) else c.type for n, c in columns.items()}
        file.mktree("Events", types).extend(columns)


def seconds(work: Callable[[], Any]) -> float:
    """Time one call."""
    start = perf_counter()
    work()
    return perf_counter() - start


def measured(n_branches: int, directory: Path) -> dict[str, float]:
    """Measure both in turns; medians in seconds."""
    path = directory / f"{n_branches}.root"
    write_wide(path, n_branches)
    form = input_form({str(path): "Events"}, None)
    asked = top_quark_query()

    def derive() -> Any:
        return derive_form(asked, form)

    def open_file() -> Any:
        return uproot.dask({str(path): "Events"}, open_files=False).layout.form

    derive(), open_file()
    times = [(seconds(derive), seconds(open_file)) for _ in range(ROUNDS)]
    derived, opened = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "branches": len(form.fields),
        "derive_s": round(derived, 4),
        "open_and_ask_s": round(opened, 4),
        "ratio": round(derived / opened, 2),
    }


def main() -> None:
    """Print a table, and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="forms.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        rows = [measured(n, Path(directory)) for n in (375, 750, 1500, 3000)]
    print(*(f"{name:>16}" for name in rows[0]))
    for row in rows:
        print(*(f"{value:16}" for value in row.values()))
    Path(options.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
