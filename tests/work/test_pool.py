"""An executor that hands work items on when their files are delivered."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import IterativeExecutor, Runner
from coffea.processor.checkpointer import SimpleCheckpointer
from coffea.processor.executor import FileMeta, WorkItem
from support.paces import FAST, IMPATIENT
from support.runner import Submit, numbers_of, run
from support.spoiled import N_EVENTS, spoil_result

from coffea_sx import ServiceXEventsFactory
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.errors import (
    AccessError,
    BadInput,
    CorruptFile,
    OwnerLost,
    TransformFailed,
    Unreachable,
)
from coffea_sx.local import LocalServiceX
from coffea_sx.processing import Processing
from coffea_sx.testing import FaultProxy
from coffea_sx.work import grants


class Held:
    """A processor of which two calls meet."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(2, timeout=60)
        self.n_running = 0
        self.most = 0
        self.lock = threading.Lock()

    def __call__(self, events: Any) -> dict[str, int]:
        with self.lock:
            self.n_running += 1
            self.most = max(self.most, self.n_running)
        self.meeting.wait()
        with self.lock:
            self.n_running -= 1
        return {"n": len(events)}


class Counting(ThreadPoolExecutor):
    """Threads, and the number of calls that were submitted."""

    n_submitted = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.n_submitted += 1
        return super().submit(*args, **kwargs)


def test_nothing_is_begun_before_its_file_is_there(nano_files: list[str], tmp_path: Path) -> None:
    """An executor gets no item of a file that was not delivered: waiting takes no slot."""
    with LocalServiceX(tmp_path / "servicex", workers=1) as server, Counting(2) as executor:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(),
            nano_files[:2],
            url=server.url,
            schemaclass=SelectionSchema,
            pace=FAST,
        )
        pool = factory.pool(executor)
        results = factory._source.poller.results
        begun: list[bool] = []

        def begin(item: Any) -> int:
            partition: int = item.usermeta["partition"]
            begun.append(partition in results.outcomes)
            return partition

        futures = [pool.submit(begin, item) for item in factory.work_items()]
        assert executor.n_submitted <= len(results.outcomes)
        assert sorted(future.result(60) for future in futures) == [0, 1]
        assert begun == [True, True]
        assert executor.n_submitted == 2
        pool.shutdown()


def test_items_in_flight_are_bounded(submit: Submit, threads: ThreadPoolExecutor) -> None:
    held = Held()
    factory = submit()
    run(factory, threads, held, in_flight=2, processor_compression=None)
    assert held.most == 2


def test_other_calls_pass_through(submit: Submit, threads: ThreadPoolExecutor) -> None:
    pool = submit().pool(threads)
    assert pool.submit(sum, [1, 2]).result() == 3
    foreign = WorkItem("dy", "/data/nano.root", "Events", 0, 1, b"")
    assert pool.submit(lambda item: item.filename, foreign).result() == "/data/nano.root"


def test_merging_in_the_pool(submit: Submit, threads: ThreadPoolExecutor, expected: Any) -> None:
    assert run(submit(), threads, futures={"merging": (2, 2, 4)})["out"] == expected


def test_cancelling_and_shutting_down(
    nano_files: list[str], tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    with LocalServiceX(tmp_path / "servicex") as server:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, url=server.url, schemaclass=SelectionSchema, pace=FAST
        )
        pool = factory.pool(threads)
        futures = [pool.submit(lambda item: 1, item) for item in factory.work_items()]
        pool.shutdown(cancel_futures=True)
        assert all(future.cancelled() or future.result(10) == 1 for future in futures)
        with pytest.raises(RuntimeError, match="shut down"):
            pool.submit(sum, [1])
        assert not [t for t in threading.enumerate() if t.name == "coffea_sx-pool"]
        assert not factory._source.poller.results.is_awaited
        # The transform goes on, and the executor works.
        assert len(factory) > 0
        assert threads.submit(sum, [1, 2]).result() == 3


def test_closing_the_poller_ends_the_wait(
    nano_files: list[str], tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    with LocalServiceX(tmp_path / "servicex", workers=1) as server:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, url=server.url, schemaclass=SelectionSchema, pace=FAST
        )
        factory.cancel()
        pool = factory.pool(threads)
        futures = [pool.submit(lambda item: 1, item) for item in factory.work_items()]
        for future in futures:
            error = future.exception(60)
            assert error is None or "cancel" in str(error)


