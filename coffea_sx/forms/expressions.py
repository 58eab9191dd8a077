"""Expressions of uproot-raw queries: the syntax of uproot's own language, without its evaluation.

uproot evaluates the texts of a query as Python. Here they are read by the same rules (a text that
is the name of a column is that column, names with dots are columns too, ``get("...")`` reads a
column of any name, aliases stand for expressions) and run step by step.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import uproot

from ..errors import QueryError
from .interpreter import Interpreter, Scope, Step
from .syntax import limited_nesting, shortened
from .vocabulary import GETTER, LARGEST_SIZE, RAW_BITS, RAW_KEYWORDS, SIZED_FUNCTIONS

Functions = Mapping[str, Callable[..., Any]]
_MOST_READ = 10_000


@dataclass(frozen=True)
class Expression:
    """An expression that was checked.

    Attributes
    ----------
    reads : dict of str to None
        The columns and aliases that it reads, in their order.
    step : callable
        Takes the columns by name and returns the value.
    """

    reads: dict[str, None]
    step: Step


def parse_expression(
    text: str, functions: Functions, columns: Collection[str] | None = None
) -> Expression:
    """Parse and check the text of an expression.

    Parameters
    ----------
    text : str
    functions : mapping of str to callable
        The functions that it may call.
    columns : collection of str, optional
        The columns and aliases of the tree. Without them, any name may be a column.

    Raises
    ------
    QueryError
        If the text is no expression, or has anything in it but columns, arithmetic and functions.
    uproot.KeyInFileError
        For a column that the tree does not have.
    """
    with limited_nesting():
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError) as error:
            reason = getattr(error, "msg", None) or str(error)
            raise QueryError(f"{shortened(text)!r} is no expression: {reason}") from None
        if len(body) != 1 or not isinstance(body[0], ast.Expr):
            raise QueryError(
                f"{shortened(text)!r} is no expression: Python statements are not allowed."
            )
        interpreter = ExpressionInterpreter(functions, columns)
        return Expression(interpreter.reads, interpreter.interpret(body[0].value))


def is_python(text: str) -> bool:
    """Return False if a text is no Python, so that it can only be the name of a column."""
    with limited_nesting():
        try:
            ast.parse(text)
        except SyntaxError:
            return not text.isprintable()
        except ValueError:
            return True
    return True


class ExpressionInterpreter(Interpreter):
    """Interpreter of columns, arithmetic and functions.

    Parameters
    ----------
    functions, columns
        As for `parse_expression`.

    Attributes
    ----------
    reads : dict of str to None
        The columns and aliases that are read, in their order.
    """

    allowed = (
        "Expressions are of columns and numbers: arithmetic, comparisons, & and | and ~ in place "
        "of and, or and not, [...], and the functions of uproot and of the server, called by their "
        "names."
    )

    def __init__(self, functions: Functions, columns: Collection[str] | None) -> None:
        super().__init__(RAW_BITS)
        self._functions, self._columns = functions, columns
        self.reads: dict[str, None] = {}

    def _column(self, name: str, node: ast.AST) -> Step:
        if self._columns is not None and name not in self._columns:
            if name in self._functions:
                raise self.refusal(node, f"The function {name!r} is not called.")
            raise uproot.KeyInFileError(name)
        self.reads[name] = None
        return lambda names: names[name]

    def _name(self, node: ast.Name, scope: Scope) -> Step:
        return self._public_column(node.id, node)

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Step:
        name = _dotted_name(node)
        if name is None:
            raise self.refusal(node, f'A field is read by ["{node.attr}"].')
        return self._public_column(name, node)

    def _public_column(self, name: str, node: ast.AST) -> Step:
        is_private = any(part.startswith("__") for part in name.split("."))
        if is_private and name not in (self._columns or ()):
            raise self.refusal(node)
        return self._column(name, node)

    def _call(self, node: ast.Call, scope: Scope) -> Step:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == GETTER:
            return self._get(node)
        if name not in self._functions:
            raise self.refusal(node, "Only functions of uproot and of the server can be called.")
        if name in SIZED_FUNCTIONS:
            self._check_size(node)
        return self.interpret_call(
            self._functions[name], node, scope, keywords=RAW_KEYWORDS, check=self._checked
        )

    def _get(self, node: ast.Call) -> Step:
        (name,) = node.args if len(node.args) == 1 else (None,)
        if node.keywords or not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            raise self.refusal(node, 'Write the name of a column: get("with blanks").')
        return self._column(name.value, node)

    def _check_size(self, node: ast.Call) -> None:
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        size = node.args[1] if len(node.args) > 1 else keywords.get("n", keywords.get("target"))
        number = size.value if isinstance(size, ast.Constant) else None
        if not isinstance(number, int) or number > LARGEST_SIZE:
            raise self.refusal(node, f"Write the size as a number up to {LARGEST_SIZE}.")

    def _checked(self, value: Any) -> Any:
        return self.number(value, RAW_BITS) if isinstance(value, int) else value

    nodes = {**Interpreter.nodes, ast.Name: _name, ast.Attribute: _attribute, ast.Call: _call}


def _dotted_name(node: ast.AST) -> str | None:
    """Return the text of names with dots between them, None for an attribute of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if not isinstance(node, ast.Attribute):
        return None
    owner = _dotted_name(node.value)
    return None if owner is None else f"{owner}.{node.attr}"


