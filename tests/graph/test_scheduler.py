"""Threads that do not wait: delivered files are analysed while others are awaited."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import pytest
from coffea.nanoevents import NanoEventsFactory
from support.paces import IMPATIENT
from support.spoiled import spoil_result
from support.strategies import submit_dimuons

import coffea_sx
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema
from coffea_sx.errors import CorruptFile, OwnerLost, TransformCanceled, TransformFailed, Unreachable
from coffea_sx.local import LocalServiceX

Submit = Callable[..., Any]
PREFIX = "coffea_sx-dask"


class Held:
    """Lets the server report some files only when they are released."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths
        self.released = threading.Event()

    async def __call__(self, path: str) -> None:
        while path in self.paths and not self.released.is_set():
            await asyncio.sleep(0.01)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(PREFIX)]


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    assert not threads()
    yield
    until(lambda: not threads())


def compute(*todo: Any, **options: Any) -> Any:
    return dask.compute(*todo, scheduler=coffea_sx.threaded_get, **options)


# -- results


def test_results_are_those_of_other_schedulers(submit: Submit) -> None:
    histograms = DimuonProcessor().process(submit().events())
    (expected,) = dask.compute(histograms, scheduler="synchronous")
    for n_threads in (None, 1, 3):
        (found,) = compute(histograms, num_workers=n_threads)
        assert found == expected
    assert expected["mass"].sum() > 1000


def test_graphs_without_events_of_servicex(nano_files: list[str]) -> None:
    files = dict.fromkeys(nano_files, "Events")
    events = NanoEventsFactory.from_root(files, mode="dask", schemaclass=SelectionSchema).events()
    found, total = compute(events.event, dask.delayed(sum)([dask.delayed(int)(i) for i in (1, 2)]))
    assert found.to_list() == list(range(4000))
    assert total == 3


def test_no_more_threads_than_asked_for(submit: Submit) -> None:
    lock, running, most = threading.Lock(), set(), []

    def noted(array: Any) -> Any:
        with lock:
            running.add(threading.get_ident())
            most.append(len(running))
        time.sleep(0.02)
        with lock:
            running.discard(threading.get_ident())
        return array

    events = submit().events().event.map_partitions(noted, meta=submit().events().event._meta)
    compute(events, num_workers=2)
    assert max(most) == 2
    most.clear()
    with dask.config.set(num_workers=1):
        compute(events)
    assert max(most) == 1


# -- waiting


