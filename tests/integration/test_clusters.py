"""Clusters whose workers, owners and clients come, go and fail while a transform is waited for."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import awkward as ak
import dask
import psutil
import pytest
from dask_awkward.lib.core import dak_cache
from distributed import Client, LocalCluster
from support.paces import FAST
from support.spoiled import spoil, spoil_result
from support.strategies import submit_dimuons

from coffea_sx import PollPolicy, ServiceXEventsFactory
from coffea_sx.cluster.publisher import publish
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.demo.samples import make_samples
from coffea_sx.errors import CorruptFile, OwnerLost, TransformFailed, TransformStalled
from coffea_sx.graph.routing import TransformHandle
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import ChannelPolicy
from coffea_sx.polling import registry
from coffea_sx.polling.registry import TransformAddress

# distributed 2025.3 with its own dependencies, when clusters come and go in one process
pytestmark = [
    pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    # the comparison is computed without the cluster, on purpose
    pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler:UserWarning"),
]

# Another notebook: owns a transform, computes it on a cluster or lends its graph, and waits.
NOTEBOOK = """
import cloudpickle, dask, sys
from coffea.nanoevents import NanoEventsFactory
from distributed import Client
import coffea_sx
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query

scheduler, url, lent, order, *files = sys.argv[1:]
options = {"url": url, "schemaclass": SelectionSchema}
with Client(scheduler) as client:
    factory = NanoEventsFactory.from_servicex(dimuon_query(), files, **options)
    if order == "reversed":
        factory = coffea_sx.ServiceXEventsFactory.from_request_id(
            factory.request_id, files[::-1], **options
        )
    numbers = factory.events().event
    if lent:
        (optimized,) = dask.optimize(numbers)
        with open(lent, "wb") as file:
            cloudpickle.dump((dict(optimized.dask), optimized.__dask_keys__()), file)
    print(factory.request_id, flush=True)
    if lent:
        sys.stdin.read()
    print(numbers.compute().to_list(), flush=True)
"""

WAYS = (
    *("synchronous", "threads", "distributed"),
    *("virtual", "as_completed", "accumulate", "runner"),
)
# A script that waits for a result that never comes, until Ctrl-C.
WAITING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import FuturesExecutor, Runner
from distributed import Client, LocalCluster
import coffea_sx
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query

def wait(way, factory):
    if way == "virtual":
        factory.events()
    elif way == "as_completed":
        list(factory.as_completed())
    elif way == "accumulate":
        list(factory.accumulate(len))
    elif way == "runner":
        pool = factory.pool(ThreadPoolExecutor(2))
        executor = FuturesExecutor(pool=pool, status=False)
        Runner(executor, schema=factory.schema).run(factory.work_items(), len)
    else:
        factory.events().event.compute(scheduler=way)

def main(way, url, *files):
    factory = NanoEventsFactory.from_servicex(
        dimuon_query(),
        files,
        url=url,
        schemaclass=SelectionSchema,
        mode="virtual" if way == "virtual" else "dask",
    )
    print("waiting", flush=True)
    try:
        wait(way, factory)
    except KeyboardInterrupt:
        print("interrupted", flush=True)

if __name__ == "__main__":
    if sys.argv[1] == "distributed":
        with LocalCluster(n_workers=1, dashboard_address=":0") as cluster, Client(cluster):
            main(*sys.argv[1:])
    else:
        main(*sys.argv[1:])
"""


class Held:
    """Holds files until they are released; those before ``first`` are not held."""

    def __init__(self, files: list[str], first: int = 0) -> None:
        self.held = set(files[first:])
        self.released = threading.Event()

    async def __call__(self, path: str) -> None:
        while path in self.held and not self.released.is_set():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster of two processes with two threads each."""
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def serial(collection: Any) -> Any:
    return collection.compute(scheduler="synchronous")


def until(condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_polled(server: LocalServiceX, request_id: str) -> bool:
    """Return True if rows of results were requested, which is when a task waits."""
    path = f"/servicex/transformation/{request_id}/results"
    return any(exchange.path == path for exchange in list(server.exchanges))


@contextmanager
def notebook(
    cluster: LocalCluster,
    server: LocalServiceX,
    files: list[str],
    lent: Path | str = "",
    order: str = "",
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run another notebook; give its process and the id of its request."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", NOTEBOOK),
            *(cluster.scheduler_address, server.url, str(lent), order, *files),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


# -- workers


def _busy(events: Any, seconds: float) -> Any:
    time.sleep(seconds)
    return events


SERVER = """
import sys
from coffea_sx.graph.routing import TransformHandle
from coffea_sx.local import LocalServiceX

