"""Dask workers on this machine, which end without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster, Worker
from distributed.diagnostics.plugin import WorkerPlugin


class LastHeartbeat(WorkerPlugin):
    """Let a worker wait for the answer to its last heartbeat before it closes its connections.

    Without it a heartbeat that is under way then, as on a busy machine, ends in a traceback.
    """

    name = "coffea_sx-last-heartbeat"

    def setup(self, worker: Worker) -> None:
        """Note while a heartbeat is under way."""
        self._under_way = asyncio.Lock()
        self._heartbeat = worker.periodic_callbacks["heartbeat"]
        self._heartbeat.callback = self._beat
        self._worker = worker

    async def _beat(self) -> None:
        async with self._under_way:
            await self._worker.heartbeat()

    async def teardown(self, worker: Worker) -> None:
        """Stop the heartbeats, and wait for the one under way. Workers call it as they close."""
        self._heartbeat.stop()
        async with self._under_way:
            pass


@contextmanager
def local_cluster(n_workers: int) -> Iterator[Client]:
    """Start processes of two threads each, which compute as long as they are there."""
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LastHeartbeat())
        yield client
