"""Canaries for the private API of dask.distributed."""

from __future__ import annotations

import asyncio
import threading

import pytest
from distributed import Client, LocalCluster, Worker

from coffea_sx._upstream import distributed as upstream

pytestmark = [
    pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


BEGUN, RELEASED = threading.Event(), asyncio.Event()


async def wait_for_release():
    upstream.secede_coroutine(upstream.worker_of_loop(asyncio.get_running_loop()), "waits")
    BEGUN.set()
    await asyncio.wait_for(RELEASED.wait(), 20)
    return "released"


async def release():
    RELEASED.set()


@pytest.fixture(scope="module")
def client():
    """A cluster in this process, whose only worker has one thread."""
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(processes=False, **options) as cluster, Client(cluster) as client:
        yield client


def test_all_clients(client):
    with Client(client.cluster) as other:
        assert {client, other} <= set(upstream.all_clients())


def test_worker_of_loop(client):
    async def worker_here():
        return upstream.worker_of_loop(asyncio.get_running_loop())

    (address,) = client.scheduler_info()["workers"]
    assert client.submit(worker_here, pure=False).result(20) is not None
    worker = client.cluster.workers[0]
    assert upstream.worker_of_loop(worker.loop.asyncio_loop) is worker
    assert worker.address == address
    assert asyncio.run(worker_here()) is None


def test_secede_coroutine(client):
    """A worker with one thread runs a second task while the coroutine of the first one waits."""
    waits = client.submit(wait_for_release, key="waits")
    assert BEGUN.wait(20)
    client.submit(release, key="releases").result(20)
    assert waits.result(20) == "released"


def test_add_handler(client):
    async def double(number):
        return 2 * number

    upstream.add_handler(client.cluster.scheduler, "servicex_double", double)

    async def call():
        return await client.scheduler.servicex_double(number=21)

    assert client.sync(call) == 42


def test_has_task_group(client):
    scheduler = client.cluster.scheduler
    assert not upstream.has_task_group(scheduler, ["resolve-abc"])
    future = client.submit(str, 1, key=("resolve-abc", 0))
    assert future.result(20) == "1"
    assert upstream.has_task_group(scheduler, ["other", "resolve-abc"])
    assert not upstream.has_task_group(scheduler, ["other"])
    assert not upstream.has_task_group(None, ["resolve-abc"])


def test_heartbeats():
    async def run() -> None:
        beat = asyncio.Event()
        async with (
            LocalCluster(
                n_workers=0, asynchronous=True, processes=False, dashboard_address=":0"
            ) as cluster,
            Worker(cluster.scheduler_address) as worker,
        ):
            periodic = upstream.heartbeats(worker)

            async def record() -> None:
                await worker.heartbeat()
                beat.set()

            periodic.callback = record
            await asyncio.wait_for(beat.wait(), 30)
            periodic.stop()
            assert not periodic.is_running()

    asyncio.run(run())
