"""The Python expression of a func_adl query, as func_adl_uproot writes it on the server."""

from __future__ import annotations

import ast

from .._upstream.func_adl import EndlessTranslation, python_expression
from ..errors import QueryError
from ..query import Advice, advice, describe_error
from .syntax import check_text, check_tree, excerpt
from .vocabulary import EVENTS

_ADVICE: Advice = (
    (
        "Unknown id",
        "It was no variable when the query was written, and is no function of the server: those of "
        "numpy are called as np.sqrt.",
    ),
)
_LONGEST_REASON = 300


def translate(selection: str) -> tuple[str | None, ast.expr]:
    """Translate a query to an expression of columns.

    Parameters
    ----------
    selection : str
        qastle.

    Returns
    -------
    tree : str or None
        The input tree of the query, None if it names none.
    expression : ast.expr
        In it, ``EventDataset()`` stands for the events. It is not checked.

    Raises
    ------
    QueryError
        If the query is too long, or func_adl_uproot cannot translate it.
    """
    import qastle

    check_text(selection)
    try:
        query = qastle.insert_linq_nodes(qastle.text_ast_to_python_ast(selection))
        check_tree(query)
        tree, text = _input_tree(query), python_expression(query, EVENTS)
    except (QueryError, RecursionError, MemoryError):
        raise
    except EndlessTranslation:
        raise QueryError(
            "The query cannot be translated: the translation has no end. Nest fewer [...] and "
            "fewer collections."
        ) from None
    except Exception as error:
        if isinstance(error.__context__, (RecursionError, MemoryError)):
            raise error.__context__ from None
        raise QueryError(
            "func_adl_uproot cannot translate the query: "
            f"{describe_error(error)[:_LONGEST_REASON]} {advice(error, _ADVICE)}".rstrip()
        ) from error
    try:
        return tree, ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise QueryError(
            f"func_adl_uproot cannot translate the query: it writes no expression: "
            f"{describe_error(error)}"
        ) from None


def _input_tree(query: ast.AST) -> str | None:
    trees: dict[str | None, None] = {}
    for node in ast.walk(query):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == EVENTS:
            arguments = [ast.literal_eval(argument) for argument in node.args]
            tree = arguments[1] if len(arguments) > 1 else None
            if len(arguments) > 2 or not isinstance(tree, (str, type(None))):
                raise QueryError(
                    f"The query cannot be translated: {excerpt(node)!r} does not name files and a "
                    "tree."
                )
            trees[tree] = None
    if len(trees) != 1:
        names = ", ".join(map(repr, trees)) or "none"
        raise QueryError(
            f"The query cannot be translated: it must read one tree, it reads {names}."
        )
    return next(iter(trees))
