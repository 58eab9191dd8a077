"""Report of a computation: what became of each input file."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import BadInput
from .polling.outcomes import Delivered, Failed, Outcome

SHOWN = 20


@dataclass(frozen=True, slots=True)
class InputReport:
    """What became of one input file.

    Attributes
    ----------
    input_file : str
    status : {"read", "delivered", "failed", "waiting"}
        Read: its events are in the result. Delivered: the file is there. Waiting: nothing is
        known yet.
    failed_at : {"transform", "read"} or None
    exception, reason : str or None
        Name of the error, and what the server or the reader says.
    request_id : str
    log_url : str or None
        Where the server keeps the logs of the transform, if it tells.
    n_events : int
        That were read of it.
    n_events_delivered : int or None
        In its result, as the server counts them; None if it does not.
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
    """What became of all input files of a query.

    Every input file is counted once: ``n_inputs == n_delivered + n_failed + n_waiting``.

    Attributes
    ----------
    inputs : tuple of InputReport
        In the order of the input files.
    """

    inputs: tuple[InputReport, ...]

    @property
    def n_inputs(self) -> int:
        """Input files."""
        return len(self.inputs)

    @property
    def n_delivered(self) -> int:
        """Input files whose results are there, read or not."""
        return sum(one.status in ("read", "delivered") for one in self.inputs)

    @property
    def n_read(self) -> int:
        """Input files whose events were read."""
        return sum(one.status == "read" for one in self.inputs)

    @property
    def n_failed(self) -> int:
        """Input files that could not be transformed, or whose results could not be read."""
        return len(self.failed)

    @property
    def n_waiting(self) -> int:
        """Input files of which nothing is known yet."""
        return sum(one.status == "waiting" for one in self.inputs)

    @property
    def failed(self) -> list[InputReport]:
        """The input files that failed."""
        return [one for one in self.inputs if one.status == "failed"]

    @property
    def n_events(self) -> int:
        """Events that were read."""
        return sum(one.n_events for one in self.inputs)

    @property
    def n_events_delivered(self) -> int | None:
        """Events in the results, as the server counts them; None if it does not."""
        counts = [one.n_events_delivered for one in self.inputs]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def fraction(self) -> float:
        """Delivered of all input files: what to scale a luminosity by, if files are alike."""
        return self.n_delivered / self.n_inputs if self.inputs else 0.0

    def to_awkward(self) -> Any:
        """Return one record for each input file, as an ``ak.Array``."""
        import awkward as ak

        return ak.Array([_plain(one) for one in self.inputs])

    def table(self) -> Any:
        """Return the input files that failed as a ``rich.table.Table``."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("input file", "failed at", "reason", title=str(self))
        for one in self.failed:
            table.add_row(*map(escape, (one.input_file, one.failed_at or "", one.reason or "")))
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
    rows = [(one.input_file, one.failed_at, one.reason) for one in failed[:SHOWN]]
    if len(failed) > SHOWN:
        rows.append((f"and {len(failed) - SHOWN} more", "", ""))
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    head = "<tr><th>input file</th><th>failed at</th><th>reason</th></tr>"
    return f"<table>{head}{cells}</table>"


def _logs(failed: Sequence[InputReport]) -> str:
    urls = {one.log_url for one in failed if one.log_url and one.log_url.startswith("http")}
    links = (f"<a href='{html.escape(url, quote=True)}'>logs</a>" for url in sorted(urls))
    return "".join(f"<p>{link}</p>" for link in links)


def _plain(one: InputReport) -> dict[str, Any]:
    return {name: getattr(one, name) for name in InputReport.__slots__}


def rows_of(computed: Any, request_ids: set[str]) -> list[dict[str, Any]]:
    """Return the rows of a computed report of certain requests.

    Raises
    ------
    BadInput
        If it is not computed, or of other requests.
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


def check_requests(told: Iterable[str], request_ids: set[str]) -> None:
    """Refuse what is told of other requests.

    Raises
    ------
    BadInput
    """
    others = sorted({request_id for request_id in told if request_id not in request_ids})
    if others:
        raise BadInput(
            f"This report is of request {others[0]}, and not of {', '.join(sorted(request_ids))}: "
            "is it that of another sample?"
        )


def add_up(
    paths: Sequence[str],
    outcomes: Iterable[tuple[str, Outcome | None]],
    rows: Iterable[Mapping[str, Any]],
    steps: int,
) -> Report:
    """Join what is known of transforms with what was read.

    Parameters
    ----------
    paths : sequence of str
        The input files.
    outcomes : iterable
        For each input file its request and what became of it there, None if that is not known.
    rows : iterable of mapping
        Of partitions, as this module makes them.
    steps : int
        Partitions a file.
    """
    of_file: defaultdict[int, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        of_file[row["partition"] // steps][row["partition"]] = row
    return Report(
        tuple(
            _joined(path, request_id, outcome, list(of_file[index].values()), steps)
            for index, (path, (request_id, outcome)) in enumerate(zip(paths, outcomes, strict=True))
        )
    )


def _joined(
    path: str,
    request_id: str,
    outcome: Outcome | None,
    rows: Sequence[Mapping[str, Any]],
    steps: int,
) -> InputReport:
    # Rows of an earlier request say nothing of the one that does the file now.
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
    return InputReport(
        path,
        status,
        stage,
        exception,
        reason,
        request_id,
        log_url,
        sum(row["n_events"] for row in rows),
        outcome.n_events if isinstance(outcome, Delivered) else 0,
    )
