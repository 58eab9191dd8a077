"""Schema for delivered files that coffea opens itself: in ``from_root`` and in ``Runner``."""

from __future__ import annotations

import copyreg
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import awkward as ak

from ..errors import FormMismatch, LengthMismatch
from ..forms import OutputForm
from ..forms.mismatch import check_columns
from ..forms.schema import adapted
from ..graph.routing import publish_to_workers
from ..graph.sources import connect_worker
from ..polling import registry
from ..polling.registry import TransformAddress
from ..storage.filesystem import index_of
from .lengths import verify_last_chunk

_problems = threading.local()


@dataclass(frozen=True, slots=True)
class ExpectedFiles:
    """Facts about the delivered files of a transform.

    Attributes
    ----------
    form : bytes
        Packed `OutputForm`.
    counts_events : bool
        True if the numbers of events that ServiceX reports are those of the files.
    """

    form: bytes
    counts_events: bool


Forms = tuple[tuple[str, ExpectedFiles], ...]


class _SchemaType(type):
    """Type of the schemas of delivered files, which are pickled as what they are made of."""

    made_of: tuple[Any, Forms, tuple[TransformAddress, ...]]


@lru_cache(maxsize=64)
def delivered_schema(
    schemaclass: Any, forms: Forms, addresses: tuple[TransformAddress, ...] = ()
) -> Any:
    """Return a schema that makes of delivered files what `events` shows.

    Parameters
    ----------
    schemaclass : coffea schema
    forms : tuple of (str, ExpectedFiles)
        Requests, and the files of each.
    addresses : tuple of TransformAddress
        Of these requests. A worker of a dask cluster that gets the schema can open their files.

    Returns
    -------
    type
        A subclass of the schema. It can be pickled.
    """
    by_request = dict(forms)
    apply = adapted(schemaclass)

    def make(cls: Any, base_form: dict[str, Any], version: str = "latest") -> Any:
        """Check form and length of a file, and return the schema of its columns."""
        metadata = (base_form.get("parameters") or {}).get("metadata") or {}
        where = index_of(str(metadata.get("filename")))
        # from_root gives a schema no name of the file; the first sample is as good as another.
        expected = by_request.get(where[0] if where else "", forms[0][1])
        form = unpacked(expected.form)
        with noting_problems():
            _check(base_form, form, metadata)
            if where is not None and expected.counts_events:
                verify_last_chunk(*where, metadata, form)
        return apply(base_form, version)

    name = f"{schemaclass.__name__}OfServiceX"
    members = {"__new__": make, "__doc__": schemaclass.__doc__, "__module__": __name__}
    schema = _SchemaType(name, (schemaclass,), members)
    schema.made_of = (schemaclass, forms, addresses)
    return schema


def _reduce(schema: _SchemaType) -> tuple[Any, ...]:
    # As a graph does, a schema that leaves this process goes to workers.
    for address in schema.made_of[2]:
        publish_to_workers(registry.get_poller(address))
    return _arrived, schema.made_of


def _arrived(schemaclass: Any, forms: Forms, addresses: tuple[TransformAddress, ...]) -> Any:
    """Return a schema in another process, which may open the files if it is a dask worker."""
    for address in addresses:
        registry.announce(address, partial(connect_worker, address))
    return delivered_schema(schemaclass, forms, addresses)


def _check(base_form: dict[str, Any], expected: OutputForm, metadata: dict[str, Any]) -> None:
    """Compare the columns of a file with those that are expected.

    Raises
    ------
    FormMismatch
    """
    where = str(metadata.get("input_file") or metadata.get("filename") or "an input file")
    columns = dict(zip(base_form["fields"], base_form["contents"], strict=True))
    # Not all formats have counters.
    names = [name for name in expected.columns if name not in expected.counters]
    found = {name: ak.forms.from_dict(columns[name]) for name in names if name in columns}
    check_columns(found, names, expected.base_form, where)


def packed(output_form: OutputForm) -> bytes:
    """Pack the form of the tree that events are made of, for workers."""
    form = output_form.base_form.to_dict()
    text = json.dumps([form, output_form.tree, output_form.result_format])
    return zlib.compress(text.encode())


@lru_cache(maxsize=16)
def unpacked(form: bytes) -> OutputForm:
    """Undo `packed`."""
    base_form, tree, result_format = json.loads(zlib.decompress(form))
    return OutputForm({tree: ak.forms.from_dict(base_form)}, tree, result_format)


# -- errors that coffea must not skip, because the file is not bad


@contextmanager
def noting_problems() -> Iterator[None]:
    """Note errors that say that files are not what they should be."""
    try:
        yield
    except (FormMismatch, LengthMismatch) as error:
        note_problem(error)
        raise


def note_problem(problem: Exception | None) -> None:
    """Note an error of this thread that coffea must not skip; None forgets it."""
    _problems.latest = problem


def noted_problem() -> Exception | None:
    """Return the error that was noted in this thread."""
    problem: Exception | None = getattr(_problems, "latest", None)
    return problem


copyreg.pickle(_SchemaType, _reduce)
