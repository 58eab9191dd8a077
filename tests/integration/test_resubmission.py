"""Earlier transforms: used by id, from the cache of servicex, and after restarts."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import httpx
import pytest
from coffea.nanoevents import BaseSchema, NanoAODSchema, NanoEventsFactory
from servicex import query
from servicex.configuration import Configuration
from servicex.query_cache import QueryCache
from support.paces import FAST
from support.strategies import submit_dimuons

from coffea_sx import ServiceXEventsFactory
from coffea_sx.dataset import object_name
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.errors import (
    BadInput,
    DatasetError,
    DeadlineExceeded,
    FormError,
    QueryError,
    TransformCanceled,
    TransformError,
    TransformGone,
    TransformStalled,
)
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import PollPolicy
from coffea_sx.servicex import cache as submission_cache

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PACE = PollPolicy(busy_s=0.02, idle_s=0.1, settle_s=0.3)

# A notebook: submits, computes, and prints its progress.
NOTEBOOK = """
import sys
from coffea.nanoevents import NanoEventsFactory
import coffea_sx
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query

factory = NanoEventsFactory.from_servicex(
    dimuon_query(), sys.argv[2:], config_path=sys.argv[1], schemaclass=SelectionSchema
)
print(factory.request_id, flush=True)
print(len(factory.events().event.compute(scheduler="synchronous")), flush=True)
"""

DELIVER = """
import sys
from servicex import dataset, deliver
from coffea_sx.demo.analysis import dimuon_query

