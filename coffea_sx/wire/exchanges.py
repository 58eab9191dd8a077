"""One request and its response, within the limits of a clock."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from time import time
from traceback import clear_frames
from typing import Any

from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.exceptions import HTTPError, InvalidHeader

from .clock import Clock

# Longest pause that a server can request, seconds.
MAX_PAUSE_S = 3600.0

_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?")
_LENGTH = re.compile(r"[0-9]{1,18}")


class MalformedError(HTTPError):
    """The request or its response is not HTTP."""


@contextmanager
def exchange(
    pool: PoolManager,
    method: str,
    url: str,
    clock: Clock,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    at_most: float = math.inf,
    wait_for_connection_s: float | None = None,
) -> Iterator[BaseHTTPResponse]:
    """Send one request; yield its response, whose body is read within the block.

    Parameters
    ----------
    pool : urllib3.PoolManager
        From `make_pool`.
    method, url : str
    clock : Clock
    headers : mapping of str to str
    body : bytes, optional
    at_most : float
        Largest size of a body that allows more time before it arrives, bytes.
    wait_for_connection_s : float, optional
        Time to wait for a free place in the pool, seconds.

    Raises
    ------
    OutOfTimeError
        If the request exceeds its limits.
    InterruptedRequestError
        If the clock was interrupted.
    MalformedError
        If the request cannot be sent as it is, or the length of the response is ambiguous.
    urllib3.exceptions.HTTPError
        If anything else fails.
    """
    try:
        with clock:
            response = _send(
                pool,
                method,
                url,
                headers=dict(headers),
                body=body,
                pool_timeout=wait_for_connection_s,
            )
            try:
                clock.expect(int(min(_length(response), at_most)))
                yield response
            finally:
                # A body that was not read to its end is dropped together with its connection, whose
                # place in the pool becomes free.
                if not response.closed:
                    response.close()
                response.release_conn()
    except HTTPError:
        clock.raise_ending()
        raise


def _send(pool: PoolManager, method: str, url: str, **options: Any) -> BaseHTTPResponse:
    options |= {"redirect": False, "preload_content": False, "decode_content": False}
    try:
        return pool.request(method, url, **options)
    except InvalidHeader as error:
        # urllib3 drops the response, whose connection would stay open until it is collected.
        clear_frames(error.__traceback__)
        raise MalformedError("it gives two lengths for its response") from None
    except (ValueError, TypeError):  # the message of http.client has the value of the header
        raise MalformedError("its address or a header cannot be sent as it is") from None


def _length(response: BaseHTTPResponse) -> int:
    """Return the size of a body that the server announces, bytes; 0 if it announces none."""
    header = response.headers.get("Content-Length", "0")
    # Proxies may repeat it.
    lengths = {length.strip() for length in header.split(",")}
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise MalformedError(f"it gives {header[:40]!r} for the length of its response")
    return int(lengths.pop())


def blocks(response: BaseHTTPResponse, size: int, *, decode: bool = False) -> Iterator[bytes]:
    """Yield the body of a response of `exchange` in blocks.

    Parameters
    ----------
    response : urllib3.BaseHTTPResponse
    size : int
        Largest size of a block, bytes.
    decode : bool
        Decompress the body as its Content-Encoding says.

    Raises
    ------
    urllib3.exceptions.HTTPError
        If the body breaks off, or is malformed.
    """
    try:
        yield from response.stream(size, decode_content=decode)
    except ValueError:  # a length that is no number
        raise MalformedError("a part of its response has no valid length") from None


def retry_after(response: BaseHTTPResponse) -> float | None:
    """Return the pause that a response requests with Retry-After, seconds, at most an hour.

    None if the header is missing, or neither a number of seconds nor a date.
    """
    value = response.headers.get("Retry-After", "").strip()
    seconds = float(value) if _SECONDS.fullmatch(value) else _seconds_until(value)
    return None if seconds is None else min(max(0.0, seconds), MAX_PAUSE_S)


def _seconds_until(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - time()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
