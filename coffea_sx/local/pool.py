"""Processes that transform files: one file each at a time, replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.machinery
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any

from . import forks
from .transformer import Outcome, begin_process, process_id, transform_within_limits

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
_slots: weakref.WeakSet[Slot] = weakref.WeakSet()


class Slot:
    """One pool process, started at its first file and again after it died.

    A process of its own per slot makes the death of one the failure of one file.
    """

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._pid: int | None = None
        _slots.add(self)

    async def run(
        self,
        codegen: str,
        source: str,
        replicas: list[str],
        output_path: str,
        result_format: str,
    ) -> Outcome:
        """Transform one file.

        Returns
        -------
        Outcome
            A failure when the process died while it worked.
        """
        try:
            executor = await self._ready()
            job = executor.submit(
                transform_within_limits, codegen, source, replicas, output_path, result_format
            )
            return await asyncio.wrap_future(job)
        except BrokenProcessPool:
            self.close()
            return Outcome(replicas[0], reason="the transformer process died")

    async def _ready(self) -> ProcessPoolExecutor:
        """Return an executor whose process answers, at most at the second attempt."""
        for _ in range(2):
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    1, mp_context=_context(), initializer=begin_process
                )
            try:
                # In a thread: the first process of all waits for its libraries.
                hello = await asyncio.to_thread(_say_hello, self._executor)
                self._pid = await asyncio.wrap_future(hello)
            except BrokenProcessPool:
                self.close()
            else:
                return self._executor
        raise BrokenProcessPool("the process ends while it starts")

    def close(self) -> None:
        """End the process at once, whatever it does."""
        executor, pid = self._executor, self._pid
        self._executor = self._pid = None
        if executor is None:
            return
        if pid is not None and any(child.pid == pid for child in multiprocessing.active_children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        executor.shutdown(wait=True, cancel_futures=True)


def _say_hello(executor: ProcessPoolExecutor) -> Future[int]:
    with _main_not_imported():
        return executor.submit(process_id)


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@contextlib.contextmanager
def _main_not_imported() -> Iterator[None]:
    """Keep a process that starts here from running the caller's script again.

    New processes import the main module of their parent, unless it is a package's ``__main__``.
    A script that starts a server at its top level would start another one there.
    """
    main: Any = sys.modules["__main__"]
    with _start_lock:
        spec = getattr(main, "__spec__", None)
        main.__spec__ = importlib.machinery.ModuleSpec("coffea_sx.local.__main__", None)
        try:
            yield
        finally:
            main.__spec__ = spec


def _begin_child() -> None:
    """In a child that was forked: leave the processes to the parent."""
    global _start_lock
    _start_lock = threading.Lock()  # a thread that is not here may have held it
    # At its end a child would join all that multiprocessing knows, and only their parent can.
    known: set[Any] = getattr(multiprocessing.process, "_children", set())
    known -= {process for process in known if process.pid in {slot._pid for slot in _slots}}
    _slots.clear()


forks.after_in_child(_begin_child)
