"""State of a transform: what was observed of it, and what to request next.

A state machine without server or clock: the poller passes it responses and times, and it decides
what to request next and when, and how the transform ended.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from ..dataset import InputFiles
from ..errors import RequestRefused, ServiceXError, TransformGone
from ..policy import PollPolicy, is_transient
from ..servicex.models import ResultRow, TransformStatus
from . import failures
from .failures import TransformProgress
from .matching import RowMatcher
from .outcomes import Failed, Outcome
from .results import ResultStore

JITTER = 0.1
# While nothing comes, the status is requested after so many requests for rows.
ROWS_A_STATUS = 5
# Rows may appear later than the time at which they were made. Requests for the latest rows go back
# by a little, and now and then by much; still later rows are found when all are requested, which is
# when the server counts more than it lists, and before a transform ends. Seconds.
OVERLAP_S = 2.0
LONG_OVERLAP_S = 60.0
LONG_EVERY_S = 30.0
# Of our own: the global one belongs to users, who may have seeded it.
_JITTER = random.Random()  # noqa: S311


class Request(Enum):
    """Request to a server about a transform."""

    ROWS = "rows of results"
    STATUS = "the status"
    FINAL_ROWS = "rows of results, after the end"


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of input files of a transform.

    Attributes
    ----------
    total, delivered, failed : int
    """

    total: int
    delivered: int
    failed: int

    @property
    def waiting(self) -> int:
        """Files without an outcome."""
        return self.total - self.delivered - self.failed


