"""Open TTrees and RNTuples with uproot, over bytes that are fetched in few requests."""

from __future__ import annotations

import queue
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import uproot
from uproot.source.chunk import Chunk, Source

from ..errors import CorruptFile, FormMismatch
from ..forms import OutputForm
from ..forms.counters import counted_columns
from ..storage.stored import StoredObject
from .columns import Columns

MAGIC = b"root"
# Where uproot's writer puts all that is not events, if it writes them in one go: at the beginning.
HEAD = 64 << 10
HEAD_PER_COLUMN = 1 << 10
# An RNTuple has its list of columns there, and its lists of pages at the end.
TAIL = 64 << 10
# uproot keeps what describes a file while it is open, which must not keep all of its bytes.
COPIED = 64 << 10
# Two threads decompress large baskets faster than one, and small ones slower; bytes.
LARGE_BASKET = 128 << 10

# Columns of an RNTuple that are read together: their bytes are dropped when they are read.
BATCH = 8

_PHYSICAL_COLUMN = re.compile(r'"column-(\d+)')


class StoredSource(Source):
    """Gives uproot the bytes of a stored object, without copying them."""

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
        """Whether the file was closed."""
        return self._is_closed

    @property
    def num_bytes(self) -> int:
        """Size of the object, bytes."""
        return self._stored.size

    def chunk(self, start: int, stop: int) -> Chunk:
        """Return one range."""
        data = self._stored.read(start, min(stop, max(start, self._stored.size)))
        if len(data) <= COPIED:
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
    stored: StoredObject, delivered: OutputForm, share: float
) -> Iterator[Columns | None]:
    """Open the tree of a delivered file.

    Parameters
    ----------
    stored : StoredObject
    delivered : OutputForm
    share : float
        How much of the file will be read, about.

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
    _fetch_first(stored, delivered, share)
    stored.check_magic(MAGIC, "ROOT")
    with uproot.open(
        {stored.name: None},
        handler=StoredSource,
        stored=stored,
        array_cache=None,
        object_cache=None,
    ) as file:
        held = file.keys(cycle=False)
        if not held:
            if file.file.fEND != stored.size:
                # A header of zeros says the same as that of a file with nothing in it.
                raise CorruptFile(
                    f"The object {stored.name!r} of {stored.size} bytes says that it ends at byte "
                    f"{file.file.fEND}.",
                    object_name=stored.name,
                )
            yield None
            return
        if delivered.tree not in file:
            raise no_tree(delivered.tree, held)
        tree = file[delivered.tree]
        yield _ntuple(tree, stored, delivered) if delivered.is_rntuple else _ttree(tree, stored)


def no_tree(expected: str, held: Sequence[str]) -> FormMismatch:
    """Make the error for a file that does not hold the tree."""
    return FormMismatch(
        f"The file should hold the tree {expected!r}; it holds "
        f"{', '.join(map(repr, held)) or 'nothing'}.",
        column="",
        expected=expected,
        found=", ".join(held),
    )


def _fetch_first(stored: StoredObject, delivered: OutputForm, share: float) -> None:
    """Fetch what tells where the columns are, or all."""
    head = HEAD + HEAD_PER_COLUMN * len(delivered.columns)
    if delivered.is_rntuple and not stored.is_small:
        # Not the whole object, whose bytes could not be dropped column by column.
        stored.need([(0, head), (stored.size - TAIL, stored.size)])
    elif delivered.is_rntuple or stored.is_worth_whole(share, head):
        stored.need_all()
    else:
        stored.need([(0, head)])


def _ttree(tree: Any, stored: StoredObject) -> Columns:
    names = frozenset(tree.keys(full_paths=True))
    read = partial(_read_baskets, tree, stored)
    return Columns(stored.name, tree.num_entries, names, partial(branch_forms, tree), read, {})


def branch_forms(tree: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the forms of some columns of a tree, of those that it has.

    Parameters
    ----------
    tree : uproot.TTree
    names : iterable of str
    """
    there = frozenset(tree.keys(full_paths=True)).intersection(names)
    return {name: tree[name].interpretation.awkward_form(tree.file) for name in there}


def _read_baskets(
    tree: Any, stored: StoredObject, names: Sequence[str], start: int, stop: int
) -> dict[str, Any]:
    branches = [tree[name] for name in names]
    n_baskets = sum(branch.num_baskets for branch in branches)
    nbytes = sum(branch.compressed_bytes for branch in branches)
    is_worth_threads = n_baskets > 1 and nbytes > n_baskets * LARGE_BASKET
    threads = ThreadPoolExecutor(2) if is_worth_threads else nullcontext()
    with threads as executor:
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


def _ntuple(ntuple: Any, stored: StoredObject, delivered: OutputForm) -> Columns:
    fields = _Fields(ntuple, stored)
    names = frozenset(field.name for field in ntuple.fields)
    counted = counted_columns(delivered.base_form)
    return Columns(stored.name, ntuple.num_entries, names, fields.forms_of, fields.read, counted)


class _Fields:
    """The fields of an open RNTuple."""

    def __init__(self, ntuple: Any, stored: StoredObject) -> None:
        self._ntuple = ntuple
        self._stored = stored
        self._forms: dict[frozenset[str], Any] = {}

    def forms_of(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the forms of some fields, of those that there are."""
        form = self._form(names)
        return dict(zip(form.fields, form.contents, strict=True))

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        """Read fields from one event to another."""
        # uproot asks for pages one by one; they are few requests when asked for together.
        batches = [names[i : i + BATCH] for i in range(0, len(names), BATCH)]
        pages = [list(self._pages(batch, start, stop)) for batch in batches]
        self._stored.need(chain.from_iterable(pages))
        arrays: dict[str, Any] = {}
        for batch, read in zip(batches, pages, strict=True):
            array = self._ntuple.arrays(filter_name=list(batch), entry_start=start, entry_stop=stop)
            arrays.update((name, array[name]) for name in batch)
            self._stored.drop(read)  # the array has copies
        self._stored.forget()
        return arrays

    def _form(self, names: Sequence[str]) -> Any:
        """Return the form of some fields, which takes a while to make and is asked for twice."""
        key = frozenset(names)
        if key not in self._forms:
            self._forms[key], _ = self._ntuple.to_akform(filter_name=list(names))
        return self._forms[key]

    def _pages(self, names: Sequence[str], start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Return where the pages of some fields and events are."""
        form = self._form(names).to_json()
        numbers = {int(number) for number in _PHYSICAL_COLUMN.findall(form)}
        clusters = zip(self._ntuple.cluster_summaries, self._ntuple.page_link_list, strict=True)
        for cluster, pages in clusters:
            first = cluster.num_first_entry
            if first < stop and start < first + cluster.num_entries:
                for place in (page.locator for n in numbers for page in pages[n].pages):
                    yield place.offset, place.offset + place.num_bytes
