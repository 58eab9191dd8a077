"""The form of a func_adl_uproot query: its own translation, run on arrays without data.

The translator that the server runs writes Python that calls dask-awkward. Here the same calls get a
collection that knows its form and has no data, and nothing is computed: what dask-awkward says of
the result is what the server will make.
"""

from __future__ import annotations

import difflib
import logging
import re
from typing import Any
from uuid import uuid4

from ..errors import QueryError, UnknownColumn
from ..query import Advice, advice, describe_error
from .empty import without_rows
from .program import LIST_METHODS, Program, program

logger = logging.getLogger(__name__)

_MISSING_FIELD = re.compile(r"no field '(?P<a>.+?)' in record|^(?P<b>.+?) not in fields")
# What dask-awkward says of a query, and what to write instead.
_ADVICE: Advice = (
    (
        "jagged slice",
        "A condition on events has one answer for each event, not a list: count what passes, "
        'Where(lambda e: e["Muon_pt"].Where(lambda pt: pt > 20).Count() > 0).',
    ),
    (
        r"'(int|float|bool|str)' object has no attribute '_meta'",
        "Is there a constant column in the Select? func_adl_uproot makes columns of columns only: "
        'write event["run"] * 0 + 1 for 1.',
    ),
    (
        "Iteration over|Cannot determine length|ConcretizationTypeError|__round__",
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
        "could not find backend|at least one argument passed",
        'No column takes part: name one, as in Select(lambda e: {"pt": e["Muon_pt"]}).',
    ),
    ("support where=", "Compare with something in the inner Where: pt > 0 in place of pt."),
    (
        "no field|not in fields",
        "A second Select sees only the columns that the first one names.",
    ),
    ("from a single dict", 'Give the dict itself, Select(lambda e: {"pt": e["Muon_pt"]}).'),
    (
        "",
        "Columns of numbers have arithmetic, comparisons and the functions of np, and lists have "
        f"{LIST_METHODS}.",
    ),
)
_COLUMNS_SHOWN = 10
_MESSAGE_LENGTH = 2000


def translated_form(selection: str, form: Any) -> Any:
    """Return the form of the arrays that func_adl_uproot makes of a selection.

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
        If the query asks for a column that the input does not have.
    QueryError
        If the query cannot be translated, asks for anything but columns, arithmetic and functions
        of them, or does not fit the input.
    """
    import dask_awkward as dak

    query = program(selection)
    try:
        result = _evaluate(query, form)
        _refuse_overflow(result)
    except QueryError:
        raise
    except Exception as error:
        # Whatever dask-awkward raises here it would raise on the server, for every file.
        explained = _explained(error, query, form)
        # Pages of awkward say no more than that a column is not there.
        raise explained from (None if isinstance(explained, UnknownColumn) else error)
    if not isinstance(result, dak.Array):
        raise QueryError(
            f"The query gives {type(result).__name__}, not one row for each event: end it with a "
            "Select."
        )
    return result.layout.form


def _evaluate(query: Program, form: Any) -> Any:
    import awkward as ak
    import dask_awkward as dak

    events = dak.from_map(
        lambda _: without_rows(form),
        [0],
        label="events",
        token=uuid4().hex,  # dask-awkward remembers results by name
        meta=ak.typetracer.typetracer_from_form(form),
    )
    return query.run(events)


def _refuse_overflow(result: Any) -> None:
    """Compute a result without rows, for what only numbers tell: literals that do not fit."""
    import dask

    try:
        # By function, not by name: dask warns of a name where a cluster is at hand.
        result.compute(scheduler=dask.get)
    except OverflowError as error:
        raise QueryError(
            f"A number in the query does not fit the type of its column: OverflowError: {error}."
        ) from None
    except Exception as error:
        # Without rows other things fail too, which files with rows need not do.
        logger.debug("Without rows the query fails: %s", error)


def _explained(error: Exception, query: Program, form: Any) -> QueryError:
    found = _MISSING_FIELD.search(str(error)[:_MESSAGE_LENGTH].strip().strip("'\""))
    column = (found["a"] or found["b"]) if found else None
    if column is not None and column not in form.fields:
        if column in query.methods:
            return QueryError(
                f"The query calls {column}(), which func_adl_uproot does not know: "
                f"{describe_error(error)} Lists have {LIST_METHODS}, and vectors have methods as "
                "deltaR."
            )
        return unknown_column(column, form.fields)
    return QueryError(
        f"The query does not fit the input: {describe_error(error)} {advice(error, _ADVICE)}"
    )


def unknown_column(column: str, fields: list[str]) -> UnknownColumn:
    """Make the error for a column that is not there, with the names that come nearest."""
    nearest = difflib.get_close_matches(column, fields, n=3, cutoff=0.6)
    hint = (
        f"Did you mean {' or '.join(map(repr, nearest))}?"
        if nearest
        else f"It has {', '.join(map(repr, fields[:_COLUMNS_SHOWN]))}"
        f"{', and others' if len(fields) > _COLUMNS_SHOWN else ''}."
    )
    return UnknownColumn(
        f"The query asks for the column {column!r}, which the input does not have. {hint}",
        column=column,
        nearest=nearest,
    )
