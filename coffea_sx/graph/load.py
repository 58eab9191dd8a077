"""Load tasks of the graph: events of one partition, and its row of the report."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from time import perf_counter
from typing import Any

from awkward.forms import Form

from ..errors import ReadError
from ..forms import OutputForm
from ..polling.failures import not_transformed
from ..polling.outcomes import Delivered, Failed, Read
from ..readers.partition import read
from ..storage.stored import stored_object
from . import rows
from .resolve import ResolvedPartition, allow_failure, note_read


class LoadPartition:
    """Function of the load tasks: reads a partition that was resolved.

    Columns and projection are those of uproot's reader.

    Parameters
    ----------
    delivered : OutputForm
    reader : object
        From `coffea_sx.readers.partition.blockwise_reader`.
    steps : int
        Partitions of each file.
    npartitions : int
        Of all files together.
    skips : bool
        True if files that failed are left out, and listed in a report.
    collections : sequence
        Columns that coffea takes for those of one collection.
    is_exact : bool
        True if each file must have as many events as the server has counted.
    """

    def __init__(
        self,
        delivered: OutputForm,
        reader: Any,
        steps: int,
        npartitions: int,
        skips: bool,
        collections: Sequence[Sequence[str]],
        is_exact: bool,
    ) -> None:
        self.delivered = delivered
        self.reader = reader
        self.steps = steps
        self.npartitions = npartitions
        self.return_report = skips
        self.collections = collections
        self.is_exact = is_exact

    @property
    def expected_form(self) -> Form:
        """Form of the events."""
        return self.reader.expected_form

    def __call__(self, resolved: ResolvedPartition) -> Any:
        """Read one partition."""
        outcome = resolved.outcome
        if isinstance(outcome, Failed):
            error = not_transformed(resolved.handle.address.request_id, [outcome])
            allow_failure(resolved.handle, error)
            return self.reader.mock_empty(backend="cpu"), rows.not_transformed(resolved, outcome)
        if not self.return_report:
            return self._read(resolved, outcome)
        start = perf_counter()
        try:
            array = self._read(resolved, outcome)
        except ReadError as error:
            allow_failure(resolved.handle, error, self._note(resolved, 0, error))
            return self.reader.mock_empty(backend="cpu"), rows.not_read(resolved, error)
        return array, rows.success(resolved, len(array), perf_counter() - start)

    def _read(self, resolved: ResolvedPartition, delivered: Delivered) -> Any:
        stored = stored_object(resolved.handle.results, delivered.object_name, delivered.nbytes)
        array = read(
            stored,
            delivered,
            self.delivered,
            self.reader,
            resolved.step,
            self.steps,
            self.collections,
            is_exact=self.is_exact,
        )
        self._note(resolved, len(array))
        return array

    def _note(
        self, resolved: ResolvedPartition, n_events: int, error: ReadError | None = None
    ) -> Read:
        where = resolved.partition, self.npartitions, resolved.outcome.index
        return note_read(resolved.handle, *where, n_events, error)

    def _with(self, reader: Any) -> LoadPartition:
        projected = copy(self)
        projected.reader = reader
        return projected

    # dask-awkward's protocols, as uproot's reader implements them

    def mock(self) -> Any:
        """Return events without data."""
        return self.reader.mock()

    def mock_empty(self, backend: str) -> Any:
        """Return no events, of the right form."""
        return self.reader.mock_empty(backend)

    def prepare_for_projection(self) -> Any:
        """Return events without data that note which columns are touched."""
        return self.reader.prepare_for_projection()

    def project(self, *, report: Any, state: Any) -> LoadPartition:
        """Return the function that reads only the columns that were touched."""
        return self._with(self.reader.project(report=report, state=state))

    def project_manually(self, columns: frozenset[str]) -> LoadPartition:
        """Return the function that reads only the given columns."""
        return self._with(self.reader.project_manually(columns))

    def necessary_columns(self, *, report: Any, state: Any) -> frozenset[str]:
        """Return the columns that were touched."""
        return self.reader.necessary_columns(report=report, state=state)
