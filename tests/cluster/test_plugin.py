"""The board in the scheduler: what owners publish and workers read, without a cluster."""

from __future__ import annotations

import asyncio
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffea_sx.cluster import plugin as board_module
from coffea_sx.cluster.plugin import ResultsPlugin
from coffea_sx.cluster.subscriber import in_worker

SHORT = 0.05
OWNER = "Client-1"


class Scheduler:
    def __init__(self):
        self.handlers = {}


async def kept(board, transform, known=None):
    """Return what a board has of a transform, without the ages."""
    said = await board.poll(transform, known or {}, 0)
    return {owner: [batch for _, batch in batches] for owner, batches in said["batches"].items()}


def test_the_handlers_are_registered():
    scheduler = Scheduler()
    asyncio.run(ResultsPlugin().start(scheduler))
    assert set(scheduler.handlers) == {
        f"servicex_{name}" for name in ("publish", "leave", "asks", "answer", "poll", "ask")
    }


def test_a_board_can_be_sent_to_the_scheduler():
    assert pickle.loads(pickle.dumps(ResultsPlugin())).name == ResultsPlugin.name


def test_this_is_no_worker():
    assert in_worker() is None


@given(st.lists(st.lists(st.binary(max_size=3), max_size=3), max_size=4), st.integers(0, 12))
def test_what_is_published_is_read_from_any_number_on(parts, start):
    async def run():
        board, n = ResultsPlugin(), 0
        for part in parts:
            n = await board.publish("t", OWNER, part, n)
        batches = [batch for part in parts for batch in part]
        assert n == len(batches)
        said = await board.poll("t", {OWNER: start}, 0)
        assert [batch for _, batch in said["batches"].get(OWNER, [])] == batches[start:]

    asyncio.run(run())


def test_publishing_again_changes_nothing():
    async def run():
        board = ResultsPlugin()
        await board.publish("t", OWNER, [b"0", b"1"], 0)
        assert await board.publish("t", OWNER, [b"1", b"2"], 1) == 3
        assert await kept(board, "t") == {OWNER: [b"0", b"1", b"2"]}

    asyncio.run(run())


def test_an_owner_that_was_away_begins_again():
    async def run():
        board = ResultsPlugin()
        await board.publish("t", OWNER, [b"0", b"1"], 0)
        board.remove_client(None, OWNER)
        assert await board.publish("t", OWNER, [b"2"], 2) == 0
        assert await board.publish("t", OWNER, [b"0", b"1", b"2"], 0) == 3
        assert await kept(board, "t") == {OWNER: [b"0", b"1", b"2"]}

    asyncio.run(run())


def test_two_owners_of_one_transform():
    async def run():
        board = ResultsPlugin()
        await board.publish("t", OWNER, [b"0"], 0)
        await board.publish("t", "another", [b"0 too", b"1"], 0)
        assert await kept(board, "t", {OWNER: 1}) == {"another": [b"0 too", b"1"]}
        board.remove_client(None, "another")
        assert await kept(board, "t") == {OWNER: [b"0"]}

    asyncio.run(run())


def test_the_transforms_of_a_client_that_left_are_forgotten():
    async def run():
        board = ResultsPlugin()
        await board.publish("a", OWNER, [b"a"], 0)
        await board.publish("b", "another", [b"b"], 0)
        board.remove_client(None, OWNER)
        assert await kept(board, "a") == {}
        assert await kept(board, "b") == {"another": [b"b"]}

    asyncio.run(run())


def test_transforms_do_not_mix():
    async def run():
        board = ResultsPlugin()
        await board.publish("a", OWNER, [b"a"], 0)
        assert await kept(board, "b") == {}

    asyncio.run(run())


def test_a_poll_waits_and_is_woken():
    async def run():
        board = ResultsPlugin()
        poll = asyncio.create_task(board.poll("t", {}, 10))
        await asyncio.sleep(SHORT)
        assert not poll.done()
        start = time.monotonic()
        await board.publish("t", OWNER, [b"news"], 0)
        ((age_s, batch),) = (await poll)["batches"][OWNER]
        assert batch == b"news"
        assert 0 <= age_s < 1
        assert time.monotonic() - start < 1

    asyncio.run(run())


def test_a_poll_ends_without_news():
    async def run():
        said = await asyncio.wait_for(ResultsPlugin().poll("t", {}, SHORT), 2)
        assert said["batches"] == {}
        assert said["owner_silent_s"] >= SHORT / 2

    asyncio.run(run())


