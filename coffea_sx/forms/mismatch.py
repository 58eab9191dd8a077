"""Mismatch between the columns of a delivered file and the derived form.

A reader with a wrong type makes garbage of a column without an error, and the garbage ends up in a
histogram. So nothing is read from a file that differs, with one exception: numbers that fit into
the expected type without loss are converted to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import FormMismatch


def check_columns(
    columns: Mapping[str, Any],
    names: Iterable[str],
    expected: Any,
    input_file: str,
    object_name: str = "",
) -> dict[str, Any]:
    """Check that the columns of a file have the expected types.

    Parameters
    ----------
    columns : mapping of str to awkward.forms.Form
        The columns of the file.
    names : iterable of str
        The columns that will be read.
    expected : awkward.forms.RecordForm
        The derived form.
    input_file, object_name : str
        Named in the error.

    Returns
    -------
    dict of str to numpy.dtype
        Wider type of each column whose numbers have to be converted, without loss.

    Raises
    ------
    FormMismatch
        At the first column that is missing or has another type.
    """
    wider: dict[str, Any] = {}
    for name in sorted(names):
        form = columns.get(name)
        expected_type = _bare_type(expected.content(name))
        type_ = "no such column" if form is None else _bare_type(form)
        if type_ == expected_type:
            continue
        if form is None or not _holds(expected.content(name), form):
            raise FormMismatch(
                f"The file made of {input_file} does not have the expected form: column {name!r} "
                f"should be {expected_type}, found {type_}. Nothing was read from it. If the "
                "sample in input_form= is of another kind than the input files, use an input file.",
                input_file=input_file,
                object_name=object_name,
                column=name,
                expected=expected_type,
                found=type_,
            )
        wider[name] = np.dtype(_numbers(expected.content(name)).primitive)
    return wider


def _holds(expected: Any, form: Any) -> bool:
    """Return True if the expected type holds every value of the type in the file."""
    wide, narrow = _numbers(expected), _numbers(form)
    if wide is None or narrow is None:
        return False
    same_lists = _bare_type(expected).replace(wide.primitive, narrow.primitive) == _bare_type(form)
    return same_lists and _is_wider(np.dtype(wide.primitive), np.dtype(narrow.primitive))


def _is_wider(wide: Any, narrow: Any) -> bool:
    if "b" in (wide.kind, narrow.kind):
        return False
    if wide.kind == "f" and narrow.kind in "iu":
        # Stricter than numpy, for which a double holds every 64-bit integer.
        return bool(np.iinfo(narrow).bits <= np.finfo(wide).nmant)
    return bool(np.can_cast(narrow, wide, "safe"))


def _numbers(form: Any) -> Any:
    """Return the form of the numbers in lists of lists of numbers; None for anything else."""
    while form.is_list:
        form = form.content
    return form if form.is_numpy and not form.inner_shape else None


def _bare_type(form: Any) -> str:
    """Return the type of a form without its documentation."""
    return str(_bare(form).type)


def _bare(form: Any) -> Any:
    keep = {k: v for k, v in (form.parameters or {}).items() if k in ("__array__", "__list__")}
    if form.is_record:
        return form.copy(contents=[_bare(c) for c in form.contents], parameters=keep)
    if form.is_list or form.is_option:
        return form.copy(content=_bare(form.content), parameters=keep)
    return form.copy(parameters=keep)
