"""TTrees and RNTuples, opened with uproot over a stored object."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import uproot
from uproot.source.chunk import Chunk, Source

from .._upstream.uproot import page_ranges
from ..errors import CorruptFile, FormMismatch
from ..forms import OutputForm
from ..forms.counters import counted_columns
from ..storage.stored import StoredObject
from .columns import METADATA_SIZES, Columns, MetadataSizes

MAGIC = b"root"
# uproot keeps what describes a file while it is open, which must not keep all bytes of the file.
_COPIED_BYTES = 64 << 10
# Two threads decompress larger baskets faster than one thread, and smaller baskets more slowly.
_LARGE_BASKET_BYTES = 128 << 10
# Columns of an RNTuple that are read together: then their bytes are dropped.
_BATCH = 8


class StoredSource(Source):
    """The bytes of a stored object for uproot, without copying them."""

    def __init__(self, file_path: str, *, stored: StoredObject, **options: Any) -> None:
        super().__init__()
        self._file_path = file_path
        self._stored = stored
        self._is_closed = False

    def __enter__(self) -> StoredSource:
        return self

    def __exit__(self, *error: object) -> None:
        self._is_closed = True

    @property
    def closed(self) -> bool:
        """True if the file was closed."""
        return self._is_closed

    @property
    def num_bytes(self) -> int:
        """Size of the object, bytes."""
        return self._stored.size

    def chunk(self, start: int, stop: int) -> Chunk:
        """Return a range of bytes."""
        data = self._stored.read(start, min(stop, max(start, self._stored.size)))
        if len(data) <= _COPIED_BYTES:
            data = memoryview(bytes(data))
        return Chunk.wrap(self, np.frombuffer(data, np.uint8), start)

    def chunks(
        self, ranges: Sequence[tuple[int, int]], notifications: queue.Queue[Any]
    ) -> list[Chunk]:
        """Return many ranges, fetched together."""
        self._stored.need(ranges)
        chunks = [self.chunk(start, stop) for start, stop in ranges]
        for chunk in chunks:
            notifications.put(chunk)
        return chunks


@contextmanager
def open_root(
    stored: StoredObject,
    output_form: OutputForm,
    share: float,
    sizes: MetadataSizes = METADATA_SIZES,
) -> Iterator[Columns | None]:
    """Open the tree of a delivered ROOT file.

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
        None if the file holds nothing at all.

    Raises
    ------
    FormMismatch
        If the file holds other trees.
    CorruptFile
        If it is no ROOT file.
    """
    _fetch_metadata(stored, output_form, share, sizes)
    stored.check_magic(MAGIC, "ROOT")
    with uproot.open(
        {stored.name: None},
        handler=StoredSource,
        stored=stored,
        array_cache=None,
        object_cache=None,
    ) as file:
        names = file.keys(cycle=False)
        if not names:
            if file.file.fEND != stored.size:
                # A header of zeros looks like that of a file with nothing in it.
                raise CorruptFile(
                    f"The object {stored.name!r} of {stored.size} bytes says that it ends at byte "
                    f"{file.file.fEND}.",
                    object_name=stored.name,
                )
            yield None
            return
        if output_form.tree not in file:
            raise no_tree(output_form.tree, names)
        tree = file[output_form.tree]
        yield _ntuple(tree, stored, output_form) if output_form.is_rntuple else _ttree(tree, stored)


def no_tree(expected: str, names: Sequence[str]) -> FormMismatch:
    """Return the error for a file without the expected tree."""
    return FormMismatch(
        f"The file should hold the tree {expected!r}; it holds "
        f"{', '.join(map(repr, names)) or 'nothing'}.",
        column="",
        expected=expected,
        found=", ".join(names),
    )


def _fetch_metadata(
    stored: StoredObject, output_form: OutputForm, share: float, sizes: MetadataSizes
) -> None:
    """Fetch the bytes that locate the columns, or all bytes."""
    head = sizes.of(len(output_form.columns))
    if output_form.is_rntuple and not stored.is_small:
        # Fetched as a whole, its bytes could not be dropped column by column.
        stored.need([(0, head), (stored.size - sizes.block, stored.size)])
    elif output_form.is_rntuple or stored.is_worth_whole(share, head):
        stored.need_all()
    else:
        stored.need([(0, head)])


def _ttree(tree: Any, stored: StoredObject) -> Columns:
    names = frozenset(tree.keys(full_paths=True))
    read = partial(_read_baskets, tree, stored)
    return Columns(stored.name, tree.num_entries, names, partial(branch_forms, tree), read, {})


def branch_forms(tree: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the forms of those of some columns that a tree has.

    Parameters
    ----------
    tree : uproot.TTree
    names : iterable of str
    """
    existing = frozenset(tree.keys(full_paths=True)).intersection(names)
    return {name: tree[name].interpretation.awkward_form(tree.file) for name in existing}


def _read_baskets(
    tree: Any, stored: StoredObject, names: Sequence[str], start: int, stop: int
) -> dict[str, Any]:
    branches = [tree[name] for name in names]
    n_baskets = sum(branch.num_baskets for branch in branches)
    nbytes = sum(branch.compressed_bytes for branch in branches)
    is_worth_threads = n_baskets > 1 and nbytes > n_baskets * _LARGE_BASKET_BYTES
    with ThreadPoolExecutor(2) if is_worth_threads else nullcontext() as executor:
        arrays: dict[str, Any] = tree.arrays(
            list(names),
            entry_start=start,
            entry_stop=stop,
            decompression_executor=executor,
            array_cache=None,
            how=dict,
        )
    stored.forget()  # the arrays have copies
    return arrays


def _ntuple(ntuple: Any, stored: StoredObject, output_form: OutputForm) -> Columns:
    fields = _Fields(ntuple, stored)
    names = frozenset(field.name for field in ntuple.fields)
    counted = counted_columns(output_form.base_form)
    return Columns(stored.name, ntuple.num_entries, names, fields.forms_of, fields.read, counted)


class _Fields:
    """The fields of an open RNTuple."""

    def __init__(self, ntuple: Any, stored: StoredObject) -> None:
        self._ntuple = ntuple
        self._stored = stored
        self._forms: dict[frozenset[str], Any] = {}

    def forms_of(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the forms of those of some fields that the RNTuple has."""
        form = self._form(names)
        return dict(zip(form.fields, form.contents, strict=True))

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        """Read fields from one event to another."""
        # uproot fetches pages one by one; fetched together they take few requests.
        batches = [names[i : i + _BATCH] for i in range(0, len(names), _BATCH)]
        ranges = [
            list(page_ranges(self._ntuple, self._form(batch), start, stop)) for batch in batches
        ]
        self._stored.need(chain.from_iterable(ranges))
        arrays: dict[str, Any] = {}
        for batch, pages in zip(batches, ranges, strict=True):
            array = self._ntuple.arrays(filter_name=list(batch), entry_start=start, entry_stop=stop)
            arrays.update((name, array[name]) for name in batch)
            self._stored.drop(pages)  # the array has copies
        self._stored.forget()
        return arrays

    def _form(self, names: Sequence[str]) -> Any:
        """Return the form of some fields; it is slow to make, and needed twice."""
        key = frozenset(names)
        if key not in self._forms:
            self._forms[key], _ = self._ntuple.to_akform(filter_name=list(names))
        return self._forms[key]
