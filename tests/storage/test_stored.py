"""Ranges of an object are read as they are, in few requests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffea_sx.errors import CorruptFile, ObjectReplaced, ReadError, Truncated
from coffea_sx.storage.policy import DEFAULT_POLICY, ReadPolicy
from coffea_sx.storage.stored import StoredObject
from coffea_sx.storage.transfer import ObjectPart

MEGABYTE = 1 << 20
ROUND_TRIP = DEFAULT_POLICY.round_trip_bytes
SMALL = DEFAULT_POLICY.small_bytes


class Store:
    """An object, and the ranges of it that were requested."""

    def __init__(
        self, content: bytes, claimed: int | None = None, policy: ReadPolicy = DEFAULT_POLICY
    ) -> None:
        self.content = content
        self.etag = "first"
        self.requested: list[tuple[int, int | None]] = []
        size = len(content) if claimed is None else claimed
        self.object = StoredObject(":o.root", self.fetch, size, policy)

    def fetch(
        self, start: int, stop: int | None, wanted: Sequence[tuple[int, int]] | None = None
    ) -> ObjectPart:
        self.requested.append((start, stop))
        ranges = [(start, stop)] if wanted is None else wanted
        assert stop is None or (ranges[0][0], ranges[-1][1]) == (start, stop)
        pieces = [bytearray(self.content[begin:end]) for begin, end in ranges]
        return ObjectPart(pieces, len(self.content), self.etag)


@pytest.fixture(scope="module")
def large() -> bytes:
    return bytes(range(256)) * ((SMALL + 8 * MEGABYTE) // 256)


def test_two_requests_for_a_small_object() -> None:
    store = Store(bytes(range(256)) * 16384)
    store.object.need([(0, 1000)])
    store.object.need([(3 * MEGABYTE, 3 * MEGABYTE + 5), (2000, 2010), (5000, 6000)])
    assert store.requested == [(0, 1000), (2000, 3 * MEGABYTE + 5)]
    assert store.object.n_requests == 2
    assert store.object.n_bytes == 1000 + 10 + 1000 + 5  # what lies between is not kept
    assert bytes(store.object.read(2000, 2010)) == store.content[2000:2010]
    assert len(store.requested) == 2


def test_ranges_far_apart_in_a_large_object(large: bytes) -> None:
    store = Store(large)
    near, far = 5 * MEGABYTE, 20 * MEGABYTE
    ranges = [(far, far + 10), (0, 10), (near, near + 10), (near + ROUND_TRIP, near + MEGABYTE + 9)]
    store.object.need(ranges)
    expected = [(0, 10), (near, near + MEGABYTE + 9), (far, far + 10)]
    assert sorted(store.requested) == expected
    for start, stop in ranges:
        assert bytes(store.object.read(start, stop)) == large[start:stop]
    assert len(store.requested) == 3


def test_held_bytes_are_not_fetched_again(large: bytes) -> None:
    store = Store(large)
    store.object.need([(100, 200)])
    store.object.need([(150, 300)])
    assert store.requested == [(100, 200), (200, 300)]
    assert bytes(store.object.read(120, 280)) == large[120:280]
    store.object.need([(100, 300), (150, 160), (7, 7)])
    assert len(store.requested) == 2


def test_reading_on_fetches_ahead(large: bytes) -> None:
    store = Store(large)
    for start in range(0, 10_000, 100):
        assert bytes(store.object.read(start, start + 100)) == large[start : start + 100]
    assert store.requested == [(0, ROUND_TRIP)]


def test_the_whole_object_is_one_request_without_a_range() -> None:
    store = Store(b"root" * 100, claimed=7)
    store.object.need_all()
    assert store.requested == [(0, None)]
    assert store.object.size == 400
    store.object.need_all()
    assert len(store.requested) == 1


def test_the_size_of_the_store_counts() -> None:
    store = Store(b"0123456789", claimed=1000)
    assert bytes(store.object.read(0, 4)) == b"0123"
    assert store.object.size == 10
    assert bytes(store.object.read(5, 20)) == b"56789"
    unknown = Store(b"0123456789", claimed=0)
    assert bytes(unknown.object.read(0, 4)) == b"0123"


def test_a_store_that_sends_less_than_it_has() -> None:
    short = StoredObject(
        "o", lambda start, stop, wanted=None: ObjectPart([bytearray(b"01")], 10, "first"), 10
    )
    with pytest.raises(Truncated, match="ends before byte 5") as caught:
        short.read(0, 5)
    assert caught.value.expected == 5


def test_another_version_is_never_mixed_in(large: bytes) -> None:
    store = Store(large)
    store.object.need([(0, 10)])
    store.etag = "second"
    with pytest.raises(ObjectReplaced):
        store.object.need([(10 * MEGABYTE, 10 * MEGABYTE + 1)])
    store.object.forget()
    assert bytes(store.object.read(0, 10)) == large[:10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "of 0 bytes is not a ROOT file; it is empty"),
        (b"<?xml version='1.0'?><Error/>", 'begins with b"<?xml version=\'1"'),
        (b"roo", "begins with b'roo'"),
    ],
)
def test_the_magic_bytes(content: bytes, message: str) -> None:
    with pytest.raises(CorruptFile) as caught:
        Store(content).object.check_magic(b"root", "ROOT")
    assert message in str(caught.value)
    Store(b"root and more").object.check_magic(b"root", "ROOT")


def test_an_error_of_one_range_is_the_error_of_all(large: bytes) -> None:
    def fetch(start: int, stop: int | None, wanted: object = None) -> ObjectPart:
        if start:
            raise ReadError("no", object_name="o")
        return ObjectPart([bytearray(large[:10])], len(large), "first")

    with pytest.raises(ReadError, match="no"):
        StoredObject("o", fetch, len(large)).need([(0, 10), (20 * MEGABYTE, 21 * MEGABYTE)])


RANGES = st.lists(st.tuples(st.integers(0, 130), st.integers(0, 130)), max_size=8)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@given(
    length=st.integers(0, 120),
    claimed=st.integers(0, 150),
    steps=st.lists(st.tuples(st.booleans(), RANGES), max_size=5),
    round_trip=st.integers(0, 30),
    small=st.integers(0, 60),
)
def test_any_ranges_are_slices(
    length: int,
    claimed: int,
    steps: list[tuple[bool, list[tuple[int, int]]]],
    round_trip: int,
    small: int,
) -> None:
    policy = ReadPolicy(round_trip_bytes=round_trip, small_bytes=small)
    store = Store(bytes(range(length)), claimed, policy)
    for is_read, ranges in steps:
        if not is_read:
            store.object.need(ranges)
            continue
        for start, stop in ranges:
            if stop <= length:
                assert bytes(store.object.read(start, stop)) == store.content[start:stop]
