"""Virtual and eager events: the same as in dask mode, read when they are touched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import numpy as np
import pytest
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from hypothesis import given, settings
from hypothesis import strategies as st
from servicex import query as sx_query
from support.paces import FAST
from support.spoiled import N_EVENTS, spoil_result

from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.errors import (
    BadInput,
    CorruptFile,
    FormMismatch,
    LengthMismatch,
    TransformFailed,
)
from coffea_sx.local import LocalServiceX
from coffea_sx.virtual.parts import OpenFiles

FORMATS = ("root-file", "root-rntuple", "parquet")
Submit = Callable[..., Any]


@pytest.fixture(scope="module")
def submit(submit: Submit) -> Submit:
    """`from_servicex` in virtual mode with the demo's query on the session's files."""
    return partial(submit, mode="virtual")


@pytest.fixture(scope="module")
def expected(submit: Submit) -> Any:
    """The events of the demo's query, computed with dask."""
    return submit(mode="dask").events().compute(scheduler="synchronous")


def same(found: Any, expected: Any) -> bool:
    return bool(ak.array_equal(ak.materialize(found), expected, check_parameters=False))


def raw_query(*columns: str) -> Any:
    return sx_query.UprootRaw({"treename": "Events", "filter_name": list(columns)})


def touched(log: list[Any]) -> set[str]:
    return {access.branch for access in log}


# -- what events are


@pytest.mark.sampled(4)
@pytest.mark.parametrize("result_format", FORMATS)
@pytest.mark.parametrize("mode", ["virtual", "eager"])
def test_events_are_those_of_dask_mode(
    submit: Submit, expected: Any, result_format: str, mode: str
) -> None:
    events = submit(mode=mode, result_format=result_format).events()
    assert isinstance(events, ak.Array)
    assert events.type == expected.type
    assert same(events, expected)
    assert [type(events.Muon[0]), events.behavior] == [type(expected.Muon[0]), expected.behavior]


def test_one_processor_runs_in_all_modes(submit: Submit, nano_files: list[str]) -> None:
    processor = DimuonProcessor()
    of_root = NanoEventsFactory.from_root(
        dict.fromkeys(nano_files, "Events"), mode="dask", schemaclass=SelectionSchema
    ).events()
    (direct,) = dask.compute(processor.process(of_root), scheduler="synchronous")
    assert processor.process(submit().events()) == direct
    assert direct["mass"].sum() > 1000


def test_only_what_is_touched_is_read(submit: Submit, servicex: LocalServiceX) -> None:
    log: list[Any] = []
    factory = submit(access_log=log, metadata={"dataset": "dy"}, ignore_cache=True)
    events = factory.events()
    objects = f"/{factory.request_id}"
    assert not [e for e in servicex.exchanges if e.path.startswith(objects)]
    assert not log
    assert events.metadata["dataset"] == "dy"
    ak.materialize(events.Muon.pt)
    assert touched(log) == {"Muon_pt"}
    assert len([e for e in servicex.exchanges if e.path.startswith(objects)]) == 8
    assert "@events_factory" in events.attrs
    assert events.attrs["@events_factory"].access_log is log


def test_events_are_made_once_while_they_are_held(submit: Submit) -> None:
    factory = submit()
    assert factory.events() is factory.events()


def test_preloaded_columns_are_read_together(
    submit: Submit, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[list[str]] = []
    read = OpenFiles.read

    def noted(self: Any, part: Any, columns: Any, *limits: Any) -> Any:
        names.append(list(columns))
        return read(self, part, columns, *limits)

    monkeypatch.setattr(OpenFiles, "read", noted)
    for preload in (["Muon_pt", "event"], lambda branch: branch.name in ("Muon_pt", "event")):
        names.clear()
        events = submit(preload=preload).events()
        ak.materialize(events.Muon.pt)
        ak.materialize(events.event)
        assert names == [["event", "Muon_pt"]] * 8
        assert same(events.Muon.pt, expected.Muon.pt)


def test_buffers_are_kept_in_a_cache(submit: Submit, expected: Any) -> None:
    cache: dict[str, Any] = {}
    assert same(submit(buffer_cache=cache).events().event, expected.event)
    assert cache
    assert all(isinstance(buffer, np.ndarray) for buffer in cache.values())
    log: list[Any] = []
    assert same(submit(buffer_cache=cache, access_log=log).events().event, expected.event)
    assert not log


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.none() | st.integers(-9000, 9000), st.none() | st.integers(-9000, 9000))
def test_a_range_of_events_is_a_slice(
    submit: Submit, expected: Any, start: int | None, stop: int | None
) -> None:
    events = submit(entry_start=start, entry_stop=stop).events()
    assert same(events.event, expected.event[start:stop])
    assert same(events.Muon.pt, expected.Muon.pt[start:stop])


