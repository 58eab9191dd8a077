"""Error for a column that the input does not have."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ..errors import UnknownColumn

_COLUMNS_SHOWN = 10


def unknown_column(column: str, fields: Sequence[str]) -> UnknownColumn:
    """Return the error for a missing column, with the names that are most like it.

    Parameters
    ----------
    column : str
    fields : sequence of str
        The columns of the input.
    """
    nearest = difflib.get_close_matches(column, fields, n=3, cutoff=0.6)
    hint = (
        f"Did you mean {' or '.join(map(repr, nearest))}?"
        if nearest
        else f"It has {', '.join(map(repr, fields[:_COLUMNS_SHOWN]))}"
        f"{', and others' if len(fields) > _COLUMNS_SHOWN else ''}."
    )
    return UnknownColumn(
        f"The query asks for the column {column!r}, which the input does not have. {hint}",
        column=column,
        nearest=nearest,
    )
