"""Permission to read one delivered file, which travels with its work item to any process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..errors import AccessError, CorruptFile, ObjectGone, ReadError, Truncated
from ..policy import STRICT, FailurePolicy
from ..polling import registry
from ..polling.outcomes import Delivered, Failed, Outcome, Read
from ..polling.results import ResultSource, ResultStore
from ..servicex.models import SignedUrl
from ..storage.stored import HeldObject, stored_object
from .items import OPEN_END
from .lengths import verified_length
from .schema import note_problem, noted_problem, unpacked

# Errors that are those of one file. Others say that something is away, refused or misunderstood.
OF_THE_FILE = (CorruptFile, ObjectGone, Truncated)


@dataclass(frozen=True, slots=True)
class Grant:
    """Outcome of one input file, and the permission to read its result for a short time.

    Attributes
    ----------
    request_id : str
    outcome : Delivered or Failed
    url : SignedUrl or None
        None for a file that failed.
    form : bytes
        Packed `OutputForm` of the file.
    n_events : int or None
        Number of events that the file has to have.
    """

    request_id: str
    outcome: Outcome
    url: SignedUrl | None = field(repr=False)
    form: bytes = field(repr=False)
    n_events: int | None


@dataclass(frozen=True, slots=True)
class Granted:
    """Result of a work item.

    Attributes
    ----------
    result : object
        What the function returned; None if it skipped an error of the file.
    n_events : int
        Number of events of the file.
    skipped : ReadError or None
        The error that it skipped.
    refused : AccessError or None
        The reason why the permission was of no use: the item may be run again with another one.
    """

    result: Any
    n_events: int
    skipped: ReadError | None = None
    refused: AccessError | None = None


def run_granted(
    function: Callable[..., Any], item: Any, arguments: Sequence[Any], grant: Grant
) -> Granted:
    """Run a function of coffea on a work item, where its file can be read meanwhile.

    Parameters
    ----------
    function : callable
    item : WorkItem
    arguments : sequence
        Further arguments.
    grant : Grant

    Raises
    ------
    LengthMismatch
        If the file has another number of events than ServiceX reported.
    Exception
        Whatever the function raises; also an error that says nothing about the file, if the
        function skipped it.
    """
    source = registry.granted_source(grant.request_id, GrantedResults)
    if grant.url is not None and not grant.url.is_fresh(margin_s=5.0):
        return Granted(None, 0, refused=source.not_granted())
    note_problem(None)
    source.begin(grant)
    try:
        n_events = _n_events(grant, source)
        if item.entrystop == OPEN_END:
            item = replace(item, entrystop=n_events)
        result = function(item, *arguments)
        if (problem := noted_problem()) is not None:
            raise problem  # though the function skipped it
    except Exception:
        if not isinstance(source.error_of(grant), AccessError):
            raise
    finally:
        source.end(grant)
    error = source.error_of(grant)
    if isinstance(error, AccessError):
        return Granted(None, 0, refused=error)
    if result is not None or error is None:
        return Granted(result, n_events)
    if not isinstance(error, OF_THE_FILE):
        raise error
    return Granted(None, 0, skipped=error)


def _n_events(grant: Grant, source: GrantedResults) -> int:
    """Return the number of events of the file; open it and compare that with the expected one.

    Raises
    ------
    LengthMismatch
    """
    delivered = grant.outcome
    if isinstance(delivered, Failed):
        return 0
    try:
        return verified_length(source, delivered, unpacked(grant.form), grant.n_events)
    except OF_THE_FILE as error:
        # The function meets the same when it opens the file, and may skip it.
        source.break_file(grant, error)
        return 0


class GrantedResults(ResultSource):
    """The files of a transform that work items of this process may read.

    Other files are read through the source that the process has beside it, if there is one.

    Parameters
    ----------
    request_id : str
    """

    verifies_lengths = True

    def __init__(self, request_id: str) -> None:
        super().__init__(ResultStore(request_id))
        self._grants: dict[int, Grant] = {}
        self._users: Counter[int] = Counter()
        self._broken: dict[int, ReadError] = {}
        self._errors: dict[int, ReadError] = {}
        self._held: dict[str, HeldObject] = {}
        self._lock = threading.Lock()

    def begin(self, grant: Grant) -> None:
        """Let work items read a file, whose bytes are held meanwhile.

        Raises
        ------
        AccessError
            If other items of this process read another file at the same position of another list.
        """
        outcome = grant.outcome
        with self._lock:
            other = self._grants.get(outcome.index)
            if other is not None and other.outcome.input_file != outcome.input_file:
                raise AccessError(
                    f"Work items of request {grant.request_id} come from lists in different "
                    f"orders: file {outcome.index} is {outcome.input_file} and "
                    f"{other.outcome.input_file}. Run them after each other.",
                    request_id=grant.request_id,
                    input_file=outcome.input_file,
                )
            self._grants[outcome.index] = grant
            self._users[outcome.index] += 1
            self._errors.pop(outcome.index, None)
            if isinstance(outcome, Delivered):
                stored = stored_object(self, outcome.object_name, outcome.nbytes)
                held = HeldObject(stored, partial(self.note_error, outcome.object_name))
                self._held.setdefault(outcome.object_name, held)

    def end(self, grant: Grant) -> None:
        """Undo `begin`."""
        index = grant.outcome.index
        with self._lock:
            self._users[index] -= 1
            if not self._users[index]:
                del self._users[index], self._grants[index]
                self._broken.pop(index, None)
                if isinstance(grant.outcome, Delivered):
                    del self._held[grant.outcome.object_name]

    @property
    def is_used(self) -> bool:
        """True if work items may read a file."""
        return bool(self._grants)

    def break_file(self, grant: Grant, error: ReadError) -> None:
        """Let every attempt to open a file raise an error."""
        self._broken[grant.outcome.index] = self._errors[grant.outcome.index] = error

    def error_of(self, grant: Grant) -> ReadError | None:
        """Return the last error of fetching a file."""
        return self._errors.get(grant.outcome.index)

    def held(self, object_name: str) -> HeldObject | None:
        """Return the function that fetches bytes of a file which may be read."""
        return self._held.get(object_name)

    def note_error(self, object_name: str, error: ReadError) -> None:
        """Note that bytes of a file could not be fetched."""
        for index, grant in list(self._grants.items()):
            if isinstance(grant.outcome, Delivered) and grant.outcome.object_name == object_name:
                self._errors[index] = error

    def is_ready(self, index: int) -> bool:
        """Return True if `wait` would return, or raise, at once."""
        return index in self._grants or self._other.is_ready(index)

    def delivered(self) -> list[Delivered]:
        """Return the results that may be read."""
        grants = list(self._grants.values())
        granted = [grant.outcome for grant in grants if grant.outcome.index not in self._broken]
        others = [] if (other := self._find_other()) is None else other.delivered()
        return [
            *(outcome for outcome in granted if isinstance(outcome, Delivered)),
            *(outcome for outcome in others if outcome.index not in self._broken),
        ]

    def wait(
        self, index: int, timeout_s: float | None = None, failure_policy: FailurePolicy = STRICT
    ) -> Outcome:
        """Return the outcome of a file.

        Raises
        ------
        AccessError
            If this process may not read it.
        ReadError
            If it cannot be read at all.
        """
        if index in self._broken:
            raise self._broken[index]
        grant = self._grants.get(index)
        return self._other.wait(index, timeout_s, failure_policy) if not grant else grant.outcome

    def unusable(self, read: Read | None = None) -> frozenset[int]:
        """Return the files that failed, as far as they are known here."""
        outcomes = [grant.outcome for grant in list(self._grants.values())]
        return frozenset(outcome.index for outcome in outcomes if isinstance(outcome, Failed))

    def signed_url(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        """Return the URL of a result that may be read.

        Raises
        ------
        AccessError
            If this process may not read it, or if the store refuses its URL.
        """
        for grant in list(self._grants.values()):
            outcome = grant.outcome
            if isinstance(outcome, Delivered) and outcome.object_name == object_name:
                if grant.url is not None and not refresh:
                    return grant.url
                raise self.not_granted()
        return self._other.signed_url(object_name, refresh=refresh)

    @property
    def _other(self) -> ResultSource:
        other = self._find_other()
        if other is None:
            raise self.not_granted()
        return other

    def _find_other(self) -> ResultSource | None:
        return registry.find_source(self.results.request_id, grants=False)

    def not_granted(self) -> AccessError:
        """Return the error for a file that this process may not read."""
        request_id = self.results.request_id
        return AccessError(
            f"A work item may read one file of request {request_id}, for a short time: this is "
            "another file, or the time is over.",
            request_id=request_id,
        )

    def _waiting(self, index: int) -> AbstractContextManager[None]:
        return nullcontext()

    def keep_polling(self) -> None:
        """Do nothing: there is nothing to wait for."""
