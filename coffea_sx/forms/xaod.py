"""The form of an xAOD query: its own translation to C++, and what ROOT makes of the declarations.

The translator that the server runs writes a C++ class with one member for each column and hands
those to ``TTree::Branch``. Here the same translator runs on the same text, its files are thrown
away, and the types of the members say what will be in the tree. No experiment's software is needed.
"""

from __future__ import annotations

import importlib
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, QueryError
from ..query import Selection
from .file_forms import read_forms
from .interpreter import refuse_unsaid
from .output_form import OutputForm

# Code generators by name, and the part of the translator that each of them is built on. All ATLAS
# releases share one.
_EXECUTORS = (
    (re.compile("atlas"), "func_adl_xAOD.atlas.xaod.executor", "atlas_xaod_executor"),
    (re.compile("cms.*mini"), "func_adl_xAOD.cms.miniaod.executor", "cms_miniaod_executor"),
    (re.compile("cms"), "func_adl_xAOD.cms.aod.executor", "cms_aod_executor"),
)

# What all backends of the translator call their tree.
_TITLE = "My analysis ntuple"

# Letter of ROOT's leaf list, type as it is read, and spellings in C++ on 64-bit Linux. ROOT writes
# no leaf of a signed char.
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

# The typed packages are generated from the dictionaries of a release and name what those hold:
# DataVector<xAOD::Jet_v1>, xAOD::EventInfo_v1. People write the names of the headers, as the
# translator itself does: xAOD::JetContainer, xAOD::EventInfo.
_GENERATED = re.compile(r"DataVector<|.*_v\d+$")

# The translator keeps what it knows of types in global variables.
_TRANSLATOR = threading.Lock()


def is_xaod(selection: Selection) -> bool:
    """Say whether the code generator of a selection is one that writes C++ for ATLAS or CMS."""
    return any(pattern.match(selection.codegen) for pattern, _, _ in _EXECUTORS)


def xaod_form(selection: Selection) -> OutputForm:
    """Derive the form of the delivered files from the query, without a server.

    Parameters
    ----------
    selection : Selection
        Of a code generator for which `is_xaod` holds.

    Raises
    ------
    QueryError
        If the query cannot be translated, has a column that no TTree holds, or is typed and calls a
        method whose type it does not know; if the result format is ``root-rntuple``.
    ConfigurationError
        If the translator is not installed.
    """
    if selection.result_format not in ("root-file", "parquet"):
        raise QueryError(
            f"What the code generator {selection.codegen!r} delivers as "
            f"{selection.result_format!r} is not derived: use 'root-file' or 'parquet', or give "
            "the delivered form as form=."
        )
    booking = _translate(selection)
    if booking.guesses and _is_typed(selection.text):
        raise _unknown_method(booking.guesses)
    trees = {booking.tree: _tree_form(booking.columns())}
    if selection.result_format == "parquet":
        trees = _converted(booking.columns())
    return OutputForm(trees, next(iter(trees)), selection.result_format)


class _Booking:
    """What the translator books: a tree, its columns, and methods whose type it guessed."""

    def __init__(self) -> None:
        self.tree = ""
        self.leaves: list[tuple[str, Any]] = []
        self.guesses: list[str] = []

    def columns(self) -> dict[str, str]:
        """Return the C++ type of every column, in the order of the tree."""
        columns = {name: str(variable.cpp_type()) for name, variable in self.leaves}
        if len(columns) != len(self.leaves):
            raise QueryError("The query gives two columns the same name.")
        return columns


