"""HTTP requests that end: every wait for a server has a limit, and can be interrupted.

The timeouts of HTTP libraries are those of one wait for some bytes, so that a server which sends a
byte a second is waited for without end. Here the sockets themselves look at the clock of the
request that they are used by: while a name is looked up, while a connection is made, in the
handshake of TLS, and between any two bytes of headers and body.
"""

from __future__ import annotations

import logging
import math
import os
import re
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import monotonic, time
from traceback import clear_frames
from typing import Any, TypeVar

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, InvalidHeader, NewConnectionError

from .redact import RedactingFilter

# How often a request that waits looks at its clock, seconds.
SLICE_S = 0.1
# What a slice counts at most, seconds: this process was suspended in one that took longer.
LONGEST_SLICE_S = 1.0
# The largest head of an answer, bytes.
LARGEST_HEAD = 1 << 20
# The longest pause that a server can ask for, seconds.
LONGEST_PAUSE_S = 3600.0

_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?")
_LENGTH = re.compile(r"[0-9]{1,18}")

Result = TypeVar("Result")

# urllib3 logs every URL at DEBUG, with its signature.
logging.getLogger("urllib3.connectionpool").addFilter(RedactingFilter())


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a request may take.

    Attributes
    ----------
    total_s : float
        All of it, seconds.
    bytes_per_s : float
        So many bytes of a body allow one second more: those asked for, or those that came.
    least_rate, window_s : float
        How many bytes a second a body must bring in any so many seconds.
    connect_s : float
        Connecting to one address, seconds.
    """

    total_s: float = 60.0
    bytes_per_s: float = 100_000.0
    least_rate: float = 1000.0
    window_s: float = 30.0
    connect_s: float = 10.0


DEFAULT = Limits()


class OutOfTimeError(HTTPError):
    """The request took longer than it may; the text says how much was sent by then."""


class InterruptedRequestError(HTTPError):
    """Whoever made the request does not want its answer any more."""


class MalformedError(HTTPError):
    """The request or its answer is not HTTP."""


class _OverError(OSError):
    """Ends the wait of a socket; what is raised in the end is made of the clock."""


def _never() -> bool:
    return False


class Clock:
    """When one request has to end.

    Only the time counts in which this process waits for the server: not that in which it is
    suspended, or busy with what it has.

    Parameters
    ----------
    limits : Limits
    end : float
        When the request must be over whatever its limits, by `time.monotonic`.
    is_interrupted : callable
        Asked again and again, from the thread of the request.

    Attributes
    ----------
    n_bytes : int
        Received so far, with headers.
    is_sent : bool
        Whether sending the request has begun.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT,
        end: float = math.inf,
        is_interrupted: Callable[[], bool] = _never,
    ) -> None:
        self.limits = limits
        self.n_bytes = 0
        self.is_sent = False
        self._end = end
        self._is_interrupted = is_interrupted
        self._waited_s = 0.0
        self._expected = 0
        # How much was received when, of the last window; none while headers are waited for.
        self._marks: deque[tuple[float, int]] = deque()
        self._ending: HTTPError | None = None
        self._outer: Clock | None = None

    def __enter__(self) -> Clock:
        self._outer, _current.clock = _current.clock, self
        return self

    def __exit__(self, *error: object) -> None:
        _current.clock = self._outer

    def expect(self, n_bytes: int) -> None:
        """Allow time for a body, which must come at the least rate from now on."""
        self._expected = n_bytes
        self._marks.append((self._waited_s, self.n_bytes))

    def raise_ending(self) -> None:
        """Raise what ended the request, if it was this clock."""
        if self._ending is not None:
            raise self._ending from None

    def wait(self, operation: Callable[..., Result], *args: Any) -> Result:
        """Do what waits for the server in slices, again and again until the request is over."""
        while True:
            self._check()
            begin = monotonic()
            try:
                return operation(*args)
            except TimeoutError:
                continue  # it was one slice that has passed
            finally:
                self._waited_s += min(monotonic() - begin, LONGEST_SLICE_S)

    def count(self, n_bytes: int) -> None:
        """Note that bytes have arrived."""
        self.n_bytes += n_bytes
        marks, step = self._marks, self.limits.window_s / 30
        if marks and self._waited_s - marks[-1][0] >= step:
            marks.append((self._waited_s, self.n_bytes))

    def _check(self) -> None:
        if self._is_interrupted():
            self._ending = InterruptedRequestError("interrupted")
        elif monotonic() >= self._end or self._waited_s >= self._allowed_s():
            self._ending = OutOfTimeError(self._said())
        elif not self._marks and self.n_bytes > LARGEST_HEAD:
            self._ending = OutOfTimeError(f"{self._said()}, and all of them headers")
        elif self._is_slow():
            self._ending = OutOfTimeError(
                f"{self._said()}, and less than {self.limits.least_rate:g} bytes/s in the last "
                f"{self.limits.window_s:g} s"
            )
        if self._ending is not None:
            raise _OverError("the request is over")

    def _allowed_s(self) -> float:
        n_bytes = max(self._expected, self.n_bytes) if self._marks else 0
        return self.limits.total_s + n_bytes / self.limits.bytes_per_s

    def _is_slow(self) -> bool:
        marks, begin = self._marks, self._waited_s - self.limits.window_s
        while len(marks) > 1 and marks[1][0] <= begin:
            marks.popleft()
        if not marks or marks[0][0] > begin:
            return False
        return self.n_bytes - marks[0][1] < self.limits.least_rate * self.limits.window_s

    def _said(self) -> str:
        return f"it sent {self.n_bytes} bytes in {self._waited_s:.1f} s"


