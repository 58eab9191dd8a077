"""Numbers of events for the preprocessing of coffea's Runner."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from coffea.processor import FuturesExecutor, IterativeExecutor, Runner
from coffea.processor.executor import FileMeta
from support.runner import FORMATS, Submit, numbers_of

from coffea_sx.demo.analysis import DimuonProcessor
from coffea_sx.errors import LengthMismatch
from coffea_sx.polling.outcomes import Delivered
from coffea_sx.virtual.parts import OpenFiles


def runner_of(factory: Any, executor: Any, **options: Any) -> Runner:
    is_parquet = factory._source.output_form.result_format == "parquet"
    return Runner(
        executor,
        schema=factory.schema,
        metadata_cache=factory.metadata_cache,
        format="parquet" if is_parquet else "root",
        **options,
    )


def fileset(factory: Any) -> Any:
    return {"dy": [item.filename for item in factory.work_items()]}


@pytest.mark.parametrize("result_format", FORMATS)
def test_a_fileset_is_preprocessed_without_opening_files(
    submit: Submit,
    threads: ThreadPoolExecutor,
    expected: Any,
    result_format: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factory = submit(result_format=result_format, ignore_cache=True)
    executor = FuturesExecutor(pool=factory.pool(threads), status=False)
    runner = runner_of(factory, executor, chunksize=200)

    def opened(*_: Any) -> int:
        raise AssertionError("a file was opened")

    with monkeypatch.context() as patch:
        patch.setattr(OpenFiles, "n_events", opened)
        items = list(runner.preprocess(fileset(factory), treename=factory.treename))
    assert [
        (item.fileuuid, item.usermeta["partition"]) for item in items if not item.entrystart
    ] == [(item.fileuuid, i) for i, item in enumerate(factory.work_items())]
    assert sum(item.entrystop - item.entrystart for item in items) == len(factory)
    assert runner.run(items, DimuonProcessor())["out"] == expected


def test_where_the_server_does_not_count_the_delivered_events(
    submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = submit()
    monkeypatch.setattr(type(factory._source), "counts_events", False)
    cache = factory.metadata_cache
    counts = [
        cache[FileMeta("dy", path, "servicex")]["numentries"] for path in fileset(factory)["dy"]
    ]
    assert counts == [len(factory.partition(i)) for i in range(8)]


def test_metadata_of_the_user_and_other_files(submit: Submit, nano_files: list[str]) -> None:
    cache = submit().metadata_cache
    ours = FileMeta("dy", fileset(submit())["dy"][1], "servicex", {"year": 2018})
    assert cache[ours]["year"] == 2018
    assert cache[ours]["input_file"] == nano_files[1]
    other = FileMeta("dy", "/data/nano.root", "Events")
    assert bool(cache)
    assert other not in cache
    cache[other] = {"numentries": 3}
    assert (cache[other], list(cache), len(cache)) == ({"numentries": 3}, [other], 1)
    del cache[other]
    assert other not in cache


@pytest.mark.filterwarnings("ignore:Skipping bad file")
def test_a_file_that_was_not_transformed(submit: Submit, one_corrupt: list[str]) -> None:
    factory = submit(dataset=one_corrupt)
    executor = IterativeExecutor(status=False, retries=0)
    with pytest.raises(OSError, match="nano_5"):
        runner_of(factory, executor).run(fileset(factory), numbers_of, treename=factory.treename)
    skipping = runner_of(factory, executor, skipbadfiles=True)
    out = skipping.run(fileset(factory), numbers_of, treename=factory.treename)["out"]
    assert {partition for _, partition, _, _ in out["where"]} == {0, 1, 2, 3, 4, 6, 7}


def test_a_file_that_is_longer_than_it_was_reported(
    submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """coffea would read the reported number of events, and lose the others."""
    factory = submit(ignore_cache=True)
    len(factory)
    results = factory._source.poller.results
    first = results.outcomes[0]
    assert isinstance(first, Delivered)
    assert first.n_events is not None
    # The next test may get the same transform.
    monkeypatch.setitem(results.outcomes, 0, replace(first, n_events=first.n_events - 1))
    runner = runner_of(factory, IterativeExecutor(status=False, retries=0))
    with pytest.raises(Exception, match=r"nano_0.* has \d+ events") as caught:
        runner.run(fileset(factory), numbers_of, treename=factory.treename)
    assert isinstance(caught.value.__cause__, LengthMismatch)
