"""What a forked child inherits from a server of its parent: nothing that it may end."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable


def after_in_child(action: Callable[[], None]) -> None:
    """Have something done in every child that this process forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=action)


def keep_for_ever(thing: object) -> None:
    """Keep an object in this process from being finalized, even when the interpreter ends.

    A connection to SQLite that a child closes takes the log of its parent away, and executors and
    event loops would call on threads and pipes of the parent. Modules let go of their variables in
    the end: only a reference that nobody owns outlives them.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def let_go_of(descriptors: Iterable[int]) -> None:
    """Give up open files and sockets of the parent, which stay open for it.

    The numbers stay taken: to close them would free them for files that the objects of the parent
    would close once more.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
