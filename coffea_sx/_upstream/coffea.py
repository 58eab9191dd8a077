"""Private and undocumented API of coffea, tested with coffea 2026.9.0."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from coffea.nanoevents import NanoEventsFactory
from coffea.nanoevents.factory import _map_schema_uproot
from coffea.nanoevents.mapping.preloaded import PreloadedOpener, PreloadedSourceMapping
from coffea.nanoevents.mapping.uproot import _lazify_form
from coffea.nanoevents.util import quote, tuple_to_key, unquote
from coffea.util import _is_interpretable

SchemaMapping = _map_schema_uproot
"""Mapping of a form of columns to a form of events, which also loads the buffers of the events.

``NanoEventsFactory.from_root`` makes it of a schema and gives it to ``uproot.dask``. Here it is
made before any file exists. A public constructor of coffea would replace it.
"""


def lazy_form(form: Any, key: str, title: str, typename: str) -> dict[str, Any]:
    """Return the form of a column, with form keys from which coffea loads each buffer.

    Each column of `SchemaMapping` has such a form. A public ``SchemaMapping`` with a form of
    missing values would replace it.

    Parameters
    ----------
    form : awkward.forms.Form
    key : str
        Unquoted form key of the column, ``"Muon_pt,!load"``.
    title, typename : str
        Documentation of the column.
    """
    return dict(_lazify_form(form.to_dict(), key, docstr=title, typestr=typename))


def form_key(key: str) -> str:
    """Quote a form key as `lazy_form` does: it is part of a path.

    Needed for forms that `lazy_form` does not make, those of missing values.
    """
    return str(quote(key))


def loaded_column(form: Any) -> str | None:
    """Return the column that a part of events is read from, or None if it is calculated.

    Form keys are the only place where coffea records this. A public function of coffea that
    lists the columns of a form would replace it.
    """
    column, _, rest = unquote(form.form_key or "").partition(",")
    return column if rest.startswith("!load") else None


def is_interpretable(branch: Any, *, warns: bool = True) -> bool:
    """Return True if coffea reads a branch; ``from_root`` leaves out all others.

    Forms have to have the columns that ``from_root`` would show. A public filter of coffea would
    replace it.

    Parameters
    ----------
    branch : uproot.TBranch or RNTuple field
    warns : bool
        Warn of a branch that is left out.
    """
    return bool(_is_interpretable(branch, emit_warning=warns))


def supports_dask(schemaclass: Any) -> bool:
    """Return True if a schema works with ``mode="dask"``.

    A public attribute of coffea's schemas would replace ``__dask_capable__``.
    """
    return bool(getattr(schemaclass, "__dask_capable__", False))


def cross_references(schemaclass: Any) -> dict[str, str]:
    """Return index columns of NanoAOD, each with the collection it points into.

    Needed to warn of indices into lists that a query cuts, and to add the counters of these
    collections. There is no documented list of them.
    """
    return dict(schemaclass.all_cross_references)


def nested_counts(schemaclass: Any) -> list[tuple[str, str]]:
    """Return columns of NanoAOD that count entries of another collection, with the collection.

    Needed for the same reasons as `cross_references`.
    """
    return list(schemaclass.nested_index_items.values())


def filled_columns(schemaclass: Any) -> dict[str, str]:
    """Return columns that a NanoAOD schema fills with a constant, each with its collection.

    The schema fills them only if the collection has a counter.
    """
    items = schemaclass.full_like_items.items()
    return {column: offsets[1:] for column, (_, (offsets, *_)) in items}


def mixin(schemaclass: Any, collection: str) -> str | None:
    """Return the name of the behaviour of a collection, or None if the schema names none.

    Needed to name the column in which an experiment keeps a mass or an energy.
    """
    name: str | None = schemaclass.mixins.get(collection)
    return name


def truth_collections(schemaclass: Any) -> list[str]:
    """Return the collections of PHYSLITE that links between truth particles may point into."""
    return list(schemaclass.truth_collections)


class DaskEventsFactory(NanoEventsFactory):
    """A coffea factory whose events are made by a function.

    What: the constructor of ``NanoEventsFactory`` and its attributes ``_mapping`` and ``_schema``.
    In dask mode, ``events()`` calls ``mapping(form_mapping=schema)``.
    Why: coffea has constructors for files and arrays only, not for a function that makes events.
    Tested with: coffea 2026.9.
    Public replacement: a ``NanoEventsFactory.from_mapping(mapping, form_mapping, mode="dask")``.
    """

    @classmethod
    def _of(cls, form_mapping: Any, source: Any) -> Any:
        """Make a factory whose ``events()`` calls ``source(form_mapping=form_mapping)``."""
        return cls(form_mapping, source, None, mode="dask")

    @property
    def _form_mapping(self) -> Any:
        return self._schema

    @property
    def _source(self) -> Any:
        return self._mapping


class ColumnEventsFactory(NanoEventsFactory):
    """A coffea factory of events that are made of columns, read when they are touched.

    What: the constructor of ``NanoEventsFactory``, and ``PreloadedSourceMapping``, whose columns
    may be any objects that can be sliced; its attribute ``_virtual``.
    Why: ``from_preloaded`` derives the form from the columns, which would read them.
    Tested with: coffea 2026.9.
    Public replacement: a ``from_preloaded`` that takes a form, with ``mode="virtual"``.
    """

    @classmethod
    def of(
        cls,
        form: Any,
        behavior: Any,
        columns: Any,
        n_events: int,
        name: str,
        *,
        access_log: list[Any] | None,
        buffer_cache: Any,
    ) -> Any:
        """Make a factory whose ``events()`` reads columns when they are touched.

        Parameters
        ----------
        form : awkward.forms.Form
            Form of the events, made by a `SchemaMapping`.
        behavior : mapping
        columns : mapping of str to object
            Slicing an object reads the column.
        n_events : int
        name : str
            Identifies the events in ``buffer_cache``.
        access_log : list, optional
            Gets a record of each column that is touched.
        buffer_cache : mutable mapping, optional
            Holds the buffers that were read.
        """
        uuid = str(uuid5(NAMESPACE_URL, name))
        opener = PreloadedOpener({uuid: name})
        mapping = PreloadedSourceMapping(
            opener, 0, n_events, access_log=access_log, buffer_cache=buffer_cache
        )
        mapping._virtual = True
        mapping.preload_column_source(uuid, "events", columns)
        key = tuple_to_key((uuid, "events", f"0-{n_events}"))
        return cls(SimpleNamespace(form=form, behavior=lambda: behavior), mapping, key, "virtual")
