"""Translation of func_adl queries by func_adl_uproot, and its errors."""

from __future__ import annotations

import ast

import pytest

from coffea_sx.errors import QueryError
from coffea_sx.forms.translation import translate


def query(source: str, body: str = "(attr e 'MET_pt')") -> str:
    return f"(call Select {source} (lambda (list e) (dict (list 'x') (list {body}))))"


@pytest.mark.parametrize(
    ("source", "tree"),
    [
        ("(call EventDataset 'bogus.root' 'Events')", "Events"),
        ("(call EventDataset (list 'a.root' 'b.root') 'Events')", "Events"),
        ("(call EventDataset 'bogus.root')", None),
        ("(call EventDataset)", None),
    ],
)
def test_the_input_tree_is_that_of_the_data_set(source, tree):
    found, expression = translate(query(source))
    assert found == tree
    assert isinstance(expression, ast.Call)


def test_the_expression_opens_no_files():
    _, expression = translate(query("(call EventDataset 'bogus.root' 'Events')"))
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    assert names == {
        "EventDataset",
        "dak",
        "dict",
        "e",
        "isinstance",
        "key",
        "len",
        "selection",
        "value",
    }


@pytest.mark.parametrize(
    "source",
    [
        "(call EventDataset 'bogus.root' 5)",
        "(call EventDataset 'bogus.root' 'Events' 'more')",
        "(call Concat (call EventDataset 'b.root' 'Events') (call EventDataset 'b.root' 'Runs'))",
    ],
)
def test_a_query_reads_one_tree(source):
    with pytest.raises(QueryError, match=r"name files and a tree|must read one tree"):
        translate(query(source))


def test_a_translation_without_end():
    body = "(subscript " * 40 + "e" + " 0)" * 40
    with pytest.raises(QueryError, match="no end"):
        translate(query("(call EventDataset 'bogus.root' 'Events')", body))


def test_a_name_of_no_variable():
    with pytest.raises(QueryError, match=r"called as np\.sqrt"):
        translate(query("(call EventDataset 'bogus.root' 'Events')", "(call sqrt 1)"))


@pytest.mark.parametrize(
    "text",
    [
        "(call Nonsense (call EventDataset 'bogus.root' 'Events'))",
        "(call Select (call EventDataset 'bogus.root' 'Events'))",
        "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) (call f e)))",
        "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) missing))",
    ],
)
def test_queries_that_cannot_be_translated(text):
    with pytest.raises(QueryError):
        translate(text)
