"""Publisher in the process that owns a transform: from the result store to the scheduler."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from time import monotonic
from typing import Any

from distributed import Client

from .._upstream.distributed import all_clients
from ..errors import ServerError, ServiceXError
from ..policy import CHANNEL, ChannelPolicy
from ..polling import registry
from ..polling.outcomes import Read
from ..polling.poller import Poller
from ..polling.results import ResultStore
from .plugin import READS, SIGNED_URL, UNUSABLE, ResultsPlugin

logger = logging.getLogger(__name__)

# Pollers that are published by each client.
_published: weakref.WeakKeyDictionary[Client, weakref.WeakSet[Poller]]
_published = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_numbers = itertools.count()


def publish(poller: Poller, policy: ChannelPolicy = CHANNEL) -> None:
    """Publish the outcomes of a transform to every cluster that this process is a client of.

    Called when a graph leaves the process, which is when there are workers that need them.
    """
    # A graph may be submitted by any client, not only by the current one.
    for client in all_clients():
        if not _is_open(client):
            continue
        with _lock:
            published = _published.setdefault(client, weakref.WeakSet())
            if poller in published:
                continue
            published.add(poller)
        client.loop.add_callback(_Publisher(client, poller, policy).run)


def _is_open(client: Client) -> bool:
    return client.status in ("running", "connecting")


class Batches:
    """Outcomes and endings of a store as numbered batches, pickled when they are sent.

    A batch has the same number and content whenever it is sent. No outcome is kept here.

    Parameters
    ----------
    results : ResultStore
    """

    def __init__(self, results: ResultStore) -> None:
        self._results = results
        # Number of outcomes and ending after each batch.
        self._marks: list[tuple[int, ServiceXError | None]] = [(0, None)]

    def since(self, start: int) -> list[bytes]:
        """Return all batches from a number on."""
        with self._results.lock:
            outcomes = list(self._results.outcomes.values())
            mark = len(outcomes), self._results.ending
        # That waiting goes on after an ending is an update, too.
        if mark != self._marks[-1]:
            self._marks.append(mark)
        return [
            pickle.dumps((outcomes[first:stop], ending))
            for (first, _), (stop, ending) in pairwise(self._marks[start:])
        ]

    @property
    def is_over(self) -> bool:
        """True if the last batch has an ending."""
        return self._marks[-1][1] is not None


class _Publisher:
    """Connection between a poller and the plugin of one cluster, on the loop of the client."""

    def __init__(self, client: Client, poller: Poller, policy: ChannelPolicy) -> None:
        self._client = client
        self._policy = policy
        # Held while the cluster has tasks of it, which may outlive the graph that they were made
        # of, and for as long as these may be on their way; else dropping the graph ends polling.
        self._held: Poller | None = poller
        self._held_until = monotonic() + 2 * policy.poll_s
        self._poller_ref = weakref.ref(poller)
        self._is_wanted = False
        self._batches = Batches(poller.results)
        # Another publisher of this client may have the same transform with fewer outcomes.
        owner = f"{client.id}/{next(_numbers)}"
        self._names = {"transform": poller.address.key, "owner": owner}
        self._changed = asyncio.Event()
        self._responses: set[asyncio.Future[None]] = set()

    async def run(self) -> None:
        poller = self._poller_ref()
        if poller is None:
            return
        results = poller.results
        notify = partial(asyncio.get_running_loop().call_soon_threadsafe, self._changed.set)
        results.subscribe(notify)
        del poller
        try:
            while not self._is_over():
                await self._communicate()
        finally:
            results.unsubscribe(notify)
            poller = self._poller_ref()
            if poller is not None:
                with _lock:
                    _published.get(self._client, weakref.WeakSet()).discard(poller)
            with suppress(OSError, RuntimeError, AttributeError):
                await self._client.scheduler.servicex_leave(**self._names)

    async def _communicate(self) -> None:
        """Communicate with the scheduler, as long as it can be reached."""
        try:
            await self._client.register_plugin(ResultsPlugin(self._policy))
            self._client.subscribe_topic(READS, _note_read)
            await asyncio.gather(self._publish(), self._take_requests())
        except (OSError, asyncio.CancelledError, RuntimeError, AttributeError) as error:
            if self._client.status == "running" and not isinstance(error, OSError):
                raise
            # A client that was closed ends its publishers; one without scheduler may find it again.
            logger.debug("A publisher pauses: %s", type(error).__name__)
            await asyncio.sleep(self._policy.reconnect_s)

    def _is_over(self) -> bool:
        return self._poller_ref() is None or not _is_open(self._client)

    async def _publish(self) -> None:
        n_published = 0
        while not self._is_over():
            self._changed.clear()
            batches = self._batches.since(n_published)
            if batches:
                n_published = await self._client.scheduler.servicex_publish(
                    **self._names, batches=batches, start=n_published, over=self._batches.is_over
                )
                continue
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._policy.poll_s)

    async def _take_requests(self) -> None:
        while not self._is_over():
            poller = self._poller_ref()
            if poller is None:
                return
            layers = sorted(poller.layers)
            del poller
            taken = await self._client.scheduler.servicex_take_requests(
                **self._names, wanted=self._is_wanted, timeout=self._policy.poll_s, layers=layers
            )
            poller = self._poller_ref()
            if poller is None:
                return
            self._is_wanted = taken["wanted"]
            is_held = taken["wanted"] or taken["needed"] or monotonic() < self._held_until
            self._held = poller if is_held else None
            if taken["wanted"]:
                poller.start(2 * self._policy.poll_s)
            if taken["requests"]:
                # Others do not wait until a server that is away gives URLs.
                response = asyncio.ensure_future(self._respond(poller, taken["requests"]))
                self._responses.add(response)
                response.add_done_callback(self._responses.discard)
            del poller

    async def _respond(self, poller: Poller, requests: Sequence[tuple[int, Sequence[Any]]]) -> None:
        loop, transform = asyncio.get_running_loop(), self._names["transform"]
        responses = await loop.run_in_executor(None, _responses, poller, requests)
        with suppress(OSError, RuntimeError, AttributeError):  # the scheduler is gone
            await self._client.scheduler.servicex_respond(transform=transform, responses=responses)


def _note_read(event: tuple[float, tuple[Any, ...]]) -> None:
    """Note a read that a worker reports, in the pollers of its transform."""
    key, *read = event[1]
    for poller in registry.pollers_of(key):
        poller.note_read(Read(*read))


def _responses(poller: Poller, requests: Sequence[tuple[int, Sequence[Any]]]) -> dict[int, bytes]:
    """Respond to requests of workers; an error is a response, too."""
    return {number: pickle.dumps(_response(poller, *request)) for number, request in requests}


def _response(poller: Poller, kind: str, *arguments: Any) -> Any:
    try:
        if kind == SIGNED_URL:
            object_name, refresh = arguments
            return poller.signed_url(object_name, refresh=refresh)
        if kind == UNUSABLE:
            (read,) = arguments
            return poller.unusable(Read(*read) if read else None)
        raise KeyError(kind)
    except ServiceXError as error:
        return error
    except Exception as error:
        logger.exception("A request of a worker has no response")
        return ServerError(f"The owner cannot respond: {type(error).__name__}")
