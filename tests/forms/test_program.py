"""A program gives the same as func_adl_uproot, and refuses all that is not in the vocabulary."""

from __future__ import annotations

import ast
import sys
import warnings
from typing import Any

import awkward as ak
import dask
import numpy as np
import pytest
import uproot
from func_adl_uproot.translation import generate_function
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import corpus
from support.corpus import CORPUS

from coffea_sx.errors import QueryError
from coffea_sx.forms import vocabulary
from coffea_sx.forms.program import ProgramInterpreter, program
from coffea_sx.query import select


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return corpus.write_input(tmp_path_factory.mktemp("program") / "in.root", 40)


def theirs(text: str, path: str) -> Any:
    return generate_function(text)(input_filenames=path)


def ours(text: str, path: str) -> Any:
    query = program(text)
    with uproot.open({path: query.tree}) as tree:
        events = tree.arrays(virtual=True)
        query.trace(events.layout.form)
        return in_memory(query.run(events))


def in_memory(result: Any) -> Any:
    """Read what a result of virtual events consists of."""
    if isinstance(result, ak.Record):
        return ak.materialize(ak.Array(result.layout.array))[result.layout.at]
    return ak.materialize(result) if isinstance(result, ak.Array) else np.asarray(result)[()]


def outcome(run: Any, text: str, path: str) -> Any:
    with warnings.catch_warnings(), dask.config.set(scheduler="sync"):
        warnings.simplefilter("ignore")
        try:
            return run(text, path)
        except Exception as error:
            return error


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_gives_what_func_adl_uproot_gives(name, path):
    text = select(CORPUS[name], codegen="uproot").text
    expected, result = (outcome(run, text, path) for run in (theirs, ours))
    if isinstance(expected, Exception):
        assert isinstance(result, Exception)
    else:
        kinds = (ak.Array, ak.Record)
        assert isinstance(result, kinds) is isinstance(expected, kinds)
        assert str(ak.type(result)) == str(ak.type(expected))
        assert ak.array_equal([result], [expected], equal_nan=True)


# -- random trees

EVALUATIONS: list[str] = []


def _record(event: str, _: Any) -> None:
    if event == "exec" and EVALUATIONS:
        EVALUATIONS.append(event)


sys.addaudithook(_record)

NAMES = st.sampled_from(
    ["e", "np", "dak", "uproot", "os", "eval", "exec", "open", "__import__", "x", "isinstance"]
)
ATTRIBUTES = st.sampled_from(
    ["MET_pt", "testing", "system", "__class__", "f_globals", "Array", "fields", "layout", "sqrt"]
)
TEXTS = st.sampled_from(["'a'", "1", "True", "'__import__(1)'", "b'x'", "1j", "..."])


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    return st.one_of(
        st.builds("({}).{}".format, inner, ATTRIBUTES),
        st.builds("({})({})".format, inner, inner),
        st.builds("({})()".format, inner),
        st.builds("({})({}, *({}))".format, inner, inner, inner),
        st.builds("({})(key={})".format, inner, inner),
        st.builds("({})[{}]".format, inner, inner),
        two.map(lambda pair: f"({pair[0]} + {pair[1]})"),
        two.map(lambda pair: f"({pair[0]} and {pair[1]})"),
        two.map(lambda pair: f"({pair[0]} if {pair[0]} else {pair[1]})"),
        two.map(lambda pair: f"[{pair[0]} for x in {pair[1]}]"),
        two.map(lambda pair: f"({pair[0]} for x in {pair[1]} if {pair[0]})"),
        two.map(lambda pair: f"{{x: {pair[0]} for x in {pair[1]}}}"),
        two.map(lambda pair: f"{{{pair[0]}: {pair[1]}}}"),
        st.builds("(lambda x: {})".format, inner),
        two.map(lambda pair: f"(lambda x={pair[0]}: {pair[1]})"),
        st.builds("(x := {})".format, inner),
        st.builds("f'{{{}}}'".format, st.sampled_from(["e", "x", "open"])),
        st.builds("[{}]".format, inner),
        st.builds("({},)".format, inner),
        st.builds("(not {})".format, inner),
        st.builds("-({})".format, inner),
    )


ANYTHING = st.recursive(st.one_of(NAMES, TEXTS), _grown, max_leaves=8)

# Nodes that no tree may have that is run.
FORBIDDEN = (ast.GeneratorExp, ast.SetComp, ast.NamedExpr, ast.JoinedStr, ast.Await, ast.Yield)
CALLABLE = {*vocabulary.BUILTINS, "pow", "isinstance", "getattr", "type", "EventDataset"}


def is_outside(tree: ast.AST) -> bool:
    """Return True if a tree has something that is not allowed, by rules of the test's own."""
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, FORBIDDEN):
            return True
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            return True
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id not in CALLABLE | bound:
            return True
        if isinstance(node, ast.Name) and node.id in {"os", "eval", "exec", "open", "__import__"}:
            return True
    return False


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANYTHING)
@example("e.__class__")
@example("np.sqrt")
@example("open('x')")
def test_random_trees_with_anything_else_never_run(text):
    """Neither as the expression of the translator, nor as a query."""
    tree = ast.parse(text, mode="eval").body
    body = f"(call Select (call EventDataset 'f' 'Events') {f'lambda e: {text}'!r})"
    EVALUATIONS[:] = ["start"]
    try:
        try:
            ProgramInterpreter().interpret(tree, frozenset({"e"}))
        except QueryError:
            pass
        else:
            assert not is_outside(tree), text
        try:
            program(body)
        except QueryError:
            pass
        else:
            assert not is_outside(tree), text
        assert EVALUATIONS == ["start"]
    finally:
        EVALUATIONS.clear()


def _inside(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(
        ["e.MET_pt", "e['MET_pt']", "1", "0.5", "True", "np.pi", "e.Muon_pt.Count()", "e.run"]
    )
    if depth == 0:
        return leaf
    inner = _inside(depth - 1)
    two = st.tuples(inner, inner)
    functions = st.sampled_from(sorted(vocabulary.NP_FUNCTIONS))
    operators = [*"+-*/%&|^<>", "//", "**", "<<", ">>", "<=", ">=", "==", "!=", "and", "or"]
    return st.one_of(
        leaf,
        st.builds("np.{}({})".format, functions, inner),
        st.tuples(st.sampled_from(operators), two).map(
            lambda parts: f"(({parts[1][0]}) {parts[0]} ({parts[1][1]}))"
        ),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("abs({})".format, inner),
        st.builds("(not {})".format, inner),
        inner.map(lambda body: f"e.Muon_pt.Select(lambda x{depth}: x{depth} * {body})"),
        inner.map(lambda body: f"e.Muon_pt.Where(lambda y{depth}: y{depth} > {body}).Sum()"),
    )


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(_inside(3))
def test_random_trees_of_allowed_parts_pass(body):
    text = corpus.written(f"events().Select(lambda e: {{'a': {body}}})")
    refused = outcome(lambda text, _: program(text), text, "")
    # Numbers alone may still be too large.
    assert not isinstance(refused, Exception) or "bits at most" in str(refused), body
