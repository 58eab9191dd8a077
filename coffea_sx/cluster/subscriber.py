"""Subscriber in a worker process: outcomes of a transform that another process owns."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from time import monotonic
from typing import Any

from distributed import get_worker

from .._upstream.distributed import worker_of_loop
from ..errors import AccessError, OwnerLost, ServiceXError
from ..policy import CHANNEL, ChannelPolicy
from ..polling.failures import PASSING
from ..polling.outcomes import Read
from ..polling.registry import TransformAddress
from ..polling.results import ResultSource, ResultStore
from ..servicex.models import SignedUrl
from .plugin import READS, SIGNED_URL, UNUSABLE


def worker_of_thread() -> Any | None:
    """Return the dask worker that runs this thread, if there is one."""
    try:
        return get_worker()
    except ValueError:
        return None


def worker_of_coroutine() -> Any | None:
    """Return the dask worker whose event loop runs this, if there is one."""
    try:
        return worker_of_loop(asyncio.get_running_loop())
    except RuntimeError:
        return None


def report_read(address: TransformAddress, read: Read) -> None:
    """Report to the owner that this worker has read a partition."""
    worker = worker_of_thread()
    if worker is not None:
        worker.log_event(READS, (address.key, *astuple(read)))


class Subscriber(ResultSource):
    """Outcomes of one transform in a worker process that does not own it.

    Parameters
    ----------
    worker : distributed.Worker
    address : TransformAddress
    policy : ChannelPolicy
    """

    def __init__(
        self, worker: Any, address: TransformAddress, policy: ChannelPolicy = CHANNEL
    ) -> None:
        super().__init__(ResultStore(address.request_id))
        self._worker = worker
        self._address = address
        self._policy = policy
        self._received: dict[str, int] = {}
        self._n_waiting = 0
        self._began_at = 0.0
        self._is_polling = False

    @contextmanager
    def _waiting(self, index: int) -> Iterator[None]:
        """Count a task that waits. After an ending that may pass, the first one begins anew."""
        with self.results.lock:
            if not self._n_waiting:
                self._began_at = monotonic()
                if isinstance(self.results.ending, PASSING):
                    self.results.ending = None
            self._n_waiting += 1
        try:
            yield
        finally:
            with self.results.lock:
                self._n_waiting -= 1

    def unusable(self, read: Read | None = None) -> frozenset[int]:
        """Return the input files that failed or could not be read, now with this read as well.

        Raises
        ------
        OwnerLost
            If the owner does not respond.
        """
        return frozenset(self._request(UNUSABLE, read and astuple(read)))

    def signed_url(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        """Return a signed URL of an object, from the owner.

        Raises
        ------
        OwnerLost
            If the owner does not respond.
        AccessError
            If it gets none.
        """
        url = self._request(SIGNED_URL, object_name, refresh)
        if not isinstance(url, SignedUrl):
            raise AccessError(f"The owner responds with {type(url).__name__}")
        return url

    def _request(self, *request: Any) -> Any:
        timeout_s = self._policy.owner_timeout_s
        future = asyncio.run_coroutine_threadsafe(
            self._worker.scheduler.servicex_request(
                transform=self._address.key, request=request, timeout=timeout_s
            ),
            self._worker.loop.asyncio_loop,
        )
        pickled = future.result(timeout_s + self._policy.poll_s)
        if not isinstance(pickled, bytes):
            raise self._owner_lost()
        response = pickle.loads(pickled)  # noqa: S301 - from our own owner, as all that dask sends
        if isinstance(response, ServiceXError):
            raise response
        return response

    def _owner_lost(self) -> OwnerLost:
        return OwnerLost(
            f"The process that submitted request {self._address.request_id} no longer answers. "
            "Its notebook or script must go on running while workers read the results.",
            request_id=self._address.request_id,
        )

    def keep_polling(self) -> None:
        """Poll on for a task that waits; raise if there is nothing to wait for."""
        if not self._is_polling:
            self._is_polling = True
            self._worker.loop.add_callback(self._poll)

    async def _poll(self) -> None:
        """Poll the plugin of the scheduler while any task waits."""
        deadline = monotonic() + self._policy.owner_timeout_s
        try:
            while self._n_waiting and self.results.ending is None:
                response = await self._worker.scheduler.servicex_poll(
                    transform=self._address.key,
                    received=self._received,
                    timeout=self._policy.poll_s,
                )
                if not isinstance(response, dict) or "batches" not in response:
                    # There is no plugin yet: the owner is about to register it.
                    self._lose_owner_after(deadline)
                    await asyncio.sleep(0.1)
                    continue
                with self.results.lock:
                    for owner, batches in response["batches"].items():
                        self._enter(owner, batches)
                is_silent = response["owner_silent_s"] > self._policy.owner_timeout_s
                if is_silent and not response["batches"]:
                    self._lose_owner_after(0.0)
        except OSError:
            # The scheduler is gone, and this worker will be.
            self._lose_owner_after(0.0)
        finally:
            with self.results.lock:
                self._is_polling = False
            self.results.wake_all()

    def _enter(self, owner: str, batches: Sequence[tuple[float, bytes]]) -> None:
        self._received[owner] = self._received.get(owner, 0) + len(batches)
        waited_s = monotonic() - self._began_at
        for age_s, batch in batches:
            outcomes, ending = pickle.loads(batch)  # noqa: S301
            # An ending of an earlier wait may have passed.
            is_old = isinstance(ending, PASSING) and age_s > waited_s
            self.results.enter(outcomes, None if is_old else ending)

    def _lose_owner_after(self, deadline: float) -> None:
        if monotonic() > deadline:
            self.results.enter((), self._owner_lost())
