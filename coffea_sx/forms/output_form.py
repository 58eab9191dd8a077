"""The form of the delivered files: what the writer makes of what the query makes of the input."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import FormError, QueryError
from ..query import Advice, Selection, advice, describe_error, select
from ..tables import html_table
from .alignment import Column, func_adl_columns, raw_columns
from .counters import with_counters
from .empty import without_rows
from .file_forms import documented, observed_forms
from .input_form import input_form as sample_form
from .input_form import readable, record_form, sample_forms, saved_form
from .translation import translated_form
from .uproot_raw import input_trees, raw_forms, requests_of
from .writers import TREE, TREENAME, write, write_trees
from .xaod import is_xaod, xaod_form

_INSTEAD = (
    'take result_format="parquet", which has them, as None in the events; or ask for the lists, '
    "and take ak.max of them when they are delivered. In func_adl, "
    'Where(lambda e: e["Muon_pt"].Count() > 0) keeps the events in which lists have entries, and '
    'e["Muon_pt"].OrderByDescending(lambda pt: pt).First() is their largest. In UprootRaw, '
    "fill_none(max(Muon_pt), -1) puts a number where there is none."
)
# What uproot's writer says of a result, and what to ask for instead.
_UNWRITABLE: Advice = (
    (
        r"ROOT file:\s+(.*\* )?(\?|option\[)",
        f"A TTree has no missing values, which Max, Min and others give of empty lists: {_INSTEAD}",
    ),
    (
        "masked values",
        f"Max, Min and others mask what they give of empty lists: {_INSTEAD}",
    ),
    (
        "fields of a record",
        'Ask for columns side by side in place of records: {"muon_pt": ..., "muon_eta": ...}.',
    ),
    (
        "at least one branch",
        'Name the columns: Select(lambda e: {"pt": e["Muon_pt"]}).',
    ),
    (
        "to ROOT file",
        "In a TTree a column is a number, or a list of numbers, for each event.",
    ),
)
_COLUMNS_SHOWN = 10
_COUNTED_BY = re.compile(r"\[(?P<counter>[^\[\]]+)\]")


@dataclass(frozen=True, slots=True)
class OutputForm:
    """What is in every delivered file.

    Attributes
    ----------
    trees : dict of str to awkward.forms.RecordForm
        The columns of each tree, with titles and type names, as coffea's schemas read them.
    tree : str
        The tree that events are made of. A Parquet file has one without a name, or the rows of
        each tree of an uproot-raw query.
    result_format : {"root-file", "root-rntuple", "parquet"}
    clashes : tuple of str
        Columns that the query gives and the writer replaces by others of that name.
    positions : dict of str to dict
        By trees, of queries that leave out or move entries of lists: what is known of the columns.
    """

    trees: Mapping[str, Any]
    tree: str
    result_format: str = "root-file"
    clashes: tuple[str, ...] = ()
    positions: Mapping[str, Mapping[str, Column]] = field(default_factory=dict, compare=False)

    @property
    def base_form(self) -> Any:
        """Form of the tree that events are made of (``awkward.forms.RecordForm``)."""
        return self.trees[self.tree]

    @property
    def events_form(self) -> Any:
        """Form of what events are made of: the same for every format, so with all counters."""
        is_counted = self.result_format == "root-file"
        return self.base_form if is_counted else with_counters(self.base_form)

    @property
    def is_rntuple(self) -> bool:
        """Whether the trees are RNTuples."""
        return self.result_format == "root-rntuple"

    @property
    def columns(self) -> list[str]:
        """Names of its columns, in the order of the file."""
        return list(self.base_form.fields)

    @property
    def counters(self) -> list[str]:
        """Columns that only count the entries of others: TTrees need one for each jagged column."""
        titles = [content.parameters.get("__doc__", "") for content in self.base_form.contents]
        named = {match["counter"] for title in titles for match in _COUNTED_BY.finditer(title)}
        return [column for column in self.columns if column in named]

    def of(self, tree: str) -> OutputForm:
        """Return the same for another tree of the file.

        Raises
        ------
        FormError
            If there is no such tree.
        """
        if tree not in self.trees:
            raise FormError(
                f"The query delivers no tree {tree!r}; it delivers "
                f"{', '.join(map(repr, self.trees)) or 'none'}."
            )
        return replace(self, tree=tree)

    def __repr__(self) -> str:
        rows = [f"{name:32} {typename:24} {title}" for name, typename, title in self._rows()]
        return "\n".join([f"{self.result_format} with tree {self.tree!r}", *rows])

    def _repr_html_(self) -> str:
        caption = f"{self.result_format} with tree {self.tree!r}"
        return html_table(self._rows(), head=("column", "type", "title"), caption=caption)

    def _rows(self) -> list[tuple[str, str, str]]:
        return [
            (
                name,
                content.parameters.get("typename") or str(content.type),
                content.parameters.get("__doc__") or "",
            )
            for name, content in zip(self.columns, self.base_form.contents, strict=True)
        ]


def derive_form(
    query: Any, input_form: Any, result_format: str = "root-file", codegen: str | None = None
) -> OutputForm:
    """Derive what a query delivers, without a server.

    Parameters
    ----------
    query : servicex query or str
        As for `NanoEventsFactory.from_servicex`.
    input_form : str, dict, tree or form
        What the input looks like: a sample file ``{"sample.root": "Events"}``, an open tree, an
        ``ak.forms.Form`` or the path of a saved one.
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

    Notes
    -----
    No request is made, and no file opened but the sample.
    """
    return delivered_form(select(query, result_format=result_format, codegen=codegen), input_form)


def is_derivable(selection: Selection) -> bool:
    """Whether what a code generator delivers can be told from the query."""
    return selection.codegen in ("uproot", "uproot-raw") or is_xaod(selection)


def delivered_form(selection: Selection, input_form: Any, paths: Sequence[str] = ()) -> OutputForm:
    """Derive what a selection delivers.

    Parameters
    ----------
    selection : Selection
    input_form : object
        As for `derive_form`; None stands for the first of ``paths`` that can be opened. The types
        of xAOD are known without.
    paths : sequence of str
        The input files, if they are known.
    """
    if is_xaod(selection):
        return xaod_form(selection)
    if selection.codegen == "uproot-raw":
        return _raw(selection, input_form, paths)
    if selection.is_func_adl_uproot:
        return _func_adl(selection, sample_form(input_form, selection.tree, paths))
    raise QueryError(
        f"What the code generator {selection.codegen!r} delivers cannot be told from the query; "
        "give the delivered form as form=."
    )


def _func_adl(selection: Selection, input_form: Any) -> OutputForm:
    form = translated_form(selection.text, readable(input_form))
    _refuse_unreadable(form, selection.tree)
    written = _written(partial(write, without_rows(form)), [form], selection.result_format)
    given = set(form.fields) if form.is_record else set()
    columns = func_adl_columns(selection.text, input_form)
    return replace(
        written,
        clashes=tuple(sorted(given.intersection(written.counters))),
        positions=_of_cut_lists({written.tree: columns}),
    )


def _raw(selection: Selection, given: Any, paths: Sequence[str]) -> OutputForm:
    names = input_trees(selection.text)
    if not names:
        raise QueryError(
            "The query copies objects and reads no tree, so there are no events in what it "
            'delivers: name one, {"treename": "Events"}.'
        )
    input_forms = sample_forms(given, names, paths)
    forms = raw_forms(selection.text, input_forms)
    if not forms:
        raise QueryError(
            f"The input has none of the trees {', '.join(map(repr, names))}, so nothing would be "
            "delivered."
        )
    for name in forms:
        if ";" in name:
            raise QueryError(
                f"The delivered tree cannot be called {name!r}: name it yourself, "
                f'{{"treename": {{"{name}": "{name.partition(";")[0]}"}}}}.'
            )
        _refuse_unreadable(forms[name], name)
    arrays = {name: without_rows(form) for name, form in forms.items()}
    writer = partial(write_trees, arrays, {})
    written = _written(writer, list(forms.values()), selection.result_format)
    if selection.result_format == "parquet":
        written = _as_trees(written, forms)
    columns = {
        output: raw_columns(query, input_forms[name], forms[output].fields)
        for name, output, query in requests_of(selection.text)
        if output in forms
    }
    return replace(written, positions=_of_cut_lists(columns))


def _of_cut_lists(columns: Mapping[str, Mapping[str, Column]]) -> dict[str, Mapping[str, Column]]:
    """Keep what is known of trees in which some lists are not those of the input."""
    return {
        tree: known
        for tree, known in columns.items()
        if any(column.is_cut for column in known.values())
    }


def _as_trees(written: OutputForm, forms: Mapping[str, Any]) -> OutputForm:
    """Make trees of a Parquet file, in which a column says which tree a row is of."""
    columns = zip(written.columns, written.base_form.contents, strict=True)
    kept = {name: content for name, content in columns if name != TREENAME}
    tree = written.base_form.copy(fields=list(kept), contents=list(kept.values()))
    is_replaced = any(TREENAME in form.fields for form in forms.values())
    return OutputForm(
        dict.fromkeys(forms, tree),
        next(iter(forms)),
        written.result_format,
        (TREENAME,) if is_replaced else (),
    )


def _refuse_unreadable(form: Any, tree: str | None) -> None:
    """Refuse objects of which uproot reads no member: with rows it reads none at all.

    Raises
    ------
    QueryError
    """
    names = form.fields if form.is_record else []
    columns = {name: form.content(name) for name in names if _has_no_members(form.content(name))}
    if not columns:
        return
    kinds = [
        f"{name!r} ({content.parameter('__record__') or 'no members'})"
        for name, content in columns.items()
    ]
    others = len(kinds) - _COLUMNS_SHOWN
    raise QueryError(
        f"The query selects columns of the tree {tree!r} that uproot cannot read as arrays, so "
        f"every file would fail on the server: {', '.join(kinds[:_COLUMNS_SHOWN])}"
        f"{f' and {others} others' if others > 0 else ''}. Name the columns that you need, or what "
        'their names begin with, as in {"filter_name": ["Muon_*", "Jet_*"]}.'
    )


def _has_no_members(form: Any) -> bool:
    if form.is_record:
        return not form.contents or any(map(_has_no_members, form.contents))
    return (form.is_list or form.is_option or form.is_indexed) and _has_no_members(form.content)


def _written(
    writer: Callable[[Any, str], int], forms: Sequence[Any], result_format: str
) -> OutputForm:
    """Write arrays without rows, and look at the file."""
    file = _Unclosed()
    try:
        writer(file, result_format)
    except Exception as error:
        # Whatever the writer raises here it would raise on the server, for every file.
        raise QueryError(
            f"{_unwritable(forms, result_format)} cannot be written as {result_format!r}: "
            f"{describe_error(error)} "
            f"{advice(error, _UNWRITABLE)}".rstrip()
        ) from error
    file.seek(0)
    trees = observed_forms(file, result_format)
    return OutputForm(trees, next(iter(trees)), result_format)


def _unwritable(forms: Sequence[Any], result_format: str) -> str:
    """Name the first column that cannot be written alone, or all."""
    from awkward.forms import RecordForm

    for form in forms:
        for name in form.fields if form.is_record else ():
            alone = RecordForm([form.content(name)], [name])
            try:
                write(without_rows(alone), _Unclosed(), result_format)
            except Exception:
                return f"The column {name!r} of the result, of type {form.content(name).type},"
    return f"The result of the query, of type {' and '.join(str(form.type) for form in forms)},"


class _Unclosed(io.BytesIO):
    """Memory that outlives the writer, which closes what it writes to."""

    def close(self) -> None:
        pass


def known_form(given: Any, result_format: str = "root-file") -> OutputForm:
    """Take the delivered form from a user who knows it.

    Parameters
    ----------
    given : OutputForm, awkward.forms.RecordForm, dict, str or Path
        A form, the same as a dict, or the path of a JSON file. It is of a tree named ``servicex``
        unless it is a `OutputForm`.
    result_format : {"root-file", "root-rntuple", "parquet"}
        What is delivered.

    Raises
    ------
    FormError
        If it is none of these, not a record of columns, or of another result format.
    """
    if isinstance(given, OutputForm):
        if given.result_format != result_format:
            raise FormError(
                f"form= is of {given.result_format!r}, and the results are to be "
                f"{result_format!r}: derive it with result_format={result_format!r}."
            )
        return given
    is_path = isinstance(given, (str, Path))
    form = saved_form(given) if is_path else record_form(given, "form=")
    return OutputForm({TREE: documented(form)}, TREE, result_format)
