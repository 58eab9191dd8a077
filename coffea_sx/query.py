"""What to ask: from a query object to the selection that a ServiceX understands."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from .errors import QueryError

RESULT_FORMATS = ("root-file", "root-rntuple", "parquet")


@dataclass(frozen=True, slots=True)
class Selection:
    """A query in the words of the server.

    Attributes
    ----------
    text : str
        The selection string (qastle for func_adl queries).
    codegen : str
        Name of the code generator that reads it.
    result_format : str
        Format of the delivered files.
    tree : str or None
        Input tree that the query reads, if its text says so.
    title : str
        What people see in lists of transforms.
    """

    text: str
    codegen: str
    result_format: str
    tree: str | None
    title: str

    @property
    def is_func_adl_uproot(self) -> bool:
        """Whether the text is qastle for func_adl_uproot."""
        return self.codegen == "uproot"


def select(
    query: Any,
    *,
    result_format: str = "root-file",
    codegen: str | None = None,
    title: str | None = None,
) -> Selection:
    """Turn a query into a selection, or say what is wrong with it.

    Parameters
    ----------
    query : servicex query or str
        An object of ``servicex.query``, or the text of a selection (then with ``codegen``).
    result_format : str or servicex.ResultFormat
    codegen : str, optional
        Instead of the query's own code generator.
    title : str, optional

    Raises
    ------
    QueryError
        If the query has no tree, cannot be written as text, or names no code generator; if the
        result format is not one of ServiceX.
    """
    text, default_codegen = _text(query)
    codegen = codegen or default_codegen
    if codegen is None:
        raise QueryError(
            "A query given as text needs codegen=, the name of the code generator that reads it, "
            'for example codegen="uproot".'
        )
    tree = _tree(text) if codegen == "uproot" else None
    return Selection(text, codegen, _format(result_format), tree, title or "coffea_sx")


def _text(query: Any) -> tuple[str, str | None]:
    if isinstance(query, str):
        return query, None
    try:
        generate = query.generate_selection_string
    except AttributeError:
        raise QueryError(
            f"Expected a query of servicex.query, for example FuncADL_Uproot(), or a selection "
            f"string; got {type(query).__name__}."
        ) from None
    try:
        return generate(), getattr(query, "default_codegen", None)
    except ValueError as error:
        if "FromTree" in str(error):
            raise QueryError(
                "The query does not say which tree to read. Name it first: "
                'FuncADL_Uproot().FromTree("Events").Select(...).'
            ) from None
        raise QueryError(f"The query cannot be written as a selection: {error}") from error


def _format(result_format: str) -> str:
    value = str(getattr(result_format, "value", result_format))
    if value not in RESULT_FORMATS:
        raise QueryError(
            f"ServiceX delivers no {value!r}; choose {' or '.join(map(repr, RESULT_FORMATS))}."
        )
    return value


def _tree(text: str) -> str | None:
    """Find the tree name in qastle, where it is the second argument of EventDataset."""
    import qastle

    try:
        tree = qastle.text_ast_to_python_ast(text)
    except Exception as error:
        raise QueryError(
            f"The selection is not valid qastle, which the code generator 'uproot' reads: {error}"
        ) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "EventDataset":
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            if len(names) > 1 and isinstance(names[1], str):
                return names[1]
            raise QueryError(
                "The query does not say which tree to read. Name it first: "
                'FuncADL_Uproot().FromTree("Events").Select(...).'
            )
    raise QueryError("The selection reads no EventDataset, so there is nothing to select from.")