def check_aliases(aliases: Mapping[str, Collection[str]]) -> None:
    """Refuse aliases that read other aliases too often.

    Parameters
    ----------
    aliases : mapping of str to collection of str
        The columns and aliases that each alias reads.

    Raises
    ------
    QueryError
        If an alias leads to more than ten thousand readings of columns.
    """
    reads: dict[str, int] = {}

    def count(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            return 0  # uproot refuses a circle, unless the name is that of a column
        if name not in reads:
            others = aliases.get(name, ())
            reads[name] = 1 + sum(count(other, (*path, name)) for other in others)
        if reads[name] > _MOST_READ:
            raise QueryError(f"The alias {name!r} reads other aliases too often.")
        return reads[name]

    with limited_nesting():
        for name in aliases:
            count(name, ())


class ColumnLanguage(uproot.language.Language):
    """Language of uproot that takes the place of its evaluation of Python.

    Parameters
    ----------
    functions : mapping of str to callable
        The functions that an expression may call.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def getter_of(self, name: str) -> str:
        """Return the expression that reads a column of any name."""
        return f"{GETTER}({name!r})"

    def free_symbols(
        self, expression: str, keys: Collection[str], aliases: Collection[str], *_: str
    ) -> list[str]:
        """Return the columns and aliases that an expression reads.

        Raises
        ------
        QueryError
            If anything in the expression is not allowed.
        uproot.KeyInFileError
            If there is no such column.
        """
        if expression in keys:
            return [expression]
        return list(parse_expression(expression, self._functions, {*keys, *aliases}).reads)

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
                for name in _branch_names(branch, hasbranches):
                    if name in keys:
                        values[name] = arrays[branch.cache_key]
        primary = [(text, context) for text, context in expression_context if context["is_primary"]]
        output = {text: values.of(text) for text, context in primary if not context["is_cut"]}
        for text, context in primary:
            if context["is_cut"]:
                passes = values.of(text) != 0
                return {name: array[passes] for name, array in output.items()}
        return output


class _Values(dict[str, Any]):
    """Columns by name, and aliases, which are calculated when they are first read."""

    def __init__(
        self, functions: Functions, keys: Collection[str], aliases: Mapping[str, str]
    ) -> None:
        super().__init__()
        self._functions, self._keys, self._aliases = functions, keys, aliases

    def of(self, text: str) -> Any:
        """Return the value of an expression."""
        if text in self._keys:
            return self[text]
        return parse_expression(text, self._functions, {*self._keys, *self._aliases}).step(self)

    def __missing__(self, name: str) -> Any:
        self[name] = self.of(self._aliases[name])
        return self[name]


def _branch_names(branch: Any, root: Any) -> Iterator[str]:
    """Yield the names of a branch: its own, with each branch above it, and with its full path."""
    name = branch.name
    yield name
    while (branch := branch.parent) is not root:
        name = f"{branch.name}/{name}"
        yield name
    yield f"/{name}"
