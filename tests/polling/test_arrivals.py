"""Outcomes in the order in which they arrive."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext

import pytest

from coffea_sx.errors import TransformFatal, Unreachable
from coffea_sx.policy import LENIENT, STRICT
from coffea_sx.polling.arrivals import Awaited, arrivals
from coffea_sx.polling.outcomes import Delivered, Read
from coffea_sx.polling.results import ResultSource, ResultStore
from coffea_sx.servicex.models import SignedUrl


class Source(ResultSource):
    """A source without a server."""

    def unusable(self, read: Read | None = None) -> frozenset[int]:
        return frozenset()

    def signed_url(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        raise NotImplementedError

    def _waiting(self, index: int) -> AbstractContextManager[None]:
        return nullcontext()

    def keep_polling(self) -> None:
        pass


def delivered(index: int) -> Delivered:
    return Delivered(index, f"{index}.root", f"o{index}", 1, 1, "")


@pytest.fixture
def sources() -> list[Source]:
    return [Source(ResultStore("a", 3)), Source(ResultStore("b", 2))]


def files_of(sources: list[Source], policy=STRICT) -> list[Awaited[tuple[str, int]]]:
    return [
        Awaited((source.results.request_id, index), source, index, policy)
        for source in sources
        for index in range(source.n_files or 0)
    ]


def test_the_order_is_that_of_arrival(sources: list[Source]) -> None:
    a, b = (source.results for source in sources)
    a.enter([delivered(2)], None)
    found = arrivals(files_of(sources))
    assert next(found)[0] == ("a", 2)
    b.enter([delivered(1)], None)
    a.enter([delivered(0)], None)
    assert [next(found)[0], next(found)[0]] == [("b", 1), ("a", 0)]
    a.enter([delivered(1)], None)
    b.enter([delivered(0)], None)
    assert [label for label, _ in found] == [("a", 1), ("b", 0)]


def test_it_waits(sources: list[Source]) -> None:
    a = sources[0].results
    found = arrivals(files_of(sources[:1]))
    timer = threading.Timer(0.2, a.enter, ([delivered(1)], None))
    timer.start()
    label, outcome = next(found)
    timer.join()
    assert (label, outcome) == (("a", 1), delivered(1))


def test_the_end_of_a_transform_ends_it(sources: list[Source]) -> None:
    a = sources[0].results
    found = arrivals(files_of(sources, LENIENT))
    a.enter([delivered(0)], TransformFatal("The disk is full."))
    assert next(found)[1] == delivered(0)
    with pytest.raises(TransformFatal, match="disk"):
        next(found)


def test_a_server_that_is_away_ends_it(sources: list[Source]) -> None:
    """Such an ending may pass: who waits later begins anew, who waits now gets the error."""
    found = arrivals(files_of(sources[:1]))
    timer = threading.Timer(0.1, sources[0].results.enter, ([], Unreachable("It is away.")))
    timer.start()
    with pytest.raises(Unreachable, match="away"):
        next(found)
    timer.join()


def test_stopping_early_leaves_nothing_behind(sources: list[Source]) -> None:
    found = arrivals(files_of(sources))
    sources[0].results.enter([delivered(0)], None)
    next(found)
    found.close()
    assert not any(source.results.is_awaited for source in sources)


def test_spurious_wakes_are_waits(sources: list[Source]) -> None:
    """A poller that is resumed wakes all; files without an outcome are waited for on."""
    a = sources[0].results
    found = arrivals(files_of(sources[:1]))
    timer = threading.Timer(0.1, a.wake_all)
    later = threading.Timer(0.4, a.enter, ([delivered(2)], None))
    start = time.monotonic()
    timer.start()
    later.start()
    assert next(found)[0] == ("a", 2)
    assert time.monotonic() - start >= 0.3
    timer.join()
    later.join()
