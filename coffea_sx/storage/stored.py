"""Bytes of one object while it is read: fetched in few requests, kept until it is closed.

A request costs a round trip, in which a store could have sent some bytes. Gaps between two wanted
ranges that are not larger are fetched with them, and dropped as they arrive.
"""

from __future__ import annotations

import sys
import threading
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from operator import itemgetter
from typing import Protocol

from ..errors import CorruptFile, ObjectReplaced, ReadError, Truncated
from ..polling.outcomes import Delivered
from ..polling.results import ResultSource
from ..servicex.models import SignedUrl
from .policy import DEFAULT_POLICY, ReadPolicy
from .transfer import ObjectPart, Range
from .transport import fetch


class Fetch(Protocol):
    """Function that fetches bytes of one object."""

    def __call__(
        self, start: int, stop: int | None, wanted: Sequence[Range] | None = None
    ) -> ObjectPart:
        """Fetch bytes ``start`` to ``stop`` (None: the end), and keep the wanted ranges."""


class StoredObject:
    """One object of the store.

    Parameters
    ----------
    name : str
        Named in errors.
    fetch : callable
        A `Fetch`.
    size : int
        Expected size, bytes; the first response of the store corrects it.
    policy : ReadPolicy

    Attributes
    ----------
    n_requests, n_bytes : int
        Requests made, and bytes kept of them, so far.
    """

    def __init__(
        self, name: str, fetch: Fetch, size: int, policy: ReadPolicy = DEFAULT_POLICY
    ) -> None:
        self.name = name
        self.size = size
        self.policy = policy
        self.n_requests = 0
        self.n_bytes = 0
        self._fetch = fetch
        self._etag: str | None = None
        # Pairs of position and bytes, in order of their positions.
        self._parts: list[tuple[int, memoryview]] = []

    @property
    def etag(self) -> str | None:
        """Version of the object, from the store."""
        return self._etag

    @property
    def is_small(self) -> bool:
        """True if ranges are worth one request, whatever lies between them."""
        return self.size <= self.policy.small_bytes

    def read(self, start: int, stop: int) -> memoryview:
        """Return bytes ``start`` to ``stop``, fewer at the end of the object.

        Raises
        ------
        ObjectReplaced
            If the store has another object of that name by now: all must be read again.
        Truncated
            If the store sends fewer bytes than it announces.
        ReadError
            If the bytes cannot be fetched.
        """
        if start >= stop:
            return memoryview(b"")
        held = self._held(start, stop)
        if held is None:
            ahead = (start, max(stop, start + self.policy.round_trip_bytes))
            self.need([(0, max(stop, self.size)) if self.is_small else ahead])
            held = self._held(start, max(start, min(stop, self.size)))
        if held is None:
            raise Truncated(
                f"The content of the object {self.name!r} ends before byte {stop}.",
                object_name=self.name,
                expected=stop,
            )
        return held

    def need(self, ranges: Iterable[Range]) -> None:
        """Fetch the missing bytes of some ranges, in as few requests as are worth it."""
        spans = list(self._spans(self._missing(ranges)))
        fetch_all = _threads(self.policy.connections).map if len(spans) > 1 else map
        parts = list(fetch_all(lambda span: self._fetch(span[0][0], span[-1][1], span), spans))
        for wanted, part in zip(spans, parts, strict=True):
            self._keep(wanted, part)

    def need_all(self) -> None:
        """Fetch the whole object, in one request."""
        if not self._parts:
            self._keep([(0, sys.maxsize)], self._fetch(0, None))
        else:
            self.need([(0, self.size)])

    def drop(self, ranges: Iterable[Range]) -> None:
        """Forget ranges that were fetched as such, alone or next to others."""
        starts = {start for start, _ in ranges}
        self._parts = [part for part in self._parts if part[0] not in starts]

    def forget(self) -> None:
        """Forget all bytes, to begin again."""
        self._parts.clear()

    def is_worth_whole(self, share: float, first: int) -> bool:
        """Return True if fetching the whole object costs less than fetching parts of it.

        Parameters
        ----------
        share : float
            Share of the object that will be wanted, from 0 to 1.
        first : int
            Bytes that are fetched in any case, because they locate the others.
        """
        return share >= self.policy.whole_share or self.size <= first + self.policy.round_trip_bytes

    def check_magic(self, magic: bytes, kind: str) -> None:
        """Check that the object begins as files of its kind do.

        Raises
        ------
        CorruptFile
            If it does not: it is empty, or an error page of the store.
        """
        begin = bytes(self.read(0, min(16, self.size)))
        if not begin.startswith(magic):
            raise CorruptFile(
                f"The object {self.name!r} of {self.size} bytes is not a {kind} file; "
                + (f"it begins with {begin!r}." if begin else "it is empty."),
                object_name=self.name,
            )

    def _missing(self, ranges: Iterable[Range]) -> list[Range]:
        """Return the missing bytes of some ranges, in order and without overlap."""
        missing: list[Range] = []
        known_end = self.size if self._parts else sys.maxsize
        for start, stop in sorted((start, min(stop, known_end)) for start, stop in ranges):
            begin = max(start, missing[-1][1] if missing else 0)
            while begin < stop:
                begin, end = self._hole(begin, stop)
                if begin < end:
                    missing.append((begin, end))
                begin = end
        return missing

    def _hole(self, start: int, stop: int) -> Range:
        """Return the first gap between the held parts from a position on."""
        at = bisect_right(self._parts, start, key=_begin)
        if at:
            start = min(stop, max(start, _end(self._parts[at - 1])))
        while at < len(self._parts) and self._parts[at][0] <= start < stop:
            start = min(stop, _end(self._parts[at]))
            at += 1
        return start, min(stop, self._parts[at][0]) if at < len(self._parts) else stop

    def _spans(self, missing: Sequence[Range]) -> Iterator[list[Range]]:
        """Yield the ranges that are fetched in one request."""
        span: list[Range] = []
        for wanted in missing:
            gap = wanted[0] - span[-1][1] if span else 0
            if not self.is_small and gap > self.policy.round_trip_bytes:
                yield span
                span = []
            span.append(wanted)
        if span:
            yield span

    def _held(self, start: int, stop: int) -> memoryview | None:
        """Return bytes ``start`` to ``stop`` if all are held."""
        at = bisect_right(self._parts, start, key=_begin) - 1
        if at >= 0 and stop <= _end(self._parts[at]):
            begin, data = self._parts[at]
            return data[start - begin : stop - begin]
        if self._missing([(start, stop)]):
            return None
        joined = bytearray()
        for begin, data in self._parts[max(at, 0) :]:
            position = start + len(joined)
            if begin <= position < min(stop, begin + len(data)):
                joined += data[position - begin : stop - begin]
        return memoryview(joined)

    def _keep(self, wanted: Sequence[Range], part: ObjectPart) -> None:
        self.n_requests += 1
        self.n_bytes += sum(map(len, part.pieces))
        self.size = part.size
        if not any(part.pieces):
            return
        if self._parts and part.etag != self._etag:
            raise ObjectReplaced(
                f"The object {self.name!r} was replaced in the store while it was read.",
                object_name=self.name,
            )
        self._etag = part.etag
        for (start, _), piece in zip(wanted, part.pieces, strict=True):
            if piece:
                insort(self._parts, (start, memoryview(piece)), key=_begin)


