"""What is run of a func_adl_uproot query is what func_adl_uproot runs, as far as it is allowed."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import warnings
from typing import Any

import awkward as ak
import dask
import dask_awkward as dak
import numpy as np
import pytest
import uproot
import vector
from func_adl_uproot import transformer
from func_adl_uproot.translation import generate_function
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import corpus
from support.corpus import CORPUS

from coffea_sx.errors import QueryError
from coffea_sx.forms import program as language
from coffea_sx.forms.interpreter import BINARY, COMPARED, UNARY
from coffea_sx.forms.program import program
from coffea_sx.query import select


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return corpus.write_input(tmp_path_factory.mktemp("program") / "in.root", 40)


def theirs(text: str, path: str) -> Any:
    return generate_function(text)(input_filenames=path)


def ours(text: str, path: str) -> Any:
    query = program(text)
    return query.run(uproot.dask({path: query.tree})).compute()


def outcome(run: Any, text: str, path: str) -> Any:
    with warnings.catch_warnings(), dask.config.set(scheduler="sync"):
        warnings.simplefilter("ignore")
        try:
            return run(text, path)
        except Exception as error:
            return error


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_gives_what_func_adl_uproot_gives(name, path):
    text = select(CORPUS[name], codegen="uproot").text
    expected, found = (outcome(run, text, path) for run in (theirs, ours))
    if isinstance(expected, Exception):
        assert isinstance(found, Exception)
    else:
        assert type(found) is type(expected)
        assert str(ak.type(found)) == str(ak.type(expected))
        assert ak.array_equal([found], [expected], equal_nan=True)


# -- what the translator can write


def test_everything_that_the_translator_writes_is_listed():
    """Its source holds what it writes as texts."""
    source = inspect.getsource(transformer)
    functions = set(re.findall(r"dak\.(\w+)\(", source))
    assert functions == set(language.DAK)
    for text in re.findall(r"dak\.(\w+)(?!\w*\()", source):
        assert text in {"Array", *functions} or any(f.startswith(text) for f in functions)
    signatures = {name: inspect.signature(getattr(dak, name)) for name in language.DAK}
    for name, keywords in language.DAK.items():
        assert keywords <= set(signatures[name].parameters)
    keywords = set().union(*language.DAK.values())
    assert keywords == {"axis", "ascending", "nested", "dtype", "depth_limit"}
    assert set(BINARY) == set(transformer.bin_op_dict)
    assert set(UNARY) == set(transformer.unary_op_dict)
    # Its queries have no words for `is`, and it writes `in` and `not in` as calls.
    no_words = {ast.Is, ast.IsNot, ast.In, ast.NotIn}
    assert set(COMPARED) == set(transformer.compare_op_dict) - no_words
    assert set(transformer.bool_op_dict.values()) == {"np.logical_and", "np.logical_or"}
    assert transformer.allowed_modules == ["np"]


def test_numpy_is_functions_of_numbers():
    assert language.NP_FUNCTIONS.keys() >= {"sqrt", "arctan2", "hypot", "maximum", "float32"}
    others = {
        name
        for name, function in language.NP_FUNCTIONS.items()
        if not isinstance(function, np.ufunc)
    }
    types = {name for name in others if isinstance(getattr(np, name), type)}
    assert all(issubclass(getattr(np, name), (np.number, np.bool_)) for name in types)
    assert others - types == {"fix", "isneginf", "isposinf"}
    assert all(isinstance(value, float) for value in language.NP_CONSTANTS.values())


# What vectors have and queries do not get: modules, classes, functions that need a dict, parts that
# are no arrays, and names that are those of awkward's arrays too.
NOT_OF_VECTORS = {"lib", "MomentumClass", "GenericClass", "allclose"}
NOT_OF_VECTORS |= {f"ProjectionClass{n}D" for n in (2, 3, 4)} | {
    f"transform{n}D" for n in (2, 3, 4)
}
NOT_OF_VECTORS |= {"azimuthal", "longitudinal", "temporal"}


def test_vectors_have_all_that_is_theirs():
    momentum = vector.backends.awkward.MomentumArray4D
    public = {name for name in dir(momentum) if not name.startswith("_")} - set(dir(ak.Array))
    assert public - NOT_OF_VECTORS == language.PROPERTIES | language.METHODS
    assert not language.PROPERTIES & language.METHODS - {"neg2D", "neg3D", "neg4D"}
    for name in language.PROPERTIES:
        assert isinstance(inspect.getattr_static(momentum, name), property), name
    for name in language.METHODS:
        assert inspect.isfunction(inspect.getattr_static(momentum, name)), name


def test_arrays_have_no_attributes_with_the_names_of_vectors():
    names = language.PROPERTIES | language.METHODS
    for kind in (dak.Array, dak.Record, ak.Array):
        assert not names & set(dir(kind))


# -- random trees

TREES: list[str] = []


def _notice(event: str, _: Any) -> None:
    if event == "exec" and TREES:
        TREES.append(event)


sys.addaudithook(_notice)

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

# What no tree may have that is run, whatever is around it.
FORBIDDEN = (ast.GeneratorExp, ast.SetComp, ast.NamedExpr, ast.JoinedStr, ast.Await, ast.Yield)
KNOWN = language.FUNCTIONS | {"isinstance", "getattr", "type", "EventDataset"}


def is_outside(tree: ast.AST) -> bool:
    """Whether a tree has what is certainly not allowed, told in another way than there."""
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, FORBIDDEN):
            return True
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            return True
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id not in KNOWN | bound:
            return True
        if isinstance(node, ast.Name) and node.id in {"os", "eval", "exec", "open", "__import__"}:
            return True
    return False


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANYTHING)
@example("e.__class__")
@example("np.sqrt")
@example("open('x')")
def test_random_trees_outside_never_run(text):
    """Neither as what the translator writes, nor as what it reads."""
    tree = ast.parse(text, mode="eval").body
    body = f"(call Select (call EventDataset 'f' 'Events') {f'lambda e: {text}'!r})"
    TREES[:] = ["watching"]
    try:
        try:
            language._Product().step(tree, frozenset({"e"}))
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
        assert TREES == ["watching"]
    finally:
        TREES.clear()


def _inside(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(
        ["e.MET_pt", "e['MET_pt']", "1", "0.5", "True", "np.pi", "e.Muon_pt.Count()", "e.run"]
    )
    if depth == 0:
        return leaf
    inner = _inside(depth - 1)
    two = st.tuples(inner, inner)
    functions = st.sampled_from(sorted(language.NP_FUNCTIONS))
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


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(_inside(3))
def test_random_trees_inside_are_let_pass(body):
    text = corpus.written(f"events().Select(lambda e: {{'a': {body}}})")
    refused = outcome(lambda text, _: program(text), text, "")
    # Numbers alone may still be too large.
    assert not isinstance(refused, Exception) or "bits at most" in str(refused), body
