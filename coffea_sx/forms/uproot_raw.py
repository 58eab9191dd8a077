"""Uproot-raw queries, on files and on forms without rows.

A selection is a JSON list; each item names trees and what to read from them, or objects to copy.
`read_tree` runs an item on a tree, both for the embedded ServiceX and for the form that is derived
before anything is delivered.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import awkward as ak
import uproot

from ..errors import QueryError
from ..query import describe_error
from .empty import tree_without_rows
from .expressions import ColumnLanguage, Expression, check_aliases, is_python, parse_expression
from .syntax import check_text, shortened
from .unknown_columns import unknown_column
from .vocabulary import raw_functions

_ADVICE = (
    "A cut has one value for each event, any(Muon_pt > 20), or one for each entry of lists that "
    "all have the same lengths."
)
_COLUMNS_SHOWN = 10


def parse_selection(selection: str) -> list[dict[str, Any]]:
    """Parse the text of a selection.

    Raises
    ------
    ValueError
        If it is not a JSON list of queries, each with a tree or a histogram; the message is that
        of the server.
    """
    try:
        queries = json.loads(selection)
    except RecursionError:
        raise ValueError("The selection is nested too deeply") from None
    if not isinstance(queries, list) or not all(isinstance(query, dict) for query in queries):
        raise ValueError("The selection must be a list of objects, one for each query")
    for query in queries:
        if not (query.get("treename") or query.get("copy_histograms")):
            raise ValueError(f"At least one tree or histogram must be specified for query {query}")
    return queries


def check_selection(selection: str) -> None:
    """Check a selection before any file is read.

    Raises
    ------
    ValueError
        As `parse_selection`.
    QueryError
        For an expression with anything in it but columns, arithmetic and functions. A text that is
        no Python passes: it can be the name of a column, and nothing else.
    """
    check_text(selection)
    for query in parse_selection(selection):
        _check_query(query, None)


def raw_forms(
    selection: str, input_forms: Mapping[str, Any], *, standard_axis: bool = False
) -> dict[str, Any]:
    """Return the form of the arrays that a selection gives for each tree.

    Parameters
    ----------
    selection : str
        JSON.
    input_forms : mapping of str to awkward.forms.RecordForm or uproot tree
        The trees of the input by name.
    standard_axis : bool
        For servers before May 2025, on which functions had awkward's own default of ``axis``.

    Returns
    -------
    dict of str to awkward.forms.RecordForm
        By the names of the delivered trees, without trees that the input does not have.

    Raises
    ------
    UnknownColumn
        If the query reads a column that its tree does not have.
    QueryError
        If the selection cannot be parsed or does not fit the input, if no column passes its
        filters, or if a tree is missing and the query has ``fail_on_missing_trees``.
    """
    forms = {}
    for name, output, query in requests_of(selection):
        if name in input_forms:
            forms[output] = _result_form(name, input_forms[name], query, standard_axis)
        elif query.get("fail_on_missing_trees"):
            names = ", ".join(map(repr, input_forms)) or "nothing"
            raise QueryError(f"The input has no tree {name!r}; it has {names}.")
    return forms


def read_trees(selection: str, file: Mapping[str, Any]) -> dict[str, Any]:
    """Run all queries of a selection on an open file.

    Returns
    -------
    dict of str to awkward.Array
        By the names of the delivered trees. If two have the same name, it is the later of them.

    Raises
    ------
    Exception
        Whatever uproot raises for an expression, a file, or a missing tree.
    """
    return {
        output: read_tree(file[name], query)
        for name, output, query in _requests(parse_selection(selection))
        if query.get("fail_on_missing_trees") or name in file
    }


def read_tree(
    tree: Any, query: Mapping[str, Any], *, standard_axis: bool = False, rows: int | None = None
) -> Any:
    """Run one query on one tree.

    Parameters
    ----------
    tree : uproot tree
    query : mapping
        One item of a selection.
    standard_axis : bool
        As for `raw_forms`, or by ``use_standard_awkward_axis`` in the query.
    rows : int, optional
        The most rows to read.

    Raises
    ------
    QueryError
        For an expression with anything in it but columns, arithmetic and functions.
    Exception
        Whatever uproot raises for an expression.
    """
    columns = {*tree.keys(full_paths=False), *tree.keys(full_paths=True)}
    _check_query(query, columns)
    is_standard = standard_axis or bool(query.get("use_standard_awkward_axis"))
    return tree.arrays(
        query.get("expressions"),
        query.get("cut"),
        filter_name=query.get("filter_name"),
        filter_typename=query.get("filter_typename"),
        aliases=query.get("aliases"),
        language=ColumnLanguage(raw_functions(standard_axis=is_standard)),
        entry_stop=rows,
        array_cache=None,
    )


def read_objects(selection: str, file: Any) -> dict[str, Any]:
    """Read the objects of an open file that a selection copies, by their names."""
    return {
        name: file[name]
        for query in parse_selection(selection)
        if query.get("copy_histograms") and not query.get("treename")
        for name in file.keys(filter_name=query["copy_histograms"], cycle=False)
    }


def input_trees(selection: str) -> list[str]:
    """Return the names of the input trees that a selection reads.

    Raises
    ------
    QueryError
        If the selection cannot be parsed.
    """
    return list(dict.fromkeys(name for name, _, _ in requests_of(selection)))


def requests_of(selection: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the input tree, the delivered tree and the query of each result.

    Raises
    ------
    QueryError
        If the selection cannot be parsed.
    """
    try:
        return list(_requests(parse_selection(selection)))
    except (ValueError, TypeError) as error:
        raise QueryError(f"The selection is not an uproot-raw query: {error}") from None


