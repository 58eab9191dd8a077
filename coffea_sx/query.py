"""What to ask: from a query object to the selection that a ServiceX understands."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import QueryError

RESULT_FORMATS = ("root-file", "root-rntuple", "parquet")
_NO_TREE = (
    "The query does not say which tree to read. Name it first: "
    'FuncADL_Uproot().FromTree("Events").Select(...).'
)

Advice = Sequence[tuple[str, str]]
# What func_adl says where it cannot write a query as a selection, and what to write instead.
_UNSENDABLE: Advice = (
    (r"ast\.JoinedStr", "Put together texts before the query: f-strings are not for ServiceX."),
    (r"ast\.Slice", "There are no slices: write .First() for the first entry of a list."),
    (r"ast\.NotIn", "Write not (... in [...]) in place of not in."),
    (r"ast\.Is(Not)?\b", "Compare with == or !=, not with is."),
    (r"ast\.Set\b", 'Name the columns: Select(lambda e: {"pt": e["pt"]}).'),
    (
        r"ast\.",
        "Only arithmetic, comparisons, and, or, not, if, and calls can be sent to ServiceX.",
    ),
)
# What func_adl says where it cannot read Python; these errors come when the query is written.
_UNREADABLE: Advice = (
    (r"KeyError: <ast\.", 'Behind - and not, write e["x"] in place of e.x.'),
    ("Invalid constant type", "Of your variables a query can hold numbers, texts and bools only."),
    ("must return a boolean", "Compare with something in the Where: e.x > 0 in place of e.x."),
    ("not found in dataclass", "A second Select sees only the columns that the first one names."),
    ("multiple calls on same line", "Call the argument differently in each Select: e, then x."),
)
_SOURCE_IS_READ = (
    "func_adl reads the source code of lambdas: write the query on lines of its own, below the "
    "def, each lambda in the parentheses of its Select or Where, or as text: "
    "Select(\"lambda e: {'pt': e.pt}\")."
)


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
        result format is not one of ServiceX; if code generator or title are no text.
    """
    for name, value in (("codegen", codegen), ("title", title)):
        if not isinstance(value, (str, type(None))):
            raise QueryError(f"{name}= must be a text, got {value!r}.")
    text, default_codegen = _text(query)
    codegen = codegen or default_codegen
    if codegen is None:
        raise QueryError(
            "A query given as text needs codegen=, the name of the code generator that reads it, "
            'for example codegen="uproot".'
        )
    tree = _tree(text) if codegen == "uproot" else None
    return Selection(text, codegen, _format(result_format), tree, title or "coffea_sx")


def advice(error: BaseException, table: Advice) -> str:
    """Return what the first matching row of a table of patterns says on an error, or nothing."""
    return next((what for pattern, what in table if re.search(pattern, said(error))), "")


def said(error: BaseException) -> str:
    """Write an error as a sentence."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"
    return text if text.endswith(".") else f"{text}."


def unreadable(error: Exception) -> str:
    """Say what to change in a query that func_adl refuses while it is written."""
    return advice(error, _UNREADABLE) or _SOURCE_IS_READ


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
    if isinstance(query, type):
        raise QueryError(
            f"{query.__name__} is the class of queries: make one, with parentheses behind it, "
            "and say what it selects."
        )
    try:
        return generate(), getattr(query, "default_codegen", None)
    except Exception as error:
        if isinstance(error, ValueError) and "FromTree" in str(error):
            raise QueryError(_NO_TREE) from None
        # qastle raises whatever its look-ups meet first.
        raise QueryError(
            f"The query cannot be written as a selection: {said(error)} "
            f"{advice(error, _UNSENDABLE)}".rstrip()
        ) from error


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
            "The selection is not valid qastle, which the code generator 'uproot' reads. Has the "
            f"query a constant that is no number, text or bool? {str(error).strip()}"
        ) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "EventDataset":
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            if len(names) > 1 and isinstance(names[1], str):
                return names[1]
            raise QueryError(_NO_TREE)
    raise QueryError("The selection reads no EventDataset, so there is nothing to select from.")
