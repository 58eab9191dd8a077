"""What coffea makes of the delivered columns, and what it will miss in them."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coffea.nanoevents import NanoAODSchema
from coffea.nanoevents.factory import _map_schema_uproot

from ..errors import BadInput, FormError
from .delivered import DeliveredForm

# What the checks of coffea's vector behaviours say, and the columns that would satisfy them.
_WANTS = (
    (re.compile(r"requires the '(?P<column>\w+)' field"), None),
    (re.compile("missing azimuthal"), ("pt", "phi")),
    (re.compile("missing longitudinal"), ("eta",)),
    (re.compile("missing temporal"), ("mass",)),
)


@dataclass(frozen=True, slots=True)
class SchemaWithCounters:
    """A NanoAOD schema that finds counters where a selection has none.

    NanoAOD counts the entries of all columns of a collection once, in ``nJet``. A query need not
    select that; but then every jagged column has a counter of its own, ``nJet_pt``, which serves.
    """

    schemaclass: Any

    def __call__(self, form: dict[str, Any], version: str) -> Any:
        """Apply the schema to a form, as coffea applies one."""
        return self.schemaclass(_with_counters(form, self.schemaclass), version)


def form_mapping(
    delivered: DeliveredForm, schemaclass: Any, metadata: Mapping[str, Any] | None = None
) -> Any:
    """Return what makes coffea's events of delivered columns.

    Parameters
    ----------
    delivered : DeliveredForm
    schemaclass : coffea schema
    metadata : mapping, optional
        Becomes ``events.metadata``.

    Returns
    -------
    coffea.nanoevents.factory._map_schema_uproot

    Raises
    ------
    BadInput
        If the schema does not work in dask mode.
    FormError
        If it cannot be applied to the columns; it says what to add to the query.
    """
    if not getattr(schemaclass, "__dask_capable__", False):
        raise BadInput(f"The schema {schemaclass!r} does not work in dask mode.")
    _check_event_ids(delivered, schemaclass)
    mapping = _map_schema_uproot(
        schemaclass=SchemaWithCounters(schemaclass) if _is_nanoaod(schemaclass) else schemaclass,
        behavior=dict(schemaclass.behavior()),
        metadata=None if metadata is None else dict(metadata),
        version="latest",
    )
    try:
        _apply(mapping, delivered)
    except Exception as error:
        # Schemas are code of coffea or of the user.
        raise FormError(
            f"{schemaclass.__name__} cannot make events of what the query delivers: {error} "
            f"The columns are {', '.join(delivered.columns)}."
        ) from error
    return mapping


def missing(delivered: DeliveredForm, mapping: Any) -> list[str]:
    """Say what the behaviours of the events will miss, and what the writer will replace.

    Parameters
    ----------
    delivered : DeliveredForm
    mapping : object
        From `form_mapping`.

    Returns
    -------
    list of str
        One sentence for each collection that cannot be used, and for each clash of names.
    """
    form = _apply(mapping, delivered)
    sentences = []
    for field, content in zip(form.fields, form.contents, strict=True):
        wanted = _wanted_by(content, mapping.behavior)
        if wanted:
            names = [f"{field}_{column}" for column in wanted]
            sentences.append(f"events.{field} needs {_listed(names)}: add that to the Select.")
    return sentences + [
        f"{column!r} counts the entries of {column[1:]!r} in the delivered TTree, whatever the "
        "query gives it: rename the one or the other."
        for column in delivered.clashes
    ]


def _apply(mapping: Any, delivered: DeliveredForm) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said again, once, where the events are made
        form, _ = mapping(delivered.base_form)
    return form


def _is_nanoaod(schemaclass: Any) -> bool:
    return isinstance(schemaclass, type) and issubclass(schemaclass, NanoAODSchema)


def _check_event_ids(delivered: DeliveredForm, schemaclass: Any) -> None:
    if not _is_nanoaod(schemaclass) or not schemaclass.error_missing_event_ids:
        return
    lacking = [name for name in schemaclass.event_ids if name not in delivered.columns]
    if lacking:
        raise FormError(
            f"{schemaclass.__name__} needs {_listed(lacking)}, which the query does not deliver: "
            f"add that to the Select, or set {schemaclass.__name__}.error_missing_event_ids = "
            "False."
        )


def _with_counters(form: dict[str, Any], schemaclass: Any) -> dict[str, Any]:
    """Add the counters that the schema will look for, as copies of those that there are."""
    columns = dict(zip(form["fields"], form["contents"], strict=True))
    for collection in sorted(_counted(columns, schemaclass)):
        counter = f"n{collection}"
        of_columns = [name for name in columns if name.startswith(f"{counter}_")]
        if counter not in columns and of_columns:
            columns[counter] = copy.deepcopy(columns[of_columns[0]])
    return {**form, "fields": list(columns), "contents": list(columns.values())}


def _counted(columns: dict[str, Any], schemaclass: Any) -> set[str]:
    """Name the collections of which a schema wants the number of entries."""
    targets = {
        target for column, target in schemaclass.all_cross_references.items() if column in columns
    }
    targets |= {
        target
        for column, (counts, target) in schemaclass.nested_index_items.items()
        if counts in columns
    }
    filled = {
        arguments[0][1:]
        for column, (_, arguments) in schemaclass.full_like_items.items()
        if column not in columns
    }
    return targets | {name for name in filled if any(c.startswith(f"{name}_") for c in columns)}


def _wanted_by(form: Any, behavior: Any) -> list[str]:
    """Name the columns without which the behaviour of a collection fails."""
    wanted: list[str] = []
    while (message := _complaint(form, behavior)) is not None:
        more = [c for c in _columns_for(message) if c not in _record(form).fields]
        if not more:
            return wanted
        wanted += more
        form = _with_columns(form, more)
    return wanted


def _complaint(form: Any, behavior: Any) -> str | None:
    import awkward as ak

    if _record(form) is None:
        return None
    try:
        ak.typetracer.typetracer_from_form(form, behavior=behavior, highlevel=True)
    except ValueError as error:
        return str(error)
    return None


def _columns_for(message: str) -> list[str]:
    columns: list[str] = []
    for pattern, names in _WANTS:
        found = pattern.search(message)
        if found:
            columns += names if names is not None else [found["column"]]
    return columns


def _record(form: Any) -> Any:
    while form.is_list or form.is_option or form.is_indexed:
        form = form.content
    return form if form.is_record else None


def _with_columns(form: Any, names: list[str]) -> Any:
    from awkward.forms import NumpyForm

    if form.is_record:
        return form.copy(
            contents=[*form.contents, *(NumpyForm("float32") for _ in names)],
            fields=[*form.fields, *names],
        )
    return form.copy(content=_with_columns(form.content, names))


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
