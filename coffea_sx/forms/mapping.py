"""The mapping of delivered columns to events, which coffea's factory takes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import awkward as ak
from coffea.nanoevents import NanoAODSchema

from .._upstream.coffea import SchemaMapping, form_key, lazy_form, supports_dask
from ..errors import BadInput, FormError
from .output_form import OutputForm
from .schema import adapted, enumerated, is_schema


class FormMapping(SchemaMapping):
    """coffea's mapping of columns to events, pickled as the name of its schema.

    The behaviours of a schema are hundreds of functions that pickle would copy into every task.

    Parameters
    ----------
    schemaclass : coffea schema
    metadata : mapping or None
        Becomes ``events.metadata``.
    """

    def __init__(self, schemaclass: Any, metadata: Mapping[str, Any] | None) -> None:
        super().__init__(
            schemaclass=adapted(schemaclass),
            behavior=dict(schemaclass.behavior()),
            metadata=None if metadata is None else dict(metadata),
            version="latest",
        )
        self._arguments = (schemaclass, metadata)
        self._latest: tuple[OutputForm, Any] | None = None

    def __call__(self, form: Any) -> Any:
        """Return the form of events that are made of columns, and what loads their buffers."""
        # coffea's schemas, as those of users may, write into the form that they are given.
        form = copy.deepcopy(form)
        shown = {
            "class": "RecordArray",
            "fields": form.fields,
            "contents": [
                _lazy_form(content, f"{name},!load", content.parameters)
                for name, content in zip(form.fields, form.contents, strict=True)
            ],
            "parameters": {"__doc__": form.parameters["__doc__"], "metadata": self.metadata},
            "form_key": None,
        }
        return ak.forms.from_dict(self.schemaclass(shown, self.version).form), self

    def __reduce__(self) -> tuple[Any, ...]:
        return FormMapping, self._arguments

    @property
    def original_schema(self) -> Any:
        """The schema that was given."""
        return self._arguments[0]

    def events_form(self, output_form: OutputForm) -> Any:
        """Return the form of events that are made of delivered files, without warnings."""
        # The events of each file need it, and it is slow to make for many columns.
        if self._latest is None or self._latest[0] is not output_form:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they come again, once, where events are made
                form, _ = self(output_form.events_form)
            self._latest = output_form, form
        return self._latest[1]


def _lazy_form(form: Any, key: str, documentation: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the form of a column where its buffers are loaded from, as coffea does.

    coffea has no missing values: here they are an array of indices, in which -1 is a missing value.
    """
    about = {name: documentation[name] for name in ("__doc__", "typename") if name in documentation}
    if form.is_option:
        return {
            "class": "IndexedOptionArray",
            "index": "i64",
            "content": _lazy_form(form.content, f"{key},!content", about),
            "parameters": about,
            "form_key": form_key(f"{key},!index"),
        }
    if form.is_list and not form.is_regular and _has_options(form.content):
        content = _lazy_form(form.content, f"{key},!content", about)
        return {**form.to_dict(), "content": content, "form_key": form_key(key)}
    return lazy_form(form, key, about["__doc__"], about["typename"])


def _has_options(form: Any) -> bool:
    if form.is_record:
        return any(map(_has_options, form.contents))
    return form.is_option or ((form.is_list or form.is_indexed) and _has_options(form.content))


def form_mapping(
    output_form: OutputForm, schemaclass: Any, metadata: Mapping[str, Any] | None = None
) -> FormMapping:
    """Return the mapping of delivered columns to events of a schema.

    Parameters
    ----------
    output_form : OutputForm
    schemaclass : coffea schema
    metadata : mapping, optional
        Becomes ``events.metadata``.

    Raises
    ------
    BadInput
        If the schema does not work in dask mode.
    FormError
        If the schema cannot be applied to the columns; the error names the columns to add.
    """
    if not supports_dask(schemaclass):
        reason = "does not work in dask mode"
        if not isinstance(schemaclass, type):
            reason = "is no class: give that itself, as in schemaclass=NanoAODSchema"
        raise BadInput(f"The schema {schemaclass!r} {reason}.")
    if "" in output_form.columns:
        raise FormError(
            'The delivered column has no name: name it, Select(lambda e: {"pt": e["Muon_pt"]}). '
            "A list that is the only column loses its name: select another column beside it."
        )
    _check_event_ids(output_form, schemaclass)
    mapping = FormMapping(schemaclass, metadata)
    try:
        mapping.events_form(output_form)
    except Exception as error:
        # Schemas are code of coffea or of the user.
        raise FormError(
            f"{schemaclass.__name__} cannot make events of what the query delivers: "
            f"{_reason(error)} The columns are {', '.join(output_form.columns)}."
        ) from error
    return mapping


def _check_event_ids(output_form: OutputForm, schemaclass: Any) -> None:
    if not is_schema(schemaclass, NanoAODSchema) or not schemaclass.error_missing_event_ids:
        return
    missing = [name for name in schemaclass.event_ids if name not in output_form.columns]
    if missing:
        raise FormError(
            f"{schemaclass.__name__} needs {enumerated(missing)}, which the query does not "
            f"deliver: add that to the query, or set {schemaclass.__name__}."
            "error_missing_event_ids = False."
        )


def _reason(error: Exception) -> str:
    """Return the message of a schema's error as a sentence."""
    reason = f"it misses {error}" if isinstance(error, KeyError) else str(error).strip()
    return reason if reason.endswith(".") else f"{reason}."