if __name__ == "__main__":
    with LocalServiceX() as server:
        print(server.url, flush=True)
        sys.stdin.read()
"""


@contextmanager
def server_elsewhere() -> Iterator[str]:
    """A server in a process of its own, whose children are not those of the cluster."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_killed_workers_change_nothing(tmp_path: Path) -> None:
    """Four workers, one of which is killed every two seconds; five of a hundred inputs fail."""
    files = make_samples(tmp_path, n_files=100, n_events=20)
    for path in files[7::20]:
        spoil(path)
    killing = dask.config.set(
        {
            # Any worker may have the bad luck to run the same task when it is killed.
            "distributed.scheduler.allowed-failures": 1000,
            # One that is killed again so long after the first time is not started again.
            "distributed.deploy.lost-worker-timeout": "5 minutes",
        }
    )
    with server_elsewhere() as url, killing:
        factory = ServiceXEventsFactory.from_servicex(
            dimuon_query(),
            files,
            url=url,
            schemaclass=SelectionSchema,
            on_failure="skip",
            steps_per_file=5,
            pace=FAST,
        )
        events, rows = factory.events()
        slow = events.event.map_partitions(_busy, seconds=0.1, meta=events.event._meta)
        n_killed = 0
        with (
            LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            futures = client.compute([slow, rows])
            # What a worker has computed dies with it: killing for ever, nothing would ever be done.
            while n_killed < 8 and not all(future.done() for future in futures):
                time.sleep(2)
                # A nanny whose worker is killed while it starts never starts another.
                registered = client.scheduler_info()["workers"]
                nannies = cluster.workers.values()
                pids = [nanny.pid for nanny in nannies if nanny.worker_address in registered]
                if pids:
                    os.kill(random.choice(pids), signal.SIGKILL)
                    n_killed += 1
            numbers, found = client.gather(futures)
            # A nanny that is just starting a worker cannot be closed.
            client.wait_for_workers(4, timeout=60)
        assert n_killed >= 3
        expected, expected_rows = dask.compute(events.event, rows, scheduler="synchronous")
    assert ak.array_equal(numbers, expected)
    same = [name for name in found.fields if name != "duration"]
    assert found[same].to_list() == expected_rows[same].to_list()
    report = factory.report(found)
    assert (report.n_inputs, report.n_failed, report.n_read) == (100, 5, 95)
    assert report.n_events == report.n_events_delivered == len(numbers) > 500


@pytest.mark.long
def test_a_worker_that_joins_while_others_wait(nano_files: list[str]) -> None:
    held = Held(nano_files, first=1)
    with (
        LocalServiceX(before_report=held) as server,
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        factory = submit_dimuons(server, nano_files)
        numbers = factory.events().event
        slow = numbers.map_partitions(_busy, seconds=0.3, meta=numbers._meta)
        future = client.compute(slow)
        until(lambda: is_polled(server, factory.request_id))
        cluster.scale(2)
        client.wait_for_workers(2, timeout=40)
        held.released.set()
        found = future.result(60)
        assert ak.array_equal(found, serial(numbers))


# -- owners


@pytest.mark.slow
def test_another_client_takes_over_while_workers_wait(
    cluster: LocalCluster, client: Client, nano_files: list[str]
) -> None:
    files = nano_files[:4]
    held = Held(files, first=1)
    with LocalServiceX(before_report=held) as server:
        with notebook(cluster, server, files) as (process, request_id):
            until(lambda: is_polled(server, request_id))
            process.kill()
            process.wait(10)
        factory = ServiceXEventsFactory.from_request_id(
            request_id, url=server.url, schemaclass=SelectionSchema, pace=FAST
        )
        numbers = factory.events().event
        future = client.compute(numbers)
        time.sleep(0.5)
        assert not future.done()
        held.released.set()
        assert ak.array_equal(future.result(30), serial(numbers))


@pytest.mark.slow
def test_two_owners_of_one_request(
    cluster: LocalCluster, client: Client, nano_files: list[str]
) -> None:
    files = nano_files[:4]
    held = Held(files, first=1)
    with (
        LocalServiceX(before_report=held) as server,
        notebook(cluster, server, files) as (process, request_id),
    ):
        factory = ServiceXEventsFactory.from_request_id(
            request_id, url=server.url, schemaclass=SelectionSchema, pace=FAST
        )
        numbers = factory.events().event
        future = client.compute(numbers)
        until(lambda: is_polled(server, request_id))
        held.released.set()
        output, _ = process.communicate(timeout=40)
        found = future.result(30)
        assert found.to_list() == serial(numbers).to_list()
        assert output.strip() == str(found.to_list())


def test_two_clients_and_two_transforms_at_once(
    cluster: LocalCluster, nano_files: list[str]
) -> None:
    held = Held(nano_files, first=1)
    with (
        LocalServiceX(before_report=held) as server,
        Client(cluster) as client,
        Client(cluster) as other,
    ):
        first = submit_dimuons(server, nano_files[:4]).events().event
        second = submit_dimuons(server, nano_files[4:]).events().event
        futures = [client.compute(first), other.compute(second)]
        time.sleep(0.5)
        assert not any(future.done() for future in futures)
        held.released.set()
        found = [future.result(30) for future in futures]
        assert [ak.array_equal(a, serial(b)) for a, b in zip(found, (first, second), strict=True)]
        assert [sorted(set((a // 500).to_list())) for a in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]


IMPATIENT = ChannelPolicy(poll_s=0.5, owner_timeout_s=2.0)


def subscribe_impatiently(address: TransformAddress, dask_worker: Any) -> None:
    """Let a worker give up the owner of a transform soon."""
    from coffea_sx.cluster.subscriber import Subscriber
    from coffea_sx.polling.registry import connections

    connections.get(address, lambda: Subscriber(dask_worker, address, IMPATIENT))


def lent_graph(client: Client, path: Path) -> tuple[Any, Any]:
    """Read the graph of another notebook, for workers that give up its owner soon."""
    graph, keys = pickle.loads(path.read_bytes())
    handles = (arg for task in graph.values() for arg in getattr(task, "args", ()))
    address = next(arg.address for arg in handles if isinstance(arg, TransformHandle))
    client.run(subscribe_impatiently, address)
    return graph, keys


@pytest.mark.slow
def test_workers_go_on_without_an_owner_that_is_gone(
    cluster: LocalCluster, client: Client, nano_files: list[str], tmp_path: Path
) -> None:
    files = nano_files[:3]
    held = Held(files)  # else a worker may read a result of which only the owner has the URL
    with LocalServiceX(before_report=held) as server:
        with notebook(cluster, server, files, tmp_path / "lent") as (_, request_id):
            graph, keys = lent_graph(client, tmp_path / "lent")
            futures = client.get(graph, keys, sync=False)
            until(lambda: is_polled(server, request_id))
        held.released.set()
        parts = [future.result(40) for future in futures]
        assert [set((part // 500).to_list()) for part in parts] == [{0}, {1}, {2}]


@pytest.mark.slow
def test_workers_do_not_wait_for_an_order_that_only_a_lost_owner_had(
    cluster: LocalCluster, client: Client, nano_files: list[str], tmp_path: Path
) -> None:
    files = nano_files[:3]
    held = Held(files)
    with LocalServiceX(before_report=held) as server:
        lent = tmp_path / "lent"
        with notebook(cluster, server, files, lent, "reversed") as (_, request_id):
            graph, keys = lent_graph(client, lent)
            futures = client.get(graph, keys, sync=False)
            until(lambda: is_polled(server, request_id))
        for future in futures:
            with pytest.raises(OwnerLost, match="no longer answers"):
                future.result(40)


def test_events_that_are_defined_anew_reach_workers(
    cluster: LocalCluster, client: Client, nano_files: list[str]
) -> None:
    files = nano_files[:3]
    held = Held(files, first=1)
    with LocalServiceX(before_report=held) as server:

        def submitted(which: slice) -> Any:
            return client.compute(submit_dimuons(server, files).events().event.partitions[which])

        # Nothing holds its events: what the cluster does not need any more is dropped.
        assert submitted(slice(0, 1)).result(40).to_list()
        everything = submitted(slice(0, 3))
        held.released.set()
        assert set((everything.result(40) // 500).to_list()) == {0, 1, 2}


@pytest.mark.long
def test_tasks_outlive_what_they_were_made_of(nano_files: list[str]) -> None:
    with (
        LocalServiceX() as server,
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        def computed() -> Any:
            factory = submit_dimuons(server, nano_files)
            poller: Any = registry.find_source(factory.request_id)
            publish(poller, ChannelPolicy(poll_s=0.2))
            numbers = factory.events().event
            future = client.compute(numbers.map_partitions(_busy, 1.0, meta=numbers._meta))
            return future, factory.request_id

        future, request_id = computed()
        dak_cache.clear()  # it keeps graphs, too
        # All files are resolved at once, and no task waits; but most are read much later.
        assert set((future.result(60) // 500).to_list()) == set(range(8))
        assert registry.find_source(request_id) is not None
        del future

        def is_forgotten() -> bool:
            gc.collect()
            return registry.find_source(request_id) is None

        until(is_forgotten)


# -- errors


def n_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def stall_of(numbers: Any) -> str:
    """Compute what stalls. An error that is kept would keep the failed tasks in the scheduler."""
    try:
        numbers.compute()
    except TransformStalled as stall:
        return str(stall)
    raise AssertionError("it did not stall")


@pytest.mark.slow
def test_computing_again_after_a_stall_waits_again(client: Client, nano_files: list[str]) -> None:
    files = nano_files[:3]
    held = Held(files, first=1)
    with LocalServiceX(before_report=held) as server:
        pace = PollPolicy(busy_s=0.02, idle_s=0.1, stall_s=1.0)
        numbers = submit_dimuons(server, files, pace=pace).events().event
        for _ in range(2):
            start = time.monotonic()
            assert "of 3 input files were finished" in stall_of(numbers)
            assert time.monotonic() - start > 0.9
            # Failed tasks that the scheduler has not dropped yet fail again at once.
            until(lambda: not client.run_on_scheduler(n_tasks))
        threading.Timer(0.5, held.released.set).start()
        found = numbers.compute()
        assert ak.array_equal(found, serial(numbers))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("scheduler", ["distributed", "threads"])
def test_max_failed_counts_transforms_and_reads_together(
    client: Client, nano_files: list[str], tmp_path: Path, scheduler: str
) -> None:
    files = [str(shutil.copy(path, tmp_path)) for path in nano_files[:5]]
    for path in files[3:]:
        spoil(path)
    with LocalServiceX() as server:
        factory = submit_dimuons(server, files, on_failure="skip")
        events, _ = factory.events()
        serial(events.event)
        spoil_result(server, factory, 1)

        def again(max_failed: int | float) -> Any:
            return ServiceXEventsFactory.from_request_id(
                factory.request_id,
                url=server.url,
                schemaclass=SelectionSchema,
                on_failure="skip",
                max_failed=max_failed,
                pace=FAST,
            ).events()

        numbers, rows = again(3)
        found, rows = dask.compute(numbers.event, rows, scheduler=scheduler)
        assert sorted(set((found // 500).to_list())) == [0, 2]
        assert rows.failed_at.to_list() == [None, "read", None, "transform", "transform"]

        # The two that were not transformed are tolerated, and so is the one that is not read:
        # the last of them is too many.
        numbers, _ = again(2)
        too_many = pytest.raises(
            (CorruptFile, TransformFailed), match="one of 3 input files that failed"
        )
        with too_many as caught:
            numbers.event.compute(scheduler=scheduler)
        assert caught.value.input_file in (files[1], *files[3:])

        numbers, _ = again(0.2)
        with pytest.raises(TransformFailed, match=r"more than max_failed=0\.2"):
            numbers.event.compute(scheduler=scheduler)


# -- Ctrl-C


def line_of(file: IO[str], wanted: str) -> str:
    """Read until a line is the wanted one, or to the end: coffea prints some of its own."""
    return next((line for line in file if line == wanted), "")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_ends_a_wait_that_never_ends(
    nano_files: list[str], tmp_path: Path, way: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(WAITING)
    files = nano_files[:3]
    with LocalServiceX(before_report=Held(files)) as server, ThreadPoolExecutor(1) as pool:
        process = subprocess.Popen(
            [sys.executable, str(script), way, server.url, *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for a whole group of processes
        )
        assert process.stdout is not None
        with process:
            try:
                assert process.stdout.readline() == "waiting\n"
                until(lambda: any(e.path.endswith("/results") for e in server.exchanges))
                children = psutil.Process(process.pid).children(recursive=True)
                start = time.monotonic()
                os.killpg(process.pid, signal.SIGINT)
                output = pool.submit(line_of, process.stdout, "interrupted\n").result(20)
                took_s = time.monotonic() - start
                process.wait(15)
            finally:
                process.kill()
    assert output == "interrupted\n"
    assert took_s < 1
    assert process.returncode == 0
    assert bool(children) == (way == "distributed")
    assert psutil.wait_procs(children, timeout=5)[1] == []