def test_missing_values_and_empty_files(submit: Submit, nano_files: list[str]) -> None:
    query = (
        sx_query.FuncADL_Uproot()
        .FromTree("Events")
        .Where(lambda e: e["event"] < 700)
        .Select(lambda e: {"event": e["event"], "leading": e["Muon_pt"].Max()})
    )
    options = {"result_format": "parquet", "schemaclass": BaseSchema}
    events = submit(query, **options).events()
    expected = submit(query, mode="dask", **options).events().compute(scheduler="synchronous")
    assert len(events) == 700
    assert same(events, expected)
    assert ak.any(ak.is_none(events.leading))
    nothing = submit(query.Where(lambda e: e["event"] < 0), nano_files[:2], **options).events()
    assert (len(nothing), nothing.leading.type.content) == (0, events.leading.type.content)


def test_the_length_of_a_factory(submit: Submit, expected: Any) -> None:
    factory = submit()
    assert factory
    assert len(factory) == len(expected)


# -- partitions


def test_partitions_have_their_input_file(
    submit: Submit, nano_files: list[str], expected: Any
) -> None:
    factory = submit(mode="dask", metadata={"dataset": "dy"})
    events = factory.partition(-1)
    where = {"dataset": "dy", "input_file": nano_files[-1], "partition": 7}
    assert events.metadata.items() >= where.items()
    assert same(events, expected[expected.event >= 7 * N_EVENTS])
    with pytest.raises(IndexError):
        factory.partition(8)
    with pytest.raises(BadInput, match="mode= must be 'virtual' or 'eager' here, got 'dask'"):
        factory.partition(0, mode="dask")


@pytest.mark.slow
def test_steps_of_a_file(submit: Submit, expected: Any) -> None:
    factory = submit(mode="dask", steps_per_file=3)
    parts = [factory.partition(i, mode="eager") for i in range(24)]
    assert same(ak.concatenate(parts), expected)


def test_partitions_come_as_they_are_delivered(submit: Submit, expected: Any) -> None:
    parts = list(submit(ignore_cache=True).as_completed(mode="eager"))
    assert sorted(part.metadata["partition"] for part in parts) == list(range(8))
    parts.sort(key=lambda part: part.metadata["partition"])
    assert same(ak.concatenate(parts), expected)


