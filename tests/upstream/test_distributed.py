"""Canaries for the internal API of distributed."""

from __future__ import annotations

import asyncio

from distributed import LocalCluster, Worker

from coffea_sx._upstream.distributed import heartbeats


def test_heartbeats():
    async def run() -> None:
        beat = asyncio.Event()
        async with (
            LocalCluster(
                n_workers=0, asynchronous=True, processes=False, dashboard_address=":0"
            ) as cluster,
            Worker(cluster.scheduler_address) as worker,
        ):
            periodic = heartbeats(worker)

            async def record() -> None:
                await worker.heartbeat()
                beat.set()

            periodic.callback = record
            await asyncio.wait_for(beat.wait(), 30)
            periodic.stop()
            assert not periodic.is_running()

    asyncio.run(run())
