"""Errors of transforms that ended without all of their results; they say what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..errors import ServiceXError, TransformError, TransformFailed
from ..policy import FailurePolicy
from .outcomes import Failed

SHOWN = 3
AGAIN = (
    "Submit it again with ignore_cache=True, or go on with the files that were finished: "
    'from_request_id(..., on_failure="skip").'
)
# After these, waiting again may help.
PASSING = (
    errors.ServerError,
    errors.ConfigurationError,
    errors.AccessError,
    errors.TransformStalled,
    errors.DeadlineExceeded,
    errors.OwnerLost,
)


@dataclass(frozen=True, slots=True)
class TransformProgress:
    """Progress of a transform when it ended.

    Attributes
    ----------
    request_id : str
    n_files, n_done : int
        Input files, and those with an outcome.
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
        """Clause on how many files were finished, and which were not."""
        done = f"{self.n_done} of {self.n_files} input files were finished"
        n_missing = self.n_files - self.n_done
        return f"{done}, {_named(self.missing, n_missing)} not" if n_missing else done

    @property
    def logs(self) -> str:
        """Sentence on where the logs are."""
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


def over(status: str, progress: TransformProgress) -> TransformError:
    """Return the error of a transform that is over without all of its results."""
    request, counts = f"request {progress.request_id}", progress.counts
    kind: type[TransformError] = errors.CountMismatch
    text = (
        f"ServiceX says that {request} is complete, but has no result for every input file: "
        f"{counts}. {AGAIN}"
    )
    if status == "Canceled":
        kind, text = errors.TransformCanceled, f"The {request} was canceled: {counts}. {AGAIN}"
    elif status == "Fatal":
        kind = errors.TransformFatal
        text = f"ServiceX gave up {request}: {counts}. {progress.logs} {AGAIN}"
    elif status == "Bad Dataset":
        kind = errors.BadDataset
        text = f"ServiceX could not look up the dataset of {request}: {counts}."
    return kind(text, **progress.facts)


def gone(progress: TransformProgress) -> TransformError:
    """Return the error of a transform that the server no longer has."""
    return errors.TransformGone(
        f"ServiceX no longer has request {progress.request_id}, which was deleted: "
        f"{progress.counts}. Submit it again with ignore_cache=True.",
        **progress.facts,
    )


def stalled(status: str | None, seconds: float, progress: TransformProgress) -> TransformError:
    """Return the TransformStalled error."""
    return errors.TransformStalled(
        f"Nothing happened in request {progress.request_id} for {seconds:.0f} s: its status is "
        f"{status!r}, {progress.counts}. Computing again waits again; cancel() ends it. "
        f"{progress.logs}",
        **progress.facts,
    )


def late(status: str | None, seconds: float, progress: TransformProgress) -> TransformError:
    """Return the DeadlineExceeded error."""
    return errors.DeadlineExceeded(
        f"Request {progress.request_id} is not over after {seconds:.0f} s: its status is "
        f"{status!r}, {progress.counts}. Computing again waits as long again; cancel() ends it.",
        **progress.facts,
    )


def silent(error: ServiceXError, seconds: float, progress: TransformProgress) -> ServiceXError:
    """Return the error of a server that does not respond for too long."""
    cause = str(error).rstrip(".")
    return type(error)(
        f"{cause}. Nothing was heard of request {progress.request_id} for {seconds:.0f} s: "
        f"{progress.counts}. The transform may go on all the same; computing again polls again.",
        **{**error.facts, **progress.facts},
    )


def not_transformed(request_id: str, failed: Sequence[Failed], advice: str = "") -> TransformFailed:
    """Return the error for input files that could not be transformed, with details of the first."""
    first, *others = sorted(failed, key=lambda failure: failure.index)
    more = f" (and {len(others)} more)" if others else ""
    reason = first.reason or "the server gives no reason"
    logs = f" The logs are at {first.log_url}." if first.log_url else ""
    return TransformFailed(
        f"ServiceX could not transform {first.input_file}{more} in request {request_id}: "
        f"{reason.rstrip('.')}.{logs} {advice}".rstrip(),
        request_id=request_id,
        input_file=first.input_file,
        reason=first.reason,
        input_files=[failure.input_file for failure in (first, *others)],
        log_url=first.log_url,
    )


def too_many_failed(
    request_id: str, failed: Sequence[Failed], failure_policy: FailurePolicy
) -> TransformFailed:
    """Return the error for more failed input files than the policy allows."""
    advice = (
        f"That is more than max_failed={failure_policy.max_failed}."
        if failure_policy.skips
        else 'To go on without such files, use on_failure="skip".'
    )
    return not_transformed(request_id, failed, f"{advice} retry_failed() submits them again.")


def _named(paths: Sequence[str], n: int) -> str:
    shown = ", ".join(map(repr, paths[:SHOWN])) or str(n)
    n_more = n - len(paths[:SHOWN])
    if paths and n_more > 0:
        return f"{shown} and {n_more} more were"
    return f"{shown} {'was' if n == 1 else 'were'}"
