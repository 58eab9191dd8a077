"""Look-ups: how many input files there are, in which order, and why there are none."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
from support.strategies import say, status_json

from coffea_sx.dataset import identify
from coffea_sx.errors import (
    BadDataset,
    DeadlineExceeded,
    EmptyDataset,
    RequestRefused,
    TransformStalled,
)
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import PollPolicy
from coffea_sx.polling.lookup import files_of
from coffea_sx.servicex.models import LISTS_RESULTS
from coffea_sx.servicex.submit import submit

# Look-ups are repeated at once.
PACE = PollPolicy(busy_s=0.01)


@pytest.fixture
def client(servicex, client_of):
    return client_of(servicex.url)


def test_files_of_a_list_in_the_order_of_the_list(client, selection, nano_files):
    wanted = identify(nano_files[::-1])
    request_id = submit(client, selection, wanted)
    assert files_of(client, request_id, PACE).paths == tuple(nano_files[::-1])


def test_files_of_a_did(client_of, selection, nano_files):
    with LocalServiceX(workers=1, datasets={"rucio://me:nano": nano_files[:3]}) as server:
        client = client_of(server.url)
        wanted = identify(nano_files[:1])
        request_id = submit(client, selection, type(wanted)("rucio://me:nano", None))
        assert files_of(client, request_id, PACE).paths == tuple(nano_files[:3])


class Lookup:
    """Plays a look-up: each question finds the next state."""

    def __init__(self, *states):
        self.states = list(states)

    def __call__(self, asked):
        status, lookup, files = self.states[0]
        if asked.path == "/servicex":
            return say({"app-version": "1", "code-gen-image": {}, "capabilities": [LISTS_RESULTS]})
        if "/datasets/" in asked.path:
            if len(self.states) > 1:
                self.states.pop(0)
            return say(
                {
                    "name": "me:ttbar",
                    "lookup_status": lookup,
                    "files": [{"id": i, "paths": f"/{i}.root"} for i in files],
                }
            )
        return say({**status_json(status, len(files)), "did_id": 3, "did": "rucio://me:ttbar"})


def files_after(scripted, client_of, *states, pace=PACE):
    return files_of(client_of(scripted(Lookup(*states)).url, 0.2), "d857", pace)


def test_a_look_up_is_waited_for(scripted, client_of):
    files = files_after(
        scripted,
        client_of,
        ("Lookup", "looking", []),
        ("Lookup", "looking", [8]),
        ("Running", "looking", [8, 3]),
        ("Complete", "looking", [8, 3]),  # too early, as servers before 2026 do
        ("Running", "complete", [8, 3, 11]),
    )
    assert files.paths == ("/3.root", "/8.root", "/11.root")


def test_an_empty_dataset(scripted, client_of):
    with pytest.raises(EmptyDataset, match="me:ttbar") as caught:
        files_after(scripted, client_of, ("Complete", "complete", []))
    assert caught.value.request_id == "d857"


@pytest.mark.parametrize(
    ("lookup", "says"),
    [
        ("does_not_exist", "does not exist"),
        ("bad_name", "name is not valid"),
        ("internal_failure", "try again"),
        ("something_new", "something_new"),
    ],
)
def test_a_bad_dataset(scripted, client_of, lookup, says):
    with pytest.raises(BadDataset, match=f"me:ttbar.*{says}") as caught:
        files_after(scripted, client_of, ("Bad Dataset", lookup, []))
    assert (caught.value.request_id, caught.value.lookup_status) == ("d857", lookup)


@pytest.mark.parametrize("status", ["Canceled", "Fatal"])
def test_a_transform_that_ends_during_the_look_up(scripted, client_of, status):
    start = time.monotonic()
    with pytest.raises(Exception, match="d857") as caught:
        files_after(scripted, client_of, (status, "looking", []))
    assert not isinstance(caught.value, TransformStalled)
    assert time.monotonic() - start < 2


def test_a_look_up_that_stalls(scripted, client_of):
    start = time.monotonic()
    with pytest.raises(TransformStalled, match="2 files so far"):
        files_after(
            scripted, client_of, ("Lookup", "looking", [1, 2]), pace=replace(PACE, stall_s=0.5)
        )
    assert time.monotonic() - start < 3


def test_a_look_up_has_the_deadline_of_the_pace(scripted, client_of):
    growing = [("Lookup", "looking", list(range(n))) for n in range(200)]
    with pytest.raises(DeadlineExceeded, match=r"not over after 1 s.*files so far"):
        files_after(scripted, client_of, *growing, pace=replace(PACE, deadline_s=1.0))


def test_a_look_up_survives_an_outage(scripted, client_of):
    play, start = Lookup(("Running", "complete", [3])), time.monotonic()

    def down_for_a_second(asked):
        is_down = asked.path != "/servicex" and time.monotonic() - start < 1
        return say({}, 503) if is_down else play(asked)

    client = client_of(scripted(down_for_a_second).url, 0.2)
    assert files_of(client, "d857", PACE).paths == ("/3.root",)
    with pytest.raises(RequestRefused, match="503"):
        files_of(
            client_of(scripted(lambda asked: say({}, 503)).url, 0.2),
            "d857",
            replace(PACE, outage_s=1),
        )


def test_look_ups_of_one_server_take_turns(scripted, client_of):
    times = []
    states = [("Lookup", "looking", [])] * 4 + [("Running", "complete", [1])]
    plays = {f"d857-{i}": Lookup(*states) for i in range(4)}

    def play(asked):
        times.append(time.monotonic())
        if asked.path == "/servicex":
            return next(iter(plays.values()))(asked)
        last = asked.path.rpartition("/")[2]
        if "/datasets/" in asked.path:
            return plays[f"d857-{last}"](asked)
        return say({**status_json(n_files=0), "did_id": int(last[-1])})

    client = client_of(scripted(play).url)
    client.info()
    pace = PollPolicy(busy_s=0.05)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(partial(files_of, client, pace=pace), plays))
    assert [files.paths for files in found] == [("/1.root",)] * 4
    # All begin at once, and then there are two requests of one of them at a time.
    later_on = times[1 + 4 * 2 :]
    assert len(later_on) == 4 * 4 * 2
    assert later_on[-1] - later_on[0] > 0.8 * (4 * 4 - 1) * 2 * pace.busy_s
