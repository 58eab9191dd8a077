"""The poller: asks one server about all transforms of this process that somebody waits for.

There is one for each server, so that many transforms cost it no more questions than one. It puts
one question at a time, about the transform of which most rows are to be expected by now.
"""

from __future__ import annotations

import math
import random
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Protocol
from urllib.parse import urlsplit

# The most that one question may take, seconds, and the least that it gets near the end of a wait.
QUESTION_S = 60.0
LEAST_QUESTION_S = 1.0
# Pauses are spread, so that processes do not ask all at once.
JITTER = 0.4
# Of our own: the global one belongs to users, who may have seeded it.
_SPREAD = random.Random()  # noqa: S311
# A question may come before its time by so much of the least pause, if the server is free.
SLACK = 0.5
# How often limits are looked at whatever they were, and how long threads have to end, seconds.
LOOK_S = 1.0
END_S = 2.0
# How many rows a second are expected of transforms. Where results came with the last question more
# are likely; of those without any the earliest, as some servers do one transform after the other,
# but less so while there is another with news.
ACTIVE_RATE = 1.0
SILENT_RATES = (0.5, 0.2, 0.1, 0.02)
BEHIND_OTHERS = 0.3


class Monitored(Protocol):
    """What a poller asks about: the watch of one transform."""

    @property
    def limit_at(self) -> float:
        """When waiting ends if nothing happens, seconds of the monotonic clock."""

    @property
    def silent_at(self) -> float:
        """When waiting ends if the server does not answer, seconds of the monotonic clock."""

    @property
    def least_pause_s(self) -> float:
        """The least between two questions, seconds."""

    @property
    def number(self) -> int:
        """Which transform of this process it is, in the order of submission."""

    @property
    def n_known(self) -> int:
        """Input files of which it is known what became of them."""

    @property
    def n_asked(self) -> int:
        """Requests that were made so far."""

    def ends_in_time(self) -> bool:
        """End the waiting if a limit is reached; return whether it was."""

    def ask(self, timeout_s: float) -> float | None:
        """Put one question; return the pause until the next, or None after the last."""


@dataclass(eq=False)
class _Turn:
    """A transform that somebody waits for, and when it is to be asked about."""

    poller: weakref.ref[Monitored]
    number: int
    least_s: float
    began_at: float
    due_at: float
    has_news: bool = False
    asked_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.asked_at = self.began_at


