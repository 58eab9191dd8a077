"""Small ROOT files that look like NanoAOD: Z bosons to muons, with jets, electrons and MET."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_MASS, Z_WIDTH, MUON_MASS = 91.19, 2.5, 0.10566  # GeV

Floats = NDArray[np.float64]


def make_samples(directory: str | Path, n_files: int, n_events: int, seed: int = 1) -> list[str]:
    """Write files ``nano_0.root``, ``nano_1.root``, … with a tree ``Events`` each.

    Parameters
    ----------
    directory : path
        Created if it does not exist.
    n_files : int
    n_events : int
        Events in each file.
    seed : int
        The same seed gives the same events.

    Returns
    -------
    list of str
        Paths in the order of their numbers.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"nano_{i}.root" for i in range(n_files)]
    for i, path in enumerate(paths):
        write_sample(path, n_events, np.random.default_rng([seed, i]), first_event=i * n_events)
    return [str(path) for path in paths]


def write_sample(path: Path, n_events: int, rng: np.random.Generator, first_event: int = 0) -> None:
    """Write one file."""
    import uproot

    with uproot.recreate(path) as file:
        columns = sample_events(n_events, rng, first_event)
        tree = file.mktree(
            "Events", {name: column.type.content for name, column in columns.items()}
        )
        tree.extend(columns)


def sample_events(n_events: int, rng: np.random.Generator, first_event: int = 0) -> dict[str, Any]:
    """Return random events: columns and collections of a NanoAOD file.

    Energies are in GeV. Six of ten events have a pair of muons from a Z boson or the continuum
    below it; the others have jets and noise only.
    """
    import awkward as ak

    event = np.arange(first_event, first_event + n_events, dtype=np.uint64)
    has_pair = rng.random(n_events) < 0.6
    return {
        "run": ak.Array(np.full(n_events, 362_104, dtype=np.uint32)),
        "luminosityBlock": ak.Array((event // 200 + 1).astype(np.uint32)),
        "event": ak.Array(event),
        "MET_pt": ak.Array(rng.exponential(22.0, n_events).astype(np.float32)),
        "MET_phi": ak.Array(_angle(rng, n_events)),
        "Muon": _muons(rng, has_pair),
        "Electron": _particles(rng, rng.poisson(0.25, n_events), 5.0, 15.0, 0.000511, charged=True),
        "Jet": _particles(rng, rng.poisson(2.2, n_events), 20.0, 35.0, 8.0, charged=False),
    }


def _muons(rng: np.random.Generator, has_pair: NDArray[np.bool_]) -> Any:
    import awkward as ak

    pairs = _z_decays(rng, int(has_pair.sum()))
    counts = np.where(has_pair, 2, 0)
    muons = {name: ak.unflatten(values.reshape(-1), counts) for name, values in pairs.items()}
    return ak.zip(muons)


def _z_decays(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Return two muons for each of n bosons, which decay isotropically in their rest frame."""
    mass = np.where(
        rng.random(n) < 0.8,
        np.clip(Z_MASS + 0.5 * Z_WIDTH * rng.standard_cauchy(n), 20.0, 160.0),
        15.0 + rng.exponential(30.0, n),
    )
    pt, phi, rapidity = rng.exponential(18.0, n), _angle(rng, n), rng.normal(0.0, 1.1, n)
    energy_t = np.hypot(mass, pt)
    boson = np.array(
        [
            energy_t * np.cosh(rapidity),
            pt * np.cos(phi),
            pt * np.sin(phi),
            energy_t * np.sinh(rapidity),
        ]
    )
    cos_theta, decay_phi = rng.uniform(-1.0, 1.0, n), _angle(rng, n)
    sin_theta = np.sqrt(1 - cos_theta**2)
    momentum = np.sqrt(mass**2 / 4 - MUON_MASS**2)
    direction = momentum * np.array(
        [sin_theta * np.cos(decay_phi), sin_theta * np.sin(decay_phi), cos_theta]
    )
    muons = [_boosted(mass / 2, sign * direction, boson, mass) for sign in (1, -1)]
    resolution = rng.normal(1.0, 0.012, (n, 2))
    px, py, pz = (np.stack([muon[k] for muon in muons], axis=1) for k in range(3))
    pt_muon = np.hypot(px, py)
    charge = np.where(rng.random(n) < 0.5, 1, -1)
    return {
        "pt": (pt_muon * resolution).astype(np.float32),
        "eta": np.arcsinh(pz / pt_muon).astype(np.float32),
        "phi": np.arctan2(py, px).astype(np.float32),
        "mass": np.full((n, 2), MUON_MASS, dtype=np.float32),
        "charge": np.stack([charge, -charge], axis=1).astype(np.int32),
    }


def _boosted(energy: Floats, momentum: Floats, boson: Floats, mass: Floats) -> Floats:
    """Transform a momentum from the rest frame of a boson to the laboratory."""
    along = (boson[1:] * momentum).sum(axis=0)
    return momentum + boson[1:] * (along / (mass * (boson[0] + mass)) + energy / mass)


def _particles(
    rng: np.random.Generator,
    counts: NDArray[np.int64],
    threshold: float,
    slope: float,
    mass: float,
    *,
    charged: bool,
) -> Any:
    import awkward as ak

    n = int(counts.sum())
    columns = {
        "pt": (threshold + rng.exponential(slope, n)).astype(np.float32),
        "eta": np.clip(rng.normal(0.0, 1.6, n), -4.7, 4.7).astype(np.float32),
        "phi": _angle(rng, n),
        "mass": (mass * rng.uniform(0.5, 1.5, n)).astype(np.float32),
    }
    if charged:
        columns["charge"] = rng.choice([-1, 1], n).astype(np.int32)
    jagged = {name: ak.unflatten(column, counts) for name, column in columns.items()}
    particles = ak.zip(jagged)
    return particles[ak.argsort(particles.pt, ascending=False)]


def _angle(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.uniform(-np.pi, np.pi, n).astype(np.float32)
