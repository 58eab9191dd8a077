"""What a delivered file holds, whatever its format: columns, as coffea's mapping reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from ..errors import CorruptFile, FormMismatch, ServiceXError

FormsOf = Callable[[Sequence[str]], Mapping[str, Any]]
Read = Callable[[Sequence[str], int, int], dict[str, Any]]


@contextmanager
def understanding(object_name: str) -> Iterator[None]:
    """Take what goes wrong for bytes that cannot be understood.

    Only for what parses the bytes of an object: never around code of coffea or of users, whose
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
        # Parsers report bytes that they do not understand with whatever they meet first.
        raise CorruptFile(
            f"The object {object_name!r} cannot be read: {type(error).__name__}: {error}.",
            object_name=object_name,
        ) from None


class Columns:
    """The columns of one file.

    Looks to uproot's reader and to coffea's mapping as an open tree does.

    Parameters
    ----------
    name : str
        Of the file.
    n_events : int
    names : collection of str
        The columns that the file has.
    forms_of : callable
        Gives the forms of columns by their names, of those that the file has.
    read : callable
        Reads columns from one event to another.
    counted : mapping of str to str
        Counters that the file does not have, to the columns they count.
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
        # What coffea's mapping asks of a tree, to name the arrays that it keeps.
        self.object_path = ""
        self.file = SimpleNamespace(uuid=uuid5(NAMESPACE_URL, name), file_path=name)
        self.source = SimpleNamespace(performance_counters=None)

    def real(self, names: Sequence[str]) -> list[str]:
        """Return the columns of the file that are read for some columns or counters."""
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
            If the bytes of the file cannot be understood.
        FormMismatch
            If columns of one collection do not have the same numbers of entries.
        ReadError
            If the bytes cannot be had.
        """
        with understanding(self._name):
            return self._arrays(names, entry_start, entry_stop)

    def _arrays(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Any]:
        import awkward as ak
        import numpy as np

        found = self._read(self.real(names), entry_start, entry_stop)
        arrays = {}
        for name in names:
            if name in self.counted:
                counts = ak.num(found[self.counted[name]], axis=1)
                arrays[name] = ak.values_astype(counts, np.int32)
            elif name in self.wider:
                arrays[name] = ak.values_astype(found[name], self.wider[name])
            else:
                arrays[name] = found[name]
        for name, array in arrays.items():
            _check_structure(name, array)
        for columns in self.collections:
            _check_lengths({name: arrays[name] for name in columns if name in arrays})
        # Of a part of a file lists may have entries before theirs, which coffea does not expect.
        return {name: ak.to_packed(_with_indices(array)) for name, array in arrays.items()}


def _with_indices(array: Any) -> Any:
    """Make missing values an array of indices, in which way events have them."""
    import awkward as ak

    def indexed(layout: Any, **options: Any) -> Any:
        return layout.to_IndexedOptionArray64() if layout.is_option else None

    return ak.transform(indexed, array)


def _check_structure(name: str, array: Any) -> None:
    """Make sure that lists begin and end within their entries: coffea takes that for granted."""
    import awkward as ak

    wrong = ak.validity_error(array)
    if wrong:
        raise ValueError(f"column {name!r}: {wrong}")


def _check_lengths(columns: Mapping[str, Any]) -> None:
    """Make sure that columns of one collection have the same number of entries in each event.

    Raises
    ------
    FormMismatch
    """
    import numpy as np

    counts = {name: _counts(array) for name, array in columns.items()}
    for name, count in counts.items():
        first = next(iter(counts))
        if not np.array_equal(counts[first], count):
            event = int(np.flatnonzero(counts[first] != count)[0])
            raise FormMismatch(
                f"The columns {first!r} and {name!r} are of one collection, and have "
                f"{counts[first][event]} and {count[event]} entries in event {event} of those that "
                "were read together. The query cuts one of them: apply the same Where to all "
                "columns of a collection, and to its counter, or rename what is none of it.",
                column=name,
                expected=f"{counts[first][event]} entries",
                found=f"{count[event]} entries",
            )


def _counts(array: Any) -> Any:
    """Return the numbers of entries: of lists, or as a counter says them."""
    import awkward as ak

    return ak.to_numpy(ak.num(array, axis=1) if array.ndim > 1 else array)
