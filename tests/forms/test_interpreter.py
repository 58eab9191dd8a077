"""The interpreter evaluates nodes that are listed, and numbers and arrays of limited size."""

from __future__ import annotations

import ast
from typing import Any

import awkward as ak
import numpy as np
import pytest

from coffea_sx.errors import QueryError
from coffea_sx.forms.interpreter import Interpreter


class Arithmetic(Interpreter):
    """Variables a and b, arithmetic, and the functions f and g with the keyword k."""

    allowed = "Write arithmetic."

    def _name(self, node, scope):
        return lambda names: names[node.id]

    def _call(self, node, scope):
        function = {"f": lambda *values, k=0: [*values, k]}[node.func.id]
        return self.interpret_call(function, node, scope, keywords={"k"}, check=self.number)

    nodes = {**Interpreter.nodes, ast.Name: _name, ast.Call: _call}


def run(text: str, **names: Any) -> Any:
    return Arithmetic(32).interpret(ast.parse(text, mode="eval").body)(names)


@pytest.mark.parametrize(
    "text",
    [
        *("1 + 2 * 3 - 4 / 5", "7 // 2 % 3", "2 ** 5 << 1 >> 2", "6 & 3 | 8 ^ 1", "~1", "-a", "+a"),
        *("[1, 'x', None]", "(1, 2.5)", "{'x': a}", "a < b", "a >= b", "a != b", "[1, 2, 3][1:]"),
        *("[[1], [2]][0][0]", "'abc'[::2]"),
    ],
)
def test_values_are_those_of_python(text):
    assert run(text, a=3, b=4) == eval(text, {"a": 3, "b": 4})


@pytest.mark.parametrize(
    "text",
    [
        *("a.real", "lambda: 1", "[x for x in a]", "a if b else a", "a and b", "f'{a}'", "{1, 2}"),
        *("(x := 1)", "[*a]", "{**a}", "a < b < a", "a is b", "a in b", "not a", "a @ b", "b'a'"),
        *("1j", "...", "f(*a)", "f(**a)", "f(a, z=1)"),
    ],
)
def test_other_nodes_are_refused_before_anything_is_run(text):
    with pytest.raises(QueryError, match="is not allowed"):
        Arithmetic(32).interpret(ast.parse(text, mode="eval").body)


def test_an_error_names_the_node_and_what_is_allowed():
    with pytest.raises(QueryError, match=r"'a\.real' \(Attribute\) is not allowed. Write arithm"):
        run("1 + a.real", a=1)


@pytest.mark.parametrize("text", ["2 ** 40", "1 << 40", "2 ** 30 * 2 ** 30", str(2**40)])
def test_constants_of_too_many_bits_are_refused_before_anything_is_run(text):
    with pytest.raises(QueryError, match="32 bits at most"):
        Arithmetic(32).interpret(ast.parse(text, mode="eval").body)


@pytest.mark.parametrize("text", ["a ** a", "1 << a", "a * a * a * a * a"])
def test_numbers_do_not_grow_while_they_are_calculated(text):
    for value in (99, np.int64(99)):
        with pytest.raises(QueryError, match="32 bits at most"):
            run(text, a=value)


@pytest.mark.parametrize("value", ["x", [1], (1,), {"x": 1}, None, int, slice(1)])
def test_only_numbers_and_arrays_are_calculated_with(value):
    with pytest.raises(QueryError, match="no number and no column"):
        run("a * 2", a=value)
    with pytest.raises(QueryError, match="no number and no column"):
        run("f(a)", a=value)


def test_arguments_and_keywords_are_checked():
    assert run("f(a, 2, k=b)", a=1, b=3) == [1, 2, 3]
    with pytest.raises(QueryError, match="f has no keyword z"):
        run("f(a, z=1)", a=1)
    with pytest.raises(QueryError, match="no number and no column"):
        run("f(a, k='x')", a=1)
    with pytest.raises(QueryError, match="more than 64 bits"):
        run("f(a)", a=2**64)


def test_arrays_are_calculated_with():
    array = ak.Array([[1, 2], [3]])
    assert run("(a + 1) * 2 > 4", a=array).to_list() == [[False, True], [True]]
