"""The course of a transform: what was observed of it, and what follows from that.

A state machine that knows neither the server nor the clock: whoever asks the server tells it the
answers and the time, and it says what to ask next and when, and how the transform ended.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from ..dataset import InputFiles
from ..errors import RequestRefused, ServiceXError, TransformGone
from ..policy import PollPolicy, is_transient
from . import failures
from .failures import TransformProgress
from .matching import RowMatcher
from .outcomes import Failed, Outcome
from .results import ResultStore

TERMINAL = {"Complete", "Canceled", "Fatal", "Bad Dataset"}
JITTER = 0.1
# While nothing comes, the status is asked for after so many questions for rows.
ROWS_A_STATUS = 5
# All rows, if they are few, cost no more than the latest ones.
FEW = 50
# Rows may appear later than they say they were made. Questions for the latest rows go back by a
# little, and now and then by much; still later rows are found when all are asked for, which is
# when the server counts more than it lists, and before a transform ends. Seconds.
OVERLAP_S = 2.0
LONG_OVERLAP_S = 60.0
LONG_EVERY_S = 30.0
# Of our own: the global one belongs to users, who may have seeded it.
_SPREAD = random.Random()  # noqa: S311


class Question(Enum):
    """What a server can be asked about a transform."""

    ROWS = "rows of results"
    STATUS = "the status"
    OBJECTS = "names in the bucket"


@dataclass(frozen=True, slots=True)
class Counts:
    """Input files of a transform: together they are ``total``.

    Attributes
    ----------
    total, delivered, failed : int
    """

    total: int
    delivered: int
    failed: int

    @property
    def waiting(self) -> int:
        """Files of which nothing is known yet."""
        return self.total - self.delivered - self.failed


class TransformState:
    """What was observed of one transform.

    Parameters
    ----------
    results : ResultStore
        Where outcomes are entered.
    files : InputFiles
    pace : PollPolicy
    now : float
        When watching begins, seconds of any clock that does not go back.
    spread : callable
        Gives numbers from 0 to 1, by which questions are spread in time.

    Attributes
    ----------
    has_rows : bool
        Whether the server lists results; else they are found in the bucket when all is over.
    question : Question
        What to ask next.
    later_than : datetime or None
        After which time to ask for rows, if not for all.
    pause_s : float
        How long to wait before that.
    ending : ServiceXError or None
        How it ended, if it ended without all of its results.
    status : str or None
        What the server called it last.
    log_url : str or None
        Where the server keeps its logs.
    """

    def __init__(
        self,
        results: ResultStore,
        files: InputFiles,
        pace: PollPolicy,
        now: float,
        spread: Callable[[], float] = _SPREAD.random,
    ) -> None:
        self.results = results
        self.files = files
        self.pace = pace
        self.matcher = RowMatcher(files, results)
        self.ending: ServiceXError | None = None
        self.status: str | None = None
        self.log_url: str | None = None
        self.has_rows = True
        self._spread = spread
        self._takes_times = True
        self._told_failed = self._told_done = 0
        self._began = self._last_answer = now
        self._n_without_status = 0
        self.later_than: datetime | None = None
        self._looks_back = True
        self._looked_back_at = -math.inf
        self._listed_at = -math.inf
        self._lists_less_than_it_counts = False
        self.resume(now)

    def resume(self, now: float) -> None:
        """Begin to wait: after a while in which nobody did, or after a passing ending."""
        # The deadline is one for all waiting, until it has passed.
        self._began = now if self.ending is not None else self._began + now - self._last_answer
        self.ending = None
        self._last_news = now
        self._heard(now)
        self._ended_at: float | None = None
        self._ask(self._listing, now)
        self.pause_s = 0.0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to ask."""
        return self.ending is not None or self.results.is_complete

    @property
    def counts(self) -> Counts:
        """How far it is. Counters of servers lag behind, run ahead and go back; these do not."""
        n_failed = len(self.results.failed)
        n_delivered = len(self.results.outcomes) - n_failed
        if not self.has_rows and not self.results.is_complete:
            n_failed = min(max(n_failed, self._told_failed), len(self.files))
            n_delivered = min(max(n_delivered, self._told_done), len(self.files) - n_failed)
        return Counts(len(self.files), n_delivered, n_failed)

    # -- what the server answered

    def news(self, rows: Iterable[dict[str, Any]]) -> list[Outcome]:
        """Return what is new in rows of results; `keep` enters it."""
        return self.matcher.news(rows)

    def keep(self, new: Sequence[Outcome], now: float, took_s: float = 0.0) -> None:
        """Enter what was new in an answer that took a while to get."""
        self.results.enter(new, self.ending)
        self._heard(now)
        if self.later_than is None:
            self._listed_at = now - took_s
        if self._looks_back:
            self._looked_back_at = now - took_s
        if new:
            self._last_news = now
        self._n_without_status += 1
        is_due = self._n_without_status >= ROWS_A_STATUS or self._ended_at is not None
        wants_status = is_due and not new
        self._ask(Question.STATUS if wants_status else Question.ROWS, now, took_s)

    def see_server(self, has_rows: bool) -> None:
        """Enter what the server can be asked."""
        self.has_rows = has_rows
        self.question = self._listing

    def see_status(
        self, status: Mapping[str, Any], now: float, took_s: float = 0.0
    ) -> list[Outcome]:
        """Enter what the server says of the transform as a whole; return what is new by that."""
        self._heard(now)
        self._n_without_status = 0
        said = str(status["status"])
        self.log_url = status.get("log-url") or self.log_url
        has_gone_on = self._counts_up(status)
        if has_gone_on or said != self.status:
            self.status, self._last_news = said, now
        if said not in TERMINAL:
            self._ended_at = None
            self.watch_the_time(now)
        elif self._ended_at is None:
            # The last rows may be committed after the status: ask for them again.
            self._ended_at = now
        elif self.has_rows and self._listed_at - self._ended_at >= self._settle_s:
            return self._end()
        is_listed = self.has_rows or self._ended_at is None
        self._ask(self._listing if is_listed else Question.OBJECTS, now, took_s)
        return []

    def see_objects(self, rows: Sequence[dict[str, Any]], now: float) -> list[Outcome]:
        """Enter the objects in the bucket of a transform that has ended; return what is new."""
        self._heard(now)
        new = self.matcher.news(rows)
        self.results.enter(new, self.ending)
        n_missing = len(self.results.missing)
        if n_missing and self.status == "Complete" and n_missing <= self._told_failed:
            return new + self._give_up(None, "TransformFailed")
        if n_missing and self._ended_at is not None and now - self._ended_at >= self._settle_s:
            return new + self._end()
        self._ask(Question.OBJECTS, now)
        return new

    def see_nothing(self, error: Exception, now: float) -> bool:
        """Enter that a question was not answered; say whether to go on."""
        if isinstance(error, TransformGone):
            self.ending = failures.gone(self.standing)
            return False
        is_refused = isinstance(error, RequestRefused)
        if is_refused and self.question is Question.ROWS and self.later_than is not None:
            # Perhaps it only does not read times as others do.
            self._takes_times, self.later_than, self.pause_s = False, None, self.pace.busy_s
            return True
        if not is_transient(error):
            return False
        silence_s = now - self._last_answer
        if silence_s < self.pace.outage_s:
            self._is_away = True
            self.pause_s = self.pace.idle_s
            return True
        if isinstance(error, ServiceXError):
            self.ending = failures.silent(error, silence_s, self.standing)
        return False

    # -- what follows

    def _heard(self, now: float) -> None:
        self._last_answer, self._is_away = now, False

    @property
    def standing(self) -> TransformProgress:
        """How far it is, for errors."""
        missing = self.results.missing
        return TransformProgress(
            self.results.request_id,
            len(self.files),
            len(self.files) - len(missing),
            tuple(self.files.paths[i] for i in missing[: failures.SHOWN]),
            self.log_url,
        )

    @property
    def _listing(self) -> Question:
        return Question.ROWS if self.has_rows else Question.STATUS

    @property
    def _settle_s(self) -> float:
        return self.pace.settle_s if self.status == "Complete" else 0.0

    def _counts_up(self, status: Mapping[str, Any]) -> bool:
        """Take the counters of the server, if they are higher than before."""
        before = self._told_done + self._told_failed
        self._told_done = max(self._told_done, int(status.get("files-completed") or 0))
        self._told_failed = max(self._told_failed, int(status.get("files-failed") or 0))
        counted = self._told_done + self._told_failed
        self._lists_less_than_it_counts = counted > len(self.results.outcomes)
        return counted > before

    def _asked_from(self, now: float) -> datetime | None:
        """Tell after which time to ask for rows; None for all of them."""
        newest = self.matcher.newest
        is_all_due = self._lists_less_than_it_counts and now - self._listed_at >= LONG_OVERLAP_S
        wants_all = self._ended_at is not None or not self._takes_times or is_all_due
        if wants_all or newest is None or self.matcher.n_rows < FEW:
            return None
        overlap_s = LONG_OVERLAP_S if self._looks_back else OVERLAP_S
        return newest - timedelta(seconds=overlap_s)

    def _ask(self, question: Question, now: float, took_s: float = 0.0) -> None:
        self.question = question
        if question is Question.ROWS:
            self._looks_back = now - self._looked_back_at >= LONG_EVERY_S
            self.later_than = self._asked_from(now)
            self._looks_back |= self.later_than is None
        # A tenth of the silence so far: a long silence will hardly end in the next moment.
        silence_s = 0.1 * (now - self._last_news)
        pause_s = max(silence_s, self.pace.busy_s, took_s) * (1 + JITTER * self._spread())
        self.pause_s = min(pause_s, max(self.pace.idle_s, self.pace.busy_s))

    def watch_the_time(self, now: float) -> None:
        """End if nothing has happened, or all has taken, for longer than it may."""
        if now <= self.limit_at:
            return
        if now > self._began + self.pace.deadline_s:
            self.ending = failures.late(self.status, self.pace.deadline_s, self.standing)
        else:
            self.ending = failures.stalled(self.status, self.pace.stall_s, self.standing)

    @property
    def limit_at(self) -> float:
        """When the next limit is reached if nothing happens, seconds of the same clock."""
        if self.is_over:
            return math.inf
        # Of a server that is away it is not known whether anything happens.
        is_told = self._ended_at is None and not self._is_away
        stall_s = self.pace.stall_s if is_told else math.inf
        return min(self._last_news + stall_s, self._began + self.pace.deadline_s)

    @property
    def silent_at(self) -> float:
        """When the server has been silent for too long if it does not answer."""
        return self._last_answer + self.pace.outage_s

    def _end(self) -> list[Outcome]:
        """End for good: what is missing now will never come."""
        self.ending = failures.over(str(self.status), self.standing)
        return self._give_up(f"no result: {self.status}", type(self.ending).__name__)

    def _give_up(self, reason: str | None, kind: str) -> list[Outcome]:
        paths = self.files.paths
        lost = [Failed(i, paths[i], reason, self.log_url, kind) for i in self.results.missing]
        self.results.enter(lost, self.ending)
        return list(lost)
