"""The result of a query without rows, written as the server writes it, for its form and errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from awkward.forms import RecordForm

from ..errors import QueryError
from ..query import Advice, advice, describe_error
from .empty import without_rows
from .file_forms import read_forms
from .output_form import OutputForm
from .writers import write

_INSTEAD = (
    'take result_format="parquet", which has missing values, as None in the events; or select the '
    "lists, and take ak.max of them when they are delivered. In func_adl, "
    'Where(lambda e: e["Muon_pt"].Count() > 0) keeps the events in which lists have entries, and '
    'e["Muon_pt"].OrderByDescending(lambda pt: pt).First() is their largest. In UprootRaw, '
    "fill_none(max(Muon_pt), -1) puts a number in place of missing values."
)
# Errors of uproot's writer, and what to ask for instead.
_UNWRITABLE: Advice = (
    (
        r"ROOT file:\s+(.*\* )?(\?|option\[)",
        f"A TTree has no missing values, which Max, Min and others give of empty lists: {_INSTEAD}",
    ),
    (
        "masked values",
        f"Max, Min and others mask what they give of empty lists: {_INSTEAD}",
    ),
    (
        "fields of a record",
        'Select columns side by side, not records: {"muon_pt": ..., "muon_eta": ...}.',
    ),
    (
        "at least one branch",
        'Name the columns: Select(lambda e: {"pt": e["Muon_pt"]}).',
    ),
    (
        "to ROOT file",
        "In a TTree a column is a number, or a list of numbers, for each event.",
    ),
)
_COLUMNS_SHOWN = 10


def written_form(
    writer: Callable[[Any, str], int], results: Sequence[Any], result_format: str
) -> OutputForm:
    """Write arrays without rows, and return the form of the file.

    Parameters
    ----------
    writer : callable
        Writes the arrays to a file in a result format.
    results : sequence of awkward.forms.Form
        Forms of the arrays.
    result_format : {"root-file", "root-rntuple", "parquet"}

    Raises
    ------
    QueryError
        If the arrays cannot be written: the server would fail for every file.
    """
    file = _Unclosed()
    try:
        writer(file, result_format)
    except Exception as error:
        # Writers raise many kinds of errors.
        raise QueryError(
            f"{_unwritable(results, result_format)} cannot be written as {result_format!r}: "
            f"{describe_error(error)} "
            f"{advice(error, _UNWRITABLE)}".rstrip()
        ) from error
    file.seek(0)
    trees = read_forms(file, result_format)
    return OutputForm(trees, next(iter(trees)), result_format)


def refuse_unreadable(result: Any, tree: str | None) -> None:
    """Refuse columns of which uproot reads no member: with rows, it cannot read them at all.

    Parameters
    ----------
    result : awkward.forms.Form
    tree : str or None
        Named in the error.

    Raises
    ------
    QueryError
    """
    columns = [
        f"{name!r} ({result.content(name).parameter('__record__') or 'no members'})"
        for name in (result.fields if result.is_record else ())
        if _has_no_members(result.content(name))
    ]
    if columns:
        others = len(columns) - _COLUMNS_SHOWN
        raise QueryError(
            f"The query selects columns of the tree {tree!r} that uproot cannot read as arrays, so "
            f"every file would fail on the server: {', '.join(columns[:_COLUMNS_SHOWN])}"
            f"{f' and {others} others' if others > 0 else ''}. Name the columns that you need, or "
            'what their names begin with, as in {"filter_name": ["Muon_*", "Jet_*"]}.'
        )


def _has_no_members(form: Any) -> bool:
    if form.is_record:
        return not form.contents or any(map(_has_no_members, form.contents))
    return (form.is_list or form.is_option or form.is_indexed) and _has_no_members(form.content)


def _unwritable(results: Sequence[Any], result_format: str) -> str:
    """Return the subject of an error: the first column that cannot be written alone, or all."""
    for result in results:
        for name in result.fields if result.is_record else ():
            column = RecordForm([result.content(name)], [name])
            try:
                write(without_rows(column), _Unclosed(), result_format)
            except Exception:
                return f"The column {name!r} of the result, of type {result.content(name).type},"
    return f"The result of the query, of type {' and '.join(str(r.type) for r in results)},"


class _Unclosed(io.BytesIO):
    """A file in memory that stays open when the writer closes it."""

    def close(self) -> None:
        pass
