"""Worker processes, which transform one file at a time and are replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import weakref
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext

from .._upstream.python import forget_child_processes, main_module_not_imported
from .fork_safety import run_in_forked_children
from .transformer import TransformResult, begin_process, process_id, transform_within_limits

PRELOADED = [
    "uproot",
    "awkward",
    "dask_awkward",
    "func_adl_uproot",
    "pyarrow.parquet",
    "vector",
    "distributed",
    "coffea_sx.local.transformer",
    "coffea_sx.forms.program",
    "coffea_sx.forms.uproot_raw",
    "coffea_sx.forms.writers",
]

_start_lock = threading.Lock()
_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


class Worker:
    """A process that is started for its first file, and again after it died.

    Each worker has its own executor, so that the death of a process fails one file only.
    """

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._pid: int | None = None
        _workers.add(self)

    async def transform(
        self,
        codegen: str,
        source: str,
        replicas: list[str],
        output_path: str,
        result_format: str,
    ) -> TransformResult:
        """Transform one file; the parameters are those of `transform_file`.

        Returns
        -------
        TransformResult
            A failure if the process died meanwhile.
        """
        try:
            executor = await self._ready()
            job = executor.submit(
                transform_within_limits, codegen, source, replicas, output_path, result_format
            )
            return await asyncio.wrap_future(job)
        except BrokenProcessPool:
            self.close()
            return TransformResult(replicas[0], reason="the transformer process died")

    async def _ready(self) -> ProcessPoolExecutor:
        """Return an executor whose process responds, after two attempts at most."""
        for _ in range(2):
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    1, mp_context=_context(), initializer=begin_process
                )
            try:
                # In a thread: the first process of all waits for its libraries.
                pid = await asyncio.to_thread(_submit_process_id, self._executor)
                self._pid = await asyncio.wrap_future(pid)
            except BrokenProcessPool:
                self.close()
            else:
                return self._executor
        raise BrokenProcessPool("the process ends while it starts")

    def close(self) -> None:
        """Kill the process."""
        executor, pid = self._executor, self._pid
        self._executor = self._pid = None
        if executor is None:
            return
        if pid is not None and any(child.pid == pid for child in multiprocessing.active_children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        executor.shutdown(wait=True, cancel_futures=True)


def _submit_process_id(executor: ProcessPoolExecutor) -> Future[int]:
    # A script that starts a server at its top level would start another one in the process.
    with _start_lock, main_module_not_imported("coffea_sx.local"):
        return executor.submit(process_id)


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _leave_to_parent() -> None:
    global _start_lock
    _start_lock = threading.Lock()  # a thread of the parent may have held it
    forget_child_processes({worker._pid for worker in _workers})
    _workers.clear()


run_in_forked_children(_leave_to_parent)