def _requests(queries: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for query in queries:
        names = query.get("treename") or {}
        if isinstance(names, str):
            names = [names]
        if not isinstance(names, dict):
            names = {name: name for name in names}
        for name, output in names.items():
            yield name, output, query


def _check_query(query: Mapping[str, Any], columns: Collection[str] | None) -> None:
    """Refuse values that are no texts, and texts that are neither columns nor expressions."""
    expressions, aliases, cut = (query.get(key) for key in ("expressions", "aliases", "cut"))
    if not isinstance(aliases, (dict, type(None))):
        raise QueryError(
            f"The aliases of a query must be texts by name, not {shortened(repr(aliases))}."
        )
    texts = _texts("expressions", expressions, several=True) + _texts("cut", cut, several=False)
    for key in ("filter_name", "filter_typename"):
        _texts(key, query.get(key), several=True)
    functions = raw_functions()
    for text in texts:
        _parse(text, functions, columns)
    reads = {
        name: _parse(text, functions, columns).reads
        for name, alias in (aliases or {}).items()
        for text in _texts(f"alias {name}", alias, several=False)
    }
    check_aliases(reads)


def _texts(key: str, value: Any, *, several: bool) -> list[str]:
    values = value if several and isinstance(value, list) else [value]
    if value is None:
        return []
    if not all(isinstance(text, str) for text in values):
        kind = "a text or a list of texts" if several else "a text"
        raise QueryError(f"The {key} of a query must be {kind}, not {shortened(repr(value))}.")
    return values


def _parse(text: str, functions: Mapping[str, Any], columns: Collection[str] | None) -> Expression:
    """Check an expression of any columns, unless the text is the name of a column."""
    if columns is not None and text in columns:
        return Expression({text: None}, lambda names: names[text])
    if columns is None and not is_python(text):
        return Expression({}, lambda names: names[text])
    return parse_expression(text, functions)


def _result_form(name: str, source: Any, query: Mapping[str, Any], standard_axis: bool) -> Any:
    tree = tree_without_rows(name, source) if isinstance(source, ak.forms.Form) else source
    try:
        array = read_tree(tree, query, standard_axis=standard_axis, rows=0)
    except QueryError:
        raise
    except uproot.KeyInFileError as error:
        names = [*tree.keys(full_paths=False), *(query.get("aliases") or {})]
        raise unknown_column(str(error.key), names) from None
    except Exception as error:
        # uproot would raise the same on the server, for every file.
        raise QueryError(
            f"The query does not fit the tree {name!r}: {describe_error(error)} "
            f"{_ADVICE if query.get('cut') else ''}".rstrip()
        ) from error
    if not array.fields:
        raise QueryError(
            f"No column of the tree {name!r} passes the filters of the query; it has "
            f"{', '.join(map(repr, tree.keys(full_paths=False)[:_COLUMNS_SHOWN]))}."
        )
    form = array.layout.form
    if "EmptyArray" in form.to_json():
        raise QueryError(
            f"The result of the query on the tree {name!r} has no type before there are rows: "
            f"{form.type}."
        )
    return form
