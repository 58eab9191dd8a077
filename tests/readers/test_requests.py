"""Requests that reading takes, and bytes that it fetches and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from coffea_sx.forms import OutputForm
from coffea_sx.forms.file_forms import read_forms
from coffea_sx.forms.writers import write
from coffea_sx.query import RESULT_FORMATS
from coffea_sx.readers.columns import METADATA_SIZES, MetadataSizes
from coffea_sx.readers.parquet import open_parquet
from coffea_sx.readers.root import open_root
from coffea_sx.storage.policy import DEFAULT_POLICY, ReadPolicy
from coffea_sx.storage.stored import StoredObject
from coffea_sx.storage.transfer import ObjectPart

N_EVENTS = 100_000


class Counted:
    """A file, and the requests for its bytes."""

    def __init__(self, path: Path, result_format: str) -> None:
        self.content = path.read_bytes()
        trees = read_forms(str(path), result_format)
        self.form = OutputForm(trees, next(iter(trees)), result_format)
        self.requests: list[tuple[int, int | None]] = []

    def fetch(self, start: int, stop: int | None, wanted: Any = None) -> ObjectPart:
        self.requests.append((start, stop))
        ranges = [(start, len(self.content))] if wanted is None else wanted
        pieces = [bytearray(self.content[begin:end]) for begin, end in ranges]
        return ObjectPart(pieces, len(self.content), "etag")

    def read(
        self,
        names: Sequence[str],
        start: int = 0,
        stop: int | None = None,
        sizes: MetadataSizes = METADATA_SIZES,
        policy: ReadPolicy = DEFAULT_POLICY,
    ) -> Any:
        """Read columns; return them and the object they were read from."""
        self.requests.clear()
        stored = StoredObject("o", self.fetch, len(self.content), policy)
        open_ = open_parquet if self.form.result_format == "parquet" else open_root
        with open_(stored, self.form, len(names) / len(self.form.columns), sizes) as columns:
            assert columns is not None
            end = columns.n_events if stop is None else stop
            return columns.arrays(list(names), start, end), stored


@pytest.fixture(scope="module")
def truth() -> Any:
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.5, N_EVENTS)
    columns = {
        f"Jet_x{i}": ak.unflatten(rng.exponential(30, counts.sum()).astype("f4"), counts)
        for i in range(8)
    }
    columns |= {f"flat{i}": ak.Array(rng.normal(size=N_EVENTS)) for i in range(4)}
    return ak.zip(columns, depth_limit=1)


@pytest.fixture(scope="module", params=RESULT_FORMATS)
def counted(request: pytest.FixtureRequest, truth: Any, tmp_path_factory: Any) -> Counted:
    path = tmp_path_factory.mktemp("counted") / "delivered"
    write(truth, str(path), request.param)
    return Counted(path, request.param)


@pytest.mark.parametrize("names", [["Jet_x0", "flat3"], ["flat1"], ["Jet_x3", "Jet_x4"]])
def test_two_requests_at_most_for_some_columns(
    counted: Counted, truth: Any, names: list[str]
) -> None:
    assert 2 << 20 < len(counted.content) < DEFAULT_POLICY.small_bytes
    arrays, stored = counted.read(names)
    for name in names:
        assert ak.array_equal(arrays[name], truth[name], check_parameters=False)
    assert len(counted.requests) == stored.n_requests <= 2
    if counted.form.result_format != "root-rntuple":  # of which small ones are read as a whole
        assert stored.n_bytes < 0.5 * len(counted.content)


def test_one_request_for_all_columns(counted: Counted, truth: Any) -> None:
    arrays, _ = counted.read(truth.fields)
    assert counted.requests[0] == (0, None)
    assert len(counted.requests) == 1
    for name in truth.fields:
        assert ak.array_equal(arrays[name], truth[name], check_parameters=False)


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (50_000, 50_001), (99_000, N_EVENTS), (7, 7)])
def test_some_events(counted: Counted, truth: Any, start: int, stop: int) -> None:
    arrays, _ = counted.read(["Jet_x2", "flat0"], start, stop)
    for name in ("Jet_x2", "flat0"):
        assert arrays[name].to_list() == truth[name][start:stop].to_list()


TINY = MetadataSizes(block=100, per_column=0)


@pytest.fixture
def near() -> ReadPolicy:
    """Policy for a store so near that no byte is fetched to save a request."""
    return ReadPolicy(round_trip_bytes=100, small_bytes=0)


def test_the_list_of_columns_may_be_anywhere(
    counted: Counted, truth: Any, near: ReadPolicy
) -> None:
    names = ["Jet_x0", "flat3"]
    arrays, stored = counted.read(names, sizes=TINY, policy=near)
    for name in names:
        assert ak.array_equal(arrays[name], truth[name], check_parameters=False)
    assert stored.n_bytes < 0.4 * len(counted.content)


def test_a_list_of_columns_behind_the_columns(tmp_path: Path, near: ReadPolicy) -> None:
    """ROOT writes it at the end of a file, uproot only when it has grown."""
    path = tmp_path / "delivered"
    counts = (np.arange(20_000) % 100 == 0).astype(np.int64)
    events = {
        "MET_pt": np.random.default_rng(2).exponential(30, 20_000),
        "Jet_eta": ak.unflatten(np.linspace(-3, 3, 200, dtype=np.float32), counts),
    }
    with uproot.recreate(path) as file:
        types = {"MET_pt": "float64", "Jet_eta": "var * float32"}
        tree = file.mktree("servicex", types, initial_basket_capacity=2)
        tree.extend(events)
        tree.extend({name: column[:10] for name, column in events.items()})
    with uproot.open(path) as file:
        assert file.key("servicex").fSeekKey > 0.9 * path.stat().st_size
    counted = Counted(path, "root-file")
    arrays, _ = counted.read(["Jet_eta"], sizes=TINY, policy=near)
    assert len(counted.requests) > 2
    expected = ak.concatenate([events["Jet_eta"], events["Jet_eta"][:10]])
    assert ak.array_equal(arrays["Jet_eta"], expected, check_parameters=False)
