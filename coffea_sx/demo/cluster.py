"""Dask workers on this machine, which close without error messages even if it is busy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from .._upstream.distributed import heartbeats

# Seconds to wait for the response to a heartbeat, and until workers have closed.
RESPONSE_S = 10.0
CLOSE_S = 60.0


class LastHeartbeat(WorkerPlugin):
    """Let a worker wait for the response to its last heartbeat before it closes its connections.

    On a busy machine the heartbeat would fail otherwise, and print a traceback.
    """

    name = "coffea_sx-last-heartbeat"

    def setup(self, worker: Worker) -> None:
        """Record each heartbeat."""
        self._last: asyncio.Future[None] | None = None
        self._heartbeats = heartbeats(worker)
        self._heartbeats.callback = self._beat
        self._worker = worker

    async def _beat(self) -> None:
        self._last = asyncio.ensure_future(self._worker.heartbeat())
        await self._last

    async def teardown(self, worker: Worker) -> None:
        """Stop the heartbeats, and wait for the last one. Workers call it when they close."""
        self._heartbeats.stop()
        if self._last is not None:
            # With a timeout, as a heartbeat that the scheduler does not expect closes the worker.
            await asyncio.wait([self._last], timeout=RESPONSE_S)


@contextmanager
def local_cluster(n_workers: int) -> Iterator[Client]:
    """Start worker processes of two threads each, and close them at the end."""
    with (
        # Before CPython 3.11.9 dask's sampling profiler now and then stops a worker for good
        # (python/cpython#106883).
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(n_workers=n_workers, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LastHeartbeat())
        yield client
        # The cluster itself waits for five seconds, which is too short on a busy machine.
        cluster.sync(_close_workers, cluster)


async def _close_workers(cluster: LocalCluster) -> None:
    await asyncio.gather(*(nanny.close(CLOSE_S) for nanny in cluster.workers.values()))
