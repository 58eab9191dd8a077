"""Compare what a delivered file holds with what its form promised, before anything is read.

A reader that is told a wrong type makes garbage of a column without saying so, and the garbage
ends up in a histogram. So nothing is read of a file that differs, but for one case: numbers that
fit into the promised type without loss are converted to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import FormMismatch


def check(
    found: Mapping[str, Any],
    columns: Iterable[str],
    promised: Any,
    input_file: str,
    object_name: str = "",
) -> dict[str, Any]:
    """Make sure that the columns of a file are what the form says.

    Parameters
    ----------
    found : mapping of str to awkward.forms.Form
        The columns of the file.
    columns : iterable of str
        Those that will be read.
    promised : awkward.forms.RecordForm
    input_file, object_name : str
        Named in the error.

    Returns
    -------
    dict of str to numpy.dtype
        Columns whose numbers are to be converted to a wider type, which holds them without loss.

    Raises
    ------
    FormMismatch
        At the first column that is missing or has another type.
    """
    wider: dict[str, Any] = {}
    for column in sorted(columns):
        expected = promised.content(column)
        form = found.get(column)
        if form is not None and _bare_type(form) == _bare_type(expected):
            continue
        if form is None or not _holds(expected, form):
            raise _mismatch(column, expected, form, input_file, object_name)
        wider[column] = np.dtype(_leaf(expected).primitive)
    return wider


def _mismatch(
    column: str, expected: Any, found: Any, input_file: str, object_name: str
) -> FormMismatch:
    expected_type = _bare_type(expected)
    found_type = "no such column" if found is None else _bare_type(found)
    return FormMismatch(
        f"The file made of {input_file} does not have the form that the query promised: column "
        f"{column!r} should be {expected_type}, found {found_type}. Nothing was read from it. If "
        "the sample given as input_form= is of another kind than the input files, give one of "
        "theirs.",
        input_file=input_file,
        object_name=object_name,
        column=column,
        expected=expected_type,
        found=found_type,
    )


def _holds(expected: Any, found: Any) -> bool:
    """Whether the promised type holds every value of the one that was found."""
    wide, narrow = _leaf(expected), _leaf(found)
    if wide is None or narrow is None:
        return False
    same_lists = _bare_type(expected).replace(wide.primitive, narrow.primitive) == _bare_type(found)
    return same_lists and _is_wider(np.dtype(wide.primitive), np.dtype(narrow.primitive))


def _is_wider(wide: Any, narrow: Any) -> bool:
    if "b" in (wide.kind, narrow.kind):
        return False
    if wide.kind == "f" and narrow.kind in "iu":
        # Stricter than numpy, for which a double holds every 64-bit integer.
        return bool(np.iinfo(narrow).bits <= np.finfo(wide).nmant)
    return bool(np.can_cast(narrow, wide, "safe"))


def _leaf(form: Any) -> Any:
    """Return the form of the numbers in lists of lists of numbers; None of anything else."""
    while form.is_list:
        form = form.content
    return form if form.is_numpy and not form.inner_shape else None


def _bare_type(form: Any) -> str:
    """Write the type of a form without its documentation."""
    return str(_bare(form).type)


def _bare(form: Any) -> Any:
    keep = {k: v for k, v in (form.parameters or {}).items() if k in ("__array__", "__list__")}
    if form.is_record:
        return form.copy(contents=[_bare(c) for c in form.contents], parameters=keep)
    if form.is_list or form.is_option:
        return form.copy(content=_bare(form.content), parameters=keep)
    return form.copy(parameters=keep)
