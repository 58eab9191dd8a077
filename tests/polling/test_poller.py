"""The poller: tasks that wait for a file get its outcome, and every wait ends."""

from __future__ import annotations

import asyncio
import gc
import math
import pickle
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
from support.strategies import Answer, row, say, status_json

from coffea_sx.dataset import InputFiles
from coffea_sx.errors import (
    BadInput,
    CorruptFile,
    CountMismatch,
    OwnerLost,
    ServerError,
    ServiceXError,
    TransformCanceled,
    TransformFailed,
    TransformFatal,
    TransformGone,
    TransformStalled,
    Unreachable,
)
from coffea_sx.graph.resolve import allow_failure
from coffea_sx.graph.routing import TransformHandle
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import LENIENT, STRICT, FailurePolicy, PollPolicy
from coffea_sx.polling.outcomes import Delivered, Failed, Read
from coffea_sx.polling.poller import Poller
from coffea_sx.polling.registry import TransformAddress, get_poller
from coffea_sx.servicex.config import EndpointName
from coffea_sx.servicex.models import LISTS_RESULTS

FAST = PollPolicy(busy_s=0.02, idle_s=0.05, stall_s=1.0, settle_s=0.3, outage_s=1.0)


# -- with a real server


def test_waiting_in_any_order(servicex, watching, selection, nano_files):
    poller = watching(servicex, selection, nano_files)
    order = list(range(len(nano_files)))
    random.Random(3).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        outcomes = dict(zip(order, pool.map(poller.wait, order), strict=True))
    for i, path in enumerate(nano_files):
        assert isinstance(outcomes[i], Delivered)
        assert (outcomes[i].index, outcomes[i].input_file) == (i, path)
        assert outcomes[i].n_events == 500
        assert poller.is_ready(i)
        assert poller.wait(i) is outcomes[i]
    assert poller.results.is_complete


def test_a_file_is_ready_before_the_others(nano_files, selection, watching):
    released = threading.Event()

    async def before_report(path):
        while path != nano_files[2] and not released.is_set():
            await asyncio.sleep(0.01)

    with LocalServiceX(workers=3, before_report=before_report) as server:
        poller = watching(server, selection, nano_files[:3])
        assert isinstance(poller.wait(2), Delivered)
        assert not poller.is_ready(0)
        released.set()
        assert isinstance(poller.wait(0), Delivered)
        poller.close()


@pytest.fixture
def a_bad_file_of_eight(nano_files, tmp_path):
    bad = tmp_path / "bad.root"
    bad.write_bytes(b"root" + bytes(300))
    return [*nano_files[:3], str(bad), *nano_files[4:]]


