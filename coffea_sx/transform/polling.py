"""When to ask the server about a transform again, and when to stop."""

from __future__ import annotations

import logging
import threading
import weakref
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import ServerError, ServiceXError

if TYPE_CHECKING:
    from .watch import Watch

logger = logging.getLogger(__name__)

TERMINAL = {"Complete", "Canceled", "Fatal", "Bad Dataset"}


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the server is asked, and for how long; seconds.

    Attributes
    ----------
    busy_s : float
        Between questions while files arrive.
    idle_s : float
        The most between questions while nothing happens.
    stall_s : float
        Without any news for this long, a transform has stalled.
    settle_s : float
        A transform that has ended may still owe rows for this long.
    outage_s : float
        The server may be silent for this long.
    """

    busy_s: float = 0.1
    idle_s: float = 2.0
    stall_s: float = 1800.0
    settle_s: float = 10.0
    outage_s: float = 600.0


def poll(watch_ref: weakref.ref[Watch], closed: threading.Event, pace: Pace) -> None:
    """Ask until there is nothing more to ask."""
    questions = Questions(pace)
    while not closed.is_set():
        watch = watch_ref()
        if watch is None:
            return
        try:
            goes_on = questions.ask(watch)
        except Exception as error:
            goes_on = questions.forgive(watch, error, closed.is_set())
        if not goes_on:
            watch.rest()
            return
        del watch
        closed.wait(questions.interval)


class Questions:
    """When to ask the server again, and when to stop."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.interval = pace.busy_s
        self._last_news = self._last_answer = monotonic()
        self._status: str | None = None
        self._ended_at: float | None = None

    def ask(self, watch: Watch) -> bool:
        """Ask for rows, and for the status if there are none; say whether to go on."""
        new = watch.ask()
        now = self._last_answer = monotonic()
        if watch.ledger.is_complete or watch.ending is not None:
            return False
        if new:
            self._last_news, self.interval = now, self.pace.busy_s
            return True
        # A tenth of the silence so far: a long silence will hardly end in the next moment.
        self.interval = min(max(0.1 * (now - self._last_news), self.pace.busy_s), self.pace.idle_s)
        return self._look_at_status(watch, now)

    def _look_at_status(self, watch: Watch, now: float) -> bool:
        status = watch.ask_status()
        if status != self._status:
            self._status, self._last_news = status, now
        if status in TERMINAL:
            # The last rows may be committed after the status.
            settle_s = self.pace.settle_s if status == "Complete" else 0.0
            if self._ended_at is None or now - self._ended_at < settle_s:
                self._ended_at = self._ended_at or now
                return True
            watch.end(status)
            return False
        self._ended_at = None
        if now - self._last_news > self.pace.stall_s:
            watch.end(status)
            return False
        return True

    def forgive(self, watch: Watch, error: Exception, closed: bool) -> bool:
        """Go on after an error if the server may come back."""
        if closed:
            return False
        status = getattr(error, "status", 0)
        passing = isinstance(error, ConnectionError) or (status or 0) >= 429
        if passing and monotonic() - self._last_answer < self.pace.outage_s:
            self.interval = self.pace.idle_s
            return True
        if not isinstance(error, ServiceXError):
            logger.exception("The watch of request %s failed", watch.address.request_id)
            error = ServerError(f"The watch failed: {type(error).__name__}: {error}")
        watch.fail(error)
        return False