def test_nobody_waits_for_what_is_over():
    async def run():
        board = ResultsPlugin()
        await board.poll("t", {}, 0)
        assert (await board.asks("t", OWNER, True, 0))["wanted"] is True
        await board.publish("t", OWNER, [b"the ending"], 0, over=True)
        assert (await board.asks("t", OWNER, True, 0))["wanted"] is False
        await board.poll("t", {OWNER: 1}, 0)
        assert (await board.asks("t", OWNER, False, 0))["wanted"] is True

    asyncio.run(run())


def test_the_owner_learns_that_somebody_waits():
    async def run():
        board = ResultsPlugin()
        assert (await board.asks("t", OWNER, False, SHORT))["wanted"] is False
        asks = asyncio.create_task(board.asks("t", OWNER, False, 10))
        await asyncio.sleep(SHORT)
        await board.poll("t", {}, 0)
        assert (await asyncio.wait_for(asks, 1))["wanted"] is True

    asyncio.run(run())


@pytest.mark.parametrize("refresh", [False, True])
def test_a_url_is_asked_for_and_given_and_not_kept(refresh):
    async def run():
        board = ResultsPlugin()
        ask = asyncio.create_task(board.ask("t", (":a.root", refresh), 10))
        said = await asyncio.wait_for(board.asks("t", OWNER, False, 10), 1)
        assert [asked for _, asked in said["asks"]] == [(":a.root", refresh)]
        ((number, _),) = said["asks"]
        await board.answer("t", {number: b"CANARY"})
        assert await asyncio.wait_for(ask, 1) == b"CANARY"
        assert (await board.asks("t", OWNER, False, 0))["asks"] == []
        assert "CANARY" not in repr(vars(board))

    asyncio.run(run())


def test_several_workers_get_their_own_answers():
    async def run():
        board = ResultsPlugin()
        asks = [asyncio.create_task(board.ask("t", f":{i}", 10)) for i in range(5)]
        await asyncio.sleep(SHORT)
        said = await board.asks("t", OWNER, False, 1)
        await board.answer("t", {n: name.encode() for n, name in said["asks"]})
        assert await asyncio.gather(*asks) == [f":{i}".encode() for i in range(5)]

    asyncio.run(run())


def test_what_an_owner_leaves_unanswered_is_asked_of_the_next():
    async def run():
        board = ResultsPlugin()
        ask = asyncio.create_task(board.ask("t", ":a", 10))
        assert len((await board.asks("t", OWNER, False, 1))["asks"]) == 1
        assert (await board.asks("t", OWNER, False, 0))["asks"] == []
        board.remove_client(None, OWNER)
        ((number, _),) = (await board.asks("t", "another", False, 0))["asks"]
        await board.answer("t", {number: b"said"})
        assert await asyncio.wait_for(ask, 1) == b"said"

    asyncio.run(run())


def test_an_owner_that_does_not_answer():
    async def run():
        board = ResultsPlugin()
        assert await asyncio.wait_for(board.ask("t", ":a", SHORT), 2) is None
        assert (await board.asks("t", OWNER, False, 0))["asks"] == []
        await board.answer("t", {0: b"late"})

    asyncio.run(run())


# -- what is not used is forgotten


@pytest.fixture
def hurried_polls(monkeypatch):
    monkeypatch.setattr(board_module, "POLL_S", 0.05)


def test_transforms_are_forgotten_when_all_clients_have_left():
    async def run():
        board = ResultsPlugin()
        for i in range(1000):
            await board.publish(f"t{i}", f"{OWNER}/{i}", [b"0"], 0)
            await board.asks(f"t{i}", f"{OWNER}/{i}", False, 0)
        board.remove_client(None, OWNER)
        assert not board._transforms

    asyncio.run(run())


def test_a_transform_at_which_workers_wait_is_forgotten_after_they_have_gone(hurried_polls):
    async def run():
        board = ResultsPlugin()
        await board.publish("t", OWNER, [b"0"], 0)
        poll = asyncio.create_task(board.poll("t", {OWNER: 1}, SHORT))
        await asyncio.sleep(0)
        board.remove_client(None, OWNER)
        assert "t" in board._transforms
        assert (await poll)["batches"] == {}
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not board._transforms:
                return
        raise AssertionError("the transform stays")

    asyncio.run(run())


def test_a_transform_without_an_owner_is_kept_while_workers_wait(hurried_polls):
    async def run():
        board = ResultsPlugin()
        silent_s = []
        for _ in range(20):
            silent_s.append((await board.poll("t", {}, 0.02))["owner_silent_s"])
        assert silent_s == sorted(silent_s)
        assert silent_s[-1] > 0.3

    asyncio.run(run())


def test_an_owner_that_leaves_what_nobody_knows():
    async def run():
        board = ResultsPlugin()
        await board.leave("t", OWNER)
        await board.answer("t", {1: b""})
        assert not board._transforms

    asyncio.run(run())