def test_a_server_that_is_away_ends_the_wait(
    nano_files: list[str], tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    pace = replace(IMPATIENT, outage_s=0.5)
    server = LocalServiceX(tmp_path / "servicex", workers=1)
    server.start()
    try:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, url=server.url, schemaclass=SelectionSchema, pace=pace
        )
    finally:
        server.stop()
    pool = factory.pool(threads)
    futures = [pool.submit(lambda item: 1, item) for item in factory.work_items()]
    for future in futures:
        assert isinstance(future.exception(60), Unreachable)
    with pytest.raises(Unreachable):
        list(factory.as_completed())


def test_a_file_that_was_not_transformed(
    submit: Submit, one_corrupt: list[str], threads: ThreadPoolExecutor
) -> None:
    with pytest.raises(TransformFailed, match="nano_5"):
        run(submit(dataset=one_corrupt), threads, numbers_of)
    # coffea's own way, and ours.
    factory = submit(dataset=one_corrupt, on_failure="skip")
    left = set(run(factory, threads, numbers_of)["out"]["events"])
    assert not left & set(range(5 * N_EVENTS, 6 * N_EVENTS))
    report = factory.report()
    failed = [file.input_file for file in report.inputs if file.status == "failed"]
    assert failed == [one_corrupt[5]]
    with pytest.raises(TransformFailed, match="max_failed=0"):
        run(submit(dataset=one_corrupt, on_failure="skip", max_failed=0), threads, numbers_of)


@pytest.mark.filterwarnings("ignore:Skipping bad file")
def test_coffea_may_skip_a_file_that_was_not_transformed(
    submit: Submit, one_corrupt: list[str], threads: ThreadPoolExecutor
) -> None:
    factory = submit(dataset=one_corrupt)
    out = run(factory, threads, numbers_of, futures={"retries": 0}, skipbadfiles=True)["out"]
    assert {partition for _, partition, _, _ in out["where"]} == {0, 1, 2, 3, 4, 6, 7}
    failed = [file.input_file for file in factory.report().inputs if file.status == "failed"]
    assert failed == [one_corrupt[5]]