_begin = itemgetter(0)


def _end(part: tuple[int, memoryview]) -> int:
    return part[0] + len(part[1])


@cache
def _threads(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="coffea_sx-fetch")


def stored_object(
    source: ResultSource, object_name: str, size: int, policy: ReadPolicy = DEFAULT_POLICY
) -> StoredObject:
    """Return an object of a transform. No request is made."""
    return StoredObject(object_name, fetcher(source, object_name, policy), size, policy)


def fetcher(source: ResultSource, object_name: str, policy: ReadPolicy) -> Fetch:
    """Return the function that fetches bytes of an object of a transform, unless they are held."""
    held: Fetch | None = source.held(object_name)
    return held or partial(_fetch, source, object_name, policy)


class HeldObject:
    """Fetch of one object that holds its bytes, for a work item that opens it again and again.

    A small object takes one request. Of others, what is read in small ranges is held.

    Parameters
    ----------
    stored : StoredObject
        Used by nothing else.
    note_error : callable
        Called with the error if the object is shorter than expected; its other errors are noted
        where they arise.
    """

    def __init__(self, stored: StoredObject, note_error: Callable[[ReadError], object]) -> None:
        self._stored = stored
        self._note_error = note_error
        self._expected = stored.size
        self._lock = threading.Lock()

    def __call__(
        self, start: int, stop: int | None, wanted: Sequence[Range] | None = None
    ) -> ObjectPart:
        """Return ranges of the object; fetch those that are not held.

        Raises
        ------
        Truncated
            If the object ends before a byte that it is expected to have.
        ReadError
            If they cannot be fetched.
        """
        stored = self._stored
        with self._lock:
            try:
                if stored.size <= stored.policy.held_bytes:
                    stored.need_all()
                ranges = wanted or [(start, sys.maxsize if stop is None else stop)]
                stored.need(ranges)
                pieces = [bytearray(stored.read(*limits)) for limits in ranges]
            except ObjectReplaced:
                stored.forget()
                raise
            # uproot would raise an error of its own, which names no file.
            if stop is not None and stored.size < stop <= self._expected:
                raise self._truncated()
            if stored.size > stored.policy.held_bytes:
                stored.drop(x for x in ranges if x[1] - x[0] > stored.policy.dropped_bytes)
            return ObjectPart(pieces, stored.size, stored.etag)

    def _truncated(self) -> Truncated:
        name, found = self._stored.name, self._stored.size
        error = Truncated(
            f"The object {name!r} ends at byte {found}, where ServiceX reported {self._expected} "
            "bytes.",
            object_name=name,
            expected=self._expected,
            found=found,
        )
        self._note_error(error)
        return error


def _fetch(
    source: ResultSource,
    object_name: str,
    policy: ReadPolicy,
    start: int,
    stop: int | None,
    wanted: Sequence[Range] | None = None,
) -> ObjectPart:
    url = partial(_url, source, object_name)
    try:
        return fetch(object_name, url, start, stop, wanted, policy=policy)
    except ReadError as error:
        source.note_error(object_name, error)
        raise


@contextmanager
def about(delivered: Delivered) -> Iterator[None]:
    """Name the input file and the object in errors of reading."""
    try:
        yield
    except ReadError as error:
        raise error.about(delivered.input_file, delivered.object_name) from None


def _url(source: ResultSource, object_name: str, refresh: bool) -> SignedUrl:
    return source.signed_url(object_name, refresh=refresh)