def test_partitions_come_without_blocking_an_event_loop(submit: Submit, expected: Any) -> None:
    async def lengths() -> list[int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        found = [len(events) async for events in submit(ignore_cache=True).as_completed()]
        ticking.cancel()
        assert ticks > 10
        return found

    assert sum(asyncio.run(lengths())) == len(expected)


# -- failures


def test_a_file_that_was_not_transformed(submit: Submit, one_corrupt: list[str]) -> None:
    with pytest.raises(TransformFailed, match="nano_5"):
        submit(dataset=one_corrupt).events()
    factory = submit(dataset=one_corrupt, on_failure="skip")
    events = factory.events()
    assert not np.any((events.event >= 5 * N_EVENTS) & (events.event < 6 * N_EVENTS))
    report = factory.report()
    assert [file.input_file for file in report.inputs if file.status == "failed"] == [
        one_corrupt[5]
    ]
    with pytest.raises(TransformFailed, match="nano_5"):
        factory.partition(5)
    assert len(list(factory.as_completed())) == 7
    (failure,) = (e for e in factory.as_completed(with_failures=True) if isinstance(e, Exception))
    assert one_corrupt[5] in str(failure)
    with pytest.raises(TransformFailed, match="max_failed=0"):
        submit(dataset=one_corrupt, on_failure="skip", max_failed=0).events()


def test_a_file_that_cannot_be_opened(tmp_path: Path, nano_files: list[str]) -> None:
    with LocalServiceX(tmp_path / "servicex") as server:
        options: dict[str, Any] = {
            "url": server.url,
            "pace": FAST,
            "schemaclass": SelectionSchema,
            "mode": "virtual",
        }
        factory = NanoEventsFactory.from_servicex(dimuon_query(), nano_files, **options)
        n_events = len(factory.events())
        mend = spoil_result(server, factory, 2)
        # Its number of events is known, so that it is not opened before a column is touched.
        events = NanoEventsFactory.from_servicex(dimuon_query(), nano_files, **options).events()
        assert len(events) == n_events
        with pytest.raises(CorruptFile, match="nano_2") as caught:
            ak.materialize(events.Muon.pt)
        assert caught.value.input_file == nano_files[2]
        skipping = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, on_failure="skip", **options
        )
        found = skipping.events()
        assert np.all((found.event < 2 * N_EVENTS) | (found.event >= 3 * N_EVENTS))
        failed = [file for file in skipping.report().inputs if file.status == "failed"]
        assert [file.input_file for file in failed] == [nano_files[2]]
        mend()
        assert len(ak.materialize(events.Muon.pt)) == n_events


def test_a_file_of_another_length(submit: Submit, nano_files: list[str]) -> None:
    factory = submit()
    parts = [factory._source.part(i) for i in range(3)]
    files = OpenFiles(factory._source.output_form)
    n_events = files.n_events(parts[0])
    with pytest.raises(LengthMismatch, match="nano_0") as caught:
        files.read(parts[0], ["event"], n_events + 1, 0, n_events + 1)
    assert (caught.value.facts["expected"], caught.value.facts["found"]) == (n_events + 1, n_events)
    assert caught.value.input_file == nano_files[0]


def test_columns_of_a_collection_have_equal_lengths(submit: Submit) -> None:
    query = (
        sx_query.FuncADL_Uproot()
        .FromTree("Events")
        .Select(
            lambda e: {
                "run": e["run"],
                "luminosityBlock": e["luminosityBlock"],
                "event": e["event"],
                "Muon_pt": e["Muon_pt"],
                "Muon_phi": e["Muon_phi"],
                "Muon_mass": e["Muon_mass"],
                "Muon_charge": e["Muon_charge"],
                "Muon_eta": e["Muon_eta"].Where(lambda eta: eta > 0),
            }
        )
    )
    events = submit(query).events()
    ak.materialize(events.Muon.pt)
    with pytest.raises(FormMismatch, match=r"Muon_pt.*Muon_eta.*nano_0.*same Where"):
        ak.materialize(events.Muon.eta)


def test_few_files_stay_open(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coffea_sx.virtual.parts.OPEN_COLUMNS", 1)
    factory = submit()
    files = OpenFiles(factory._source.output_form)
    lengths = [files.n_events(factory._source.part(i)) for i in range(8)]
    assert len(files._stacks) == 1
    assert sum(lengths) == len(factory)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "lazy"}, "'virtual', 'eager' or 'dask', got 'lazy'"),
        ({"mode": "dask", "entry_stop": 5}, "entry_stop= is for mode='virtual'"),
        ({"entry_start": 1.5}, "entry_start= must be the number of an event"),
        ({"steps_per_file": 2}, "steps_per_file= is for mode='dask'"),
        ({"access_log": ()}, "access_log= must be a list"),
    ],
)
def test_wrong_options(submit: Submit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        submit(**options)


def test_waiting_ends_with_the_transform(nano_files: list[str], tmp_path: Path) -> None:
    with LocalServiceX(tmp_path / "servicex") as server:
        factory = NanoEventsFactory.from_servicex(
            raw_query("event"), nano_files, url=server.url, schemaclass=BaseSchema, pace=FAST
        )
        factory.cancel()
        start = time.monotonic()
        with pytest.raises(Exception, match="cancel"):
            factory._source.events(factory._form_mapping)
        assert time.monotonic() - start < 30
