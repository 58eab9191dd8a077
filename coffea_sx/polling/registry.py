"""Result sources of this process: pollers of its own transforms, and connections to the others'."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from .._upstream.python import call_before_executors_end
from ..errors import AccessError
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
# Transforms of other processes by request id, and the functions that connect this process to them:
# the latest that were announced.
_announced: OrderedDict[str, dict[TransformAddress, Callable[[], ResultSource | None]]]
_announced = OrderedDict()
LIMIT_ANNOUNCED = 4096
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


def announce(address: TransformAddress, connect: Callable[[], ResultSource | None]) -> None:
    """Let `find_source` connect to a transform of another process, if this process can."""
    with _lock:
        _announced.setdefault(address.request_id, {})[address] = connect
        _announced.move_to_end(address.request_id)
        while len(_announced) > LIMIT_ANNOUNCED:
            _announced.popitem(last=False)


def find_source(
    request_id: str, *, grants: bool = True, by_index: bool = False
) -> ResultSource | None:
    """Return any source that this process has of a transform.

    Parameters
    ----------
    request_id : str
    grants : bool
        Prefer the files that work items of this process may read.
    by_index : bool
        True if the source is searched for the file at a position in the list of input files.

    Raises
    ------
    AccessError
        If the position is ambiguous, because lists of this process are in different orders.
    """
    granted = _granted.get(request_id) if grants else None
    if granted is not None and granted.is_used:
        return granted
    if by_index and _n_orders(request_id) > 1:
        gc.collect()  # a list that nothing uses any more is not in the way
        if _n_orders(request_id) > 1:
            raise AccessError(
                f"This process has the input files of request {request_id} in different orders, so "
                "that an address with the position of a file could mean two files. Use the "
                "addresses of objects, which factory.files lists, or one order.",
                request_id=request_id,
            )
    return next(iter(_sources_of(request_id).values()), None) or _connect_announced(request_id)


def _n_orders(request_id: str) -> int:
    """Count the orders of the input files of a transform, connected to or announced."""
    with _lock:
        addresses = {*_sources_of(request_id), *_announced.get(request_id, ())}
    return len({address.order for address in addresses})


def _sources_of(request_id: str) -> dict[TransformAddress, ResultSource]:
    sources = [*_items_of_pollers(), *connections.items()]
    return {address: source for address, source in sources if address.request_id == request_id}


def _connect_announced(request_id: str) -> ResultSource | None:
    with _lock:
        connects = list(_announced.get(request_id, {}).values())
    # The latest was announced by the computation that runs now.
    return next(filter(None, (connect() for connect in reversed(connects))), None)


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
