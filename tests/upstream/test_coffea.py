"""Canaries: the private API of coffea is as `coffea_sx._upstream.coffea` expects it."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import awkward as ak
import dask_awkward as dak

from coffea_sx._upstream.coffea import DaskEventsFactory


def make_events(n_events: int, form_mapping: Any) -> Any:
    return dak.from_awkward(ak.Array({form_mapping: list(range(n_events))}), npartitions=1)


def test_a_dask_events_factory_calls_its_source_with_the_form_mapping() -> None:
    factory = DaskEventsFactory._of("x", source := partial(make_events, 3))
    assert (factory._source, factory._form_mapping) == (source, "x")
    events = factory.events()
    assert isinstance(events, dak.Array)
    assert events.x.compute(scheduler="synchronous").to_list() == [0, 1, 2]


def test_a_dask_events_factory_keeps_its_source_when_it_is_pickled() -> None:
    factory = pickle.loads(pickle.dumps(DaskEventsFactory._of("x", partial(make_events, 2))))
    assert len(factory.events().x.compute(scheduler="synchronous")) == 2
