"""Read one partition: a part of a delivered file, after its form was checked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from ..errors import FormError, ObjectReplaced, ReadError
from ..forms import OutputForm
from ..forms.file_forms import DOCUMENTATION, observed_forms
from ..forms.mismatch import check
from ..polling.outcomes import Delivered
from ..polling.poller import Poller
from ..storage.filesystem import address
from ..storage.stored import StoredObject
from .columns import understanding
from .parquet import open_parquet
from .root import no_tree, open_root

# numba loads its extensions when it first compiles, and a second thread that compiles meanwhile
# does so without them.
_preparing = threading.Lock()


def blockwise_reader(delivered: OutputForm, form_mapping: Any) -> Any:
    """Return the function with which ``uproot.dask`` reads a partition of this form.

    It implements dask-awkward's protocols for mocking and projection; its ``read_tree`` reads the
    columns that it was projected to.
    """
    import uproot

    events = uproot.dask(
        {"not opened": delivered.tree or "none"},
        open_files=False,
        known_base_form=delivered.events_form,
        full_paths=True,
        ak_add_doc=DOCUMENTATION,
        form_mapping=form_mapping,
    )
    (layer,) = events.dask.layers.values()
    return layer.io_func


def form_of_first(poller: Poller, result_format: str) -> OutputForm:
    """Wait for the first delivered file of a transform, and take its form for that of all.

    Raises
    ------
    TransformError, ServerError
        If none is delivered.
    ReadError
        If it cannot be read.
    FormError
        If it holds no tree.
    """
    first = poller.wait_for_any()
    where = address(poller.address.request_id, first.object_name)
    trees = observed_forms(where, result_format)
    if not trees:
        raise FormError(
            f"The file made of {first.input_file} holds no tree; give the form as form=.",
            input_file=first.input_file,
        )
    return OutputForm(trees, next(iter(trees)), result_format)


def read(
    stored: StoredObject,
    outcome: Delivered,
    delivered: OutputForm,
    reader: Any,
    step: int,
    steps: int,
    collections: Sequence[Sequence[str]] = (),
) -> Any:
    """Read one step of a delivered file.

    Errors of coffea's code and of the user's, which make events of the columns, are no errors of
    the file: they pass unchanged.

    Parameters
    ----------
    stored : StoredObject
        The bytes of the file.
    outcome : Delivered
        What the server says of it.
    delivered : OutputForm
    reader : object
        From `blockwise_reader`, projected to the columns to read.
    step, steps : int
        Which of how many equal parts of the file.
    collections : sequence
        Columns that events take for columns of one collection.

    Returns
    -------
    awkward.Array

    Raises
    ------
    FormMismatch
        If the file is not what the query promised.
    CorruptFile
        If its bytes cannot be understood.
    ReadError
        If they cannot be had.
    """
    try:
        try:
            return _read(stored, outcome, delivered, reader, step, steps, collections)
        except ObjectReplaced:
            stored.forget()
            return _read(stored, outcome, delivered, reader, step, steps, collections)
    except ReadError as error:
        raise error.about(outcome.input_file, outcome.object_name) from None


def _read(
    stored: StoredObject,
    outcome: Delivered,
    delivered: OutputForm,
    reader: Any,
    step: int,
    steps: int,
    collections: Sequence[Sequence[str]],
) -> Any:
    share = len(reader.common_keys) / max(1, len(delivered.columns)) / steps
    open_ = open_parquet if delivered.result_format == "parquet" else open_root
    with ExitStack() as stack:
        with understanding(stored.name):
            columns = stack.enter_context(open_(stored, delivered, share))
        if columns is None:
            # What servers write of an input file without the tree.
            if outcome.n_events:
                raise no_tree(delivered.tree, [])
            return reader.mock_empty(backend="cpu")
        wanted = columns.real(sorted(reader.common_keys))
        with understanding(stored.name):
            found = columns.forms_of(wanted)
        columns.wider = check(
            found,
            wanted,
            delivered.base_form,
            outcome.input_file,
            outcome.object_name,
        )
        columns.collections = collections
        size = -(-columns.n_events // steps)
        start = min(step * size, columns.n_events)
        _prepare_to_compile()
        array, _ = reader.read_tree(columns, start, min(start + size, columns.n_events))
        return array


def _prepare_to_compile() -> None:
    """Let numba know the arrays that coffea's schemas compile for, before threads compile."""
    if "numba" in sys.modules:
        import awkward.numba

        with _preparing:
            awkward.numba.register_and_check()
