"""Where outcomes come from: the watch in this process, or one in another."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .access import Grant
from .endpoint import EndpointName
from .outcomes import Delivered, Outcome

# Transforms that one worker process remembers.
REMEMBERED = 64


class ResultSource(Protocol):
    """What a process knows of a transform, and how it can read its results."""

    @property
    def n_files(self) -> int | None:
        """Input files; None if their number is not known here."""

    def knows(self, index: int) -> bool:
        """Whether `wait` would return at once."""

    def wait(self, index: int, timeout_s: float | None = None) -> Outcome:
        """Return what became of an input file, when it is known.

        Raises
        ------
        TimeoutError
            If it is not known after ``timeout_s`` seconds.
        """

    def delivered(self) -> list[Delivered]:
        """Return the results that are known of."""

    def grant(self, object_name: str, *, refresh: bool = False) -> Grant:
        """Return permission to read an object."""


@dataclass(frozen=True, slots=True)
class TransformAddress:
    """All that another process needs to know of a transform: no secrets.

    Attributes
    ----------
    request_id : str
    endpoint : EndpointName
    on_failure : {"raise", "skip"}
    """

    request_id: str
    endpoint: EndpointName
    on_failure: str

    @property
    def key(self) -> str:
        """Names the transform and what its failures mean, among processes."""
        return f"{self.request_id}/{self.on_failure}"


_owned: weakref.WeakValueDictionary[TransformAddress, Any] = weakref.WeakValueDictionary()
_borrowed: OrderedDict[TransformAddress, ResultSource] = OrderedDict()
_lock = threading.RLock()


def own(address: TransformAddress, source: Any) -> None:
    """Make the watch of this process known, for as long as somebody holds it."""
    _owned[address] = source


def owned(address: TransformAddress) -> Any | None:
    """Return the watch of this process, if it owns the transform."""
    return _owned.get(address)


def borrowed(address: TransformAddress, make: Callable[[], ResultSource]) -> ResultSource:
    """Return the source that this process keeps for a transform of another process."""
    with _lock:
        source = _borrowed.get(address)
        if source is None:
            source = _borrowed[address] = make()
            while len(_borrowed) > REMEMBERED:
                _borrowed.popitem(last=False)
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
        sources = [*_owned.items(), *_borrowed.items()]
    return next((source for address, source in sources if address.request_id == request_id), None)