def test_a_failed_file_with_raise(servicex, watching, selection, a_bad_file_of_eight):
    poller = watching(servicex, selection, a_bad_file_of_eight)
    with pytest.raises(TransformFailed) as caught:
        poller.wait(3)
    error = caught.value
    assert error.input_file == a_bad_file_of_eight[3]
    assert error.request_id == poller.address.request_id
    assert error.reason
    assert all(part in str(error) for part in (a_bad_file_of_eight[3], error.reason, "skip"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    for i in range(8):
        with pytest.raises(TransformFailed):
            poller.wait(i)


def test_a_failed_file_with_skip(servicex, watching, selection, a_bad_file_of_eight):
    poller = watching(servicex, selection, a_bad_file_of_eight)
    outcomes = [poller.wait(i, failure_policy=LENIENT) for i in range(8)]
    assert [isinstance(o, Failed) for o in outcomes] == [i == 3 for i in range(8)]
    assert outcomes[3].reason
    assert outcomes[3].input_file == a_bad_file_of_eight[3]
    assert poller.ending is None


def start_held(nano_files, watching, selection, n=3):
    """Start a server that never reports, and poll a transform of it."""

    async def before_report(path):
        await asyncio.sleep(3600)

    server = LocalServiceX(workers=1, before_report=before_report).start()
    return server, watching(server, selection, nano_files[:n])


def test_cancel_ends_every_wait(nano_files, watching, selection):
    server, poller = start_held(nano_files, watching, selection)
    try:
        with ThreadPoolExecutor(3) as pool:
            waits = [pool.submit(poller.wait, i) for i in range(3)]
            time.sleep(0.2)
            poller.client.cancel(poller.address.request_id)
            for wait in waits:
                with pytest.raises(TransformCanceled, match="0 of 3") as caught:
                    wait.result(10)
                assert caught.value.request_id == poller.address.request_id
        with pytest.raises(TransformCanceled):
            poller.wait(0)
    finally:
        poller.close()
        server.stop()


def test_a_deleted_transform_is_gone(nano_files, watching, selection):
    server, poller = start_held(nano_files, watching, selection)
    try:
        request_id = poller.address.request_id
        poller.client.cancel(request_id)
        url = f"{server.url}/servicex/transformation/{request_id}"
        httpx.delete(url).raise_for_status()
        with pytest.raises(TransformGone, match=request_id):
            poller.wait(0)
    finally:
        poller.close()
        server.stop()


def test_close_ends_waits(nano_files, watching, selection):
    server, poller = start_held(nano_files, watching, selection)
    try:
        with ThreadPoolExecutor(2) as pool:
            waits = [pool.submit(poller.wait, i) for i in range(2)]
            time.sleep(0.2)
            poller.close()
            for wait in waits:
                with pytest.raises(OwnerLost, match="closed"):
                    wait.result(5)
        with pytest.raises(OwnerLost):
            poller.wait(0)
        assert not polling_threads()
    finally:
        server.stop()


def polling_threads():
    return [t for t in threading.enumerate() if t.name.startswith("coffea_sx-poller")]


def test_nothing_is_requested_before_a_task_waits(servicex, watching, selection, nano_files):
    poller = watching(servicex, selection, nano_files[:1])
    request_id = poller.address.request_id
    time.sleep(0.3)
    assert not any(request_id in e.path for e in servicex.exchanges)
    assert not poller.is_ready(0)
    assert not polling_threads()
    poller.wait(0)
    assert any(request_id in e.path for e in servicex.exchanges)


def test_nothing_is_requested_when_all_outcomes_are_there(
    servicex, watching, selection, nano_files
):
    poller = watching(servicex, selection, nano_files[:2])
    for i in range(2):
        poller.wait(i)
    deadline = time.monotonic() + 5
    while polling_threads() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not polling_threads()
    n = len(servicex.exchanges)
    poller.wait(0)
    poller.wait(1)
    time.sleep(0.2)
    assert len(servicex.exchanges) == n


def test_no_thread_is_left_when_no_graph_holds_the_poller(nano_files, client_of, selection):
    async def before_report(path):
        await asyncio.sleep(3600)

    with LocalServiceX(workers=1, before_report=before_report) as server:
        client = client_of(server.url)
        request_id = client.submit(selection, did=None, files=nano_files[:1])
        address = TransformAddress(request_id, client.endpoint.name)
        poller = Poller(client, address, InputFiles(tuple(nano_files[:1])), FAST)
        poller.start()
        time.sleep(0.1)
        assert polling_threads()
        assert get_poller(address) is poller
        del poller
        gc.collect()
        deadline = time.monotonic() + 5
        while polling_threads() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not polling_threads()
        assert get_poller(address) is None


def test_subscribers_are_notified_of_every_entry(servicex, watching, selection, nano_files):
    poller = watching(servicex, selection, nano_files[:4])
    entries = []

    def note():
        entries.append((len(poller.outcomes), poller.ending))

    poller.results.subscribe(note)
    for i in range(4):
        poller.wait(i)
    deadline = time.monotonic() + 5
    while (4, None) not in entries and time.monotonic() < deadline:
        time.sleep(0.01)
    assert entries[-1] == (4, None)
    assert sorted(set(entries)) == entries
    poller.results.unsubscribe(note)
    poller.results.unsubscribe(note)


# -- with servers that misbehave


class Scripted:
    """Plays a transform: ``rows`` and ``status`` may change, ``fault`` may replace a response."""

    def __init__(self, rows=(), status="Running"):
        self.rows, self.status, self.fault = list(rows), status, None

    def __call__(self, request):
        fault = self.fault(request) if self.fault else None
        if fault is not None:
            return fault
        if request.path.partition("?")[0].endswith("/results"):
            return say({"results": request.later(self.rows)})
        if request.path.endswith("/file-urls"):
            names = request.json["file_list"]
            return say({"uris": {n: [f"http://127.0.0.1/{n}", {}, 4e9] for n in names}})
        if request.path == "/servicex":
            return say({"app-version": "1", "code-gen-image": {}, "capabilities": [LISTS_RESULTS]})
        return say(status_json(self.status))


@pytest.fixture
def poller_of(scripted, client_of):
    """Poll a scripted transform of two files: ``poller_of(play, pace)``."""
    pollers = []

    def make(play, pace=FAST, patience_s=0.3, kind=Poller):
        client = client_of(scripted(play).url, patience_s)
        address = TransformAddress("d857", EndpointName(None, client.endpoint.url, None))
        pollers.append(kind(client, address, InputFiles(("/a.root", "/b.root")), pace))
        return pollers[-1]

    yield make
    for poller in pollers:
        poller.close()


A, B = row(1, "/a.root"), row(2, "/b.root")


def within(seconds, function, *args):
    """Call a function that must end in time."""
    start = time.monotonic()
    try:
        return function(*args)
    finally:
        assert time.monotonic() - start < seconds


def test_complete_with_a_row_missing(poller_of):
    poller = poller_of(Scripted([A], "Complete"))
    assert poller.wait(0).index == 0
    with pytest.raises(CountMismatch, match=r"1 of 2.*/b\.root") as caught:
        within(3, poller.wait, 1)
    assert (caught.value.done, caught.value.total) == (1, 2)


def test_a_row_that_is_committed_after_the_end(poller_of):
    play = Scripted([A], "Complete")
    poller = poller_of(play)
    poller.wait(0)
    threading.Timer(0.15, play.rows.append, [B]).start()
    assert poller.wait(1).index == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [("Canceled", TransformCanceled), ("Fatal", TransformFatal), ("Bad Dataset", ServiceXError)],
)
def test_other_ends(poller_of, status, kind):
    poller = poller_of(Scripted([A], status))
    with pytest.raises(kind) as caught:
        within(3, poller.wait, 1)
    assert "d857" in str(caught.value)
    assert poller.wait(0).index == 0


def test_a_bad_dataset_has_not_stalled(poller_of):
    poller = poller_of(Scripted([], "Bad Dataset"))
    with pytest.raises(ServiceXError) as caught:
        within(3, poller.wait, 0)
    assert not isinstance(caught.value, TransformStalled)


def test_an_unknown_status_is_no_end(poller_of):
    play = Scripted([A], "Reticulating")
    poller = poller_of(play)
    poller.wait(0)
    time.sleep(0.2)
    play.rows.append(B)
    assert poller.wait(1).index == 1


def test_a_stall_ends_and_waiting_again_waits_again(poller_of):
    play = Scripted([A])
    poller = poller_of(play)
    with pytest.raises(TransformStalled, match=r"1 of 2.*/b\.root"):
        within(4, poller.wait, 1)
    play.rows.append(B)
    assert poller.wait(1).index == 1


def test_canceled_that_becomes_complete(poller_of):
    """Terminal states of servers of 2024 are not final, but an ending stays."""
    play = Scripted([A], "Canceled")
    poller = poller_of(play)
    with pytest.raises(TransformCanceled):
        poller.wait(1)
    play.status, play.rows = "Complete", [A, B]
    with pytest.raises(TransformCanceled):
        poller.wait(1)


def test_an_outage_is_survived_and_warned_of_once(poller_of):
    play = Scripted([A])
    poller = poller_of(play, replace(FAST, outage_s=30.0), patience_s=0.1)
    poller.wait(0)
    play.fault = lambda request: Answer(503)
    threading.Timer(1.5, lambda: (play.rows.append(B), setattr(play, "fault", None))).start()
    with pytest.warns(UserWarning, match=r"\[503\].* It is asked again for up to 30 s\.") as warned:
        assert poller.wait(1).index == 1
    assert len(warned) == 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "fault", [Answer(503), Answer(502), Answer(200, b"{", claims=9, fault="reset")]
)
def test_an_outage_ends(poller_of, fault):
    play = Scripted([A])
    poller = poller_of(play)
    poller.wait(0)
    play.fault = lambda request: fault
    with pytest.raises(ServerError) as caught:
        within(4, poller.wait, 1)
    for part in ["request d857", "1 of 2", "'/b.root' was not", "computing again"]:
        assert part in str(caught.value)
    assert (caught.value.done, caught.value.missing) == (1, ["/b.root"])


