"""A partition of events: a part of a delivered file, read after a check of the file's form."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from .._upstream.uproot import columns_to_read, partition_reader, read_entries
from ..errors import FormError, LengthMismatch, ObjectReplaced
from ..forms import OutputForm
from ..forms.file_forms import DOCUMENTATION, read_forms
from ..forms.mismatch import check_columns
from ..polling.outcomes import Delivered
from ..storage.filesystem import address
from ..storage.stored import StoredObject, about
from .columns import Columns, parsing
from .parquet import open_parquet
from .root import no_tree, open_root

# numba loads its extensions when it first compiles, and a second thread that compiles meanwhile
# does so without them.
_preparing = threading.Lock()


def blockwise_reader(output_form: OutputForm, form_mapping: Any) -> Any:
    """Return the function with which ``uproot.dask`` reads a partition of events of this form.

    It implements dask-awkward's protocols for mocking and column projection.
    """
    tree = output_form.tree or "none"
    return partition_reader(output_form.events_form, tree, form_mapping, DOCUMENTATION)


def form_of_delivered(request_id: str, outcome: Delivered, result_format: str) -> OutputForm:
    """Read the form of a delivered file, to be taken as the form of all files of a transform.

    Parameters
    ----------
    request_id : str
    outcome : Delivered
    result_format : {"root-file", "root-rntuple", "parquet"}

    Raises
    ------
    ReadError
        If the file cannot be read.
    FormError
        If it holds no tree.
    """
    trees = read_forms(address(request_id, outcome.object_name), result_format)
    if not trees:
        raise FormError(
            f"The file made of {outcome.input_file} holds no tree; give the form as form=.",
            input_file=outcome.input_file,
        )
    return OutputForm(trees, next(iter(trees)), result_format)


def read(
    stored: StoredObject,
    outcome: Delivered,
    output_form: OutputForm,
    reader: Any,
    step: int,
    steps: int,
    collections: Sequence[Sequence[str]] = (),
    *,
    is_exact: bool = False,
) -> Any:
    """Read one step of a delivered file.

    Code of coffea and of the user makes events of the columns. Its errors are no errors of the
    file, and pass unchanged.

    Parameters
    ----------
    stored : StoredObject
        The bytes of the file.
    outcome : Delivered
        The file, as the server describes it.
    output_form : OutputForm
    reader : object
        From `blockwise_reader`, projected to the columns to read.
    step, steps : int
        Number of the step, and number of steps into which the file is divided equally.
    collections : sequence of sequence of str
        Columns that must have the same numbers of entries: from `collection_columns`.
    is_exact : bool
        True if the file must have as many events as the server has counted.

    Returns
    -------
    awkward.Array

    Raises
    ------
    LengthMismatch
        If the file has another number of events than counted.
    FormMismatch
        If the columns of the file are not those of the form.
    CorruptFile
        If the bytes of the file cannot be parsed.
    ReadError
        If they cannot be fetched.
    """
    attempt = partial(
        _read, stored, outcome, output_form, reader, step, steps, collections, is_exact
    )
    with about(outcome):
        try:
            return attempt()
        except ObjectReplaced:
            stored.forget()
            return attempt()


def _read(
    stored: StoredObject,
    outcome: Delivered,
    output_form: OutputForm,
    reader: Any,
    step: int,
    steps: int,
    collections: Sequence[Sequence[str]],
    is_exact: bool,
) -> Any:
    names = columns_to_read(reader)
    share = len(names) / max(1, len(output_form.columns)) / steps
    with open_delivered(stored, outcome, output_form, share) as columns:
        check_length(columns, outcome, outcome.n_events if is_exact else None)
        if columns is None:
            return reader.mock_empty(backend="cpu")
        check(columns, sorted(names), outcome, output_form)
        columns.collections = collections
        start, stop = step_limits(columns.n_events, step, steps)
        register_with_numba()
        return read_entries(reader, columns, start, stop)


def step_limits(n_events: int, step: int, steps: int) -> tuple[int, int]:
    """Return the first event of a step of a file, and the first of the next step."""
    size = -(-n_events // steps)
    start = min(step * size, n_events)
    return start, min(start + size, n_events)


@contextmanager
def open_delivered(
    stored: StoredObject, outcome: Delivered, output_form: OutputForm, share: float
) -> Iterator[Columns | None]:
    """Open a delivered file of any format.

    Parameters
    ----------
    stored : StoredObject
    outcome : Delivered
    output_form : OutputForm
    share : float
        Approximate share of the file that will be read, from 0 to 1.

    Yields
    ------
    Columns or None
        None if the input file has no such tree: servers write a file without one then.

    Raises
    ------
    ReadError
        If the file cannot be opened, or if it lacks the tree though its row has a number of events.
    """
    open_ = open_parquet if output_form.result_format == "parquet" else open_root
    with ExitStack() as stack:
        with parsing(stored.name):
            columns = stack.enter_context(open_(stored, output_form, share))
        if columns is None and outcome.n_events:
            raise no_tree(output_form.tree, [])
        yield columns


def check(
    columns: Columns, names: Sequence[str], outcome: Delivered, output_form: OutputForm
) -> None:
    """Compare the forms of some columns of a file with the expected ones.

    Raises
    ------
    FormMismatch
        If the columns of the file are not those of the form.
    CorruptFile
        If their forms cannot be parsed.
    """
    in_file = columns.in_file(names)
    with parsing(outcome.object_name):
        forms = columns.forms_of(in_file)
    columns.wider = check_columns(
        forms, in_file, output_form.base_form, outcome.input_file, outcome.object_name
    )


def check_length(columns: Columns | None, outcome: Delivered, expected: int | None) -> int:
    """Return the number of events of an open file.

    Raises
    ------
    LengthMismatch
        If another number is expected.
    """
    found = 0 if columns is None else columns.n_events
    if expected not in (None, found):
        raise length_mismatch(outcome, found, expected, found)
    return found


def length_mismatch(
    outcome: Delivered, n_in_file: int, expected: int | None, found: int
) -> LengthMismatch:
    """Return the error for a file, or a step of it, with another number of events."""
    return LengthMismatch(
        f"The file made of {outcome.input_file} has {n_in_file} events, where ServiceX reported "
        f"{outcome.n_events}.",
        input_file=outcome.input_file,
        object_name=outcome.object_name,
        expected=expected,
        found=found,
    )


def register_with_numba() -> None:
    """Register arrays of awkward before threads compile functions of coffea's schemas."""
    if "numba" in sys.modules:
        import awkward.numba

        with _preparing:
            awkward.numba.register_and_check()
