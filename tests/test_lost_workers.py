"""A cluster that has lost all its workers, for which dask itself would wait for ever."""

from __future__ import annotations

import asyncio

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.chaos import KillWorker
from distributed.scheduler import NoWorkerError
from support.strategies import submit_dimuons

from coffea_sx.local import LocalServiceX

pytestmark = [
    # distributed 2025.3 with its own dependencies, when clusters come and go in one process
    pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def test_dasks_limit_ends_a_wait_without_workers(nano_files: list[str]) -> None:
    """A worker that ends by itself is not started again: distributed takes it for closed."""
    limit = dask.config.set({"distributed.scheduler.no-workers-timeout": "1 s"})
    with (
        limit,
        LocalServiceX(before_report=_never) as server,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        future = client.compute(submit_dimuons(server, nano_files).events().event)
        client.register_plugin(KillWorker(delay="0.5 s", mode="sys.exit"))
        with pytest.raises(NoWorkerError, match="without any running workers"):
            future.result(60)
        assert not client.scheduler_info()["workers"]


async def _never(path: str) -> None:
    await asyncio.Event().wait()
