"""Internals of ``HasBranches.arrays`` of uproot, tested with uproot 5.7.7."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import awkward as ak
import uproot


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
