"""Internals of the translators func_adl_uproot and func_adl_xAOD.

Tested with func_adl_uproot 2.2.0 and func_adl_xAOD 2.2.8.
"""

from __future__ import annotations

import ast
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LONGEST_EXPRESSION = 1_000_000
# func_adl_xAOD keeps types in global variables.
_XAOD_LOCK = threading.Lock()


class EndlessTranslation(Exception):
    """The expression of a query grows without end."""


def python_expression(query: ast.AST, events: str) -> str:
    """Translate a query to the Python expression that func_adl_uproot runs.

    The translator stores the text of each node in ``node.rep`` and its depth in ``node._depth``,
    and its result always opens files. A public function that translates a query for events that
    are open already would replace it.

    Parameters
    ----------
    query : ast.AST
        With the nodes of LINQ, from ``qastle.insert_linq_nodes``. It is changed.
    events : str
        Name of the data set in the query, and of the function without parameters that the
        expression calls in its place.

    Raises
    ------
    EndlessTranslation
        If the expression has more than a million characters.
    Exception
        Whatever the translator raises.
    """
    from func_adl_uproot.transformer import PythonSourceGeneratorTransformer

    class Translator(PythonSourceGeneratorTransformer):
        def visit_Call(self, node: Any) -> Any:  # noqa: N802
            if getattr(node.func, "id", None) == events:
                node.rep, node._depth = f"{events}()", 0
                return node
            return super().visit_Call(node)

        def visit(self, node: Any) -> Any:
            node = super().visit(node)
            # It writes some parts of a query three times, and parts of parts nine times.
            if len(getattr(node, "rep", "")) > _LONGEST_EXPRESSION:
                raise EndlessTranslation
            return node

    return str(Translator().get_rep(query))


@dataclass
class BookedTree:
    """Tree that the C++ of a query writes.

    Attributes
    ----------
    name : str
    columns : list of tuple of str
        Name and C++ type of each branch, in the order of the tree.
    guesses : list of str
        Methods ``class::method`` whose type is not declared, so that func_adl_xAOD assumes a
        double.
    """

    name: str = ""
    columns: list[tuple[str, str]] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)


def booked_tree(executor_class: Any, query: ast.AST) -> BookedTree:
    """Translate a query to C++ with func_adl_xAOD and return the tree that the C++ books.

    The types of the branches are arguments of a method of the translator's visitor; nothing public
    gives them, and its files hold them only as C++. Types that one query declares stay in
    ``cpp_types.g_toplevel_ns`` for the next one, so they are removed before and after. A public
    function that returns the names and types of the branches would replace it.

    Parameters
    ----------
    executor_class : type
        Subclass of ``func_adl_xAOD.common.executor.executor``.
    query : ast.AST
        From ``qastle``.

    Raises
    ------
    Exception
        Whatever the translator raises.
    """
    tree = BookedTree()
    with _XAOD_LOCK, tempfile.TemporaryDirectory() as directory:
        executor = executor_class()
        executor.get_visitor_obj = _recording_visitor(type(executor.get_visitor_obj()), tree)
        try:
            _clear_types(executor)
            transformed = executor.apply_ast_transformations(query)
            executor.write_cpp_files(transformed, Path(directory))
        finally:
            _clear_types(executor)
    return tree


def _clear_types(executor: Any) -> None:
    from func_adl_xAOD.common import cpp_types

    executor.reset()
    cpp_types.g_toplevel_ns.clear()


def _recording_visitor(visitor: Any, tree: BookedTree) -> Any:
    """Return a class of visitors that records the tree and the guessed types."""
    from func_adl_xAOD.common import cpp_representation, cpp_types

    def record(owner: Any, method: str) -> None:
        value = cpp_representation.get_rep(owner)
        if isinstance(value, cpp_representation.cpp_value):
            kind = value.cpp_type().type
            if cpp_types.method_type_info(kind, method) is None:
                tree.guesses.append(f"{kind}::{method}")

    class RecordingVisitor(visitor):
        def create_book_ttree_obj(self, tree_name: str, leaves: list[Any]) -> Any:
            tree.name = tree_name
            tree.columns = [(name, str(variable.cpp_type())) for name, variable in leaves]
            return super().create_book_ttree_obj(tree_name, leaves)

        def visit_Call_Member(self, call_node: Any) -> None:  # noqa: N802
            super().visit_Call_Member(call_node)
            record(call_node.func.value, call_node.func.attr)

        def visit_Attribute(self, node: Any) -> None:  # noqa: N802
            super().visit_Attribute(node)
            record(node.value, node.attr)

    return RecordingVisitor
