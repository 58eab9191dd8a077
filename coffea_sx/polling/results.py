"""What a process has found out about a transform; whoever wants to know more waits here."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic

from ..errors import ServiceXError, TransformFailed
from ..policy import FailurePolicy
from . import failures
from .failures import PASSING
from .outcomes import Delivered, Failed, Outcome

# Waits are in slices, so that the main thread hears Ctrl-C, and whoever tells is told.
SLICE_S = 0.5
ITS_OWN = TransformFailed.__name__


class ResultStore:
    """Outcomes and the ending of one transform.

    Parameters
    ----------
    request_id : str

    Attributes
    ----------
    outcomes : dict of int to Outcome
    failed : list of Failed
    ending : ServiceXError or None
    news : threading.Condition
        Notified at each news; hold it to look at several of these.
    """

    def __init__(self, request_id: str) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.ending: ServiceXError | None = None
        self.news = threading.Condition()
        self._wakers: defaultdict[int, list[Callable[[], object]]] = defaultdict(list)
        self._request_id = request_id
        self.failed: list[Failed] = []

    def enter(self, outcomes: Sequence[Outcome], ending: ServiceXError | None) -> None:
        """Enter what is new, and wake whoever waits."""
        with self.news:
            new = [o for o in outcomes if o.index not in self.outcomes]
            self.outcomes.update((outcome.index, outcome) for outcome in new)
            self.failed += [o for o in new if isinstance(o, Failed)]
            self.ending = ending
            self.news.notify_all()
            # An ending concerns whoever waits for another file too.
            for index in [o.index for o in new] if ending is None else list(self._wakers):
                self._wake(index)

    def wake_all(self) -> None:
        """Have whoever waits look whether there is still something to wait for."""
        with self.news:
            self.news.notify_all()
            for index in list(self._wakers):
                self._wake(index)

    def _wake(self, index: int) -> None:
        for wake in self._wakers.pop(index, ()):
            with suppress(RuntimeError):  # its loop has ended
                wake()

    @property
    def is_awaited(self) -> bool:
        """Whether a coroutine waits."""
        return bool(self._wakers)

    def knows(self, index: int) -> bool:
        """Whether `wait` would return at once."""
        is_over = self.ending is not None and not isinstance(self.ending, PASSING)
        return index in self.outcomes or is_over

    def delivered(self) -> list[Delivered]:
        """Return the results that are known of."""
        with self.news:
            return [o for o in self.outcomes.values() if isinstance(o, Delivered)]

    def wait(
        self,
        index: int,
        failure_policy: FailurePolicy,
        timeout_s: float | None,
        go_on: Callable[[], None],
    ) -> Outcome:
        """Wait until it is known what became of an input file.

        Parameters
        ----------
        index : int
        tolerance : FailurePolicy
        timeout_s : float or None
        go_on : callable
            Called now and then while waiting; raises if there is nothing to wait for.

        Raises
        ------
        TimeoutError
            If it is not known after ``timeout_s`` seconds.
        ServiceXError
            If the transform ended without telling, or more files have failed than are tolerated.
        """
        deadline = math.inf if timeout_s is None else monotonic() + timeout_s
        with self.news:
            while True:
                self._check(failure_policy)
                outcome = self._found(index, failure_policy)
                if outcome is not None:
                    return outcome
                go_on()
                left_s = deadline - monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"input file {index} has no result after {timeout_s} s")
                self.news.wait(min(SLICE_S, left_s))

    async def wait_async(
        self, index: int, failure_policy: FailurePolicy, go_on: Callable[[], None]
    ) -> Outcome:
        """Wait as `wait` does, on an event loop and so without a thread.

        The failure of another file is left to whoever waits for that one: all wait at once.
        """
        loop = asyncio.get_running_loop()
        while True:
            woken = asyncio.Event()
            with self.news:
                outcome = self._found(index, failure_policy)
                if isinstance(outcome, Failed):
                    self._check(failure_policy)
                if outcome is not None:
                    return outcome
                self._wakers[index].append(wake := partial(loop.call_soon_threadsafe, woken.set))
            try:
                go_on()
                await woken.wait()
            finally:
                self._forget(index, wake)

    def _forget(self, index: int, wake: Callable[[], object]) -> None:
        """Drop the waker of a coroutine that waits no longer."""
        with self.news:
            left = [one for one in self._wakers.pop(index, ()) if one is not wake]
            if left:
                self._wakers[index] = left

    def _found(self, index: int, failure_policy: FailurePolicy) -> Outcome | None:
        outcome = self.outcomes.get(index)
        if self.ending is not None and (
            outcome is None or (isinstance(outcome, Failed) and not failure_policy.skips)
        ):
            raise copy.copy(self.ending)
        return outcome

    def _check(self, failure_policy: FailurePolicy) -> None:
        """Raise if too many files have failed, whichever file is waited for."""
        # Files that are missing because all is over concern only those who want them.
        counted = [
            failed
            for failed in self.failed
            if (failure_policy.skips or failed.kind == ITS_OWN)
            and failed.index not in failure_policy.elsewhere
        ]
        if not failure_policy.allows(len(counted)):
            raise failures.too_many_failed(self._request_id, counted, failure_policy)
