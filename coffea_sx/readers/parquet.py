"""Open Parquet files with pyarrow, over bytes that are fetched in few requests."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..errors import CorruptFile
from ..forms import OutputForm
from ..forms.counters import counted_columns
from ..forms.file_forms import parquet_form
from ..forms.writers import TREENAME
from ..storage.stored import StoredObject
from .columns import Columns

MAGIC = b"PAR1"
# The list of columns is at the end of the file; bytes.
TAIL = 64 << 10
TAIL_PER_COLUMN = 1 << 10
# The last bytes of all: the length of the list of columns, and the magic ones.
_LENGTH = 4


@contextmanager
def open_parquet(
    stored: StoredObject, delivered: OutputForm, share: float
) -> Iterator[Columns | None]:
    """Open a delivered Parquet file.

    Parameters
    ----------
    stored : StoredObject
    delivered : OutputForm
    share : float
        How much of the file will be read, about.

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

    tail = TAIL + TAIL_PER_COLUMN * len(delivered.columns)
    if stored.is_worth_whole(share, tail):
        stored.need_all()
        stored.check_magic(MAGIC, "Parquet")
    _fetch_footer(stored, tail)
    with pyarrow.parquet.ParquetFile(_StoredFile(stored)) as file:
        if not len(file.schema_arrow):
            yield None
            return
        schema = file.schema_arrow
        first, stop = _rows_of_tree(stored, file, delivered)
        read = partial(_read_row_groups, stored, file, first)
        counted = counted_columns(delivered.base_form)
        forms_of = partial(_forms_of, schema)
        names = parquet_form(schema).fields if _is_tuple(schema) else schema.names
        yield Columns(stored.name, stop - first, names, forms_of, read, counted)


def _rows_of_tree(stored: StoredObject, file: Any, delivered: OutputForm) -> tuple[int, int]:
    """Return the rows of the tree that events are made of, which are one after the other."""
    if len(delivered.trees) == 1:
        return 0, file.metadata.num_rows
    import awkward as ak
    import numpy as np

    everything = range(file.metadata.num_row_groups)
    stored.need(_chunks_of(file.metadata, everything, [TREENAME]))
    names = ak.from_arrow(file.read(columns=[TREENAME]))[TREENAME]
    rows = np.flatnonzero(ak.to_numpy(names == delivered.tree))
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)


def _is_tuple(schema: Any) -> bool:
    """Whether the columns are parts of one without a name, as those of tuples are."""
    return bool(schema.names == [""])


def _forms_of(schema: Any, names: Sequence[str]) -> dict[str, Any]:
    import pyarrow

    if not _is_tuple(schema):
        there = [schema.field(name) for name in names if name in schema.names]
        if not there:
            return {}
        schema = pyarrow.schema(there, metadata=schema.metadata)
    form = parquet_form(schema)
    return {name: form.content(name) for name in names if name in form.fields}


def _fetch_footer(stored: StoredObject, tail: int) -> None:
    """Fetch the list of columns, wherever the file really ends."""
    told = -1
    while told != stored.size:
        told = stored.size
        stored.need([(max(0, told - tail), told)])
    end = bytes(stored.read(max(0, told - _LENGTH - len(MAGIC)), told))
    if not end.endswith(MAGIC):
        raise CorruptFile(
            f"The object {stored.name!r} does not end as Parquet files do; its last bytes are "
            f"{end!r}.",
            object_name=stored.name,
        )
    length = int.from_bytes(end[:_LENGTH], "little")
    stored.need([(max(0, told - _LENGTH - len(MAGIC) - length), told)])


def _read_row_groups(
    stored: StoredObject, file: Any, offset: int, names: Sequence[str], start: int, stop: int
) -> dict[str, Any]:
    import awkward as ak

    if not names:
        return {}
    start, stop = start + offset, stop + offset
    groups, first = _groups_of(file.metadata, start, stop)
    columns = [""] if _is_tuple(file.schema_arrow) else list(names)
    stored.need(_chunks_of(file.metadata, groups, columns))
    table = file.read_row_groups(groups, columns=columns)
    stored.forget()  # the table has copies
    array = ak.from_arrow(table)[start - first : stop - first]
    return {name: array[name] for name in names}


def _groups_of(metadata: Any, start: int, stop: int) -> tuple[list[int], int]:
    """Return the row groups that hold some events, and the first event in them."""
    groups: list[int] = []
    first = position = 0
    for group in range(metadata.num_row_groups):
        end = position + metadata.row_group(group).num_rows
        if position < stop and start < end:
            if not groups:
                first = position
            groups.append(group)
        position = end
    return groups, first if groups else start


def _chunks_of(
    metadata: Any, groups: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[int, int]]:
    wanted = set(names)
    for group in map(metadata.row_group, groups):
        for chunk in map(group.column, range(group.num_columns)):
            path = chunk.path_in_schema
            if wanted.intersection(_heads(path)):
                start = chunk.data_page_offset
                if chunk.dictionary_page_offset is not None:
                    start = min(start, chunk.dictionary_page_offset)
                yield start, start + chunk.total_compressed_size


def _heads(path: str) -> Iterator[str]:
    """Return what may be the name of the column that a path is in: names may have dots."""
    parts = path.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts) + 1))


class _StoredFile(io.RawIOBase):
    """Reads a stored object as a file."""

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
