"""Files in the formats of ServiceX, written as the server's transformers write them.

The same functions write the results of the embedded ServiceX and, from arrays without rows, the
files from which forms are derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import awkward as ak
import uproot

from ..query import RESULT_FORMATS

TREE = "servicex"
# Column of Parquet files with the name of the tree that a row belongs to.
TREENAME = "treename"


def write(array: Any, destination: Any, result_format: str) -> int:
    """Write the result of a func_adl query to one file.

    Parameters
    ----------
    array : awkward.Array
        One record per event, or one value per event for a query of a single column.
    destination : str or seekable binary file
        A file that exists is replaced.
    result_format : {"root-file", "root-rntuple", "parquet"}

    Returns
    -------
    int
        Number of events.

    Raises
    ------
    ValueError
        For another format, and for a ``root-file`` of an array without fields.
    TypeError
        If the format has no place for a column's type, or uproot would misplace its values.
    """
    _check_format(result_format)
    if result_format == "parquet":
        _write_tables([ak.to_arrow_table(array)], destination)
    else:
        with uproot.recreate(destination) as file:
            _add_tree(file, TREE, array, result_format)
    return int(ak.num(array, axis=0))


def write_trees(
    arrays: Mapping[str, Any], objects: Mapping[str, Any], destination: Any, result_format: str
) -> int:
    """Write the results of an uproot-raw query to one file.

    Parameters
    ----------
    arrays : mapping of str to awkward.Array
        By the names of the trees.
    objects : mapping of str to object
        Other objects for the file, by name.
    destination : str or seekable binary file
    result_format : {"root-file", "root-rntuple", "parquet"}

    Returns
    -------
    int
        Number of rows of all trees.

    Raises
    ------
    ValueError
        For another format; for objects, or trees of different structure, in ``parquet``.
    TypeError
        If the format has no place for a column's type.
    """
    import pyarrow

    _check_format(result_format)
    if result_format == "parquet":
        if objects:
            raise ValueError(f"a Parquet file has no place for the objects {', '.join(objects)}")
        named = [ak.with_field(array, name, TREENAME) for name, array in arrays.items()]
        tables = [ak.to_arrow_table(array) for array in named] or [pyarrow.table({})]
        _write_tables(tables, destination)
    else:
        with uproot.recreate(destination, compression=uproot.ZSTD(5)) as file:
            for name, array in arrays.items():
                _add_tree(file, name, array, result_format)
            for name, copied in objects.items():
                file[name] = copied
    return sum(len(array) for array in arrays.values())


def _check_format(result_format: str) -> None:
    if result_format not in RESULT_FORMATS:
        raise ValueError(f"results cannot be written as {result_format!r}")


def _add_tree(file: Any, name: str, array: Any, result_format: str) -> None:
    if result_format == "root-rntuple":
        _refuse_masks(array)
        # A mapping of the fields would be sorted by name; an array keeps their order.
        file.mkrntuple(name, array)
        return
    tree = file.mktree(name, {field: array[field].type for field in array.fields})
    tree.extend({field: array[field] for field in array.fields})


def _refuse_masks(array: Any) -> None:
    """Refuse values under a mask, which uproot 5.7 writes into other rows.

    It writes the entries that are not masked one after the other, but counts all of them.
    """
    masked = [name for name in array.fields if _has_masks(array.layout.form.content(name))]
    if masked:
        raise TypeError(
            f"uproot writes the masked values of {masked[0]!r} into other rows of an RNTuple"
        )


def _has_masks(form: Any) -> bool:
    if isinstance(form, (ak.forms.ByteMaskedForm, ak.forms.BitMaskedForm)):
        return True
    if form.is_record or form.is_union:
        return any(map(_has_masks, form.contents))
    return (form.is_list or form.is_option or form.is_indexed) and _has_masks(form.content)


def _write_tables(tables: list[Any], destination: Any) -> None:
    """Write tables of the same structure, one after the other."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(destination, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
