"""Report of a computation: the outcome of each input file."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors import BadInput
from .polling.outcomes import Delivered, Failed, Outcome, Read
from .tables import html_table

# Rows of the HTML table of failed files.
SHOWN = 20


@dataclass(frozen=True, slots=True)
class InputReport:
    """Outcome of one input file.

    Attributes
    ----------
    input_file : str
    status : {"read", "delivered", "failed", "waiting"}
        Read: its events are in the result. Delivered: its result is in the store. Waiting: it has
        no outcome yet.
    failed_at : {"transform", "read"} or None
    exception, reason : str or None
        Name of the error, and the explanation of the server or the reader.
    request_id : str
    log_url : str or None
        Logs of the transform, if the server gives their URL.
    n_events : int
        Number of events that were read.
    n_events_delivered : int or None
        Number of events in its result, as the server counts them; None if it does not.
    """

    input_file: str
    status: str
    failed_at: str | None
    exception: str | None
    reason: str | None
    request_id: str
    log_url: str | None
    n_events: int
    n_events_delivered: int | None


@dataclass(frozen=True)
class Report:
    """Outcomes of all input files of a query.

    Every input file is counted once: ``n_inputs == n_delivered + n_failed + n_waiting``.

    Attributes
    ----------
    inputs : tuple of InputReport
        In the order of the input files.
    """

    inputs: tuple[InputReport, ...]

    @property
    def n_inputs(self) -> int:
        """Number of input files."""
        return len(self.inputs)

    @property
    def n_delivered(self) -> int:
        """Number of input files with a result, read or not."""
        return sum(file.status in ("read", "delivered") for file in self.inputs)

    @property
    def n_read(self) -> int:
        """Number of input files whose events were read."""
        return sum(file.status == "read" for file in self.inputs)

    @property
    def n_failed(self) -> int:
        """Number of input files that were not transformed, or whose results were not read."""
        return len(self.failed)

    @property
    def n_waiting(self) -> int:
        """Number of input files without an outcome yet."""
        return sum(file.status == "waiting" for file in self.inputs)

    @property
    def failed(self) -> list[InputReport]:
        """Input files that failed."""
        return [file for file in self.inputs if file.status == "failed"]

    @property
    def n_events(self) -> int:
        """Number of events that were read."""
        return sum(file.n_events for file in self.inputs)

    @property
    def n_events_delivered(self) -> int | None:
        """Number of events in the results, as the server counts them; None if it does not."""
        counts = [file.n_events_delivered for file in self.inputs]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def fraction(self) -> float:
        """Fraction of input files with a result: a luminosity scale, if files are alike."""
        return self.n_delivered / self.n_inputs if self.inputs else 0.0

    def to_awkward(self) -> Any:
        """Return one record for each input file, as an ``ak.Array``."""
        import awkward as ak

        return ak.Array([asdict(file) for file in self.inputs])

    def table(self) -> Any:
        """Return the input files that failed as a ``rich.table.Table``."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("input file", "failed at", "reason", title=str(self))
        for file in self.failed:
            table.add_row(*map(escape, (file.input_file, file.failed_at or "", file.reason or "")))
        return table

    def __str__(self) -> str:
        parts = [f"{self.n_delivered} of {self.n_inputs} input files delivered"]
        if self.n_failed:
            parts.append(f"{self.n_failed} failed")
        if self.n_waiting:
            parts.append(f"{self.n_waiting} waiting")
        return f"{', '.join(parts)}; {self.n_events} events read from {self.n_read} files"

    def __repr__(self) -> str:
        return f"<Report: {self}>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(str(self))}</p>{_failures(self.failed)}{_logs(self.failed)}"


def _failures(failed: Sequence[InputReport]) -> str:
    if not failed:
        return ""
    rows = [(file.input_file, file.failed_at, file.reason) for file in failed[:SHOWN]]
    if len(failed) > SHOWN:
        rows.append((f"and {len(failed) - SHOWN} more", "", ""))
    return html_table(rows, head=("input file", "failed at", "reason"))


