"""Forms of the trees in a file: a delivered file, or a result without rows."""

from __future__ import annotations

from typing import Any

import awkward as ak
import uproot

from .._upstream.coffea import is_interpretable
from .._upstream.uproot import tree_form
from ..errors import FormError

# Parameters that coffea adds to the form of every column, from these attributes of branches.
DOCUMENTATION = {"__doc__": "title", "typename": "typename"}
# Name of the tree in a Parquet file, which has columns only.
NO_TREE = ""


def read_forms(source: Any, result_format: str) -> dict[str, Any]:
    """Read the forms of all trees in a file, with the parameters that coffea adds.

    Parameters
    ----------
    source : str, path or binary file
    result_format : {"root-file", "root-rntuple", "parquet"}

    Returns
    -------
    dict of str to awkward.forms.RecordForm
        By the names of trees. Parquet has one, without a name. Every column has the parameters
        ``__doc__`` (its title) and ``typename``.

    Raises
    ------
    FormError
        If a column cannot be read back as awkward arrays.
    """
    if result_format == "parquet":
        return {NO_TREE: parquet_form(_parquet_schema(source))}
    return _root_forms(source)


def with_documentation(form: Any) -> Any:
    """Add the parameters that coffea's mapping needs to every column of a form."""
    contents = [
        content.copy(parameters={"__doc__": "", "typename": "", **(content.parameters or {})})
        for content in form.contents
    ]
    return form.copy(contents=contents, parameters={"__doc__": "", **(form.parameters or {})})


def _root_forms(source: Any) -> dict[str, Any]:
    is_path = isinstance(source, str)
    with uproot.open({source: None} if is_path else source) as file:
        trees = file.keys(cycle=False, filter_classname=["TTree", "ROOT::RNTuple"])
        return {name: _form_of(file[name]) for name in dict.fromkeys(trees)}


def _form_of(tree: Any) -> Any:
    if isinstance(tree, uproot.behaviors.RNTuple.HasFields):
        return _rntuple_form(tree)
    try:
        form = tree_form(tree, is_interpretable, full_paths=True, documentation=DOCUMENTATION)
    except ValueError as error:
        raise FormError(
            f"The tree {tree.name!r} has no columns that can be read: {error}"
        ) from None
    return _with_strings(form, tree)


def _with_strings(form: Any, tree: Any) -> Any:
    """Add the parameters that mark strings: uproot drops them when it documents a column."""
    contents = [
        content.copy(
            parameters={
                **(tree[name].interpretation.awkward_form(tree.file).parameters or {}),
                **content.parameters,
            }
        )
        for name, content in zip(form.fields, form.contents, strict=True)
    ]
    return form.copy(contents=contents)


def _rntuple_form(ntuple: Any) -> Any:
    form, _ = ntuple.to_akform()
    fields = {field.name: field for field in ntuple.fields}
    contents = [
        content.copy(
            parameters={
                **(content.parameters or {}),
                "__doc__": fields[name].description,
                "typename": fields[name].typename,
            },
            form_key=None,
        )
        for name, content in zip(form.fields, form.contents, strict=True)
    ]
    return form.copy(contents=contents, parameters={"__doc__": ntuple.description}, form_key=None)


def _parquet_schema(source: Any) -> Any:
    import fsspec
    import pyarrow.parquet

    if not isinstance(source, str):
        return pyarrow.parquet.read_schema(source)
    with fsspec.open(source) as file:
        return pyarrow.parquet.read_schema(file)


def parquet_form(schema: Any) -> Any:
    """Return the form of a Parquet file (``awkward.forms.RecordForm``).

    Parameters
    ----------
    schema : pyarrow.Schema
    """
    form = ak.from_arrow_schema(schema)
    if not form.is_record:
        # The column of a query that names none.
        form = ak.forms.RecordForm([form], [""])
    return with_documentation(form)