def test_an_owner_that_is_lost_while_failures_are_counted(
    submit: Submit, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ours must not leave a future waiting for ever."""

    def lost(*_: Any) -> None:
        raise OwnerLost("The process that counts failures has ended.")

    def unreadable(item: WorkItem) -> None:
        raise CorruptFile("It cannot be read.", input_file=item.filename, object_name="")

    factory = submit(on_failure="skip", max_failed=3)
    monkeypatch.setattr("coffea_sx.work.pool.allow_failure", lost)
    future = factory.pool(threads).submit(unreadable, factory.work_items()[0])
    with pytest.raises(OwnerLost, match="has ended"):
        future.result(30)


@pytest.mark.filterwarnings("ignore:Skipping bad file")
def test_a_file_that_cannot_be_read(
    nano_files: list[str], tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    with LocalServiceX(tmp_path / "servicex") as server:
        options: dict[str, Any] = {
            "url": server.url,
            "pace": FAST,
            "schemaclass": SelectionSchema,
        }
        factory = NanoEventsFactory.from_servicex(dimuon_query(), nano_files, **options)
        len(factory)
        spoil_result(server, factory, 2)
        with pytest.raises(Exception, match="nano_2"):
            run(factory, threads, numbers_of, futures={"retries": 0})
        skipping = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, on_failure="skip", **options
        )
        left = run(skipping, threads, numbers_of, futures={"retries": 0})["out"]["events"]
        assert not left & set(range(2 * N_EVENTS, 3 * N_EVENTS))
        by_coffea = run(factory, threads, numbers_of, futures={"retries": 0}, skipbadfiles=True)[
            "out"
        ]
        assert by_coffea["events"] == left
        for reported in (factory, skipping):
            failed = [file for file in reported.report().inputs if file.status == "failed"]
            assert [file.input_file for file in failed] == [nano_files[2]]


def test_renewals_end(
    submit: Submit, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "noted_problem", lambda: None)
    factory = submit()
    pool = factory.pool(threads)
    results = factory._source.poller
    good = type(results).signed_url

    def expired(self: Any, name: str, *, refresh: bool = False) -> Any:
        return replace(good(self, name), expires_at=0.0)

    monkeypatch.setattr(type(results), "signed_url", expired)
    future = pool.submit(len, factory.work_items()[0])
    with pytest.raises(AccessError, match="in_flight="):
        future.result(60)
    pool.shutdown()


class Several(Processing):
    """Several samples."""

    def __init__(self, factories: list[Any]) -> None:
        self.factories = factories

    def _samples(self) -> Any:
        return [sample for factory in self.factories for sample in factory._samples()]


def test_lists_in_different_orders(
    submit: Submit, nano_files: list[str], threads: ThreadPoolExecutor
) -> None:
    """An address with the position of a file means one file only."""
    factory = submit(ignore_cache=True)
    assert sum(map(len, factory.as_completed())) == len(factory)
    other = submit_again(factory, nano_files[::-1])
    by_file = {item.usermeta["input_file"]: item.fileuuid for item in factory.work_items()}
    assert {item.usermeta["input_file"]: item.fileuuid for item in other.work_items()} == by_file
    # With a pool each item reads its own file, whatever else there is.
    first = {i: run(f, threads, numbers_of)["out"] for i, f in enumerate((factory, other))}
    assert first[0]["events"] == first[1]["events"]
    runner = Runner(IterativeExecutor(status=False, retries=0), schema=factory.schema)
    with pytest.raises(Exception, match="in different orders"):
        runner.run(factory.work_items(), numbers_of)
    with pytest.raises(BadInput, match="in different orders"):
        Several([factory, other]).pool(threads)
    # Its pool has nothing left to do; then nothing holds the other list any more.
    for thread in threading.enumerate():
        if thread.name == "coffea_sx-pool":
            thread.join(30)
    del other
    out = runner.run(factory.work_items(), numbers_of)["out"]
    assert out["events"] == first[0]["events"]


def submit_again(factory: Any, files: list[str]) -> Any:
    """The same request with its files in another order."""
    return ServiceXEventsFactory.from_request_id(
        factory.request_id,
        files,
        url=factory._source.poller.client.endpoint.url,
        schemaclass=SelectionSchema,
        metadata={"dataset": "dy"},
        pace=FAST,
    )


def test_a_small_file_is_one_request(
    servicex: LocalServiceX, nano_files: list[str], threads: ThreadPoolExecutor
) -> None:
    with FaultProxy(servicex.url) as proxy:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, url=proxy.url, schemaclass=SelectionSchema, pace=FAST
        )
        run(factory, threads)
        paths = [r.path for r in proxy.requests if r.path.startswith(f"/{factory.request_id}/")]
    assert len(paths) == len(set(paths)) == 8


# -- runs that are resumed


def test_a_run_is_resumed_after_a_restart(
    submit: Submit, nano_files: list[str], threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """A checkpoint is found by another factory of the same request, and mixes no files."""
    factory = submit(ignore_cache=True)
    checkpointer = SimpleCheckpointer(str(tmp_path / "checkpoints"))
    options = {"checkpointer": checkpointer, "processor_compression": None}
    done: list[int] = []

    def stopped(events: Any) -> Any:
        if len(done) == 3:
            raise ValueError("The kernel was restarted.")
        done.append(events.metadata["partition"])
        return numbers_of(events)

    with ThreadPoolExecutor(1) as one, pytest.raises(Exception, match="was restarted"):
        run(
            factory,
            one,
            stopped,
            checkpointer=checkpointer,
            processor_compression=None,
            futures={"retries": 0},
        )
    processed: list[int] = []

    def rest(events: Any) -> Any:
        processed.append(events.metadata["partition"])
        return numbers_of(events)

    again = submit_again(factory, nano_files)
    out = run(again, threads, rest, **options)["out"]
    assert len(out["events"]) == len(factory)
    assert sorted(done + processed) == list(range(8))


def test_a_position_without_a_file(submit: Submit, threads: ThreadPoolExecutor) -> None:
    """It is an error at once: no file would ever arrive."""
    factory = submit()
    item = factory.work_items()[0]
    beyond = replace(item, filename=item.filename.replace("@0", "@99"))
    says = "delivers 8 input files of the sample, and none at position 99"
    with pytest.raises(BadInput, match=says):
        factory.pool(threads).submit(len, beyond)
    with pytest.raises(BadInput, match=says):
        _ = factory.metadata_cache[FileMeta("dy", beyond.filename, "servicex")]
