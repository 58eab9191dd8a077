"""Bytes of one object that are held while a work item reads it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from coffea_sx.errors import ObjectReplaced, ReadError, Truncated
from coffea_sx.storage.policy import ReadPolicy
from coffea_sx.storage.stored import HeldObject, StoredObject
from coffea_sx.storage.transfer import ObjectPart, Range

CONTENT = bytes(range(256)) * 40
SMALL = ReadPolicy(held_bytes=1 << 20)
LARGE = ReadPolicy(held_bytes=100, dropped_bytes=1000, round_trip_bytes=0, small_bytes=0)


class Store:
    """A store of one object, and the ranges that were requested."""

    def __init__(self) -> None:
        self.etag = "1"
        self.requests: list[Range] = []
        self.errors: list[ReadError] = []

    def fetch(
        self, start: int, stop: int | None, wanted: Sequence[Range] | None = None
    ) -> ObjectPart:
        end = len(CONTENT) if stop is None else min(stop, len(CONTENT))
        self.requests.append((start, end))
        pieces = [bytearray(CONTENT[a:b]) for a, b in wanted or [(start, end)]]
        return ObjectPart(pieces, len(CONTENT), self.etag)

    def held(self, policy: ReadPolicy, size: int = len(CONTENT)) -> HeldObject:
        return HeldObject(StoredObject("o", self.fetch, size, policy), self.errors.append)


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_small_object_is_one_request(store: Store) -> None:
    held = store.held(SMALL)
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(held, range(0, 2000, 100), range(50, 2050, 100)))
    assert [part.data for part in parts] == [CONTENT[i : i + 50] for i in range(0, 2000, 100)]
    assert held(10, None).data == CONTENT[10:]
    assert store.requests == [(0, len(CONTENT))]


def test_ranges_end_where_the_object_does(store: Store) -> None:
    for held in (store.held(SMALL), store.held(LARGE)):
        assert held(len(CONTENT) - 5, len(CONTENT) + 99).data == CONTENT[-5:]
        assert held(len(CONTENT), len(CONTENT) + 99).data == b""
        part = held(0, 30, [(0, 10), (20, 30)])
        assert [bytes(piece) for piece in part.pieces] == [CONTENT[:10], CONTENT[20:30]]
        assert (part.size, part.etag) == (len(CONTENT), "1")


def test_small_ranges_of_a_large_object_are_held(store: Store) -> None:
    held = store.held(LARGE)
    for _ in range(3):
        assert held(200, 300).data == CONTENT[200:300]
    assert store.requests == [(200, 300)]


def test_large_ranges_of_a_large_object_are_dropped(store: Store) -> None:
    held = store.held(LARGE)
    for _ in range(2):
        assert held(1000, 4000).data == CONTENT[1000:4000]
    assert store.requests == [(1000, 4000)] * 2


def test_an_object_that_is_replaced(store: Store) -> None:
    held = store.held(LARGE)
    assert held(200, 300).etag == "1"
    store.etag = "2"
    with pytest.raises(ObjectReplaced):
        held(400, 500)
    # Nothing of the first version is left.
    assert held(200, 300).etag == "2"


def test_an_object_that_is_shorter_than_expected(store: Store) -> None:
    end = len(CONTENT)
    for policy in (SMALL, LARGE):
        held = store.held(policy, size=end + 100)
        assert held(end - 10, None).data == CONTENT[-10:]
        # Some readers ask for more than any object has.
        assert held(end - 10, end + 1000).data == CONTENT[-10:]
        with pytest.raises(Truncated, match=f"ends at byte {end}, .* reported {end + 100} bytes"):
            held(end - 10, end + 50)
        assert isinstance(store.errors.pop(), Truncated)
