"""Results of a transform in one process: the only copy of outcomes, where tasks wait for them."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from ..errors import ReadError, ServiceXError, TransformFailed
from ..policy import STRICT, FailurePolicy
from ..servicex.models import SignedUrl
from . import failures
from .failures import PASSING
from .outcomes import Delivered, Failed, Outcome, Read

Value = TypeVar("Value", bound=Outcome)

# Threads wait in slices, so that the main thread receives Ctrl-C and polling is kept alive.
SLICE_S = 0.5


class ResultStore:
    """Outcomes and the ending of one transform.

    Parameters
    ----------
    request_id : str
    n_files : int, optional
        Input files; None if their number is not available in this process.

    Attributes
    ----------
    outcomes : dict of int to Outcome
        By the index of the input file, in the order of entry. An outcome never changes.
    ending : ServiceXError or None
        Why the transform, or waiting for it, ended without all of its results.
    lock : threading.RLock
        Guards the store and the state of its transform; hold it to read several attributes.
    """

    def __init__(self, request_id: str, n_files: int | None = None) -> None:
        self.request_id = request_id
        self.n_files = n_files
        self.outcomes: dict[int, Outcome] = {}
        self.ending: ServiceXError | None = None
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._failed: list[int] = []
        self._wakers: defaultdict[int, list[Callable[[], object]]] = defaultdict(list)
        self._subscribers: list[Callable[[], object]] = []

    # -- entries

    def enter(self, outcomes: Sequence[Outcome], ending: ServiceXError | None) -> None:
        """Enter outcomes and the ending, wake the tasks that they concern, notify subscribers."""
        with self.lock:
            new = [outcome for outcome in outcomes if outcome.index not in self.outcomes]
            is_changed = bool(new) or ending is not self.ending
            self.outcomes.update((outcome.index, outcome) for outcome in new)
            self._failed += [outcome.index for outcome in new if isinstance(outcome, Failed)]
            self.ending = ending
            # An ending concerns the tasks that wait for other files, too.
            self._wake([outcome.index for outcome in new] if ending is None else self._wakers)
            _call(self._subscribers if is_changed else ())

    def subscribe(self, notify: Callable[[], object]) -> None:
        """Call ``notify`` after each later change, with the lock held: it must not wait."""
        with self.lock:
            self._subscribers.append(notify)

    def unsubscribe(self, notify: Callable[[], object]) -> None:
        """Undo `subscribe`."""
        with self.lock, suppress(ValueError):
            self._subscribers.remove(notify)

    def wake_all(self) -> None:
        """Wake all tasks, which then check whether to go on waiting."""
        with self.lock:
            self._wake(self._wakers)

    def _wake(self, indices: Iterable[int]) -> None:
        self._changed.notify_all()
        for index in list(indices):
            _call(self._wakers.pop(index, ()))

    # -- contents

    @property
    def is_complete(self) -> bool:
        """True if every input file has an outcome."""
        return len(self.outcomes) == self.n_files

    @property
    def missing(self) -> list[int]:
        """Input files without an outcome."""
        return [index for index in range(self.n_files or 0) if index not in self.outcomes]

    @property
    def failed(self) -> list[Failed]:
        """Outcomes of the input files that failed."""
        with self.lock:
            outcomes = map(self.outcomes.__getitem__, self._failed)
            return [outcome for outcome in outcomes if isinstance(outcome, Failed)]

    def delivered(self) -> list[Delivered]:
        """Return the outcomes of the input files that have a result."""
        with self.lock:
            return [o for o in self.outcomes.values() if isinstance(o, Delivered)]

    def is_ready(self, index: int) -> bool:
        """Return True if `wait` would return, or raise, at once."""
        is_over = self.ending is not None and not isinstance(self.ending, PASSING)
        return index in self.outcomes or is_over

    @property
    def is_awaited(self) -> bool:
        """True if a coroutine or a callback waits."""
        return bool(self._wakers)

    # -- waiting

    def wait(
        self,
        index: int,
        failure_policy: FailurePolicy,
        timeout_s: float | None,
        keep_polling: Callable[[], None],
    ) -> Outcome:
        """Wait until an input file has an outcome.

        Parameters
        ----------
        index : int
        failure_policy : FailurePolicy
        timeout_s : float or None
            Seconds; None is no limit.
        keep_polling : callable
            Called at the beginning and every half second of a wait, with the lock held; raises if
            there is nothing to wait for.

        Raises
        ------
        TimeoutError
            If there is no outcome after ``timeout_s`` seconds.
        ServiceXError
            If the transform ended without an outcome, or more input files failed than allowed.
        """

        def get() -> Outcome | None:
            self._check_failed(failure_policy)
            return self.outcome(index, failure_policy)

        reason = f"input file {index} has no result after {timeout_s} s"
        return self._wait(get, keep_polling, timeout_s, reason)

    def wait_for_any(self, keep_polling: Callable[[], None]) -> Delivered:
        """Wait until any input file has a result; return the first of them in the list of files.

        Raises
        ------
        ServiceXError
            If the transform ended without any.
        """
        return self._wait(self._first_delivered, keep_polling)

    async def wait_async(
        self, index: int, failure_policy: FailurePolicy, keep_polling: Callable[[], None]
    ) -> Outcome:
        """Wait as `wait` does, on an event loop and so without a thread.

        A failure of another file ends only the wait for that file: all files are waited for at
        once.
        """
        loop = asyncio.get_running_loop()
        while True:
            woken = asyncio.Event()
            with self.lock:
                outcome = self.outcome(index, failure_policy)
                if isinstance(outcome, Failed):
                    self._check_failed(failure_policy)
                if outcome is not None:
                    return outcome
                self._wakers[index].append(wake := partial(loop.call_soon_threadsafe, woken.set))
            try:
                keep_polling()
                await woken.wait()
            finally:
                self.remove_waker(index, wake)

    def when_ready(self, index: int, wake: Callable[[], object]) -> None:
        """Call ``wake`` once, when there is an outcome or an ending, perhaps at once.

        It is also called if the poller is closed, perhaps with the lock held: it must not wait.
        Then `outcome` returns the one or raises the other; `wait` would begin anew after an ending
        that may pass.
        """
        with self.lock:
            if not self.is_ready(index):
                self._wakers[index].append(wake)
                return
        wake()

    def _wait(
        self,
        get: Callable[[], Value | None],
        keep_polling: Callable[[], None],
        timeout_s: float | None = None,
        reason: str = "",
    ) -> Value:
        deadline = math.inf if timeout_s is None else monotonic() + timeout_s
        with self.lock:
            while (value := get()) is None:
                keep_polling()
                left_s = deadline - monotonic()
                if left_s <= 0:
                    raise TimeoutError(reason)
                self._changed.wait(min(SLICE_S, left_s))
        return value

    def remove_waker(self, index: int, wake: Callable[[], object]) -> None:
        """Undo `when_ready`, for what waits no longer."""
        with self.lock:
            wakers = [waker for waker in self._wakers.pop(index, ()) if waker is not wake]
            if wakers:
                self._wakers[index] = wakers

    def outcome(self, index: int, failure_policy: FailurePolicy) -> Outcome | None:
        """Return the outcome of an input file, None if there is none yet. Does not wait.

        Raises
        ------
        ServiceXError
            If the transform, or waiting for it, ended without an outcome that is allowed.
        """
        outcome = self.outcomes.get(index)
        if self.ending is not None and (
            outcome is None or (isinstance(outcome, Failed) and not failure_policy.skips)
        ):
            raise copy.copy(self.ending)
        return outcome

    def _first_delivered(self) -> Delivered | None:
        delivered = self.delivered()
        if delivered:
            return min(delivered, key=lambda outcome: outcome.index)
        if self.ending is not None:
            raise copy.copy(self.ending)
        if self.is_complete:
            raise failures.too_many_failed(self.request_id, self.failed, STRICT)
        return None

    def _check_failed(self, failure_policy: FailurePolicy) -> None:
        """Raise if too many input files have failed, whichever file is waited for."""
        # Files without an outcome at the end of the transform concern only the tasks of these.
        counted = [
            failed
            for failed in self.failed
            if (failure_policy.skips or failed.kind == TransformFailed.__name__)
            and failed.index not in failure_policy.elsewhere
        ]
        if not failure_policy.allows(len(counted)):
            raise failures.too_many_failed(self.request_id, counted, failure_policy)


def _call(functions: Iterable[Callable[[], object]]) -> None:
    for function in functions:
        with suppress(RuntimeError):  # its event loop has ended
            function()


class ResultSource(ABC):
    """Outcomes of a transform, and access to its results, in any process.

    Parameters
    ----------
    results : ResultStore

    Attributes
    ----------
    verifies_lengths : bool
        True if every file is compared with its expected number of events before it is read.
    """

    verifies_lengths = False

    def __init__(self, results: ResultStore) -> None:
        self.results = results

    @property
    def n_files(self) -> int | None:
        """Number of input files; None if it is not available in this process."""
        return self.results.n_files

    def is_ready(self, index: int) -> bool:
        """Return True if `wait` would return, or raise, at once."""
        return self.results.is_ready(index)

    def delivered(self) -> list[Delivered]:
        """Return the outcomes of the input files that have a result, so far."""
        return self.results.delivered()

    def wait(
        self, index: int, timeout_s: float | None = None, failure_policy: FailurePolicy = STRICT
    ) -> Outcome:
        """Wait until an input file has an outcome.

        Raises
        ------
        TimeoutError
            If it has none after ``timeout_s`` seconds.
        TransformError
            If the transform ended without an outcome; as soon as more input files have failed than
            allowed.
        ServerError, OwnerLost
            If the server, or the process that owns the transform, did not respond for too long.
        """
        with self._waiting(index):
            return self.results.wait(index, failure_policy, timeout_s, self.keep_polling)

    async def wait_async(self, index: int, failure_policy: FailurePolicy = STRICT) -> Outcome:
        """Wait as `wait` does, on an event loop and so without a thread."""
        with self._waiting(index):
            return await self.results.wait_async(index, failure_policy, self.keep_polling)

    def when_ready(self, index: int, wake: Callable[[], object]) -> None:
        """Call ``wake`` once, as the method of `ResultStore` does. Does not wait."""
        with self._waiting(index):
            self.results.when_ready(index, wake)

    @abstractmethod
    def unusable(self, read: Read | None = None) -> frozenset[int]:
        """Return the input files that failed or could not be read, now with this read as well."""

    @abstractmethod
    def signed_url(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        """Return a signed URL of an object."""

    def held(self, object_name: str) -> Any | None:  # noqa: B027, most hold nothing
        """Return the function that fetches bytes of an object which is held, if it is."""

    def note_error(self, object_name: str, error: ReadError) -> None:  # noqa: B027, most need none
        """Note that bytes of a result could not be fetched. Work items need that."""

    @abstractmethod
    def _waiting(self, index: int) -> AbstractContextManager[None]:
        """Begin to wait: after an ending that may pass, begin anew."""

    @abstractmethod
    def keep_polling(self) -> None:
        """Poll on for a task that waits; raise if there is nothing to wait for."""
