"""Samples of the demo, and executors for their work items."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from coffea.nanoevents import NanoEventsFactory
from support.runner import Submit

from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema
from coffea_sx.work.grants import Grant
from coffea_sx.work.schema import packed


@pytest.fixture(scope="module")
def submit(submit: Submit) -> Submit:
    """`from_servicex` with the demo's query on the session's files, as a sample with a name."""
    return partial(submit, metadata={"dataset": "dy"})


@pytest.fixture(scope="module")
def expected(nano_files: list[str]) -> Any:
    """The histograms, from the input files."""
    parts = [
        NanoEventsFactory.from_root({path: "Events"}, schemaclass=SelectionSchema).events()
        for path in nano_files
    ]
    results = [DimuonProcessor().process(events) for events in parts]
    return {name: sum(result[name] for result in results) for name in results[0]}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def client() -> Iterator[Any]:
    from distributed import Client

    options = {"dashboard_address": None, "n_workers": 2, "threads_per_worker": 1}
    with Client(**options) as client:
        yield client


@pytest.fixture
def grant(submit: Submit) -> Grant:
    """Permission to read the first file, as a worker gets it."""
    factory = submit()
    part = factory._source.part(0)
    url = part.handle.results.signed_url(part.delivered.object_name)
    form = packed(factory._source.output_form)
    return Grant(factory.request_id, part.delivered, url, form, part.delivered.n_events)
