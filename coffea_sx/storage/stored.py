"""The bytes of one object while it is read: fetched in few requests, kept until it is closed.

A request costs a round trip, in which a store could have sent some bytes: so much of what lies
between two wanted ranges is sent along with them, and dropped as it arrives.
"""

from __future__ import annotations

import sys
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Protocol

from ..errors import CorruptFile, ObjectReplaced, Truncated
from ..polling.results import ResultSource
from ..servicex.models import SignedUrl
from .transport import CONNECTIONS, Part, Range, fetch

# What a store sends in the time of a round trip, bytes: 10 ms at 100 MB/s.
ROUND_TRIP = 1 << 20
# Of which a whole object is fetched at once: it saves a request.
LARGE_SHARE = 0.5
# Ranges of a smaller object are fetched in one request, whatever lies between them: many workers
# with many requests each are what stores answer with 429 and 503.
SMALL = 32 << 20


class Fetch(Protocol):
    """What fetches bytes of one object."""

    def __call__(self, start: int, stop: int | None, wanted: Sequence[Range] | None = None) -> Part:
        """Fetch bytes ``start`` to ``stop`` (None: the end), and keep of them what is wanted."""


class StoredObject:
    """One object of the store.

    Parameters
    ----------
    name : str
        Named in errors.
    fetch : callable
        Fetches bytes ``start`` to ``stop``, and keeps of them what is wanted.
    size : int
        Bytes, as far as is known; the store knows better.

    Attributes
    ----------
    n_requests, n_bytes : int
        Made and fetched so far.
    """

    def __init__(self, name: str, fetch: Fetch, size: int) -> None:
        self.name = name
        self.size = size
        self.n_requests = 0
        self.n_bytes = 0
        self._fetch = fetch
        self._etag: str | None = None
        self._parts: list[tuple[int, memoryview]] = []

    def read(self, start: int, stop: int) -> memoryview:
        """Return bytes ``start`` to ``stop``, fewer at the end of the object.

        Raises
        ------
        ObjectReplaced
            If the store has another object of that name by now: all must be read again.
        Truncated
            If the store sends less than it says it has.
        ReadError
            If they cannot be had.
        """
        if start >= stop:
            return memoryview(b"")
        held = self._held(start, stop)
        if held is None:
            is_small = self.size <= SMALL
            rest = (0, max(stop, self.size)) if is_small else (start, max(stop, start + ROUND_TRIP))
            self.need([rest])
            held = self._held(start, max(start, min(stop, self.size)))
        if held is None:
            raise Truncated(
                f"What the store sends of the object {self.name!r} ends before byte {stop}.",
                object_name=self.name,
                expected=stop,
            )
        return held

    def need(self, ranges: Iterable[Range]) -> None:
        """Fetch what is missing of some ranges, in as few requests as are worth it."""
        spans = list(self._spans(self._missing(ranges)))
        if len(spans) > 1:
            parts = list(_fetchers().map(self._fetch_span, spans))
        else:
            parts = [self._fetch_span(span) for span in spans]
        for wanted, part in zip(spans, parts, strict=True):
            self._keep(wanted, part)

    def _fetch_span(self, wanted: Sequence[Range]) -> Part:
        return self._fetch(wanted[0][0], wanted[-1][1], wanted)

    def need_all(self) -> None:
        """Fetch the whole object, in one request."""
        if not self._parts:
            self._keep([(0, sys.maxsize)], self._fetch(0, None))
        else:
            self.need([(0, self.size)])

    def drop(self, ranges: Iterable[Range]) -> None:
        """Forget ranges that were asked for by themselves, or next to others that were."""
        starts = {start for start, _ in ranges}
        self._parts = [part for part in self._parts if part[0] not in starts]

    def forget(self) -> None:
        """Forget all bytes, to begin again."""
        self._parts.clear()

    def is_worth_whole(self, share: float, first: int) -> bool:
        """Whether fetching the whole object costs less than fetching parts of it.

        Parameters
        ----------
        share : float
            How much of the object will be wanted, about.
        first : int
            Bytes that are fetched in any case, to learn where the others are.
        """
        return share >= LARGE_SHARE or self.size <= first + ROUND_TRIP

    def check_magic(self, magic: bytes, kind: str) -> None:
        """Make sure that the object begins as files of its kind do.

        Raises
        ------
        CorruptFile
            If it is something else: empty, or an error page of the store.
        """
        begin = bytes(self.read(0, min(16, self.size)))
        if not begin.startswith(magic):
            raise CorruptFile(
                f"The object {self.name!r} of {self.size} bytes is not a {kind} file; "
                + (f"it begins with {begin!r}." if begin else "it is empty."),
                object_name=self.name,
            )

    def _missing(self, ranges: Iterable[Range]) -> list[Range]:
        """Return what is not held of some ranges, in order and without overlap."""
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
        """Return the first gap between the parts that are held, from a place on."""
        at = bisect_right(self._parts, start, key=_begin)
        if at:
            start = min(stop, max(start, _end(self._parts[at - 1])))
        while at < len(self._parts) and self._parts[at][0] <= start < stop:
            start = min(stop, _end(self._parts[at]))
            at += 1
        return start, min(stop, self._parts[at][0]) if at < len(self._parts) else stop

    def _spans(self, missing: Sequence[Range]) -> Iterator[list[Range]]:
        """Put together what is fetched in one request."""
        span: list[Range] = []
        for wanted in missing:
            if span and self.size > SMALL and wanted[0] - span[-1][1] > ROUND_TRIP:
                yield span
                span = []
            span.append(wanted)
        if span:
            yield span

    def _held(self, start: int, stop: int) -> memoryview | None:
        """Return bytes if all of them are held."""
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

    def _keep(self, wanted: Sequence[Range], part: Part) -> None:
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


def _begin(part: tuple[int, memoryview]) -> int:
    return part[0]


def _end(part: tuple[int, memoryview]) -> int:
    return part[0] + len(part[1])


@lru_cache(maxsize=1)
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="coffea_sx-fetch")


def stored_object(source: ResultSource, object_name: str, size: int) -> StoredObject:
    """Return an object of a transform. No request is made."""
    return StoredObject(object_name, fetcher(source, object_name), size)


def fetcher(source: ResultSource, object_name: str) -> Fetch:
    """Return what fetches bytes of an object of a transform."""
    return partial(fetch, object_name, partial(_grant, source, object_name))


def _grant(source: ResultSource, object_name: str, refresh: bool) -> SignedUrl:
    return source.signed_url(object_name, refresh=refresh)