def _translate(selection: Selection) -> _Booking:
    """Do what the server's code generator does, and keep what was booked.

    Raises
    ------
    QueryError
        If the server could not translate the query.
    ConfigurationError
        If the translator is not installed.
    """
    booking = _Booking()
    make_executor = _executor(selection.codegen)
    with _TRANSLATOR, tempfile.TemporaryDirectory() as directory:
        executor = make_executor()
        visitor = _recording(type(executor.get_visitor_obj()), booking)
        executor.get_visitor_obj = visitor
        try:
            _forget(executor)
            query = executor.apply_ast_transformations(_parsed(selection.text))
            executor.write_cpp_files(query, Path(directory))
        except Exception as error:
            # Whatever the translator raises here it would raise on the server.
            raise QueryError(
                f"func_adl_xAOD cannot translate the query for {selection.codegen!r}: "
                f"{type(error).__name__}: {str(error) or 'it gives no reason'}"
            ) from error
        finally:
            _forget(executor)
    return booking


def _executor(codegen: str) -> Any:
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


def _forget(executor: Any) -> None:
    """Leave the translator as it is in a new process."""
    from func_adl_xAOD.common import cpp_types

    executor.reset()
    cpp_types.g_toplevel_ns.clear()


def _recording(visitor: Any, booking: _Booking) -> Any:
    """Make a visitor that notes what it books and which types it guesses."""
    from func_adl_xAOD.common import cpp_representation, cpp_types

    def note(called_on: Any, name: str) -> None:
        value = cpp_representation.get_rep(called_on)
        if isinstance(value, cpp_representation.cpp_value):
            kind = value.cpp_type().type
            if cpp_types.method_type_info(kind, name) is None:
                booking.guesses.append(f"{kind}::{name}")

    class Recording(visitor):
        def create_book_ttree_obj(self, tree_name: str, leaves: list[Any]) -> Any:
            booking.tree, booking.leaves = tree_name, leaves
            return super().create_book_ttree_obj(tree_name, leaves)

        def visit_Call_Member(self, call_node: Any) -> None:  # noqa: N802
            super().visit_Call_Member(call_node)
            note(call_node.func.value, call_node.func.attr)

        def visit_Attribute(self, node: Any) -> None:  # noqa: N802
            super().visit_Attribute(node)
            note(node.value, node.attr)

    return Recording


def _parsed(text: str) -> Any:
    import qastle

    tree = qastle.text_ast_to_python_ast(text)
    # The translator looks names of functions up with eval: they are names here, and nothing else.
    refuse_unsaid(tree)
    (statement,) = tree.body
    return statement.value


def _is_typed(text: str) -> bool:
    """Say whether a typed package had a hand in a query.

    Nothing in the text says so outright. But an untyped query uses the collections that the
    translator knows, or describes further ones by hand; a typed package describes every collection
    that the query touches, and names its classes as only a generator does.
    """
    from func_adl.ast import extract_metadata

    _, metadata = extract_metadata(_parsed(text))
    return any(_GENERATED.match(str(item.get("container_type"))) for item in metadata)


def _unknown_method(guesses: list[str]) -> QueryError:
    methods = " and ".join(dict.fromkeys(guesses))
    return QueryError(
        f"The typed query calls {methods} without knowing the type, which the server would take "
        "for a double. Check the name, or declare it: .MetaData({'metadata_type': "
        "'add_method_type_info', 'type_string': ..., 'method_name': ..., 'return_type': ...})."
    )


def _tree_form(columns: dict[str, str]) -> Any:
    """Make the form that uproot gives a tree of these C++ types."""
    from awkward.forms import RecordForm

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
    """Convert a tree without rows to Parquet, as the server does for what writes only ROOT."""
    import awkward as ak

    contents = [_branch(name, cpp)[0] for name, cpp in columns.items()]
    form = ak.forms.RecordForm(contents, list(columns))
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "converted.parquet")
        ak.to_parquet(ak.Array(form.length_zero_array(highlevel=False)), file)
        return read_forms(file, "parquet")


def _branch(name: str, cpp: str) -> tuple[Any, str, str]:
    """Return the form of a branch, its type as uproot says it, and its letter in a leaf list."""
    from awkward.forms import ListOffsetForm, NumpyForm

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
