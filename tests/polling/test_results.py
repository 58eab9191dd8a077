"""The result store: the only copy of outcomes in a process, and every wait ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from coffea_sx.errors import TransformFailed, TransformFatal, TransformStalled
from coffea_sx.policy import LENIENT, STRICT, FailurePolicy
from coffea_sx.polling.outcomes import Delivered, Failed
from coffea_sx.polling.results import ResultStore

LIMIT_S = 20.0


def delivered(index):
    return Delivered(index, f"/{index}.root", f":{index}.root", 100, 10, "today")


def failed(index, kind="TransformFailed"):
    return Failed(index, f"/{index}.root", "no tree", None, kind)


def keep_polling():
    """There is something to wait for."""


class Waiting:
    """Counts the waits that have begun."""

    def __init__(self):
        self.begun = threading.Semaphore(0)

    def __call__(self):
        self.begun.release()

    def until(self, n_waits):
        for _ in range(n_waits):
            assert self.begun.acquire(timeout=LIMIT_S)


@pytest.fixture
def results():
    return ResultStore("d857", 4)


def holders(outcome):
    """Return the objects that hold an outcome, except for the variables of functions."""
    frames = types.FrameType
    return [holder for holder in gc.get_referrers(outcome) if not isinstance(holder, frames)]


def test_each_outcome_is_held_once(servicex, watching, selection, nano_files, tmp_path):
    bad = tmp_path / "bad.root"
    bad.write_bytes(b"root" + bytes(300))
    poller = watching(servicex, selection, [*nano_files[:5], str(bad)])
    for index in range(6):
        poller.wait(index, failure_policy=LENIENT)
    assert len(poller.outcomes) == 6
    for index in range(6):
        (holder,) = holders(poller.outcomes[index])
        assert holder is poller.results.outcomes


def test_an_outcome_never_changes(results):
    first = failed(0)
    results.enter([first], None)
    results.enter([delivered(0), delivered(1)], None)
    assert results.outcomes == {0: first, 1: delivered(1)}
    assert results.failed == [first]
    assert results.delivered() == [delivered(1)]
    assert results.missing == [2, 3]
    assert not results.is_complete
    results.enter([delivered(2), delivered(3)], None)
    assert results.is_complete


def test_an_entry_wakes_the_threads_and_coroutines_that_wait_for_it(results):
    waiting = Waiting()

    async def wait(index):
        return await results.wait_async(index, STRICT, waiting)

    with ThreadPoolExecutor(8) as pool:
        in_threads = [pool.submit(results.wait, i, STRICT, None, keep_polling) for i in range(4)]
        coroutines = [pool.submit(asyncio.run, wait(i)) for i in range(4)]
        waiting.until(4)
        for index in (2, 0, 3, 1):
            results.enter([delivered(index)], None)
            assert in_threads[index].result(LIMIT_S) == delivered(index)
            assert coroutines[index].result(LIMIT_S) == delivered(index)
    assert not results.is_awaited


def test_no_wake_up_is_lost_while_entries_and_waits_interleave():
    n_files = 200
    results = ResultStore("d857", n_files)

    async def wait_for_all():
        waits = (results.wait_async(i, STRICT, keep_polling) for i in range(n_files))
        return [outcome.index for outcome in await asyncio.gather(*waits)]

    def wait_in_thread(index):
        return results.wait(index, STRICT, None, keep_polling).index

    with ThreadPoolExecutor(24) as pool:
        coroutines = [pool.submit(asyncio.run, wait_for_all()) for _ in range(4)]
        in_threads = [pool.submit(wait_in_thread, i) for i in range(n_files)]
        for index in reversed(range(n_files)):
            results.enter([delivered(index)], None)
        for waits in coroutines:
            assert waits.result(LIMIT_S) == list(range(n_files))
        assert [wait.result(LIMIT_S) for wait in in_threads] == list(range(n_files))


def test_an_ending_ends_every_wait_without_an_outcome(results):
    waiting = Waiting()

    async def wait(index):
        return await results.wait_async(index, STRICT, waiting)

    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(asyncio.run, wait(i)) for i in (1, 2)]
        waits += [pool.submit(results.wait, i, STRICT, None, waiting) for i in (1, 2)]
        waits.append(pool.submit(results.wait_for_any, waiting))
        waiting.until(5)
        results.enter([failed(0, "TransformFatal")], TransformFatal("it gave up"))
        for one in waits:
            with pytest.raises(TransformFatal, match="it gave up"):
                one.result(LIMIT_S)
    assert results.is_ready(3)
    assert results.wait(0, LENIENT, None, keep_polling).kind == "TransformFatal"


def test_after_an_ending_that_may_pass_a_wait_may_begin_anew(results):
    results.enter((), TransformStalled("nothing happens"))
    assert not results.is_ready(0)
    with pytest.raises(TransformStalled):
        results.wait(0, STRICT, None, keep_polling)
    results.enter((), None)
    with pytest.raises(TimeoutError, match=r"input file 0 has no result after 0\.05 s"):
        results.wait(0, STRICT, 0.05, keep_polling)


def test_a_wait_ends_when_there_is_nothing_to_wait_for(results):
    def closed():
        raise ConnectionError("closed")

    async def wait():
        return await results.wait_async(0, STRICT, closed)

    for function in (lambda: results.wait(0, STRICT, None, closed), lambda: asyncio.run(wait())):
        with pytest.raises(ConnectionError):
            function()
    assert not results.is_awaited


def test_waits_are_woken_to_check_whether_to_go_on(results):
    is_closed, waiting = threading.Event(), Waiting()

    def check():
        waiting()
        if is_closed.is_set():
            raise ConnectionError("closed")

    async def wait():
        return await results.wait_async(0, STRICT, check)

    with ThreadPoolExecutor(2) as pool:
        waits = [
            pool.submit(asyncio.run, wait()),
            pool.submit(results.wait, 0, STRICT, None, check),
        ]
        waiting.until(2)
        is_closed.set()
        results.wake_all()
        for one in waits:
            with pytest.raises(ConnectionError):
                one.result(LIMIT_S)


def test_a_thread_is_ended_by_the_failure_of_any_file(results):
    waiting = Waiting()
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(results.wait, 0, FailurePolicy("skip", 1), None, waiting)
        waiting.until(1)
        results.enter([failed(1)], None)
        results.enter([failed(2)], None)
        with pytest.raises(TransformFailed, match="more than max_failed=1"):
            wait.result(LIMIT_S)
    elsewhere = FailurePolicy("skip", 1).without([2])
    with pytest.raises(TimeoutError):
        results.wait(0, elsewhere, 0.0, keep_polling)


def test_the_first_result_is_the_first_in_the_list(results):
    results.enter([failed(0), delivered(3), delivered(1)], None)
    assert results.wait_for_any(keep_polling) == delivered(1)


def test_no_result_is_waited_for_when_all_files_failed(results):
    results.enter([failed(index) for index in range(4)], None)
    with pytest.raises(TransformFailed, match="3 more"):
        results.wait_for_any(keep_polling)


def test_subscribers_are_notified_of_what_changes(results):
    entries = []

    def note():
        entries.append((len(results.outcomes), results.ending))

    results.subscribe(note)
    ending = TransformStalled("nothing happens")
    results.enter([delivered(0)], None)
    results.enter([delivered(0)], None)
    results.enter((), ending)
    results.enter((), ending)
    results.enter((), None)
    results.unsubscribe(note)
    results.unsubscribe(note)
    results.enter([delivered(1)], None)
    assert entries == [(1, None), (1, ending), (1, None)]


def test_a_loop_that_has_ended_does_not_stop_an_entry(results):
    loop = asyncio.new_event_loop()
    wait = loop.create_task(results.wait_async(0, STRICT, keep_polling))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert results.is_awaited
    results.enter([delivered(0)], None)
    assert results.wait(0, STRICT, None, keep_polling) == delivered(0)
    assert not wait.done()
