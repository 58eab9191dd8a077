"""How workers of a dask cluster learn outcomes: from the owner's watch, through the scheduler.

The owner pins outcomes to a board in the scheduler; every worker process that waits for some has
one listener that reads the board. Waiting costs no thread of the pool and no request to ServiceX.
URLs are asked for through the board too, one object at a time, and are not kept on it.

::

    owner: Herald ──publish──► Board (scheduler) ──poll──► Listener :worker process
                  ◄──asks────                    ◄──ask──
                  ──answer──►                    ──grant─►
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

logger = logging.getLogger(__name__)

# A question to the board stays open this long before it is asked again, seconds.
POLL_S = 10.0


@dataclass
class _Transform:
    """What the board knows of one transform; batches are pickled and never opened here."""

    batches: list[bytes] = field(default_factory=list)
    owner: str = ""
    asks: dict[int, tuple[str, bool]] = field(default_factory=dict)
    answers: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    is_wanted: bool = False
    seen: float = field(default_factory=monotonic)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class Board(SchedulerPlugin):
    """Keep the outcomes of transforms in the scheduler, and pass on requests for URLs."""

    name = "coffea_sx-board"
    idempotent = True

    def __init__(self) -> None:
        self._transforms: defaultdict[str, _Transform] = defaultdict(_Transform)
        self._n_asks = 0

    async def start(self, scheduler: Any) -> None:
        """Answer the requests of owners and workers."""
        for request in (self.publish, self.asks, self.answer, self.poll, self.ask):
            scheduler.handlers[f"servicex_{request.__name__}"] = request

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Forget the transforms of a client that has gone."""
        for name in [n for n, pinned in self._transforms.items() if pinned.owner == client]:
            del self._transforms[name]

    async def publish(self, transform: str, client: str, batches: list[bytes], start: int) -> int:
        """Keep batches of outcomes from number ``start`` on; return how many there are."""
        pinned = self._transforms[transform]
        pinned.owner = client
        async with pinned.changed:
            pinned.batches[start:] = batches
            pinned.seen = monotonic()
            pinned.changed.notify_all()
        return len(pinned.batches)

    async def asks(self, transform: str, wanted: bool, timeout: float) -> dict[str, Any]:
        """Tell the owner whether anybody waits for outcomes, and which URLs are asked for.

        ``wanted`` is what the owner knows already.
        """
        pinned = self._transforms[transform]
        pinned.seen = monotonic()

        def news() -> bool:
            return bool(pinned.asks) or pinned.is_wanted != wanted

        await _changed(pinned, news, timeout)
        asks, pinned.asks = pinned.asks, {}
        return {"wanted": pinned.is_wanted, "asks": list(asks.items())}

    async def answer(self, transform: str, grants: dict[int, bytes]) -> None:
        """Give workers the URLs that they asked for."""
        pinned = self._transforms[transform]
        pinned.seen = monotonic()
        for number, grant in grants.items():
            answer = pinned.answers.pop(number, None)
            if answer is not None and not answer.done():
                answer.set_result(grant)

    async def poll(self, transform: str, start: int, timeout: float) -> dict[str, Any]:
        """Give a worker the batches from number ``start`` on, as soon as there are any."""
        pinned = self._transforms[transform]
        if not pinned.is_wanted:
            async with pinned.changed:
                pinned.is_wanted = True
                pinned.changed.notify_all()
        await _changed(pinned, lambda: len(pinned.batches) > start, timeout)
        return {
            "batches": pinned.batches[start:],
            "owner_silent_s": monotonic() - pinned.seen,
        }

    async def ask(self, transform: str, object_name: str, refresh: bool, timeout: float) -> Any:
        """Ask the owner for a URL; None if it does not answer."""
        pinned = self._transforms[transform]
        self._n_asks += 1
        number = self._n_asks
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        pinned.answers[number] = answer
        async with pinned.changed:
            pinned.asks[number] = (object_name, refresh)
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


def topic(key: str) -> str:
    """Name the events with which workers tell that they have read a partition of a transform."""
    return f"coffea_sx/{key}"