class Unjudgeable(Exception):
    """An error that makes whatever looks at its status fail."""

    @property
    def status(self):
        raise ZeroDivisionError


class BrokenClient:
    """A client that fails in a way that no code expects."""

    def __getattr__(self, name):
        raise Unjudgeable


def test_a_mistake_of_ours_leaves_no_task_waiting(poller_of):
    poller = poller_of(Scripted([A]))
    poller.wait(0)
    poller.client = BrokenClient()
    for _ in range(2):
        with pytest.raises(ServerError, match="The poller failed: ZeroDivisionError"):
            within(4, poller.wait, 1)


def test_after_an_outage_waiting_again_asks_again(poller_of):
    play = Scripted([A, B])
    play.fault = lambda request: Answer(503)
    poller = poller_of(play)
    with pytest.raises(ServerError):
        poller.wait(0)
    play.fault = None
    assert poller.wait(0).index == 0


def test_no_server_at_the_address(client_of, closed_port):
    client = client_of(f"http://127.0.0.1:{closed_port}", 0.2)
    address = TransformAddress("gone", EndpointName(None, client.endpoint.url, None))
    poller = Poller(client, address, InputFiles(("/a.root",)), FAST)
    with pytest.raises(Unreachable):
        within(4, poller.wait, 0)
    poller.close()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>"),
        say([]),
        say({"results": None}),
        say({"results": [{}]}),
        say({"results": [{**A, "id": None}, B]}),
        say({"results": [{**A, "total-events": "many"}]}),
    ],
)
def test_nonsense_ends(poller_of, answer):
    play = Scripted()
    play.fault = lambda request: answer if request.path.endswith("/results") else None
    with pytest.raises(ServerError):
        within(4, poller_of(play).wait, 0)


