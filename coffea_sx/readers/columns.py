"""Columns of an open file of any format, in the shape of an open tree of uproot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import awkward as ak
import numpy as np

from ..errors import CorruptFile, FormMismatch, ServiceXError

FormsOf = Callable[[Sequence[str]], Mapping[str, Any]]
Read = Callable[[Sequence[str], int, int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class MetadataSizes:
    """Bytes to fetch at first, to find the columns of a file without a further request.

    Attributes
    ----------
    block : int
        Bytes that hold the list of columns of a file without columns: at the beginning of the ROOT
        files of uproot's writer, at the end of Parquet files, and both in RNTuples, which have
        their lists of pages at the end.
    per_column : int
        Additional bytes for each column.
    """

    block: int = 64 << 10
    per_column: int = 1 << 10

    def of(self, n_columns: int) -> int:
        """Return the bytes that hold the list of columns."""
        return self.block + self.per_column * n_columns


METADATA_SIZES = MetadataSizes()


@contextmanager
def parsing(object_name: str) -> Iterator[None]:
    """Convert errors of a parser into errors of the file.

    Only for code that parses the bytes of an object: never around code of coffea or of users, whose
    errors are no errors of the file.

    Raises
    ------
    CorruptFile
    """
    try:
        yield
    except (ServiceXError, MemoryError):
        raise
    except Exception as error:
        # Parsers raise many kinds of errors for bytes that they cannot read.
        raise CorruptFile(
            f"The object {object_name!r} cannot be read: {type(error).__name__}: {error}.",
            object_name=object_name,
        ) from None


class Columns:
    """The columns of a file, for uproot's reader and coffea's mapping instead of an open tree.

    Parameters
    ----------
    name : str
        Name of the file.
    n_events : int
    names : collection of str
        The columns of the file.
    forms_of : callable
        Returns the forms of those of some columns that the file has, by name.
    read : callable
        Reads columns from one event to another.
    counted : mapping of str to str
        Counters that the file lacks, each with the column whose entries it counts.

    Attributes
    ----------
    wider : mapping of str to numpy.dtype
        Types to which numbers are converted.
    collections : sequence of sequence of str
        Columns that must have the same numbers of entries.
    """

    def __init__(
        self,
        name: str,
        n_events: int,
        names: Collection[str],
        forms_of: FormsOf,
        read: Read,
        counted: Mapping[str, str],
    ) -> None:
        self.n_events = n_events
        self.forms_of = forms_of
        self.counted = counted
        self.wider: Mapping[str, Any] = {}
        self.collections: Sequence[Sequence[str]] = ()
        self._name = name
        self._names = names
        self._read = read
        # Attributes of a tree from which coffea's mapping makes the keys of its arrays.
        self.object_path = ""
        self.file = SimpleNamespace(uuid=uuid5(NAMESPACE_URL, name), file_path=name)
        self.source = SimpleNamespace(performance_counters=None)

    def in_file(self, names: Sequence[str]) -> list[str]:
        """Return the columns of the file from which some columns and counters are made."""
        return list(dict.fromkeys(self.counted.get(name, name) for name in names))

    def __contains__(self, name: str) -> bool:
        return name in self._names or name in self.counted

    def arrays(
        self, names: Sequence[str], entry_start: int, entry_stop: int, **options: Any
    ) -> dict[str, Any]:
        """Read columns as ``uproot.TTree.arrays(how=dict)`` does.

        Raises
        ------
        CorruptFile
            If the bytes of the file cannot be parsed.
        FormMismatch
            If columns of one collection do not have the same numbers of entries.
        ReadError
            If the bytes cannot be fetched.
        """
        with parsing(self._name):
            columns = self._read(self.in_file(names), entry_start, entry_stop)
            arrays = {name: self._array(name, columns) for name in names}
            for name, array in arrays.items():
                _check_structure(name, array)
            for group in self.collections:
                _check_lengths({name: arrays[name] for name in group if name in arrays})
            # Lists of a part of a file may begin after other entries, which coffea does not expect.
            return {name: ak.to_packed(_with_indices(array)) for name, array in arrays.items()}

    def _array(self, name: str, columns: Mapping[str, Any]) -> Any:
        if name in self.counted:
            return ak.values_astype(ak.num(columns[self.counted[name]], axis=1), np.int32)
        array = columns[name]
        return ak.values_astype(array, self.wider[name]) if name in self.wider else array


def _with_indices(array: Any) -> Any:
    """Convert missing values to an array of indices, as in the form of events."""

    def indexed(layout: Any, **options: Any) -> Any:
        return layout.to_IndexedOptionArray64() if layout.is_option else None

    return ak.transform(indexed, array)


def _check_structure(name: str, array: Any) -> None:
    """Check that lists begin and end within their entries: coffea does not check that.

    Raises
    ------
    ValueError
    """
    error = ak.validity_error(array)
    if error:
        raise ValueError(f"column {name!r}: {error}")


def _check_lengths(columns: Mapping[str, Any]) -> None:
    """Check that columns of one collection have the same number of entries in each event.

    Raises
    ------
    FormMismatch
    """
    counts = {name: counts_of(array) for name, array in columns.items()}
    first = next(iter(counts), "")
    for name, count in counts.items():
        event = first_difference(counts[first], count)
        if event is not None:
            numbers = int(counts[first][event]), int(count[event])
            raise unequal_entries(first, name, *numbers, f"event {event} of the partition")


def counts_of(array: Any) -> Any:
    """Return the numbers of entries: of lists, or those in a counter."""
    return ak.to_numpy(ak.num(array, axis=1) if array.ndim > 1 else array)


def first_difference(expected: Any, counts: Any) -> int | None:
    """Return the first event in which numbers of entries differ."""
    if np.array_equal(expected, counts):
        return None
    return int(np.flatnonzero(expected != counts)[0])


def unequal_entries(
    first: str, name: str, expected: int, found: int, where: str, **facts: Any
) -> FormMismatch:
    """Return the error for columns of a collection with different numbers of entries."""
    return FormMismatch(
        f"The columns {first!r} and {name!r} are of one collection, and have {expected} "
        f"and {found} entries in {where}. The query cuts one of "
        "them: apply the same Where to all columns of a collection, and to its counter, or "
        "rename the columns that do not belong to the collection.",
        column=name,
        expected=f"{expected} entries",
        found=f"{found} entries",
        **facts,
    )
