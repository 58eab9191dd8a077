"""Policy of reading: sizes, times and repetitions of requests to a store."""

from __future__ import annotations

from dataclasses import dataclass

from ..wire.clock import DEFAULT_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """Sizes, times and repetitions of requests for the bytes of objects.

    Attributes
    ----------
    limits : Limits
        Time limits of one request.
    retry_s : float
        Time for which a range is requested again after transient errors, seconds.
    missing_pauses_s : tuple of float
        Pauses before an object that is not in the store is requested again, seconds: a store may
        list an object a moment before it serves it.
    connections : int
        Largest number of connections of this process to one store.
    connection_wait_s : float
        Time to wait for a free connection, seconds.
    block_bytes : int
        Largest number of bytes that are taken from a connection at once.
    round_trip_bytes : int
        Bytes that a store sends in the time of a round trip, as in 10 ms at 100 MB/s. A gap
        between two ranges that is not larger is fetched with them.
    whole_share : float
        Share of an object, from 0 to 1, that makes it worth fetching all of it in one request.
    small_bytes : int
        Largest size of an object whose ranges are all fetched in one request, whatever lies between
        them: many workers with many requests each are what stores answer with 429 and 503.
    held_bytes : int
        Largest size of an object that is fetched whole for a work item, whose columns coffea reads
        one after the other.
    dropped_bytes : int
        Ranges of larger objects are kept for the work item unless they are larger than this: they
        are baskets, which are read once, and not metadata.
    result_s : float or None
        Time to wait for the result of an input file that is opened, seconds; None waits until the
        transform ends or stalls.
    """

    limits: Limits = DEFAULT_LIMITS
    retry_s: float = 60.0
    missing_pauses_s: tuple[float, ...] = (1.0, 4.0)
    connections: int = 8
    connection_wait_s: float = 60.0
    block_bytes: int = 1 << 20
    round_trip_bytes: int = 1 << 20
    whole_share: float = 0.5
    small_bytes: int = 32 << 20
    held_bytes: int = 8 << 20
    dropped_bytes: int = 64 << 10
    result_s: float | None = None


DEFAULT_POLICY = ReadPolicy()
