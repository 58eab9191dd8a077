"""Canaries for internals of func_adl_uproot and func_adl_xAOD."""

from __future__ import annotations

import ast

import pytest
import qastle

from coffea_sx._upstream.func_adl import EndlessTranslation, booked_tree, python_expression

EVENTS = "(call EventDataset 'bogus.root' 'Events')"
JETS = "(call (attr e 'Jets') 'AntiKt4EMTopoJets')"


def linq(text: str) -> ast.AST:
    return qastle.insert_linq_nodes(qastle.text_ast_to_python_ast(text))


def test_python_expression_calls_the_events_and_dask_awkward():
    text = f"(call Count (call Select {EVENTS} (lambda (list e) (attr e 'x'))))"
    expression = python_expression(linq(text), "EventDataset")
    ast.parse(expression, mode="eval")
    assert expression.startswith("dak.num(")
    assert "(lambda e: e.x)(EventDataset())" in expression
    assert "uproot" not in expression


def test_python_expression_ends():
    body = "(subscript " * 40 + "e" + " 0)" * 40
    with pytest.raises(EndlessTranslation):
        python_expression(linq(f"(call Select {EVENTS} (lambda (list e) {body}))"), "EventDataset")


def booked(body: str, *metadata: str):
    executor = pytest.importorskip("func_adl_xAOD.atlas.xaod.executor").atlas_xaod_executor
    source = "(call EventDataset)"
    for declaration in metadata:
        source = f"(call MetaData {source} {declaration})"
    text = f"(call Select {source} (lambda (list e) (dict (list 'x') (list {body}))))"
    return booked_tree(executor, qastle.text_ast_to_python_ast(text).body[0].value)


PT = f"(call Select {JETS} (lambda (list j) (call (attr j 'pt'))))"
DECLARED = (
    "(dict (list 'metadata_type' 'type_string' 'method_name' 'return_type')"
    " (list 'add_method_type_info' 'xAOD::Jet' 'pt' 'float'))"
)


def test_booked_tree_has_names_types_and_guesses():
    tree = booked(PT)
    assert tree.name == "atlas_xaod_tree"
    assert tree.columns == [("x", "std::vector<double>")]
    assert tree.guesses == ["xAOD::Jet::pt"]


def test_booked_tree_has_declared_types():
    tree = booked(PT, DECLARED)
    assert tree.columns == [("x", "std::vector<float>")]
    assert tree.guesses == []


def test_booked_tree_leaves_no_types_for_the_next_query():
    booked(PT, DECLARED)
    assert booked(PT).columns == [("x", "std::vector<double>")]
    from func_adl_xAOD.common import cpp_types

    booked(PT, DECLARED.replace("'float'", "'my::space::float_type'"))
    assert cpp_types.g_toplevel_ns == {}


def test_booked_tree_has_the_errors_of_the_translator():
    with pytest.raises(Exception, match="unknown"):
        booked("(call unknown 1)")
