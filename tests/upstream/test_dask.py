"""Canaries for the private API of dask."""

from __future__ import annotations

import asyncio

import dask
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.local import get_async, synchronous_executor

from coffea_sx._upstream.dask import (
    CoroutineTask,
    init_map_over_layer,
    make_task,
    task_of_batch,
    tasks_of,
    with_task,
)


def test_make_task():
    task = make_task("sum", lambda *numbers: sum(numbers), 1, 2, 3)
    assert task() == 6
    assert dask.get({"sum": task}, "sum") == 6


class HereOrThere(CoroutineTask):
    """A coroutine where an event loop runs."""

    __slots__ = ()

    def is_coroutine_here(self):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        return True

    def run(self):
        return self.wait() if self.is_coroutine_here() else self.args[0]

    async def wait(self):
        await asyncio.sleep(0)
        return -self.args[0]


def test_coroutine_task():
    task = HereOrThere("key", print, 5)

    async def run():
        assert task.is_coro
        return await task()

    assert asyncio.run(run()) == -5
    assert not task.is_coro
    assert dask.get({"key": task}, "key") == 5
    assert not task.dependencies


def test_init_map_over_layer():
    class Doubled(Blockwise):
        """A layer that is initialized by the function alone."""

        def __init__(self):
            init_map_over_layer(self, "doubled", "numbers", 3, lambda number: 2 * number)

    numbers = MaterializedLayer(
        {("numbers", i): make_task(("numbers", i), int, i) for i in range(3)}
    )
    graph = HighLevelGraph(
        {"numbers": numbers, "doubled": Doubled()}, {"numbers": set(), "doubled": {"numbers"}}
    )
    assert dask.get(graph, [("doubled", i) for i in range(3)]) == (0, 2, 4)


def test_batches_of_the_local_scheduler():
    seen = []

    def submit(function, batch):
        key, task = task_of_batch(batch)
        seen.append((key, task()))
        if key == "one":
            batch = with_task(batch, make_task(key, int, 10))
        return synchronous_executor.submit(function, batch)

    layer = MaterializedLayer({"one": (int, 1), "two": make_task("two", int, 2)})
    tasks = tasks_of(HighLevelGraph({"layer": layer}, {"layer": set()}))
    assert tasks["one"]() == 1
    assert get_async(submit, 1, tasks, ["one", "two"], chunksize=1) == (10, 2)
    assert sorted(seen) == [("one", 1), ("two", 2)]
