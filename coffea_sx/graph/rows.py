"""Rows of the report: one for each partition, made where it is read."""

from __future__ import annotations

from typing import Any

from ..polling.outcomes import Failed
from .resolve import ResolvedPartition


def success(resolved: ResolvedPartition, n_events: int, duration_s: float) -> Any:
    """Build the row of a partition that was read."""
    return _row(resolved, n_events=n_events, duration=duration_s)


def not_transformed(resolved: ResolvedPartition, failed: Failed) -> Any:
    """Build the row of a partition whose input file could not be transformed."""
    reason = failed.reason or "no reason given"
    return _row(resolved, stage="transform", exception=failed.kind, message=reason)


def not_read(resolved: ResolvedPartition, error: Exception) -> Any:
    """Build the row of a partition whose file could not be read."""
    return _row(resolved, stage="read", exception=type(error).__name__, message=str(error))


def _row(
    resolved: ResolvedPartition,
    *,
    n_events: int = 0,
    duration: float | None = None,
    stage: str | None = None,
    exception: str | None = None,
    message: str | None = None,
) -> Any:
    import awkward as ak

    row = {
        "partition": resolved.partition,
        "input_file": resolved.outcome.input_file,
        "request_id": resolved.handle.address.request_id,
        "n_events": n_events,
        "duration": duration,
        "failed_at": stage,
        "exception": exception,
        "message": message,
    }
    return ak.Array([row])
