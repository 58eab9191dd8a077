"""How a transform ended that did not deliver all of its results: errors that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import (
    AccessError,
    BadDataset,
    ConfigurationError,
    CountMismatch,
    DeadlineExceeded,
    OwnerLost,
    ServerError,
    ServiceXError,
    TransformCanceled,
    TransformError,
    TransformFailed,
    TransformFatal,
    TransformGone,
    TransformStalled,
)
from ..policy import FailurePolicy
from .outcomes import Failed

SHOWN = 3
AGAIN = (
    "Submit it again with ignore_cache=True, or go on with the files that were finished: "
    'from_request_id(..., on_failure="skip").'
)
# After these, waiting again may help.
PASSING = (
    ServerError,
    ConfigurationError,
    AccessError,
    TransformStalled,
    DeadlineExceeded,
    OwnerLost,
)


@dataclass(frozen=True, slots=True)
class TransformProgress:
    """How far a transform was when it ended.

    Attributes
    ----------
    request_id : str
    n_files, n_done : int
        Input files, and those of which it is known what became of them.
    missing : tuple of str
        The first of the others.
    log_url : str or None
    """

    request_id: str
    n_files: int
    n_done: int
    missing: tuple[str, ...]
    log_url: str | None

    @property
    def counts(self) -> str:
        """Say how many files were finished, and which were not."""
        done = f"{self.n_done} of {self.n_files} input files were finished"
        n_missing = self.n_files - self.n_done
        return f"{done}, {_named(self.missing, n_missing)} not" if n_missing else done

    @property
    def logs(self) -> str:
        """Say where the logs are."""
        return f"The logs are at {self.log_url}." if self.log_url else "See the logs of the server."

    @property
    def facts(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "request_id": self.request_id,
            "done": self.n_done,
            "total": self.n_files,
            "missing": list(self.missing),
            "log_url": self.log_url,
        }


def over(status: str, standing: TransformProgress) -> TransformError:
    """Return what it means that a transform is over without all of its results."""
    request = f"request {standing.request_id}"
    if status == "Canceled":
        return TransformCanceled(
            f"The {request} was canceled: {standing.counts}. {AGAIN}",
            **standing.facts,
        )
    if status == "Fatal":
        return TransformFatal(
            f"ServiceX gave up {request}: {standing.counts}. {standing.logs} {AGAIN}",
            **standing.facts,
        )
    if status == "Bad Dataset":
        return BadDataset(
            f"ServiceX could not look up the dataset of {request}: {standing.counts}.",
            **standing.facts,
        )
    return CountMismatch(
        f"ServiceX says that {request} is complete, but has no result for every input file: "
        f"{standing.counts}. {AGAIN}",
        **standing.facts,
    )


def gone(standing: TransformProgress) -> TransformError:
    """Return what it means that the server no longer knows a transform."""
    return TransformGone(
        f"ServiceX no longer knows request {standing.request_id}, which was deleted: "
        f"{standing.counts}. Submit it again with ignore_cache=True.",
        **standing.facts,
    )


def stalled(status: str | None, seconds: float, standing: TransformProgress) -> TransformError:
    """Return what it means that nothing happens."""
    return TransformStalled(
        f"Nothing happened in request {standing.request_id} for {seconds:.0f} s: its status is "
        f"{status!r}, {standing.counts}. Computing again waits again; cancel() ends it. "
        f"{standing.logs}",
        **standing.facts,
    )


def late(status: str | None, seconds: float, standing: TransformProgress) -> TransformError:
    """Return what it means that the deadline has passed."""
    return DeadlineExceeded(
        f"Request {standing.request_id} is not over after {seconds:.0f} s: its status is "
        f"{status!r}, {standing.counts}. Computing again waits as long again; cancel() ends it.",
        **standing.facts,
    )


def silent(error: ServiceXError, seconds: float, standing: TransformProgress) -> ServiceXError:
    """Return what it means that a server does not answer any more."""
    said = str(error).rstrip(".")
    return type(error)(
        f"{said}. Nothing was heard of request {standing.request_id} for {seconds:.0f} s: "
        f"{standing.counts}. The transform may go on all the same; computing again asks again.",
        **{**error.facts, **standing.facts},
    )


def not_transformed(request_id: str, failed: Sequence[Failed], advice: str = "") -> TransformFailed:
    """Make the error for input files that could not be transformed; it tells of the first."""
    first, *others = sorted(failed, key=lambda one: one.index)
    more = f" (and {len(others)} more)" if others else ""
    reason = first.reason or "the server gives no reason"
    logs = f" The logs are at {first.log_url}." if first.log_url else ""
    return TransformFailed(
        f"ServiceX could not transform {first.input_file}{more} in request {request_id}: "
        f"{reason.rstrip('.')}.{logs} {advice}".rstrip(),
        request_id=request_id,
        input_file=first.input_file,
        reason=first.reason,
        input_files=[one.input_file for one in (first, *others)],
        log_url=first.log_url,
    )


def too_many_failed(
    request_id: str, failed: Sequence[Failed], failure_policy: FailurePolicy
) -> TransformFailed:
    """Make the error for more failed input files than are tolerated."""
    advice = (
        f"That is more than max_failed={failure_policy.max_failed}."
        if failure_policy.skips
        else 'To go on without such files, use on_failure="skip".'
    )
    return not_transformed(request_id, failed, f"{advice} retry_failed() submits them again.")


def _named(paths: Sequence[str], n: int) -> str:
    if not paths:
        return f"{n} {'was' if n == 1 else 'were'}"
    shown = ", ".join(map(repr, paths[:SHOWN]))
    if n > len(paths[:SHOWN]):
        return f"{shown} and {n - len(paths[:SHOWN])} more were"
    return f"{shown} {'was' if n == 1 else 'were'}"
