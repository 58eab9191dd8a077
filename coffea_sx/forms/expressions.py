"""The expressions of uproot-raw queries: what uproot's own language is used for, and no more.

uproot evaluates the texts of a query as Python. Here they are read by its rules (a text that is the
name of a column is that column, names with dots are columns too, ``get("...")`` reads a column of
any name, aliases stand for expressions) and calculated step by step.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import uproot

from ..errors import QueryError
from .interpreter import Language, Scope, Step, not_too_deep, shortened

GETTER = "get"
KEYWORDS = frozenset(
    (
        *("array", "arrays", "axis", "ascending", "atol", "clip", "counts", "ddof", "decimals"),
        *("depth_limit", "equal_nan", "fields", "initial", "keepdims", "lsb_order", "mask"),
        *("mask_identity", "mergebool", "n", "nested", "replacement", "rtol", "stable", "target"),
        *("valid_when", "value", "weight"),
    )
)
# Python's whole numbers become those of columns here, which have no more bits.
_BITS = 64
# Functions that make as many entries as a number says.
_SIZED = frozenset(("argcombinations", "combinations", "pad_none"))
_LARGEST_SIZE = 1000
_MOST_READ = 10_000


class ColumnLanguage(uproot.language.Language):
    """What uproot asks where it would evaluate Python.

    Parameters
    ----------
    functions : mapping of str to callable
        What an expression may call.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = functions

    def getter_of(self, name: str) -> str:
        """Write the expression that reads a column of any name."""
        return f"{GETTER}({name!r})"

    def free_symbols(
        self, expression: str, keys: Collection[str], aliases: Collection[str], *_: str
    ) -> list[str]:
        """Name the columns and aliases that an expression reads.

        Raises
        ------
        QueryError
            If the expression is not one of the language.
        uproot.KeyInFileError
            If there is no such column.
        """
        if expression in keys:
            return [expression]
        return list(read(expression, self._functions, {*keys, *aliases}).reads)

    def compute_expressions(
        self,
        hasbranches: Any,
        arrays: Mapping[str, Any],
        expression_context: list[tuple[str, dict[str, Any]]],
        keys: Collection[str],
        aliases: Mapping[str, str],
        *_: str,
    ) -> dict[str, Any]:
        """Calculate the expressions of a query from the columns that they read."""
        values = _Values(self._functions, keys, aliases)
        for _expression, context in expression_context:
            for branch in context["branches"]:
                for name in _names(branch, hasbranches):
                    if name in keys:
                        values[name] = arrays[branch.cache_key]
        wanted = [(text, context) for text, context in expression_context if context["is_primary"]]
        output = {text: values.of(text) for text, about in wanted if not about["is_cut"]}
        for text, context in wanted:
            if context["is_cut"]:
                passes = values.of(text) != 0
                return {name: array[passes] for name, array in output.items()}
        return output


class _Values(dict[str, Any]):
    """Columns by name, and aliases as soon as they are asked for."""

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        keys: Collection[str],
        aliases: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._functions, self._keys, self._aliases = functions, keys, aliases

    def of(self, text: str) -> Any:
        """Return the value of an expression."""
        if text in self._keys:
            return self[text]
        return read(text, self._functions, {*self._keys, *self._aliases}).step(self)

    def __missing__(self, name: str) -> Any:
        self[name] = self.of(self._aliases[name])
        return self[name]


def _names(branch: Any, root: Any) -> Iterator[str]:
    """Give the names that a branch has: its own, with each of those above it, and from the top."""
    name = branch.name
    yield name
    while (branch := branch.parent) is not root:
        name = f"{branch.name}/{name}"
        yield name
    yield f"/{name}"


class Expression:
    """A text that may be calculated.

    Attributes
    ----------
    reads : dict of str to None
        The columns and aliases that it reads, in their order.
    step : callable
        Takes the columns, gives the value.
    """

    def __init__(self, reads: dict[str, None], step: Step) -> None:
        self.reads, self.step = reads, step


def read(
    text: str,
    functions: Mapping[str, Callable[..., Any]],
    columns: Collection[str] | None = None,
) -> Expression:
    """Read an expression.

    Parameters
    ----------
    text : str
    functions : mapping of str to callable
        What it may call.
    columns : collection of str, optional
        The columns and aliases that there are. Without, every name may be one.

    Raises
    ------
    QueryError
        For what is no expression, and for anything in it but columns, arithmetic and functions.
    uproot.KeyInFileError
        For a column that is not there.
    """
    with not_too_deep():
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError) as error:
            why = getattr(error, "msg", None) or str(error)
            raise QueryError(f"{shortened(text)!r} is no expression: {why}") from None
        if len(body) != 1 or not isinstance(body[0], ast.Expr):
            raise QueryError(
                f"{shortened(text)!r} is no expression: Python statements are not allowed."
            )
        language = _Expressions(functions, columns)
        return Expression(language.reads, language.step(body[0].value))


