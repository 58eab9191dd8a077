"""In a worker process: learn outcomes of a transform that another process owns."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import astuple
from time import monotonic, time
from typing import Any

from distributed import Worker, get_worker
from distributed.worker_state_machine import SecedeEvent

from ..errors import AccessError, OwnerLost, ServiceXError
from ..policy import STRICT, FailurePolicy
from ..polling.failures import PASSING
from ..polling.outcomes import Delivered, Outcome, Read
from ..polling.registry import TransformAddress
from ..polling.results import ResultStore
from ..servicex.models import SignedUrl
from .plugin import FAILURES, GRANT, POLL_S, READS

# An owner that has not shown up for this long is lost, seconds.
OWNER_PATIENCE_S = 60.0


def in_worker() -> Any | None:
    """Return the dask worker that runs this thread, if there is one."""
    try:
        return get_worker()
    except ValueError:
        return None


def on_loop_of_worker() -> Any | None:
    """Return the dask worker whose event loop this is, if it is one of a worker."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return next((w for w in list(Worker._instances) if w.loop.asyncio_loop is loop), None)


def give_up_slot(worker: Any, key: Any) -> None:
    """Let a worker do something else while a coroutine of it waits; `distributed.secede`."""
    event = SecedeEvent(key=key, compute_duration=0.0, stimulus_id=f"secede-{time()}")
    worker.loop.add_callback(worker.handle_stimulus, event)


def tell_read(address: TransformAddress, read: Read) -> None:
    """Tell the owner that this worker has read a partition."""
    worker = in_worker()
    if worker is not None:
        worker.log_event(READS, (address.key, *astuple(read)))


class Subscriber:
    """What one worker process knows of a transform that another process owns."""

    n_files: int | None = None

    def __init__(self, worker: Any, address: TransformAddress) -> None:
        self._worker = worker
        self._address = address
        self._findings = ResultStore(address.request_id)
        self._known: dict[str, int] = {}
        self._waiting = 0
        self._began_at = 0.0
        self._is_listening = False

    def knows(self, index: int) -> bool:
        """Whether `wait` would return at once."""
        return self._findings.knows(index)

    def wait(
        self, index: int, timeout_s: float | None = None, failure_policy: FailurePolicy = STRICT
    ) -> Outcome:
        """Wait until the owner has told what became of an input file.

        Raises
        ------
        TimeoutError
            If it has not after ``timeout_s`` seconds.
        OwnerLost
            If the owner has been silent for too long.
        ServiceXError
            The ending of the transform, as the owner saw it; or more files have failed than are
            tolerated.
        """
        with self._findings.news:
            self._begin_to_wait()
            try:
                return self._findings.wait(index, failure_policy, timeout_s, self._listen)
            finally:
                self._waiting -= 1

    async def wait_async(self, index: int, failure_policy: FailurePolicy = STRICT) -> Outcome:
        """Wait as `wait` does, on an event loop and so without a thread."""
        with self._findings.news:
            self._begin_to_wait()
        try:
            return await self._findings.wait_async(index, failure_policy, self._listen)
        finally:
            with self._findings.news:
                self._waiting -= 1

    def _begin_to_wait(self) -> None:
        if not self._waiting:
            self._began_at = monotonic()
            if isinstance(self._findings.ending, PASSING):
                self._findings.ending = None
        self._waiting += 1

    def delivered(self) -> list[Delivered]:
        """Return the results that the owner has told of."""
        return self._findings.delivered()

    def failures(self, lost: Read | None = None) -> frozenset[int]:
        """Ask the owner which input files failed or cannot be read, now that this one cannot.

        Raises
        ------
        OwnerLost
            If it does not answer.
        """
        return frozenset(self._ask(FAILURES, lost and astuple(lost)))

    def grant(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        """Ask the owner for permission to read an object.

        Raises
        ------
        OwnerLost
            If it does not answer.
        AccessError
            If it cannot get any.
        """
        grant = self._ask(GRANT, object_name, refresh)
        if not isinstance(grant, SignedUrl):
            raise AccessError(f"The owner answers with {type(grant).__name__}")
        return grant

    def _ask(self, *question: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(
            self._worker.scheduler.servicex_ask(
                transform=self._address.key, question=question, timeout=OWNER_PATIENCE_S
            ),
            self._worker.loop.asyncio_loop,
        )
        said = future.result(OWNER_PATIENCE_S + POLL_S)
        if not isinstance(said, bytes):
            raise self._owner_lost()
        answer = pickle.loads(said)  # noqa: S301 - from our own owner, as all that dask sends
        if isinstance(answer, ServiceXError):
            raise answer
        return answer

    def _owner_lost(self) -> OwnerLost:
        return OwnerLost(
            f"The process that submitted request {self._address.request_id} no longer answers. "
            "Its notebook or script must go on running while workers read the results.",
            request_id=self._address.request_id,
        )

    def _listen(self) -> None:
        if not self._is_listening:
            self._is_listening = True
            self._worker.loop.add_callback(self._poll)

    async def _poll(self) -> None:
        """Read the board while anybody waits."""
        patience = monotonic() + OWNER_PATIENCE_S
        try:
            while self._waiting and self._findings.ending is None:
                said = await self._worker.scheduler.servicex_poll(
                    transform=self._address.key, known=self._known, timeout=POLL_S
                )
                if not isinstance(said, dict) or "batches" not in said:
                    # The scheduler has no board yet: the owner is about to put it there.
                    self._lose_owner_after(patience)
                    await asyncio.sleep(0.1)
                    continue
                with self._findings.news:
                    for owner, batches in said["batches"].items():
                        self._enter(owner, batches)
                if not said["batches"] and said["owner_silent_s"] > OWNER_PATIENCE_S:
                    self._lose_owner_after(0.0)
        except OSError:
            # The scheduler is gone, and this worker will be.
            self._lose_owner_after(0.0)
        finally:
            with self._findings.news:
                self._is_listening = False
            self._findings.wake_all()

    def _enter(self, owner: str, batches: Sequence[tuple[float, bytes]]) -> None:
        self._known[owner] = self._known.get(owner, 0) + len(batches)
        waited_s = monotonic() - self._began_at
        for age_s, batch in batches:
            outcomes, ending = pickle.loads(batch)  # noqa: S301
            # What ended an earlier wait may be over by now.
            is_old = isinstance(ending, PASSING) and age_s > waited_s
            self._findings.enter(outcomes, None if is_old else ending)

    def _lose_owner_after(self, deadline: float) -> None:
        if monotonic() > deadline:
            self._findings.enter((), self._owner_lost())
