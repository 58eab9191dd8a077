"""Limits on the text and the syntax tree of a query, checked before anything is made of it."""

from __future__ import annotations

import ast
import contextlib
import itertools
import keyword
import unicodedata
from collections.abc import Iterator
from typing import Any

from ..errors import QueryError

LONGEST_TEXT = 150_000
DEEPEST_NESTING = 500
_LONGEST_EXCERPT = 60


def check_text(text: str) -> None:
    """Refuse a text that takes long to read.

    Raises
    ------
    QueryError
        If it has more than `LONGEST_TEXT` characters, or more than `DEEPEST_NESTING` brackets
        inside each other.
    """
    if len(text) > LONGEST_TEXT:
        raise QueryError(
            f"The query is too long: {len(text)} characters, where {LONGEST_TEXT} are allowed. "
            "Select fewer columns at once."
        )
    depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in text)
    if max(depths, default=0) > DEEPEST_NESTING:
        raise _nested_too_deeply()


@contextlib.contextmanager
def limited_nesting() -> Iterator[None]:
    """Turn Python's errors for deep nesting into a `QueryError`."""
    try:
        yield
    except (RecursionError, MemoryError):
        raise _nested_too_deeply() from None


def _nested_too_deeply() -> QueryError:
    return QueryError("The query cannot be translated: its parentheses are nested too deeply.")


def check_tree(tree: ast.AST) -> None:
    """Refuse the parts of a qastle query that translators ignore, and names that are no names.

    Raises
    ------
    QueryError
        For keywords of a call, for parameters of a lambda that are not plain variables, and for
        names that Python would read as something else.
    """
    for node in ast.walk(tree):
        ignored: list[Any] = []
        if isinstance(node, ast.Call):
            ignored = node.keywords
        elif isinstance(node, ast.arguments):
            ignored = [*node.posonlyargs, *node.kwonlyargs, *node.defaults, *node.kw_defaults]
            ignored += [extra for extra in (node.vararg, node.kwarg) if extra is not None]
        if ignored:
            raise QueryError(
                f"The query cannot be translated: {excerpt(node)!r} is not allowed. Calls have no "
                "keywords, and lambdas have variables only."
            )
        for field in ("id", "arg", "attr"):
            if field in node._fields:
                _check_name(getattr(node, field))


def _check_name(name: object) -> None:
    is_plain = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
    if not is_plain or unicodedata.normalize("NFKC", str(name)) != name:
        text = shortened(repr(name))
        raise QueryError(
            f"The query cannot be translated: {text} is not allowed as a name behind a dot or as "
            f"a variable. A column with such a name is read by e[{text}]."
        )


def excerpt(node: ast.AST) -> str:
    """Return the source text of a part of a query, shortened for an error message."""
    try:
        return shortened(ast.unparse(node))
    except Exception:
        # The tree is too deep, or no text gives it.
        return "..."


def shortened(text: str) -> str:
    """Return the beginning of a text for an error message."""
    return text if len(text) <= _LONGEST_EXCERPT else f"{text[:_LONGEST_EXCERPT]}..."
