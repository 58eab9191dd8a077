"""Result sources of this process: pollers of its own transforms, and connections to the others'."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from .._upstream.python import call_before_executors_end
from ..servicex.config import EndpointName
from .results import ResultSource


@dataclass(frozen=True, slots=True)
class TransformAddress:
    """Address of a transform for other processes: no secrets.

    Attributes
    ----------
    request_id : str
    endpoint : EndpointName
    order : str
        Identifies the list of input files: the same request may have lists of another order.
    """

    request_id: str
    endpoint: EndpointName
    order: str = ""

    @property
    def key(self) -> str:
        """Name of the transform and its list of files among processes."""
        return f"{self.request_id}/{self.order}"


class Connections:
    """Result sources for transforms of other processes: the latest that were used.

    Parameters
    ----------
    limit : int
        Maximum number of sources.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._sources: OrderedDict[TransformAddress, ResultSource] = OrderedDict()
        # Held by the threads that make a source or wait for it, and dropped with the last of them.
        self._making: weakref.WeakValueDictionary[TransformAddress, threading.Lock]
        self._making = weakref.WeakValueDictionary()
        self._lock = threading.RLock()

    def get(self, address: TransformAddress, make: Callable[[], ResultSource]) -> ResultSource:
        """Return the source for a transform, or make it: once, whatever the number of threads."""
        with self._lock:
            source = self._latest(address)
            making = self._making.setdefault(address, threading.Lock())
        if source is not None:
            return source
        # To make a source may take a while, in which others must not wait for the common lock.
        with making:
            with self._lock:
                source = self._latest(address)
            if source is None:
                source = make()
                with self._lock:
                    self._sources[address] = source
                    while len(self._sources) > self._limit:
                        self._sources.popitem(last=False)
        return source

    def remove(self, address: TransformAddress, source: ResultSource) -> None:
        """Drop a source that no longer works."""
        with self._lock:
            if self._sources.get(address) is source:
                del self._sources[address]

    def items(self) -> list[tuple[TransformAddress, Any]]:
        """Return all addresses and their sources."""
        with self._lock:
            return list(self._sources.items())

    def _latest(self, address: TransformAddress) -> ResultSource | None:
        if address in self._sources:
            self._sources.move_to_end(address)
        return self._sources.get(address)


connections = Connections()
_pollers: weakref.WeakValueDictionary[TransformAddress, Any] = weakref.WeakValueDictionary()
_granted: dict[str, Any] = {}
_lock = threading.RLock()


def register(address: TransformAddress, poller: Any) -> None:
    """Make the poller of a transform available in this process, for as long as it is held."""
    with suppress(RuntimeError):  # the interpreter is ending already
        _close_all_at_exit()
    with _lock:
        _pollers[address] = poller


def unregister(address: TransformAddress, poller: Any) -> None:
    """Undo `register`."""
    with _lock:
        if _pollers.get(address) is poller:
            del _pollers[address]


def get_poller(address: TransformAddress) -> Any | None:
    """Return the poller that this process has of a transform."""
    return _pollers.get(address)


def pollers_of(key: str) -> list[Any]:
    """Return the pollers of this process for the key of an address."""
    return [poller for address, poller in _items_of_pollers() if address.key == key]


def granted_source(request_id: str, make: Callable[[str], Any]) -> Any:
    """Return the source of the files of a transform that this process may read, or make it."""
    with _lock:
        if request_id not in _granted:
            _granted[request_id] = make(request_id)
        return _granted[request_id]


def find_source(request_id: str, *, grants: bool = True) -> ResultSource | None:
    """Return any source that this process has of a transform.

    Parameters
    ----------
    request_id : str
    grants : bool
        Prefer the files that work items of this process may read.
    """
    granted = _granted.get(request_id) if grants else None
    if granted is not None and granted.is_used:
        return granted
    sources = [*_items_of_pollers(), *connections.items()]
    return next((source for address, source in sources if address.request_id == request_id), None)


def _items_of_pollers() -> list[tuple[TransformAddress, Any]]:
    # The items() of the dictionary itself may meet a poller that is dropped just now.
    alive: list[Any] = [(ref, ref()) for ref in _pollers.valuerefs()]
    return [(ref.key, poller) for ref, poller in alive if poller is not None]


@cache
def _close_all_at_exit() -> None:
    # Threads that wait would keep the process from ending.
    call_before_executors_end(_close_all)


def _close_all() -> None:
    for _, source in [*_items_of_pollers(), *connections.items()]:
        close = getattr(source, "close", None)
        if close is not None:
            close()
