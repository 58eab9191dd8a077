"""The monitor: one for each server, one request at a time, and every wait ends in time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest
from support.strategies import row, say, status_json

from coffea_sx.dataset import InputFiles
from coffea_sx.errors import DeadlineExceeded, ServerError, TransformStalled
from coffea_sx.policy import PollPolicy
from coffea_sx.polling.monitor import Monitor, monitor_of
from coffea_sx.polling.outcomes import Delivered
from coffea_sx.polling.poller import Poller
from coffea_sx.polling.registry import TransformAddress
from coffea_sx.servicex.config import EndpointName
from coffea_sx.servicex.models import LISTS_RESULTS

INFO = {
    "app-version": "1",
    "code-gen-image": {},
    "capabilities": [LISTS_RESULTS, "generate_file_urls"],
}
PACE = PollPolicy(busy_s=0.1, idle_s=0.3, stall_s=60.0, settle_s=0.3, outage_s=20.0)


class Transforms:
    """Plays transforms of two files each; `rows` has the rows of each by its id."""

    def __init__(self) -> None:
        self.rows: dict[str, list] = {}
        self.requests: list[tuple[float, str]] = []
        self.delays_s: list[float] = []
        self.is_silent = threading.Event()

    def __call__(self, request):
        path = request.path.partition("?")[0]
        if path == "/servicex":
            return say(INFO)
        if path.endswith("/file-urls"):
            self.requests.append((time.monotonic(), "urls"))
            names = request.json["file_list"]
            return say({"uris": {n: [f"http://127.0.0.1/{n}", {}, 4e9] for n in names}})
        self.requests.append((time.monotonic(), path))
        request_id = path.split("/")[3]
        rows = self.rows.get(request_id, [])
        if self.delays_s:
            time.sleep(self.delays_s.pop())
        if self.is_silent.is_set():
            time.sleep(30)
        if path.endswith("/results"):
            return say({"results": rows})
        return say(status_json())

    def times(self, what):
        return [at for at, path in self.requests if (path == "urls") == (what == "urls")]


@pytest.fixture
def play():
    return Transforms()


@pytest.fixture
def pollers_of(scripted, client_of, play):
    """Poll so many transforms of one server."""
    server = scripted(play)
    client = client_of(server.url)
    pollers = []

    def make(n, pace=PACE):
        for i in range(n):
            address = TransformAddress(f"d857-{i}", EndpointName(None, client.endpoint.url, None))
            files = InputFiles((f"/{i}/a.root", f"/{i}/b.root"))
            pollers.append(Poller(client, address, files, pace, "root-file"))
        return pollers

    yield make
    for poller in pollers:
        poller.close()


def wait(poller, index=0):
    try:
        return poller.wait(index)
    except ServerError as error:
        return error
    except (DeadlineExceeded, TransformStalled) as error:
        return error


def gaps(times):
    return [later - sooner for sooner, later in pairwise(times)]


def test_many_transforms_cost_no_more_requests_than_one(pollers_of, play):
    pollers = pollers_of(8)

    def deliver():
        for i in range(8):
            time.sleep(0.2)
            play.rows[f"d857-{i}"] = [row(1, f"/{i}/a.root"), row(2, f"/{i}/b.root")]

    threading.Thread(target=deliver).start()
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(wait, pollers * 2, [0] * 8 + [1] * 8))
        names = [outcome.object_name for outcome in outcomes]
        urls = list(pool.map(lambda poller, name: poller.signed_url(name), pollers * 2, names))
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    assert [url.url for url in urls] == [f"http://127.0.0.1/{name}" for name in names]
    # Servers see requests arrive a little unevenly.
    assert min(gaps(play.times("polls"))) > 0.8 * PACE.busy_s
    assert min(gaps(play.times("urls"))) > 1.6 * PACE.busy_s
    assert len(play.times("urls")) == len(pollers)


def test_a_slow_response_does_not_silence_the_server(pollers_of, play):
    (poller,) = pollers_of(1)
    play.delays_s = [2.0]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, poller)
        while not play.requests or play.delays_s:
            time.sleep(0.01)
        play.rows["d857-0"] = [row(1, "/0/a.root"), row(2, "/0/b.root")]
        assert isinstance(waiting.result(10), Delivered)
    times = play.times("polls")
    assert times[1] - times[0] < 2.0 + PACE.idle_s + 1.0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("deadline_s", [1.0, 2.0])
def test_a_deadline_ends_while_a_request_is_open(pollers_of, play, deadline_s):
    (poller,) = pollers_of(1, replace(PACE, deadline_s=deadline_s))
    play.is_silent.set()
    start = time.monotonic()
    assert isinstance(wait(poller), DeadlineExceeded)
    assert deadline_s <= time.monotonic() - start < deadline_s + 2


def test_a_server_that_is_silent_ends_the_wait_in_time(pollers_of, play):
    (poller,) = pollers_of(1, replace(PACE, outage_s=1.0))
    play.is_silent.set()
    start = time.monotonic()
    assert isinstance(wait(poller), ServerError)
    assert time.monotonic() - start < 3


def test_the_limit_of_one_transform_ends_while_another_is_polled(pollers_of, play):
    first, second = pollers_of(2)
    second.set_policy(replace(PACE, deadline_s=1.0))
    play.is_silent.set()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(wait, first)
        start = time.monotonic()
        assert isinstance(pool.submit(wait, second).result(10), DeadlineExceeded)
        assert time.monotonic() - start < 3
        first.close()


def test_a_stall_ends_without_a_status(pollers_of, play):
    (poller,) = pollers_of(1, replace(PACE, stall_s=1.0))
    start = time.monotonic()
    assert isinstance(wait(poller), TransformStalled)
    assert 1.0 <= time.monotonic() - start < 3


def test_waiting_again_goes_on(pollers_of, play):
    (poller,) = pollers_of(1, replace(PACE, stall_s=0.5))
    for _ in range(3):
        assert isinstance(wait(poller), TransformStalled)
    play.rows["d857-0"] = [row(1, "/0/a.root")]
    assert isinstance(wait(poller), Delivered)


def test_there_is_one_monitor_for_each_server():
    first = monitor_of("http://127.0.0.1:1")
    assert monitor_of("http://127.0.0.1:1") is first
    assert monitor_of("http://127.0.0.1:2") is not first


def test_turns_for_urls_are_apart():
    monitor, slept = Monitor("http://127.0.0.1:1"), []
    assert monitor.take_turn_for_urls(10.0)
    assert not monitor.take_turn_for_urls(10.0)
    assert monitor.take_turn_for_urls(10.0, slept.append)
    assert monitor.take_turn_for_urls(10.0, slept.append)
    assert slept == pytest.approx([10.0, 20.0], abs=1.0)
