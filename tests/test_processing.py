"""Processing one sample or several: as files arrive, by Runner, and as filesets of coffea."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import awkward as ak
import dask
import pytest
from coffea.dataset_tools import DataGroupSpec, apply_to_fileset, preprocess, split_fileset
from coffea.processor import FuturesExecutor, IterativeExecutor, ProcessorABC, Runner
from servicex import query as sx_query
from support.paces import FAST

import coffea_sx
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.errors import BadInput
from coffea_sx.local import LocalServiceX

Submit = Callable[..., Any]


@pytest.fixture(scope="module")
def samples(servicex: LocalServiceX, nano_files: list[str]) -> Any:
    """Two samples, of which one has other columns."""
    more = (
        sx_query.FuncADL_Uproot()
        .FromTree("Events")
        .Select(
            lambda e: {
                "run": e["run"],
                "luminosityBlock": e["luminosityBlock"],
                "event": e["event"],
                "MET_pt": e["MET_pt"],
                "MET_phi": e["MET_phi"],
            }
        )
    )
    spec = {
        "Sample": [
            {"Name": "dy", "Dataset": _files(nano_files[:3]), "Query": dimuon_query()},
            {"Name": "met", "Dataset": _files(nano_files[3:5]), "Query": more},
        ]
    }
    return coffea_sx.from_spec(
        spec, url=servicex.url, schemaclass=SelectionSchema, pace=FAST, metadata={"year": 2018}
    )


def _files(paths: list[str]) -> Any:
    from servicex import dataset

    return dataset.FileList(list(paths))


class Numbers(ProcessorABC):  # type: ignore[misc]
    """Counts the events of each sample."""

    def process(self, events: Any) -> dict[str, dict[str, int]]:
        return {"n": {events.metadata["dataset"]: len(events)}}

    def postprocess(self, accumulator: Any) -> Any:
        return {**accumulator, "done": True}


# -- results that grow


@pytest.mark.sampled(2)
@pytest.mark.parametrize("result_format", ["root-file", "parquet"])
def test_the_last_result_is_that_of_runner(submit: Submit, result_format: str) -> None:
    factory = submit(result_format=result_format, ignore_cache=True)
    results = list(factory.accumulate(DimuonProcessor()))
    result, counts = results[-1]
    assert counts == factory.counts == (counts.__class__(8, 8, 0))
    with ThreadPoolExecutor(2) as executor:
        runner = Runner(
            FuturesExecutor(pool=factory.pool(executor), status=False),
            schema=factory.schema,
            format="parquet" if result_format == "parquet" else "root",
        )
        assert result == runner.run(factory.work_items(), DimuonProcessor())["out"]


def test_results_grow(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coffea_sx.work.accumulation.PAUSE_S", 0.0)
    factory = submit(metadata={"dataset": "dy"})
    sums = [dict(result["n"]) for result, _ in factory.accumulate(Numbers())]
    totals = [result["dy"] for result in sums]
    assert len(totals) == 8
    assert totals == sorted(totals)
    assert totals[-1] == len(factory)
    assert [("done" in result) for result, _ in factory.accumulate(Numbers())][-1]


def test_leaving_early_ends_all_threads(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coffea_sx.work.accumulation.PAUSE_S", 0.0)
    growing = submit(ignore_cache=True).accumulate(lambda events: {"n": len(events)})
    next(growing)
    growing.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [n for n in names if n.startswith(("coffea_sx-pool", "coffea_sx-accumulate"))]


def test_what_a_processor_raises(submit: Submit) -> None:
    def wrong(events: Any) -> Any:
        raise ZeroDivisionError("by the user")

    with pytest.raises(ZeroDivisionError, match="by the user"):
        list(submit().accumulate(wrong))
    with pytest.raises(BadInput, match="processor="):
        list(submit().accumulate("processor"))


# -- several samples


def test_samples_arrive_together(samples: Any) -> None:
    assert list(samples) == ["dy", "met"]
    found = {(e.metadata["dataset"], e.metadata["partition"]) for e in samples.as_completed()}
    assert found == {("dy", 0), ("dy", 1), ("dy", 2), ("met", 0), ("met", 1)}
    # The same of a plain dict of factories.
    again = coffea_sx.as_completed(dict(samples))
    assert {(e.metadata["dataset"], e.metadata["partition"]) for e in again} == found


def test_one_runner_for_all_samples(samples: Any) -> None:
    with ThreadPoolExecutor(2) as executor:
        runner = Runner(
            FuturesExecutor(pool=samples.pool(executor), status=False), schema=samples.schema
        )
        out = runner.run(samples.work_items(), Numbers())["out"]
    assert out["n"] == {name: len(factory) for name, factory in samples.items()}
    result, counts = list(samples.accumulate(Numbers()))[-1]
    assert (result["n"], counts.total, counts.delivered) == (out["n"], 5, 5)


# -- filesets


def test_filesets_are_valid(samples: Any, nano_files: list[str]) -> None:
    lengths = {name: len(factory) for name, factory in samples.items()}
    group = samples.to_fileset()
    assert isinstance(group, DataGroupSpec)
    assert {name: spec.num_entries for name, spec in group.items()} == lengths
    assert group["dy"].metadata == {"year": 2018}  # coffea's Runner adds the dataset
    assert group["dy"].form == samples["dy"].form
    again = DataGroupSpec(json.loads(group.model_dump_json()))
    assert again == group
    (first, *_) = group["dy"].files
    assert first == samples["dy"].work_items()[0].filename


def test_filesets_are_applied(samples: Any) -> None:
    group = DataGroupSpec({"dy": samples["dy"].to_fileset()["dy"]})
    applied = apply_to_fileset(total, group, schemaclass=samples["dy"].schema)
    (out,) = dask.compute(applied, scheduler="threads")
    assert out["dy"] == len(samples["dy"])


@pytest.mark.parametrize("result_format", ["root-file", "root-rntuple"])
def test_filesets_go_the_ways_of_coffea(submit: Submit, result_format: str) -> None:
    factory = submit(metadata={"dataset": "dy", "year": 2018}, result_format=result_format)
    n_events = len(factory.events().event.compute(scheduler="synchronous"))
    group = factory.to_fileset()
    assert group.num_entries == n_events
    runner = Runner(IterativeExecutor(), schema=factory.schema)
    for fileset in (group.model_dump(), json.loads(group.model_dump_json())):
        out = runner.run(fileset, Numbers(), treename=factory.treename)
        assert out["out"]["n"] == {"dy": n_events}

    halves = split_fileset(group.model_dump(), percentage=50)
    assert [len(half["dy"]["files"]) for half in halves] == [4, 4]
    outs = [runner.run(half, Numbers(), treename=factory.treename)["out"] for half in halves]
    counts = [out["n"]["dy"] for out in outs]
    assert sum(counts) == n_events
    assert min(counts) > 0


def test_filesets_are_preprocessed(submit: Submit) -> None:
    factory = submit(metadata={"dataset": "dy"})
    n_events = len(factory.events().event.compute(scheduler="synchronous"))
    without_steps = dict.fromkeys(factory.to_fileset()["dy"].files, factory.treename)
    for group in (factory.to_fileset(), DataGroupSpec({"dy": {"files": without_steps}})):
        prepared, complete = preprocess(group, step_size=100, scheduler="synchronous")
        assert list(prepared) == list(complete) == ["dy"]
        assert prepared.num_entries == n_events
        applied = apply_to_fileset(total, prepared, schemaclass=factory.schema)
        assert dask.compute(applied, scheduler="threads")[0]["dy"] == n_events


def total(events: Any) -> Any:
    return ak.num(events, axis=0)


def test_filesets_before_delivery(submit: Submit) -> None:
    group = submit(ignore_cache=True, metadata={"dataset": "dy"}).to_fileset()
    assert len(group["dy"].files) == 8
    assert group.num_entries is None or group.num_entries > 0
