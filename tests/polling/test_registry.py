"""What a process knows of transforms, and forgets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from coffea_sx.polling import registry
from coffea_sx.polling.registry import TransformAddress
from coffea_sx.servicex.config import EndpointName


class Known:
    """Stands for what a process knows of a transform."""


def address(number):
    return TransformAddress(f"d857-{number}", EndpointName(None, "http://127.0.0.1", None))


def test_sources_are_made_once_and_the_oldest_are_forgotten():
    made = []

    def make():
        made.append(1)
        return Known()

    with ThreadPoolExecutor(8) as pool:
        for i in range(2 * registry.REMEMBERED):
            found = list(pool.map(registry.borrowed, [address(i)] * 8, [make] * 8))
            assert len(set(found)) == 1
    assert len(made) == 2 * registry.REMEMBERED
    assert len(registry._borrowed) == registry.REMEMBERED
    assert not list(registry._making)


def test_a_source_that_cannot_be_made_leaves_nothing():
    def fail():
        raise ConnectionError

    def borrow():
        try:
            registry.borrowed(address("none"), fail)
        except ConnectionError:
            failed.append(1)

    failed: list[int] = []
    threads = [threading.Thread(target=borrow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 4
    assert not list(registry._making)