@pytest.mark.parametrize("response", [{}, {"status": None}, []])
def test_a_status_that_is_none(poller_of, response):
    play = Scripted()
    play.fault = lambda request: None if request.path.endswith("/results") else say(response)
    with pytest.raises(ServiceXError):
        within(4, poller_of(play).wait, 0)


def test_duplicate_and_unknown_rows(poller_of):
    play = Scripted([A, {**A, "id": 9, "total-events": 77}, row(5, "/strange.root"), B])
    poller = poller_of(play)
    assert [poller.wait(i).n_events for i in (0, 1)] == [10, 20]


def test_a_failure_without_reasons(poller_of):
    """Servers before 2026 give no reasons."""
    poller = poller_of(Scripted([row(1, "/a.root", failed=True)], "Running"))
    assert poller.wait(0, failure_policy=LENIENT) == Failed(0, "/a.root", None)


def test_reasons_that_cannot_be_had_do_not_hide_the_failure(poller_of):
    play = Scripted([row(1, "/a.root", failed=True)])

    def fault(request):
        if request.path == "/servicex":
            return say(
                {
                    "app-version": "1",
                    "code-gen-image": {},
                    "capabilities": [LISTS_RESULTS, "transformation_errors"],
                }
            )
        return Answer(404) if request.path.endswith("/errors") else None

    play.fault = fault
    with pytest.raises(TransformFailed, match=r"/a\.root") as caught:
        poller_of(play).wait(0)
    assert caught.value.reason is None


def test_several_failures_in_a_response_are_counted(poller_of):
    rows = [row(2, "/b.root", failed=True), row(1, "/a.root", failed=True)]
    with pytest.raises(TransformFailed, match="1 more") as caught:
        poller_of(Scripted(rows)).wait(1)
    assert caught.value.input_file == "/a.root"


