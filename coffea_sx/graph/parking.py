"""Threads in which tasks that wait for a file are parked, until it has an outcome."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dask import config
from dask.local import get_async
from dask.order import order
from dask.system import CPU_COUNT

from .._upstream.dask import make_task, task_of_batch, tasks_of, with_task
from ..errors import ServiceXError
from .layers import ResolveTask
from .resolve import ResolvedPartition, resolve_partition
from .routing import TransformHandle

Batch = list[tuple[Any, ...]]


def get(
    graph: Mapping[Any, Any], keys: Any, num_workers: int | None, options: dict[str, Any]
) -> Any:
    """Compute a graph, as `coffea_sx.graph.scheduler.threaded_get` describes."""
    tasks = tasks_of(graph)
    n_threads = num_workers or config.get("num_workers", None) or CPU_COUNT
    pool = _ParkingPool(n_threads, order(tasks))
    options["chunksize"] = 1
    try:
        results = get_async(
            pool.submit,
            len(tasks) + 1,  # tasks that are parked count as running
            tasks,
            keys,
            get_id=threading.get_ident,
            pack_exception=_pack,
            **options,
        )
    except BaseException:
        pool.close(wait=False)
        raise
    pool.close(wait=True)
    return results


def _pack(error: BaseException, dumps: object) -> tuple[BaseException, Any]:
    return error, error.__traceback__


@dataclass(order=True, slots=True)
class _Call:
    """A call of dask's scheduler; calls are in the order of their tasks.

    Attributes
    ----------
    position : int
    function : callable
    batch : list
        Argument of the function, with one task.
    future : concurrent.futures.Future
    awaited : tuple of TransformHandle and int, or None
        The input file whose outcome the task needs.
    """

    position: int
    function: Callable[[Batch], Any] = field(compare=False)
    batch: Batch = field(compare=False)
    future: Future[Any] = field(compare=False)
    awaited: tuple[TransformHandle, int] | None = field(compare=False)


class _ParkingPool:
    """Threads that run tasks in dask's order, as soon as they need not wait for a file.

    Parameters
    ----------
    n_threads : int
    positions : mapping
        Position of each task in dask's order.
    """

    def __init__(self, n_threads: int, positions: Mapping[Any, int]) -> None:
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="coffea_sx-dask")
        self._positions = positions
        self._lock = threading.Lock()
        self._ready: list[_Call] = []
        self._parked: dict[int, tuple[_Call, Callable[[], None]]] = {}
        self._is_closed = False

    def submit(self, function: Callable[[Batch], Any], batch: Batch) -> Future[Any]:
        """Run a batch of one task, when that need not wait for a file."""
        key, task = task_of_batch(batch)
        awaited = None
        if isinstance(task, ResolveTask):
            awaited = task.args[0], task.args[1]
            batch = with_task(batch, make_task(key, _resolve_now, *task.args))
        call = _Call(self._positions[key], function, batch, Future(), awaited)
        if awaited is None:
            self._begin(call)
        else:
            self._park(call, *awaited)
        return call.future

    def _park(self, call: _Call, handle: TransformHandle, index: int) -> None:
        wake = partial(self._unpark, id(call))
        with self._lock:
            self._parked[id(call)] = call, wake
        handle.results.when_ready(index, wake)
        if not _goes_on(handle, index):
            wake()  # its poller was closed, and wakes nothing any more

    def _unpark(self, number: int) -> None:
        with self._lock:
            call, _ = self._parked.pop(number, (None, None))
        if call is not None:
            self._begin(call)

    def _begin(self, call: _Call) -> None:
        with self._lock:
            if not self._is_closed:
                heapq.heappush(self._ready, call)
                self._threads.submit(self._run_first)

    def _run_first(self) -> None:
        """Run the first of the calls that are ready, in the order of dask."""
        with self._lock:
            if self._is_closed:
                return
            call = heapq.heappop(self._ready)
        if call.awaited is not None and _goes_on(*call.awaited):
            self._park(call, *call.awaited)
            return
        try:
            call.future.set_result(call.function(call.batch))
        except BaseException as error:  # of dask's scheduler, which packs those of tasks
            call.future.set_exception(error)

    def close(self, *, wait: bool) -> None:
        """Begin nothing more, and let the threads end."""
        with self._lock:
            self._is_closed = True
            self._ready.clear()
            parked = list(self._parked.values())
            self._parked.clear()
        for call, wake in parked:
            if call.awaited is not None:
                handle, index = call.awaited
                handle.results.results.remove_waker(index, wake)
        self._threads.shutdown(wait=wait, cancel_futures=True)


def _goes_on(handle: TransformHandle, index: int) -> bool:
    """Return True if an input file has no outcome, and may get one."""
    source = handle.results
    try:
        if source.results.outcome(index, handle.failure_policy) is not None:
            return False
        source.keep_polling()
    except ServiceXError:
        return False
    return True


def _resolve_now(
    handle: TransformHandle, index: int, partition: int, step: int
) -> ResolvedPartition:
    """Resolve a partition after the wait for its file; errors are those of `resolve_partition`."""
    # It raises why waiting ended, where another wait would begin anew.
    handle.results.results.outcome(index, handle.failure_policy)
    return resolve_partition(handle, index, partition, step)
