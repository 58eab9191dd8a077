"""How workers of a dask cluster learn outcomes: from the owner's watch, through the scheduler.

The owner pins outcomes to a board in the scheduler; every worker process that waits for some has
one listener that reads the board. Waiting costs no thread of the pool and no request to ServiceX.
URLs are asked for through the board too, one object at a time, and are not kept on it. A transform
may have several owners, which say the same: each has batches of its own, and a name that begins
with that of its client.

::

    owner: Herald ──publish──► Board (scheduler) ──poll──► Subscriber :worker process
                  ◄──asks────                    ◄──ask──
                  ──answer──►                    ──grant─►
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

logger = logging.getLogger(__name__)

# A question to the board stays open this long before it is asked again, seconds.
POLL_S = 10.0
# The events with which workers tell that they have read a partition.
READS = "coffea_sx-reads"
# What workers ask owners: for a URL, and which input files failed or cannot be read.
GRANT = "grant"
FAILURES = "failures"


@dataclass
class _Transform:
    """What the board knows of one transform; batches are pickled and never opened here."""

    # Of each owner, with the times at which they came.
    batches: dict[str, list[tuple[float, bytes]]] = field(default_factory=dict)
    asks: dict[int, Any] = field(default_factory=dict)
    # The last of them that each owner was told of; one that dies leaves its asks to the next.
    told: dict[str, int] = field(default_factory=dict)
    answers: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    wanted_at: float = -math.inf
    seen: float = field(default_factory=monotonic)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    # Requests of owners and workers that are being answered.
    n_open: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether a worker has waited of late."""
        return monotonic() - self.wanted_at < 2 * POLL_S

    def forget(self, owner: str) -> None:
        """Forget what an owner has published, and what it was asked."""
        self.batches.pop(owner, None)
        self.told.pop(owner, None)


