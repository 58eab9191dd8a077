"""Selections of the code generator ``python``."""

from __future__ import annotations

from base64 import b64encode

HEAD = "import awkward as ak, numpy as np, os, uproot\n"


def encoded(source: str) -> str:
    """Encode a source as `servicex.query.PythonFunction` does."""
    return b64encode(source.encode()).decode()


def returning(expression: str) -> str:
    """Return the selection of a function that returns an expression of ``path``."""
    return encoded(f"{HEAD}def run_query(path):\n    return {expression}\n")