def test_a_subscriber_that_fails_does_not_stop_the_poller(poller_of):
    play = Scripted([A])
    poller = poller_of(play)

    def fail():
        raise RuntimeError("a mistake of the subscriber")

    poller.results.subscribe(fail)
    assert poller.wait(0).index == 0
    play.rows.append(B)
    assert within(3, poller.wait, 1).index == 1


# -- what it costs the server


class Counting(Scripted):
    """A transform of many files, and a server that gives URLs."""

    def __init__(self, rows):
        super().__init__(rows)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        if request.path == "/servicex":
            able = [LISTS_RESULTS, "generate_file_urls"]
            return say({"app-version": "1", "code-gen-image": {}, "capabilities": able})
        return super().__call__(request)

    def about(self, what):
        return [request for request in self.requests if what in request.path]


def test_urls_of_all_new_results_are_requested_at_once(poller_of):
    play = Counting([A, B])
    poller = poller_of(play)
    names = [poller.wait(i).object_name for i in range(2)]
    urls = [poller.signed_url(name).url for name in names]
    assert urls == [f"http://127.0.0.1/{name}" for name in names]
    (request,) = play.about("/file-urls")
    assert sorted(request.json["file_list"]) == sorted(names)


def test_urls_that_cannot_be_had_do_not_stop_the_poller(poller_of):
    play = Counting([A])
    play.fault = lambda request: say({}, 404) if "/file-urls" in request.path else None
    poller = poller_of(play)
    name = poller.wait(0).object_name
    with pytest.raises(TransformGone):
        poller.signed_url(name)
    play.rows.append(B)
    assert poller.wait(1).index == 1
    play.fault = None
    assert poller.signed_url(name).url.endswith(name)


def test_of_many_rows_only_the_latest_are_requested(poller_of):
    others = [{**row(n, "/other.root"), "created_at": A["created_at"]} for n in range(10, 60)]
    play = Counting([A, *others])
    poller = poller_of(play)
    poller.wait(0)
    # Its time is a moment before that of the other, and it is seen only now.
    play.rows.append({**B, "created_at": "2026-11-22T14:43:42.000000"})
    assert poller.wait(1).index == 1
    first, *others = play.about("/results")
    assert first.path.endswith("/results")
    assert {request.path.partition("?")[2] for request in others} == {
        "later_than=2026-11-22T14%3A43%3A41.000001%2B00%3A00"
    }


# -- waits that nothing must stop


def test_a_result_without_a_name_does_not_stop_the_poller(poller_of):
    play = Scripted([{**A, "s3-object-name": ""}])
    poller = poller_of(play)
    assert poller.wait(0).object_name == ""
    play.rows.append(B)
    assert within(5, poller.wait, 1).index == 1


class SlowlyResting(Poller):
    """Takes long to find out that no task waits."""

    checked = threading.Event()

    @property
    def is_wanted(self):
        self.checked.set()
        time.sleep(0.2)
        return super().is_wanted


def test_a_coroutine_that_begins_to_wait_as_the_poller_rests(poller_of):
    play = Scripted([A])
    poller = poller_of(play, kind=SlowlyResting)

    async def waits():
        assert await asyncio.to_thread(poller.checked.wait, 20)
        return await asyncio.wait_for(poller.wait_async(1), 10)

    poller.start(0.0)
    play.rows.append(B)
    assert asyncio.run(waits()).index == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("is_coroutine", [False, True])
def test_waiting_again_after_a_stall_waits(poller_of, is_coroutine):
    play = Scripted([A])
    poller = poller_of(play)

    def wait():
        return asyncio.run(poller.wait_async(1)) if is_coroutine else poller.wait(1)

    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(TransformStalled):
            wait()
        assert time.monotonic() - start > 0.9
    assert not poller.is_ready(1)
    play.rows.append(B)
    assert wait().index == 1


def test_nothing_is_requested_for_a_coroutine_that_was_canceled(poller_of):
    poller = poller_of(Scripted([A]))

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(poller.wait_async(1), 0.3)

    asyncio.run(give_up())
    assert not poller.results.is_awaited


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "answer", [Answer(404, b"<html>nginx</html>"), Answer(502), say({}, 503)], ids=str
)
def test_errors_of_a_proxy_are_an_outage(poller_of, answer):
    play = Scripted([A])
    play.fault = lambda request: answer if "/transformation/" in request.path else None
    poller = poller_of(play)
    with pytest.raises(ServerError):
        within(5, poller.wait, 1)
    assert not poller.is_ready(1)
    play.rows.append(B)
    threading.Timer(0.5, setattr, [play, "fault", None]).start()
    assert poller.wait(1).index == 1


