"""coffea's Runner on files that do not exist yet, with executors of many kinds."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import awkward as ak
import loky
import parsl
import pytest
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import DaskExecutor, FuturesExecutor, IterativeExecutor, Runner
from parsl.concurrent import ParslPoolExecutor
from parsl.executors import HighThroughputExecutor
from support.runner import FORMATS, Submit, run

from coffea_sx.demo.analysis import DimuonProcessor


@pytest.mark.sampled(2)
@pytest.mark.parametrize("result_format", FORMATS)
def test_threads(
    submit: Submit, threads: ThreadPoolExecutor, expected: Any, result_format: str
) -> None:
    factory = submit(result_format=result_format, ignore_cache=True)
    assert run(factory, threads)["out"] == expected
    assert [file.status for file in factory.report().inputs] == ["read"] * 8


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["processes", "loky"])
def test_processes(submit: Submit, expected: Any, kind: str) -> None:
    executor: Executor = (
        loky.ProcessPoolExecutor(2)
        if kind == "loky"
        else ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    )
    factory = submit(ignore_cache=True)
    with executor:
        assert run(factory, executor)["out"] == expected
    assert factory.report().n_events == len(factory)


def test_a_cluster(submit: Submit, expected: Any, client: Any) -> None:
    factory = submit(ignore_cache=True)
    with client.get_executor() as executor:
        assert run(factory, executor)["out"] == expected


@pytest.mark.sampled(2)
@pytest.mark.parametrize("result_format", ["root-file", "root-rntuple"])
def test_bare_addresses(submit: Submit, expected: Any, result_format: str) -> None:
    """Where items are run in the process that submitted, they need no pool."""
    factory = submit(result_format=result_format)
    runner = Runner(IterativeExecutor(status=False), schema=factory.schema)
    assert runner.run(factory.work_items(), DimuonProcessor())["out"] == expected


@pytest.mark.sampled(2)
@pytest.mark.parametrize("result_format", FORMATS[:2])
def test_dask_executor(
    submit: Submit, expected: Any, client: Any, nano_files: list[str], result_format: str
) -> None:
    """Workers of a cluster know the transform from the schema; files arrive meanwhile."""
    factory = submit(result_format=result_format, ignore_cache=True)
    runner = Runner(DaskExecutor(client=client, status=False), schema=factory.schema)
    assert runner.run(factory.work_items(), DimuonProcessor())["out"] == expected


@pytest.mark.slow
def test_parsl(
    submit: Submit, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its futures cannot be cancelled, which the pool does not need."""
    # It looks for its own commands there.
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", scripts, prepend=os.pathsep)
    config = parsl.Config(
        executors=[HighThroughputExecutor(max_workers_per_node=2, address="127.0.0.1")],
        run_dir=str(tmp_path / "parsl"),
        strategy="none",
        initialize_logging=False,
    )
    factory = submit(ignore_cache=True)
    with ParslPoolExecutor(config) as executor:
        assert run(factory, executor)["out"] == expected


def test_a_process_that_cannot_know_the_transform(submit: Submit) -> None:
    factory = submit()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        runner = Runner(
            FuturesExecutor(pool=executor, status=False, retries=0), schema=factory.schema
        )
        with pytest.raises(Exception, match=r"FuturesExecutor\(pool=factory\.pool\(executor\)\)"):
            runner.run(factory.work_items(), DimuonProcessor())


def test_from_root(submit: Submit, expected: Any) -> None:
    factory = submit()
    events = NanoEventsFactory.from_root(
        {factory.work_items()[0].filename: factory.treename}, schemaclass=factory.schema
    ).events()
    promised = factory.partition(0)
    assert events.fields == promised.fields
    for field in promised.fields:
        assert ak.array_equal(ak.materialize(events[field]), ak.materialize(promised[field]))
