"""Uproot-raw queries: uproot's own expression language, on files and on forms without rows.

A selection is a JSON list; each item names trees and what to read from them, or objects to copy.
What an item gives on a tree is decided by `read_tree`, for the embedded ServiceX and for the form
that is derived before anything is delivered.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import awkward as ak
import uproot

from ..errors import QueryError
from ..query import describe_error
from .empty import RowlessTree
from .expressions import ColumnLanguage, Expression, is_python, read, refuse_endless
from .interpreter import refuse_long, shortened
from .translation import unknown_column

# What the server adds to uproot's own functions.
_PER_EVENT = (
    *("all", "any", "argmax", "argmin", "concatenate", "count", "count_nonzero", "max", "mean"),
    *("min", "moment", "nanargmax", "nanargmin", "nanmax", "nanmean", "nanmin", "nanprod"),
    *("nanstd", "nansum", "nanvar", "prod", "softmax", "std", "sum", "var"),
)
_AS_THEY_ARE = (
    *("almost_equal", "argcartesian", "argcombinations", "argsort", "broadcast_arrays"),
    *("broadcast_fields", "cartesian", "combinations", "drop_none", "fill_none", "firsts"),
    *("flatten", "is_none", "isclose", "mask", "num", "pad_none", "singletons", "sort", "where"),
)
_ADVICE = (
    "A cut has one answer for each event, any(Muon_pt > 20), or one for each entry of lists that "
    "all have the same lengths."
)
_COLUMNS_SHOWN = 10


def parse(selection: str) -> list[dict[str, Any]]:
    """Read the text of a selection.

    Raises
    ------
    ValueError
        If it is not the JSON of a list of queries that name something; in the words of the server.
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


def check(selection: str) -> None:
    """Make sure that a selection may be run on whatever file.

    Raises
    ------
    ValueError
        As `parse`.
    QueryError
        For an expression that is not one of columns, arithmetic and functions. A text that Python
        cannot read is let pass: it may be the name of a column, and is nothing else.
    """
    refuse_long(selection)
    for query in parse(selection):
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
        What is known of the trees of the input, by their names.
    standard_axis : bool
        For servers before May 2025, on which functions had awkward's own ``axis``.

    Returns
    -------
    dict of str to awkward.forms.RecordForm
        By the names of the delivered trees. A tree that the input does not have is missing.

    Raises
    ------
    UnknownColumn
        If the query asks for a column that its tree does not have.
    QueryError
        If the selection cannot be read or does not fit the input, if no column passes its filters,
        or if it insists on a tree that the input does not have.
    """
    try:
        requests = list(_requests(parse(selection)))
    except (ValueError, TypeError) as error:
        raise QueryError(f"The selection is not an uproot-raw query: {error}") from None
    forms = {}
    for name, output, query in requests:
        if name not in input_forms:
            if query.get("fail_on_missing_trees"):
                there = ", ".join(map(repr, input_forms)) or "nothing"
                raise QueryError(f"The input has no tree {name!r}; it has {there}.")
            continue
        is_form = isinstance(input_forms[name], ak.forms.Form)
        tree = RowlessTree(name, input_forms[name]) if is_form else input_forms[name]
        forms[output] = _form(name, tree, query, standard_axis)
    return forms


def read_trees(selection: str, file: Mapping[str, Any]) -> dict[str, Any]:
    """Run all queries of a selection over an open file.

    Arrays are by the names of the delivered trees; of two with the same name the later one stays.

    Raises
    ------
    Exception
        Whatever uproot raises for an expression, a file, or a tree that must not be missing.
    """
    return {
        output: read_tree(file[name], query)
        for name, output, query in _requests(parse(selection))
        if query.get("fail_on_missing_trees") or name in file
    }


def read_tree(
    tree: Any, query: Mapping[str, Any], *, standard_axis: bool = False, rows: int | None = None
) -> Any:
    """Run one query over one tree.

    Parameters
    ----------
    tree : uproot tree
    query : mapping
        One item of a selection.
    standard_axis : bool
        As for `raw_forms`; the query can ask for it too.
    rows : int, optional
        Read no more than these.

    Raises
    ------
    QueryError
        For an expression that is not one of columns, arithmetic and functions.
    Exception
        Whatever uproot raises for an expression.
    """
    columns = {*tree.keys(full_paths=False), *tree.keys(full_paths=True)}
    _check_query(query, columns)
    functions = _functions(standard_axis or bool(query.get("use_standard_awkward_axis")))
    return tree.arrays(
        query.get("expressions"),
        query.get("cut"),
        filter_name=query.get("filter_name"),
        filter_typename=query.get("filter_typename"),
        aliases=query.get("aliases"),
        language=ColumnLanguage(functions),
        entry_stop=rows,
        array_cache=None,
    )


def read_objects(selection: str, file: Any) -> dict[str, Any]:
    """Read the objects of an open file that a selection copies, by their names."""
    return {
        name: file[name]
        for query in parse(selection)
        if query.get("copy_histograms") and not query.get("treename")
        for name in file.keys(filter_name=query["copy_histograms"], cycle=False)
    }


def input_trees(selection: str) -> list[str]:
    """Name the input trees that a selection reads.

    Raises
    ------
    QueryError
        If the selection cannot be read.
    """
    try:
        return list(dict.fromkeys(name for name, _, _ in _requests(parse(selection))))
    except (ValueError, TypeError) as error:
        raise QueryError(f"The selection is not an uproot-raw query: {error}") from None


def requests_of(selection: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the input tree, the output tree and the item of a selection for each result."""
    return list(_requests(parse(selection)))


