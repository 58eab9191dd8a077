"""Status of a transform, as its server reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ProtocolError


@dataclass(frozen=True, slots=True)
class TransformStatus:
    """Status of a transform, as its server reports it.

    Attributes
    ----------
    request_id, title, status : str
    n_files, n_completed, n_failed : int
        Numbers of input files. Counters are clipped so that ``n_completed + n_failed <= n_files``.
    submitted_at : str
        Time of the submission as the server writes it (ISO 8601); empty if it gives none.
    """

    request_id: str
    title: str
    status: str
    n_files: int
    n_completed: int
    n_failed: int
    submitted_at: str


def parse_status(request_id: str, response: Mapping[str, Any]) -> TransformStatus:
    """Return the status in a response of a server.

    Raises
    ------
    ProtocolError
        If there is no status, or no number of files.
    """
    n_files = _count(response, "files")
    n_failed = min(_count(response, "files-failed"), n_files)
    n_completed = min(_count(response, "files-completed"), n_files - n_failed)
    if "status" not in response:
        raise ProtocolError("The status of the transform, as the server gives it, has no 'status'.")
    keys = ("title", "status", "submit-time")
    title, status, submitted_at = (str(response.get(key) or "") for key in keys)
    return TransformStatus(request_id, title, status, n_files, n_completed, n_failed, submitted_at)


def _count(response: Mapping[str, Any], key: str) -> int:
    """Return a number of files; 0 while the server has none."""
    try:
        return max(0, int(response[key] or 0))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ProtocolError(
            f"The status of the transform, as the server gives it, has {key!r}: "
            f"{response.get(key)!r}, which is no number of files."
        ) from None
