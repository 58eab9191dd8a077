"""Parts of virtual events: delivered files, open while their columns are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ObjectReplaced, ReadError
from ..forms import OutputForm
from ..graph.resolve import note_read
from ..graph.routing import TransformHandle
from ..polling.outcomes import Delivered, Read
from ..readers.columns import Columns
from ..readers.partition import check, length_mismatch, open_delivered, step_limits
from ..storage.stored import about, stored_object

# Files that are read at the same time.
N_THREADS = 8
# Files stay open while they have no more columns than this together.
OPEN_COLUMNS = 20_000

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Part:
    """A partition whose input file was delivered.

    Attributes
    ----------
    partition : int
    npartitions : int
    handle : TransformHandle
        Of the transform that delivered the file.
    delivered : Delivered
    step, steps : int
        Number of the step, and number of steps into which the file is divided equally.
    """

    partition: int
    npartitions: int
    handle: TransformHandle
    delivered: Delivered
    step: int = 0
    steps: int = 1

    def note(self, n_events: int, error: ReadError | None = None) -> Read:
        """Note for the report that the partition was read, or could not be."""
        where = self.partition, self.npartitions, self.delivered.index
        return note_read(self.handle, *where, n_events, error)


class OpenFiles:
    """Delivered files that are open: those that were read last.

    Parameters
    ----------
    output_form : OutputForm
    """

    def __init__(self, output_form: OutputForm) -> None:
        self._output_form = output_form
        self._limit = max(1, OPEN_COLUMNS // max(1, len(output_form.columns)))
        self._stacks: OrderedDict[str, tuple[ExitStack, Columns | None]] = OrderedDict()
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def n_events(self, part: Part) -> int:
        """Return the number of events of a part. At most one request, which opens the file.

        Raises
        ------
        ReadError
            If the file cannot be opened.
        """
        with self._opened(part, 0.0) as columns:
            first, stop = _limits(part, columns)
            return stop - first

    def read(
        self, part: Part, names: Sequence[str], n_expected: int, start: int, stop: int
    ) -> dict[str, Any]:
        """Read some columns of a part.

        Parameters
        ----------
        part : Part
        names : sequence of str
        n_expected : int
            Number of events of the part.
        start, stop : int
            The events to read, counted in the part.

        Raises
        ------
        LengthMismatch
            If the part has another number of events.
        FormMismatch
            If the columns of the file are not those of the form.
        ReadError
            If they cannot be read.
        """
        try:
            try:
                arrays = self._read(part, names, n_expected, start, stop)
            except ObjectReplaced:  # it is closed now
                arrays = self._read(part, names, n_expected, start, stop)
        except ReadError as error:
            part.note(0, error)
            raise
        part.note(n_expected)
        return arrays

    def _read(
        self, part: Part, names: Sequence[str], n_expected: int, start: int, stop: int
    ) -> dict[str, Any]:
        share = len(names) / max(1, len(self._output_form.columns)) / part.steps
        with about(part.delivered), self._opened(part, share) as columns:
            first, end = _limits(part, columns)
            if end - first != n_expected:
                n_in_file = 0 if columns is None else columns.n_events
                raise length_mismatch(part.delivered, n_in_file, n_expected, end - first)
            if columns is None or end == first:
                return {}
            check(columns, names, part.delivered, self._output_form)
            return columns.arrays(names, first + start, first + stop)

    @contextmanager
    def _opened(self, part: Part, share: float) -> Iterator[Columns | None]:
        """Open the file of a part, unless it is open. One thread at a time has it."""
        name = part.delivered.object_name
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            with self._lock:
                stack, columns = self._stacks.pop(name, (None, None))
            if stack is None:
                stack, columns = self._open(part, share)
            try:
                yield columns
            except BaseException:
                stack.close()
                raise
            self._keep(name, stack, columns)

    def _open(self, part: Part, share: float) -> tuple[ExitStack, Columns | None]:
        delivered, form = part.delivered, self._output_form
        stored = stored_object(part.handle.results, delivered.object_name, delivered.nbytes)
        stack = ExitStack()
        with about(delivered):
            columns = stack.enter_context(open_delivered(stored, delivered, form, share))
        return stack, columns

    def _keep(self, name: str, stack: ExitStack, columns: Columns | None) -> None:
        with self._lock:
            self._stacks[name] = stack, columns
            old = []
            while len(self._stacks) > self._limit:
                old.append(self._stacks.popitem(last=False)[1][0])
        for each in old:
            each.close()


def _limits(part: Part, columns: Columns | None) -> tuple[int, int]:
    """Return the first event of a part in its file, and the first event after it."""
    return step_limits(0 if columns is None else columns.n_events, part.step, part.steps)


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return the results of a function for several items, in their order.

    After an error nothing is begun that has not begun yet.
    """
    if len(items) < 2:
        return list(map(function, items))
    pool = ThreadPoolExecutor(min(N_THREADS, len(items)), thread_name_prefix="coffea_sx-virtual")
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)
