"""Numbers of events for the preprocessing of coffea's Runner, which then opens no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from coffea.processor.executor import FileMeta

from ..policy import LENIENT
from ..polling.outcomes import Delivered, Failed
from ..storage.filesystem import index_of
from ..virtual.parts import OpenFiles, Part
from .grants import OF_THE_FILE
from .items import file_uuid
from .pool import Delivery
from .schema import unpacked


class CountsCache(MutableMapping[FileMeta, dict[str, Any]]):
    """Metadata of delivered files, as ``Runner(metadata_cache=...)`` looks it up.

    A look-up waits until ServiceX has delivered the file. It makes a request to the store only
    where ServiceX does not count the delivered events, as for xAOD. Of other files it is a dict.

    Parameters
    ----------
    deliveries : mapping of str to Delivery
        By the id of the request.
    """

    def __init__(self, deliveries: Mapping[str, Delivery]) -> None:
        self._deliveries = deliveries
        self._counted: dict[tuple[str, int], tuple[Delivered, int] | None] = {}
        self._others: dict[FileMeta, dict[str, Any]] = {}

    def __getitem__(self, file: FileMeta) -> dict[str, Any]:
        where = index_of(file.filename)
        if where is None or where[0] not in self._deliveries:
            return self._others[file]
        if where not in self._counted:
            self._counted[where] = _count(self._deliveries[where[0]], where[1])
        counted = self._counted[where]
        if counted is None:  # coffea opens it, and may skip the error
            raise KeyError(file)
        delivered, n_events = counted
        return {
            **(file.metadata or {}),
            "input_file": delivered.input_file,
            "partition": self._deliveries[where[0]].partition(where[1]),
            "numentries": n_events,
            "uuid": file_uuid(where[0], delivered.input_file),
        }

    def __bool__(self) -> bool:
        return True

    def __setitem__(self, file: FileMeta, metadata: dict[str, Any]) -> None:
        self._others[file] = metadata

    def __delitem__(self, file: FileMeta) -> None:
        del self._others[file]

    def __iter__(self) -> Iterator[FileMeta]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)


def _count(delivery: Delivery, index: int) -> tuple[Delivered, int] | None:
    """Wait for a file; return it and its number of events, None if there are none to be read."""
    partition = delivery.partition(index)
    outcome = delivery.handle.results.wait(index, failure_policy=LENIENT)
    if isinstance(outcome, Failed):
        return None
    if delivery.trusts_counts and outcome.n_events is not None:
        return outcome, outcome.n_events
    part = Part(partition, delivery.npartitions, delivery.handle, outcome)
    try:
        return outcome, OpenFiles(unpacked(delivery.form)).n_events(part)
    except OF_THE_FILE:
        return None
