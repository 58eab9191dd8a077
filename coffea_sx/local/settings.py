"""Parameters of an embedded server, and settings that its users rarely change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .buckets import StoreAddress
    from .generations import Generation
    from .middleware import Exchange

BeforeReport = Callable[[str], Awaitable[None]]


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class ServerSettings:
    """Limits for clients, and what the server takes from its surroundings.

    Attributes
    ----------
    request_s : float
        A connection is closed after so many seconds without a complete request.
    reading_s : float
        A connection is closed when its client reads nothing of a response for so many seconds.
    idle_s : float
        When `max_connections` are open, a connection without a request for so many seconds is
        closed in favour of a new one.
    max_connections : int
        Open connections. There are fewer if the process may have less than twice as many open
        files.
    body_s, min_body_rate : float
        Seconds for the body of a request, and the bytes a second that a longer one must arrive at.
    max_body_bytes : int
        Bytes in the body of one request. A list of 100 000 paths of 250 characters fits.
    max_bytes_in_work : int
        Bytes in the bodies of all requests in work, which are in memory.
    listed_objects : int
        Objects in one page of the listing of a bucket.
    clock : callable
        Returns the time in UTC for the records.
    cache_prefix : str
        Written before the paths of input files in results, as a transformer does that reads
        through a cache (``CACHE_PREFIX``). The files themselves are read without it.
    """

    request_s: float = 10.0
    reading_s: float = 120.0
    idle_s: float = 2.0
    max_connections: int = 1000
    body_s: float = 30.0
    min_body_rate: float = 10_000.0
    max_body_bytes: int = 32 << 20
    max_bytes_in_work: int = 64 << 20
    listed_objects: int = 1000
    clock: Callable[[], datetime] = utc_now
    cache_prefix: str = ""


@dataclass(frozen=True)
class ServerOptions:
    """Parameters of a `LocalServiceX`, checked and with their defaults.

    Attributes
    ----------
    codegens : tuple of str
        Code generators that the server offers.
    object_store : StoreAddress or None
        None for the buckets of the server itself.
    log : callable
        Called with every `Exchange`.
    """

    workers: int
    port: int
    needs_tokens: bool
    codegens: tuple[str, ...]
    datasets: Mapping[str, Sequence[str]]
    object_store: StoreAddress | None
    generation_name: str
    generation: Generation
    url_expiry_s: int
    access_token_s: float
    before_report: BeforeReport | None
    settings: ServerSettings
    log: Callable[[Exchange], None]
