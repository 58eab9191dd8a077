"""Monitor of a server: one in a process, for all transforms that tasks wait for.

Many transforms cost the server no more requests than one: the monitor makes one request at a time,
about the transform of which most new rows are to be expected.
"""

from __future__ import annotations

import math
import random
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol
from urllib.parse import urlsplit

from ..policy import SCHEDULING, SchedulingPolicy

# Not the global generator, which belongs to the user, who may have seeded it.
_JITTER = random.Random()  # noqa: S311


class Monitored(Protocol):
    """Poller of one transform, as its monitor sees it."""

    @property
    def limit_at(self) -> float:
        """Time at which waiting ends if nothing happens, seconds of the monotonic clock."""

    @property
    def silent_at(self) -> float:
        """Time at which waiting ends if the server does not respond; monotonic clock, seconds."""

    @property
    def min_pause_s(self) -> float:
        """Minimum time between two requests, seconds."""

    @property
    def number(self) -> int:
        """Position of the transform in the order of submission."""

    @property
    def outcomes(self) -> Mapping[int, object]:
        """Outcomes so far."""

    @property
    def n_requests(self) -> int:
        """Requests so far."""

    def end_if_late(self) -> bool:
        """End the waiting if a limit is reached; return True if it was."""

    def poll(self, timeout_s: float) -> float | None:
        """Make one request; return the pause until the next, or None after the last."""


@dataclass(eq=False)
class _Turn:
    """Next request about a transform; it holds the poller weakly."""

    poller: weakref.ref[Monitored]
    number: int
    min_pause_s: float
    began_at: float
    due_at: float
    is_active: bool = False
    requested_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.requested_at = self.began_at


class Monitor:
    """Poll the transforms of one server, at most one request at a time.

    Parameters
    ----------
    url : str
        Of the server; names the threads.
    policy : SchedulingPolicy
    """

    def __init__(self, url: str, policy: SchedulingPolicy = SCHEDULING) -> None:
        self._name = f"coffea_sx-poller-{urlsplit(url).netloc.rpartition('@')[2]}"
        self._policy = policy
        # Pollers are held weakly between requests: dropping a graph ends its polling.
        self._turns: dict[int, _Turn] = {}
        self._changed = threading.Condition()
        self._threads: tuple[threading.Thread, ...] = ()
        self._free_at = 0.0
        self._urls_free_at = 0.0

    def add(self, poller: Monitored) -> None:
        """Begin to poll a transform."""
        now = monotonic()
        with self._changed:
            self._turns[id(poller)] = _Turn(
                weakref.ref(poller), poller.number, poller.min_pause_s, now, now
            )
            if not self._threads:
                # While a request is open, the other thread ends the waits whose limits are reached.
                self._threads = tuple(
                    threading.Thread(target=run, name=self._name, daemon=True)
                    for run in (self._poll_all, self._watch_limits)
                )
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()

    def remove(self, poller: Monitored) -> None:
        """Stop polling a transform; after the last, wait a moment for the threads to end."""
        with self._changed:
            self._turns.pop(id(poller), None)
            threads = () if self._turns else self._threads
            self._changed.notify_all()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout=self._policy.join_s)

    def take_turn(self, apart_s: float, sleep: Callable[[float], object]) -> None:
        """Sleep until the next request may be made, and delay the one after it.

        Parameters
        ----------
        apart_s : float
            Time to the request after it, seconds.
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
        """Reserve the next request for URLs.

        Parameters
        ----------
        apart_s : float
            Minimum time between two of them, seconds.
        sleep : callable, optional
            Sleeps until the request may be made; without it, nothing is reserved unless it may be
            made now.

        Returns
        -------
        bool
            True if the request may be made.
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

    def _poll_all(self) -> None:
        """Make one request after the other until no task waits."""
        while True:
            with self._changed:
                turn = self._next_turn()
                if turn is None:
                    self._threads = ()
                    self._changed.notify_all()
                    return
                due_at = turn.due_at - self._policy.slack * turn.min_pause_s
                pause_s = max(due_at, self._free_at) - monotonic()
                if pause_s > 0:
                    self._changed.wait(pause_s)
            if pause_s <= 0:
                self._take(turn)

    def _watch_limits(self) -> None:
        """End the waits whose limits are reached, in turn or not."""
        while True:
            with self._changed:
                if threading.current_thread() not in self._threads:
                    return
                self._changed.wait(min(self._until_limit(), self._policy.check_s))
                turns = list(self._turns.values())
            for turn in turns:
                poller = turn.poller()
                if poller is not None and poller.limit_at < monotonic() and poller.end_if_late():
                    self._drop(poller, turn)
                del poller

    def _next_turn(self) -> _Turn | None:
        """Return the turn that comes next; None if no task waits."""
        self._turns = {key: turn for key, turn in self._turns.items() if turn.poller() is not None}
        now, slack = max(monotonic(), self._free_at), self._policy.slack
        turns = self._turns.values()
        due = [turn for turn in turns if turn.due_at - slack * turn.min_pause_s <= now]
        if due:
            rates = self._rates(now)
            return max(due, key=lambda turn: rates[turn.number] * (now - turn.requested_at))
        return min(turns, key=lambda turn: turn.due_at, default=None)

    def _rates(self, now: float) -> dict[int, float]:
        """Estimate the rate of new rows of each transform, rows a second."""
        policy, rates = self._policy, {}
        silent_rates = iter(policy.silent_rates)
        is_any_active = any(turn.is_active for turn in self._turns.values())
        share = policy.share_beside_active if is_any_active else 1.0
        for turn in sorted(self._turns.values(), key=lambda turn: turn.number):
            poller = turn.poller()
            if poller is None or not poller.outcomes:
                rates[turn.number] = share * next(silent_rates, policy.silent_rates[-1])
            else:
                rates[turn.number] = len(poller.outcomes) / max(1e-3, now - turn.began_at)
            if turn.is_active:
                rates[turn.number] = max(policy.active_rate, rates[turn.number])
        return rates

    def _take(self, turn: _Turn) -> None:
        """Make the request whose turn it is."""
        poller = turn.poller()
        if poller is None:
            return
        policy = self._policy
        n_requests, n_outcomes = poller.n_requests, len(poller.outcomes)
        limit_s = min(self._until_limit(), poller.silent_at - monotonic())
        pause_s = poller.poll(min(max(limit_s, policy.min_request_s), policy.request_s))
        now = monotonic()
        with self._changed:
            spread = 1 + policy.jitter * _JITTER.random()
            n_pauses = max(1, poller.n_requests - n_requests)
            self._free_at = max(self._free_at, now + spread * n_pauses * poller.min_pause_s)
            turn.requested_at, turn.due_at = now, now + (pause_s or 0.0)
            turn.is_active = len(poller.outcomes) > n_outcomes
        if pause_s is None:
            self._drop(poller, turn)

    def _until_limit(self) -> float:
        pollers = [turn.poller() for turn in list(self._turns.values())]
        limits = [poller.limit_at for poller in pollers if poller is not None]
        return max(0.0, min(limits, default=math.inf) - monotonic())

    def _drop(self, poller: Monitored, turn: _Turn) -> None:
        with self._changed:
            if self._turns.get(id(poller)) is turn:  # a task may wait again by now
                del self._turns[id(poller)]
                self._changed.notify_all()


_monitors: weakref.WeakValueDictionary[str, Monitor] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def monitor_of(url: str) -> Monitor:
    """Return the monitor that this process has of a server, or make it."""
    with _lock:
        monitor = _monitors.get(url)
        if monitor is None:
            monitor = _monitors[url] = Monitor(url)
    return monitor
