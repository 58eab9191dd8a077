"""Limits on the text and the syntax tree of queries."""

from __future__ import annotations

import ast

import pytest

from coffea_sx.errors import QueryError
from coffea_sx.forms.syntax import (
    DEEPEST_NESTING,
    LONGEST_TEXT,
    check_text,
    check_tree,
    excerpt,
    limited_nesting,
)


def test_the_longest_text():
    check_text("x" * LONGEST_TEXT)
    with pytest.raises(QueryError, match="too long"):
        check_text("x" * (LONGEST_TEXT + 1))


def test_the_deepest_nesting():
    check_text("(" * DEEPEST_NESTING + ")" * DEEPEST_NESTING)
    check_text("()" * 2 * DEEPEST_NESTING)
    with pytest.raises(QueryError, match="nested too deeply"):
        check_text("([{" * (DEEPEST_NESTING // 3 + 1))


@pytest.mark.parametrize("kind", [RecursionError, MemoryError])
def test_errors_for_nesting_are_errors_of_the_query(kind):
    with pytest.raises(QueryError, match="nested too deeply"), limited_nesting():
        raise kind


@pytest.mark.parametrize(
    "text",
    [
        *("f(x=1)", "f(**x)", "lambda x=1: x", "lambda *x: x", "lambda **x: x", "lambda x, /: x"),
        *("lambda *, x: x",),
    ],
)
def test_parts_that_translators_ignore_are_refused(text):
    with pytest.raises(QueryError, match="Calls have no keywords"):
        check_tree(ast.parse(text))


@pytest.mark.parametrize("name", ["a.b", "a b", "a + b", "class", "\uff45val", "", "a\n", None])
def test_names_that_are_no_identifiers_are_refused(name):
    for node in (ast.Name(name), ast.Attribute(ast.Name("e"), name), ast.arg(name)):
        with pytest.raises(QueryError, match="not allowed as a name"):
            check_tree(node)


def test_plain_queries_pass():
    check_tree(ast.parse("events().Select(lambda e: {'x': np.sqrt(e.MET_pt) + e['a b']})"))


def test_excerpts_are_short():
    assert excerpt(ast.parse("a + b", mode="eval").body) == "a + b"
    assert excerpt(ast.parse("+".join("a" * 100), mode="eval").body).endswith("...")
    assert excerpt(ast.Name(None)) == "..."
