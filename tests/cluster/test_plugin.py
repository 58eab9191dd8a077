"""The plugin of the scheduler: outcomes and requests, without a cluster."""

from __future__ import annotations

import asyncio
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffea_sx.cluster.plugin import ResultsPlugin
from coffea_sx.cluster.subscriber import worker_of_coroutine, worker_of_thread
from coffea_sx.policy import ChannelPolicy

SHORT = 0.05
OWNER = "Client-1"


class Scheduler:
    def __init__(self):
        self.handlers = {}


async def kept(plugin, transform, received=None):
    """Return the batches of a transform, without their ages."""
    response = await plugin.poll(transform, received or {}, 0)
    received = response["batches"].items()
    return {owner: [batch for _, batch in batches] for owner, batches in received}


def test_the_handlers_are_registered():
    scheduler = Scheduler()
    asyncio.run(ResultsPlugin().start(scheduler))
    assert set(scheduler.handlers) == {
        f"servicex_{name}"
        for name in ("publish", "leave", "take_requests", "respond", "poll", "request")
    }


def test_the_plugin_can_be_sent_to_the_scheduler():
    assert pickle.loads(pickle.dumps(ResultsPlugin())).name == ResultsPlugin.name


def test_this_is_no_worker():
    assert worker_of_thread() is None
    assert worker_of_coroutine() is None


@given(st.lists(st.lists(st.binary(max_size=3), max_size=3), max_size=4), st.integers(0, 12))
def test_batches_are_read_from_any_number_on(parts, start):
    async def run():
        plugin, n = ResultsPlugin(), 0
        for part in parts:
            n = await plugin.publish("t", OWNER, part, n)
        batches = [batch for part in parts for batch in part]
        assert n == len(batches)
        response = await plugin.poll("t", {OWNER: start}, 0)
        assert [batch for _, batch in response["batches"].get(OWNER, [])] == batches[start:]

    asyncio.run(run())


def test_publishing_again_changes_nothing():
    async def run():
        plugin = ResultsPlugin()
        await plugin.publish("t", OWNER, [b"0", b"1"], 0)
        assert await plugin.publish("t", OWNER, [b"1", b"2"], 1) == 3
        assert await kept(plugin, "t") == {OWNER: [b"0", b"1", b"2"]}

    asyncio.run(run())


def test_an_owner_that_was_away_begins_again():
    async def run():
        plugin = ResultsPlugin()
        await plugin.publish("t", OWNER, [b"0", b"1"], 0)
        plugin.remove_client(None, OWNER)
        assert await plugin.publish("t", OWNER, [b"2"], 2) == 0
        assert await plugin.publish("t", OWNER, [b"0", b"1", b"2"], 0) == 3
        assert await kept(plugin, "t") == {OWNER: [b"0", b"1", b"2"]}

    asyncio.run(run())


def test_two_owners_of_one_transform():
    async def run():
        plugin = ResultsPlugin()
        await plugin.publish("t", OWNER, [b"0"], 0)
        await plugin.publish("t", "another", [b"0 too", b"1"], 0)
        assert await kept(plugin, "t", {OWNER: 1}) == {"another": [b"0 too", b"1"]}
        plugin.remove_client(None, "another")
        assert await kept(plugin, "t") == {OWNER: [b"0"]}

    asyncio.run(run())


def test_the_transforms_of_a_client_that_left_are_forgotten():
    async def run():
        plugin = ResultsPlugin()
        await plugin.publish("a", OWNER, [b"a"], 0)
        await plugin.publish("b", "another", [b"b"], 0)
        plugin.remove_client(None, OWNER)
        assert await kept(plugin, "a") == {}
        assert await kept(plugin, "b") == {"another": [b"b"]}

    asyncio.run(run())


def test_transforms_do_not_mix():
    async def run():
        plugin = ResultsPlugin()
        await plugin.publish("a", OWNER, [b"a"], 0)
        assert await kept(plugin, "b") == {}

    asyncio.run(run())


def test_a_poll_waits_and_is_woken():
    async def run():
        plugin = ResultsPlugin()
        poll = asyncio.create_task(plugin.poll("t", {}, 10))
        await asyncio.sleep(SHORT)
        assert not poll.done()
        start = time.monotonic()
        await plugin.publish("t", OWNER, [b"new"], 0)
        ((age_s, batch),) = (await poll)["batches"][OWNER]
        assert batch == b"new"
        assert 0 <= age_s < 1
        assert time.monotonic() - start < 1

    asyncio.run(run())


def test_a_poll_ends_without_new_batches():
    async def run():
        response = await asyncio.wait_for(ResultsPlugin().poll("t", {}, SHORT), 2)
        assert response["batches"] == {}
        assert response["owner_silent_s"] >= SHORT / 2

    asyncio.run(run())


