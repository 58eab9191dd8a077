"""Code generators: the check of a selection, and the source that transformers run."""

from __future__ import annotations

import ast
import base64

from ..errors import QueryError

CODEGENS = ("uproot", "uproot-raw")
# Runs the client's own code, so that a server offers it only if its owner allows it.
PYTHON = "python"


def generate_source(selection: str, codegen: str = "uproot") -> str:
    """Check a selection, and return the source that transformers run.

    Parameters
    ----------
    selection : str
        qastle for ``uproot``, JSON for ``uproot-raw``, base64 of a Python source for ``python``.
    codegen : str
        One of `CODEGENS`, or `PYTHON`.

    Returns
    -------
    str
        The Python source of ``run_query`` for ``python``, otherwise the selection itself, which the
        transformer checks again.

    Raises
    ------
    QueryError
        If it contains anything but columns, arithmetic and functions of them.
    Exception
        Any error of the translation, with its own message.
    """
    if len(selection) == 0:
        raise ValueError("Requested codegen for an empty string.")
    if codegen == "uproot-raw":
        from ..forms.uproot_raw import check_selection

        check_selection(selection)
        return selection
    if codegen == PYTHON:
        return _decode_python(selection)
    from ..forms.program import program

    try:
        program(selection)
    except QueryError as error:
        # As on a real server, the message is that of the translator.
        raise error.__cause__ or error from None
    return selection


def _decode_python(selection: str) -> str:
    """Return the source in a selection, as `servicex.query.PythonFunction` encodes it."""
    source = base64.b64decode(selection, validate=True).decode("ascii")
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        for target in targets:
            if "run_query" in (getattr(target, "name", None), getattr(target, "id", None)):
                return source
    raise ValueError("the source defines no function run_query")
