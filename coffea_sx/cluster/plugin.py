"""Plugin of the scheduler: outcomes and requests between the owner of a transform and workers.

The owner publishes outcomes; every worker process that waits for some has one subscriber, which
polls them. Waiting takes no thread of a worker and no request to ServiceX. Workers also request
signed URLs from the owner, one object at a time; these are not kept here. A transform may have
several owners with equal outcomes: each has batches of its own, and a name that begins with that
of its client.

::

    owner: publisher ──publish────────► plugin (scheduler) ◄──poll───── subscriber: worker process
                     ──take_requests──►                    ◄──request──
                     ──respond────────►                    ──signed URL─►
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from .._upstream.distributed import add_handler, has_task_group
from ..policy import CHANNEL, ChannelPolicy

# Topic of the events by which workers report that they have read a partition.
READS = "coffea_sx-reads"
# Requests of workers to owners: for a signed URL, and for the input files that are unusable.
SIGNED_URL = "signed_url"
UNUSABLE = "unusable"


@dataclass
class _Transform:
    """Batches and requests of one transform; batches are pickled and never opened here."""

    # Of each owner, with the times at which they came.
    batches: dict[str, list[tuple[float, bytes]]] = field(default_factory=dict)
    requests: dict[int, Any] = field(default_factory=dict)
    # Latest request that each owner has taken; those of an owner that dies are for the next.
    taken: dict[str, int] = field(default_factory=dict)
    responses: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    awaited_at: float = -math.inf
    owner_seen_at: float = field(default_factory=monotonic)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    # Calls of owners and workers that are open.
    n_open: int = 0

    def forget(self, owner: str) -> None:
        """Forget the batches of an owner, and its requests."""
        self.batches.pop(owner, None)
        self.taken.pop(owner, None)

    async def wait_for(self, condition: Callable[[], Any], timeout_s: float) -> None:
        """Wait until a condition holds, or the time is over."""
        async with self.changed:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(condition), timeout_s)

    async def notify(self) -> None:
        """Wake all that wait for a condition."""
        async with self.changed:
            self.changed.notify_all()


class ResultsPlugin(SchedulerPlugin):
    """Keep the outcomes of transforms in the scheduler, and pass requests of workers to owners.

    Parameters
    ----------
    policy : ChannelPolicy
    """

    name = "coffea_sx-results"
    idempotent = True

    def __init__(self, policy: ChannelPolicy = CHANNEL) -> None:
        self._awaited_s = 2 * policy.poll_s
        self._scheduler: Any = None
        self._transforms: defaultdict[str, _Transform] = defaultdict(_Transform)
        self._n_requests = 0

    async def start(self, scheduler: Any) -> None:
        """Accept the calls of owners and workers."""
        self._scheduler = scheduler
        owner = (self.publish, self.leave, self.take_requests, self.respond)
        for function in (*owner, self.poll, self.request):
            add_handler(scheduler, f"servicex_{function.__name__}", function)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Forget the batches of the owners in a client that has gone."""
        for key, transform in list(self._transforms.items()):
            for owner in {*transform.batches, *transform.taken}:
                if owner.partition("/")[0] == client:
                    transform.forget(owner)
            self._forget_unused(key)

    def _is_awaited(self, transform: _Transform) -> bool:
        return monotonic() - transform.awaited_at < self._awaited_s

    def _forget_unused(self, key: str) -> None:
        """Forget a transform without an owner, once no worker waits for another one."""
        transform = self._transforms.get(key)
        if transform is None or transform.batches or transform.taken or transform.n_open:
            return
        if self._is_awaited(transform):
            asyncio.get_running_loop().call_later(self._awaited_s, self._forget_unused, key)
        else:
            del self._transforms[key]

    @contextmanager
    def _opened(self, key: str) -> Iterator[_Transform]:
        """Keep a transform while a call about it is open."""
        transform = self._transforms[key]
        transform.n_open += 1
        try:
            yield transform
        finally:
            transform.n_open -= 1
            self._forget_unused(key)

    # -- calls of owners

    async def publish(
        self, transform: str, owner: str, batches: list[bytes], start: int, over: bool = False
    ) -> int:
        """Keep batches of outcomes from number ``start`` on; return the number of batches here.

        It is less than ``start`` if the client was away and forgotten: then all are to be
        published again. ``over`` is True if no task waits, unless one begins to wait anew.
        """
        published = self._transforms[transform]
        published.owner_seen_at = monotonic()
        kept = published.batches.setdefault(owner, [])
        if start <= len(kept):
            kept[start:] = [(monotonic(), batch) for batch in batches]
            if over:
                published.awaited_at = -math.inf
            await published.notify()
        return len(kept)

    async def leave(self, transform: str, owner: str) -> None:
        """Forget the batches of an owner."""
        if transform in self._transforms:
            self._transforms[transform].forget(owner)
            self._forget_unused(transform)

    async def take_requests(
        self, transform: str, owner: str, wanted: bool, timeout: float, layers: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the new requests of workers, and whether outcomes are awaited or may be yet.

        ``wanted`` is the state that the owner has; ``layers`` are those that resolve its files.
        """
        with self._opened(transform) as opened:
            opened.owner_seen_at = monotonic()

            def requests() -> list[tuple[int, Any]]:
                taken = opened.taken.get(owner, 0)
                return [(number, r) for number, r in opened.requests.items() if number > taken]

            await opened.wait_for(
                lambda: bool(requests()) or self._is_awaited(opened) != wanted, timeout
            )
            new = requests()
            if new:
                opened.taken[owner] = max(number for number, _ in new)
            return {
                "wanted": self._is_awaited(opened),
                "needed": has_task_group(self._scheduler, layers),
                "requests": new,
            }

    async def respond(self, transform: str, responses: Mapping[int, bytes]) -> None:
        """Give workers the responses to their requests."""
        answered = self._transforms.get(transform)
        if answered is None:
            return
        answered.owner_seen_at = monotonic()
        for number, response in responses.items():
            future = answered.responses.pop(number, None)
            if future is not None and not future.done():
                future.set_result(response)

    # -- calls of workers

    async def poll(
        self, transform: str, received: Mapping[str, int], timeout: float
    ) -> dict[str, Any]:
        """Return the batches that a worker does not have, as soon as there are any.

        ``received`` is the number of those that it has of each owner. Each batch comes with its
        age, seconds.
        """
        with self._opened(transform) as polled:
            was_awaited, polled.awaited_at = self._is_awaited(polled), monotonic()
            if not was_awaited:
                await polled.notify()

            def new() -> dict[str, list[tuple[float, bytes]]]:
                now = monotonic()
                return {
                    owner: [(now - came_at, batch) for came_at, batch in batches]
                    for owner, kept in polled.batches.items()
                    if (batches := kept[received.get(owner, 0) :])
                }

            await polled.wait_for(new, timeout)
            return {"batches": new(), "owner_silent_s": monotonic() - polled.owner_seen_at}

    async def request(self, transform: str, request: Any, timeout: float) -> bytes | None:
        """Return the response of an owner to a request; None if none responds."""
        with self._opened(transform) as opened:
            self._n_requests += 1
            number = self._n_requests
            response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            opened.responses[number] = response
            opened.requests[number] = request
            await opened.notify()
            try:
                return await asyncio.wait_for(response, timeout)
            except asyncio.TimeoutError:
                return None
            finally:
                opened.responses.pop(number, None)
                opened.requests.pop(number, None)
