"""The watch: one per transform, in the process that owns it.

It asks the server what the course of the transform wants to know, when it is its turn at the poller
of that server, as long as somebody waits for a file; whoever waits, waits here. Nothing is asked
before somebody waits.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

from ..dataset import NO_OBJECT, InputFiles
from ..errors import AccessError, OwnerLost, ServerError, ServiceXError
from ..policy import STRICT, FailurePolicy, PollPolicy, RetryPolicy, is_transient, warn_of_outage
from ..redact import redact
from ..servicex.client import ServiceXClient
from ..servicex.models import SignedUrl
from ..servicex.submit import number_of
from ..servicex.urls import UrlProvider
from . import failures, registry
from .monitor import LEAST_QUESTION_S, monitor_of
from .outcomes import Delivered, Failed, Outcome, Read
from .registry import TransformAddress
from .results import SLICE_S, ResultStore
from .state import Counts, Request, TransformState

logger = logging.getLogger(__name__)

Subscriber = Callable[[Sequence[Outcome], "ServiceXError | None"], None]

# How long readers wait for a server that gives no URLs now, seconds: less than workers wait for us.
GRANT_PATIENCE_S = 45.0
# Between requests for URLs, in pauses between other questions.
URL_PAUSES = 2
# After so long without anybody who waits the server is left alone, seconds.
UNWANTED_S = 2 * SLICE_S


class Poller:
    """Watch one transform.

    Parameters
    ----------
    client : ServiceXClient
    address : TransformAddress
    files : InputFiles
        In the order of the partitions.
    pace : PollPolicy
    result_format : str, optional
        Of the results, if it is known.
    """

    def __init__(
        self,
        client: ServiceXClient,
        address: TransformAddress,
        files: InputFiles,
        pace: PollPolicy | None = None,
        result_format: str | None = None,
    ) -> None:
        self.client = client
        self.address = address
        self.files = files
        self.pace = pace or PollPolicy()
        self.results_store = ResultStore(address.request_id)
        self._monitor = monitor_of(client.endpoint.url)
        self.access = UrlProvider(
            client, address.request_id, files, result_format, self._patience_for_urls_s
        )
        # How each partition was last read, by how many there are and which.
        self.reads: dict[tuple[int, int], Read] = {}
        # Names of the layers of graphs that resolve its files.
        self.layers: set[str] = set()
        self._state = TransformState(address.request_id, files, self.pace, monotonic())
        self._knows_server = self._knows_log_url = False
        self._wanted_until = 0.0
        self._closed = threading.Event()
        self._is_asking = False
        self._is_away = False
        self.number = number_of(address.request_id)
        self.n_asked = 0
        self._listeners: list[Subscriber] = []
        registry.own(address, self)
        # Whoever sleeps for a watch that nobody holds any more wakes up.
        self._finalizer = weakref.finalize(self, self._closed.set)

    # -- what a ResultSource does

    @property
    def n_files(self) -> int:
        """Input files."""
        return len(self.files)

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """What became of input files, as far as is known."""
        return self.results_store.outcomes

    @property
    def ending(self) -> ServiceXError | None:
        """How the transform ended, if it ended without all of its results."""
        return self.results_store.ending

    @property
    def is_complete(self) -> bool:
        """Whether it is known what became of every input file."""
        return len(self.results_store.outcomes) == len(self.files)

    @property
    def counts(self) -> Counts:
        """How far the transform is."""
        with self.results_store.news:
            return self._state.counts

    def knows(self, index: int) -> bool:
        """Whether `wait` would return at once."""
        return self.results_store.knows(index)

    def wait(
        self, index: int, timeout_s: float | None = None, failure_policy: FailurePolicy = STRICT
    ) -> Outcome:
        """Wait until it is known what became of an input file.

        Raises
        ------
        TimeoutError
            If it is not known after ``timeout_s`` seconds.
        TransformError
            If the transform ended without telling; as soon as more input files have failed than
            are tolerated.
        ServerError
            If the server did not answer for too long.
        """
        self._start_for(index)
        return self.results_store.wait(index, failure_policy, timeout_s, self._go_on)

    async def wait_async(self, index: int, failure_policy: FailurePolicy = STRICT) -> Outcome:
        """Wait as `wait` does, on an event loop and so without a thread."""
        self._start_for(index)
        return await self.results_store.wait_async(index, failure_policy, self._go_on)

    def wait_for_any(self) -> Delivered:
        """Wait until any input file was delivered; return the one that comes first in the list.

        Raises
        ------
        TransformError, ServerError
            If the transform ended without any.
        """
        self.start()
        with self.results_store.news:
            while not (delivered := self.delivered()):
                if self.ending is not None:
                    raise self.ending
                if self.is_complete:
                    failed = self.results_store.failed
                    raise failures.too_many_failed(self.address.request_id, failed, STRICT)
                self._go_on()
                self.results_store.news.wait(0.5)
        return min(delivered, key=lambda outcome: outcome.index)

    def grant(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        """Return permission to read an object. At most one request to ServiceX."""
        return self.grants([object_name], refresh=refresh)[object_name]

    def grants(self, names: Sequence[str], *, refresh: bool = False) -> dict[str, SignedUrl]:
        """Return permission to read objects, and ask for the others' on the way."""
        turn = partial(self._monitor.take_turn_for_urls, URL_PAUSES * self.pace.busy_s, self._sleep)
        ask = partial(
            self.access.urls,
            names,
            refresh=refresh,
            prefetch=self._readable,
            wait_for_turn=turn,
        )
        patience_s = self._patience_for_urls_s
        retry = RetryPolicy(patience_s, self.pace.idle_s, _may_be_granted)
        return retry.call(ask, sleep=self._sleep)

    @property
    def _patience_for_urls_s(self) -> float:
        return min(max(self.pace.outage_s, LEAST_QUESTION_S), GRANT_PATIENCE_S)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise self._was_closed()

    def _readable(self) -> list[str]:
        return [outcome.object_name for outcome in self.delivered()]

    def delivered(self) -> list[Delivered]:
        """Return the results that are known of."""
        return self.results_store.delivered()

    def failures(self, lost: Read | None = None) -> frozenset[int]:
        """Return the input files that failed or cannot be read, now that this one cannot."""
        with self.results_store.news:
            if lost is not None:
                self.note_read(lost)
            unreadable = [read.index for read in self.reads.values() if read.error]
            return frozenset([*unreadable, *(failed.index for failed in self.results_store.failed)])

    # -- life

    def start(self, wanted_s: float = UNWANTED_S) -> None:
        """Begin to ask the server, if that is not going on and there is something to ask.

        Parameters
        ----------
        wanted_s : float
            For how long somebody wants to know, seconds.
        """
        self._wanted_until = max(self._wanted_until, monotonic() + wanted_s)
        with self.results_store.news:
            if self._is_asking or self.is_complete or self._closed.is_set():
                return
            if self.ending is not None:
                if not isinstance(self.ending, failures.PASSING):
                    return
                self._publish((), None)
            self._state.resume(monotonic())
            self._is_asking = True
            self._monitor.add(self)

    def keep(self, pace: PollPolicy) -> None:
        """Go on at another pace, for whoever waits."""
        with self.results_store.news:
            self.pace = self._state.pace = pace
            self.access.timeout_s = self._patience_for_urls_s

    def close(self) -> None:
        """Stop asking. Whoever still waits gets an error."""
        registry.disown(self.address, self)
        self._finalizer()
        self.results_store.wake_all()
        self._monitor.remove(self)

    def subscribe(self, listener: Subscriber) -> tuple[list[Outcome], ServiceXError | None]:
        """Call ``listener`` with every later batch of outcomes; return what is known so far."""
        with self.results_store.news:
            self._listeners.append(listener)
            return list(self.outcomes.values()), self.ending

    def unsubscribe(self, listener: Subscriber) -> None:
        """Undo `subscribe`."""
        with self.results_store.news:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def note_read(self, read: Read) -> None:
        """Note that a partition was read, here or by a worker."""
        with self.results_store.news:
            self.reads[read.npartitions, read.partition] = read

    def _go_on(self) -> None:
        """Keep the watch going for whoever waits."""
        if self._closed.is_set():
            raise self._was_closed()
        self.start()

    def _was_closed(self) -> OwnerLost:
        return OwnerLost(
            f"The watch of request {self.address.request_id} was closed.",
            request_id=self.address.request_id,
        )

    def _start_for(self, index: int) -> None:
        if not self.knows(index):
            self.start()

    def _publish(
        self, new: Sequence[Outcome], ending: ServiceXError | None, *, is_last: bool = False
    ) -> None:
        with self.results_store.news:
            self.results_store.enter(new, ending)
            if is_last:
                self._is_asking = False
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener(new, ending)
            except Exception:
                # What a listener does with the news is not the watch's to fail on.
                logger.exception("A listener to request %s failed", self.address.request_id)

    # -- questions to the server

    @property
    def limit_at(self) -> float:
        """When waiting ends if nothing happens, seconds of the monotonic clock."""
        return self._state.limit_at

    @property
    def silent_at(self) -> float:
        """When waiting ends if the server does not answer, seconds of the monotonic clock."""
        return self._state.silent_at

    @property
    def least_pause_s(self) -> float:
        """The least between two questions, seconds."""
        return self.pace.busy_s

    @property
    def n_known(self) -> int:
        """Input files of which it is known what became of them."""
        return len(self.results_store.outcomes)

    def ends_in_time(self) -> bool:
        """End the waiting if a limit is reached; return whether it was."""
        try:
            with self.results_store.news:
                self._state.check_limits(monotonic())
                ending = self._state.ending
        except Exception as error:
            ending = self._known(error)
        if ending is not None:
            self._publish((), ending, is_last=True)
        return ending is not None

    def ask(self, timeout_s: float) -> float | None:
        """Ask the server one question; return the pause until the next, None after the last.

        It is the last as well if nobody wants to know any more.

        Parameters
        ----------
        timeout_s : float
            For how long to wait for the answer, seconds.
        """
        with self.results_store.news:
            # Together: whoever begins to wait now must find a poller that asks, or wake it.
            if self._closed.is_set() or not self.is_wanted():
                self._is_asking = False
                return None
        try:
            return self._ask(self._state, timeout_s)
        except Exception as error:
            # A mistake of ours must not leave anybody waiting.
            self._publish((), self._known(error), is_last=True)
            return None

    def _ask(self, state: TransformState, timeout_s: float) -> float | None:
        try:
            new = self._asked(state, monotonic(), timeout_s)
        except Exception as error:
            new = []
            with self.results_store.news:
                goes_on = state.update_error(error, monotonic()) or state.is_over
            if not goes_on and not self._closed.is_set():
                self._publish((), state.ending or self._known(error), is_last=True)
                return None
            if is_transient(error) and not (self._is_away or self._closed.is_set()):
                warn_of_outage(error, self.pace.outage_s)
                self._is_away = True
        else:
            self._is_away = False
        if new or state.is_over:
            self._publish(new, state.ending, is_last=state.is_over)
        self._expect_readers(new)
        return None if state.is_over else state.pause_s

    def _expect_readers(self, new: Sequence[Outcome]) -> None:
        """Ask for URLs of results together: else each of their readers would ask for one."""
        names = [o.object_name for o in new if isinstance(o, Delivered)]
        try:
            is_lacking = self.access.lacks(names) or self.access.expects_results()
            apart_s = URL_PAUSES * self.pace.busy_s
            if is_lacking and self._monitor.take_turn_for_urls(apart_s):
                self.access.make_ready(names)
        except Exception as error:
            # Readers ask again, and are told why not.
            logger.debug("No URLs yet: %s", redact(str(error)))

    def _asked(self, state: TransformState, start: float, timeout_s: float) -> list[Outcome]:
        request_id = self.address.request_id
        if not self._knows_server:
            state.update_server(self.client.info(timeout_s=timeout_s).lists_results)
            self._knows_server = True
        self.n_asked += 1
        if state.next_request is Request.ROWS:
            rows = self.client.results(request_id, state.later_than, timeout_s=timeout_s)
            new = self._explained(state.new_outcomes(rows), timeout_s)
            with self.results_store.news:
                state.add(new, now := monotonic(), now - start)
            return new
        if state.next_request is Request.STATUS:
            status = self.client.status(request_id, timeout_s=timeout_s)
            with self.results_store.news:
                return state.update_status(status, now := monotonic(), now - start)
        rows = self.access.rows()
        with self.results_store.news:
            return state.add_final_rows(rows, monotonic())

    def _explained(self, new: list[Outcome], timeout_s: float) -> list[Outcome]:
        """Say why files have failed, and where to read more. Two requests if any has."""
        if not any(isinstance(outcome, Failed) for outcome in new):
            return new
        request_id = self.address.request_id
        self.n_asked += 1
        try:
            reasons = self.client.reasons(request_id, timeout_s=timeout_s)
            log_url = self._log_url(timeout_s)
        except ServiceXError as error:
            # The failure itself is certain; only its reason stays unknown.
            logger.warning("The reasons of failed files cannot be had: %s", error)
            return new
        # Paths are those of replicas, and have the address of a cache before them.
        by_index = {self.files.index_of(path, NO_OBJECT): why for path, why in reasons.items()}
        return [
            replace(o, reason=o.reason or by_index.get(o.index), log_url=log_url)
            if isinstance(o, Failed)
            else o
            for o in new
        ]

    def _log_url(self, timeout_s: float) -> str | None:
        """Find out where the logs are; at most one request for each transform."""
        if self._state.log_url is None and not self._knows_log_url:
            self.n_asked += 1
            status = self.client.status(self.address.request_id, timeout_s=timeout_s)
            self._state.log_url = status.log_url
        self._knows_log_url = True
        return self._state.log_url

    def _known(self, error: Exception) -> ServiceXError:
        if isinstance(error, ServiceXError):
            return error
        logger.error("The watch of request %s failed", self.address.request_id, exc_info=error)
        return ServerError(f"The watch failed: {type(error).__name__}: {error}")

    def is_wanted(self) -> bool:
        """Whether somebody has waited of late."""
        return self.results_store.is_awaited or monotonic() < self._wanted_until


def _may_be_granted(error: Exception) -> bool:
    # A server that answers, but has no URL, will have none a moment later either.
    return is_transient(error) and not isinstance(error, AccessError)
