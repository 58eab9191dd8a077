"""In the process that owns a transform: carry its news to the boards of clusters."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from distributed import Client

from ..errors import ServerError, ServiceXError
from ..polling import registry
from ..polling.outcomes import Outcome, Read
from ..polling.poller import Poller
from ..servicex.models import SignedUrl
from .plugin import FAILURES, GRANT, POLL_S, READS, ResultsPlugin

logger = logging.getLogger(__name__)

# Which watches are announced at which clients.
_served: weakref.WeakKeyDictionary[Client, weakref.WeakSet[Poller]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_numbers = itertools.count()
# Before the scheduler is looked for again, seconds.
AWAY_S = 0.5


def publish(poller: Poller) -> None:
    """Serve the workers of every cluster that this process is a client of.

    Called when a graph leaves the process, which is when there are workers to serve.
    """
    # A graph may be submitted by any client, not only by the current one, and does not say which.
    for client in list(Client._instances):
        if client.status not in ("running", "connecting"):
            continue
        with _lock:
            served = _served.setdefault(client, weakref.WeakSet())
            if poller in served:
                continue
            served.add(poller)
        client.loop.add_callback(_Publisher(client, poller).serve)


class _Publisher:
    """Carry news between a watch and the board of one cluster, on the loop of the client."""

    def __init__(self, client: Client, poller: Poller) -> None:
        self._client = client
        # Held while the cluster has tasks of it, which may outlive the graph that they were made
        # of, and for as long as these may be on their way; else dropping the graph ends its watch.
        self._held: Poller | None = poller
        self._held_until = monotonic() + 2 * POLL_S
        self._watch_ref = weakref.ref(poller)
        self._is_wanted = False
        self._key = poller.address.key
        # Others of this client may serve the same transform, which know less or more of it.
        self._owner = f"{client.id}/{next(_numbers)}"
        self._batches: list[bytes] = []
        self._ending: ServiceXError | None = None
        self._news = asyncio.Event()
        self._replies: set[asyncio.Future[None]] = set()

    async def serve(self) -> None:
        poller = self._watch_ref()
        if poller is None:
            return
        loop = asyncio.get_running_loop()
        herald = weakref.ref(self)

        def listener(outcomes: Sequence[Outcome], ending: ServiceXError | None) -> None:
            with suppress(RuntimeError):  # the loop of a client that was closed
                loop.call_soon_threadsafe(_append, herald, outcomes, ending)

        try:
            self._append(*poller.subscribe(listener))
            del poller
            while not self._is_over():
                await self._talk()
        finally:
            poller = self._watch_ref()
            if poller is not None:
                poller.unsubscribe(listener)
                with _lock:
                    _served.get(self._client, weakref.WeakSet()).discard(poller)
            with suppress(OSError, RuntimeError, AttributeError):
                await self._client.scheduler.servicex_leave(transform=self._key, owner=self._owner)

    async def _talk(self) -> None:
        """Talk to the scheduler, as long as it can be reached."""
        try:
            await self._client.register_plugin(ResultsPlugin())
            self._client.subscribe_topic(READS, _note_read)
            await asyncio.gather(self._publish(), self._answer())
        except (OSError, asyncio.CancelledError, RuntimeError, AttributeError) as error:
            if self._client.status == "running" and not isinstance(error, OSError):
                raise
            # A client that was closed ends its heralds; one that lost its scheduler may find it.
            logger.debug("A herald pauses: %s", type(error).__name__)
            await asyncio.sleep(AWAY_S)

    def _append(self, outcomes: Sequence[Outcome], ending: ServiceXError | None) -> None:
        # That it goes on after an ending is news too.
        if outcomes or ending is not self._ending:
            self._ending = ending
            self._batches.append(pickle.dumps((list(outcomes), ending)))
            self._news.set()

    def _is_over(self) -> bool:
        return self._watch_ref() is None or self._client.status not in ("running", "connecting")

    async def _publish(self) -> None:
        n_published = 0
        while not self._is_over():
            self._news.clear()
            if n_published < len(self._batches):
                n_published = await self._client.scheduler.servicex_publish(
                    transform=self._key,
                    owner=self._owner,
                    batches=self._batches[n_published:],
                    start=n_published,
                    over=self._ending is not None,
                )
                continue
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL_S)

    async def _answer(self) -> None:
        while not self._is_over():
            poller = self._watch_ref()
            if poller is None:
                return
            layers = sorted(poller.layers)
            del poller
            said = await self._client.scheduler.servicex_asks(
                transform=self._key,
                owner=self._owner,
                wanted=self._is_wanted,
                timeout=POLL_S,
                layers=layers,
            )
            poller = self._watch_ref()
            if poller is None:
                return
            self._is_wanted = said["wanted"]
            is_held = said["wanted"] or said["needed"] or monotonic() < self._held_until
            self._held = poller if is_held else None
            if said["wanted"]:
                poller.start(2 * POLL_S)
            if said["asks"]:
                # What others ask does not wait until a server that is away gives URLs.
                reply = asyncio.ensure_future(self._reply(poller, said["asks"]))
                self._replies.add(reply)
                reply.add_done_callback(self._replies.discard)
            del poller

    async def _reply(self, poller: Poller, asks: Sequence[tuple[int, Sequence[Any]]]) -> None:
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(None, _answers, poller, asks)
        with suppress(OSError, RuntimeError, AttributeError):  # the scheduler is gone
            await self._client.scheduler.servicex_answer(transform=self._key, answers=answers)


def _append(
    herald: weakref.ref[_Publisher], outcomes: Sequence[Outcome], ending: ServiceXError | None
) -> None:
    alive = herald()
    if alive is not None:
        alive._append(outcomes, ending)


def _note_read(event: tuple[float, tuple[Any, ...]]) -> None:
    """Note a read of which a worker tells: in the watches of its transform."""
    key, *read = event[1]
    for poller in registry.owned_by_key(key):
        poller.note_read(Read(*read))


def _grant(poller: Poller, object_name: str, refresh: bool) -> SignedUrl:
    return poller.grant(object_name, refresh=refresh)


def _failures(poller: Poller, lost: tuple[Any, ...] | None) -> frozenset[int]:
    return poller.failures(Read(*lost) if lost else None)


ANSWERS: dict[str, Callable[..., Any]] = {GRANT: _grant, FAILURES: _failures}


def _answers(poller: Poller, asks: Sequence[tuple[int, Sequence[Any]]]) -> dict[int, bytes]:
    """Answer what was asked; an error is an answer too."""
    answers: dict[int, bytes] = {}
    for number, (what, *about) in asks:
        try:
            answer = ANSWERS[what](poller, *about)
        except ServiceXError as error:
            answer = error
        except Exception as error:
            logger.exception("A question of a worker has no answer")
            answer = ServerError(f"The owner cannot answer: {type(error).__name__}")
        answers[number] = pickle.dumps(answer)
    return answers
