"""Batches of the publisher: made of the result store, and the same whenever they are sent."""

from __future__ import annotations

import gc
import pickle
from types import FrameType

from hypothesis import given
from hypothesis import strategies as st

from coffea_sx.cluster.publisher import Batches
from coffea_sx.errors import TransformStalled
from coffea_sx.polling.outcomes import Delivered
from coffea_sx.polling.results import ResultStore


def delivered(index):
    return Delivered(index, f"/{index}.root", f":{index}.root", 100, 10, "today")


def opened(batches):
    return [(outcomes, ending and str(ending)) for outcomes, ending in map(pickle.loads, batches)]


def test_a_store_without_outcomes_has_no_batch():
    batches = Batches(ResultStore("d857", 2))
    assert batches.since(0) == []
    assert not batches.is_over


def test_a_batch_has_what_was_entered_since_the_last():
    results = ResultStore("d857", 3)
    batches = Batches(results)
    results.enter([delivered(2)], None)
    results.enter([delivered(0)], None)
    assert opened(batches.since(0)) == [([delivered(2), delivered(0)], None)]
    assert batches.since(1) == []
    results.enter([delivered(1)], None)
    assert opened(batches.since(1)) == [([delivered(1)], None)]


def holders(thing):
    """Return the objects that hold something, except for the variables of functions."""
    return [holder for holder in gc.get_referrers(thing) if not isinstance(holder, FrameType)]


def test_no_batch_is_kept():
    results = ResultStore("d857", 2)
    batches = Batches(results)
    results.enter([delivered(0), delivered(1)], None)
    sent = batches.since(0)
    assert holders(sent[0]) == [sent]
    for index in range(2):
        (holder,) = holders(results.outcomes[index])
        assert holder is results.outcomes


def test_an_ending_and_going_on_after_it_are_batches():
    results = ResultStore("d857", 2)
    batches = Batches(results)
    results.enter([delivered(0)], TransformStalled("nothing happens"))
    assert opened(batches.since(0)) == [([delivered(0)], "nothing happens")]
    assert batches.is_over
    results.enter((), None)
    assert opened(batches.since(1)) == [([], None)]
    assert not batches.is_over


@given(st.permutations(range(8)), st.lists(st.integers(0, 8), max_size=6))
def test_batches_are_the_same_when_they_are_sent_again(order, stops):
    results = ResultStore("d857", 8)
    batches, sent, start = Batches(results), [], 0
    for stop in [*sorted(stops), 8]:
        results.enter([delivered(index) for index in order[start:stop]], None)
        sent += batches.since(len(sent))
        start = stop
        assert batches.since(0) == sent
    outcomes = [outcome for batch, _ in opened(sent) for outcome in batch]
    assert [outcome.index for outcome in outcomes] == order
    assert all(batch for batch, _ in opened(sent))
