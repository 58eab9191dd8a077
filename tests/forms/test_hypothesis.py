"""Random queries over random inputs: the derived form is that of the file a server writes."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import awkward as ak
import numpy as np
import uproot
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coffea_sx import derive_form
from coffea_sx.errors import QueryError
from coffea_sx.forms.file_forms import read_forms
from coffea_sx.forms.input_form import form_of_file
from coffea_sx.local.codegen import generate_source
from coffea_sx.local.transformer import transform_file
from coffea_sx.query import RESULT_FORMATS

DTYPES = ["bool", "int8", "int16", "int32", "int64"]
DTYPES += ["uint8", "uint16", "uint32", "uint64", "float32", "float64"]
N_EVENTS = 5

Columns = dict[str, tuple[str, bool]]
"""Dtype of each column, and whether it is jagged."""

inputs: st.SearchStrategy[Columns] = st.dictionaries(
    st.sampled_from(["a", "b", "x_pt", "x_eta", "Y", "run"]),
    st.tuples(st.sampled_from(DTYPES), st.booleans()),
    min_size=1,
    max_size=6,
)


def write_input(path: Path, columns: Columns) -> None:
    """Write a few events; every list has an entry, and all lists of an event are as long."""
    rng = np.random.default_rng(3)
    counts = np.arange(N_EVENTS) % 3 + 1
    arrays = {}
    for name, (dtype, jagged) in columns.items():
        values = rng.integers(0, 2, counts.sum() if jagged else N_EVENTS).astype(dtype)
        arrays[name] = ak.unflatten(values, counts) if jagged else ak.Array(values)
    with uproot.recreate(path) as file:
        tree = file.mktree("Events", {name: array.type.content for name, array in arrays.items()})
        tree.extend(arrays)


# -- a small grammar of qastle; the queries need not make sense

UNARY = ["(- {})", "(not {})", "(abs {})", "(~ {})"]
UNARY += [f"(call (attr np '{name}') {{}})" for name in ("sqrt", "cos", "abs", "floor")]
OPERATORS = "+ - * / % // ** < <= == != > and or & | ^"
BINARY = [f"({operator} {{}} {{}})" for operator in OPERATORS.split()]
REDUCED = [f"(call {name} {{}})" for name in ("Count", "Sum", "Min", "Max", "First", "Last")]
REDUCED += ["(call ElementAt {} 0)", "(call Choose {} 2)"]
REDUCED += [f"(call {name} {{}} (lambda (list {{v}}) {{b}}))" for name in ("Any", "All")]
INNER = ["Select", "Where", "OrderBy", "OrderByDescending"]


@st.composite
def expressions(draw: st.DrawFn, names: list[str], variable: str, depth: int) -> str:
    """Make an expression of a variable, which is an event if it is ``e``."""
    rest = expressions(names, variable, depth - 1)
    kinds = ["leaf", "leaf", "number"]
    if depth > 0:
        kinds += ["unary", "binary", "binary", "if", "reduced", "reduced", "inner", "inner"]
        kinds += ["concat"] if variable == "e" else []
    kind = draw(st.sampled_from(kinds))
    if kind == "leaf":
        return f"(attr e '{draw(st.sampled_from(names))}')" if variable == "e" else variable
    if kind == "number":
        return draw(st.sampled_from(["1", "2", "0.5", "True"]))
    if kind == "unary":
        return draw(st.sampled_from(UNARY)).format(draw(rest))
    if kind == "binary":
        return draw(st.sampled_from(BINARY)).format(draw(rest), draw(rest))
    if kind == "if":
        return f"(if {draw(rest)} {draw(rest)} {draw(rest)})"
    if kind == "concat":
        return f"(call Concat {draw(rest)} {draw(rest)})"
    inside = f"{variable}i"
    body = expressions(names, inside, depth - 1)
    if kind == "reduced":
        pattern = draw(st.sampled_from(REDUCED))
        return pattern.format(draw(rest), v=inside, b=draw(body) if "{b}" in pattern else "")
    operator = draw(st.sampled_from(INNER))
    return f"(call {operator} {draw(rest)} (lambda (list {inside}) {draw(body)}))"


@st.composite
def results(draw: st.DrawFn, names: list[str]) -> str:
    """Make the result of the last Select: mostly a dict, else a list or a single value."""
    values = draw(st.lists(expressions(names, "e", 2), min_size=1, max_size=3))
    kind = draw(st.sampled_from(["dict"] * 5 + ["list", "value"]))
    if kind == "value":
        return values[0]
    if kind == "list":
        return f"(list {' '.join(values)})"
    keys = draw(st.permutations(["b", "nb", "z", "pt"]))[: len(values)]
    quoted = " ".join(f"'{key}'" for key in keys)
    return f"(dict (list {quoted}) (list {' '.join(values)}))"


@st.composite
def cases(draw: st.DrawFn) -> tuple[Columns, str]:
    """Make an input, and a query on it."""
    columns = draw(inputs)
    names = [*columns, "missing"] if draw(st.integers(0, 9)) == 0 else list(columns)
    source = "(call EventDataset 'bogus.root' 'Events')"
    if draw(st.integers(0, 3)) == 0:
        condition = draw(expressions(names, "e", 1))
        source = f"(call Where {source} (lambda (list e) (> {condition} 0)))"
    operator = draw(st.sampled_from(["Select"] * 9 + ["SelectMany"]))
    return columns, f"(call {operator} {source} (lambda (list e) {draw(results(names))}))"


# The lists of an event differ after a cut; then lists have no first element, or do not fit.
DATA_DECIDES = ("IndexError", "cannot broadcast", "ak.singletons")

FLAT = {"a": ("int8", False)}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.sampled_from(RESULT_FORMATS))
@example(
    (FLAT, "(call Select (call EventDataset 'f' 'Events') (lambda (list e) (attr e 'a')))"),
    "root-file",
)
def test_the_derived_form_is_delivered(case, result_format):
    logging.getLogger("func_adl_uproot").setLevel(logging.ERROR)
    columns, query = case
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "input.root"
        write_input(path, columns)
        derived: object
        try:
            form = form_of_file(str(path), "Events")
            derived = derive_form(query, form, result_format, "uproot")
        except QueryError as error:
            derived = error
        output = str(Path(directory) / "output")
        reason = deliver(query, str(path), output, result_format)
        if reason is None:
            assert not isinstance(derived, QueryError), (query, derived)
            assert {name: form.to_dict() for name, form in derived.trees.items()} == {
                name: form.to_dict() for name, form in read_forms(output, result_format).items()
            }, query
        elif not any(text in reason for text in DATA_DECIDES):
            assert isinstance(derived, QueryError), (query, reason, repr(derived))


def deliver(query: str, path: str, output: str, result_format: str) -> str | None:
    """Transform a file as the server does; return the reason if that fails."""
    with warnings.catch_warnings():
        # Divisions by zero warn, and do not fail on the server.
        warnings.simplefilter("ignore")
        try:
            source = generate_source(query)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return transform_file("uproot", source, [path], output, result_format).reason
