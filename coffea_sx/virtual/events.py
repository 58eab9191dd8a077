"""Events of delivered files as one awkward array, whose columns are read when they are touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import awkward as ak

from .._upstream.coffea import ColumnEventsFactory
from ..errors import BadInput, ReadError
from ..forms import OutputForm
from ..forms.schema import collection_columns
from ..graph.resolve import allow_failure
from ..readers.partition import register_with_numba, step_limits
from .columns import JoinedColumns
from .parts import OpenFiles, Part, in_parallel

MODES = ("virtual", "eager")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How events are read, as by ``NanoEventsFactory.from_root``.

    Attributes
    ----------
    mode : {"virtual", "eager"}
        Read columns when they are touched, or all of them at once.
    entry_start, entry_stop : int or None
        The first event, and the first that is left out, counted over all files.
    preload : callable or collection of str or None
        Columns that are read together, at once; a function gets each column and its name.
    access_log : list or None
        Gets a record of each column that is touched.
    buffer_cache : mutable mapping or None
        Holds the buffers that were read.
    """

    mode: str = "virtual"
    entry_start: int | None = None
    entry_stop: int | None = None
    preload: Callable[[Any], bool] | Sequence[str] | None = None
    access_log: list[Any] | None = None
    buffer_cache: Any = None


def make_events(
    parts: Sequence[Part],
    output_form: OutputForm,
    form_mapping: Any,
    options: ReadOptions,
    *,
    skips: bool,
    trusts_counts: bool,
    metadata: dict[str, Any] | None = None,
) -> Any:
    """Make the events of some delivered files, in the order of the parts.

    Parameters
    ----------
    parts : sequence of Part
    output_form : OutputForm
    form_mapping : FormMapping
    options : ReadOptions
    skips : bool
        Leave out files that cannot be opened, unless too many have failed.
    trusts_counts : bool
        True if the server counts the events of the delivered tree. Then no file is opened to learn
        its number of events; it is verified when the file is read.
    metadata : dict, optional
        In place of the metadata of the mapping.

    Returns
    -------
    awkward.Array
        NanoEvents, one entry for each event.

    Raises
    ------
    ReadError
        If a file cannot be opened, and may not be left out; where columns are read at once, if a
        column cannot be read. Touching a column later raises the same.

    Notes
    -----
    At most one request to the store for each file whose number of events is not known. Reading a
    column, at once or later, takes one or two for each file.
    """
    files = OpenFiles(output_form)
    measured = in_parallel(partial(_measure, files, skips, trusts_counts), parts)
    kept = [(part, length) for part, length in zip(parts, measured, strict=True) if length >= 0]
    lengths = [length for _, length in kept]
    start, stop, _ = slice(options.entry_start, options.entry_stop).indices(sum(lengths))
    form = form_mapping.events_form(output_form)
    if metadata is not None:
        form = form.copy(parameters={**form.parameters, "metadata": metadata})
    columns = JoinedColumns(
        [part for part, _ in kept],
        lengths,
        files,
        output_form,
        collection_columns(form),
        start,
        max(start, stop),
    )
    names = "".join(f"{part.handle.address.key}@{part.partition}" for part, _ in kept)
    register_with_numba()
    factory = ColumnEventsFactory.of(
        form,
        form_mapping.behavior,
        columns,
        columns.n_events,
        f"{names}/{start}-{stop}",
        access_log=options.access_log,
        buffer_cache=options.buffer_cache,
    )
    is_eager = options.mode == "eager"
    columns.preload(list(columns) if is_eager else _names(options.preload, columns))
    return ak.materialize(factory.events()) if is_eager else factory.events()


def _names(preload: Any, columns: Iterable[str]) -> list[str]:
    """Return the columns to read at once, as ``from_root`` selects branches."""
    if callable(preload):
        return [name for name in columns if preload(SimpleNamespace(name=name))]
    return [name for name in columns if name in frozenset(preload or ())]


def _measure(files: OpenFiles, skips: bool, trusts_counts: bool, part: Part) -> int:
    """Return the number of events of a part, or -1 if its file is left out."""
    counted = part.delivered.n_events
    if trusts_counts and counted is not None:
        first, stop = step_limits(counted, part.step, part.steps)
        return stop - first
    try:
        return files.n_events(part)
    except ReadError as error:
        read = part.note(0, error)
        if not skips:
            raise
        allow_failure(part.handle, error, read)
        return -1


def check_mode(mode: str) -> str:
    """Return the mode of events that are one array.

    Raises
    ------
    BadInput
    """
    if mode not in MODES:
        raise BadInput(f"mode= must be 'virtual' or 'eager' here, got {mode!r}.")
    return mode