class TransformState:
    """State of one transform.

    Parameters
    ----------
    results : ResultStore
        Where outcomes are entered.
    files : InputFiles
    pace : PollPolicy
    now : float
        Time at which polling begins, seconds of any clock that does not go back.
    jitter : callable
        Random source from 0 to 1 for the jitter of pauses.
    few_rows : int
        Number of rows that are always requested together: as few cost no more than the latest.

    Attributes
    ----------
    lists_results : bool
        True if the server lists results at any time, False if only after the end.
    next_request : Request
    later_than : datetime or None
        Time after which the requested rows were made; None for all rows.
    pause_s : float
        Pause before the next request, seconds.
    ending : ServiceXError or None
        Error of a transform that ended without all of its results.
    status : str or None
        Last status that the server reported.
    log_url : str or None
        Where the server keeps the logs.
    """

    def __init__(
        self,
        results: ResultStore,
        files: InputFiles,
        pace: PollPolicy,
        now: float,
        jitter: Callable[[], float] = _JITTER.random,
        few_rows: int = 50,
    ) -> None:
        self.results = results
        self.files = files
        self.pace = pace
        self.matcher = RowMatcher(files, results)
        self.ending: ServiceXError | None = None
        self.status: str | None = None
        self.log_url: str | None = None
        self.lists_results = True
        self._jitter = jitter
        self._few_rows = few_rows
        self._accepts_times = True
        self._n_failed = self._n_completed = 0
        self._began = self._last_response = now
        self._n_without_status = 0
        self.later_than: datetime | None = None
        self._looks_back = True
        self._looked_back_at = -math.inf
        self._listed_at = -math.inf
        self._lists_less_than_it_counts = False
        self.resume(now)

    def resume(self, now: float) -> None:
        """Begin to wait: after a while in which nothing waited, or after a passing ending."""
        # The deadline is one for all waiting, until it has passed.
        self._began = now if self.ending is not None else self._began + now - self._last_response
        self.ending = None
        self._last_change = now
        self._record_response(now)
        self._ended_at: float | None = None
        self._plan(self._listing, now)
        self.pause_s = 0.0

    @property
    def is_over(self) -> bool:
        """True if there is nothing more to request."""
        return self.ending is not None or self.results.is_complete

    @property
    def counts(self) -> Counts:
        """Numbers of files. Counters of servers lag, run ahead and go back; these do not."""
        n_failed = len(self.results.failed)
        n_delivered = len(self.results.outcomes) - n_failed
        if not self.lists_results and not self.results.is_complete:
            n_failed = min(max(n_failed, self._n_failed), len(self.files))
            n_delivered = min(max(n_delivered, self._n_completed), len(self.files) - n_failed)
        return Counts(len(self.files), n_delivered, n_failed)

    # -- responses

    def new_outcomes(self, rows: Iterable[ResultRow]) -> list[Outcome]:
        """Return the new outcomes in rows of results; `add` records them."""
        return self.matcher.new_outcomes(rows)

    def add(self, new: Sequence[Outcome], now: float, took_s: float = 0.0) -> None:
        """Record the new outcomes of a response that took so long."""
        self.results.enter(new, self.ending)
        self._record_response(now)
        if self.later_than is None:
            self._listed_at = now - took_s
        if self._looks_back:
            self._looked_back_at = now - took_s
        if new:
            self._last_change = now
        self._n_without_status += 1
        is_due = self._n_without_status >= ROWS_A_STATUS or self._ended_at is not None
        wants_status = is_due and not new
        self._plan(Request.STATUS if wants_status else Request.ROWS, now, took_s)

    def update_server(self, lists_results: bool) -> None:
        """Record what can be requested from the server."""
        self.lists_results = lists_results
        self.next_request = self._listing

    def update_status(
        self, status: TransformStatus, now: float, took_s: float = 0.0
    ) -> list[Outcome]:
        """Record the status of the transform; return the outcomes that follow from it."""
        self._record_response(now)
        self._n_without_status = 0
        self.log_url = status.log_url or self.log_url
        has_gone_on = self._update_counters(status)
        if has_gone_on or status.status != self.status:
            self.status, self._last_change = status.status, now
        if not status.is_over:
            self._ended_at = None
            self.check_limits(now)
        elif self._ended_at is None:
            # The last rows may be committed after the status: they are requested again.
            self._ended_at = now
        elif self.lists_results and self._listed_at - self._ended_at >= self._settle_s:
            return self._end()
        is_listed = self.lists_results or self._ended_at is None
        self._plan(self._listing if is_listed else Request.FINAL_ROWS, now, took_s)
        return []

    def add_final_rows(self, rows: Iterable[ResultRow], now: float) -> list[Outcome]:
        """Record the rows of a transform that has ended; return the new outcomes."""
        self._record_response(now)
        new = self.new_outcomes(rows)
        self.results.enter(new, self.ending)
        n_missing = len(self.results.missing)
        if n_missing and self.status == "Complete" and n_missing <= self._n_failed:
            return new + self._fail_missing(None, "TransformFailed")
        if n_missing and self._ended_at is not None and now - self._ended_at >= self._settle_s:
            return new + self._end()
        self._plan(Request.FINAL_ROWS, now)
        return new

    def update_error(self, error: Exception, now: float) -> bool:
        """Record that a request failed; return True if polling goes on."""
        if isinstance(error, TransformGone):
            self.ending = failures.gone(self.progress)
            return False
        is_refused = isinstance(error, RequestRefused)
        if is_refused and self.next_request is Request.ROWS and self.later_than is not None:
            # Perhaps the server only does not read times as others do.
            self._accepts_times, self.later_than, self.pause_s = False, None, self.pace.busy_s
            return True
        if not is_transient(error):
            return False
        silence_s = now - self._last_response
        if silence_s < self.pace.outage_s:
            self._is_away = True
            self.pause_s = self.pace.idle_s
            return True
        if isinstance(error, ServiceXError):
            self.ending = failures.silent(error, silence_s, self.progress)
        return False

    # -- limits

    def check_limits(self, now: float) -> None:
        """End if there was no progress, or no end, for longer than the policy allows."""
        if now <= self.limit_at:
            return
        if now > self._began + self.pace.deadline_s:
            self.ending = failures.late(self.status, self.pace.deadline_s, self.progress)
        else:
            self.ending = failures.stalled(self.status, self.pace.stall_s, self.progress)

    @property
    def limit_at(self) -> float:
        """Time of the next limit if nothing changes, seconds of the same clock."""
        if self.is_over:
            return math.inf
        # While a server is away, its transform may go on all the same.
        is_observed = self._ended_at is None and not self._is_away
        stall_s = self.pace.stall_s if is_observed else math.inf
        return min(self._last_change + stall_s, self._began + self.pace.deadline_s)

    @property
    def silent_at(self) -> float:
        """Time at which the server has been silent for too long if it does not respond."""
        return self._last_response + self.pace.outage_s

    @property
    def progress(self) -> TransformProgress:
        """Progress of the transform, for errors."""
        missing = self.results.missing
        return TransformProgress(
            self.results.request_id,
            len(self.files),
            len(self.files) - len(missing),
            tuple(self.files.paths[i] for i in missing[: failures.SHOWN]),
            self.log_url,
        )

    # -- the next request

    def _record_response(self, now: float) -> None:
        self._last_response, self._is_away = now, False

    @property
    def _listing(self) -> Request:
        return Request.ROWS if self.lists_results else Request.STATUS

    @property
    def _settle_s(self) -> float:
        return self.pace.settle_s if self.status == "Complete" else 0.0

    def _update_counters(self, status: TransformStatus) -> bool:
        """Take the counters of the server that are higher than before; return True if any is."""
        before = self._n_completed + self._n_failed
        self._n_completed = max(self._n_completed, status.n_completed)
        self._n_failed = max(self._n_failed, status.n_failed)
        n_counted = self._n_completed + self._n_failed
        self._lists_less_than_it_counts = n_counted > len(self.results.outcomes)
        return n_counted > before

    def _time_of_rows(self, now: float) -> datetime | None:
        """Return the time after which requested rows were made; None for all rows."""
        newest = self.matcher.newest
        is_all_due = self._lists_less_than_it_counts and now - self._listed_at >= LONG_OVERLAP_S
        wants_all = self._ended_at is not None or not self._accepts_times or is_all_due
        if wants_all or newest is None or self.matcher.n_rows < self._few_rows:
            return None
        overlap_s = LONG_OVERLAP_S if self._looks_back else OVERLAP_S
        return newest - timedelta(seconds=overlap_s)

    def _plan(self, request: Request, now: float, took_s: float = 0.0) -> None:
        """Set the next request, and the pause before it."""
        self.next_request = request
        if request is Request.ROWS:
            self._looks_back = now - self._looked_back_at >= LONG_EVERY_S
            self.later_than = self._time_of_rows(now)
            self._looks_back |= self.later_than is None
        # A tenth of the silence so far: a long silence will hardly end in the next moment.
        silence_s = 0.1 * (now - self._last_change)
        pause_s = max(silence_s, self.pace.busy_s, took_s) * (1 + JITTER * self._jitter())
        self.pause_s = min(pause_s, max(self.pace.idle_s, self.pace.busy_s))

    def _end(self) -> list[Outcome]:
        """End for good: files without an outcome get none."""
        self.ending = failures.over(str(self.status), self.progress)
        return self._fail_missing(f"no result: {self.status}", type(self.ending).__name__)

    def _fail_missing(self, reason: str | None, kind: str) -> list[Outcome]:
        paths = self.files.paths
        failed = [Failed(i, paths[i], reason, self.log_url, kind) for i in self.results.missing]
        self.results.enter(failed, self.ending)
        return list(failed)
