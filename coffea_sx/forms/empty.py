"""Arrays without rows, and a tree without any for uproot's own reader: only their form is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import awkward as ak
import uproot

_CPP = {"float32": "float", "float64": "double", "bool": "bool"}


def without_rows(form: Any) -> Any:
    """Return the array of a form that has no rows."""
    return ak.Array(form.length_zero_array(highlevel=False))


class RowlessTree(uproot.behaviors.TBranch.HasBranches):
    """What uproot's reader asks of a tree, without rows.

    Parameters
    ----------
    name : str
    form : awkward.forms.RecordForm
    """

    aliases: Mapping[str, str] = {}
    num_entries = 0
    _file = None

    def __init__(self, name: str, form: Any) -> None:
        self.object_path = name
        self.file = SimpleNamespace(file_path="<input form>")
        self._columns = {
            field: _Column(self, field, content)
            for field, content in zip(form.fields, form.contents, strict=True)
        }

    @property
    def branches(self) -> list[_Column]:
        """Its columns."""
        return list(self._columns.values())

    @property
    def tree(self) -> RowlessTree:
        """Itself."""
        return self

    def __getitem__(self, name: str) -> _Column:
        return self._columns[name.removeprefix("/")]


class _Column:
    """A branch of a tree without rows, and its own interpretation."""

    def __init__(self, parent: RowlessTree, name: str, form: Any) -> None:
        self.parent = parent
        self.name = self.cache_key = name
        self.typename = form.parameter("typename") or _typename(form)
        about = {"__doc__", "typename"}
        parameters = {k: v for k, v in (form.parameters or {}).items() if k not in about}
        self._form = form.copy(parameters=parameters)

    @property
    def interpretation(self) -> _Column:
        return self

    def iteritems(self, **_: Any) -> Iterator[tuple[str, _Column]]:
        """Give the branches below this one."""
        return iter(())

    def entries_to_ranges_or_baskets(self, *_: Any) -> list[Any]:
        """Give the parts of a file to read."""
        return []

    def final_array(self, *_: Any) -> Any:
        """Return what uproot would have read."""
        return without_rows(self._form)


def _typename(form: Any, is_inner: bool = False) -> str:
    """Name a type as uproot names it for a branch that has it."""
    if form.parameter("__array__") in ("string", "bytestring"):
        return "std::string"
    if form.is_numpy:
        number = _CPP.get(form.primitive, f"{form.primitive}_t")
        return number + "".join(f"[{size}]" for size in form.inner_shape)
    if form.is_regular:
        return f"{_typename(form.content)}[{form.size}]"
    if form.is_list and form.content.is_numpy and not is_inner:
        return f"{_typename(form.content)}[]"
    if form.is_list:
        return f"std::vector<{_typename(form.content, is_inner=True)}>"
    return ""
