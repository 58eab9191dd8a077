"""Policies: how often a server is polled, what is repeated, and how many input files may fail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral, Real
from time import sleep
from typing import TypeVar

import tenacity

from .errors import AccessError, BadInput, ConfigurationError, ServiceXError

Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """Pauses between requests to a server, and limits of waits; seconds, ``math.inf`` is no limit.

    Attributes
    ----------
    busy_s : float
        Minimum time between two requests of this process to a server, for all its transforms;
        requests for URLs are at least twice as far apart.
    idle_s : float
        Maximum time between two requests of this process to a server while a task waits.
    stall_s : float
        A transform without news for this long has stalled.
    deadline_s : float
        Maximum time to wait for a transform, summed over all waits.
    settle_s : float
        Time for which the last rows of a transform that has ended may be missing.
    outage_s : float
        Time for which the server may be silent.

    Raises
    ------
    BadInput
        If a value is not a number of seconds, or if ``busy_s``, ``idle_s`` or ``settle_s`` is
        infinite.
    """

    busy_s: float = 1.0
    idle_s: float = 2.0
    stall_s: float = 1800.0
    deadline_s: float = math.inf
    settle_s: float = 10.0
    outage_s: float = 600.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            seconds = getattr(self, name)
            is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
            if not is_number or not seconds >= 0:
                raise BadInput(
                    f"PollPolicy({name}=...) is a number of seconds, with math.inf for no limit; "
                    f"got {seconds!r}."
                )
            # Without these limits the poller would never ask, or a transform never end.
            if name in {"busy_s", "idle_s", "settle_s"} and math.isinf(seconds):
                text = f"PollPolicy({name}=...) must have a limit, or waiting would never end."
                raise BadInput(text)


@dataclass(frozen=True, slots=True)
class SchedulingPolicy:
    """Turns of the transforms of one server, and of the requests for their URLs.

    Attributes
    ----------
    request_s, min_request_s : float
        Time that one request may take, and that it gets at least near the end of a wait, seconds.
    jitter : float
        Pauses are longer by up to this fraction, so that processes do not request all at once.
    slack : float
        Fraction of the minimum pause by which a request may come early if the server is free.
    check_s : float
        Maximum time between two checks of the limits of waits, seconds.
    join_s : float
        Time that threads get to end, seconds.
    active_rate : float
        Minimum rate that is expected of a transform with new results in the last response, rows a
        second.
    silent_rates : tuple of float
        Rates that are expected of transforms without results, in the order of submission: some
        servers run one transform after the other. The last holds for all others.
    share_beside_active : float
        Factor for these rates while another transform is active.
    url_pauses : float
        Minimum time between two requests for URLs, in minimum pauses between other requests.
    url_timeout_s : float
        Maximum time for which readers wait for a server that gives no URLs, seconds; less than
        `ChannelPolicy.owner_timeout_s`.
    """

    request_s: float = 60.0
    min_request_s: float = 1.0
    jitter: float = 0.4
    slack: float = 0.5
    check_s: float = 1.0
    join_s: float = 2.0
    active_rate: float = 1.0
    silent_rates: tuple[float, ...] = (0.5, 0.2, 0.1, 0.02)
    share_beside_active: float = 0.3
    url_pauses: float = 2
    url_timeout_s: float = 45.0


@dataclass(frozen=True, slots=True)
class ChannelPolicy:
    """Times of the channel from the owner of a transform to the workers of a cluster; seconds.

    Attributes
    ----------
    poll_s : float
        Time for which a request to the scheduler stays open before it is repeated. A transform is
        awaited for twice that time after the last request of a worker.
    owner_timeout_s : float
        An owner that has been silent for longer is lost.
    reconnect_s : float
        Time after which a scheduler that is away is contacted again.
    """

    poll_s: float = 10.0
    owner_timeout_s: float = 60.0
    reconnect_s: float = 0.5


SCHEDULING = SchedulingPolicy()
CHANNEL = ChannelPolicy()


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """Number of input files that may fail.

    Attributes
    ----------
    on_failure : {"raise", "skip"}
        Failed files end a computation, or are left out of it.
    max_failed : int or float or None
        Maximum number of files to leave out, or as a float a fraction of all; None is no limit.
    elsewhere : frozenset of int
        Files of the transform that do not count: another transform delivers them.
    n_files : int
        Number of all files, for a fraction.
    """

    on_failure: str
    max_failed: int | float | None = None
    elsewhere: frozenset[int] = frozenset()
    n_files: int = 0

    def __post_init__(self) -> None:
        if self.on_failure not in ("raise", "skip"):
            raise BadInput(f'on_failure must be "raise" or "skip", got {self.on_failure!r}.')
        if self.max_failed is None:
            return
        if self.on_failure == "raise":
            text = 'max_failed= says how many files may be left out; use on_failure="skip".'
            raise BadInput(text)
        # numpy's numbers are numbers, too; bools are numbers only to Python.
        is_number = isinstance(self.max_failed, Real) and not isinstance(self.max_failed, bool)
        is_count = isinstance(self.max_failed, Integral)
        if not is_number or not 0 <= self.max_failed <= (math.inf if is_count else 1.0):
            raise BadInput(
                "max_failed must be a number of files (int), or a fraction of them (float, 0.0 to "
                f"1.0), got {self.max_failed!r}."
            )
        plain = int(self.max_failed) if is_count else float(self.max_failed)
        object.__setattr__(self, "max_failed", plain)

    @property
    def skips(self) -> bool:
        """True if failed files are left out."""
        return self.on_failure == "skip"

    @property
    def limit(self) -> int | None:
        """Maximum number of files to leave out; None is no limit."""
        if isinstance(self.max_failed, float):
            return int(self.max_failed * self.n_files)
        return self.max_failed

    def among(self, n_files: int) -> FailurePolicy:
        """Return the policy for so many files, none of which is delivered elsewhere."""
        return replace(self, n_files=n_files, elsewhere=frozenset())

    def without(self, indices: Iterable[int]) -> FailurePolicy:
        """Return the policy for a transform of whose files another one delivers some."""
        return replace(self, elsewhere=self.elsewhere.union(indices))

    def allows(self, n_failed: int) -> bool:
        """Return True if a computation goes on when so many of its input files have failed."""
        return not n_failed or (self.skips and (self.limit is None or n_failed <= self.limit))


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """Limits of a client of ServiceX.

    Attributes
    ----------
    patience_s : float
        Time for which a request is repeated while the server does not respond, seconds.
    max_response_bytes : int
        Largest response that is read: about five hundred thousand rows of results.
    max_submissions : int
        Attempts to submit a transform that the server neither accepts nor refuses.
    recovery_pauses_s : tuple of float
        Pauses between searches for a submission without a response, seconds: a server may still be
        at work on it.
    signed_for_s : int
        Lifetime of a URL that is signed here, seconds: as long as a slow read of one file.
    urls_per_request : int
        Objects whose URLs are requested together.
    """

    patience_s: float = 5.0
    max_response_bytes: int = 256 << 20
    max_submissions: int = 2
    recovery_pauses_s: tuple[float, ...] = (0.5, 2.0, 5.0)
    signed_for_s: int = 600
    urls_per_request: int = 500


DEFAULT_CLIENT = ClientPolicy()

STRICT = FailurePolicy("raise")
LENIENT = FailurePolicy("skip")


def is_transient(error: Exception) -> bool:
    """Return True if the same request may succeed later."""
    # A store that does not list a bucket, or a file that holds a token, may be there again.
    if isinstance(error, (ConnectionError, AccessError, ConfigurationError)):
        return True
    return (getattr(error, "status", 0) or 0) >= 429


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Repeat a request while its server is away.

    Attributes
    ----------
    limit_s : float
        Time for which the request is repeated, seconds.
    pause_s : float
        Time between two attempts, seconds.
    repeats : callable
        Takes the error of an attempt; returns True if there is to be another one.
    """

    limit_s: float
    pause_s: float
    repeats: Callable[[Exception], bool] = is_transient

    def call(
        self, request: Callable[[], Response], *, sleep: Callable[[float], None] = sleep
    ) -> Response:
        """Return the response to a request, after as many attempts as the policy allows.

        Parameters
        ----------
        request : callable
        sleep : callable
            Called between two attempts with the seconds to sleep; its errors end the attempts.

        Raises
        ------
        ServiceXError
            The error of the last attempt.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, ServiceXError) and self.repeats(error)
            ),
            stop=tenacity.stop_after_delay(self.limit_s),
            wait=tenacity.wait_fixed(self.pause_s),
            before_sleep=self._warn_once,
            sleep=sleep,
            reraise=True,
        )
        return retrying(request)

    def _warn_once(self, attempt: tenacity.RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        if attempt.attempt_number == 1 and error is not None:
            warn_of_outage(error, self.limit_s)


def warn_of_outage(error: BaseException, limit_s: float) -> None:
    """Warn that a server does not respond, and of the time for which requests are repeated."""
    # Where warnings are errors, this one must not end a wait that may go on.
    with suppress(UserWarning):
        warnings.warn(f"{error} It is asked again for up to {limit_s:g} s.", stacklevel=2)
