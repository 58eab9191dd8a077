"""Form of the result of a func_adl query: the program of the query, run on events without rows.

The program gets an array that has a form and no data, and nothing is computed: the form of its
result is that of the result on the server.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import awkward as ak

from ..errors import QueryError, UnknownColumn
from ..query import Advice, advice, describe_error
from .empty import without_rows
from .program import Program, program
from .unknown_columns import unknown_column
from .vocabulary import LIST_METHODS

logger = logging.getLogger(__name__)

_MISSING_FIELD = re.compile(r"no field '(?P<a>.+?)' in record|^(?P<b>.+?) not in fields")
# Patterns of the errors of awkward and of `array_functions`, and what to write instead.
_ADVICE: Advice = (
    (
        "jagged slice",
        "A condition on events has one answer for each event, not a list: count what passes, "
        'Where(lambda e: e["Muon_pt"].Where(lambda pt: pt > 20).Count() > 0).',
    ),
    (
        r"a column is expected, not (int|float|bool|str)",
        "Is there a constant column in the Select? func_adl_uproot makes columns of columns only: "
        'write event["run"] * 0 + 1 for 1.',
    ),
    (
        "take no columns|unknown lengths|cannot iterate",
        "Python's own functions take no columns: write .Count() for len, .Sum() for sum, and "
        "functions of numpy, as np.rint and np.minimum.",
    ),
    (
        "list index out of range",
        "Numbers in [...] stand for columns: write .First() for the first entry of a list.",
    ),
    (
        "AxisError",
        f"{LIST_METHODS} are for lists, and this column has one value for each event.",
    ),
    (
        "could not find backend|there is no column in it",
        'There is no column in it: name a column, as in Select(lambda e: {"pt": e["Muon_pt"]}).',
    ),
    ("is no condition", "Compare with something in the inner Where: pt > 0 in place of pt."),
    (
        "no field|not in fields",
        "A second Select sees only the columns that the first Select names.",
    ),
    ("from a single dict", 'Give the dict itself, Select(lambda e: {"pt": e["Muon_pt"]}).'),
    (
        "",
        "Columns of numbers have arithmetic, comparisons and the functions of np, and lists have "
        f"{LIST_METHODS}.",
    ),
)
_LONGEST_MESSAGE = 2000


def func_adl_form(selection: str, form: Any) -> Any:
    """Return the form of the arrays that a query gives.

    Parameters
    ----------
    selection : str
        qastle.
    form : awkward.forms.RecordForm
        Form of the input events.

    Returns
    -------
    awkward.forms.Form

    Raises
    ------
    UnknownColumn
        If the query reads a column that the input does not have.
    QueryError
        If the query cannot be translated, has anything in it but columns, arithmetic and listed
        functions, or does not fit the input.
    """
    query = program(selection)
    try:
        result = query.trace(form)
        _refuse_overflow(query, form)
    except QueryError:
        raise
    except Exception as error:
        # It would fail for every file on the server, where dask-awkward calls awkward.
        explained = _explained(error, query, form)
        # awkward's own error has pages on a missing column, and says no more.
        raise explained from (None if isinstance(explained, UnknownColumn) else error)
    if not isinstance(result, ak.Array):
        given = type(result).__name__ if isinstance(result, (dict, list, tuple)) else "one value"
        raise QueryError(
            f"The query gives {given}, not one row for each event: end it with a Select."
        )
    return result.layout.form


def _refuse_overflow(query: Program, form: Any) -> None:
    """Run the query without rows: that alone finds numbers that do not fit their column."""
    try:
        query.run(without_rows(form))
    except OverflowError as error:
        raise QueryError(
            f"A number in the query does not fit the type of its column: OverflowError: {error}."
        ) from None
    except Exception as error:
        # Without rows there are other errors, which files with rows need not have.
        logger.debug("Without rows the query fails: %s", error)


def _explained(error: Exception, query: Program, form: Any) -> QueryError:
    match = _MISSING_FIELD.search(str(error)[:_LONGEST_MESSAGE].strip().strip("'\""))
    column = (match["a"] or match["b"]) if match else None
    if column is not None and column not in form.fields:
        if column in query.methods:
            return QueryError(
                f"The query calls {column}(), which func_adl_uproot does not have: "
                f"{describe_error(error)} Lists have {LIST_METHODS}, and vectors have methods "
                "as deltaR."
            )
        return unknown_column(column, form.fields)
    return QueryError(
        f"The query does not fit the input: {describe_error(error)} {advice(error, _ADVICE)}"
    )
