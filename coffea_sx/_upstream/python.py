"""Private API of the Python standard library (tested with CPython 3.10 to 3.13)."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable


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
