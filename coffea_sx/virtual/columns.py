"""Columns of several delivered files, each joined from all files when it is touched."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import awkward as ak

from ..forms import OutputForm
from ..readers.columns import counts_of, first_difference, unequal_entries
from .parts import OpenFiles, Part, in_parallel


class JoinedColumns(Mapping[str, "Column"]):
    """Columns by name, for coffea's mapping of columns to events.

    Parameters
    ----------
    parts : sequence of Part
        In the order of the events.
    lengths : sequence of int
        Number of events of each part.
    files : OpenFiles
    output_form : OutputForm
    collections : sequence of sequence of str
        Columns that must have the same numbers of entries: from `collection_columns`.
    start, stop : int
        The events to read, counted over all parts.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        lengths: Sequence[int],
        files: OpenFiles,
        output_form: OutputForm,
        collections: Sequence[Sequence[str]],
        start: int,
        stop: int,
    ) -> None:
        self.n_events = stop - start
        self._form = output_form.events_form
        self._files = files
        self._pieces = list(_pieces(parts, lengths, start, stop))
        self._groups = {name: group[0] for group in collections for name in group}
        self._counts: dict[str, tuple[str, Any]] = {}
        # The columns that were read last: a list is touched twice, for its lengths and entries.
        self._last: dict[str, Any] = {}
        self._preloaded: dict[str, Any] = {}
        self._lock = threading.RLock()

    def __getitem__(self, name: str) -> Column:
        if name not in self._form.fields:
            raise KeyError(name)
        return Column(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._form.fields)

    def __len__(self) -> int:
        return len(self._form.fields)

    def read(self, names: Sequence[str]) -> dict[str, Any]:
        """Read columns of all files, in parallel over files.

        Returns
        -------
        dict of str to awkward.Array
            Each with one entry for each event.

        Raises
        ------
        ReadError
            If a file cannot be read, or is another than promised; the error names it.
        """
        with self._lock:
            held = self._preloaded if self._preloaded.keys() >= set(names) else self._last
            if not held.keys() >= set(names):
                self._last = {}  # so that no more than one set of columns is held
                held = self._last = self._read(names)
            return {name: held[name] for name in names}

    def preload(self, names: Sequence[str]) -> None:
        """Read columns together, and hold them. Errors are those of `read`."""
        if names:
            self._preloaded = self._read(names)

    def _read(self, names: Sequence[str]) -> dict[str, Any]:
        read = partial(_read_piece, self._files, names)
        pieces = [piece for piece in in_parallel(read, self._pieces) if piece]
        return {name: self._joined(name, pieces) for name in names}

    def _joined(self, name: str, pieces: Sequence[Mapping[str, Any]]) -> Any:
        if pieces:
            arrays = [piece[name] for piece in pieces]
            array = ak.to_packed(ak.concatenate(arrays)) if len(arrays) > 1 else arrays[0]
        else:
            array = ak.Array(self._form.content(name).length_zero_array(highlevel=False))
        self._check_lengths(name, array)
        return array

    def _check_lengths(self, name: str, array: Any) -> None:
        """Check that columns of one collection have the same number of entries in each event.

        Raises
        ------
        FormMismatch
        """
        group = self._groups.get(name)
        if group is None:
            return
        counts = counts_of(array)
        first, expected = self._counts.setdefault(group, (name, counts))
        event = first_difference(expected, counts)
        if event is not None:
            part, number = self._locate(event)
            input_file = part.delivered.input_file
            raise unequal_entries(
                first,
                name,
                int(expected[event]),
                int(counts[event]),
                f"event {number} of the file made of {input_file}",
                input_file=input_file,
                object_name=part.delivered.object_name,
            )

    def _locate(self, event: int) -> tuple[Part, int]:
        """Return the part of an event, and the number of the event in the part."""
        for part, _, start, stop in self._pieces:
            if event < stop - start:
                return part, start + event
            event -= stop - start
        raise IndexError(event)


class Column:
    """A column that is read when it is sliced, which coffea does once with all events."""

    def __init__(self, columns: JoinedColumns, name: str) -> None:
        self._columns = columns
        self._name = name

    def __getitem__(self, events: slice) -> Any:
        return self._columns.read([self._name])[self._name][events]


Piece = tuple[Part, int, int, int]
"""A part, its number of events, the first of its events to read, and the first not to read."""


def _pieces(
    parts: Sequence[Part], lengths: Sequence[int], start: int, stop: int
) -> Iterator[Piece]:
    first = 0
    for part, length in zip(parts, lengths, strict=True):
        begin, end = max(start - first, 0), min(stop - first, length)
        if begin < end:
            yield part, length, begin, end
        first += length


def _read_piece(files: OpenFiles, names: Sequence[str], piece: Piece) -> dict[str, Any]:
    part, length, start, stop = piece
    return files.read(part, names, length, start, stop)
