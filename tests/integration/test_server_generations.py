"""The same analysis on servers of every generation."""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import pytest
from coffea.nanoevents import NanoEventsFactory
from servicex import dataset
from support.paces import FAST
from support.strategies import submit_dimuons

from coffea_sx import ServiceXEventsFactory
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema
from coffea_sx.errors import BadInput, TransformFailed
from coffea_sx.local import LocalServiceX
from coffea_sx.local.generations import GENERATIONS
from coffea_sx.local.settings import ServerSettings
from coffea_sx.policy import PollPolicy

EACH = list(GENERATIONS)
BAD = 2
# A server of 2024 is polled until no more results can come.
PACE = PollPolicy(busy_s=0.02, idle_s=0.1, settle_s=0.3)
ONLY_WHEN_OVER = "only when a transform is over"


@pytest.fixture(scope="module")
def inputs(nano_files: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four files in an order of their own, of which the third is corrupt."""
    directory = tmp_path_factory.mktemp("inputs")
    files = [str(shutil.copy(nano_files[i], directory)) for i in (3, 0, 2, 1)]
    Path(files[BAD]).write_bytes(b"root" + bytes(2000))
    return files


@pytest.fixture(scope="module")
def servers(nano_files: list[str]) -> Iterator[dict[str, LocalServiceX]]:
    """A server of each generation, which finds a dataset in an order of its own."""
    datasets = {"rucio://user:nano": [nano_files[i] for i in (2, 0, 1)]}
    with ExitStack() as running:
        yield {
            generation: running.enter_context(
                LocalServiceX(generation=generation, datasets=datasets)
            )
            for generation in EACH
        }


@contextmanager
def warned(generation: str) -> Iterator[None]:
    """Expect the warning of a generation, and no other."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    found = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(found) == len(caught) == (generation == "1.5")
    assert all(ONLY_WHEN_OVER in message for message in found)


submit = partial(submit_dimuons, pace=PACE)


def analyse(server: LocalServiceX, files: list[str], good: bytes) -> dict[str, Any]:
    """Run an analysis with a failed file, which is repaired at the end; return its results."""
    factory = submit(server, files, on_failure="skip")
    found: dict[str, Any] = {"waiting": str(factory.report())}
    events, rows = factory.events()
    result, numbers, pt, rows = dask.compute(
        DimuonProcessor().process(events), events.event, events.Jet.pt, rows
    )
    report, status = factory.report(rows), factory.status()
    found |= {
        "histograms": result,
        "numbers": numbers.to_list(),
        "pt": pt.to_list(),
        "report": [
            (file.input_file, file.status, file.failed_at, file.exception, file.n_events)
            for file in report.inputs
        ],
        "summary": str(report),
        # Some servers do not count events.
        "delivered": report.n_events_delivered in (None, report.n_events),
        "files": [(file["input_file"], file["status"]) for file in factory.files],
        "objects": [file["object_name"] for file in factory.files],
        "sizes": [bool(file["nbytes"]) for file in factory.files],
        "counts": factory.counts,
        "status": (status.status, status.n_files, status.n_completed, status.n_failed),
    }
    bad = Path(files[BAD])
    spoiled = bad.read_bytes()
    bad.write_bytes(good)
    try:
        retried = factory.retry_failed()
        events, rows = retried.events()
        numbers, rows = dask.compute(events.event, rows)
    finally:
        bad.write_bytes(spoiled)
    return found | {
        "numbers after retry": numbers.to_list(),
        "summary after retry": str(retried.report(rows)),
        "counts after retry": retried.counts,
        "is another request": retried.request_id != factory.request_id,
    }


@pytest.fixture(scope="module")
def found(
    servers: dict[str, LocalServiceX], inputs: list[str], nano_files: list[str]
) -> dict[str, dict[str, Any]]:
    good = Path(nano_files[2]).read_bytes()
    results = {}
    for generation, server in servers.items():
        with warned(generation):
            results[generation] = analyse(server, inputs, good)
    return results


@pytest.mark.slow
def test_the_analysis_equals_that_of_the_input_files(
    found: dict[str, dict[str, Any]], inputs: list[str], nano_files: list[str]
) -> None:
    direct = NanoEventsFactory.from_root(
        dict.fromkeys([nano_files[i] for i in (3, 0, 1)], "Events"),
        mode="dask",
        schemaclass=SelectionSchema,
    ).events()
    result, numbers = dask.compute(
        DimuonProcessor().process(direct), direct.event[ak.num(direct.Muon) >= 2]
    )
    newest = found["2026"]
    assert newest["histograms"] == result
    assert newest["histograms"]["mass"].sum() > 100
    assert newest["numbers"] == numbers.to_list()
    assert [status for _, status in newest["files"]] == [
        *["delivered"] * 2,
        "failed",
        "delivered",
    ]
    assert [path for path, *_ in newest["report"]] == inputs
    assert newest["status"] == ("Complete", 4, 3, 1)
    assert newest["summary"].startswith("3 of 4 input files delivered, 1 failed")
    assert newest["summary after retry"].startswith("4 of 4 input files delivered;")
    assert len(newest["numbers after retry"]) > len(newest["numbers"])
    assert newest["is another request"]


@pytest.mark.parametrize("generation", EACH[1:])
def test_older_servers_give_the_same(found: dict[str, dict[str, Any]], generation: str) -> None:
    newest, older = found["2026"], found[generation]
    assert newest.keys() == older.keys()
    assert [key for key in newest if newest[key] != older[key]] == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize("generation", EACH)
def test_a_failed_file_is_named(
    servers: dict[str, LocalServiceX], inputs: list[str], generation: str
) -> None:
    with warned(generation):
        factory = submit(servers[generation], inputs, title="strict")
    with pytest.raises(TransformFailed) as caught:
        factory.events().event.compute()
    assert caught.value.input_file == inputs[BAD]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("generation", EACH)
def test_a_transform_is_used_by_its_id(
    servers: dict[str, LocalServiceX], inputs: list[str], generation: str
) -> None:
    files = [path for i, path in enumerate(inputs) if i != BAD]
    options: dict[str, Any] = {
        "url": servers[generation].url,
        "schemaclass": SelectionSchema,
        "input_form": {files[0]: "Events"},
        "pace": PACE,
    }
    with warned(generation):
        first = submit(servers[generation], files)
    numbers = first.events().event.compute()
    with warned(generation):
        again = ServiceXEventsFactory.from_request_id(
            first.request_id, files, **{"pace": FAST, **options}
        )
    assert [file["input_file"] for file in again.files] == files
    assert ak.array_equal(again.events().event.compute(), numbers)
    with warned(generation):
        unlisted = ServiceXEventsFactory.from_request_id(
            first.request_id, **{"pace": FAST, **options}
        )
    assert sorted(unlisted.events().event.compute()) == sorted(numbers)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("generation", EACH)
def test_the_same_query_is_not_submitted_twice(
    servers: dict[str, LocalServiceX], nano_files: list[str], generation: str
) -> None:
    with warned(generation):
        first = submit(servers[generation], nano_files[:2], title="once")
    first.events().event.compute()
    with warned(generation):
        again = submit(servers[generation], nano_files[:2], title="once")
    assert again.request_id == first.request_id


@pytest.mark.parametrize("generation", EACH)
def test_a_dataset_has_an_order(
    servers: dict[str, LocalServiceX], nano_files: list[str], generation: str
) -> None:
    with warned(generation):
        factory = submit(
            servers[generation],
            dataset.Rucio("user:nano"),
            input_form={nano_files[0]: "Events"},
        )
    order = [2, 0, 1]
    named = [nano_files[i] for i in order]
    if generation == "1.5":
        # It lists names of objects only.
        order = [0, 1, 2]
        named = [nano_files[i].replace("/", ":") for i in order]
    assert [file["input_file"] for file in factory.files] == named
    events = factory.events()
    first = [events.partitions[i].event.compute()[0] // 500 for i in range(3)]
    assert first == order


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["of a list", "of a list, long", "of a dataset"])
@pytest.mark.parametrize("generation", EACH)
def test_files_are_read_through_a_cache(
    nano_files: list[str],
    tmp_path: Path,
    generation: str,
    name: str,
) -> None:
    """Where a server has a CACHE_PREFIX, its transformers write that before every path."""
    settings = ServerSettings(cache_prefix="root://xcache.host:1094//")
    directory = tmp_path / ("x" * 200 if "long" in name else "x")
    directory.mkdir()
    # The first name ends with the name of the third file.
    files = [str(directory / path) for path in ("b-a.root", "c.root", "a.root")]
    for i, path in enumerate(files):
        shutil.copy(nano_files[i], path)
    datasets = {"rucio://user:nano": files}
    with LocalServiceX(generation=generation, datasets=datasets, settings=settings) as server:
        wanted = dataset.Rucio("user:nano") if "dataset" in name else files
        with warned(generation):
            factory = submit(server, wanted, input_form={files[0]: "Events"})
        events = factory.events()
        found = [events.partitions[i].event.compute()[0] // 500 for i in range(3)]
        # A server of 2024 does not list the order of a dataset.
        is_sorted = "dataset" in name and generation == "1.5"
        assert found == ([2, 0, 1] if is_sorted else [0, 1, 2])
        names = [file["object_name"] for file in factory.files]
        assert all(re.match("root:::xcache|_[0-9a-f]{40}", name) for name in names)


def test_failed_files_of_a_dataset_have_no_names_on_a_server_of_2024(
    inputs: list[str], nano_files: list[str]
) -> None:
    datasets = {"rucio://user:bad": inputs}
    with LocalServiceX(generation="1.5", datasets=datasets) as server:
        with pytest.warns(UserWarning, match=ONLY_WHEN_OVER):
            factory = submit(
                server,
                dataset.Rucio("user:bad"),
                input_form={nano_files[0]: "Events"},
                on_failure="skip",
            )
        events, rows = factory.events()
        numbers, rows = dask.compute(events.event, rows)
        report = factory.report(rows)
        assert (report.n_inputs, report.n_failed, report.n_events) == (4, 1, len(numbers))
        assert report.inputs[-1].input_file == "(input file without a result, 1)"
        with pytest.raises(BadInput, match="does not name the files that failed"):
            factory.retry_failed(rows)


def test_a_server_of_2024_lists_results_at_the_end(nano_files: list[str]) -> None:
    released = threading.Event()

    async def hold_the_last(path: str) -> None:
        while path == nano_files[2] and not released.is_set():
            await asyncio.sleep(0.01)

    with (
        LocalServiceX(generation="1.5", before_report=hold_the_last) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        with pytest.warns(UserWarning, match=ONLY_WHEN_OVER):
            factory = submit(server, nano_files[:3])
        events = factory.events()
        computing = pool.submit(events.partitions[0].event.compute, scheduler="synchronous")
        try:
            deadline = time.monotonic() + 30
            while factory.counts.delivered < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            # It counts, but its objects are not looked for before the end.
            assert (factory.counts.delivered, factory.counts.waiting) == (2, 1)
            assert {file["status"] for file in factory.files} == {"waiting"}
            assert not computing.done()
        finally:
            released.set()
        numbers = computing.result(30)
        assert set(ak.to_list(numbers // 500)) == {0}
        assert {file["status"] for file in factory.files} == {"delivered"}
