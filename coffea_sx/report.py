"""What became of each partition: a row of an awkward array, next to the events."""

from __future__ import annotations

from typing import Any

from .transform.outcomes import Outcome


def success(partition: int, outcome: Outcome, n_events: int, duration_s: float) -> Any:
    """Make the row of a partition that was read."""
    return _row(partition, outcome, n_events=n_events, duration=duration_s)


def failure(partition: int, outcome: Outcome, stage: str, kind: str, message: str) -> Any:
    """Make the row of a partition that is empty because something failed.

    Parameters
    ----------
    stage : {"transform", "read"}
    kind : str
        Name of the error.
    message : str
    """
    return _row(partition, outcome, stage=stage, exception=kind, message=message)


def _row(
    partition: int,
    outcome: Outcome,
    *,
    n_events: int = 0,
    duration: float | None = None,
    stage: str | None = None,
    exception: str | None = None,
    message: str | None = None,
) -> Any:
    import awkward as ak

    row = {
        "partition": partition,
        "input_file": outcome.input_file,
        "n_events": n_events,
        "duration": duration,
        "failed_at": stage,
        "exception": exception,
        "message": message,
    }
    return ak.Array([row])
