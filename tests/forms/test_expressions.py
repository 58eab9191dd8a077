"""Expressions of uproot-raw queries give the same as in uproot itself, or are refused."""

from __future__ import annotations

import ast
import json
import sys
import warnings
from typing import Any

import awkward as ak
import pytest
import uproot
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import corpus

from coffea_sx.errors import QueryError
from coffea_sx.forms import uproot_raw
from coffea_sx.forms.expressions import ColumnLanguage, parse_expression
from coffea_sx.forms.vocabulary import raw_functions

FUNCTIONS = raw_functions()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    path = corpus.write_input(tmp_path_factory.mktemp("expressions") / "in.root", 40)
    with uproot.open({path: "Events"}) as opened:
        yield opened


def arrays(tree: Any, language: Any, **query: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tree.arrays(language=language, array_cache=None, **query)
        except Exception as error:
            return error


def same(tree: Any, **query: Any) -> tuple[Any, Any]:
    """Run a query in both languages; check that the arrays are the same."""
    theirs = arrays(tree, uproot.language.python.PythonLanguage(FUNCTIONS), **query)
    ours = arrays(tree, ColumnLanguage(FUNCTIONS), **query)
    if not isinstance(theirs, Exception) and not isinstance(ours, Exception):
        assert ours.fields == theirs.fields
        assert str(ours.type) == str(theirs.type)
        assert ak.array_equal(ours, theirs, equal_nan=True)
    return ours, theirs


GOOD: dict[str, dict[str, Any]] = {
    "a column": {"expressions": "MET_pt"},
    "a name with a dot": {"expressions": ["with.dot", "get('with.dot')*2", "get('with.dot')"]},
    "arithmetic": {
        "expressions": ["-MET_pt+1", "MET_pt**2/3", "run%7", "run//2", "~run", "run<<1", "run^2"]
    },
    "conditions": {"expressions": ["(MET_pt>20)&(nMuon>0)|~flat_bool", "run!=3", "weight<=0"]},
    "a text": {"expressions": ["run"], "cut": "label == 'ab'"},
    "functions": {
        "expressions": ["sqrt(MET_pt)", "hypot(MET_pt, weight)", "where(MET_pt>20, MET_pt, 0.0)"]
    },
    "numbers alone": {"expressions": ["MET_pt*2**3", "MET_pt+sqrt(2)", "MET_pt*-(1+2.5)"]},
    "lists": {"expressions": ["sum(Muon_pt)", "Muon_pt[Muon_pt>20]", "Muon_pt[:, :1]"]},
    "masks": {"expressions": ["fill_none(firsts(Muon_pt), -1)", "pad_none(Muon_pt, 2)"]},
    "pairs": {"expressions": ["num(combinations(Muon_pt, 2))", "argcombinations(Muon_pt, 2)"]},
    "named pairs": {"expressions": ["cartesian({'a': Muon_pt, 'b': Jet_pt})['a']"]},
    "a tuple of slices": {"expressions": ["vertex[:, 0]", "matrix[:, 1, 0]"]},
    "keywords": {"expressions": ["sum(Muon_pt, axis=1)", "sort(Muon_pt, ascending=False)"]},
    "a shadowed function": {"expressions": ["sqrt(MET_pt)"], "aliases": {"sqrt": "MET_pt"}},
    "aliases": {"expressions": ["b"], "aliases": {"a": "MET_pt*2", "b": "a+sum(Muon_pt)"}},
    "an alias in a cut": {"expressions": ["run"], "aliases": {"a": "MET_pt*2"}, "cut": "a>40"},
    "an alias like a column": {"expressions": ["MET_pt", "a"], "aliases": {"a": "MET_pt"}},
    "filters": {"filter_name": ["Muon_*", "/.*_pt/"], "cut": "any(Muon_pt>20)"},
    "names with dots by filter": {"filter_name": "with*"},
    "a cut of all": {"filter_name": "MET_*", "cut": "MET_pt<0"},
}


@pytest.mark.parametrize("name", GOOD)
def test_good_expressions_are_those_of_uproot(name, tree):
    ours, theirs = same(tree, **GOOD[name])
    assert not isinstance(theirs, Exception)
    assert not isinstance(ours, Exception)


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ({"expressions": ["nonsense"]}, uproot.KeyInFileError),
        ({"expressions": ["get('nonsense')"]}, uproot.KeyInFileError),
        ({"expressions": ["MET_pt.nonsense"]}, uproot.KeyInFileError),
        ({"expressions": ["a"], "aliases": {"a": "a+1"}}, ValueError),
        ({"expressions": ["a"], "aliases": {"a": "b", "b": "a"}}, ValueError),
        ({"expressions": ["run"], "cut": "nonsense>1"}, uproot.KeyInFileError),
    ],
)
def test_errors_are_those_of_uproot(query, kind, tree):
    ours, theirs = same(tree, **query)
    assert isinstance(ours, kind)
    assert isinstance(theirs, (kind, KeyError))


