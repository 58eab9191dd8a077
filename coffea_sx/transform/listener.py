"""In a worker process: learn outcomes of a transform that another process owns."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any

from distributed import get_worker

from ..errors import AccessError, OwnerLost, ServiceXError
from .access import Grant
from .board import POLL_S, topic
from .outcomes import Delivered, Outcome, Read
from .source import TransformAddress

# An owner that has not shown up for this long is lost, seconds.
OWNER_PATIENCE_S = 60.0


def in_worker() -> Any | None:
    """Return the dask worker that runs this thread, if there is one."""
    try:
        return get_worker()
    except ValueError:
        return None


def tell_read(address: TransformAddress, read: Read) -> None:
    """Tell the owner that this worker has read a partition."""
    worker = in_worker()
    if worker is not None:
        message = (read.partition, read.n_events, read.finished_at)
        worker.log_event(topic(address.key), message)


class Listener:
    """What one worker process knows of a transform that another process owns."""

    n_files: int | None = None

    def __init__(self, worker: Any, address: TransformAddress) -> None:
        self._worker = worker
        self._address = address
        self._outcomes: dict[int, Outcome] = {}
        self._ending: ServiceXError | None = None
        self._read = 0
        self._waiting = 0
        self._is_listening = False
        self._news = threading.Condition()

    def knows(self, index: int) -> bool:
        """Whether `wait` would return at once."""
        return index in self._outcomes or self._ending is not None

    def wait(self, index: int, timeout_s: float | None = None) -> Outcome:
        """Wait until the owner has told what became of an input file.

        Raises
        ------
        TimeoutError
            If it has not after ``timeout_s`` seconds.
        OwnerLost
            If the owner has been silent for too long.
        ServiceXError
            The ending of the transform, as the owner saw it.
        """
        deadline = math.inf if timeout_s is None else monotonic() + timeout_s
        with self._news:
            self._waiting += 1
            try:
                while True:
                    if self._ending is not None and (
                        index not in self._outcomes or self._address.on_failure == "raise"
                    ):
                        raise copy.copy(self._ending)
                    if index in self._outcomes:
                        return self._outcomes[index]
                    left_s = deadline - monotonic()
                    if left_s <= 0:
                        raise TimeoutError(f"input file {index} has no result after {timeout_s} s")
                    self._listen()
                    self._news.wait(min(POLL_S, left_s))
            finally:
                self._waiting -= 1

    def delivered(self) -> list[Delivered]:
        """Return the results that the owner has told of."""
        with self._news:
            return [o for o in self._outcomes.values() if isinstance(o, Delivered)]

    def grant(self, object_name: str, *, refresh: bool = False) -> Grant:
        """Ask the owner for permission to read an object.

        Raises
        ------
        OwnerLost
            If it does not answer.
        AccessError
            If it cannot get any.
        """
        future = asyncio.run_coroutine_threadsafe(
            self._worker.scheduler.servicex_ask(
                transform=self._address.key,
                object_name=object_name,
                refresh=refresh,
                timeout=OWNER_PATIENCE_S,
            ),
            self._worker.loop.asyncio_loop,
        )
        answer = future.result(OWNER_PATIENCE_S + POLL_S)
        if not isinstance(answer, bytes):
            raise self._owner_lost()
        grant = pickle.loads(answer)  # noqa: S301 - from our own owner, as all that dask sends
        if isinstance(grant, ServiceXError):
            raise grant
        if not isinstance(grant, Grant):
            raise AccessError(f"The owner answers with {type(grant).__name__}")
        return grant

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
            while self._waiting and self._ending is None:
                said = await self._worker.scheduler.servicex_poll(
                    transform=self._address.key, start=self._read, timeout=POLL_S
                )
                if not isinstance(said, dict) or "batches" not in said:
                    # The scheduler has no board yet: the owner is about to put it there.
                    self._lose_owner_after(patience)
                    await asyncio.sleep(0.1)
                    continue
                if said["batches"]:
                    self._enter(said["batches"])
                elif said["owner_silent_s"] > OWNER_PATIENCE_S:
                    self._lose_owner_after(0.0)
        except OSError:
            # The scheduler is gone, and this worker will be.
            self._lose_owner_after(0.0)
        finally:
            with self._news:
                self._is_listening = False
                self._news.notify_all()

    def _enter(self, batches: Sequence[bytes]) -> None:
        with self._news:
            for batch in batches:
                outcomes, ending = pickle.loads(batch)  # noqa: S301
                self._outcomes.update((outcome.index, outcome) for outcome in outcomes)
                self._ending = ending or self._ending
            self._read += len(batches)
            self._news.notify_all()

    def _lose_owner_after(self, deadline: float) -> None:
        if monotonic() > deadline:
            with self._news:
                self._ending = self._owner_lost()
                self._news.notify_all()
