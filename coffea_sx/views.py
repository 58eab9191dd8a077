"""Views of events that ServiceX delivers: their form, files, outcomes and report."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ._upstream.coffea import DaskEventsFactory
from .event_source import EventSource
from .polling.outcomes import Read
from .polling.state import Counts
from .processing import Processing
from .report import Report, file_row, make_report, report_rows, row_of_read
from .tables import html_table
from .virtual.events import check_mode


class EventsView(Processing, DaskEventsFactory):
    """A coffea factory that shows what computations have learned so far.

    Only `events`, `partition` and the length read delivered files.
    """

    _source: EventSource

    def _samples(self) -> list[tuple[EventSource, Any]]:
        return [(self._source, self._form_mapping)]

    def report(self, rows: Any = None) -> Report:
        """Report the outcome of every input file so far. No request is made.

        Parameters
        ----------
        rows : ak.Array, optional
            The computed report of events with ``on_failure="skip"``. Without it, the report has
            the outcomes of transforms and the reads that this process has learned of.

        Returns
        -------
        Report

        Raises
        ------
        BadInput
            If the rows are not computed, or are those of other events.
        """
        source, steps = self._source, self._source.steps_per_file
        outcomes = list(source.outcomes())
        if rows is None:
            rows = [row_of_read(read, outcomes[read.partition // steps][0]) for read in self.reads]
        else:
            rows = report_rows(rows, source.request_ids)
        return make_report(source.files.paths, outcomes, rows, steps)

    # -- events of delivered files, in any mode

    def events(self) -> Any:
        """Return the events of all input files, in their order.

        Returns
        -------
        dask_awkward.Array or awkward.Array
            NanoEvents; with ``mode="dask"`` and ``on_failure="skip"`` a tuple of them and their
            report.

        Raises
        ------
        TransformFailed, ReadError
            With ``mode="virtual"`` or ``"eager"``: if a file could not be transformed, or cannot be
            opened. With ``on_failure="skip"`` such files are left out, unless they are too many.
            Touching a column later raises a ReadError if it cannot be read from a file.
        TransformError, ServerError
            With these modes: if the transform ended, or the server cannot be reached.

        Notes
        -----
        With ``mode="dask"`` no request is made, and the events have known divisions if all files
        were delivered before, their numbers of events are those that ServiceX counts, and
        ``on_failure`` is ``"raise"``. With the other modes this waits until ServiceX has
        delivered all files, and makes at most one request to the store for each.
        """
        if self._source.read_options.mode == "dask":
            return super().events()
        events = self._latest_events()
        if events is None:
            events = self._source.events(self._form_mapping)
            self._latest_events = weakref.ref(events)
        return events

    def partition(self, partition: int, mode: str = "virtual") -> Any:
        """Wait for the input file of a partition; return its events.

        Parameters
        ----------
        partition : int
            From 0 to ``npartitions - 1``; negative numbers count from the end.
        mode : {"virtual", "eager"}

        Returns
        -------
        awkward.Array
            NanoEvents. Their metadata has ``input_file`` and ``partition``.

        Raises
        ------
        IndexError
            If there is no such partition.
        TransformFailed, ReadError
            If the file failed, whatever the value of ``on_failure``.
        TransformError, ServerError
            As for `events`.
        """
        number = range(self.npartitions)[partition]
        return self._source.partition_events(self._form_mapping, number, check_mode(mode))

    @property
    def treename(self) -> str:
        """Name of the tree in delivered files; empty for Parquet."""
        return self._source.output_form.tree

    def __bool__(self) -> bool:
        """Return True, without waiting for the number of events."""
        return True

    def __len__(self) -> int:
        """Wait for all files; return the number of their events."""
        return len(self._source.events(self._form_mapping))

    _latest_events: Callable[[], Any] = staticmethod(lambda: None)

    @property
    def form(self) -> Any:
        """Form of the delivered files (``awkward.forms.RecordForm``), before the schema."""
        return self._source.output_form.base_form

    @property
    def npartitions(self) -> int:
        """Number of partitions: input files times ``steps_per_file``."""
        return self._source.npartitions

    @property
    def request_id(self) -> str:
        """Id of the transform at ServiceX; after `retry_failed`, that of the last one."""
        return self._source.routing.handles[-1].address.request_id

    @property
    def files(self) -> list[dict[str, Any]]:
        """Input files in the order of the partitions, and their outcomes so far.

        A list of ``{"input_file", "status", "object_name", "n_events", "nbytes", "created_at",
        "reason"}``, where ``status`` is ``"delivered"``, ``"failed"`` or ``"waiting"``, sizes are
        in bytes, and ``created_at`` is the time at which the server recorded the result (ISO 8601,
        UTC). No request is made: it shows what computations have learned so far.
        """
        outcomes = self._source.outcomes()
        return [
            file_row(path, outcome)
            for path, (_, outcome) in zip(self._source.files.paths, outcomes, strict=True)
        ]

    @property
    def counts(self) -> Counts:
        """Numbers of input files: in total, delivered and failed.

        No request is made: it shows what computations have learned so far.
        """
        return self._source.counts

    @property
    def reads(self) -> list[Read]:
        """Last read of each partition, in the order of the partitions. No request is made."""
        routing, steps = self._source.routing, self._source.steps_per_file
        reads = [
            read
            for handle in routing.handles
            if handle.poller is not None
            for read in list(handle.poller.reads.values())
            # Not those of other factories of this transform, or of files delivered elsewhere now.
            if read.npartitions == self.npartitions
            and routing.of(read.partition // steps)[0] is handle
        ]
        return sorted(reads, key=lambda read: read.partition)

    def __repr__(self) -> str:
        return (
            f"<ServiceXEventsFactory {self.request_id}: {len(self._source.files)} input files, "
            f"{self.npartitions} partitions, {len(self.form.fields)} columns>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "request": self.request_id,
            "input files": len(self._source.files),
            "partitions": self.npartitions,
            "columns": ", ".join(self.form.fields),
        }
        # A factory that was pickled has no counts in another process.
        if self._source.routing.handles[-1].poller is not None:
            counts = self.counts
            rows.update({"delivered": counts.delivered, "failed": counts.failed})
        return html_table(rows.items(), caption="ServiceX events")
