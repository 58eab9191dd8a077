"""Protection of a server from the children that its process forks."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable


def run_in_forked_children(action: Callable[[], None]) -> None:
    """Call a function at the start of every child that this process forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=action)


def never_finalize(inherited: object) -> None:
    """Keep an object of the parent alive until the process is gone.

    A connection to SQLite that a child closes removes the write-ahead log of its parent, and
    executors and event loops would use threads and pipes of the parent. The interpreter clears
    the variables of modules at its end, so that only a reference without an owner lasts.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def replace_by_null_device(descriptors: Iterable[int]) -> None:
    """Let go of open files and sockets of the parent, which stay open in the parent.

    The numbers stay in use. If they were free, new files of the child would get them, and the
    parent's objects in the child would close those files.
    """
    null_device = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null_device, descriptor, inheritable=False)
    os.close(null_device)
