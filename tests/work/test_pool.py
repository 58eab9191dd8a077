"""coffea's Runner on files that do not exist yet, with executors of many kinds."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle
import loky
import numpy as np
import pytest
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from coffea.processor import FuturesExecutor, IterativeExecutor, Runner
from coffea.processor.executor import WorkItem
from support.paces import FAST, IMPATIENT
from support.spoiled import N_EVENTS, spoil_result

from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.errors import (
    AccessError,
    BadInput,
    CorruptFile,
    FormMismatch,
    LengthMismatch,
    OwnerLost,
    TransformFailed,
    Unreachable,
)
from coffea_sx.forms import OutputForm
from coffea_sx.local import LocalServiceX
from coffea_sx.work import grants
from coffea_sx.work.grants import Grant, run_granted
from coffea_sx.work.items import OPEN_END
from coffea_sx.work.schema import delivered_schema, packed, unpacked

FORMATS = ("root-file", "root-rntuple", "parquet")
Submit = Callable[..., Any]


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


def run(
    factory: Any,
    executor: Executor,
    processor: Any = None,
    items: Any = None,
    in_flight: int | None = None,
    **options: Any,
) -> Any:
    """Run a processor on all files, begun before they exist."""
    is_parquet = factory._source.output_form.result_format == "parquet"
    runner = Runner(
        FuturesExecutor(
            pool=factory.pool(executor, in_flight), status=False, **options.pop("futures", {})
        ),
        schema=factory.schema,
        format="parquet" if is_parquet else "root",
        **options,
    )
    return runner.run(items or factory.work_items(), processor or DimuonProcessor())


def numbers_of(events: Any) -> dict[str, Any]:
    """A processor that is a function: which events there are, and where they are from."""
    about = events.metadata
    where = (about["dataset"], about["partition"], about["entrystart"], about["entrystop"])
    return {"events": set(ak.to_list(events.event)), "where": {where}}


# -- executors


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


@pytest.fixture
def client() -> Iterator[Any]:
    from distributed import Client

    options = {"dashboard_address": None, "n_workers": 2, "threads_per_worker": 1}
    with Client(**options) as client:
        yield client


@pytest.mark.sampled(2)
@pytest.mark.parametrize("result_format", ["root-file", "root-rntuple"])
def test_bare_addresses(submit: Submit, expected: Any, result_format: str) -> None:
    """Where items are run in the process that submitted, they need no pool."""
    factory = submit(result_format=result_format)
    runner = Runner(IterativeExecutor(status=False), schema=factory.schema)
    assert runner.run(factory.work_items(), DimuonProcessor())["out"] == expected


def test_from_root(submit: Submit, expected: Any) -> None:
    factory = submit()
    events = NanoEventsFactory.from_root(
        {factory.work_items()[0].filename: factory.treename}, schemaclass=factory.schema
    ).events()
    promised = factory.partition(0)
    assert events.fields == promised.fields
    for field in promised.fields:
        assert ak.array_equal(ak.materialize(events[field]), ak.materialize(promised[field]))


# -- items


def test_items_are_made_before_files_exist(submit: Submit, nano_files: list[str]) -> None:
    factory = submit(ignore_cache=True)
    items = factory.work_items()
    assert [item.dataset for item in items] == ["dy"] * 8
    assert [item.usermeta["input_file"] for item in items] == nano_files
    assert {(item.entrystart, item.entrystop) for item in items} == {(0, OPEN_END)}
    assert len({item.fileuuid for item in items}) == 8
    assert [str(uuid.UUID(bytes=item.fileuuid)) for item in items]
    assert factory.work_items() == items


@pytest.mark.sampled(2)
@pytest.mark.parametrize("chunksize", [100, 10**6])
def test_chunks(submit: Submit, threads: ThreadPoolExecutor, chunksize: int) -> None:
    factory = submit()
    items = factory.work_items(chunksize=chunksize)
    out = run(factory, threads, numbers_of, items)["out"]
    counts = [file["n_events"] for file in factory.files]
    assert len(out["events"]) == sum(counts)
    assert sorted(out["where"]) == [
        ("dy", i, start, min(start + chunksize, count))
        for i, count in enumerate(counts)
        for start in range(0, count, chunksize)
    ]
    # The last chunk ends where the file does.
    assert {item.entrystop for item in items if item.entrystart + chunksize >= 1} >= {OPEN_END}


def test_wrong_arguments(submit: Submit, threads: ThreadPoolExecutor) -> None:
    factory = submit()
    with pytest.raises(BadInput, match="chunksize= must be at least 1, got 0"):
        factory.work_items(chunksize=0)
    with pytest.raises(BadInput, match="must be an Executor, made already"):
        factory.pool(ThreadPoolExecutor)
    with pytest.raises(BadInput, match="in_flight= must be at least 1"):
        factory.pool(threads, in_flight=0)


# -- waiting


class Held:
    """Events that a processor waits for."""

    def __init__(self) -> None:
        self.n_running = 0
        self.most = 0
        self.lock = threading.Lock()

    def __call__(self, events: Any) -> dict[str, int]:
        with self.lock:
            self.n_running += 1
            self.most = max(self.most, self.n_running)
        time.sleep(0.05)
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


# -- failures


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


@pytest.mark.slow
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


@pytest.mark.filterwarnings("ignore:Skipping bad file")
@pytest.mark.parametrize("skipbadfiles", [False, True])
def test_another_form_is_not_a_bad_file(
    submit: Submit, threads: ThreadPoolExecutor, skipbadfiles: bool
) -> None:
    factory = submit()
    form = factory._source.output_form
    changed = form.base_form.copy(
        contents=[
            content.copy(primitive="bool") if name == "event" else content
            for name, content in zip(form.base_form.fields, form.base_form.contents, strict=True)
        ]
    )
    wrong = OutputForm({form.tree: changed}, form.tree, form.result_format)
    schema = delivered_schema(SelectionSchema, ((factory.request_id, packed(wrong)),))
    runner = Runner(
        FuturesExecutor(pool=factory.pool(threads), status=False, retries=0),
        schema=schema,
        skipbadfiles=skipbadfiles,
    )
    with pytest.raises(Exception, match=r"nano_\d.*'event' should be bool") as caught:
        runner.run(factory.work_items(), numbers_of)
    assert any(isinstance(error, FormMismatch) for error in causes(caught.value))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# -- permissions


@pytest.fixture
def grant(submit: Submit) -> Grant:
    """Permission to read the first file, as a worker gets it."""
    factory = submit()
    part = factory._source.part(0)
    url = part.handle.results.signed_url(part.delivered.object_name)
    form = packed(factory._source.output_form)
    return Grant(factory.request_id, part.delivered, url, form, part.delivered.n_events)


def test_a_grant_shows_no_secret(grant: Grant) -> None:
    assert grant.url is not None
    signature = grant.url.url.partition("?")[2]
    assert signature
    assert signature not in repr(grant)
    assert "?" not in repr(grant)


@pytest.mark.parametrize("skips", [False, True])
def test_a_url_that_expired_is_renewed(grant: Grant, submit: Submit, skips: bool) -> None:
    assert grant.url is not None
    item = submit().work_items()[0]
    late = replace(grant, url=replace(grant.url, expires_at=time.time() + 1))
    assert run_granted(len, item, (), late).has_expired
    # The store refuses it: the function may skip the error, the item comes back all the same.
    refused = replace(grant, url=replace(grant.url, url=grant.url.url + "0"))

    def read(item: Any) -> bytes | None:
        import fsspec

        try:
            with fsspec.open(item.filename) as file:
                return bytes(file.read(4))
        except AccessError:
            if skips:
                return None
            raise

    assert run_granted(read, item, (), refused).has_expired
    assert run_granted(read, item, (), grant).result == b"root"


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


def test_a_file_of_another_length(grant: Grant, submit: Submit) -> None:
    item = submit().work_items()[0]
    assert grant.n_events is not None
    wrong = replace(grant, n_events=grant.n_events + 1)
    with pytest.raises(LengthMismatch, match=f"has {grant.n_events} events"):
        run_granted(lambda item: item, item, (), wrong)
    found = run_granted(lambda item: item, item, (), grant)
    assert (found.result.entrystop, found.n_events) == (grant.n_events, grant.n_events)


# -- the schema


def test_schemas_are_pickled(submit: Submit) -> None:
    factory = submit()
    schema = factory.schema
    assert issubclass(schema, SelectionSchema)
    assert factory.schema is schema
    assert pickle.loads(pickle.dumps(schema)) is schema
    assert issubclass(cloudpickle.loads(cloudpickle.dumps(schema)), BaseSchema)
    form = unpacked(packed(factory._source.output_form))
    assert form.base_form == factory._source.output_form.base_form
    assert form.tree == factory.treename == factory._source.output_form.tree


def test_what_is_counted_is_what_is_read(submit: Submit, threads: ThreadPoolExecutor) -> None:
    factory = submit()
    out = run(factory, threads, numbers_of)["out"]
    assert len(out["events"]) == len(factory) == factory.report().n_events
    assert np.all(np.diff(sorted(out["events"])) > 0)