def is_python(text: str) -> bool:
    """Say whether a text could be an expression, or is at best the name of a column."""
    with not_too_deep():
        try:
            ast.parse(text)
        except SyntaxError:
            return not text.isprintable()
        except ValueError:
            return True
    return True


class _Expressions(Language):
    """Columns, arithmetic and functions."""

    def __init__(
        self, functions: Mapping[str, Callable[..., Any]], columns: Collection[str] | None
    ) -> None:
        super().__init__(_BITS)
        self._functions, self._columns = functions, columns
        self.reads: dict[str, None] = {}

    def allowed(self) -> str:
        return (
            "Expressions are of columns and numbers: arithmetic, comparisons, & and | and ~ in "
            "place of and, or and not, [...], and the functions that uproot and the server know, "
            "called by their names."
        )

    def column(self, name: str, node: ast.AST) -> Step:
        """Make the step that reads a column."""
        if self._columns is not None and name not in self._columns:
            if name in self._functions:
                raise self.refusal(node, f"The function {name!r} is not called.")
            raise uproot.KeyInFileError(name)
        self.reads[name] = None
        return lambda names: names[name]

    def _name(self, node: ast.Name, scope: Scope) -> Step:
        return self._plain(node.id, node)

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Step:
        name = _dotted(node)
        if name is None:
            raise self.refusal(node, f'A field is read by ["{node.attr}"].')
        return self._plain(name, node)

    def _plain(self, name: str, node: ast.AST) -> Step:
        is_private = any(step.startswith("__") for step in name.split("."))
        if is_private and name not in (self._columns or ()):
            raise self.refusal(node)
        return self.column(name, node)

    def _call(self, node: ast.Call, scope: Scope) -> Step:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == GETTER:
            return self._get(node)
        if name not in self._functions:
            raise self.refusal(
                node, "Something else is called than a function that uproot or the server knows."
            )
        function, values = self._functions[name], self.several(node.args, scope)
        options = {}
        for given in node.keywords:
            if given.arg not in KEYWORDS:
                raise self.refusal(node, f"{given.arg or '**'} is no keyword of a query.")
            options[given.arg] = self.step(given.value, scope)
        if name in _SIZED:
            self._refuse_size(node)
        return lambda names: function(
            *map(self._argument, values(names)),
            **{option: self._argument(step(names)) for option, step in options.items()},
        )

    def _get(self, node: ast.Call) -> Step:
        (given,) = node.args if len(node.args) == 1 else (None,)
        if node.keywords or not isinstance(given, ast.Constant) or not isinstance(given.value, str):
            raise self.refusal(node, 'Write the name of a column: get("with blanks").')
        return self.column(given.value, node)

    def _refuse_size(self, node: ast.Call) -> None:
        given = {option.arg: option.value for option in node.keywords}
        size = node.args[1] if len(node.args) > 1 else given.get("n", given.get("target"))
        number = size.value if isinstance(size, ast.Constant) else None
        if not isinstance(number, int) or number > _LARGEST_SIZE:
            raise self.refusal(node, f"Write a number up to {_LARGEST_SIZE} for how many.")

    def _argument(self, value: Any) -> Any:
        if isinstance(value, int):
            self.number(value, _BITS)
        return value

    nodes = {
        **Language.nodes,
        ast.Name: _name,
        ast.Attribute: _attribute,
        ast.Call: _call,
    }


def _dotted(node: ast.AST) -> str | None:
    """Return names with dots between them as one name, None for an attribute of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if not isinstance(node, ast.Attribute):
        return None
    before = _dotted(node.value)
    return None if before is None else f"{before}.{node.attr}"


def refuse_endless(aliases: Mapping[str, Collection[str]]) -> None:
    """Refuse aliases that read each other over and over.

    Parameters
    ----------
    aliases : mapping of str to collection of str
        What each of them reads.

    Raises
    ------
    QueryError
        If a column would be looked up more than a few thousand times.
    """
    reads: dict[str, int] = {}

    def count(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            return 0  # uproot finds these, unless the name is that of a column
        if name not in reads:
            read_by_it = aliases.get(name, ())
            reads[name] = 1 + sum(count(other, (*path, name)) for other in read_by_it)
        if reads[name] > _MOST_READ:
            raise QueryError(f"The alias {name!r} reads other aliases too often.")
        return reads[name]

    with not_too_deep():
        for name in aliases:
            count(name, ())
