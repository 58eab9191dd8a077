"""Functions of awkward in place of dask-awkward's, which the expressions of func_adl_uproot call.

A server calls ``dak.zip`` on collections; here the function of the same name is called on arrays of
awkward, with or without rows, so that dask need not be installed. dask-awkward takes less than
awkward in places; what it refuses is refused here, for it would fail on the server, for every file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import awkward as ak

# Functions that are the same in both, except that dask-awkward's take columns only.
_SAME = "all any flatten max min num singletons sum"


def is_array(value: Any) -> bool:
    """Return True for a column, or columns: an array with an entry for each event."""
    return isinstance(value, ak.Array)


def is_collection(value: Any) -> bool:
    """Return True for an array, and for one event."""
    return isinstance(value, (ak.Array, ak.Record))


def getitem(value: Any, item: Any) -> Any:
    """Return entries or columns of an array.

    Raises
    ------
    TypeError
        For a condition that is a column of anything but truth values and whole numbers.
    """
    if is_array(value) and is_array(item):
        layout = item.layout
        while not layout.is_numpy and not layout.is_record:
            layout = layout.content
        if layout.is_record or layout.dtype.kind not in "biu":
            raise TypeError(f"a column of {item.type.content} is no condition")
    return value[item]


def truth(value: Any) -> bool:
    """Return whether a value is true.

    Raises
    ------
    TypeError
        For an array.
    """
    return bool(no_column(value))


def no_column(value: Any) -> Any:
    """Return a value that is no column.

    Raises
    ------
    TypeError
        For a column: it has no truth value, length or single number.
    """
    if is_collection(value):
        raise TypeError("Python's own functions take no columns")
    return value


def _column(value: Any) -> Any:
    if not is_array(value):
        raise TypeError(f"a column is expected, not {type(value).__name__}")
    return value


def _of_column(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose first argument has to be a column."""

    def call(array: Any, *arguments: Any, **options: Any) -> Any:
        return function(_column(array), *arguments, **options)

    return call


def _check_axis(axis: int) -> None:
    if axis == 0:
        raise NotImplementedError("dask-awkward does this with lists, and not with all events")


def _argsort(array: Any, *, axis: int, ascending: bool) -> Any:
    _check_axis(axis)
    return ak.argsort(_column(array), axis=axis, ascending=ascending)


def _combinations(array: Any, n: int, *, axis: int) -> Any:
    _check_axis(axis)
    return ak.combinations(_column(array), n, axis=axis)


def _cartesian(arrays: Sequence[Any], *, axis: int, nested: bool) -> Any:
    if axis != 1:
        raise NotImplementedError("dask-awkward pairs the entries of lists, and of no inner lists")
    return ak.cartesian(_with_columns(arrays), axis=axis, nested=nested)


def _concatenate(arrays: Any, *, axis: int) -> Any:
    return ak.concatenate([_column(array) for array in no_column(arrays)], axis=axis)


def _full_like(array: Any, value: Any, *, dtype: Any) -> Any:
    if dtype is str:
        raise ValueError("a column is not filled with a text")
    return ak.full_like(_column(array), value, dtype=dtype)


def _unzip(array: Any) -> Any:
    if not is_collection(array):
        raise TypeError(f"a column is expected, not {type(array).__name__}")
    return ak.unzip(array)


def _zip(arrays: Any, *, depth_limit: int | None = None) -> Any:
    if isinstance(arrays, Mapping):
        columns = {name: _column(array) for name, array in arrays.items()}
        return ak.zip(columns, depth_limit=depth_limit)
    if isinstance(arrays, Sequence):
        return ak.zip(_with_columns(arrays), depth_limit=depth_limit)
    raise TypeError(f"columns with names are expected, not {type(arrays).__name__}")


def _with_columns(arrays: Sequence[Any]) -> Sequence[Any]:
    if not any(map(is_array, arrays)):
        raise TypeError("there is no column in it")
    return arrays


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _of_column(getattr(ak, name)) for name in _SAME.split()},
    "argsort": _argsort,
    "cartesian": _cartesian,
    "combinations": _combinations,
    "concatenate": _concatenate,
    "full_like": _full_like,
    "unzip": _unzip,
    "where": _of_column(ak.where),
    "with_name": _of_column(ak.with_name),
    "zip": _zip,
}
