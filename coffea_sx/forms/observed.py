"""The forms in a file that exists: one written here without rows, or one that was delivered."""

from __future__ import annotations

from typing import Any

from ..errors import FormError

# What coffea's mapping asks uproot to say of every column.
DOCUMENTATION = {"__doc__": "title", "typename": "typename"}
# Parquet has columns, but no tree to hold them.
NO_TREE = ""


def observed_forms(source: Any, result_format: str) -> dict[str, Any]:
    """Read the forms of all trees in a file, as coffea asks for them.

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
        return {NO_TREE: _parquet_form(source)}
    return _root_forms(source)


def documented(form: Any) -> Any:
    """Give every column of a form the parameters that coffea's mapping expects."""
    contents = [
        content.copy(parameters={"__doc__": "", "typename": "", **(content.parameters or {})})
        for content in form.contents
    ]
    return form.copy(contents=contents, parameters={"__doc__": "", **(form.parameters or {})})


def _root_forms(source: Any) -> dict[str, Any]:
    import uproot

    is_path = isinstance(source, str)
    with uproot.open({source: None} if is_path else source) as file:
        trees = file.keys(cycle=False, filter_classname=["TTree", "ROOT::RNTuple"])
        return {name: _form_of(file[name]) for name in dict.fromkeys(trees)}


def _form_of(tree: Any) -> Any:
    import uproot

    if isinstance(tree, uproot.behaviors.RNTuple.HasFields):
        return _rntuple_form(tree)
    from coffea.util import _is_interpretable

    seen: list[Any] = []

    def keep(form: Any) -> Any:
        seen.append(form)
        return uproot._dask.TrivialFormMapping()(form)

    try:
        uproot.dask(
            tree,
            full_paths=True,
            ak_add_doc=DOCUMENTATION,
            filter_branch=_is_interpretable,
            form_mapping=keep,
        )
    except ValueError as error:
        raise FormError(
            f"The tree {tree.name!r} has no columns that can be read: {error}"
        ) from None
    return _with_strings(seen[0], tree)


def _with_strings(form: Any, tree: Any) -> Any:
    """Put back what uproot drops when it documents a column: that lists of characters are texts."""
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


def _parquet_form(source: Any) -> Any:
    import awkward as ak
    import pyarrow.parquet

    form = ak.from_arrow_schema(pyarrow.parquet.read_schema(source))
    if not form.is_record:
        # The one column of a query that names none.
        form = ak.forms.RecordForm([form], [""])
    return documented(form)