@pytest.mark.parametrize("late", [[7], [0], [0, 3, 4, 5, 6, 7]])
def test_delivered_files_are_analysed_before_late_ones_are_delivered(
    nano_files: list[str], late: list[int], tmp_path: Path
) -> None:
    held = Held(*(nano_files[i] for i in late))
    others = set(range(8)) - set(late)
    with (
        LocalServiceX(tmp_path / "servicex", before_report=held) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        factory = submit_dimuons(server, nano_files)
        try:
            todo = factory.events().event
            computing = pool.submit(compute, todo, num_workers=1)
            until(lambda: {read.partition for read in factory.reads} == others)
            assert not computing.done()
        finally:
            held.released.set()
        (found,) = computing.result(60)
        assert [read.partition for read in factory.reads] == list(range(8))
    assert ak.all(found[1:] > found[:-1])


def test_a_transform_that_is_cancelled(nano_files: list[str], tmp_path: Path) -> None:
    held = Held(nano_files[1])
    with (
        LocalServiceX(tmp_path / "servicex", before_report=held) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        factory = submit_dimuons(server, nano_files[:2])
        computing = pool.submit(compute, factory.events().event)
        until(lambda: len(factory.reads) == 1)
        factory.cancel()
        with pytest.raises(TransformCanceled, match=factory.request_id):
            computing.result(60)
        held.released.set()
        assert not factory._source.poller.results.is_awaited


def test_a_file_that_was_not_transformed(submit: Submit, one_corrupt: list[str]) -> None:
    with pytest.raises(TransformFailed) as caught:
        compute(submit(dataset=one_corrupt).events().event)
    assert caught.value.input_file == one_corrupt[5]
    events, report = submit(dataset=one_corrupt, on_failure="skip").events()
    found, rows = compute(events.event, report)
    assert set(ak.to_list(found // 500)) == {0, 1, 2, 3, 4, 6, 7}
    assert [row for row in rows.failed_at.to_list() if row] == ["transform"]


def test_a_server_that_is_away(nano_files: list[str], tmp_path: Path) -> None:
    held = Held(nano_files[1])
    server = LocalServiceX(tmp_path / "servicex", before_report=held)
    server.start()
    with ThreadPoolExecutor(1) as pool:
        try:
            factory = submit_dimuons(server, nano_files[:2], pace=replace(IMPATIENT, outage_s=0.5))
            computing = pool.submit(compute, factory.events().event)
            until(lambda: len(factory.reads) == 1)
        finally:
            server.stop()
        with pytest.raises(Unreachable):
            computing.result(60)


def test_a_poller_that_is_closed(nano_files: list[str], tmp_path: Path) -> None:
    held = Held(nano_files[1])
    with (
        LocalServiceX(tmp_path / "servicex", before_report=held) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        factory = submit_dimuons(server, nano_files[:2])
        todo = factory.events().event
        computing = pool.submit(compute, todo)
        until(lambda: len(factory.reads) == 1)
        factory._source.poller.close()
        with pytest.raises(OwnerLost, match="closed"):
            computing.result(60)
        with pytest.raises(OwnerLost, match="closed"):
            compute(todo)
        held.released.set()


def test_an_error_ends_the_waits(nano_files: list[str], tmp_path: Path) -> None:
    def wrong(array: Any) -> Any:
        if ak.backend(array) == "cpu":  # not while columns are traced
            raise ZeroDivisionError("of the analysis")
        return array

    held = Held(nano_files[1])
    with LocalServiceX(tmp_path / "servicex", before_report=held) as server:
        factory = submit_dimuons(server, nano_files[:2])
        event = factory.events().event
        with pytest.raises(ZeroDivisionError, match="of the analysis"):
            compute(event.map_partitions(wrong, meta=event._meta))
        assert not factory._source.poller.results.is_awaited
        held.released.set()
        assert len(compute(event)[0]) > 0


CTRL_C = """
import os, signal, sys, threading, time
from pathlib import Path
import dask, coffea_sx
from support.paces import FAST
from support.strategies import submit_dimuons
from coffea_sx.local import LocalServiceX

async def never(path):
    import asyncio
    while path == sys.argv[1]:
        await asyncio.sleep(0.01)

if __name__ == "__main__":
    with LocalServiceX(sys.argv[2], before_report=never) as server:
        factory = submit_dimuons(server, sys.argv[1:2])
        source = factory._source.poller.results

        def interrupt():
            while not source.is_awaited:
                time.sleep(0.01)
            time.sleep(0.2)  # until the main thread waits
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            dask.compute(factory.events().event, scheduler=coffea_sx.threaded_get)
        except KeyboardInterrupt:
            left = [t.name for t in threading.enumerate() if t.name.startswith("coffea_sx-dask")]
            print("interrupted", source.is_awaited, left)
"""


def test_ctrl_c(nano_files: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CTRL_C)
    command = [sys.executable, str(script), nano_files[0], str(tmp_path / "servicex")]
    folder = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, folder])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "interrupted False []", done.stderr
    assert done.returncode == 0


def test_a_result_that_cannot_be_read(nano_files: list[str], tmp_path: Path) -> None:
    with LocalServiceX(tmp_path / "servicex") as server:
        factory = submit_dimuons(server, nano_files[:2])
        compute(factory.events().event)
        spoil_result(server, factory, 1)
        again = submit_dimuons(server, nano_files[:2])
        with pytest.raises(CorruptFile) as caught:
            compute(again.events().Jet.pt)
        until(lambda: not threads())  # one may still read the other file
        assert caught.value.input_file == nano_files[1]
