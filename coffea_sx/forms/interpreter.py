"""Safe evaluator of Python expressions that come from elsewhere.

A syntax tree is turned into steps, node by node, before any step is run. There are steps only for
the kinds of nodes that an `Interpreter` lists, and each interpreter lists the names, functions and
attributes that it allows. Anything else is refused: Python's own `eval` and `exec` are not used.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import QueryError
from .syntax import excerpt

Names = Mapping[str, Any]
Scope = frozenset[str]
Step = Callable[[Names], Any]
"""Takes the values of names and returns the value of an expression."""

BINARY_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
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
UNARY_OPERATORS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NUMBERS = (int, float, complex, np.number, np.bool_)
# Everything that is not an array; only the numbers can be calculated with.
_NOT_ARRAYS = (*_NUMBERS, str, bytes, list, tuple, dict, slice, type, type(None), np.generic)
_CONSTANT_NODES = (
    *(ast.Constant, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator),
    *(ast.List, ast.Tuple, ast.Dict, ast.expr_context),
)


class Interpreter:
    """Turns syntax trees into steps.

    Parameters
    ----------
    bits : int
        The most bits of a whole number, so that no text keeps a processor or the memory busy.

    Attributes
    ----------
    allowed : str
        What can be written, for error messages.
    nodes : dict of type to callable
        The kinds of nodes that are allowed, and the method that interprets each.
    """

    allowed: str

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def interpret(self, node: ast.AST, scope: Scope = frozenset()) -> Step:
        """Return the step of a node.

        Parameters
        ----------
        node : ast.AST
        scope : frozenset of str
            Names of the variables that are bound where the node is.

        Raises
        ------
        QueryError
            For a node that is not allowed.
        """
        method = self.nodes.get(type(node))
        if method is None:
            raise self.refusal(node)
        return method(self, node, scope)

    def interpret_all(self, nodes: Sequence[ast.AST], scope: Scope) -> Callable[[Names], list[Any]]:
        """Return the step of several nodes, which gives the list of their values."""
        steps = [self.interpret(node, scope) for node in nodes]
        return lambda names: [step(names) for step in steps]

    def interpret_call(
        self,
        function: Callable[..., Any],
        node: ast.Call,
        scope: Scope,
        *,
        keywords: Collection[str] = (),
        check: Callable[[Any], Any] = lambda value: value,
    ) -> Step:
        """Return the step of a call.

        Parameters
        ----------
        function : callable
            The allowed function that the node names.
        node : ast.Call
        scope : frozenset of str
        keywords : collection of str
            The keywords that it may be called with.
        check : callable
            Takes and returns each argument; it may refuse some.

        Raises
        ------
        QueryError
            For a keyword or an argument that is not allowed.
        """
        values = self.interpret_all(node.args, scope)
        options: dict[str, Step] = {}
        for keyword in node.keywords:
            name = keyword.arg or "**"
            if name not in keywords:
                raise self.refusal(node, f"{ast.unparse(node.func)} has no keyword {name}.")
            options[name] = self._keyword(keyword, scope)
        return lambda names: function(
            *map(check, values(names)),
            **{name: check(step(names)) for name, step in options.items()},
        )

    def _keyword(self, node: ast.keyword, scope: Scope) -> Step:
        return self.interpret(node.value, scope)

    def refusal(self, node: ast.AST, reason: str = "") -> QueryError:
        """Return the error for a node that is not allowed."""
        return QueryError(
            f"The query cannot be translated: {excerpt(node)!r} ({type(node).__name__}) is not "
            f"allowed. {reason or self.allowed}"
        )

    # ---- nodes

    def _constant(self, node: ast.Constant, scope: Scope) -> Step:
        value = node.value
        if not isinstance(value, (bool, int, float, str, type(None))):
            raise self.refusal(node, "Constants are numbers, texts, True, False and None.")
        if isinstance(value, int) and value.bit_length() > self._bits:
            raise self.refusal(node, f"Whole numbers have {self._bits} bits at most.")
        return lambda names: value

    def _list(self, node: ast.List, scope: Scope) -> Step:
        return self.interpret_all(node.elts, scope)

    def _tuple(self, node: ast.Tuple, scope: Scope) -> Step:
        values = self.interpret_all(node.elts, scope)
        return lambda names: tuple(values(names))

    def _dict(self, node: ast.Dict, scope: Scope) -> Step:
        if None in node.keys:
            raise self.refusal(node, "A dict has keys and values.")
        keys = self.interpret_all([key for key in node.keys if key is not None], scope)
        values = self.interpret_all(node.values, scope)
        return lambda names: dict(zip(keys(names), values(names), strict=True))

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> Step:
        function = UNARY_OPERATORS.get(type(node.op))
        if function is None:
            raise self.refusal(node)
        operand = self.interpret(node.operand, scope)
        return lambda names: function(operand(names))

    def _binary(self, node: ast.BinOp, scope: Scope) -> Step:
        if type(node.op) not in BINARY_OPERATORS:
            raise self.refusal(node)
        left, right = self.interpret(node.left, scope), self.interpret(node.right, scope)
        kind = type(node.op)

        def run(names: Names) -> Any:
            return self.calculate(kind, left(names), right(names))

        if all(isinstance(inner, _CONSTANT_NODES) for inner in ast.walk(node)):
            # There is no column in it: a number that is too large is so for every file.
            try:
                run({})
            except QueryError:
                raise
            except Exception:
                # A real server meets Python's own errors only when it reads a file.
                return run
        return run

    def _compare(self, node: ast.Compare, scope: Scope) -> Step:
        function = COMPARISONS.get(type(node.ops[0]))
        if function is None:
            raise self.refusal(node)
        if len(node.ops) > 1:
            raise self.refusal(node, "Write (a < x) & (x < b) in place of a < x < b.")
        left, right = self.interpret(node.left, scope), self.interpret(node.comparators[0], scope)
        return lambda names: function(left(names), right(names))

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Step:
        value, item = self.interpret(node.value, scope), self.interpret(node.slice, scope)
        return lambda names: value(names)[item(names)]

    def _slice(self, node: ast.Slice, scope: Scope) -> Step:
        limits = (node.lower, node.upper, node.step)
        values = self.interpret_all([limit or ast.Constant(None) for limit in limits], scope)
        return lambda names: slice(*values(names))

    nodes: dict[type[ast.AST], Callable[[Any, Any, Scope], Step]] = {
        ast.Constant: _constant,
        ast.List: _list,
        ast.Tuple: _tuple,
        ast.Dict: _dict,
        ast.UnaryOp: _unary,
        ast.BinOp: _binary,
        ast.Compare: _compare,
        ast.Subscript: _subscript,
        ast.Slice: _slice,
    }

    # ---- values

    def calculate(self, kind: type[ast.operator], left: Any, right: Any) -> Any:
        """Apply a binary operator to arrays and numbers.

        Raises
        ------
        QueryError
            For a text or a list, and for a whole number of too many bits.
        """
        for value in (left, right):
            if isinstance(value, _NOT_ARRAYS) and not isinstance(value, _NUMBERS):
                raise QueryError(
                    f"The query calculates with a {type(value).__name__}, which is no number and "
                    "no column."
                )
        if isinstance(left, (int, np.integer)) and isinstance(right, (int, np.integer)):
            self._check_result(kind, int(left), int(right))
        return BINARY_OPERATORS[kind](left, right)

    def _check_result(self, kind: type[ast.operator], left: int, right: int) -> None:
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
        """Return an array or a number unchanged.

        Raises
        ------
        QueryError
            For anything else, and for a whole number of more bits.
        """
        if not isinstance(value, _NOT_ARRAYS):
            return value
        if not isinstance(value, _NUMBERS):
            raise QueryError(
                f"A function in the query gets a {type(value).__name__}, which is no number and no "
                "column."
            )
        if isinstance(value, int) and value.bit_length() > bits:
            raise QueryError(f"A number in the query has more than {bits} bits.")
        return value
