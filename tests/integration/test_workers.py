"""Events on dask.distributed: workers learn outcomes from the owner, and hold no slot waiting."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import awkward as ak
import dask
import pytest
from coffea.nanoevents import NanoEventsFactory
from distributed import Client, LocalCluster, wait
from support.strategies import submit_dimuons

from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.demo.samples import make_samples
from coffea_sx.errors import QueryError, TransformFailed
from coffea_sx.local import LocalServiceX
from coffea_sx.polling import registry

# distributed 2025.3 with its own dependencies, when clusters come and go in one process
pytestmark = [
    pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    # the comparison is computed without the cluster, on purpose
    pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler:UserWarning"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A cluster of two processes with two threads each."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.run(_warm)
        yield client


def _warm() -> None:
    import coffea_sx.demo.analysis  # noqa: F401


def events_of(server: LocalServiceX, files: list[str], **options: Any) -> Any:
    factory = submit_dimuons(server, files, **options)
    return factory, factory.events()


def test_the_processor_runs_unchanged(
    client: Client, servicex: LocalServiceX, nano_files: list[str]
) -> None:
    processor = DimuonProcessor()
    _, events = events_of(servicex, nano_files, ignore_cache=True)
    (of_servicex,) = dask.compute(processor.process(events))
    direct = NanoEventsFactory.from_root(
        dict.fromkeys(nano_files, "Events"), mode="dask", schemaclass=SelectionSchema
    ).events()
    (of_root,) = dask.compute(processor.process(direct))
    (serial,) = dask.compute(processor.process(events), scheduler="synchronous")
    assert of_servicex == of_root == serial


def holders(outcome: Any) -> list[Any]:
    """Return the objects that hold an outcome, except for the variables of functions."""
    return [h for h in gc.get_referrers(outcome) if not isinstance(h, FrameType)]


@pytest.mark.slow
def test_the_owner_keeps_no_copy_for_workers(
    client: Client, servicex: LocalServiceX, nano_files: list[str]
) -> None:
    factory, events = events_of(servicex, nano_files, ignore_cache=True)
    events.event.compute()
    poller: Any = registry.find_source(factory.request_id)
    for index in range(len(nano_files)):
        (holder,) = holders(poller.outcomes[index])
        assert holder is poller.outcomes


def test_workers_request_nothing_from_servicex(
    client: Client, servicex: LocalServiceX, nano_files: list[str]
) -> None:
    factory, events = events_of(servicex, nano_files, ignore_cache=True)
    before = len(servicex.exchanges)
    events.Muon.pt.compute()
    requests = [e for e in list(servicex.exchanges)[before:] if e.path.startswith("/servicex")]
    # Only the owner makes requests, whatever the number of workers, threads and partitions.
    assert {e.path.rsplit("/", 1)[-1] for e in requests} <= {
        "results",
        "file-urls",
        "errors",
        factory.request_id,
        "servicex",
    }
    assert len(factory.reads) == 8


class Reversed:
    """Let results be reported in reverse order, one per interval; an async server-side pace."""

    def __init__(self, files: list[str], interval_s: float) -> None:
        self.rank = {path: len(files) - 1 - i for i, path in enumerate(files)}
        self.interval_s = interval_s
        self.transformed = 0
        self.started: float | None = None

    async def __call__(self, path: str) -> None:
        self.transformed += 1
        while self.transformed < len(self.rank):
            await asyncio.sleep(0.01)
        if self.started is None:
            self.started = time.time()
        await asyncio.sleep(self.started + self.rank[path] * self.interval_s - time.time())


def _busy(events: Any, seconds: float) -> Any:
    """Take some time for each partition, without the processor."""
    time.sleep(seconds)
    return events


class LastIsHeld(Reversed):
    """Report the last result once so many partitions were read as there are other results."""

    n_read: Callable[[], int]

    async def __call__(self, path: str) -> None:
        await super().__call__(path)
        deadline = time.monotonic() + 60
        if self.rank[path] == len(self.rank) - 1:
            while self.n_read() < self.rank[path] and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            self.n_read_before = self.n_read()


@pytest.mark.long
def test_analysis_overlaps_delivery_in_reverse_order(client: Client, tmp_path: Path) -> None:
    # How much time that saves: benchmarks/resolution.py --only overlap.
    n_files = 100
    files = make_samples(tmp_path, n_files, n_events=50)
    held = LastIsHeld(files, 0.05)
    with LocalServiceX(before_report=held) as server:
        factory, events = events_of(server, files)
        held.n_read = lambda: len(factory.reads)
        numbers = events.event.compute()
        again = events.event.compute()
    assert held.n_read_before == n_files - 1
    assert ak.array_equal(numbers, again)
    files_in_order = (numbers // 50).to_list()
    assert files_in_order == sorted(files_in_order)  # partition i holds input file i
    assert len(set(files_in_order)) == n_files


def test_a_partition_is_its_input_file_in_any_order(client: Client, tmp_path: Path) -> None:
    files = make_samples(tmp_path, 12, n_events=60)
    with LocalServiceX(before_report=Reversed(files, 0.02)) as server:
        _, events = events_of(server, files)
        for i in (3, 11, 0):
            numbers = events.partitions[i].event.compute()
            assert set(ak.to_list(numbers // 60)) == {i}


def test_a_killed_worker_changes_nothing(servicex: LocalServiceX, nano_files: list[str]) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        _, events = events_of(servicex, nano_files, ignore_cache=True)
        slow = events.event.map_partitions(_busy, seconds=0.5, meta=events.event._meta)
        future = client.compute(slow)
        time.sleep(1.0)
        assert not future.done()
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        wait(future, timeout=60)
        after = future.result()
        serial = events.event.compute(scheduler="synchronous")
    assert ak.array_equal(after, serial)


@pytest.mark.slow
def test_a_failed_file_ends_the_wait_on_workers(
    client: Client, nano_files: list[str], tmp_path: Path
) -> None:
    corrupt = tmp_path / "corrupt.root"
    corrupt.write_bytes(b"root" + bytes(2000))
    files = [*nano_files[:5], str(corrupt), *nano_files[5:7]]
    with LocalServiceX() as server:
        _, events = events_of(server, files)
        start = time.monotonic()
        with pytest.raises(TransformFailed, match=str(corrupt)) as caught:
            events.Muon.pt.compute()
        assert time.monotonic() - start < 20
        assert caught.value.input_file == str(corrupt)
        assert caught.value.reason

        _, (events, report) = events_of(server, files, on_failure="skip")
        numbers, rows = dask.compute(events.event, report)
        (failed,) = rows[~ak.is_none(rows.exception)].to_list()
        assert failed["input_file"] == str(corrupt)
        assert ak.sum(rows.n_events) == len(numbers) > 0


@pytest.mark.slow
def test_workers_that_come_later_learn_everything(
    servicex: LocalServiceX, nano_files: list[str]
) -> None:
    _, events = events_of(servicex, nano_files, ignore_cache=True)
    serial = events.event.compute(scheduler="synchronous")
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        assert ak.array_equal(events.event.compute(), serial)
        cluster.scale(2)
        client.wait_for_workers(2, timeout=30)
        again = events.event.map_partitions(_busy, seconds=0.05, meta=events.event._meta)
        assert ak.array_equal(again.compute(), serial)


@pytest.mark.slow
def test_a_cluster_in_this_process(servicex: LocalServiceX, nano_files: list[str]) -> None:
    _, events = events_of(servicex, nano_files, ignore_cache=True)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
    ):
        distributed = events.event.compute()
    assert ak.array_equal(distributed, events.event.compute(scheduler="synchronous"))


@pytest.mark.slow
def test_futures_outlive_their_graph(
    client: Client, servicex: LocalServiceX, nano_files: list[str]
) -> None:
    _, events = events_of(servicex, nano_files, ignore_cache=True)
    expected = events.event.compute(scheduler="synchronous")
    _, events = events_of(servicex, nano_files, ignore_cache=True)
    persisted = events.event.persist()
    del events
    gc.collect()
    assert ak.array_equal(persisted.compute(), expected)


def test_deriving_a_form_is_silent_beside_a_cluster(client: Client, nano_files: list[str]) -> None:
    import warnings

    from coffea_sx import derive_form

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert "Muon_pt" in derive_form(dimuon_query(), {nano_files[0]: "Events"}).columns
        with pytest.raises(QueryError, match="does not fit the type"):
            derive_form(
                "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) "
                "(dict (list 'a') (list (+ (subscript e 'nJet') 99999999999)))))",
                {nano_files[0]: "Events"},
                codegen="uproot",
            )
