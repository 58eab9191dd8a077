"""The vocabulary has all that the translator writes, and only functions of numbers and vectors."""

from __future__ import annotations

import ast
import inspect
import re

import awkward as ak
import dask_awkward as dak
import numpy as np
import uproot
import vector
from func_adl_uproot import transformer

from coffea_sx.forms import vocabulary
from coffea_sx.forms.interpreter import BINARY_OPERATORS, COMPARISONS, UNARY_OPERATORS


def test_everything_that_the_translator_writes_is_listed():
    """The functions stand as texts in its source."""
    source = inspect.getsource(transformer)
    functions = set(re.findall(r"dak\.(\w+)\(", source))
    assert functions == set(vocabulary.DAK_FUNCTIONS)
    for text in re.findall(r"dak\.(\w+)(?!\w*\()", source):
        assert text in {"Array", *functions} or any(f.startswith(text) for f in functions)
    signatures = {name: inspect.signature(getattr(dak, name)) for name in vocabulary.DAK_FUNCTIONS}
    for name, keywords in vocabulary.DAK_FUNCTIONS.items():
        assert keywords <= set(signatures[name].parameters)
    keywords = set().union(*vocabulary.DAK_FUNCTIONS.values())
    assert keywords == {"axis", "ascending", "nested", "dtype", "depth_limit"}
    assert set(BINARY_OPERATORS) == set(transformer.bin_op_dict)
    assert set(UNARY_OPERATORS) == set(transformer.unary_op_dict)
    # qastle has no `is`, and the translator writes `in` and `not in` as calls.
    not_written = {ast.Is, ast.IsNot, ast.In, ast.NotIn}
    assert set(COMPARISONS) == set(transformer.compare_op_dict) - not_written
    assert set(transformer.bool_op_dict.values()) == {"np.logical_and", "np.logical_or"}
    assert transformer.allowed_modules == ["np"]


def test_numpy_is_functions_of_numbers():
    assert vocabulary.NP_FUNCTIONS.keys() >= {"sqrt", "arctan2", "hypot", "maximum", "float32"}
    others = {
        name
        for name, function in vocabulary.NP_FUNCTIONS.items()
        if not isinstance(function, np.ufunc)
    }
    types = {name for name in others if isinstance(getattr(np, name), type)}
    assert all(issubclass(getattr(np, name), (np.number, np.bool_)) for name in types)
    assert others - types == {"fix", "isneginf", "isposinf"}
    assert all(isinstance(value, float) for value in vocabulary.NP_CONSTANTS.values())


# Attributes of vectors that queries do not get: modules, classes, functions that need a dict, parts
# that are no arrays, and names that awkward's arrays have too.
NOT_LISTED = {"lib", "MomentumClass", "GenericClass", "allclose"}
NOT_LISTED |= {f"ProjectionClass{n}D" for n in (2, 3, 4)} | {f"transform{n}D" for n in (2, 3, 4)}
NOT_LISTED |= {"azimuthal", "longitudinal", "temporal"}


def test_all_public_attributes_of_vectors_are_listed():
    momentum = vector.backends.awkward.MomentumArray4D
    public = {name for name in dir(momentum) if not name.startswith("_")} - set(dir(ak.Array))
    assert public - NOT_LISTED == vocabulary.VECTOR_PROPERTIES | vocabulary.VECTOR_METHODS
    assert not vocabulary.VECTOR_PROPERTIES & vocabulary.VECTOR_METHODS - {
        "neg2D",
        "neg3D",
        "neg4D",
    }
    for name in vocabulary.VECTOR_PROPERTIES:
        assert isinstance(inspect.getattr_static(momentum, name), property), name
    for name in vocabulary.VECTOR_METHODS:
        assert inspect.isfunction(inspect.getattr_static(momentum, name)), name


def test_arrays_have_no_attributes_with_the_names_of_vectors():
    names = vocabulary.VECTOR_PROPERTIES | vocabulary.VECTOR_METHODS
    for kind in (dak.Array, dak.Record, ak.Array):
        assert not names & set(dir(kind))


def test_functions_of_uproot_raw_have_the_axis_of_lists():
    lists = ak.Array([[1, 2], [3]])
    assert vocabulary.raw_functions()["sum"](lists).to_list() == [3, 3]
    assert vocabulary.raw_functions(standard_axis=True)["sum"](lists) == 6


def test_uproot_raw_has_all_functions_of_uproot():
    functions = vocabulary.raw_functions(standard_axis=True)
    assert functions.keys() >= uproot.language.python.PythonLanguage.default_functions.keys()
    assert functions.keys() >= vocabulary.SIZED_FUNCTIONS
    assert vocabulary.GETTER not in functions


def test_all_attributes_of_collections_are_hidden():
    attributes = {name for kind in (dak.Array, dak.Record, dak.Scalar) for name in dir(kind)}
    public = {name for name in attributes if not name.startswith("_")}
    assert public - vocabulary.COLLECTION_ATTRIBUTES == vocabulary.HIDDEN_ATTRIBUTES
