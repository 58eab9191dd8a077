"""What coffea makes of the delivered columns, and what it will miss in them."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from coffea.nanoevents import (
    DelphesSchema,
    NanoAODSchema,
    PHYSLITESchema,
    ScoutingNanoAODSchema,
    TreeMakerSchema,
)
from coffea.nanoevents.factory import _map_schema_uproot
from coffea.nanoevents.mapping.uproot import _lazify_form
from coffea.nanoevents.util import quote

from ..errors import BadInput, FormError
from .output_form import OutputForm
from .writers import TREENAME

# What the checks of coffea's vector behaviours say, and the columns that would satisfy them.
_WANTS = (
    (re.compile(r"requires the '(?P<column>\w+)' field"), None),
    (re.compile("missing azimuthal"), ("pt", "phi")),
    (re.compile("missing longitudinal"), ("eta",)),
    (re.compile("missing temporal"), ("mass",)),
)
# What columns are called that are not called pt, eta, phi and mass.
_SCOUTING = {"mass": "m"}
_PHYSLITE = {"mass": "m"}
_PHYSLITE_TRUTH = {"pt": "px", "phi": "py", "eta": "pz", "mass": "e"}
# These would make a collection, nJet, of the counter of a column Jet.PT.
_WITHOUT_COUNTERS = (DelphesSchema, PHYSLITESchema, TreeMakerSchema)
# These know a branch of a split object by its path in the experiment's files.
_BY_PATH = (DelphesSchema, TreeMakerSchema)
_OF_SPLIT_OBJECT = re.compile(r"(?P<parent>[A-Za-z_]\w*)\.[\w.\[\]]+")


@dataclass(frozen=True, slots=True)
class SchemaOfDelivered:
    """A schema that finds, in what is delivered, what it knows of the experiment's own files.

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
        """Apply the schema to a form, as coffea applies one."""
        columns = dict(zip(form["fields"], form["contents"], strict=True))
        if _is_a(self.schemaclass, NanoAODSchema):
            columns = _with_counters(columns, self.schemaclass)
        if _is_a(self.schemaclass, DelphesSchema):
            columns = _with_sizes(columns)
        if _is_a(self.schemaclass, *_WITHOUT_COUNTERS):
            counters = set(map(_counter, _jagged(columns)))
            columns = {name: c for name, c in columns.items() if name not in counters}
        if _is_a(self.schemaclass, *_BY_PATH):
            columns = {_path(name): content for name, content in columns.items()}
        shown = {**form, "fields": list(columns), "contents": list(columns.values())}
        return self.schemaclass(shown, version)


class FormMapping(_map_schema_uproot):
    """coffea's mapping of columns to events, which travels as the name of its schema.

    The behaviours of a schema are hundreds of functions that pickle would copy into every task.
    """

    def __init__(self, schemaclass: Any, metadata: Mapping[str, Any] | None) -> None:
        super().__init__(
            schemaclass=_adapted(schemaclass),
            behavior=dict(schemaclass.behavior()),
            metadata=None if metadata is None else dict(metadata),
            version="latest",
        )
        self._made_of = (schemaclass, metadata)

    def __call__(self, form: Any) -> Any:
        """Return the form of events that are made of columns, and what loads their buffers."""
        import awkward as ak

        # coffea's schemas, as those of users may, write into the form that they are given.
        form = copy.deepcopy(form)
        columns = {
            name: _loaded(content, f"{name},!load", content.parameters)
            for name, content in zip(form.fields, form.contents, strict=True)
        }
        shown = {
            "class": "RecordArray",
            "fields": list(columns),
            "contents": list(columns.values()),
            "parameters": {"__doc__": form.parameters["__doc__"], "metadata": self.metadata},
            "form_key": None,
        }
        return ak.forms.from_dict(self.schemaclass(shown, self.version).form), self

    def __reduce__(self) -> tuple[Any, ...]:
        return FormMapping, self._made_of