def _logs(failed: Sequence[InputReport]) -> str:
    urls = {file.log_url for file in failed if file.log_url and file.log_url.startswith("http")}
    return "".join(f"<p><a href='{html.escape(url)}'>logs</a></p>" for url in sorted(urls))


def report_rows(computed: Any, request_ids: set[str]) -> list[dict[str, Any]]:
    """Return the rows of a computed report as dicts.

    Raises
    ------
    BadInput
        If the report is not computed, or if rows are of other requests than ``request_ids``.
    """
    import awkward as ak

    if not isinstance(computed, ak.Array) or ak.backend(computed) == "typetracer":
        raise BadInput(
            "Give the rows as they were computed beside the events: result, rows = "
            f"dask.compute(result, rows); these are {type(computed).__name__}."
        )
    rows: list[dict[str, Any]] = computed.to_list()
    check_requests((row["request_id"] for row in rows), request_ids)
    return rows


def check_requests(reported: Iterable[str], request_ids: set[str]) -> None:
    """Refuse a report of other requests.

    Raises
    ------
    BadInput
    """
    others = sorted(set(reported) - request_ids)
    if others:
        raise BadInput(
            f"This report is of request {others[0]}, and not of {', '.join(sorted(request_ids))}: "
            "is it that of another sample?"
        )


def row_of_read(read: Read, request_id: str) -> dict[str, Any]:
    """Return the row of a partition that this process has read."""
    return {
        "partition": read.partition,
        "request_id": request_id,
        "n_events": read.n_events,
        "failed_at": "read" if read.error else None,
        "exception": read.error,
        "message": None,
    }


def make_report(
    paths: Sequence[str],
    outcomes: Iterable[tuple[str, Outcome | None]],
    rows: Iterable[Mapping[str, Any]],
    steps: int,
) -> Report:
    """Join the outcomes of transforms with the rows of partitions.

    Parameters
    ----------
    paths : sequence of str
        Input files.
    outcomes : iterable of tuple
        For each input file the id of its request, and its outcome; None while it has none.
    rows : iterable of mapping
        Rows of partitions, from `report_rows` or `row_of_read`.
    steps : int
        Partitions of each file.
    """
    of_file: defaultdict[int, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        of_file[row["partition"] // steps][row["partition"]] = row
    return Report(
        tuple(
            _input_report(path, request_id, outcome, list(of_file[index].values()), steps)
            for index, (path, (request_id, outcome)) in enumerate(zip(paths, outcomes, strict=True))
        )
    )


def _input_report(
    path: str,
    request_id: str,
    outcome: Outcome | None,
    rows: Sequence[Mapping[str, Any]],
    steps: int,
) -> InputReport:
    # Rows of an earlier request are not of the results that are read now.
    rows = [row for row in rows if row["request_id"] == request_id]
    failed_row = next((row for row in rows if row["failed_at"]), None)
    status, stage, exception, reason, log_url = "waiting", None, None, None, None
    if isinstance(outcome, Failed):
        status, stage, log_url = "failed", "transform", outcome.log_url
        exception, reason = outcome.kind, outcome.reason
    elif failed_row is not None:
        status, stage = "failed", failed_row["failed_at"]
        exception, reason = failed_row["exception"], failed_row["message"]
    elif len(rows) == steps:
        status = "read"
    elif isinstance(outcome, Delivered):
        status = "delivered"
    n_read = sum(row["n_events"] for row in rows)
    n_delivered = outcome.n_events if isinstance(outcome, Delivered) else 0
    return InputReport(
        path, status, stage, exception, reason, request_id, log_url, n_read, n_delivered
    )


def file_row(path: str, outcome: Outcome | None) -> dict[str, Any]:
    """Return an input file and its outcome as plain values."""
    is_failed, is_delivered = isinstance(outcome, Failed), isinstance(outcome, Delivered)
    result = ("object_name", "n_events", "nbytes", "created_at")
    return {
        "input_file": path,
        "status": "failed" if is_failed else "delivered" if is_delivered else "waiting",
        **{name: getattr(outcome, name) if is_delivered else None for name in result},
        "reason": getattr(outcome, "reason", None),
    }
