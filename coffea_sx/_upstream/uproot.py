"""Private and undocumented API of uproot, tested with uproot 5.7.7."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import awkward as ak
import uproot
from uproot import _dask

_PHYSICAL_COLUMN = re.compile(r'"column-(\d+)')


def partition_reader(form: Any, tree: str, form_mapping: Any, documentation: Any) -> Any:
    """Return the function of ``uproot.dask`` that reads a partition. No file is opened.

    It implements dask-awkward's protocols for mocking and column projection. A public class of
    uproot for reading partitions would replace it.

    Parameters
    ----------
    form : awkward.forms.RecordForm
        Form of the columns.
    tree : str
    form_mapping : object
        Makes events of the columns.
    documentation : dict
        As ``ak_add_doc`` of ``uproot.dask``.
    """
    events = uproot.dask(
        {"not opened": tree},
        open_files=False,
        known_base_form=form,
        full_paths=True,
        ak_add_doc=documentation,
        form_mapping=form_mapping,
    )
    (layer,) = events.dask.layers.values()
    return layer.io_func


def tree_form(
    tree: Any,
    filter_branch: Callable[[Any], Any],
    *,
    full_paths: bool = False,
    documentation: Any = False,
) -> Any:
    """Return the form that ``uproot.dask`` gives to the events of an open tree.

    What: the functions with which ``uproot.dask`` makes the form, before it calls dask-awkward.
    Why: servers and coffea read trees with ``uproot.dask``, and dask need not be installed here.
    Tested with: uproot 5.7.7.
    Public replacement: a function of uproot that returns the form of a tree.

    Parameters
    ----------
    tree : uproot.TTree
    filter_branch : callable
        Returns True for the branches that are read.
    full_paths : bool
        Name branches below others by their paths.
    documentation : bool or dict
        As ``ak_add_doc`` of ``uproot.dask``.

    Raises
    ------
    ValueError
        If no branch passes the filter.
    Exception
        Whatever uproot raises for a branch that it does not understand.
    """
    keys = tree.keys(filter_branch=filter_branch, full_paths=full_paths, ignore_duplicates=True)
    if not keys:
        raise ValueError(f"no branch of the tree {tree.name!r} can be read")
    keys = _dask._normalize_grouped_keys(tree, keys, full_paths)
    return _dask._base_form_of(tree, keys, documentation, form_mapping=True)


def columns_to_read(reader: Any) -> frozenset[str]:
    """Return the columns that a `partition_reader` was projected to."""
    return frozenset(reader.common_keys)


def read_entries(reader: Any, tree: Any, start: int, stop: int) -> Any:
    """Read some entries of an open tree with a `partition_reader`.

    The public call of the reader opens a file by its path; here the tree is open already.
    """
    array, _ = reader.read_tree(tree, start, stop)
    return array


def page_ranges(ntuple: Any, form: Any, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of the pages of some fields and entries of an RNTuple.

    uproot fetches pages one by one; fetched together they take few requests. ``RNTuple.arrays``
    would replace it if it read all pages with ``Source.chunks``.

    Parameters
    ----------
    ntuple : uproot.models.RNTuple
    form : awkward.forms.RecordForm
        Form of the fields, from ``ntuple.to_akform``: its form keys number the columns.
    start, stop : int
        Entries.
    """
    numbers = {int(number) for number in _PHYSICAL_COLUMN.findall(form.to_json())}
    for cluster, pages in zip(ntuple.cluster_summaries, ntuple.page_link_list, strict=True):
        first = cluster.num_first_entry
        if first < stop and start < first + cluster.num_entries:
            for locator in (page.locator for n in numbers for page in pages[n].pages):
                yield locator.offset, locator.offset + locator.num_bytes


class RowlessTree(uproot.behaviors.TBranch.HasBranches):
    """A tree that has branches and no rows, for uproot's own reader.

    ``arrays`` applies filters, aliases, expressions and cuts. It needs members of trees, branches
    and interpretations that uproot does not document. A public function of uproot that applies a
    query to a form would replace it.

    Parameters
    ----------
    name : str
    forms : mapping of str to awkward.forms.Form
        Form of the array that each branch gives.
    typenames : mapping of str to str
        C++ type of each branch, for ``filter_typename``.
    """

    aliases: Mapping[str, str] = {}
    num_entries = 0
    _file = None

    def __init__(self, name: str, forms: Mapping[str, Any], typenames: Mapping[str, str]) -> None:
        self.object_path = name
        self.file = SimpleNamespace(file_path="<input form>")
        self._branches = {
            column: _Branch(self, column, form, typenames[column]) for column, form in forms.items()
        }

    @property
    def branches(self) -> list[_Branch]:
        """The branches in their order."""
        return list(self._branches.values())

    @property
    def tree(self) -> RowlessTree:
        """The tree itself."""
        return self

    def __getitem__(self, name: str) -> _Branch:
        return self._branches[name.removeprefix("/")]


class _Branch:
    """A branch, and its own interpretation."""

    def __init__(self, parent: RowlessTree, name: str, form: Any, typename: str) -> None:
        self.parent, self.typename, self._form = parent, typename, form
        self.name = self.cache_key = name

    @property
    def interpretation(self) -> _Branch:
        return self

    def iteritems(self, **_: Any) -> Iterator[tuple[str, _Branch]]:
        """Yield the branches below this branch: none."""
        return iter(())

    def entries_to_ranges_or_baskets(self, *_: Any) -> list[Any]:
        """Return the parts of a file that are read: none."""
        return []

    def final_array(self, *_: Any) -> Any:
        """Return the array that uproot would have read."""
        return ak.Array(self._form.length_zero_array(highlevel=False))
