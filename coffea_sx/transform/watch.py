"""The watch: one per transform, in the process that owns it.

It asks the server for rows until every input file has an outcome or the transform has ended without
one; whoever waits for a file waits here. Nothing is asked before somebody waits.
"""

from __future__ import annotations

import copy
import logging
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from time import monotonic

from ..dataset import InputFiles
from ..errors import (
    BadDataset,
    CountMismatch,
    OwnerLost,
    ServerError,
    ServiceXError,
    TransformCanceled,
    TransformError,
    TransformFailed,
    TransformFatal,
    TransformStalled,
)
from . import source
from .access import Access, Grant
from .client import ServiceXClient
from .ledger import Ledger
from .outcomes import Delivered, Failed, Outcome, Read
from .polling import Pace, poll
from .source import TransformAddress

logger = logging.getLogger(__name__)

Listener = Callable[[Sequence[Outcome], "ServiceXError | None"], None]


class Watch:
    """Watch one transform.

    Parameters
    ----------
    client : ServiceXClient
    address : TransformAddress
    files : InputFiles
        In the order of the partitions.
    pace : Pace
    """

    def __init__(
        self,
        client: ServiceXClient,
        address: TransformAddress,
        files: InputFiles,
        pace: Pace | None = None,
    ) -> None:
        self.client = client
        self.address = address
        self.files = files
        self.pace = pace or Pace()
        self.ledger = Ledger(files)
        self.access = Access(client, address.request_id)
        self.ending: ServiceXError | None = None
        self.reads: dict[int, Read] = {}
        self._news = threading.Condition()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._listeners: list[Listener] = []
        source.own(address, self)
        self._finalizer = weakref.finalize(self, _release, self._closed, client)

    # -- what a ResultSource does

    @property
    def n_files(self) -> int:
        """Input files."""
        return len(self.files)

    def knows(self, index: int) -> bool:
        """Whether `wait` would return at once."""
        return index in self.ledger.outcomes or self.ending is not None

    def wait(self, index: int, timeout_s: float | None = None) -> Outcome:
        """Wait until it is known what became of an input file.

        Raises
        ------
        TimeoutError
            If it is not known after ``timeout_s`` seconds.
        TransformError
            If the transform ended without telling; with ``on_failure="raise"`` as soon as any
            input file has failed.
        ServerError
            If the server did not answer for too long.
        """
        deadline = math.inf if timeout_s is None else monotonic() + timeout_s
        self.start()
        with self._news:
            while True:
                if isinstance(self.ending, TransformFailed):
                    raise copy.copy(self.ending)
                if index in self.ledger.outcomes:
                    return self.ledger.outcomes[index]
                if self.ending is not None:
                    raise copy.copy(self.ending)
                if self._closed.is_set():
                    raise OwnerLost(
                        f"The watch of request {self.address.request_id} was closed.",
                        request_id=self.address.request_id,
                    )
                left_s = deadline - monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"input file {index} has no result after {timeout_s} s")
                # In slices, so that the main thread hears Ctrl-C.
                self._news.wait(min(0.5, left_s))

    def wait_for_any(self) -> Delivered:
        """Wait until any input file was delivered; return the one that comes first in the list.

        Raises
        ------
        TransformError, ServerError
            If the transform ended without any.
        """
        self.start()
        with self._news:
            while True:
                delivered = [o for o in self.ledger.outcomes.values() if isinstance(o, Delivered)]
                if delivered:
                    return min(delivered, key=lambda outcome: outcome.index)
                if self.ending is not None:
                    raise copy.copy(self.ending)
                if self.ledger.is_complete:
                    raise TransformFailed(
                        f"No input file of request {self.address.request_id} could be transformed.",
                        request_id=self.address.request_id,
                    )
                self._news.wait(0.5)

    def grant(self, object_name: str, *, refresh: bool = False) -> Grant:
        """Return permission to read an object. At most one request to ServiceX."""
        return self.grants([object_name], refresh=refresh)[object_name]

    def grants(self, names: Sequence[str], *, refresh: bool = False) -> dict[str, Grant]:
        """Return permission to read objects, and ask for the others' on the way."""
        also = [o.object_name for o in self.delivered()]
        return self.access.grants(names, refresh=refresh, also=also)

    def delivered(self) -> list[Delivered]:
        """Return the results that are known of."""
        with self._news:
            return [o for o in self.ledger.outcomes.values() if isinstance(o, Delivered)]

    # -- life

    def start(self) -> None:
        """Begin to ask the server, if that is not going on and there is something to ask."""
        with self._news:
            if self._thread is not None or self.ledger.is_complete or self._closed.is_set():
                return
            if self.ending is not None:
                if not isinstance(self.ending, (ServerError, TransformStalled)):
                    return
                self.ending = None
            # The thread holds the watch weakly between questions: dropping the graph ends it.
            self._thread = threading.Thread(
                target=poll,
                args=(weakref.ref(self), self._closed, self.pace),
                name=f"coffea_sx-watch-{self.address.request_id[:8]}",
                daemon=True,
            )
            self._thread.start()

    def close(self) -> None:
        """Stop asking. Whoever still waits gets an error."""
        thread = self._thread
        self._finalizer()
        with self._news:
            self._news.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def subscribe(self, listener: Listener) -> tuple[list[Outcome], ServiceXError | None]:
        """Call ``listener`` with every later batch of outcomes; return what is known so far."""
        with self._news:
            self._listeners.append(listener)
            return list(self.ledger.outcomes.values()), self.ending

    def unsubscribe(self, listener: Listener) -> None:
        """Undo `subscribe`."""
        with self._news:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def note_read(self, read: Read) -> None:
        """Note that a partition was read, here or by a worker."""
        self.reads[read.partition] = read

    def _publish(self, new: Sequence[Outcome], ending: ServiceXError | None) -> None:
        with self._news:
            self.ending = ending
            listeners = list(self._listeners)
            self._news.notify_all()
        for listener in listeners:
            try:
                listener(new, ending)
            except Exception:
                # What a listener does with the news is not the watch's to fail on.
                logger.exception("A listener to request %s failed", self.address.request_id)

    # -- one question to the server

    def ask(self) -> list[Outcome]:
        """Ask for rows once, and enter them. One request; two if a file failed."""
        new = self.ledger.news(self.client.results(self.address.request_id))
        if any(isinstance(outcome, Failed) for outcome in new):
            new = _with_reasons(new, self._reasons())
        ending = self._failure(new)
        if new:
            with self._news:
                self.ledger.keep(new)
            self._publish(new, ending)
        return new

    def _reasons(self) -> dict[str, str]:
        try:
            return self.client.reasons(self.address.request_id)
        except ServiceXError as error:
            # The failure itself is certain; only its reason stays unknown.
            logger.warning("The reasons of failed files cannot be had: %s", error)
            return {}

    def _failure(self, new: Sequence[Outcome]) -> TransformFailed | None:
        failed = [o for o in new if isinstance(o, Failed)]
        if not failed or self.address.on_failure == "skip":
            return None
        first = min(failed, key=lambda o: o.index)
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        reason = first.reason or "the server gives no reason; see its logs"
        return TransformFailed(
            f"ServiceX could not transform {first.input_file}{others} in request "
            f"{self.address.request_id}: {reason}. To go on without such files, use "
            'on_failure="skip".',
            request_id=self.address.request_id,
            input_file=first.input_file,
            reason=first.reason,
        )

    def ask_status(self) -> str:
        """Ask how the transform is doing. One request."""
        return str(self.client.status(self.address.request_id)["status"])

    def end(self, status: str) -> None:
        """Say how a transform ended that left input files without an outcome."""
        self._publish((), self._ending(status))

    def _ending(self, status: str) -> TransformError:
        missing, n = self.ledger.missing, len(self.files)
        counts = f"{n - len(missing)} of {n} input files were finished"
        first = f"{self.files.paths[missing[0]]!r} was not" if missing else ""
        request = f"request {self.address.request_id}"
        facts = {"request_id": self.address.request_id, "done": n - len(missing), "total": n}
        if status == "Canceled":
            return TransformCanceled(f"The {request} was canceled: {counts}, {first}.", **facts)
        if status == "Fatal":
            return TransformFatal(
                f"ServiceX gave up {request}: {counts}, {first}. See the logs of the server.",
                **facts,
            )
        if status == "Bad Dataset":
            return BadDataset(f"ServiceX could not look up the dataset of {request}.", **facts)
        if status == "Complete":
            return CountMismatch(
                f"ServiceX says that {request} is complete, but lists no result for every input "
                f"file: {counts}, {first}. Submit it again with ignore_cache=True.",
                **facts,
            )
        return TransformStalled(
            f"Nothing happened in {request} for {self.pace.stall_s:.0f} s: its status is "
            f"{status!r}, {counts}, {first}. Computing again waits again; cancel() ends it.",
            **facts,
        )

    def fail(self, error: ServiceXError) -> None:
        """Give up because of an error."""
        self._publish((), error)

    def rest(self) -> None:
        """Note that the thread has ended."""
        with self._news:
            self._thread = None


def _release(closed: threading.Event, client: ServiceXClient) -> None:
    closed.set()
    client.close()


def _with_reasons(outcomes: Sequence[Outcome], reasons: dict[str, str]) -> list[Outcome]:
    return [
        Failed(o.index, o.input_file, _reason_for(o.input_file, reasons))
        if isinstance(o, Failed)
        else o
        for o in outcomes
    ]


def _reason_for(input_file: str, reasons: dict[str, str]) -> str | None:
    return next((reasons[path] for path in input_file.split(",") if path in reasons), None)
