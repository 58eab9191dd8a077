"""Private and undocumented API of uproot, tested with uproot 5.7.7."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import uproot

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