class Monitor:
    """Ask one server, at most one question at a time.

    Parameters
    ----------
    url : str
        Of the server; names the thread.
    """

    def __init__(self, url: str) -> None:
        self._name = f"coffea_sx-poller-{urlsplit(url).netloc.rpartition('@')[2]}"
        # The thread holds watches weakly between questions: dropping a graph ends the questions
        # about it.
        self._turns: dict[int, _Turn] = {}
        self._changed = threading.Condition()
        self._threads: tuple[threading.Thread, ...] = ()
        self._free_at = 0.0
        self._urls_free_at = 0.0

    def add(self, poller: Monitored) -> None:
        """Begin to ask about a transform."""
        now = monotonic()
        with self._changed:
            self._turns[id(poller)] = _Turn(
                weakref.ref(poller), poller.number, poller.least_pause_s, now, now
            )
            if not self._threads:
                # While a question is open, another thread looks whether a wait must end.
                self._threads = tuple(
                    threading.Thread(target=run, name=self._name, daemon=True)
                    for run in (self._ask_on, self._watch_the_time)
                )
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()

    def remove(self, poller: Monitored) -> None:
        """Ask no more about a transform; after the last wait a moment for the threads to end."""
        with self._changed:
            self._turns.pop(id(poller), None)
            threads = () if self._turns else self._threads
            self._changed.notify_all()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout=END_S)

    def take_turn(self, apart_s: float, sleep: Callable[[float], object]) -> None:
        """Sleep until other questions may be put, and let the next come so long after them.

        Parameters
        ----------
        apart_s : float
            Seconds.
        sleep : callable
        """
        with self._changed:
            now = monotonic()
            self._free_at = max(now, self._free_at) + apart_s
            pause_s = self._free_at - now
        sleep(pause_s)

    def take_turn_for_urls(
        self, apart_s: float, sleep: Callable[[float], object] | None = None
    ) -> bool:
        """Reserve the next request for URLs, at least so long after the one before.

        Parameters
        ----------
        apart_s : float
            Seconds.
        sleep : callable, optional
            Sleeps until then; without it nothing is reserved if that is not now.

        Returns
        -------
        bool
            Whether the request may be made.
        """
        with self._changed:
            now = monotonic()
            pause_s = self._urls_free_at - now
            if pause_s > 0 and sleep is None:
                return False
            self._urls_free_at = max(now, self._urls_free_at) + apart_s
        if pause_s > 0 and sleep is not None:
            sleep(pause_s)
        return True

    def _ask_on(self) -> None:
        """Put one question after the other until nobody waits any more."""
        while True:
            with self._changed:
                turn = self._next_turn()
                if turn is None:
                    self._threads = ()
                    self._changed.notify_all()
                    return
                due_at = turn.due_at - SLACK * turn.least_s
                pause_s = max(due_at, self._free_at) - monotonic()
                if pause_s > 0:
                    self._changed.wait(pause_s)
            if pause_s <= 0:
                self._take(turn)

    def _watch_the_time(self) -> None:
        """End the waits whose limits are reached, whether it is their turn or not."""
        while True:
            with self._changed:
                if threading.current_thread() not in self._threads:
                    return
                self._changed.wait(min(self._until_limit(), LOOK_S))
                turns = list(self._turns.values())
            for turn in turns:
                poller = turn.poller()
                if poller is not None and poller.limit_at < monotonic() and poller.ends_in_time():
                    self._drop(poller, turn)
                del poller

    def _next_turn(self) -> _Turn | None:
        """Return the turn that comes next; None if nobody waits any more."""
        self._turns = {key: turn for key, turn in self._turns.items() if turn.poller() is not None}
        now = max(monotonic(), self._free_at)
        due = [turn for turn in self._turns.values() if turn.due_at <= now + SLACK * turn.least_s]
        if due:
            return max(due, key=partial(self._promise, now, self._rates(now)))
        return min(self._turns.values(), key=lambda turn: turn.due_at, default=None)

    def _rates(self, now: float) -> dict[int, float]:
        """Guess how many rows a second there are of each transform."""
        silent_rates, rates = iter(SILENT_RATES), {}
        share = BEHIND_OTHERS if any(turn.has_news for turn in self._turns.values()) else 1.0
        for turn in sorted(self._turns.values(), key=lambda turn: turn.number):
            poller = turn.poller()
            if poller is None or not poller.n_known:
                rates[turn.number] = share * next(silent_rates, SILENT_RATES[-1])
            else:
                rates[turn.number] = poller.n_known / max(1e-3, now - turn.began_at)
            if turn.has_news:
                rates[turn.number] = max(ACTIVE_RATE, rates[turn.number])
        return rates

    def _promise(self, now: float, rates: Mapping[int, float], turn: _Turn) -> float:
        """Guess how many rows of a transform are not known yet."""
        return rates[turn.number] * (now - turn.asked_at)

    def _take(self, turn: _Turn) -> None:
        """Put the question whose turn it is."""
        poller = turn.poller()
        if poller is None:
            return
        n_before, n_known = poller.n_asked, poller.n_known
        limit_s = min(self._until_limit(), poller.silent_at - monotonic())
        pause_s = poller.ask(min(max(limit_s, LEAST_QUESTION_S), QUESTION_S))
        now = monotonic()
        with self._changed:
            spread = 1 + JITTER * _SPREAD.random()
            pauses = max(1, poller.n_asked - n_before)
            self._free_at = max(self._free_at, now + spread * pauses * poller.least_pause_s)
            turn.asked_at, turn.due_at = now, now + (pause_s or 0.0)
            turn.has_news = poller.n_known > n_known
        if pause_s is None:
            self._drop(poller, turn)

    def _until_limit(self) -> float:
        pollers = [turn.poller() for turn in list(self._turns.values())]
        limits = [poller.limit_at for poller in pollers if poller is not None]
        return max(0.0, min(limits, default=math.inf) - monotonic())

    def _drop(self, poller: Monitored, turn: _Turn) -> None:
        with self._changed:
            if self._turns.get(id(poller)) is turn:  # not if somebody waits again by now
                del self._turns[id(poller)]
                self._changed.notify_all()


_monitors: weakref.WeakValueDictionary[str, Monitor] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def monitor_of(url: str) -> Monitor:
    """Return the poller that this process has of a server, or make it."""
    with _lock:
        monitor = _monitors.get(url)
        if monitor is None:
            monitor = _monitors[url] = Monitor(url)
    return monitor
