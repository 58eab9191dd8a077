"""Parquet files, opened with pyarrow over a stored object."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import awkward as ak
import numpy as np

from ..errors import CorruptFile
from ..forms import OutputForm
from ..forms.counters import counted_columns
from ..forms.file_forms import parquet_form
from ..forms.writers import TREENAME
from ..storage.stored import StoredObject
from .columns import METADATA_SIZES, Columns, MetadataSizes

MAGIC = b"PAR1"
# A file ends with the list of columns, its length in this number of bytes, and the magic bytes.
_LENGTH_BYTES = 4


@contextmanager
def open_parquet(
    stored: StoredObject,
    output_form: OutputForm,
    share: float,
    sizes: MetadataSizes = METADATA_SIZES,
) -> Iterator[Columns | None]:
    """Open a delivered Parquet file.

    Parameters
    ----------
    stored : StoredObject
    output_form : OutputForm
    share : float
        Approximate share of the file that will be read, from 0 to 1.
    sizes : MetadataSizes

    Yields
    ------
    Columns or None
        None if the file has no columns.

    Raises
    ------
    CorruptFile
        If it is not a Parquet file.
    """
    import pyarrow.parquet

    tail = sizes.of(len(output_form.columns))
    if stored.is_worth_whole(share, tail):
        stored.need_all()
        stored.check_magic(MAGIC, "Parquet")
    _fetch_footer(stored, tail)
    with pyarrow.parquet.ParquetFile(_StoredFile(stored)) as file:
        if not len(file.schema_arrow):
            yield None
            return
        schema = file.schema_arrow
        first, stop = _rows_of_tree(stored, file, output_form)
        read = partial(_read_row_groups, stored, file, first)
        counted = counted_columns(output_form.base_form)
        names = parquet_form(schema).fields if _is_tuple(schema) else schema.names
        yield Columns(stored.name, stop - first, names, partial(_forms_of, schema), read, counted)


def _rows_of_tree(stored: StoredObject, file: Any, output_form: OutputForm) -> tuple[int, int]:
    """Return the first row of the tree that events are made of, and the row after the last."""
    if len(output_form.trees) == 1:
        return 0, file.metadata.num_rows
    all_groups = range(file.metadata.num_row_groups)
    stored.need(_chunk_ranges(file.metadata, all_groups, [TREENAME]))
    names = ak.from_arrow(file.read(columns=[TREENAME]))[TREENAME]
    rows = np.flatnonzero(ak.to_numpy(names == output_form.tree))
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)


def _is_tuple(schema: Any) -> bool:
    """Return True if the columns are fields of a column without a name, as those of tuples are."""
    return bool(schema.names == [""])


def _forms_of(schema: Any, names: Sequence[str]) -> dict[str, Any]:
    import pyarrow

    if not _is_tuple(schema):
        fields = [schema.field(name) for name in names if name in schema.names]
        if not fields:
            return {}
        schema = pyarrow.schema(fields, metadata=schema.metadata)
    form = parquet_form(schema)
    return {name: form.content(name) for name in names if name in form.fields}


def _fetch_footer(stored: StoredObject, tail: int) -> None:
    """Fetch the list of columns; the size of the object may turn out to be another."""
    size = -1
    while size != stored.size:
        size = stored.size
        stored.need([(max(0, size - tail), size)])
    footer = max(0, size - _LENGTH_BYTES - len(MAGIC))
    end = bytes(stored.read(footer, size))
    if not end.endswith(MAGIC):
        raise CorruptFile(
            f"The object {stored.name!r} does not end as Parquet files do; its last bytes are "
            f"{end!r}.",
            object_name=stored.name,
        )
    length = int.from_bytes(end[:_LENGTH_BYTES], "little")
    stored.need([(max(0, footer - length), size)])


def _read_row_groups(
    stored: StoredObject, file: Any, offset: int, names: Sequence[str], start: int, stop: int
) -> dict[str, Any]:
    if not names:
        return {}
    start, stop = start + offset, stop + offset
    groups, first = _groups_of(file.metadata, start, stop)
    columns = [""] if _is_tuple(file.schema_arrow) else list(names)
    stored.need(_chunk_ranges(file.metadata, groups, columns))
    table = file.read_row_groups(groups, columns=columns)
    stored.forget()  # the table has copies
    array = ak.from_arrow(table)[start - first : stop - first]
    return {name: array[name] for name in names}


def _groups_of(metadata: Any, start: int, stop: int) -> tuple[list[int], int]:
    """Return the row groups that hold some events, and the first event in them."""
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    groups = np.flatnonzero((ends - sizes < stop) & (ends > start)).tolist()
    return groups, int(ends[groups[0]] - sizes[groups[0]]) if groups else start


def _chunk_ranges(
    metadata: Any, groups: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of some columns in some row groups."""
    wanted = set(names)
    for group in map(metadata.row_group, groups):
        for chunk in map(group.column, range(group.num_columns)):
            # A path begins with the name of a column, which may have dots.
            path = chunk.path_in_schema.split(".")
            if wanted.intersection(accumulate(path, "{}.{}".format)):
                start = chunk.data_page_offset
                if chunk.dictionary_page_offset is not None:
                    start = min(start, chunk.dictionary_page_offset)
                yield start, start + chunk.total_compressed_size


class _StoredFile(io.RawIOBase):
    """A stored object as a file."""

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stored.size}
        self._position = origin[whence] + offset
        return self._position

    def read(self, size: int | None = -1) -> Any:
        """Return the next bytes, without copying them."""
        end = self._stored.size
        stop = end if size is None or size < 0 else min(end, self._position + size)
        data = self._stored.read(self._position, stop)
        self._position += len(data)
        return data
