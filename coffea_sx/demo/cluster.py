"""Dask workers on this machine, which end without a word however busy it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster, Worker
from distributed.diagnostics.plugin import WorkerPlugin

# How long to wait for the answer to a heartbeat, and until workers have ended, seconds.
ANSWER_S = 10.0
CLOSE_S = 60.0


class LastHeartbeat(WorkerPlugin):
    """Let a worker wait for the answer to its last heartbeat before it closes its connections.

    Without it a heartbeat that is under way then, as on a busy machine, ends in a traceback.
    """

    name = "coffea_sx-last-heartbeat"

    def setup(self, worker: Worker) -> None:
        """Remember each heartbeat."""
        self._last: asyncio.Future[None] | None = None
        self._heartbeats = worker.periodic_callbacks["heartbeat"]
        self._heartbeats.callback = self._beat
        self._worker = worker

    async def _beat(self) -> None:
        self._last = asyncio.ensure_future(self._worker.heartbeat())
        await self._last

    async def teardown(self, worker: Worker) -> None:
        """Stop the heartbeats, and wait for the one under way. Workers call it as they close."""
        self._heartbeats.stop()
        if self._last is not None:
            # Not for ever: a heartbeat that the scheduler does not expect closes the worker itself.
            await asyncio.wait([self._last], timeout=ANSWER_S)


@contextmanager
def local_cluster(n_workers: int) -> Iterator[Client]:
    """Start processes of two threads each, which compute as long as they are there."""
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LastHeartbeat())
        yield client
        # The cluster itself gives them five seconds to end, which on a busy machine is too short.
        cluster.sync(_close_workers, cluster)


async def _close_workers(cluster: LocalCluster) -> None:
    await asyncio.gather(*(nanny.close(CLOSE_S) for nanny in cluster.workers.values()))
