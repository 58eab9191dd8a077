"""Result sources of a process: made once, found again, and dropped."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from coffea_sx.errors import AccessError
from coffea_sx.polling import registry
from coffea_sx.polling.registry import Connections, TransformAddress
from coffea_sx.servicex.config import EndpointName


class Source:
    """Stands for a source of results."""


def address(number):
    return TransformAddress(f"d857-{number}", EndpointName(None, "http://127.0.0.1", None))


def test_sources_are_made_once_and_the_oldest_are_dropped():
    connections, made = Connections(limit=4), []

    def make():
        source = Source()
        made.append(weakref.ref(source))
        return source

    with ThreadPoolExecutor(8) as pool:
        for i in range(9):
            sources = set(pool.map(connections.get, [address(i)] * 8, [make] * 8))
            assert len(sources) == 1
    del sources
    gc.collect()
    assert len(made) == 9
    assert [source() is not None for source in made] == [False] * 5 + [True] * 4


def test_threads_that_fail_to_make_a_source_leave_nothing():
    connections, failed = Connections(), []

    def fail():
        raise ConnectionError

    def connect():
        try:
            connections.get(address("none"), fail)
        except ConnectionError:
            failed.append(1)

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 4
    assert connections.items() == []


def test_a_poller_is_registered_for_as_long_as_it_is_held():
    poller = Source()
    registry.register(address("held"), poller)
    assert registry.get_poller(address("held")) is poller
    assert registry.pollers_of(address("held").key) == [poller]
    assert registry.find_source("d857-held") is poller
    del poller
    gc.collect()
    assert registry.get_poller(address("held")) is None
    assert registry.find_source("d857-held") is None


def test_another_poller_of_the_transform_stays_registered():
    first, second = Source(), Source()
    registry.register(address("both"), first)
    registry.register(address("both"), second)
    registry.unregister(address("both"), first)
    assert registry.get_poller(address("both")) is second
    registry.unregister(address("both"), second)
    assert registry.get_poller(address("both")) is None


def test_positions_in_lists_that_were_announced_in_different_orders():
    """A worker must not open the file of another list, whichever it was connected to first."""
    endpoint = EndpointName(None, "http://127.0.0.1", None)
    first, second = (TransformAddress("announced", endpoint, order) for order in ("a", "b"))
    source = Source()
    registry.announce(first, lambda: source)
    assert registry.find_source("announced", by_index=True) is source
    registry.announce(second, lambda: source)
    with pytest.raises(AccessError, match="in different orders"):
        registry.find_source("announced", by_index=True)
    # The name of an object means one file in any order.
    assert registry.find_source("announced") is source
