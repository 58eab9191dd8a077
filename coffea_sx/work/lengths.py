"""Verify that files have as many events as ServiceX reported, where coffea opens them itself."""

from __future__ import annotations

from typing import Any

from ..forms import OutputForm
from ..polling import registry
from ..polling.outcomes import Delivered
from ..polling.results import ResultSource
from ..readers.partition import check_length, open_delivered
from ..storage.stored import about, stored_object


def verified_length(
    source: ResultSource, delivered: Delivered, output_form: OutputForm, expected: int | None
) -> int:
    """Return the number of events of a file; at most one request.

    Parameters
    ----------
    source : ResultSource
    delivered : Delivered
    output_form : OutputForm
    expected : int or None
        Number of events that the file has to have.

    Raises
    ------
    LengthMismatch
        If it has another number.
    ReadError
        If it cannot be opened.
    """
    stored = stored_object(source, delivered.object_name, delivered.nbytes)
    with about(delivered), open_delivered(stored, delivered, output_form, 0.0) as columns:
        return check_length(columns, delivered, expected)


def verify_last_chunk(
    request_id: str, index: int, metadata: dict[str, Any], output_form: OutputForm
) -> None:
    """Verify the length of a file when its last chunk is read: a longer file would lose events.

    Does nothing where a pool has verified the file.

    Raises
    ------
    LengthMismatch
    """
    source = registry.find_source(request_id, by_index=True)
    if source is None or source.verifies_lengths:
        return
    delivered = source.results.outcomes.get(index)
    if not isinstance(delivered, Delivered) or delivered.n_events is None:
        return
    if metadata.get("entrystop", -1) >= delivered.n_events:
        verified_length(source, delivered, output_form, delivered.n_events)
