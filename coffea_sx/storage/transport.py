"""Bytes of one object over HTTP: requested again after transient errors, and always checked.

Failures of HTTP and of the store become errors of this package here and nowhere else. urllib3
carries the bytes, because it delivers large bodies faster than httpx and obstore.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from time import monotonic
from typing import Any

import tenacity
from urllib3 import PoolManager

from ..errors import AccessError
from ..servicex.models import SignedUrl
from ..wire.connections import make_pool
from .policy import DEFAULT_POLICY, ReadPolicy
from .transfer import ObjectPart, Range, StaleUrlError, Transfer, TransferError, TransientError

# `cache` alone makes a pool for each of the threads that come first.
_making_pool = threading.Lock()


@cache
def _pool(connections: int) -> PoolManager:
    return make_pool(maxsize=connections, block=True)


def fetch(
    object_name: str,
    get_url: Callable[[bool], SignedUrl],
    start: int = 0,
    stop: int | None = None,
    wanted: Sequence[Range] | None = None,
    policy: ReadPolicy = DEFAULT_POLICY,
) -> ObjectPart:
    """Fetch bytes ``start`` to ``stop`` of an object, in one request if nothing fails.

    A transfer that breaks off is resumed if the store says that the object is still the same, and
    begun again otherwise.

    Parameters
    ----------
    object_name : str
        Named in errors.
    get_url : callable
        Returns the signed URL of the object; called with True for a new one, once, if the store
        refuses the first.
    start, stop : int
        Range in bytes; fewer come back if the object ends before ``stop``. None is the end of the
        object.
    wanted : sequence of tuple of int, optional
        Ranges that are kept, in order; the bytes between them are dropped as they arrive.
    policy : ReadPolicy

    Returns
    -------
    ObjectPart

    Raises
    ------
    AccessError
        If the store refuses the URL, and a new one too.
    ObjectGone
        If the object is not in the store.
    Truncated
        If the store keeps sending fewer bytes than it announces.
    ReadError
        If the store does not answer, or too slowly.
    """
    end = monotonic() + policy.retry_s
    with _making_pool:
        pool = _pool(policy.connections)
    stop = sys.maxsize if stop is None else stop
    ranges = [(start, stop)] if wanted is None else wanted
    transfer = Transfer(object_name, start, stop, ranges, policy, pool, end)
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=partial(_is_over, policy, end),
        wait=partial(_pause_s, policy),
        reraise=True,
    )
    try:
        try:
            return attempts(transfer.resume, get_url(False))
        except StaleUrlError as stale:
            return attempts(transfer.resume, _renewed(get_url, stale))
    except TransferError as error:
        raise error.cause from None


def _renewed(get_url: Callable[[bool], SignedUrl], stale: StaleUrlError) -> SignedUrl:
    """Return a new URL; without one, both reasons are raised in one error."""
    try:
        return get_url(True)
    except AccessError as error:
        text = f"{stale.cause} There is no new URL: {error}"
        raise AccessError(text, **{**error.facts, **stale.cause.facts}) from None


def _is_over(policy: ReadPolicy, end: float, attempt: tenacity.RetryCallState) -> bool:
    is_late = monotonic() + attempt.upcoming_sleep >= end
    n_pauses = len(policy.missing_pauses_s)
    return is_late or (_error_of(attempt).is_missing and attempt.attempt_number > n_pauses)


def _pause_s(policy: ReadPolicy, attempt: tenacity.RetryCallState) -> float:
    error = _error_of(attempt)
    if error.is_missing:
        pauses_s = (*policy.missing_pauses_s, 0.0)
        return pauses_s[min(attempt.attempt_number, len(pauses_s)) - 1]
    return max(error.pause_s, tenacity.wait_random_exponential(multiplier=0.1, max=5)(attempt))


def _error_of(attempt: tenacity.RetryCallState) -> Any:
    """Return the `TransientError` of an attempt."""
    return attempt.outcome.exception() if attempt.outcome else None
