"""Alignment of the lists of a result with those of the input.

An index of NanoAOD is a position in the lists of another collection. Where a query drops or moves
entries of that collection, and delivers the index as it is, the index points to wrong entries. The
syntax tree of the query shows which lists are filtered or sorted; no values are needed. Expressions
that are not understood have an unknown alignment, and cause no warning.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

_Node = Any
# Functions of uproot-raw queries: those that drop or move entries, those that keep entries, and
# those whose results have other lists.
_REARRANGING = frozenset({"sort", "drop_none"})
_KEEPING = frozenset({"fill_none", "mask"})
_OF_OTHER_SHAPE = frozenset(
    (
        *("all", "any", "argcartesian", "argcombinations", "argmax", "argmin"),
        *("broadcast_arrays", "broadcast_fields", "cartesian", "combinations", "concatenate"),
        *("count", "count_nonzero", "firsts", "flatten", "max", "mean", "min", "moment"),
        *("nanargmax", "nanargmin", "nanmax", "nanmean", "nanmin", "nanprod", "nanstd", "nansum"),
        *("nanvar", "num", "pad_none", "prod", "singletons", "std", "sum", "unzip", "var", "zip"),
    )
)


@dataclass(frozen=True, slots=True)
class Column:
    """Alignment of a column of a result with the input.

    Attributes
    ----------
    origin : str or None
        The input column whose values these are; None if they are calculated.
    is_list : bool
        True if it certainly is a list for each event.
    is_cut : bool
        True if entries of the lists are dropped or moved.
    """

    origin: str | None = None
    is_list: bool = False
    is_cut: bool = False

    def cut(self) -> Column:
        """Return the column with entries dropped or moved."""
        return replace(self, is_cut=self.is_list)


@dataclass(frozen=True, slots=True)
class Record:
    """Several values: an event, a dict, or lists that are zipped."""

    fields: Mapping[str, Value]

    def cut(self) -> Record:
        """Return the record with entries of all lists dropped or moved."""
        return Record({name: value.cut() for name, value in self.fields.items()})


Value = Column | Record
UNKNOWN = Column()


def func_adl_columns(selection: str, form: Any) -> dict[str, Column]:
    """Return the alignment of each column of a func_adl query.

    Parameters
    ----------
    selection : str
        qastle.
    form : awkward.forms.RecordForm
        Form of the input events.

    Returns
    -------
    dict of str to Column
        By the names that columns of records have in a TTree: GenPart_pt for pt of GenPart.
    """
    import qastle

    tree: _Node = qastle.insert_linq_nodes(qastle.text_ast_to_python_ast(selection))
    event = _FuncADL(Record(_input(form))).event(tree.body[0].value)
    return _columns(event) if event is not None else {}


def raw_columns(query: Mapping[str, Any], form: Any, names: Iterable[str]) -> dict[str, Column]:
    """Return the alignment of each column of an item of an uproot-raw query.

    Parameters
    ----------
    query : mapping
        One item of a selection.
    form : awkward.forms.RecordForm
        Form of the input tree.
    names : iterable of str
        Names of the columns.
    """
    expressions = _Expressions(_input(form), query.get("aliases") or {})
    columns = {name: expressions.column(name) for name in names}
    if query.get("cut") and expressions.column(query["cut"]).is_list:
        return {name: column.cut() for name, column in columns.items()}
    return columns


def _input(form: Any) -> dict[str, Column]:
    return {
        name: Column(name, content.is_list and not content.is_regular)
        for name, content in zip(form.fields, form.contents, strict=True)
    }


def _columns(result: Value, name: str = "") -> dict[str, Column]:
    """Return the columns of a result, with the names that uproot gives to branches of records."""
    if isinstance(result, Column):
        return {name: result}
    columns: dict[str, Column] = {}
    for field, value in result.fields.items():
        columns.update(_columns(value, f"{name}_{field}" if name else field))
    return columns


def _lists_of(value: Value) -> Column:
    """Return the alignment of the lists of a value; those of a record have the same lengths."""
    if isinstance(value, Column):
        return replace(value, origin=None)
    return _joined(_lists_of(field) for field in value.fields.values())


def _joined(columns: Iterable[Column]) -> Column:
    """Return the alignment of a column that is calculated from others, entry by entry."""
    lists = [column for column in columns if column.is_list]
    return Column(None, bool(lists), any(column.is_cut for column in lists))


class _FuncADL:
    """Alignment of lists in a func_adl query, as func_adl_uproot translates it."""

    def __init__(self, event: Record) -> None:
        self._event = event

    def event(self, node: _Node) -> Value | None:
        """Return an event of the result; None if the result is no sequence of events."""
        kind = type(node).__name__
        if kind == "Call" and getattr(node.func, "id", None) == "EventDataset":
            return self._event
        source = self.event(node.source) if hasattr(node, "source") else None
        if source is None or kind not in ("Select", "Where"):
            return None
        return self._applied(node.selector, source, {}) if kind == "Select" else source

    def _applied(self, function: _Node, argument: Value, names: Mapping[str, Value]) -> Value:
        (parameter,) = function.args.args
        return self._value(function.body, {**names, parameter.arg: argument})

    def _value(self, node: _Node, names: Mapping[str, Value]) -> Value:
        match type(node).__name__:
            case "Name":
                return names.get(node.id, UNKNOWN)
            case "Attribute":
                return _field(self._value(node.value, names), node.attr)
            case "Subscript":
                return self._subscript(node, names)
            case "Dict":
                pairs = zip(node.keys, node.values, strict=True)
                return Record({k.value: self._value(v, names) for k, v in pairs})
            case "Tuple" | "List":
                return Record({str(i): self._value(v, names) for i, v in enumerate(node.elts)})
            case "UnaryOp" | "BinOp" | "BoolOp" | "Compare" | "IfExp":
                return self._computed(ast.iter_child_nodes(node), names)
            case "Call":
                return self._call(node, names)
            case "Zip":
                return self._value(node.source, names)
            case "Where":
                return self._where(node, names)
            case "OrderBy" | "OrderByDescending":
                return self._value(node.source, names).cut()
            case "Concat":  # the entries of the first list keep their places
                return _lists_of(self._value(node.first, names))
            case "Select":
                return self._select(node, names)
        return UNKNOWN

    def _computed(self, nodes: Iterable[_Node], names: Mapping[str, Value]) -> Column:
        return _joined(_lists_of(self._value(node, names)) for node in nodes)

    def _subscript(self, node: _Node, names: Mapping[str, Value]) -> Value:
        value = self._value(node.value, names)
        if isinstance(node.slice, ast.Constant):
            return _field(value, node.slice.value)
        return value.cut() if _lists_of(self._value(node.slice, names)).is_list else UNKNOWN

    def _call(self, node: _Node, names: Mapping[str, Value]) -> Value:
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in ("ToFourMomenta", "ToFourMomentum"):
                return self._value(node.func.value, names)
            if getattr(node.func.value, "id", None) != "np":
                return UNKNOWN
        return self._computed(node.args, names)

    def _where(self, node: _Node, names: Mapping[str, Value]) -> Value:
        source = self._value(node.source, names)
        passes = _lists_of(self._applied(node.predicate, source, names))
        return source.cut() if passes.is_list or _uses_entry(node.predicate) else source

    def _select(self, node: _Node, names: Mapping[str, Value]) -> Value:
        source = self._value(node.source, names)
        lists = _lists_of(source)
        return _entry(self._applied(node.selector, source, names), lists)


def _uses_entry(predicate: _Node) -> bool:
    """Return True if a condition is on each entry, not on each event."""
    (parameter,) = predicate.args.args
    nodes = ast.walk(predicate.body)
    return any(isinstance(node, ast.Name) and node.id == parameter.arg for node in nodes)


def _entry(value: Value, lists: Column) -> Value:
    """Return the lists that a Select makes of lists, from the value for an entry."""
    if isinstance(value, Record):
        return Record({name: _entry(field, lists) for name, field in value.fields.items()})
    return value if replace(value, origin=None) == lists else lists


def _field(value: Value, name: Any) -> Value:
    if isinstance(value, Column):
        return _lists_of(value)  # a property of it
    return value.fields.get(str(name), _lists_of(value))


class _Expressions:
    """Alignment of lists in the expressions of an uproot-raw query."""

    def __init__(self, columns: Mapping[str, Column], aliases: Mapping[str, str]) -> None:
        self._columns = columns
        self._aliases = aliases
        self._open_aliases: set[str] = set()

    def column(self, text: str) -> Column:
        """Return the alignment of an expression, an alias, or a column of the input."""
        if text in self._columns:
            return self._columns[text]
        if text in self._aliases:
            if text in self._open_aliases:  # it refers to itself
                return UNKNOWN
            self._open_aliases.add(text)
            column = self.column(self._aliases[text])
            self._open_aliases.discard(text)
            return column
        try:
            return self._value(ast.parse(text, mode="eval").body)
        except SyntaxError:
            return UNKNOWN

    def _value(self, node: ast.AST) -> Column:
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self._named(ast.unparse(node))
        if isinstance(node, ast.Subscript):
            return self._sliced(self._value(node.value), node.slice)
        if isinstance(node, ast.Call):
            return self._called(node)
        return _joined(map(self._value, ast.iter_child_nodes(node)))

    def _named(self, name: str) -> Column:
        exists = name in self._columns or name in self._aliases
        return self.column(name) if exists else UNKNOWN

    def _sliced(self, value: Column, index: ast.AST) -> Column:
        if isinstance(index, ast.Tuple):
            return value.cut() if isinstance(index.elts[-1], ast.Slice) else UNKNOWN
        if isinstance(index, ast.Slice):
            return value  # of events
        if isinstance(index, ast.Constant):
            return UNKNOWN
        return value.cut() if self._value(index).is_list else value

    def _called(self, node: ast.Call) -> Column:
        name = getattr(node.func, "id", "")
        if name == "get" and node.args and isinstance(node.args[0], ast.Constant):
            return self._named(str(node.args[0].value))
        if name in _OF_OTHER_SHAPE or not node.args:
            return Column(is_list=any(keyword.arg == "keepdims" for keyword in node.keywords))
        first = self._value(node.args[0])
        if name in _REARRANGING:
            return first.cut()
        return first if name in _KEEPING else _joined(map(self._value, node.args))
