"""Work items of coffea for files that ServiceX delivers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from coffea.processor.executor import WorkItem

from ..storage.filesystem import address_of_index

# The end of a file whose number of events is not known: coffea reads to the end of the file.
OPEN_END = 2**62


def file_uuid(request_id: str, input_file: str) -> bytes:
    """Return the identity of a delivered file, for checkpointers and caches.

    Not of its position, which differs among lists of another order.
    """
    return uuid5(NAMESPACE_URL, f"{request_id}/{input_file}").bytes


def work_items(
    dataset: str,
    treename: str,
    result_format: str,
    files: Mapping[int, tuple[str, int, str]],
    counts: Mapping[int, int],
    chunksize: int | None,
    metadata: Mapping[str, Any],
) -> Iterator[WorkItem]:
    """Yield the work items of the files of a dataset.

    Parameters
    ----------
    dataset : str
    treename : str
        Tree in the delivered files.
    result_format : {"root-file", "root-rntuple", "parquet"}
    files : mapping of int to tuple of str, int and str
        For each partition: the request that delivers its file, the position of the file there, and
        the input file.
    counts : mapping of int to int
        Number of events of the partitions, where it is known.
    chunksize : int, optional
        Largest number of events of an item, where numbers of events are known.
    metadata : mapping
        Becomes part of ``events.metadata``.
    """
    for partition, (request_id, index, input_file) in files.items():
        where = address_of_index(request_id, index, result_format)
        uuid = file_uuid(request_id, input_file)
        about = {**metadata, "input_file": input_file, "partition": partition}
        starts = [0]
        if chunksize is not None and partition in counts:
            starts = list(range(0, counts[partition], chunksize)) or [0]
        for start, stop in zip(starts, [*starts[1:], OPEN_END], strict=True):
            yield WorkItem(dataset, where, treename, start, stop, uuid, about)
