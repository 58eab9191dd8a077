"""Sample files: reproducible, and like NanoAOD."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from coffea_sx.demo.samples import MUON_MASS, make_samples


def arrays(path):
    with uproot.open({path: "Events"}) as tree:
        return tree.arrays()


def test_names_and_sizes(tmp_path):
    paths = make_samples(tmp_path / "new" / "folder", 3, 20)
    assert paths == [str(tmp_path / f"new/folder/nano_{i}.root") for i in range(3)]
    assert [len(arrays(path)) for path in paths] == [20] * 3


def test_the_same_seed_gives_the_same_events(tmp_path):
    (first,), (second,), (other,) = (
        make_samples(tmp_path / name, 1, 50, seed) for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert ak.array_equal(arrays(first), arrays(second))
    assert not ak.array_equal(arrays(first).MET_pt, arrays(other).MET_pt)


def test_event_numbers_are_unique(nano_files):
    events = np.concatenate([arrays(path).event for path in nano_files])
    assert sorted(events) == list(range(500 * len(nano_files)))


def test_files_with_few_or_no_events(tmp_path):
    for n in (0, 1, 2):
        (path,) = make_samples(tmp_path / str(n), 1, n)
        assert len(arrays(path)) == n


def test_physics(nano_files):
    events = arrays(nano_files[0])
    n_muons = ak.num(events.Muon_pt)
    assert set(n_muons) == {0, 2}
    assert 0.5 < np.mean(n_muons == 2) < 0.7
    assert ak.all(ak.sum(events.Muon_charge, axis=1) == 0)
    assert np.allclose(ak.flatten(events.Muon_mass), MUON_MASS)
    assert ak.all(events.Jet_pt[:, :-1] >= events.Jet_pt[:, 1:])
    assert ak.all(abs(events.Muon_phi) <= np.pi + 1e-6)


# The samples have no columns like Electron_jetIdx, which the schema would cross-reference.
@pytest.mark.filterwarnings("ignore:Missing cross-reference index:RuntimeWarning")
def test_coffea_sees_a_z_boson(nano_files):
    events = NanoEventsFactory.from_root(
        {nano_files[0]: "Events"}, schemaclass=NanoAODSchema, mode="eager"
    ).events()
    pairs = events.Muon[ak.num(events.Muon) == 2]
    mass = (pairs[:, 0] + pairs[:, 1]).mass
    assert 85 < np.median(mass) < 95