class _Current(threading.local):
    clock: Clock | None = None

    def wait(self, operation: Callable[..., Result], *args: Any) -> Result:
        return operation(*args) if self.clock is None else self.clock.wait(operation, *args)

    def count(self, n_bytes: int) -> None:
        if self.clock is not None:
            self.clock.count(n_bytes)

    def send(self, send: Callable[..., int], *args: Any) -> int:
        if self.clock is not None:
            self.clock.is_sent = True
        return self.wait(send, *args)


# Connections are kept for other requests, of other threads: they look at the clock of the thread.
_current = _Current()


class _Socket(socket.socket):
    """A socket whose waits are slices, until the clock of the thread says that it is over."""

    def settimeout(self, value: float | None) -> None:
        """Wait for a slice, whatever a library wants."""
        super().settimeout(SLICE_S)

    def recv_into(self, *args: Any) -> int:
        n_bytes = _current.wait(super().recv_into, *args)
        _current.count(n_bytes)
        return n_bytes

    def send(self, *args: Any) -> int:
        return _current.send(super().send, *args)

    def sendall(self, data: Any, flags: int = 0) -> None:
        with memoryview(data).cast("B") as left:
            begin = 0
            while begin < len(left):
                begin += self.send(left[begin:], flags)

    def reach(self, address: Any, patience_s: float) -> None:
        """Connect to an address."""
        self.setblocking(False)
        patience = monotonic() + patience_s
        try:
            self.connect(address)
        except BlockingIOError:
            with selectors.DefaultSelector() as selector:
                selector.register(self, selectors.EVENT_WRITE)
                _current.wait(_wait_for_connection, selector, patience)
            code = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
        self.settimeout(None)


def _wait_for_connection(selector: selectors.BaseSelector, patience: float) -> None:
    if not selector.select(SLICE_S):
        raise TimeoutError if monotonic() < patience else OSError("it takes too long to connect")


class _EncryptedSocket(ssl.SSLSocket):
    """The same for an encrypted connection, and for its handshake."""

    def settimeout(self, value: float | None) -> None:
        """Wait for a slice, whatever a library wants."""
        super().settimeout(SLICE_S)

    def do_handshake(self, block: bool = False) -> None:
        _current.wait(super().do_handshake, block)

    def recv_into(self, *args: Any) -> int:
        n_bytes = _current.wait(super().recv_into, *args)
        _current.count(n_bytes)
        return n_bytes

    def send(self, *args: Any) -> int:
        return _current.send(super().send, *args)


class _Clocked(HTTPConnection):
    """A connection over such sockets."""

    def _new_conn(self) -> socket.socket:
        try:
            return _connected(self._dns_host.strip("[]"), self.port)
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, f"Failed to connect: {error}") from error

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _connected(host: str, port: int) -> socket.socket:
    """Connect to a host: to the first of its addresses that answers."""
    clock = _current.clock
    patience_s = (clock.limits if clock else DEFAULT).connect_s
    failure = OSError("it has no address")
    for family, kind, protocol, _, address in _addresses(host, port):
        one = _Socket(family, kind, protocol)
        try:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.reach(address, patience_s)
        except OSError as error:
            one.close()
            failure = error
        except BaseException:
            one.close()
            raise
        else:
            return one
    raise failure


def _addresses(host: str, port: int) -> list[Any]:
    """Look up the addresses of a host, in a thread: a look-up cannot be ended."""
    found: list[Any] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failures.append(error)
        finally:
            done.set()

    def wait() -> None:
        if not done.wait(SLICE_S):
            raise TimeoutError

    failures: list[Exception] = []
    threading.Thread(target=look_up, name="coffea_sx-address", daemon=True).start()
    _current.wait(wait) if _current.clock else done.wait()
    if failures:
        raise failures[0]
    return found


class _PlainConnection(_Clocked):
    pass


