"""Derivation of an output form: from the query and the form of the input, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import QueryError
from ..query import Selection, select
from .alignment import Column, func_adl_columns, raw_columns
from .empty import without_rows
from .empty_result import refuse_unreadable, written_form
from .func_adl_uproot import func_adl_form
from .input_form import input_form as sample_form
from .input_form import readable_columns, sample_forms
from .output_form import OutputForm
from .uproot_raw import input_trees, raw_forms, requests_of
from .writers import TREENAME, write, write_trees
from .xaod import is_xaod, xaod_forms


def derive_form(
    query: Any, input_form: Any, result_format: str = "root-file", codegen: str | None = None
) -> OutputForm:
    """Derive the form of the files that a query delivers, without a server.

    No request is made, and no file is opened but the sample.

    Parameters
    ----------
    query : servicex query or str
        As for `NanoEventsFactory.from_servicex`.
    input_form : str, dict, tree or form
        Form of the input: a sample file ``{"sample.root": "Events"}``, an open tree, an
        ``ak.forms.Form`` or the path of a saved form.
    result_format : {"root-file", "root-rntuple", "parquet"}
    codegen : str, optional
        Instead of the query's own code generator.

    Returns
    -------
    OutputForm

    Raises
    ------
    UnknownColumn, QueryError
        If the query does not fit the input, or its result cannot be written: where it would fail
        on the server, for every file.
    FormError
        If no form can be made of ``input_form``.
    """
    selection = select(query, result_format=result_format, codegen=codegen)
    return form_of_selection(selection, input_form)


def is_derivable(selection: Selection) -> bool:
    """Return True if the form of the delivered files follows from the selection."""
    return selection.codegen in ("uproot", "uproot-raw") or is_xaod(selection)


def form_of_selection(
    selection: Selection, input_form: Any, paths: Sequence[str] = ()
) -> OutputForm:
    """Derive the form of the files that a selection delivers.

    Parameters
    ----------
    selection : Selection
    input_form : object
        As for `derive_form`; None stands for the first of ``paths`` that can be opened. Selections
        of xAOD need none.
    paths : sequence of str
        The input files, if they are given.

    Raises
    ------
    UnknownColumn, QueryError, FormError
        As `derive_form`.
    """
    if is_xaod(selection):
        trees = xaod_forms(selection)
        return OutputForm(trees, next(iter(trees)), selection.result_format)
    if selection.codegen == "uproot-raw":
        return _raw(selection, input_form, paths)
    if selection.is_func_adl_uproot:
        return _func_adl(selection, sample_form(input_form, selection.tree, paths))
    raise QueryError(
        f"The form of the results of the code generator {selection.codegen!r} cannot be derived "
        "from the query: give it as form=."
    )


def _func_adl(selection: Selection, input_form: Any) -> OutputForm:
    result = func_adl_form(selection.text, readable_columns(input_form))
    refuse_unreadable(result, selection.tree)
    writer = partial(write, without_rows(result))
    output = written_form(writer, [result], selection.result_format)
    names = set(result.fields) if result.is_record else set()
    return replace(
        output,
        clashes=tuple(sorted(names.intersection(output.counters))),
        alignment=_cut_trees({output.tree: func_adl_columns(selection.text, input_form)}),
    )


def _raw(selection: Selection, input_form: Any, paths: Sequence[str]) -> OutputForm:
    names = input_trees(selection.text)
    if not names:
        raise QueryError(
            "The query copies objects and reads no tree, so its results have no events: name "
            'a tree, {"treename": "Events"}.'
        )
    input_forms = sample_forms(input_form, names, paths)
    results = raw_forms(selection.text, input_forms)
    if not results:
        raise QueryError(
            f"The input has none of the trees {', '.join(map(repr, names))}, so nothing would be "
            "delivered."
        )
    for name, result in results.items():
        if ";" in name:
            raise QueryError(
                f"The delivered tree cannot be called {name!r}: name it yourself, "
                f'{{"treename": {{"{name}": "{name.partition(";")[0]}"}}}}.'
            )
        refuse_unreadable(result, name)
    arrays = {name: without_rows(result) for name, result in results.items()}
    writer = partial(write_trees, arrays, {})
    output = written_form(writer, list(results.values()), selection.result_format)
    if selection.result_format == "parquet":
        output = _as_trees(output, results)
    columns = {
        name: raw_columns(request, input_forms[tree], results[name].fields)
        for tree, name, request in requests_of(selection.text)
        if name in results
    }
    return replace(output, alignment=_cut_trees(columns))


def _cut_trees(trees: Mapping[str, Mapping[str, Column]]) -> dict[str, Mapping[str, Column]]:
    """Return the columns of trees in which some lists have lost or moved entries."""
    return {
        tree: columns
        for tree, columns in trees.items()
        if any(column.is_cut for column in columns.values())
    }


def _as_trees(output: OutputForm, results: Mapping[str, Any]) -> OutputForm:
    """Divide a Parquet file into trees: a column of it names the tree of each row."""
    columns = zip(output.columns, output.base_form.contents, strict=True)
    kept = {name: content for name, content in columns if name != TREENAME}
    tree = output.base_form.copy(fields=list(kept), contents=list(kept.values()))
    is_replaced = any(TREENAME in result.fields for result in results.values())
    return OutputForm(
        dict.fromkeys(results, tree),
        next(iter(results)),
        output.result_format,
        (TREENAME,) if is_replaced else (),
    )
