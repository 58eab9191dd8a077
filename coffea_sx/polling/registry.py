"""Where outcomes come from: the watch in this process, or one in another."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from ..policy import STRICT, FailurePolicy
from ..servicex.config import EndpointName
from ..servicex.models import SignedUrl
from .outcomes import Delivered, Outcome, Read

# Transforms that one worker process remembers.
REMEMBERED = 64


class ResultSource(Protocol):
    """What a process knows of a transform, and how it can read its results."""

    @property
    def n_files(self) -> int | None:
        """Input files; None if their number is not known here."""

    def knows(self, index: int) -> bool:
        """Whether `wait` would return at once."""

    def wait(
        self, index: int, timeout_s: float | None = None, failure_policy: FailurePolicy = STRICT
    ) -> Outcome:
        """Return what became of an input file, when it is known.

        Raises
        ------
        TimeoutError
            If it is not known after ``timeout_s`` seconds.
        ServiceXError
            If it will not be known, or more files have failed than are tolerated.
        """

    def delivered(self) -> list[Delivered]:
        """Return the results that are known of."""

    async def wait_async(self, index: int, failure_policy: FailurePolicy = STRICT) -> Outcome:
        """Wait as `wait` does, on an event loop and so without a thread."""

    def failures(self, lost: Read | None = None) -> frozenset[int]:
        """Return the input files that failed or cannot be read, now that this one cannot."""

    def grant(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        """Return permission to read an object."""


@dataclass(frozen=True, slots=True)
class TransformAddress:
    """All that another process needs to know of a transform: no secrets.

    Attributes
    ----------
    request_id : str
    endpoint : EndpointName
    order : str
        Of which list the indices are: the same request may be known by lists of another order.
    """

    request_id: str
    endpoint: EndpointName
    order: str = ""

    @property
    def key(self) -> str:
        """Names the transform and its list of files among processes."""
        return f"{self.request_id}/{self.order}"


_owned: weakref.WeakValueDictionary[TransformAddress, Any] = weakref.WeakValueDictionary()
_borrowed: OrderedDict[TransformAddress, ResultSource] = OrderedDict()
# Held by the threads that make a source or wait for it, and forgotten with the last of them.
_making: weakref.WeakValueDictionary[TransformAddress, threading.Lock]
_making = weakref.WeakValueDictionary()
_lock = threading.RLock()


def own(address: TransformAddress, source: Any) -> None:
    """Make the watch of this process known, for as long as somebody holds it."""
    with suppress(RuntimeError):  # the interpreter is ending already
        _close_all_at_exit()
    with _lock:
        _owned[address] = source


def disown(address: TransformAddress, source: Any) -> None:
    """Undo `own`: this watch tells nothing any more."""
    with _lock:
        if _owned.get(address) is source:
            del _owned[address]


def owned(address: TransformAddress) -> Any | None:
    """Return the watch of this process, if it owns the transform."""
    return _owned.get(address)


def owned_by_key(key: str) -> list[Any]:
    """Return the watches of this process that have a key."""
    return [poller for address, poller in _items_of_owned() if address.key == key]


def borrowed(address: TransformAddress, make: Callable[[], ResultSource]) -> ResultSource:
    """Return the source that this process keeps for a transform of another process."""
    with _lock:
        source = _remembered(address)
        making = _making.setdefault(address, threading.Lock())
    if source is not None:
        return source
    # Making one may take a while, in which others must not wait for this lock.
    with making:
        with _lock:
            source = _remembered(address)
        if source is None:
            source = make()
            with _lock:
                _borrowed[address] = source
                while len(_borrowed) > REMEMBERED:
                    _borrowed.popitem(last=False)
    return source


def _remembered(address: TransformAddress) -> ResultSource | None:
    source = _borrowed.get(address)
    if source is not None:
        _borrowed.move_to_end(address)
    return source


def forget(address: TransformAddress, source: ResultSource) -> None:
    """Drop a source that no longer works."""
    with _lock:
        if _borrowed.get(address) is source:
            del _borrowed[address]


def known(request_id: str) -> ResultSource | None:
    """Return any source of a transform that this process has."""
    with _lock:
        sources = [*_items_of_owned(), *_borrowed.items()]
    return next((source for address, source in sources if address.request_id == request_id), None)


def _items_of_owned() -> list[tuple[TransformAddress, Any]]:
    # Its own items() may meet one that is dropped just now.
    alive: list[Any] = [(ref, ref()) for ref in _owned.valuerefs()]
    return [(ref.key, poller) for ref, poller in alive if poller is not None]


@cache
def _close_all_at_exit() -> None:
    # The functions of `atexit` come too late: the threads of executors are waited for before.
    register = getattr(threading, "_register_atexit", atexit.register)
    register(_close_all)


def _close_all() -> None:
    """Close the watches of this process: threads that wait would keep it from ending."""
    for _, source in [*_items_of_owned(), *_borrowed.items()]:
        close = getattr(source, "close", None)
        if close is not None:
            close()