class _EncryptedConnection(_Clocked, HTTPSConnection):
    def connect(self) -> None:
        self.ssl_context = _encryption(os.environ.get("SSL_CERT_FILE"))
        super().connect()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _EncryptedPool(HTTPSConnectionPool):
    ConnectionCls = _EncryptedConnection


_POOLS = {"http": _PlainPool, "https": _EncryptedPool}


def pool(proxy_url: str | None = None, **options: Any) -> urllib3.PoolManager:
    """Make a pool of connections for `exchange`; options are those of ``urllib3.PoolManager``."""
    options = {"retries": False, "timeout": None, **options}
    if proxy_url is None:
        made = urllib3.PoolManager(**options)
    else:
        made = urllib3.ProxyManager(proxy_url, **options)
    made.pool_classes_by_scheme = _POOLS
    return made


def close(connections: urllib3.PoolManager) -> None:
    """Close the connections of a pool: idle ones now, others when their requests are over."""
    for key in connections.pools.keys():  # noqa: SIM118 - it is no dict, and gives a copy
        idle = connections.pools.get(key)
        if idle is not None:
            idle.close()
    connections.clear()


@lru_cache(maxsize=4)
def _encryption(authorities: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()  # which knows the environment
    if not authorities:
        # There are machines on which Python knows no authorities of its own.
        context.load_verify_locations(certifi.where())
    context.sslsocket_class = _EncryptedSocket
    return context


@contextmanager
def exchange(
    connections: urllib3.PoolManager,
    method: str,
    url: str,
    clock: Clock,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    at_most: float = math.inf,
    wait_for_connection_s: float | None = None,
) -> Iterator[urllib3.BaseHTTPResponse]:
    """Send a request; give its answer, whose body is read within the block.

    Parameters
    ----------
    connections : urllib3.PoolManager
        From `pool`.
    method, url : str
    clock : Clock
    headers : mapping of str to str
    body : bytes, optional
    at_most : float
        Bytes for which time is given before they arrive.
    wait_for_connection_s : float, optional
        How long to wait for a place in the pool.

    Raises
    ------
    OutOfTimeError
        If it takes longer than it may.
    InterruptedRequestError
    MalformedError
        If the request cannot be sent as it is, or the answer does not say how long it is.
    urllib3.exceptions.HTTPError
        If anything else fails.
    """
    try:
        with clock:
            response = _sent(connections, method, url, headers, body, wait_for_connection_s)
            try:
                clock.expect(int(min(_length(response), at_most)))
                yield response
            finally:
                # What was not read is dropped with its connection; the place of that in the pool
                # is free again.
                if not response.closed:
                    response.close()
                response.release_conn()
    except HTTPError:
        clock.raise_ending()
        raise


def _sent(
    connections: urllib3.PoolManager,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    wait_for_connection_s: float | None,
) -> urllib3.BaseHTTPResponse:
    try:
        return connections.request(
            method,
            url,
            headers=dict(headers),
            body=body,
            redirect=False,
            preload_content=False,
            decode_content=False,
            pool_timeout=wait_for_connection_s,
        )
    except InvalidHeader as error:
        # urllib3 forgets the answer, whose connection would stay until the collector comes.
        clear_frames(error.__traceback__)
        raise MalformedError("it says two lengths for its answer") from None
    except (ValueError, TypeError):  # http.client's text has the value of the header
        raise MalformedError("its address or a header cannot be sent as it is") from None


def _length(response: urllib3.BaseHTTPResponse) -> int:
    """Return how many bytes a body has, as far as the server says so."""
    length = response.headers.get("Content-Length")
    if length is None:
        return 0
    # Proxies may say it twice.
    said = {one.strip() for one in length.split(",")}
    if len(said) > 1 or not all(map(_LENGTH.fullmatch, said)):
        raise MalformedError(f"it says {length[:40]!r} for the length of its answer")
    return int(said.pop())


def blocks(
    response: urllib3.BaseHTTPResponse, size: int, *, decode: bool = False
) -> Iterator[bytes]:
    """Return the body of an answer of `exchange`, in blocks.

    Raises
    ------
    urllib3.exceptions.HTTPError
        If it breaks off, or is not what it says it is.
    """
    try:
        yield from response.stream(size, decode_content=decode)
    except ValueError:  # of lengths that are none
        raise MalformedError("it does not say how long the parts of its answer are") from None


def retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    """Return how long a server wants to be left alone, seconds; None if it does not say so.

    It says so in seconds or as a date. What is neither is as if nothing were said.
    """
    value = response.headers.get("Retry-After", "").strip()
    seconds = float(value) if _SECONDS.fullmatch(value) else _seconds_until(value)
    return None if seconds is None else min(max(0.0, seconds), LONGEST_PAUSE_S)


def _seconds_until(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - time()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