spec = {
    "Sample": [
        {
            "Name": "delivered",
            "Dataset": dataset.FileList(sys.argv[2:]),
            "Query": dimuon_query(),
        }
    ]
}
print(*deliver(spec, config_path=sys.argv[1], progress_bar="none")["delivered"])
"""

Submit = Callable[..., Any]


def run_query(input_filenames=None):  # type: ignore[no-untyped-def]
    import uproot

    with uproot.open({input_filenames: "Events"}) as tree:
        return tree.arrays(["MET_pt"])


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServiceX]:
    with LocalServiceX(python=True) as running:
        yield running


@pytest.fixture
def config(server: LocalServiceX, tmp_path: Path) -> Path:
    """A servicex.yaml with a cache of its own."""
    return configured(server, tmp_path)


def configured(server: LocalServiceX, directory: Path) -> Path:
    path = directory / "servicex.yaml"
    path.write_text(f"{server.servicex_yaml()}cache_path: {directory / 'cache'}\n")
    return path


@pytest.fixture
def submit(config: Path, nano_files: list[str]) -> Submit:
    def submitted(files: list[str] | None = None, **options: Any) -> Any:
        return NanoEventsFactory.from_servicex(
            dimuon_query(),
            nano_files[:2] if files is None else files,
            schemaclass=SelectionSchema,
            **{"pace": PACE, "config_path": config, **options},
        )

    return submitted


@pytest.fixture
def forget() -> Callable[[], None]:
    """Return a function after which this process has submitted nothing, like another one."""
    return submission_cache.forget


def n_submitted(server: LocalServiceX) -> int:
    return sum(
        (exchange.method, exchange.path) == ("POST", "/servicex/transformation")
        for exchange in server.exchanges
    )


def numbers(factory: Any) -> list[int]:
    found: list[int] = factory.events().event.compute(scheduler="synchronous").to_list()
    return found


def delete(server: LocalServiceX, request_id: str) -> None:
    """Delete a transform as users may, and as servers do after a while."""
    url = f"{server.url}/servicex/transformation/{request_id}"
    httpx.delete(url).raise_for_status()


def run(script: str, config: Path, files: list[str]) -> list[str]:
    """Run a script in a process of its own; return the words that it prints."""
    command = [sys.executable, "-c", script, str(config), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# -- by id


@pytest.fixture
def from_id(server: LocalServiceX, nano_files: list[str]) -> Submit:
    def taken_up(request_id: str, files: Any = None, **options: Any) -> Any:
        defaults = {"input_form": {nano_files[0]: "Events"}, "url": server.url}
        return ServiceXEventsFactory.from_request_id(
            request_id, files, schemaclass=SelectionSchema, **{"pace": FAST, **defaults, **options}
        )

    return taken_up


@pytest.mark.parametrize("steps", [1, 2])
def test_a_request_has_the_same_partitions(
    submit: Submit, from_id: Submit, nano_files: list[str], steps: int
) -> None:
    files = [nano_files[i] for i in (2, 0, 1)]
    first = submit(files, title="my title", steps_per_file=steps)
    again = from_id(first.request_id, steps_per_file=steps, metadata={"dataset": "dy"})
    assert again.request_id == first.request_id
    assert again.npartitions == first.npartitions == 3 * steps
    assert [file["input_file"] for file in again.files] == files
    assert again.form == first.form
    assert again.status().title == "my title"
    assert again.events().metadata["dataset"] == "dy"
    for i in range(first.npartitions):
        parts = [factory.events().partitions[i].event.compute() for factory in (first, again)]
        assert ak.array_equal(*parts)


def test_a_request_is_read_in_the_order_of_a_list(
    submit: Submit, from_id: Submit, nano_files: list[str]
) -> None:
    first = submit(nano_files[:3])
    files = [nano_files[i] for i in (1, 2, 0)]
    again = from_id(first.request_id, files)
    events = again.events()
    found = [events.partitions[i].event.compute()[0] // 500 for i in range(3)]
    assert found == [1, 2, 0]
    assert sorted(numbers(again)) == numbers(first)
    with pytest.raises(DatasetError, match="twice"):
        from_id(first.request_id, files[:1] * 2)
    with pytest.raises(DatasetError, match=re.escape(f"{nano_files[1]!r} is not in it")):
        from_id(first.request_id, [nano_files[0], nano_files[2]])
    with pytest.raises(DatasetError, match=re.escape(f"{nano_files[5]!r} is none of them")):
        from_id(first.request_id, [*files[:2], nano_files[5]])


def test_a_code_generator_is_derived_from_the_query(
    server: LocalServiceX, from_id: Submit, nano_files: list[str]
) -> None:
    raw = query.UprootRaw({"treename": "Events", "filter_name": ["run", "event", "lumi*"]})
    first = NanoEventsFactory.from_servicex(
        raw, nano_files[:1], url=server.url, schemaclass=SelectionSchema, pace=FAST
    )
    assert numbers(from_id(first.request_id)) == numbers(first)


def test_an_ambiguous_code_generator_is_a_needed_argument(
    server: LocalServiceX, from_id: Submit, nano_files: list[str]
) -> None:
    def run_query(input_filenames=None):  # type: ignore[no-untyped-def]
        import uproot

        with uproot.open({input_filenames: "Events"}) as tree:
            return {"servicex": tree.arrays(["run", "luminosityBlock", "event"])}

    function = query.PythonFunction().with_uproot_function(run_query)
    with pytest.warns(UserWarning, match="cannot be derived from the query"):
        first = NanoEventsFactory.from_servicex(
            function, nano_files[:1], url=server.url, schemaclass=SelectionSchema, pace=FAST
        )
    with pytest.raises(QueryError, match="give it as codegen="):
        from_id(first.request_id)
    with pytest.warns(UserWarning, match="cannot be derived from the query"):
        again = from_id(first.request_id, codegen="python")
    assert numbers(again) == numbers(first) == list(range(500))


def test_an_unknown_request_is_reported_first(server: LocalServiceX, from_id: Submit) -> None:
    before = len(server.exchanges)
    with pytest.raises(TransformGone, match=UNKNOWN) as caught:
        # Nothing is derived either, of a sample that does not exist.
        from_id(UNKNOWN, input_form={"/no/such/file.root": "Events"})
    assert caught.value.request_id == UNKNOWN
    (exchange,) = list(server.exchanges)[before:]
    assert (exchange.method, exchange.path) == ("GET", f"/servicex/transformation/{UNKNOWN}")


@pytest.mark.parametrize(
    ("request_id", "message"),
    [
        ("242", "A number is that of a row"),
        ("", "is not the id of a request"),
        ("  ", "is not the id of a request"),
        (None, "request_id=None is not the id"),
        (242, "request_id=242 is not the id"),
        (b"d8574447-e5e2-40ff-a0c4-bde618f1483f", "is not the id"),
        ("d8574447-e5e2-40ff-a0c4-bde618f1483f/results", "is not the id"),
        ("d8574447", "`servicex transforms list` shows them"),
        ("../servicex", "factory.request_id"),
    ],
)
def test_an_invalid_id_is_refused_without_a_request(
    server: LocalServiceX, from_id: Submit, request_id: Any, message: str
) -> None:
    before = len(server.exchanges)
    with pytest.raises(BadInput, match=re.escape(message)):
        from_id(request_id)
    assert len(server.exchanges) == before


def test_an_id_may_have_capitals_and_spaces(submit: Submit, from_id: Submit) -> None:
    first = submit()
    assert from_id(f" {first.request_id.upper()}\n").request_id == first.request_id


# -- the cache of servicex


@pytest.mark.slow
def test_another_process_submits_nothing_new(
    server: LocalServiceX, submit: Submit, config: Path, nano_files: list[str]
) -> None:
    first = submit(ignore_cache=True)  # this process has it from tests with other caches
    before = n_submitted(server)
    assert run(NOTEBOOK, config, nano_files[:2]) == [first.request_id, str(len(numbers(first)))]
    assert n_submitted(server) == before


def test_the_cache_has_submissions_of_other_processes(
    server: LocalServiceX, submit: Submit, forget: Callable[[], None], nano_files: list[str]
) -> None:
    first = submit(title="a title")
    forget()
    before = n_submitted(server)
    # Neither titles nor the order of files make another transform.
    again = submit(nano_files[1::-1], title="another")
    assert again.request_id == first.request_id
    assert n_submitted(server) == before
    assert [file["input_file"] for file in again.files] == nano_files[1::-1]
    assert sorted(numbers(again)) == numbers(first)
    forget()
    assert submit(nano_files[:3]).request_id != first.request_id


@pytest.mark.slow
def test_a_delivery_of_servicex_is_reused(
    server: LocalServiceX,
    submit: Submit,
    forget: Callable[[], None],
    config: Path,
    nano_files: list[str],
) -> None:
    forget()
    before = n_submitted(server)
    paths = run(DELIVER, config, nano_files[:2])
    assert len(paths) == 2
    factory = submit()
    assert factory.status().title == "delivered"
    assert len(numbers(factory)) > 500
    assert n_submitted(server) == before + 1


@pytest.mark.long
def test_a_deleted_delivery_of_servicex_is_replaced_once(
    server: LocalServiceX,
    submit: Submit,
    forget: Callable[[], None],
    config: Path,
    nano_files: list[str],
) -> None:
    def names() -> list[str]:
        with closing(QueryCache(Configuration.read(str(config)))) as cache:
            assert [entry.title for entry in cache.cached_queries()] == ["delivered"]
            return [entry["request_id"] for entry in cache.queries_in_state("SUBMITTED")]

    forget()
    files = nano_files[5:7]
    paths = run(DELIVER, config, files)
    first = submit(files)
    expected = numbers(first)
    delete(server, first.request_id)
    before = n_submitted(server)
    again = submit(files)
    assert numbers(again) == expected
    for _ in range(2):
        forget()
        assert submit(files).request_id == again.request_id
    printed = [again.request_id, str(len(expected))]
    assert run(NOTEBOOK, config, files) == printed
    assert n_submitted(server) == before + 1
    # What was downloaded is as good as before, and returned at once.
    assert names() == [again.request_id]
    assert run(DELIVER, config, files) == paths
    assert n_submitted(server) == before + 1
    # The same holds if the replacement is deleted too.
    delete(server, again.request_id)
    forget()
    third = submit(files)
    forget()
    assert submit(files).request_id == third.request_id
    assert names() == [third.request_id]
    assert n_submitted(server) == before + 2


@pytest.mark.long
def test_lost_downloads_are_replaced_for_servicex_too(
    server: LocalServiceX,
    submit: Submit,
    forget: Callable[[], None],
    config: Path,
    nano_files: list[str],
) -> None:
    forget()
    files = nano_files[6:8]
    paths = run(DELIVER, config, files)
    first = submit(files)
    Path(paths[0]).unlink()
    # The server still has it.
    forget()
    assert submit(files).request_id == first.request_id
    delete(server, first.request_id)
    again = submit(files)
    before = n_submitted(server)
    new = run(DELIVER, config, files)
    assert n_submitted(server) == before
    assert all(Path(path).is_file() and again.request_id in path for path in new)
    forget()
    assert submit(files).request_id == again.request_id


def test_servers_that_share_a_cache_submit_once_each(
    server: LocalServiceX, submit: Submit, config: Path, forget: Callable[[], None]
) -> None:
    with LocalServiceX() as other:
        head = "api_endpoints:\n"
        extended = f"{head}  - endpoint: {other.url}\n    name: other\n"
        config.write_text(config.read_text().replace(head, extended))
        before = n_submitted(server)
        found = []
        for _ in range(3):
            for backend in ("local", "other"):
                forget()
                found.append(submit(backend=backend).request_id)
        # The first of both was replaced by that of the other, once.
        assert n_submitted(server) - before == 2
        assert n_submitted(other) == 1
        assert found[2:4] == found[4:6]


def test_without_a_servicex_yaml_no_cache_is_used(
    server: LocalServiceX, submit: Submit, config: Path, forget: Callable[[], None]
) -> None:
    first = submit(config_path=None, url=server.url, ignore_cache=True)
    forget()
    assert submit(config_path=None, url=server.url).request_id != first.request_id
    assert not (config.parent / "cache").exists()


def test_ignore_cache_submits_again_and_is_remembered(
    submit: Submit, forget: Callable[[], None]
) -> None:
    first = submit()
    second = submit(ignore_cache=True)
    assert second.request_id != first.request_id
    assert submit().request_id == second.request_id
    forget()
    assert submit().request_id == second.request_id


@pytest.mark.sampled(2)
@pytest.mark.parametrize("is_forgotten", [False, True], ids=["this process", "another"])
def test_a_request_that_was_deleted_is_submitted_again(
    server: LocalServiceX, submit: Submit, forget: Callable[[], None], is_forgotten: bool
) -> None:
    first = submit()
    expected = numbers(first)
    delete(server, first.request_id)
    if is_forgotten:
        forget()
    again = submit()
    assert again.request_id != first.request_id
    assert numbers(again) == expected
    forget()
    assert submit().request_id == again.request_id


@pytest.mark.sampled(2)
@pytest.mark.parametrize("is_forgotten", [False, True], ids=["this process", "another"])
def test_a_request_whose_bucket_is_gone_is_submitted_again(
    server: LocalServiceX,
    submit: Submit,
    forget: Callable[[], None],
    nano_files: list[str],
    is_forgotten: bool,
) -> None:
    first = submit(nano_files[4:6])
    expected = numbers(first)
    shutil.rmtree(server.directory / "objects" / first.request_id)
    if is_forgotten:
        forget()
    again = submit(nano_files[4:6])
    assert again.request_id != first.request_id
    assert numbers(again) == expected
    # For every process.
    forget()
    assert submit(nano_files[4:6]).request_id == again.request_id


def test_reusing_a_transform_takes_two_requests(
    server: LocalServiceX, submit: Submit, nano_files: list[str]
) -> None:
    first = submit(nano_files[2:5])
    numbers(first)
    before = len(server.exchanges)
    assert submit(nano_files[2:5]).request_id == first.request_id
    status = ("GET", f"/servicex/transformation/{first.request_id}")
    urls = ("POST", "/servicex/transformation/file-urls")
    one_result = ("GET", f"/{first.request_id}/{object_name(nano_files[2])}")

    def requests() -> list[tuple[str, str]]:
        return [(exchange.method, exchange.path) for exchange in list(server.exchanges)[before:]]

    # They are noted when they are over, which may be after the answer has come.
    wait_for(lambda: {status, urls, one_result} <= set(requests()))
    assert [requests().count(request) for request in (status, urls, one_result)] == [1, 1, 1]
    assert not any(path.endswith("/results") for _, path in requests())


def test_a_request_in_which_files_failed_is_submitted_again(
    submit: Submit, nano_files: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.root"
    bad.write_bytes(b"root" + bytes(2000))
    options = {"on_failure": "skip", "input_form": {nano_files[0]: "Events"}}
    first = submit([str(bad)], **options)
    first.events()[0].event.compute()
    # Who leaves them out is content with what there is.
    assert submit([str(bad)], **options).request_id == first.request_id
    shutil.copy(nano_files[0], bad)
    again = submit([str(bad)])
    assert again.request_id != first.request_id
    assert len(numbers(again)) > 100


def test_a_corrupt_cache_is_only_a_warning_in_the_log(
    config: Path, submit: Submit, forget: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache = config.parent / "cache" / ".servicex"
    cache.mkdir(parents=True)
    (cache / "db.json").write_text('{"_default": {"1": ')
    with caplog.at_level(logging.WARNING, logger="coffea_sx"):
        first = submit()
    assert len(numbers(first)) > 100
    messages = [
        record.getMessage() for record in caplog.records if record.name.startswith("coffea_sx")
    ]
    assert messages
    assert all(message.startswith("The cache of servicex cannot be used") for message in messages)
    assert submit().request_id == first.request_id


# -- restarts


class Held:
    """Holds all files but the first until they are released."""

    def __init__(self, first: str) -> None:
        self.first = first
        self.released = threading.Event()

    async def __call__(self, path: str) -> None:
        while path != self.first and not self.released.is_set():
            await asyncio.sleep(0.01)


@pytest.mark.sampled(5)
@pytest.mark.filterwarnings("ignore:.*lists its results only when a transform is over")
@pytest.mark.parametrize("generation", ["2026", "2025", "1.5"])
@pytest.mark.parametrize(
    ("limit", "kind"), [("stall_s", TransformStalled), ("deadline_s", DeadlineExceeded)]
)
def test_a_stalled_transform_is_canceled_before_a_retry(
    nano_files: list[str], generation: str, limit: str, kind: type[TransformError]
) -> None:
    held = Held(nano_files[1])
    with LocalServiceX(before_report=held, generation=generation) as server:
        define = partial(submit_dimuons, server, nano_files[:3])
        factory = define(pace=PACE)
        wait_for(lambda: factory.status().n_completed == 1)
        with pytest.raises(kind):
            numbers(define(pace=replace(PACE, **{limit: 0.2})))
        assert define(pace=PACE).request_id == factory.request_id
        with pytest.raises(BadInput, match=r"has not delivered [23] input files.*cancel\(\), then"):
            factory.retry_failed()
        assert n_submitted(server) == 1
        factory.cancel()
        held.released.set()
        again = factory.retry_failed()
        # The file that was delivered before is read from there.
        requests = [file.request_id for file in again.report().inputs]
        assert requests == [again.request_id, factory.request_id, again.request_id]
        assert sorted({number // 500 for number in numbers(again)}) == [0, 1, 2]
        assert again.counts.delivered == 3


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_canceled_transform_without_waits_is_retried(nano_files: list[str]) -> None:
    held = Held("none")
    with LocalServiceX(before_report=held) as server:
        factory = submit_dimuons(server, nano_files[:2], pace=PACE)
        # It still runs, and no wait for it was given up.
        assert factory.retry_failed() is factory
        factory.cancel()
        held.released.set()
        again = factory.retry_failed()
        assert again.request_id != factory.request_id
        assert len(numbers(again)) > 100
        with pytest.raises(TransformCanceled):
            numbers(factory)


def test_a_deleted_transform_is_submitted_as_a_whole(nano_files: list[str]) -> None:
    held = Held("none")
    with LocalServiceX(before_report=held) as server:
        factory = submit_dimuons(server, nano_files[:2], pace=PACE)
        factory.cancel()
        delete(server, factory.request_id)
        with pytest.raises(TransformGone, match="Submit its query again"):
            factory.retry_failed()


def test_the_server_restarts_in_the_middle(nano_files: list[str], tmp_path: Path) -> None:
    held = Held(nano_files[0])
    first = LocalServiceX(tmp_path, before_report=held).start()
    port = int(first.url.rpartition(":")[2])
    second = LocalServiceX(tmp_path, port=port)
    try:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(),
            nano_files[:4],
            url=first.url,
            schemaclass=SelectionSchema,
            pace=PACE,
        )
        events = factory.events()
        before = events.partitions[0].event.compute(scheduler="synchronous")
        with ThreadPoolExecutor(1) as pool:
            computing = pool.submit(events.event.compute, scheduler="synchronous")
            first.stop()
            assert not computing.done()
            second.start()
            after = computing.result(60)
        assert factory.status().n_completed == 4
        assert ak.array_equal(after[: len(before)], before)
        assert sorted(set((after // 500).to_list())) == [0, 1, 2, 3]
        assert n_submitted(first) + n_submitted(second) == 1
    finally:
        first.stop()
        second.stop()


def test_a_notebook_restarts_in_the_middle(nano_files: list[str], tmp_path: Path) -> None:
    held = Held(nano_files[0])
    with LocalServiceX(before_report=held) as server:
        config = configured(server, tmp_path)
        command = [sys.executable, "-c", NOTEBOOK, str(config), *nano_files[:4]]
        notebook = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert notebook.stdout is not None
        with notebook, notebook.stdout:
            request_id = notebook.stdout.readline().strip()
            notebook.send_signal(signal.SIGKILL)
            assert notebook.stdout.read() == ""
        held.released.set()
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(),
            nano_files[:4],
            config_path=config,
            schemaclass=SelectionSchema,
            pace=FAST,
        )
        assert factory.request_id == request_id
        assert sorted({number // 500 for number in numbers(factory)}) == [0, 1, 2, 3]
        assert n_submitted(server) == 1


def test_lists_of_one_request_do_not_mix_in_one_computation(
    server: LocalServiceX, from_id: Submit, nano_files: list[str]
) -> None:
    # The cache of servicex takes lists of another order for the same request.
    first = NanoEventsFactory.from_servicex(
        dimuon_query(), nano_files[:2], url=server.url, schemaclass=SelectionSchema, pace=FAST
    )
    other = from_id(first.request_id, nano_files[:2][::-1])
    collections = [factory.events().event for factory in (first, other)]
    assert collections[0].name != collections[1].name
    alone = [array.compute(scheduler="synchronous").to_list() for array in collections]
    together = dask.compute(*collections, scheduler="synchronous")
    assert [array.to_list() for array in together] == alone
    assert alone[0] == [*alone[1][len(alone[1]) // 2 :], *alone[1][: len(alone[1]) // 2]]


def test_a_mistake_after_submitting_does_not_affect_the_next_try(
    server: LocalServiceX, nano_files: list[str]
) -> None:
    """As in a notebook, whose last traceback holds everything."""

    def define(schema: Any) -> Any:
        function = query.PythonFunction().with_uproot_function(run_query)
        return NanoEventsFactory.from_servicex(
            function, nano_files[:2], url=server.url, schemaclass=schema, pace=FAST
        )

    with pytest.warns(UserWarning, match="first"), pytest.raises(FormError):
        define(NanoAODSchema)
    with pytest.warns(UserWarning, match="first"):
        factory = define(BaseSchema)
    assert len(factory.events().MET_pt.compute(scheduler="synchronous")) == 1000
