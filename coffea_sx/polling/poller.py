"""Poller of a transform: one in the process that submitted it.

It requests what the state of the transform needs next, when its turn comes at the monitor of the
server, and has the outcomes entered in the `ResultStore`, where tasks wait. Nothing is requested
before a task waits.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from time import monotonic

from ..dataset import NO_OBJECT, InputFiles
from ..errors import AccessError, OwnerLost, ServerError, ServiceXError
from ..policy import (
    SCHEDULING,
    PollPolicy,
    RetryPolicy,
    SchedulingPolicy,
    is_transient,
    warn_of_outage,
)
from ..redact import redact
from ..servicex.client import ServiceXClient
from ..servicex.models import SignedUrl
from ..servicex.submit import number_of
from ..servicex.urls import UrlProvider
from . import failures, registry
from .monitor import monitor_of
from .outcomes import Delivered, Failed, Outcome, Read
from .registry import TransformAddress
from .results import SLICE_S, ResultSource, ResultStore
from .state import Counts, Request, TransformState

logger = logging.getLogger(__name__)

# Polling goes on for so long after the last sign of a task that waits, seconds.
WANTED_S = 2 * SLICE_S


class Poller(ResultSource):
    """Poll one transform.

    Parameters
    ----------
    client : ServiceXClient
    address : TransformAddress
    files : InputFiles
        In the order of the partitions.
    pace : PollPolicy
    result_format : str, optional
        Of the results, if it is known.
    scheduling : SchedulingPolicy

    Attributes
    ----------
    results : ResultStore
    url_provider : UrlProvider
    reads : dict of (int, int) to Read
        How each partition was last read, by the number of partitions and the partition.
    layers : set of str
        Names of the layers of graphs that resolve its files.
    number : int
        Position of the transform in the order of submission.
    n_requests : int
        Requests to the server so far.
    """

    def __init__(
        self,
        client: ServiceXClient,
        address: TransformAddress,
        files: InputFiles,
        pace: PollPolicy | None = None,
        result_format: str | None = None,
        scheduling: SchedulingPolicy = SCHEDULING,
    ) -> None:
        self.client = client
        self.address = address
        self.files = files
        self.pace = pace or PollPolicy()
        super().__init__(ResultStore(address.request_id, len(files)))
        self._scheduling = scheduling
        self._monitor = monitor_of(client.endpoint.url)
        self.url_provider = UrlProvider(
            client, address.request_id, files, result_format, self._url_timeout_s
        )
        self.reads: dict[tuple[int, int], Read] = {}
        self.layers: set[str] = set()
        self._state = TransformState(self.results, files, self.pace, monotonic())
        self._has_server_info = self._has_log_url = False
        self._wanted_until = 0.0
        self._closed = threading.Event()
        self._is_polling = False
        self._is_away = False
        self.number = number_of(address.request_id)
        self.n_requests = 0
        registry.register(address, self)
        # Threads that sleep in a request for a URL wake up when no graph holds the poller.
        self._finalizer = weakref.finalize(self, self._closed.set)

    # -- outcomes and access to results

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """Outcomes so far, by input file."""
        return self.results.outcomes

    @property
    def ending(self) -> ServiceXError | None:
        """Error with which the transform ended, if it ended without all of its results."""
        return self.results.ending

    @property
    def counts(self) -> Counts:
        """Numbers of input files that are delivered, failed and waiting."""
        with self.results.lock:
            return self._state.counts

    def wait_for_any(self) -> Delivered:
        """Wait until any input file has a result; return the first of them in the list of files.

        Raises
        ------
        TransformError, ServerError
            If the transform ended without any.
        """
        self.start()
        return self.results.wait_for_any(self.keep_polling)

    def unusable(self, read: Read | None = None) -> frozenset[int]:
        """Return the input files that failed or could not be read, now with this read as well."""
        with self.results.lock:
            if read is not None:
                self.note_read(read)
            unreadable = [read.index for read in self.reads.values() if read.error]
            return frozenset([*unreadable, *(failed.index for failed in self.results.failed)])

    def note_read(self, read: Read) -> None:
        """Note that a partition was read, here or by a worker."""
        with self.results.lock:
            self.reads[read.npartitions, read.partition] = read

    def signed_url(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        """Return a signed URL of an object. At most one request to ServiceX."""
        return self.signed_urls([object_name], refresh=refresh)[object_name]

    def signed_urls(self, names: Sequence[str], *, refresh: bool = False) -> dict[str, SignedUrl]:
        """Return signed URLs of objects, and request those of other results on the way."""
        turn = partial(self._monitor.take_turn_for_urls, self._url_pause_s, self._sleep)
        request = partial(
            self.url_provider.urls,
            names,
            refresh=refresh,
            prefetch=self._object_names,
            wait_for_turn=turn,
        )
        retry = RetryPolicy(self._url_timeout_s, self.pace.idle_s, _may_be_signed)
        return retry.call(request, sleep=self._sleep)

    @property
    def _url_timeout_s(self) -> float:
        policy = self._scheduling
        return min(max(self.pace.outage_s, policy.min_request_s), policy.url_timeout_s)

    @property
    def _url_pause_s(self) -> float:
        return self._scheduling.url_pauses * self.pace.busy_s

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise self._closed_error()

    def _object_names(self) -> list[str]:
        return [outcome.object_name for outcome in self.delivered()]

    # -- life

    def start(self, wanted_s: float = WANTED_S) -> None:
        """Begin to poll, unless that is going on or there is nothing left to request.

        Parameters
        ----------
        wanted_s : float
            Time for which to poll, seconds.
        """
        self._wanted_until = max(self._wanted_until, monotonic() + wanted_s)
        with self.results.lock:
            if self._is_polling or self.results.is_complete or self._closed.is_set():
                return
            if self.ending is not None:
                if not isinstance(self.ending, failures.PASSING):
                    return
                self.results.enter((), None)
            self._state.resume(monotonic())
            self._is_polling = True
            self._monitor.add(self)

    def set_policy(self, pace: PollPolicy) -> None:
        """Go on with another policy."""
        with self.results.lock:
            self.pace = self._state.pace = pace
            self.url_provider.timeout_s = self._url_timeout_s

    def close(self) -> None:
        """Stop polling. Tasks that still wait get an error."""
        registry.unregister(self.address, self)
        self._finalizer()
        self.results.wake_all()
        self._monitor.remove(self)

    def _waiting(self, index: int) -> AbstractContextManager[None]:
        if not self.is_ready(index):
            self.start()
        return nullcontext()

    def keep_polling(self) -> None:
        """Poll on for a task that waits; raise if there is nothing to wait for."""
        if self._closed.is_set():
            raise self._closed_error()
        self.start()

    def _closed_error(self) -> OwnerLost:
        request_id = self.address.request_id
        return OwnerLost(f"The poller of request {request_id} was closed.", request_id=request_id)

    def _stop(self, ending: ServiceXError | None) -> None:
        with self.results.lock:
            self.results.enter((), ending)
            self._is_polling = False

    # -- requests to the server

    @property
    def limit_at(self) -> float:
        """Time at which waiting ends if nothing happens, seconds of the monotonic clock."""
        return self._state.limit_at

    @property
    def silent_at(self) -> float:
        """Time at which waiting ends if the server does not respond; monotonic clock, seconds."""
        return self._state.silent_at

    @property
    def min_pause_s(self) -> float:
        """Minimum time between two requests, seconds."""
        return self.pace.busy_s

    @property
    def is_wanted(self) -> bool:
        """True if a task waits, or did so a moment ago."""
        return self.results.is_awaited or monotonic() < self._wanted_until

    def end_if_late(self) -> bool:
        """End the waiting if a limit is reached; return True if it was."""
        with self.results.lock:
            try:
                self._state.check_limits(monotonic())
                ending = self._state.ending
            except Exception as error:
                ending = self._as_servicex_error(error)
            if ending is not None:
                self._stop(ending)
        return ending is not None

    def poll(self, timeout_s: float) -> float | None:
        """Make the next request; return the pause until another, seconds, None after the last.

        It is also the last if no task waits any more.

        Parameters
        ----------
        timeout_s : float
            Time to wait for the response, seconds.
        """
        with self.results.lock:
            # Together: a task that begins to wait now finds the poller polling, or starts it.
            if self._closed.is_set() or not self.is_wanted:
                self._is_polling = False
                return None
        try:
            return self._poll(self._state, timeout_s)
        except Exception as error:
            # A mistake of ours must not leave a task waiting.
            self._stop(self._as_servicex_error(error))
            return None

    def _poll(self, state: TransformState, timeout_s: float) -> float | None:
        new: Sequence[Outcome] = ()
        try:
            new = self._request(state, monotonic(), timeout_s)
            self._is_away = False
        except Exception as error:
            with self.results.lock:
                goes_on = state.update_error(error, monotonic()) or state.is_over
            if not goes_on and not self._closed.is_set():
                self._stop(state.ending or self._as_servicex_error(error))
                return None
            if is_transient(error) and not (self._is_away or self._closed.is_set()):
                warn_of_outage(error, self.pace.outage_s)
                self._is_away = True
        if state.is_over:
            self._stop(state.ending)
        self._prepare_urls(new)
        return None if state.is_over else state.pause_s

    def _prepare_urls(self, new: Sequence[Outcome]) -> None:
        """Request the URLs of results together: else each reader would request its own."""
        names = [outcome.object_name for outcome in new if isinstance(outcome, Delivered)]
        try:
            is_lacking = self.url_provider.lacks(names) or self.url_provider.expects_results()
            if is_lacking and self._monitor.take_turn_for_urls(self._url_pause_s):
                self.url_provider.make_ready(names)
        except Exception as error:
            # Readers request them again, and get the error.
            logger.debug("No URLs yet: %s", redact(str(error)))

    def _request(self, state: TransformState, start: float, timeout_s: float) -> list[Outcome]:
        request_id = self.address.request_id
        if not self._has_server_info:
            state.update_server(self.client.info(timeout_s=timeout_s).lists_results)
            self._has_server_info = True
        self.n_requests += 1
        if state.next_request is Request.ROWS:
            rows = self.client.results(request_id, state.later_than, timeout_s=timeout_s)
            new = self._explained(state.new_outcomes(rows), timeout_s)
            with self.results.lock:
                state.add(new, now := monotonic(), now - start)
            return new
        if state.next_request is Request.STATUS:
            status = self.client.status(request_id, timeout_s=timeout_s)
            with self.results.lock:
                return state.update_status(status, now := monotonic(), now - start)
        rows = self.url_provider.rows()
        with self.results.lock:
            return state.add_final_rows(rows, monotonic())

    def _explained(self, new: list[Outcome], timeout_s: float) -> list[Outcome]:
        """Return the outcomes with the reasons of failures. Two requests if there are any."""
        if not any(isinstance(outcome, Failed) for outcome in new):
            return new
        request_id = self.address.request_id
        self.n_requests += 1
        try:
            reasons = self.client.reasons(request_id, timeout_s=timeout_s)
            log_url = self._log_url(timeout_s)
        except ServiceXError as error:
            # The failure itself is certain; only its reason is missing.
            logger.warning("The reasons of failed files are not available: %s", error)
            return new
        # Paths are those of replicas, and have the address of a cache before them.
        by_index = {
            self.files.index_of(path, NO_OBJECT): reason for path, reason in reasons.items()
        }
        return [
            replace(o, reason=o.reason or by_index.get(o.index), log_url=log_url)
            if isinstance(o, Failed)
            else o
            for o in new
        ]

    def _log_url(self, timeout_s: float) -> str | None:
        """Return the URL of the logs; at most one request for each transform."""
        if self._state.log_url is None and not self._has_log_url:
            self.n_requests += 1
            status = self.client.status(self.address.request_id, timeout_s=timeout_s)
            self._state.log_url = status.log_url
        self._has_log_url = True
        return self._state.log_url

    def _as_servicex_error(self, error: Exception) -> ServiceXError:
        if isinstance(error, ServiceXError):
            return error
        logger.error("The poller of request %s failed", self.address.request_id, exc_info=error)
        return ServerError(f"The poller failed: {type(error).__name__}: {error}")


def _may_be_signed(error: Exception) -> bool:
    # A server that responds without a URL will have none a moment later either.
    return is_transient(error) and not isinstance(error, AccessError)