def test_a_token_file_that_is_away_for_a_moment(poller_of, tmp_path, monkeypatch):
    token = tmp_path / "token"
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(token))
    token.write_text("first")
    play = Scripted([A])
    poller = poller_of(play)
    poller.wait(0)
    token.unlink()
    play.rows.append(B)
    threading.Timer(0.4, token.write_text, ["second"]).start()
    assert poller.wait(1).index == 1


def test_readers_wait_for_a_server_that_is_restarted(poller_of):
    play = Counting([A])
    poller = poller_of(play)
    play.fault = lambda request: say({}, 503) if "/file-urls" in request.path else None
    name = poller.wait(0).object_name
    threading.Timer(0.6, setattr, [play, "fault", None]).start()
    assert poller.signed_url(name).url.endswith(name)


def test_a_file_with_an_outcome_is_not_requested(poller_of):
    play = Counting([A])
    poller = poller_of(play)
    poller.wait(0)
    until_idle = time.monotonic() + 10
    while polling_threads() and time.monotonic() < until_idle:
        time.sleep(0.05)
    n_requests = len(play.requests)
    poller.wait(0)
    asyncio.run(poller.wait_async(0))
    time.sleep(0.2)
    assert len(play.requests) == n_requests


# -- how many may fail


def test_unreadable_files_count_as_failed_files_in_any_order(poller_of):
    play = Scripted([A])
    poller = poller_of(play)
    handle = TransformHandle(poller.address, FailurePolicy("skip", 1), poller)
    poller.wait(0, failure_policy=handle.failure_policy)
    allow_failure(handle, CorruptFile("no ROOT file"), Read(0, 2, 0, 0, 1.0, "CorruptFile"))
    play.rows.append(row(2, "/b.root", failed=True))
    failed = poller.wait(1, failure_policy=handle.failure_policy)
    with pytest.raises(TransformFailed, match="one of 2 input files that failed"):
        allow_failure(handle, TransformFailed(failed.input_file))
    # A file that is read after all counts no more.
    poller.note_read(Read(0, 2, 0, 500, 2.0))
    allow_failure(handle, TransformFailed(failed.input_file))


def test_files_that_another_transform_delivers_count_no_more(poller_of):
    play = Scripted([A, row(2, "/b.root", failed=True)])
    poller = poller_of(play)
    with pytest.raises(TransformFailed):
        poller.wait(1)
    assert poller.wait(0, failure_policy=STRICT.without([1])).index == 0
    handle = TransformHandle(poller.address, FailurePolicy("skip", 0).without([1]), poller)
    allow_failure(handle, TransformFailed("/b.root"))


def test_on_an_event_loop_a_failure_ends_the_wait_for_its_file_only(poller_of):
    play = Scripted([row(2, "/b.root", failed=True)])
    poller = poller_of(play)

    async def waits():
        first = asyncio.create_task(poller.wait_async(0))
        with pytest.raises(TransformFailed, match=r"/b\.root"):
            await poller.wait_async(1)
        assert not first.done()
        play.rows.append(A)
        return await first

    assert asyncio.run(waits()).index == 0


@pytest.mark.parametrize("max_failed", [2, np.int64(2), 0.5, np.float32(0.5), np.float64(0.5)])
def test_numbers_of_numpy_are_numbers(max_failed):
    failure_policy = FailurePolicy("skip", max_failed).among(5)
    assert failure_policy.allows(2)
    assert not failure_policy.allows(3)
    assert type(failure_policy.max_failed) in (int, float)


@pytest.mark.parametrize("max_failed", [True, np.True_, -1, 1.5, "2", math.nan, math.inf])
def test_max_failed_must_be_a_number_of_files(max_failed):
    with pytest.raises(BadInput, match="max_failed"):
        FailurePolicy("skip", max_failed)
