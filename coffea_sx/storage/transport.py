"""Fetch bytes of an object: retried when that helps, checked always.

The one place where failures of HTTP and of the store become ours.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache

import tenacity
import urllib3

from ..errors import AccessError, ObjectGone, ReadError, Truncated
from ..redact import RedactingFilter
from ..transform.access import Grant

TRANSIENT = {408, 429, 500, 502, 503, 504}
# How long reading one range may be tried again, seconds.
PATIENCE_S = 60.0
TIMEOUT = urllib3.Timeout(connect=10, read=60)
CONNECTIONS = 8
# A store may list an object a moment before it gives it; then it is tried again, after seconds.
MISSING_PAUSES_S = (1.0, 4.0)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_S3_CODE = re.compile(rb"<Code>(\w+)</Code>")
# What a store says to a URL that was good once.
_STALE = {b"ExpiredToken", b"AccessDenied", b"InvalidAccessKeyId", b"SignatureDoesNotMatch"}


# urllib3 logs every URL at DEBUG, with its signature.
logging.getLogger("urllib3.connectionpool").addFilter(RedactingFilter())


class _TransientError(Exception):
    """Try again; the cause is what is raised in the end."""

    def __init__(self, cause: ReadError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _StaleError(Exception):
    """The grant is no longer good; the cause is what is raised if a new one is no better."""

    def __init__(self, cause: ReadError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@lru_cache(maxsize=1)
def _connections() -> urllib3.PoolManager:
    return urllib3.PoolManager(maxsize=CONNECTIONS, block=True, timeout=TIMEOUT, retries=False)


def fetch(
    object_name: str,
    grant: Callable[[bool], Grant],
    start: int,
    stop: int,
    patience_s: float = PATIENCE_S,
) -> tuple[bytes, int]:
    """Fetch bytes ``start`` to ``stop`` of an object, and its size.

    Parameters
    ----------
    object_name : str
        Named in errors.
    grant : callable
        Gives permission to read it; called with True for a new one, once, if the store refuses.
    start, stop : int
        Bytes; fewer come back if the object ends before ``stop``.
    patience_s : float
        How long to try, seconds.

    Raises
    ------
    AccessError
        If the store refuses the URL, and a new one too.
    ObjectGone
        If it has no such object.
    Truncated
        If it keeps sending fewer bytes than it promises.
    ReadError
        If it does not answer.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_TransientError),
        stop=tenacity.stop_before_delay(patience_s) | _StopMissing(),
        wait=_pause,
        reraise=True,
    )
    try:
        try:
            return attempts(_get, object_name, grant(False), start, stop)
        except _StaleError:
            return attempts(_get, object_name, grant(True), start, stop)
    except (_TransientError, _StaleError) as error:
        raise error.cause from None


def _is_missing(state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return isinstance(getattr(error, "cause", None), ObjectGone)


class _StopMissing(tenacity.stop.stop_base):
    """Stop when an object was missing each time."""

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        tries = len(MISSING_PAUSES_S) + 1
        return _is_missing(retry_state) and retry_state.attempt_number >= tries


def _pause(state: tenacity.RetryCallState) -> float:
    if _is_missing(state):
        return MISSING_PAUSES_S[min(state.attempt_number, len(MISSING_PAUSES_S)) - 1]
    return tenacity.wait_random_exponential(multiplier=0.1, max=5)(state)


def _get(object_name: str, grant: Grant, start: int, stop: int) -> tuple[bytes, int]:
    headers = {**grant.headers, "Range": f"bytes={start}-{stop - 1}"}
    try:
        response = _connections().request(
            "GET", grant.url, headers=headers, redirect=False, decode_content=False
        )
    except urllib3.exceptions.HTTPError as error:
        # Its text has the whole URL.
        raise _TransientError(
            ReadError(
                f"The store does not send the object {object_name!r}: {type(error).__name__}.",
                object_name=object_name,
            )
        ) from None
    return _checked(object_name, response, start, stop)


def _checked(
    object_name: str, response: urllib3.BaseHTTPResponse, start: int, stop: int
) -> tuple[bytes, int]:
    status, data = response.status, response.data
    if status == 206:
        first, last, size = _content_range(object_name, response)
        wanted = min(stop, size)
        if first != start or last + 1 != wanted or len(data) != wanted - start:
            raise _short(object_name, wanted - start, len(data))
        return data, size
    if status == 200:
        length = response.headers.get("Content-Length")
        if length is not None and int(length) != len(data):
            raise _short(object_name, int(length), len(data))
        return data[start:stop], len(data)
    if status == 416:
        return b"", start
    raise _refusal(object_name, status, data)


def _content_range(object_name: str, response: urllib3.BaseHTTPResponse) -> tuple[int, int, int]:
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None:
        raise ReadError(
            f"The store sends a part of the object {object_name!r} without saying which.",
            object_name=object_name,
        )
    first, last, size = map(int, found.groups())
    return first, last, size


def _short(object_name: str, expected: int, found: int) -> _TransientError:
    return _TransientError(
        Truncated(
            f"The store sent {found} of {expected} bytes of the object {object_name!r}.",
            object_name=object_name,
            expected=expected,
            found=found,
        )
    )


def _refusal(object_name: str, status: int, data: bytes) -> Exception:
    found = _S3_CODE.search(data[:2000])
    code = found[1] if found else b""
    says = f"[{status}{' ' + code.decode() if code else ''}]"
    facts = {"object_name": object_name, "status": status}
    if status == 404:
        gone = ObjectGone(
            f"The store no longer has the object {object_name!r} {says}. Results are deleted "
            "after some time; submit the query again with ignore_cache=True.",
            **facts,
        )
        return gone if code == b"NoSuchBucket" else _TransientError(gone)
    error = AccessError(f"The store refuses the object {object_name!r} {says}.", **facts)
    if status in TRANSIENT:
        return _TransientError(
            ReadError(f"The store fails to send the object {object_name!r} {says}.", **facts)
        )
    if code in _STALE or status in (400, 401, 403):
        return _StaleError(error)
    return error
