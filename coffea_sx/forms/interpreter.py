"""Evaluate text that comes from elsewhere: what is not listed is not evaluated.

A syntax tree is turned into steps, node by node, before any of them is taken. A step is made only
for the kinds of nodes that a `Language` lists, and each language says which names, functions and
attributes it knows. So nothing else can happen, whatever the text says: Python's own `eval` and
`exec` take no part.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import keyword
import operator
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import QueryError

Names = Mapping[str, Any]
Scope = frozenset[str]
Step = Callable[[Names], Any]
"""Takes the values of names, gives the value of an expression."""

LONGEST_TEXT = 150_000
DEEPEST_TEXT = 500
LONGEST_PART = 60

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.BitAnd: operator.and_,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
# What is no array. Numbers are the only ones to calculate with.
_PLAIN = (int, float, complex, str, bytes, list, tuple, dict, slice, type, type(None), np.generic)
_NUMBERS = (int, float, complex, np.number, np.bool_)
_CONSTANT = (
    *(ast.Constant, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator),
    *(ast.List, ast.Tuple, ast.Dict, ast.expr_context),
)


class Language:
    """What makes steps of a syntax tree.

    Parameters
    ----------
    bits : int
        The most that a whole number may have, so that no text keeps a processor or the memory busy.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def step(self, node: ast.AST, scope: Scope = frozenset()) -> Step:
        """Make the step of a node.

        Parameters
        ----------
        node : ast.AST
        scope : frozenset of str
            The variables that are there.

        Raises
        ------
        QueryError
            For a node that the language does not have.
        """
        make = self.nodes.get(type(node))
        if make is None:
            raise self.refusal(node)
        return make(self, node, scope)

    def refusal(self, node: ast.AST, why: str = "") -> QueryError:
        """Make the error for a node that is not allowed."""
        what = f"{part(node)!r} ({type(node).__name__})"
        return QueryError(
            f"The query cannot be translated: {what} is not allowed. {why or self.allowed()}"
        )

    def allowed(self) -> str:
        """Say what is allowed, for an error."""
        raise NotImplementedError

    # ---- nodes

    def _constant(self, node: ast.Constant, scope: Scope) -> Step:
        value = node.value
        if not isinstance(value, (bool, int, float, str, type(None))):
            raise self.refusal(node, "Constants are numbers, texts, True, False and None.")
        if isinstance(value, int) and value.bit_length() > self._bits:
            raise self.refusal(node, f"Whole numbers have {self._bits} bits at most.")
        return lambda names: value

    def several(self, nodes: list[ast.expr], scope: Scope) -> Callable[[Names], list[Any]]:
        """Make the steps of some nodes."""
        steps = [self.step(node, scope) for node in nodes]
        return lambda names: [step(names) for step in steps]

    def _a_list(self, node: ast.List, scope: Scope) -> Step:
        return self.several(node.elts, scope)

    def _a_tuple(self, node: ast.Tuple, scope: Scope) -> Step:
        values = self.several(node.elts, scope)
        return lambda names: tuple(values(names))

    def _a_dict(self, node: ast.Dict, scope: Scope) -> Step:
        if None in node.keys:
            raise self.refusal(node, "A dict has keys and values.")
        keys = self.several([key for key in node.keys if key is not None], scope)
        values = self.several(node.values, scope)
        return lambda names: dict(zip(keys(names), values(names), strict=True))

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> Step:
        function = UNARY.get(type(node.op))
        if function is None:
            raise self.refusal(node)
        operand = self.step(node.operand, scope)
        return lambda names: function(operand(names))

    def _binary(self, node: ast.BinOp, scope: Scope) -> Step:
        if type(node.op) not in BINARY:
            raise self.refusal(node)
        left, right = self.step(node.left, scope), self.step(node.right, scope)
        kind = type(node.op)

        def run(names: Names) -> Any:
            return self.calculate(kind, left(names), right(names))

        if all(isinstance(inner, _CONSTANT) for inner in ast.walk(node)):
            # No column takes part: what is too large here is so for every file.
            try:
                run({})
            except QueryError:
                raise
            except Exception:
                # Python's own errors are those of the file: the real server has them there.
                return run
        return run

    def _compare(self, node: ast.Compare, scope: Scope) -> Step:
        function = COMPARED.get(type(node.ops[0]))
        if function is None:
            raise self.refusal(node)
        if len(node.ops) > 1:
            raise self.refusal(node, "Write (a < x) & (x < b) in place of a < x < b.")
        left, right = self.step(node.left, scope), self.step(node.comparators[0], scope)
        return lambda names: function(left(names), right(names))

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Step:
        value, item = self.step(node.value, scope), self.step(node.slice, scope)
        return lambda names: value(names)[item(names)]

    def _a_slice(self, node: ast.Slice, scope: Scope) -> Step:
        nothing = ast.Constant(None)
        ends = self.several([x or nothing for x in (node.lower, node.upper, node.step)], scope)
        return lambda names: slice(*ends(names))

    nodes: dict[type[ast.AST], Callable[[Any, Any, Scope], Step]] = {
        ast.Constant: _constant,
        ast.List: _a_list,
        ast.Tuple: _a_tuple,
        ast.Dict: _a_dict,
        ast.UnaryOp: _unary,
        ast.BinOp: _binary,
        ast.Compare: _compare,
        ast.Subscript: _subscript,
        ast.Slice: _a_slice,
    }

    # ---- values

    def calculate(self, kind: type[ast.operator], left: Any, right: Any) -> Any:
        """Apply an operator; of two values that are no arrays, to numbers that stay small.

        Raises
        ------
        QueryError
            For a text or a list, and for a result of too many bits.
        """
        for value in (left, right):
            if isinstance(value, _PLAIN) and not isinstance(value, _NUMBERS):
                raise QueryError(
                    f"The query calculates with a {type(value).__name__}, which is no number and "
                    "no column."
                )
        if isinstance(left, (int, np.integer)) and isinstance(right, (int, np.integer)):
            self._bound(kind, int(left), int(right))
        return BINARY[kind](left, right)

    def _bound(self, kind: type[ast.operator], left: int, right: int) -> None:
        bits = left.bit_length()
        if kind is ast.Pow:
            bits *= max(right, 1)
        elif kind is ast.LShift:
            bits += max(right, 0)
        elif kind is ast.Mult:
            bits += right.bit_length()
        if bits > self._bits + 1:
            raise QueryError(
                f"A number in the query would be too large: whole numbers have {self._bits} bits "
                "at most."
            )

    def number(self, value: Any, bits: int = 64) -> Any:
        """Return an array or a number as it is.

        Raises
        ------
        QueryError
            For anything else, and for a whole number that no column of numbers can hold.
        """
        if not isinstance(value, _PLAIN):
            return value
        if not isinstance(value, _NUMBERS):
            raise QueryError(
                f"A function in the query gets a {type(value).__name__}, which is no number and no "
                "column."
            )
        if isinstance(value, int) and value.bit_length() > bits:
            raise QueryError(f"A number in the query has more than {bits} bits.")
        return value


