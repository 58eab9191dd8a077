"""One range of an object in transfer: its bytes, and checks of each response."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.exceptions import HTTPError, IncompleteRead

from ..errors import AccessError, ObjectGone, ReadError, Truncated
from ..servicex.models import SignedUrl
from ..wire.clock import Clock, OutOfTimeError
from ..wire.exchanges import MalformedError, blocks, exchange, retry_after
from .policy import ReadPolicy

Range = tuple[int, int]

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_SIZE = re.compile("[0-9]{1,18}")
_S3_CODE = re.compile(rb"<Code>(\w+)</Code>")
# Codes with which a store answers a URL that was valid before.
_STALE = {b"ExpiredToken", b"AccessDenied", b"InvalidAccessKeyId", b"SignatureDoesNotMatch"}
_MAX_REFUSAL_BYTES = 2000


class ObjectPart(NamedTuple):
    """Some bytes of an object.

    Attributes
    ----------
    pieces : list of bytes-like
        The ranges that were wanted.
    size : int
        Size of the whole object, bytes.
    etag : str or None
        Version of the object.
    """

    pieces: list[bytearray]
    size: int
    etag: str | None

    @property
    def data(self) -> bytes:
        """The joined pieces."""
        return b"".join(self.pieces)


class TransferError(Exception):
    """An attempt failed.

    Attributes
    ----------
    cause : ReadError
        Raised in the end if no other attempt succeeds.
    pause_s : float
        Pause that the store requests, seconds.
    is_missing : bool
        True if the object is not in the store.
    """

    def __init__(self, cause: ReadError, pause_s: float = 0.0) -> None:
        self.cause, self.pause_s = cause, pause_s
        self.is_missing = isinstance(cause, ObjectGone)


class TransientError(TransferError):
    """Another attempt may succeed."""


class StaleUrlError(TransferError):
    """A new URL may succeed."""


@dataclass
class Transfer:
    """One range in transfer; its bytes are kept while the rest is requested again.

    Attributes
    ----------
    object_name : str
        Named in errors.
    start, stop : int
        Range in bytes; ``sys.maxsize`` is the end of the object.
    wanted : sequence of tuple of int
        Ranges that are kept.
    policy : ReadPolicy
    pool : urllib3.PoolManager
    end : float
        Time by `time.monotonic` until which to wait for a free connection.
    """

    object_name: str
    start: int
    stop: int
    wanted: Sequence[Range]
    policy: ReadPolicy
    pool: PoolManager
    end: float

    def __post_init__(self) -> None:
        self._etag: str | None = None
        self._restart(self.start)

    def _restart(self, position: int) -> None:
        self._position = position
        self._pieces = [bytearray() for _ in self.wanted]

    def resume(self, url: SignedUrl) -> ObjectPart:
        """Request the missing bytes. One request.

        Raises
        ------
        TransferError
            If another attempt may succeed.
        ReadError
            If none can.
        """
        self._host = _host(url.url)
        headers = dict(url.headers)
        is_open = self.stop == sys.maxsize
        if self._position or not is_open:
            headers["Range"] = f"bytes={self._position}-{'' if is_open else self.stop - 1}"
        wait_s = min(self.policy.connection_wait_s, max(1.0, self.end - monotonic()))
        try:
            with exchange(
                self.pool,
                "GET",
                url.url,
                Clock(self.policy.limits),
                headers=headers,
                at_most=self.stop - self._position,
                wait_for_connection_s=wait_s,
            ) as response:
                return self._receive(response)
        except HTTPError as error:
            raise self._failure(error) from None  # its text has the whole URL

    def _receive(self, response: BaseHTTPResponse) -> ObjectPart:
        if response.status == 416:
            # The object ends before the range.
            size = response.headers.get("Content-Range", "").rpartition("/")[2]
            n_bytes = int(size) if _SIZE.fullmatch(size) else self.start
            return ObjectPart(self._pieces, n_bytes, None)
        if response.status not in (200, 206):
            raise self._refusal(response)
        etag = response.headers.get("ETag")
        if self._position > self.start and etag != self._etag:
            self._restart(self.start)
            raise TransientError(self._error("was replaced in the store while it was read"))
        self._etag = etag
        if response.status == 200:
            # Some stores send the whole object whatever the range.
            self._restart(0)
            self._fill(response)
            return ObjectPart(self._pieces, self._position, etag)
        return self._receive_range(response)

    def _receive_range(self, response: BaseHTTPResponse) -> ObjectPart:
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if content_range is None:
            raise self._error("is sent in part without a valid Content-Range")
        first, size = int(content_range[1]), int(content_range[3])
        if first != self._position:
            raise TransientError(self._error(f"starts at byte {first}, not {self._position}"))
        end = min(self.stop, size)
        self._fill(response, end)
        if self._position != end:
            raise self._incomplete(end)
        return ObjectPart(self._pieces, size, self._etag)

    def _fill(self, response: BaseHTTPResponse, end: int = sys.maxsize) -> None:
        """Keep the wanted bytes of a body; stop reading a body that is longer than announced."""
        for block in blocks(response, self.policy.block_bytes):
            begin, self._position = self._position, self._position + len(block)
            for (start, stop), piece in zip(self.wanted, self._pieces, strict=True):
                if start <= begin and self._position <= stop:
                    piece += block
                elif start < self._position and begin < stop:
                    piece += block[max(start, begin) - begin : stop - begin]
            if self._position > end:
                return

    def _incomplete(self, end: int) -> TransientError:
        found, expected = self._position - self.start, end - self.start
        if self._etag is None or found > expected:
            self._restart(self.start)
        text = f"The store sent {found} of {expected} bytes of the object {self.object_name!r}."
        return TransientError(
            Truncated(text, object_name=self.object_name, expected=expected, found=found)
        )

    def _error(self, what: str) -> ReadError:
        return ReadError(f"The object {self.object_name!r} {what}.", object_name=self.object_name)

    def _failure(self, error: HTTPError) -> Exception:
        """Return the error of a request without a complete response."""
        name, host = self.object_name, self._host
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return AccessError(
                f"The store that has the object {name!r} shows a certificate that cannot be "
                "verified. If it is one of your site, name the file of its authority in the "
                "environment variable SSL_CERT_FILE, here and on the workers.",
                object_name=name,
            )
        found = self._position - self.start
        if self._etag is None:
            self._restart(self.start)
        # urllib3 wraps it in another error.
        if any(isinstance(e, IncompleteRead) for e in (error, *error.args)):
            text = f"The store breaks off sending the object {name!r} after {found} bytes."
            return TransientError(Truncated(text, object_name=name, found=found))
        text = f"The store at {host} does not send the object {name!r}"
        if isinstance(error, OutOfTimeError):
            text += f" in time: {error}. Is it overloaded, or the network between it and here?"
        elif isinstance(error, MalformedError):
            text = f"The object {name!r} cannot be requested at {host}: {error}."
        else:
            text += f": {type(error).__name__}. Is it running, and can it be reached from here?"
        return TransientError(ReadError(text, object_name=name))

    def _refusal(self, response: BaseHTTPResponse) -> Exception:
        """Return the error of a response that is no success."""
        status, name = response.status, self.object_name
        s3_code = _S3_CODE.search(response.read(_MAX_REFUSAL_BYTES))
        code = s3_code[1] if s3_code else b""
        reason = f"[{status}{' ' + code.decode() if code else ''}]"
        facts: dict[str, Any] = {"object_name": name, "status": status}
        if status == 404:
            gone = ObjectGone(
                f"The store no longer has the object {name!r} {reason}. Results are deleted after "
                "some time; submit the query again with ignore_cache=True.",
                **facts,
            )
            return gone if code == b"NoSuchBucket" else TransientError(gone)
        if status in TRANSIENT:
            text = f"The store fails to send the object {name!r} {reason}."
            return TransientError(ReadError(text, **facts), retry_after(response) or 0.0)
        error = AccessError(f"The store refuses the object {name!r} {reason}.", **facts)
        return StaleUrlError(error) if code in _STALE or status in (400, 401, 403) else error


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "(an invalid address)"
