"""coffea's schemas, applied to the columns that ServiceX delivers."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

from coffea.nanoevents import DelphesSchema, NanoAODSchema, PHYSLITESchema, TreeMakerSchema

from .._upstream.coffea import cross_references, filled_columns, loaded_column, nested_counts

# These would make a collection, nJet, of the counter of a column Jet.PT.
_WITHOUT_COUNTERS = (DelphesSchema, PHYSLITESchema, TreeMakerSchema)
# These look for a branch of a split object by its path in the experiment's files.
_BY_PATH = (DelphesSchema, TreeMakerSchema)
_SPLIT_BRANCH = re.compile(r"(?P<object>[A-Za-z_]\w*)\.[\w.\[\]]+")


def is_schema(schemaclass: Any, *kinds: Any) -> bool:
    """Return True if something is a subclass of one of several schemas."""
    return isinstance(schemaclass, type) and issubclass(schemaclass, kinds)


def adapted(schemaclass: Any) -> Any:
    """Return the schema to apply in place of one that is written for files of an experiment."""
    if is_schema(schemaclass, NanoAODSchema, *_WITHOUT_COUNTERS):
        return AdaptedSchema(schemaclass)
    # A schema of the user sees the columns of the file, as from_root would show them to it.
    return schemaclass


def original(schemaclass: Any) -> Any:
    """Return the schema that `adapted` was given."""
    return schemaclass.schemaclass if isinstance(schemaclass, AdaptedSchema) else schemaclass


@dataclass(frozen=True, slots=True)
class AdaptedSchema:
    """A schema of an experiment, for columns that a query selects of the experiment's files.

    Attributes
    ----------
    schemaclass : coffea schema

    Notes
    -----
    NanoAOD counts the entries of all columns of a collection once, in ``nJet``, and Delphes does in
    ``Jet_size``. A query need not select that; but then every jagged column has a counter of its
    own, ``nJet_pt``, which serves. Other schemas take such counters for columns of the experiment,
    and are not shown them.

    Branches of a split object are delivered by their names, ``Jets.fCoordinates.fPt``, where their
    schemas look for their paths, ``Jets/Jets.fCoordinates.fPt``.
    """

    schemaclass: Any

    def __call__(self, form: dict[str, Any], version: str) -> Any:
        """Apply the schema to a form, as coffea applies a schema."""
        columns = dict(zip(form["fields"], form["contents"], strict=True))
        if is_schema(self.schemaclass, NanoAODSchema):
            _add_counters(columns, self.schemaclass)
        if is_schema(self.schemaclass, DelphesSchema):
            _add_sizes(columns)
        if is_schema(self.schemaclass, *_WITHOUT_COUNTERS):
            counters = set(map(_counter, _jagged(columns)))
            columns = {name: c for name, c in columns.items() if name not in counters}
        if is_schema(self.schemaclass, *_BY_PATH):
            columns = {_path(name): content for name, content in columns.items()}
        shown = {**form, "fields": list(columns), "contents": list(columns.values())}
        return self.schemaclass(shown, version)


def _path(column: str) -> str:
    """Return the path that ROOT gives a branch of a split object: ``Jet/Jet.PT``."""
    branch = _SPLIT_BRANCH.fullmatch(column)
    return f"{branch['object']}/{column}" if branch else column


def _jagged(columns: dict[str, Any]) -> list[str]:
    return [name for name, form in columns.items() if form["class"].startswith("ListOffset")]


def _counter(column: str) -> str:
    """Return the name of the counter that the writer gives to a jagged column."""
    return f"n{column}"


def _add_sizes(columns: dict[str, Any]) -> None:
    """Add the size of each Delphes collection, as a copy of the counter of one of its columns."""
    for column in _jagged(columns):
        if _counter(column) in columns:
            size = f"{_path(column).partition('/')[0]}_size"
            columns.setdefault(size, copy.deepcopy(columns[_counter(column)]))


def _add_counters(columns: dict[str, Any], schemaclass: Any) -> None:
    """Add the counters of collections that a NanoAOD schema looks for, as copies of others."""
    for collection in sorted(_counted_collections(columns, schemaclass)):
        own = [_counter(name) for name in _jagged(columns) if name.startswith(f"{collection}_")]
        counter = next((name for name in own if name in columns), None)
        if counter is not None:
            columns.setdefault(f"n{collection}", copy.deepcopy(columns[counter]))


def _counted_collections(columns: dict[str, Any], schemaclass: Any) -> set[str]:
    """Return the collections of which a NanoAOD schema needs the number of entries."""
    references = cross_references(schemaclass).items()
    filled = {name for column, name in filled_columns(schemaclass).items() if column not in columns}
    return {
        *(collection for column, collection in references if column in columns),
        *(collection for counts, collection in nested_counts(schemaclass) if counts in columns),
        *(name for name in filled if any(column.startswith(f"{name}_") for column in columns)),
    }


def collection_columns(form: Any) -> tuple[tuple[str, ...], ...]:
    """Return groups of columns that events combine into a collection.

    coffea combines them without a check: in each event, the columns of a group must have the same
    number of entries. coffea takes that number from the first column of the group.

    Parameters
    ----------
    form : awkward.forms.Form
        Form of the events.
    """
    groups: dict[str, dict[str, None]] = {}
    _group_columns(form, groups)
    return tuple((first, *others) for first, others in groups.items() if others)


def _group_columns(form: Any, groups: dict[str, dict[str, None]]) -> None:
    if form.is_record:
        for content in form.contents:
            _group_columns(content, groups)
    elif form.is_list:
        first = loaded_column(form)
        if first is not None and form.content.is_record:
            entries = filter(None, map(loaded_column, form.content.contents))
            others = groups.setdefault(first, {})
            others.update((column, None) for column in entries if column != first)
    elif form.is_option or form.is_indexed:
        _group_columns(form.content, groups)


def physlite_collection(column: str) -> str:
    """Return the name that PHYSLITESchema gives to the collection of a column."""
    container = column.partition(".")[0]
    return container.replace("Analysis", "").replace("AuxDyn", "").replace("Aux", "")


def enumerated(names: list[str]) -> str:
    """Return names as part of a sentence: ``pt, eta and phi``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
