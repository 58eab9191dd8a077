"""Requirements of coffea's collections that the delivered columns do not meet."""

from __future__ import annotations

import re
from typing import Any

import awkward as ak
from awkward.forms import NumpyForm
from coffea.nanoevents import NanoAODSchema, PHYSLITESchema, ScoutingNanoAODSchema

from .._upstream.coffea import mixin
from .mapping import FormMapping
from .output_form import OutputForm
from .schema import enumerated, is_schema, original, physlite_collection
from .writers import TREENAME

# Errors of coffea's vector behaviours, and the columns that they need; without a list of columns,
# the error names the column.
_NEEDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"requires the '(?P<column>\w+)' field", ()),
    ("missing azimuthal", ("pt", "phi")),
    ("missing longitudinal", ("eta",)),
    ("missing temporal", ("mass",)),
)
# Columns that have other names than pt, eta, phi and mass.
_SCOUTING = {"mass": "m"}
_PHYSLITE = {"mass": "m"}
_PHYSLITE_TRUTH = {"pt": "px", "phi": "py", "eta": "pz", "mass": "e"}


def unmet_requirements(output_form: OutputForm, mapping: FormMapping) -> list[str]:
    """Return a sentence for each problem of the events that a query would deliver.

    Parameters
    ----------
    output_form : OutputForm
    mapping : FormMapping
        From `form_mapping`.

    Returns
    -------
    list of str
        One sentence for each collection that cannot be used, with the columns to add to the query,
        and for each column that the writer or the schema replaces.
    """
    events = mapping.events_form(output_form)
    schemaclass = original(mapping.schemaclass)
    sentences = []
    for name, collection in zip(events.fields, events.contents, strict=True):
        error = _behavior_error(collection, mapping.behavior)
        if error is not None:
            needed = _needed_quantities(collection, mapping.behavior)
            columns = _input_columns(name, needed, output_form, schemaclass)
            sentences.append(
                f"events.{name} needs {enumerated(columns)}: add that to the query."
                if columns
                else f"events.{name} cannot be used: {error}."
            )
    sentences += _taken_for_counters(events, output_form, schemaclass)
    return sentences + list(map(_replaced_column, output_form.clashes))


def _replaced_column(column: str) -> str:
    """Return a sentence on a column that the writer replaces."""
    if column == TREENAME:
        return (
            f"events have no {column!r}: in the delivered Parquet file that is the name of the "
            f'tree. Deliver it by another name, {{"aliases": {{"label": "{column}"}}, '
            '"expressions": ["label", ...]}, or take another result_format.'
        )
    return (
        f"{column!r} counts the entries of {column[1:]!r} in the delivered TTree, whatever the "
        "query delivers under that name: rename one of the two columns."
    )


def _taken_for_counters(events: Any, output_form: OutputForm, schemaclass: Any) -> list[str]:
    """Return a sentence on each column that a schema drops because of its name."""
    if not is_schema(schemaclass, NanoAODSchema):
        return []
    kept = {*output_form.counters, *events.fields}
    return [
        f"events has no {column}, which is taken for a counter by its name: use another name."
        for column in output_form.columns
        if column.startswith("n") and "_" in column and column not in kept
    ]


def _needed_quantities(collection: Any, behavior: Any) -> list[str]:
    """Return the quantities without which the behaviour of a collection fails."""
    needed: list[str] = []
    while (error := _behavior_error(collection, behavior)) is not None:
        fields = _record(collection).fields
        more = [quantity for quantity in _quantities_in(error) if quantity not in fields]
        if not more:
            break
        needed += more
        collection = _with_quantities(collection, more)
    return needed


def _behavior_error(collection: Any, behavior: Any) -> str | None:
    """Return the error of coffea's behaviour for a collection, or None if it can be used."""
    if _record(collection) is None:
        return None
    try:
        ak.typetracer.typetracer_from_form(collection, behavior=behavior, highlevel=True)
    except ValueError as error:
        return str(error)
    return None


def _quantities_in(error: str) -> list[str]:
    """Return the quantities that an error of a behaviour needs."""
    quantities: list[str] = []
    for pattern, names in _NEEDS:
        match = re.search(pattern, error)
        if match:
            quantities += names or [match["column"]]
    return quantities


def _record(form: Any) -> Any:
    while form.is_list or form.is_option or form.is_indexed:
        form = form.content
    return form if form.is_record else None


def _with_quantities(form: Any, names: list[str]) -> Any:
    if not form.is_record:
        return form.copy(content=_with_quantities(form.content, names))
    contents = [*form.contents, *(NumpyForm("float32") for _ in names)]
    return form.copy(contents=contents, fields=[*form.fields, *names])


def _input_columns(
    collection: str, quantities: list[str], output_form: OutputForm, schemaclass: Any
) -> list[str]:
    """Return the input columns of quantities of a collection; none if a schema names none."""
    names: dict[str, str] = {}
    if is_schema(schemaclass, NanoAODSchema):
        prefix = f"{collection}_"
        if is_schema(schemaclass, ScoutingNanoAODSchema) and collection.startswith("Scouting"):
            is_jet = mixin(schemaclass, collection) in ("Jet", "FatJet")
            names = {} if is_jet else _SCOUTING
    elif is_schema(schemaclass, PHYSLITESchema):
        first = next(c for c in output_form.columns if physlite_collection(c) == collection)
        prefix = f"{first.partition('.')[0]}."
        is_truth = mixin(schemaclass, collection) == "TruthParticle"
        names = _PHYSLITE_TRUTH if is_truth else _PHYSLITE
    else:
        return []
    columns = [prefix + names.get(quantity, quantity) for quantity in quantities]
    return [column for column in columns if column not in output_form.columns]
