"""Time limits of one request, and the clock that enforces them."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

from urllib3.exceptions import HTTPError

# Longest wait between two checks of a clock, seconds.
SLICE_S = 0.1
# Longest time that one slice can count, seconds: in a longer one this process was suspended.
MAX_SLICE_S = 1.0
# Largest head of a response, bytes.
MAX_HEAD_BYTES = 1 << 20

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of one request.

    Attributes
    ----------
    total_s : float
        Time for the whole request, seconds, without that for its body.
    bytes_per_s : float
        Size of a body that allows one second more, bytes; of the bytes requested or received,
        whichever are more.
    min_bytes_per_s : float
        Lowest mean rate at which a body may arrive during any ``window_s``, bytes per second.
    window_s : float
        Time over which the rate is taken, seconds.
    connect_s : float
        Time for connecting to one address, seconds.
    """

    total_s: float = 60.0
    bytes_per_s: float = 100_000.0
    min_bytes_per_s: float = 1000.0
    window_s: float = 30.0
    connect_s: float = 10.0


DEFAULT_LIMITS = Limits()


class OutOfTimeError(HTTPError):
    """The request exceeded its limits; the message has the bytes received by then."""


class InterruptedRequestError(HTTPError):
    """The caller no longer wants the response."""


class _RequestOverError(OSError):
    """Ends the wait of a socket; `Clock.raise_ending` raises the error that callers see."""


class Clock:
    """Clock of one request.

    Only the time counts in which this process waits for the server, not that in which it is
    suspended or busy with received bytes.

    Parameters
    ----------
    limits : Limits
    end : float
        Time by `time.monotonic` at which the request ends whatever its limits.
    is_interrupted : callable
        Called at each check, in the thread of the request; returns True to end the request.

    Attributes
    ----------
    n_bytes : int
        Bytes received so far, with headers.
    is_sent : bool
        True once sending the request has begun.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        end: float = math.inf,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.limits = limits
        self.n_bytes = 0
        self.is_sent = False
        self._end = end
        self._is_interrupted = is_interrupted
        self._waited_s = 0.0
        self._expected = 0
        # Pairs of time and bytes received, over the last window; empty before the body.
        self._marks: deque[tuple[float, int]] = deque()
        self._ending: HTTPError | None = None
        self._outer: Clock | None = None

    def __enter__(self) -> Clock:
        self._outer, current.clock = current.clock, self
        return self

    def __exit__(self, *error: object) -> None:
        current.clock = self._outer

    def expect(self, n_bytes: int) -> None:
        """Allow time for a body of so many bytes; from now on the minimum rate holds."""
        self._expected = n_bytes
        self._marks.append((self._waited_s, self.n_bytes))

    def raise_ending(self) -> None:
        """Raise the error with which this clock ended the request, if it did."""
        if self._ending is not None:
            raise self._ending from None

    def wait(self, operation: Callable[..., Result], *args: Any) -> Result:
        """Call an operation that waits for one slice, until it succeeds or the request is over."""
        while True:
            self._check()
            begin = monotonic()
            try:
                return operation(*args)
            except (TimeoutError, FutureTimeoutError):  # two classes until Python 3.11
                continue
            finally:
                self._waited_s += min(monotonic() - begin, MAX_SLICE_S)

    def count(self, n_bytes: int) -> None:
        """Count received bytes."""
        self.n_bytes += n_bytes
        marks, step = self._marks, self.limits.window_s / 30
        if marks and self._waited_s - marks[-1][0] >= step:
            marks.append((self._waited_s, self.n_bytes))

    def _check(self) -> None:
        received = f"it sent {self.n_bytes} bytes in {self._waited_s:.1f} s"
        if self._is_interrupted():
            self._ending = InterruptedRequestError("interrupted")
        elif monotonic() >= self._end or self._waited_s >= self._allowed_s():
            self._ending = OutOfTimeError(received)
        elif not self._marks and self.n_bytes > MAX_HEAD_BYTES:
            self._ending = OutOfTimeError(f"{received}, and all of them headers")
        elif self._is_slow():
            self._ending = OutOfTimeError(
                f"{received}, and less than {self.limits.min_bytes_per_s:g} bytes/s in the last "
                f"{self.limits.window_s:g} s"
            )
        if self._ending is not None:
            raise _RequestOverError("the request is over")

    def _allowed_s(self) -> float:
        n_bytes = max(self._expected, self.n_bytes) if self._marks else 0
        return self.limits.total_s + n_bytes / self.limits.bytes_per_s

    def _is_slow(self) -> bool:
        marks, begin = self._marks, self._waited_s - self.limits.window_s
        while len(marks) > 1 and marks[1][0] <= begin:
            marks.popleft()
        if not marks or marks[0][0] > begin:
            return False
        return self.n_bytes - marks[0][1] < self.limits.min_bytes_per_s * self.limits.window_s


class CurrentClock(threading.local):
    """The clock of the request that the current thread makes, if there is one.

    Connections are kept and used by other threads later, so that sockets hold no clock themselves.

    Attributes
    ----------
    clock : Clock or None
    """

    clock: Clock | None = None

    def wait(self, operation: Callable[..., Result], *args: Any) -> Result:
        """Call an operation as `Clock.wait` does; without a clock, once."""
        return operation(*args) if self.clock is None else self.clock.wait(operation, *args)

    def receive(self, operation: Callable[..., int], *args: Any) -> int:
        """Call an operation that receives bytes, and count them."""
        n_bytes = self.wait(operation, *args)
        if self.clock is not None:
            self.clock.count(n_bytes)
        return n_bytes

    def send(self, operation: Callable[..., int], *args: Any) -> int:
        """Call an operation that sends bytes."""
        if self.clock is not None:
            self.clock.is_sent = True
        return self.wait(operation, *args)


current = CurrentClock()