class ResultsPlugin(SchedulerPlugin):
    """Keep the outcomes of transforms in the scheduler, and pass on what workers ask owners."""

    name = "coffea_sx-board"
    idempotent = True

    def __init__(self) -> None:
        self._scheduler: Any = None
        self._transforms: defaultdict[str, _Transform] = defaultdict(_Transform)
        self._n_asks = 0

    async def start(self, scheduler: Any) -> None:
        """Answer the requests of owners and workers."""
        self._scheduler = scheduler
        for request in (self.publish, self.leave, self.asks, self.answer, self.poll, self.ask):
            scheduler.handlers[f"servicex_{request.__name__}"] = request

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Forget what the owners in a client that has gone have published."""
        for transform, pinned in list(self._transforms.items()):
            for owner in {*pinned.batches, *pinned.told}:
                if owner.partition("/")[0] == client:
                    pinned.forget(owner)
            self._forget_unused(transform)

    async def leave(self, transform: str, owner: str) -> None:
        """Forget what an owner has published."""
        if transform in self._transforms:
            self._transforms[transform].forget(owner)
            self._forget_unused(transform)

    def _forget_unused(self, transform: str) -> None:
        """Forget a transform that has no owner any more, once no worker waits at it for another."""
        pinned = self._transforms.get(transform)
        if pinned is None or pinned.batches or pinned.told or pinned.n_open:
            return
        if pinned.is_wanted:
            asyncio.get_running_loop().call_later(2 * POLL_S, self._forget_unused, transform)
        else:
            del self._transforms[transform]

    @contextmanager
    def _opened(self, transform: str) -> Iterator[_Transform]:
        """Keep a transform while a request about it is being answered."""
        pinned = self._transforms[transform]
        pinned.n_open += 1
        try:
            yield pinned
        finally:
            pinned.n_open -= 1
            self._forget_unused(transform)

    async def publish(
        self, transform: str, owner: str, batches: list[bytes], start: int, over: bool = False
    ) -> int:
        """Keep batches of outcomes from number ``start`` on; return how many there are.

        Fewer than ``start`` are there if the client was away and forgotten; it has to begin again.
        ``over`` says that there is nothing more to wait for, unless somebody waits anew.
        """
        pinned = self._transforms[transform]
        pinned.seen = monotonic()
        kept = pinned.batches.setdefault(owner, [])
        if start <= len(kept):
            async with pinned.changed:
                kept[start:] = [(monotonic(), batch) for batch in batches]
                if over:
                    pinned.wanted_at = -math.inf
                pinned.changed.notify_all()
        return len(kept)

    async def asks(
        self, transform: str, owner: str, wanted: bool, timeout: float, layers: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Tell an owner whether anybody waits for outcomes, or may yet, and what else is asked.

        ``wanted`` is what the owner knows already; ``layers`` are those that resolve its files.
        """
        with self._opened(transform) as pinned:
            return await self._asks(pinned, owner, wanted, timeout, layers)

    async def _asks(
        self,
        pinned: _Transform,
        owner: str,
        wanted: bool,
        timeout: float,
        layers: Sequence[str],
    ) -> dict[str, Any]:
        pinned.seen = monotonic()

        def asks() -> list[tuple[int, Any]]:
            told = pinned.told.get(owner, 0)
            return [(number, asked) for number, asked in pinned.asks.items() if number > told]

        await _changed(pinned, lambda: bool(asks()) or pinned.is_wanted != wanted, timeout)
        new = asks()
        if new:
            pinned.told[owner] = max(number for number, _ in new)
        groups = getattr(self._scheduler, "task_groups", ())
        needed = any(layer in groups for layer in layers)
        return {"wanted": pinned.is_wanted, "needed": needed, "asks": new}

    async def answer(self, transform: str, answers: dict[int, bytes]) -> None:
        """Give workers the answers to what they asked."""
        pinned = self._transforms.get(transform)
        if pinned is None:
            return
        pinned.seen = monotonic()
        for number, said in answers.items():
            answer = pinned.answers.pop(number, None)
            if answer is not None and not answer.done():
                answer.set_result(said)

    async def poll(self, transform: str, known: dict[str, int], timeout: float) -> dict[str, Any]:
        """Give a worker the batches that it does not know, as soon as there are any.

        ``known`` is how many it knows of each owner. Each batch comes with its age, seconds.
        """
        with self._opened(transform) as pinned:
            return await self._news(pinned, known, timeout)

    async def _news(
        self, pinned: _Transform, known: dict[str, int], timeout: float
    ) -> dict[str, Any]:
        was_wanted, pinned.wanted_at = pinned.is_wanted, monotonic()
        if not was_wanted:
            async with pinned.changed:
                pinned.changed.notify_all()

        def news() -> dict[str, list[tuple[float, bytes]]]:
            fresh = {o: kept[known.get(o, 0) :] for o, kept in pinned.batches.items()}
            now = monotonic()
            return {
                owner: [(now - came_at, batch) for came_at, batch in batches]
                for owner, batches in fresh.items()
                if batches
            }

        await _changed(pinned, news, timeout)
        return {"batches": news(), "owner_silent_s": monotonic() - pinned.seen}

    async def ask(self, transform: str, question: Any, timeout: float) -> Any:
        """Ask an owner something; None if none answers."""
        with self._opened(transform) as pinned:
            return await self._answer_of_owner(pinned, question, timeout)

    async def _answer_of_owner(
        self, pinned: _Transform, question: Any, timeout: float
    ) -> bytes | None:
        self._n_asks += 1
        number = self._n_asks
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        pinned.answers[number] = answer
        async with pinned.changed:
            pinned.asks[number] = question
            pinned.changed.notify_all()
        try:
            return await asyncio.wait_for(answer, timeout)
        except asyncio.TimeoutError:
            return None
        finally:
            pinned.answers.pop(number, None)
            pinned.asks.pop(number, None)


async def _changed(transform: _Transform, condition: Any, timeout: float) -> None:
    async with transform.changed:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(transform.changed.wait_for(condition), timeout)