def _requests(queries: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give the input tree, the output tree and the query of each result."""
    for query in queries:
        names = query.get("treename") or {}
        if isinstance(names, str):
            names = [names]
        if not isinstance(names, dict):
            names = {name: name for name in names}
        for name, output in names.items():
            yield name, output, query


def _check_query(query: Mapping[str, Any], columns: Collection[str] | None) -> None:
    """Refuse what is no text, and texts that are neither columns nor expressions."""
    expressions, aliases, cut = (query.get(key) for key in ("expressions", "aliases", "cut"))
    if not isinstance(aliases, (dict, type(None))):
        raise QueryError(f"The aliases of a query must be texts by name, not {_shown(aliases)}.")
    texts = _texts("expressions", expressions, several=True) + _texts("cut", cut, several=False)
    for key in ("filter_name", "filter_typename"):
        _texts(key, query.get(key), several=True)
    functions = _functions(standard_axis=True)
    for text in texts:
        _read(text, functions, columns)
    reads = {
        name: _read(text, functions, columns).reads
        for name, text in (aliases or {}).items()
        for text in _texts(f"alias {name}", text, several=False)
    }
    refuse_endless(reads)


def _texts(key: str, value: Any, *, several: bool) -> list[str]:
    values = value if several and isinstance(value, list) else [value]
    if value is None:
        return []
    if not all(isinstance(text, str) for text in values):
        kind = "a text or a list of texts" if several else "a text"
        raise QueryError(f"The {key} of a query must be {kind}, not {_shown(value)}.")
    return values


def _shown(value: Any) -> str:
    return shortened(repr(value))


def _read(text: str, functions: Mapping[str, Any], columns: Collection[str] | None) -> Expression:
    """Read an expression of whatever columns, unless it is the name of one."""
    if columns is not None and text in columns:
        return Expression({text: None}, lambda names: names[text])
    if columns is None and not is_python(text):
        return Expression({}, lambda names: names[text])
    return read(text, functions)


def _functions(standard_axis: bool) -> dict[str, Any]:
    """Return what an expression may call."""
    functions = dict(uproot.language.python.PythonLanguage.default_functions)
    functions |= {name: getattr(ak, name) for name in (*_PER_EVENT, *_AS_THEY_ARE)}
    if not standard_axis:
        functions |= {name: partial(functions[name], axis=1) for name in _PER_EVENT}
        functions["flatten"] = partial(ak.flatten, axis=2)
    return functions


def _form(name: str, tree: Any, query: Mapping[str, Any], standard_axis: bool) -> Any:
    try:
        array = read_tree(tree, query, standard_axis=standard_axis, rows=0)
    except QueryError:
        raise
    except uproot.KeyInFileError as error:
        known = [*tree.keys(full_paths=False), *(query.get("aliases") or {})]
        raise unknown_column(str(error.key), known) from None
    except Exception as error:
        # Whatever uproot raises here it would raise on the server, for every file.
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
            f"What the query gives on the tree {name!r} has no type before there are rows: "
            f"{form.type}."
        )
    return form
