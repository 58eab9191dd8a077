"""Private API of the Python standard library (tested with CPython 3.10 to 3.13)."""

from __future__ import annotations

import atexit
import contextlib
import importlib.machinery
import multiprocessing
import multiprocessing.process
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


def call_before_executors_end(function: Callable[[], None]) -> None:
    """Call a function at exit, before Python waits for the jobs of executors.

    `concurrent.futures` waits in a function that ``threading._register_atexit`` registered, which
    runs before all functions of `atexit`. Without this private function, `atexit` is used: then
    the exit waits until running jobs have ended. A public replacement would be a shutdown of
    executors without waiting at exit.

    Raises
    ------
    RuntimeError
        If the interpreter is ending already.
    """
    getattr(threading, "_register_atexit", atexit.register)(function)


def is_starting_as_child() -> bool:
    """Return True while a child of multiprocessing imports the main module of its parent.

    ``multiprocessing`` sets ``current_process()._inheriting`` for its own check of scripts without
    a ``__main__`` guard. There is no public equivalent.
    """
    return bool(getattr(multiprocessing.current_process(), "_inheriting", False))


def forget_child_processes(pids: set[int | None]) -> None:
    """Drop processes of the parent in a forked child, which would fail to join them at its exit.

    ``multiprocessing.process._children`` holds the processes that this one joins. A child of
    ``os.fork`` inherits the set; children of multiprocessing start with an empty one. A public
    replacement would be a reset of multiprocessing after a fork.
    """
    children: set[Any] = getattr(multiprocessing.process, "_children", set())
    children -= {process for process in children if process.pid in pids}


@contextlib.contextmanager
def main_module_not_imported(name: str) -> Iterator[None]:
    """Keep processes that start meanwhile from importing the main module of this one.

    ``multiprocessing.spawn.get_preparation_data`` has them import it, unless it is the
    ``__main__`` of a package: so it is declared as that of the package `name`. A public
    replacement would be an option of the start method. Not safe for use by several threads.
    """
    main: Any = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    main.__spec__ = importlib.machinery.ModuleSpec(f"{name}.__main__", None)
    try:
        yield
    finally:
        main.__spec__ = spec


def number_of_workers(executor: Any) -> int | None:
    """Return the largest number of workers of an executor, or None if it does not say.

    What: ``_max_workers`` of the executors of concurrent.futures, which loky's have, too.
    Why: items that wait in the queue of an executor should be few, and no worker idle.
    Tested with: Python 3.10 to 3.13, loky 3.5.
    Public replacement: an attribute of ``concurrent.futures.Executor``.
    """
    number = getattr(executor, "_max_workers", None)
    return number if isinstance(number, int) else None