def test_no_worker_waits_for_a_transform_that_is_over():
    async def run():
        plugin = ResultsPlugin()
        await plugin.poll("t", {}, 0)
        assert (await plugin.take_requests("t", OWNER, True, 0))["wanted"] is True
        await plugin.publish("t", OWNER, [b"the ending"], 0, over=True)
        assert (await plugin.take_requests("t", OWNER, True, 0))["wanted"] is False
        await plugin.poll("t", {OWNER: 1}, 0)
        assert (await plugin.take_requests("t", OWNER, False, 0))["wanted"] is True

    asyncio.run(run())


def test_the_owner_learns_that_a_worker_waits():
    async def run():
        plugin = ResultsPlugin()
        assert (await plugin.take_requests("t", OWNER, False, SHORT))["wanted"] is False
        taken = asyncio.create_task(plugin.take_requests("t", OWNER, False, 10))
        await asyncio.sleep(SHORT)
        await plugin.poll("t", {}, 0)
        assert (await asyncio.wait_for(taken, 1))["wanted"] is True

    asyncio.run(run())


@pytest.mark.parametrize("refresh", [False, True])
def test_a_url_is_requested_and_given_and_not_kept(refresh):
    async def run():
        plugin = ResultsPlugin()
        request = asyncio.create_task(plugin.request("t", (":a.root", refresh), 10))
        taken = await asyncio.wait_for(plugin.take_requests("t", OWNER, False, 10), 1)
        assert [request for _, request in taken["requests"]] == [(":a.root", refresh)]
        ((number, _),) = taken["requests"]
        await plugin.respond("t", {number: b"CANARY"})
        assert await asyncio.wait_for(request, 1) == b"CANARY"
        assert (await plugin.take_requests("t", OWNER, False, 0))["requests"] == []
        assert "CANARY" not in repr(vars(plugin))

    asyncio.run(run())


def test_several_workers_get_their_own_responses():
    async def run():
        plugin = ResultsPlugin()
        requests = [asyncio.create_task(plugin.request("t", f":{i}", 10)) for i in range(5)]
        await asyncio.sleep(SHORT)
        taken = await plugin.take_requests("t", OWNER, False, 1)
        await plugin.respond("t", {n: name.encode() for n, name in taken["requests"]})
        assert await asyncio.gather(*requests) == [f":{i}".encode() for i in range(5)]

    asyncio.run(run())


def test_a_request_that_an_owner_leaves_open_is_for_the_next():
    async def run():
        plugin = ResultsPlugin()
        request = asyncio.create_task(plugin.request("t", ":a", 10))
        assert len((await plugin.take_requests("t", OWNER, False, 1))["requests"]) == 1
        assert (await plugin.take_requests("t", OWNER, False, 0))["requests"] == []
        plugin.remove_client(None, OWNER)
        ((number, _),) = (await plugin.take_requests("t", "another", False, 0))["requests"]
        await plugin.respond("t", {number: b"response"})
        assert await asyncio.wait_for(request, 1) == b"response"

    asyncio.run(run())


def test_an_owner_that_does_not_respond():
    async def run():
        plugin = ResultsPlugin()
        assert await asyncio.wait_for(plugin.request("t", ":a", SHORT), 2) is None
        assert (await plugin.take_requests("t", OWNER, False, 0))["requests"] == []
        await plugin.respond("t", {0: b"late"})

    asyncio.run(run())


# -- unused transforms are forgotten


HURRIED = ChannelPolicy(poll_s=0.05)


def test_transforms_are_forgotten_when_all_clients_have_left():
    async def run():
        plugin = ResultsPlugin()
        for i in range(1000):
            await plugin.publish(f"t{i}", f"{OWNER}/{i}", [b"0"], 0)
            await plugin.take_requests(f"t{i}", f"{OWNER}/{i}", False, 0)
        plugin.remove_client(None, OWNER)
        assert not plugin._transforms

    asyncio.run(run())


def test_a_transform_at_which_workers_wait_is_forgotten_after_they_have_gone():
    async def run():
        plugin = ResultsPlugin(HURRIED)
        await plugin.publish("t", OWNER, [b"0"], 0)
        poll = asyncio.create_task(plugin.poll("t", {OWNER: 1}, SHORT))
        await asyncio.sleep(0)
        plugin.remove_client(None, OWNER)
        assert "t" in plugin._transforms
        assert (await poll)["batches"] == {}
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not plugin._transforms:
                return
        raise AssertionError("the transform stays")

    asyncio.run(run())


def test_a_transform_without_an_owner_is_kept_while_workers_wait():
    async def run():
        plugin = ResultsPlugin(HURRIED)
        silent_s = []
        for _ in range(20):
            silent_s.append((await plugin.poll("t", {}, 0.02))["owner_silent_s"])
        assert silent_s == sorted(silent_s)
        assert silent_s[-1] > 0.3

    asyncio.run(run())


def test_an_owner_that_leaves_an_unknown_transform():
    async def run():
        plugin = ResultsPlugin()
        await plugin.leave("t", OWNER)
        await plugin.respond("t", {1: b""})
        assert not plugin._transforms

    asyncio.run(run())
