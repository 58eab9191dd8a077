"""Form of the result of an xAOD query: the types of the C++ that its translator declares.

The translator of the server writes a C++ class with one member for each column and passes those to
``TTree::Branch``. Here the same translator runs on the same text, its files are thrown away, and
the form of the tree follows from the types of the members. No software of an experiment is needed.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from pathlib import Path
from typing import Any

import awkward as ak
from awkward.forms import ListOffsetForm, NumpyForm, RecordForm

from .._upstream.func_adl import BookedTree, booked_tree
from ..errors import ConfigurationError, QueryError
from ..query import Selection
from .empty import without_rows
from .file_forms import read_forms
from .syntax import check_tree

# Code generators by name, and the class of the translator that each is built on. All ATLAS
# releases share a class.
_EXECUTORS = (
    (re.compile("atlas"), "func_adl_xAOD.atlas.xaod.executor", "atlas_xaod_executor"),
    (re.compile("cms.*mini"), "func_adl_xAOD.cms.miniaod.executor", "cms_miniaod_executor"),
    (re.compile("cms"), "func_adl_xAOD.cms.aod.executor", "cms_aod_executor"),
)

# Title of the tree in all backends of the translator.
_TITLE = "My analysis ntuple"

# Letter in ROOT's leaf list and type in awkward, by the spelling in C++ on 64-bit Linux. ROOT does
# not write a signed char.
_LEAVES = {
    spelling: (letter, primitive)
    for letter, primitive, spellings in (
        ("O", "bool", "bool"),
        ("B", "int8", "char"),
        ("b", "uint8", "unsigned char, uint8_t"),
        ("S", "int16", "short, int16_t"),
        ("s", "uint16", "unsigned short, uint16_t"),
        ("I", "int32", "int, int32_t"),
        ("i", "uint32", "unsigned int, uint, uint32_t"),
        ("G", "int64", "long, int64_t"),
        ("g", "uint64", "unsigned long, uint64_t, size_t"),
        ("L", "int64", "long long, Long64_t"),
        ("l", "uint64", "unsigned long long, ULong64_t"),
        ("F", "float32", "float, Float_t"),
        ("D", "float64", "double, Double_t"),
    )
    for spelling in spellings.split(", ")
}
_TYPENAMES = {"bool": "bool", "float32": "float", "float64": "double"}
_VECTOR = re.compile(r"vector<(.+)>")
_COLUMN = re.compile(r"[A-Za-z0-9_]+")

# Typed packages are generated from the dictionaries of a release and use the names in those:
# DataVector<xAOD::Jet_v1>, xAOD::EventInfo_v1. People write the names of the headers, as the
# translator itself does: xAOD::JetContainer, xAOD::EventInfo.
_GENERATED = re.compile(r"DataVector<|.*_v\d+$")


def is_xaod(selection: Selection) -> bool:
    """Return True if the code generator of a selection writes C++ for ATLAS or CMS."""
    return any(pattern.match(selection.codegen) for pattern, _, _ in _EXECUTORS)


def xaod_forms(selection: Selection) -> dict[str, Any]:
    """Derive the forms of the trees in the delivered files, without a server.

    Parameters
    ----------
    selection : Selection
        Of a code generator for which `is_xaod` holds.

    Returns
    -------
    dict of str to awkward.forms.RecordForm
        By the name of the tree: there is one, and in Parquet it has no name.

    Raises
    ------
    QueryError
        If the query cannot be translated, has a column that no TTree holds, or is typed and calls a
        method without a declared type; if the result format is ``root-rntuple``.
    ConfigurationError
        If the translator is not installed.
    """
    if selection.result_format not in ("root-file", "parquet"):
        raise QueryError(
            f"The form of {selection.result_format!r} files of the code generator "
            f"{selection.codegen!r} cannot be derived: use 'root-file' or 'parquet', or give the "
            "form of the delivered files as form=."
        )
    tree = _translate(selection)
    if tree.guesses and _is_typed(selection.text):
        raise _untyped_methods(tree.guesses)
    columns = dict(tree.columns)
    if len(columns) != len(tree.columns):
        raise QueryError("The query gives two columns the same name.")
    if selection.result_format == "parquet":
        return _converted(columns)
    return {tree.name: _tree_form(columns)}


def _translate(selection: Selection) -> BookedTree:
    """Translate a query as the code generator of the server does.

    Raises
    ------
    QueryError
        If the server could not translate the query.
    ConfigurationError
        If the translator is not installed.
    """
    executor_class = _executor_class(selection.codegen)
    try:
        return booked_tree(executor_class, _parsed(selection.text))
    except Exception as error:
        # The translator would raise the same on the server.
        raise QueryError(
            f"func_adl_xAOD cannot translate the query for {selection.codegen!r}: "
            f"{type(error).__name__}: {str(error) or 'it gives no reason'}"
        ) from error


def _executor_class(codegen: str) -> Any:
    for pattern, module, name in _EXECUTORS:
        if pattern.match(codegen):
            try:
                return getattr(importlib.import_module(module), name)
            except ModuleNotFoundError as error:
                raise ConfigurationError(
                    f"A query for {codegen!r} is translated by func_adl_xAOD, and {error.name} is "
                    'not installed: pip install "coffea_sx[xaod]".'
                ) from None
    raise QueryError(f"The code generator {codegen!r} is not one for xAOD or CMS files.")


def _parsed(text: str) -> Any:
    import qastle

    tree = qastle.text_ast_to_python_ast(text)
    # The translator looks up names of functions with eval: after this check they are plain names.
    check_tree(tree)
    (statement,) = tree.body
    return statement.value


def _is_typed(text: str) -> bool:
    """Return True if a typed package took part in writing a query.

    Nothing in the text states it. But an untyped query uses the collections of the translator, or
    describes further ones by hand; a typed package describes every collection of the query, and
    gives the classes the names of the dictionaries of a release.
    """
    from func_adl.ast import extract_metadata

    _, metadata = extract_metadata(_parsed(text))
    return any(_GENERATED.match(str(item.get("container_type"))) for item in metadata)


def _untyped_methods(methods: list[str]) -> QueryError:
    names = " and ".join(dict.fromkeys(methods))
    return QueryError(
        f"The typed query calls {names} without a declared type, and the server would assume a "
        "double. Check the name, or declare the type: .MetaData({'metadata_type': "
        "'add_method_type_info', 'type_string': ..., 'method_name': ..., 'return_type': ...})."
    )


def _tree_form(columns: dict[str, str]) -> Any:
    """Return the form that uproot gives to a tree with branches of these C++ types."""
    contents, typenames = [], {}
    for name, cpp in columns.items():
        if not _COLUMN.fullmatch(name):
            raise QueryError(
                f"The column {name!r} would be a variable in C++: name it with letters, digits and "
                "underscores."
            )
        form, typename, letter = _branch(name, cpp)
        title = f"{name}/{letter}" if letter else name
        contents.append(form.copy(parameters={"__doc__": title, "typename": typename}))
        typenames[name] = typename
    parameters = {"__doc__": _TITLE, "typenames": typenames}
    return RecordForm(contents, list(columns), parameters=parameters)


def _converted(columns: dict[str, str]) -> dict[str, Any]:
    """Return the form of the Parquet file that the server converts the ROOT file to."""
    contents = [_branch(name, cpp)[0] for name, cpp in columns.items()]
    form = RecordForm(contents, list(columns))
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "converted.parquet")
        ak.to_parquet(without_rows(form), file)
        return read_forms(file, "parquet")


def _branch(name: str, cpp: str) -> tuple[Any, str, str]:
    """Return the form of a branch, its type as uproot spells it, and its letter in a leaf list."""
    bare = cpp.replace("std::", "").strip()
    if bare in _LEAVES:
        letter, primitive = _LEAVES[bare]
        return NumpyForm(primitive), _TYPENAMES.get(primitive, f"{primitive}_t"), letter
    if bare == "string":
        characters = NumpyForm("uint8", parameters={"__array__": "char"})
        string = ListOffsetForm("i64", characters, parameters={"__array__": "string"})
        return string, "std::string", ""
    if vector := _VECTOR.fullmatch(bare):
        content, typename, _ = _branch(name, vector[1])
        return ListOffsetForm("i64", content), f"std::vector<{typename}>", ""
    raise QueryError(
        f"The column {name!r} has the C++ type {cpp}, which is not read from a TTree here: ask for "
        "numbers, text, or lists of them."
    )
