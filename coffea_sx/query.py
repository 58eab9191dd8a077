"""Selection of a query: the text that is sent to ServiceX, and its code generator."""

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
# Errors of func_adl for queries that it cannot write as a selection, with advice.
_UNSENDABLE: Advice = (
    (r"ast\.JoinedStr", "Make texts before the query: ServiceX has no f-strings."),
    (r"ast\.Slice", "There are no slices: write .First() for the first entry of a list."),
    (r"ast\.NotIn", "Write not (... in [...]) in place of not in."),
    (r"ast\.Is(Not)?\b", "Compare with == or !=, not with is."),
    (r"ast\.Set\b", 'Name the columns: Select(lambda e: {"pt": e["pt"]}).'),
    (
        r"ast\.",
        "Only arithmetic, comparisons, and, or, not, if, and calls can be sent to ServiceX.",
    ),
)
# Errors of func_adl for Python that it cannot read, raised while the query is made, with advice.
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
    """A query as it is sent to the server.

    Attributes
    ----------
    text : str
        The selection string (qastle for func_adl queries).
    codegen : str
        Name of the code generator that reads the text.
    result_format : str
        Format of the delivered files.
    tree : str or None
        Input tree that the query reads, if its text names it.
    title : str
        Title in lists of transforms.
    """

    text: str
    codegen: str
    result_format: str
    tree: str | None
    title: str

    @property
    def is_func_adl_uproot(self) -> bool:
        """True if the text is qastle for func_adl_uproot."""
        return self.codegen == "uproot"


def select(
    query: Any,
    *,
    result_format: str = "root-file",
    codegen: str | None = None,
    title: str | None = None,
) -> Selection:
    """Return the selection of a query.

    Parameters
    ----------
    query : servicex query or str
        An object of ``servicex.query``, or the text of a selection (then with ``codegen``).
    result_format : str or servicex.ResultFormat
    codegen : str, optional
        Code generator, in place of the query's own.
    title : str, optional

    Raises
    ------
    QueryError
        If the query has no tree, cannot be written as text, or names no code generator; if the
        result format is not one of ServiceX; if code generator or title are not texts.
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
    """Return the advice of the first pattern that matches an error, or an empty text."""
    description = describe_error(error)
    return next((text for pattern, text in table if re.search(pattern, description)), "")


def describe_error(error: BaseException) -> str:
    """Return the type and the text of an error as a sentence."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"
    return text if text.endswith(".") else f"{text}."


def advice_on_writing(error: Exception) -> str:
    """Return advice on an error that func_adl raised while a query was made."""
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
        # qastle raises errors of any type.
        raise QueryError(
            f"The query cannot be written as a selection: {describe_error(error)} "
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
    """Return the name of the tree in qastle: the second argument of ``EventDataset``."""
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