def part(node: ast.AST) -> str:
    """Write a part of a query, shortened."""
    try:
        text = ast.unparse(node)
    except Exception:
        # Of a tree that is too deep, or that no text has made.
        return "..."
    return shortened(text)


def shortened(text: str) -> str:
    """Return as much of a text as an error shows."""
    return text if len(text) <= LONGEST_PART else f"{text[:LONGEST_PART]}..."


def identifier(text: object) -> str:
    """Return the name of a variable or of an attribute as it is.

    Raises
    ------
    QueryError
        If Python would read something else from it.
    """
    is_one = isinstance(text, str) and text.isidentifier() and not keyword.iskeyword(text)
    if not is_one or unicodedata.normalize("NFKC", str(text)) != text:
        shown = shortened(repr(text))
        raise QueryError(
            f"The query cannot be translated: {shown} is not allowed as a name behind a dot or as "
            f"a variable. A column with such a name is read by e[{shown}]."
        )
    return str(text)


def refuse_unsaid(tree: ast.AST) -> None:
    """Refuse what a translator of qastle passes over, and names that are something else.

    Raises
    ------
    QueryError
        As `identifier`; for the keywords of a call, and for all but the variables of a lambda.
    """
    for node in ast.walk(tree):
        passed_over: list[Any] = []
        if isinstance(node, ast.Call):
            passed_over = node.keywords
        elif isinstance(node, ast.arguments):
            passed_over = [*node.posonlyargs, *node.kwonlyargs, *node.defaults, *node.kw_defaults]
            passed_over += [extra for extra in (node.vararg, node.kwarg) if extra is not None]
        if passed_over:
            raise QueryError(
                f"The query cannot be translated: {part(node)!r} is not allowed. Calls have no "
                "keywords, and lambdas have variables only."
            )
        for field in ("id", "arg", "attr"):
            if field in node._fields:
                identifier(getattr(node, field))


def refuse_long(text: str) -> None:
    """Refuse a text that takes long to read.

    Raises
    ------
    QueryError
        If it has more than `LONGEST_TEXT` characters, or more than `DEEPEST_TEXT` parentheses in
        one another.
    """
    if len(text) > LONGEST_TEXT:
        raise QueryError(
            f"The query is too long: {len(text)} characters, where {LONGEST_TEXT} are allowed. "
            "Select fewer columns at once."
        )
    opened = itertools.accumulate((char in "([{") - (char in ")]}") for char in text)
    if max(opened, default=0) > DEEPEST_TEXT:
        raise too_deep()


@contextlib.contextmanager
def not_too_deep() -> Iterator[None]:
    """Turn what Python raises for nesting without end into a `QueryError`."""
    try:
        yield
    except (RecursionError, MemoryError):
        raise too_deep() from None


def too_deep() -> QueryError:
    """Make the error for a query that is nested without end."""
    return QueryError("The query cannot be translated: its parentheses are nested too deeply.")
