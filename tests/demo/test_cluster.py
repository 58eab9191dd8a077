"""Cluster of the demo: workers close without error messages."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, Status

from coffea_sx.demo.cluster import local_cluster

# distributed 2025.3 with its own dependencies, when clusters come and go in one process
pytestmark = [
    pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def test_a_worker_waits_for_its_last_heartbeat(capfd: pytest.CaptureFixture[str]) -> None:
    under_way = threading.Event()
    with local_cluster(1) as client:
        scheduler = client.cluster.scheduler
        respond = scheduler.handlers["heartbeat_worker"]

        async def late(address: str, **metrics: Any) -> Any:
            under_way.set()
            while scheduler.workers[address].status != Status.closing:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)  # longer than a worker lives that does not wait
            return respond(address=address, **metrics)

        scheduler.handlers["heartbeat_worker"] = late
        assert under_way.wait(30)
    assert capfd.readouterr().err == ""


def has_profiler(dask_worker: Any) -> bool:
    return "profile" in dask_worker.periodic_callbacks


def test_workers_have_no_sampling_profiler() -> None:
    """Before CPython 3.11.9 it stops a worker now and then, and with it the demo."""
    on = {"distributed.worker.profile.enabled": True}  # the environment of the tests says False
    with dask.config.set(on):
        with LocalCluster(n_workers=1, dashboard_address=":0") as cluster, Client(cluster) as other:
            assert list(other.run(has_profiler).values()) == [True]
        with local_cluster(1) as client:
            assert list(client.run(has_profiler).values()) == [False]
