"""Views of events that ServiceX delivers: their form, files, outcomes and report."""

from __future__ import annotations

from typing import Any

from ._upstream.coffea import DaskEventsFactory
from .event_source import EventSource
from .polling.outcomes import Delivered, Failed, Read
from .polling.state import Counts
from .report import Report, file_row, make_report, report_rows, row_of_read
from .tables import html_table


class EventsView(DaskEventsFactory):
    """A coffea factory that shows what computations have learned so far.

    Nothing in it makes a request.
    """

    _source: EventSource

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

    @property
    def form(self) -> Any:
        """Form of the delivered files (``awkward.forms.RecordForm``), before the schema."""
        return self._source.output_form.base_form

    @property
    def npartitions(self) -> int:
        """Number of partitions: input files times ``steps_per_file``."""
        return len(self._source.files) * self._source.steps_per_file

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
        if self._source.routing.routes is None:
            return self._source.poller.counts
        outcomes = [outcome for _, outcome in self._source.outcomes()]
        n_failed = sum(isinstance(outcome, Failed) for outcome in outcomes)
        n_delivered = sum(isinstance(outcome, Delivered) for outcome in outcomes)
        return Counts(len(outcomes), n_delivered, n_failed)

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