def _loaded(form: Any, key: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write into a form where the buffers of each part come from, as coffea does.

    coffea knows no missing values: here they are an array of indices, of which -1 is none.
    """
    if form.is_option:
        about = {name: about[name] for name in ("__doc__", "typename") if name in about}
        return {
            "class": "IndexedOptionArray",
            "index": "i64",
            "content": _loaded(form.content, f"{key},!content", about),
            "parameters": dict(about),
            "form_key": quote(f"{key},!index"),
        }
    if form.is_list and not form.is_regular and _has_options(form.content):
        return {
            **form.to_dict(),
            "content": _loaded(form.content, f"{key},!content", about),
            "form_key": quote(key),
        }
    return dict(
        _lazify_form(form.to_dict(), key, docstr=about["__doc__"], typestr=about["typename"])
    )


def _has_options(form: Any) -> bool:
    if form.is_record:
        return any(map(_has_options, form.contents))
    return form.is_option or ((form.is_list or form.is_indexed) and _has_options(form.content))


def collections(form: Any) -> tuple[tuple[str, ...], ...]:
    """Return the columns that events take for columns of one collection.

    They are laid side by side without looking: entry by entry they must be of the same lists. The
    first of each group says how long the lists are.

    Parameters
    ----------
    form : awkward.forms.Form
        Of events.
    """
    groups: dict[str, dict[str, None]] = {}
    _collect(form, groups)
    return tuple((first, *others) for first, others in groups.items() if others)


def _collect(form: Any, groups: dict[str, dict[str, None]]) -> None:
    if form.is_record:
        for content in form.contents:
            _collect(content, groups)
    elif form.is_list:
        first = _column_of(form)
        if first is not None and form.content.is_record:
            entries = filter(None, map(_column_of, form.content.contents))
            others = groups.setdefault(first, {})
            others.update((column, None) for column in entries if column != first)
    elif form.is_option or form.is_indexed:
        _collect(form.content, groups)


def _column_of(form: Any) -> str | None:
    """Return the column that a part of events is read from: coffea writes it into form keys."""
    column, _, rest = unquote(form.form_key or "").partition(",")
    return column if rest.startswith("!load") else None


def form_mapping(
    delivered: OutputForm, schemaclass: Any, metadata: Mapping[str, Any] | None = None
) -> Any:
    """Return what makes coffea's events of delivered columns.

    Parameters
    ----------
    delivered : OutputForm
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
        what = "does not work in dask mode"
        if not isinstance(schemaclass, type):
            what = "is no class: give that itself, as in schemaclass=NanoAODSchema"
        raise BadInput(f"The schema {schemaclass!r} {what}.")
    if "" in delivered.columns:
        raise FormError(
            'The delivered column has no name: name it, Select(lambda e: {"pt": e["Muon_pt"]}). '
            "A list that is the only column loses its name: ask for another column beside it."
        )
    _check_event_ids(delivered, schemaclass)
    mapping = FormMapping(schemaclass, metadata)
    try:
        _apply(mapping, delivered)
    except Exception as error:
        # Schemas are code of coffea or of the user.
        raise FormError(
            f"{schemaclass.__name__} cannot make events of what the query delivers: "
            f"{_said(error)} The columns are {', '.join(delivered.columns)}."
        ) from error
    return mapping


def missing(delivered: OutputForm, mapping: Any) -> list[str]:
    """Say what the behaviours of the events will miss, and what the writer will replace.

    Parameters
    ----------
    delivered : OutputForm
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
        complaint = _complaint(content, mapping.behavior)
        if complaint is None:
            continue
        wanted = _wanted_by(content, mapping.behavior)
        names = _columns_of(field, wanted, delivered, mapping.schemaclass)
        if names:
            sentences.append(f"events.{field} needs {_listed(names)}: add that to the query.")
        else:
            sentences.append(f"events.{field} cannot be used: {complaint}.")
    return (
        sentences
        + _taken_for_counters(form, delivered, mapping.schemaclass)
        + list(map(_replaced, delivered.clashes))
    )


def _replaced(column: str) -> str:
    """Say what the writer puts in the place of a column."""
    if column == TREENAME:
        return (
            f"events have no {column!r}: in the delivered Parquet file that is the name of the "
            f'tree. Deliver it by another name, {{"aliases": {{"label": "{column}"}}, '
            '"expressions": ["label", ...]}, or take another result_format.'
        )
    return (
        f"{column!r} counts the entries of {column[1:]!r} in the delivered TTree, whatever the "
        "query gives it: rename the one or the other."
    )


def _taken_for_counters(form: Any, delivered: OutputForm, schemaclass: Any) -> list[str]:
    """Name the columns that a schema drops because they are called as counters are."""
    schemaclass = getattr(schemaclass, "schemaclass", schemaclass)
    if not _is_a(schemaclass, NanoAODSchema):
        return []
    counters = set(delivered.counters)
    called_so = [c for c in delivered.columns if c.startswith("n") and "_" in c]
    return [
        f"events has no {column}, which is taken for a counter by its name: call it otherwise."
        for column in called_so
        if column not in counters and column not in form.fields
    ]


def _apply(mapping: Any, delivered: OutputForm) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said again, once, where the events are made
        form, _ = mapping(delivered.events_form)
    return form


def _is_a(schemaclass: Any, *kinds: Any) -> bool:
    return isinstance(schemaclass, type) and issubclass(schemaclass, kinds)


def _check_event_ids(delivered: OutputForm, schemaclass: Any) -> None:
    if not _is_a(schemaclass, NanoAODSchema) or not schemaclass.error_missing_event_ids:
        return
    lacking = [name for name in schemaclass.event_ids if name not in delivered.columns]
    if lacking:
        raise FormError(
            f"{schemaclass.__name__} needs {_listed(lacking)}, which the query does not deliver: "
            f"add that to the query, or set {schemaclass.__name__}.error_missing_event_ids = "
            "False."
        )


def _adapted(schemaclass: Any) -> Any:
    """Return what is applied in place of a schema that knows the files of an experiment."""
    if _is_a(schemaclass, NanoAODSchema, *_WITHOUT_COUNTERS):
        return SchemaOfDelivered(schemaclass)
    # One of the user's own sees the columns of the file, as from_root would show them to it.
    return schemaclass


def _said(error: Exception) -> str:
    """Write the message of a schema's error as a sentence."""
    said = f"it misses {error}" if isinstance(error, KeyError) else str(error).strip()
    return said if said.endswith(".") else f"{said}."


def _path(column: str) -> str:
    """Return where ROOT puts a branch of a split object: ``Jet.PT`` below ``Jet``."""
    split = _OF_SPLIT_OBJECT.fullmatch(column)
    return f"{split['parent']}/{column}" if split else column


def _jagged(columns: dict[str, Any]) -> list[str]:
    return [name for name, form in columns.items() if form["class"].startswith("ListOffset")]


def _counter(column: str) -> str:
    """Name the counter that the writer gives a jagged column, instead of any other so called."""
    return f"n{column}"


def _with_sizes(columns: dict[str, Any]) -> dict[str, Any]:
    """Add the number of entries of each Delphes collection, of a counter of one of its columns."""
    sized = dict(columns)
    for column in _jagged(columns):
        if _counter(column) in columns:
            size = f"{_path(column).partition('/')[0]}_size"
            sized.setdefault(size, copy.deepcopy(columns[_counter(column)]))
    return sized


def _with_counters(columns: dict[str, Any], schemaclass: Any) -> dict[str, Any]:
    """Add the counters that the schema will look for, as copies of those that there are."""
    columns = dict(columns)
    for collection in sorted(_counted(columns, schemaclass)):
        counter = f"n{collection}"
        of_collection = [name for name in _jagged(columns) if name.startswith(f"{collection}_")]
        own = [_counter(name) for name in of_collection if _counter(name) in columns]
        if counter not in columns and own:
            columns[counter] = copy.deepcopy(columns[own[0]])
    return columns


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


def _columns_of(
    collection: str, wanted: list[str], delivered: OutputForm, schemaclass: Any
) -> list[str]:
    """Name the columns of the input that a collection wants; none where names cannot be known."""
    schemaclass = getattr(schemaclass, "schemaclass", schemaclass)
    if _is_a(schemaclass, NanoAODSchema):
        prefix, names = f"{collection}_", _nanoaod_names(collection, schemaclass)
    elif _is_a(schemaclass, PHYSLITESchema):
        of_collection = [c for c in delivered.columns if _physlite_collection(c) == collection]
        is_truth = schemaclass.mixins.get(collection) == "TruthParticle"
        prefix = f"{of_collection[0].partition('.')[0]}."
        names = _PHYSLITE_TRUTH if is_truth else _PHYSLITE
    else:
        return []
    columns = [prefix + names.get(quantity, quantity) for quantity in wanted]
    return [column for column in columns if column not in delivered.columns]


def _nanoaod_names(collection: str, schemaclass: Any) -> dict[str, str]:
    """Return the names of the masses of leptons and photons in scouting data, which differ."""
    is_jet = schemaclass.mixins.get(collection) in ("Jet", "FatJet")
    is_scouting = _is_a(schemaclass, ScoutingNanoAODSchema)
    return _SCOUTING if is_scouting and collection.startswith("Scouting") and not is_jet else {}


def _physlite_collection(column: str) -> str:
    """Name the collection of a column as the schema does."""
    container = column.partition(".")[0]
    return container.replace("Analysis", "").replace("AuxDyn", "").replace("Aux", "")


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