def test_a_column_is_no_expression():
    """The names of columns are not evaluated, even if they look like code."""
    names = ["__import__('os').getcwd()", "[x for x in y]", "a b", "(lambda: 1)()"]
    form = ak.forms.RecordForm([ak.forms.NumpyForm("float64")] * len(names), names)
    text = json.dumps([{"treename": "t", "expressions": names}])
    assert uproot_raw.raw_forms(text, {"t": form})["t"].fields == names
    by_getter = json.dumps([{"treename": "t", "expressions": [f"get({n!r})*2" for n in names]}])
    assert len(uproot_raw.raw_forms(by_getter, {"t": form})["t"].fields) == len(names)


def test_a_function_is_not_a_value():
    with pytest.raises(QueryError, match="is not called"):
        parse_expression("[where][0]", FUNCTIONS, ["MET_pt"])


# -- random expressions

EVALUATIONS: list[str] = []


def _record(event: str, _: Any) -> None:
    if event == "exec" and EVALUATIONS:
        EVALUATIONS.append(event)


sys.addaudithook(_record)

LEAVES = st.sampled_from(["MET_pt", "weight", "run", "nMuon", "1", "2.5", "get('MET_pt')", "True"])


def _arithmetic(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = [*"+-*/%&|^<>", "//", "**", "<=", ">=", "==", "!="]
    functions = ["sqrt", "abs", "cos", "floor", "isnan", "exp", "sum", "num", "where"]
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(operators), inner),
        st.builds("{}({})".format, st.sampled_from(functions), inner),
        st.builds("where({}, {}, {})".format, inner, inner, inner),
        st.builds("({})[:5]".format, inner),
        st.builds("-{}".format, inner),
        st.builds("~{}".format, inner),
    )


INSIDE = st.recursive(LEAVES, _arithmetic, max_leaves=6)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(INSIDE)
def test_random_expressions_are_those_of_uproot(tree, text):
    ours, theirs = same(tree, expressions=[text])
    if isinstance(ours, QueryError):
        # Numbers alone may be too large, which Python's are not.
        assert "number" in str(ours), (text, ours)
    elif isinstance(theirs, Exception):
        assert type(ours) is type(theirs), (text, ours, theirs)
    else:
        assert not isinstance(ours, Exception), (text, ours)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        _arithmetic(inner),
        st.builds("({}).{}".format, inner, st.sampled_from(["layout", "__class__", "x", "pt"])),
        st.builds("({})({})".format, inner, inner),
        st.builds("(lambda: {})".format, inner),
        st.builds("[{} for x in {}]".format, inner, inner),
        st.builds("({} for x in {})".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("({} and {})".format, inner, inner),
        st.builds("(x := {})".format, inner),
        st.builds("sqrt(*{})".format, inner),
        st.builds("sum({}, out={})".format, inner, inner),
        st.builds("get({})".format, inner),
        st.builds("f'{{{}}}'".format, st.sampled_from(["x", "MET_pt"])),
        st.builds("[{}]".format, inner),
        st.builds("({})[{}]".format, inner, inner),
    )


CODE = st.sampled_from(
    ["__import__('os')", "open('x')", "eval('1')", "where", "get", "b'x'", "..."]
)
ANYTHING = st.recursive(st.one_of(LEAVES, CODE), _grown, max_leaves=8)

ALLOWED = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.Call, ast.keyword, ast.BinOp, ast.UnaryOp),
    *(ast.Compare, ast.Subscript, ast.Slice, ast.List, ast.Tuple, ast.Dict, ast.expr_context),
    *(ast.operator, ast.unaryop, ast.cmpop),
)


def is_outside(tree: ast.AST) -> bool:
    """Return True if a tree has something that is not allowed, by rules of the test's own."""
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None)
            if name not in {*FUNCTIONS, "get"}:
                return True
        if isinstance(node, ast.Attribute) and not isinstance(
            node.value, (ast.Name, ast.Attribute)
        ):
            return True
    return False


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANYTHING)
@example("__import__('os')")
@example("(MET_pt).__class__")
def test_random_expressions_with_anything_else_never_run(tree, text):
    EVALUATIONS[:] = ["start"]
    try:
        result = arrays(tree, ColumnLanguage(FUNCTIONS), expressions=[text])
        assert EVALUATIONS == ["start"]
    finally:
        EVALUATIONS.clear()
    if is_outside(ast.parse(text, mode="eval").body):
        assert isinstance(result, (QueryError, uproot.KeyInFileError)), text
