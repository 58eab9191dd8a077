"""Private API of coffea."""

from __future__ import annotations

from typing import Any

from coffea.nanoevents import NanoEventsFactory


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
