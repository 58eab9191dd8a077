"""Arrays and trees of a form, without rows."""

from __future__ import annotations

from typing import Any

import awkward as ak

from .._upstream.uproot import RowlessTree

_CPP_TYPES = {"float32": "float", "float64": "double", "bool": "bool"}


def without_rows(form: Any) -> Any:
    """Return an array of a form that has no rows."""
    return ak.Array(form.length_zero_array(highlevel=False))


def tree_without_rows(name: str, form: Any) -> RowlessTree:
    """Return a tree of a form that has no rows, for uproot's own reader.

    Parameters
    ----------
    name : str
    form : awkward.forms.RecordForm
        Columns without the parameter ``typename`` get the type that uproot would name.
    """
    forms, typenames = {}, {}
    for column, content in zip(form.fields, form.contents, strict=True):
        parameters = dict(content.parameters or {})
        parameters.pop("__doc__", None)
        typenames[column] = parameters.pop("typename", None) or _typename(content)
        forms[column] = content.copy(parameters=parameters)
    return RowlessTree(name, forms, typenames)


def _typename(form: Any, is_inner: bool = False) -> str:
    """Return the name of the type of a branch, as uproot spells it."""
    if form.parameter("__array__") in ("string", "bytestring"):
        return "std::string"
    if form.is_numpy:
        number = _CPP_TYPES.get(form.primitive, f"{form.primitive}_t")
        return number + "".join(f"[{size}]" for size in form.inner_shape)
    if form.is_regular:
        return f"{_typename(form.content)}[{form.size}]"
    if form.is_list and form.content.is_numpy and not is_inner:
        return f"{_typename(form.content)}[]"
    if form.is_list:
        return f"std::vector<{_typename(form.content, is_inner=True)}>"
    return ""
