"""Fetch bytes of an object: retried when that helps, checked always.

The one place where failures of HTTP and of the store become ours. urllib3 carries the bytes: of
large bodies it hands over more in a second than httpx and obstore do.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from time import monotonic
from typing import NamedTuple
from urllib.parse import urlsplit

import tenacity
import urllib3

from .. import wire
from ..errors import AccessError, ObjectGone, ReadError, Truncated
from ..servicex.models import SignedUrl
from ..wire import Clock, Limits

Range = tuple[int, int]

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
# How long fetching one range may be tried again, seconds.
PATIENCE_S = 60.0
# To one store at a time, of all threads of a process.
CONNECTIONS = 8
WAIT_FOR_CONNECTION_S = 60.0
BLOCK = 1 << 20
# A store may list an object a moment before it gives it; then it is tried again, after seconds.
MISSING_PAUSES_S = (1.0, 4.0)

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_SIZE = re.compile("[0-9]{1,18}")
_S3_CODE = re.compile(rb"<Code>(\w+)</Code>")
# What a store says to a URL that was good once.
_STALE = {b"ExpiredToken", b"AccessDenied", b"InvalidAccessKeyId", b"SignatureDoesNotMatch"}
_REASON_LENGTH = 2000


class Part(NamedTuple):
    """Some bytes of an object.

    Attributes
    ----------
    pieces : list of bytes-like
        The ranges that were wanted.
    size : int
        Of the whole object, bytes.
    etag : str or None
        Which version of the object they are of.
    """

    pieces: list[bytearray]
    size: int
    etag: str | None

    @property
    def data(self) -> bytes:
        """The pieces, one behind the other."""
        return b"".join(self.pieces)


class _TransientError(Exception):
    """Try again; the cause is what is raised in the end."""

    def __init__(self, cause: ReadError, pause_s: float = 0.0) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.pause_s = pause_s


class _StaleError(Exception):
    """The grant is no longer good; the cause is what is raised if a new one is no better."""

    def __init__(self, cause: ReadError) -> None:
        super().__init__(str(cause))
        self.cause = cause


# lru_cache alone makes one for each of the threads that come first.
_making_connections = threading.Lock()


@lru_cache(maxsize=1)
def _connections() -> urllib3.PoolManager:
    return wire.pool(maxsize=CONNECTIONS, block=True)


def fetch(
    object_name: str,
    grant: Callable[[bool], SignedUrl],
    start: int = 0,
    stop: int | None = None,
    wanted: Sequence[Range] | None = None,
    patience_s: float = PATIENCE_S,
    limits: Limits = wire.DEFAULT,
) -> Part:
    """Fetch bytes ``start`` to ``stop`` of an object, in one request.

    A transfer that breaks off is taken up where it was, if the store says that the object is still
    the same one, and begun again if not.

    Parameters
    ----------
    object_name : str
        Named in errors.
    grant : callable
        Gives permission to read it; called with True for a new one, once, if the store refuses.
    start, stop : int
        Bytes; fewer come back if the object ends before ``stop``. None is the end of the object.
    wanted : sequence of tuple of int, optional
        Which of them are kept, in order; the others are dropped as they arrive.
    patience_s : float
        How long to try again, seconds.
    limits : Limits
        How long one request may take.

    Returns
    -------
    Part

    Raises
    ------
    AccessError
        If the store refuses the URL, and a new one too.
    ObjectGone
        If it has no such object.
    Truncated
        If it keeps sending fewer bytes than it promises.
    ReadError
        If it does not answer, or too slowly.
    """
    end = monotonic() + patience_s
    transfer = _Transfer(object_name, start, stop, wanted, limits, end)
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_TransientError),
        stop=partial(_is_over, end),
        wait=_pause,
        reraise=True,
    )
    try:
        try:
            return attempts(transfer.go_on, grant(False))
        except _StaleError:
            return attempts(transfer.go_on, grant(True))
    except (_TransientError, _StaleError) as error:
        raise error.cause from None


def _is_over(end: float, state: tenacity.RetryCallState) -> bool:
    is_late = monotonic() + state.upcoming_sleep >= end
    return is_late or (_is_missing(state) and state.attempt_number > len(MISSING_PAUSES_S))


def _is_missing(state: tenacity.RetryCallState) -> bool:
    return isinstance(getattr(_error_of(state), "cause", None), ObjectGone)


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _pause(state: tenacity.RetryCallState) -> float:
    if _is_missing(state):
        return MISSING_PAUSES_S[min(state.attempt_number, len(MISSING_PAUSES_S)) - 1]
    wanted: float = getattr(_error_of(state), "pause_s", 0.0)
    return max(wanted, tenacity.wait_random_exponential(multiplier=0.1, max=5)(state))


class _Transfer:
    """One range on its way; what has arrived is kept while the rest is asked for again."""

    def __init__(
        self,
        object_name: str,
        start: int,
        stop: int | None,
        wanted: Sequence[Range] | None,
        limits: Limits,
        end: float,
    ) -> None:
        self._object_name = object_name
        self._limits = limits
        self._end = end
        self._start = start
        self._stop = stop
        self._wanted = [(start, sys.maxsize if stop is None else stop)]
        if wanted is not None:
            self._wanted = list(wanted)
        self._etag: str | None = None
        self._begin_at(start)

    def _begin_at(self, position: int) -> None:
        self._position = position
        self._pieces = [bytearray() for _ in self._wanted]

    def go_on(self, grant: SignedUrl) -> Part:
        """Ask for what is missing."""
        self._host = _host(grant.url)
        headers = dict(grant.headers)
        if self._position or self._stop is not None:
            last = "" if self._stop is None else self._stop - 1
            headers["Range"] = f"bytes={self._position}-{last}"
        with _making_connections:
            connections = _connections()
        try:
            with wire.exchange(
                connections,
                "GET",
                grant.url,
                Clock(self._limits),
                headers=headers,
                at_most=(sys.maxsize if self._stop is None else self._stop) - self._position,
                wait_for_connection_s=self._wait_for_connection_s(),
            ) as response:
                return self._take(response)
        except urllib3.exceptions.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise self._untrusted() from None
            raise self._unsent(error) from None  # its text has the whole URL

    def _wait_for_connection_s(self) -> float:
        """Return how long to wait for a connection: not beyond the patience, but for a moment."""
        return min(WAIT_FOR_CONNECTION_S, max(1.0, self._end - monotonic()))

    def _take(self, response: urllib3.BaseHTTPResponse) -> Part:
        """Take what one answer brings."""
        if response.status == 416:
            return Part(self._pieces, self._size_beyond(response), None)
        if response.status not in (200, 206):
            raise self._refusal(response)
        etag = response.headers.get("ETag")
        if self._position > self._start and etag != self._etag:
            self._begin_at(self._start)
            raise _TransientError(self._error("was replaced in the store while it was read"))
        self._etag = etag
        if response.status == 200:
            return self._take_whole(response)
        first, size = self._content_range(response)
        if first != self._position:
            what = f"is sent from byte {first} where {self._position} was asked for"
            raise _TransientError(self._error(what))
        end = min(size if self._stop is None else self._stop, size)
        self._fill(response, end)
        if self._position != end:
            raise self._short(end)
        return Part(self._pieces, size, etag)

    def _take_whole(self, response: urllib3.BaseHTTPResponse) -> Part:
        """Take the whole object, asked for or not: some stores do not know ranges."""
        self._begin_at(0)
        self._fill(response)
        return Part(self._pieces, self._position, self._etag)

    def _fill(self, response: urllib3.BaseHTTPResponse, end: int = sys.maxsize) -> None:
        """Take a body, and of one that is too long only what shows that."""
        for block in wire.blocks(response, BLOCK):
            begin, self._position = self._position, self._position + len(block)
            for (start, stop), piece in zip(self._wanted, self._pieces, strict=True):
                if start <= begin and self._position <= stop:
                    piece += block
                elif start < self._position and begin < stop:
                    piece += block[max(start, begin) - begin : stop - begin]
            if self._position > end:
                return

    def _content_range(self, response: urllib3.BaseHTTPResponse) -> tuple[int, int]:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None:
            raise self._error("is sent in parts without saying which")
        return int(found[1]), int(found[3])

    def _size_beyond(self, response: urllib3.BaseHTTPResponse) -> int:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(size) if _SIZE.fullmatch(size) else self._start

    def _short(self, end: int) -> _TransientError:
        found, expected = self._position - self._start, end - self._start
        if self._etag is None or found > expected:
            self._begin_at(self._start)
        return _TransientError(
            Truncated(
                f"The store sent {found} of {expected} bytes of the object {self._object_name!r}.",
                object_name=self._object_name,
                expected=expected,
                found=found,
            )
        )

    def _error(self, what: str) -> ReadError:
        return ReadError(f"The object {self._object_name!r} {what}.", object_name=self._object_name)

    def _unsent(self, error: urllib3.exceptions.HTTPError) -> _TransientError:
        found = self._position - self._start
        if self._etag is None:
            self._begin_at(self._start)
        # urllib3 wraps it in another error.
        if any(isinstance(e, urllib3.exceptions.IncompleteRead) for e in (error, *error.args)):
            cause: ReadError = Truncated(
                f"The store breaks off sending the object {self._object_name!r} after {found} "
                "bytes.",
                object_name=self._object_name,
                found=found,
            )
        elif isinstance(error, wire.OutOfTimeError):
            cause = ReadError(
                f"The store at {self._host} does not send the object {self._object_name!r} in "
                f"time: {error}. Is it overloaded, or what is between it and here?",
                object_name=self._object_name,
            )
        elif isinstance(error, wire.MalformedError):
            cause = ReadError(
                f"The object {self._object_name!r} cannot be asked for at {self._host}: {error}.",
                object_name=self._object_name,
            )
        else:
            cause = ReadError(
                f"The store at {self._host} does not send the object {self._object_name!r}: "
                f"{type(error).__name__}. Is it running, and can it be reached from here?",
                object_name=self._object_name,
            )
        return _TransientError(cause)

    def _untrusted(self) -> AccessError:
        return AccessError(
            f"The store that has the object {self._object_name!r} shows a certificate that cannot "
            "be verified. If it is one of your site, name the file of its authority in the "
            "environment variable SSL_CERT_FILE, here and on the workers.",
            object_name=self._object_name,
        )

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> Exception:
        status = response.status
        found = _S3_CODE.search(response.read(_REASON_LENGTH))
        code = found[1] if found else b""
        says = f"[{status}{' ' + code.decode() if code else ''}]"
        facts = {"object_name": self._object_name, "status": status}
        if status == 404:
            gone = ObjectGone(
                f"The store no longer has the object {self._object_name!r} {says}. Results are "
                "deleted after some time; submit the query again with ignore_cache=True.",
                **facts,
            )
            return gone if code == b"NoSuchBucket" else _TransientError(gone)
        if status in TRANSIENT:
            return _TransientError(
                ReadError(
                    f"The store fails to send the object {self._object_name!r} {says}.", **facts
                ),
                wire.retry_after(response) or 0.0,
            )
        error = AccessError(f"The store refuses the object {self._object_name!r} {says}.", **facts)
        return _StaleError(error) if code in _STALE or status in (400, 401, 403) else error


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "(an address that is none)"
