"""Canaries: private API of urllib3 still does what the package needs of it."""

from __future__ import annotations

import socket

import pytest
import urllib3
from support.strategies import Answer
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

from coffea_sx._upstream.urllib3 import OwnSocketConnection, pools_of, use_pool_classes


class Noted(OwnSocketConnection):
    """Notes where it connects, and connects elsewhere."""

    opened: list[tuple[str, int]] = []
    target: tuple[str, int]

    def open_socket(self, host, port):
        self.opened.append((host, port))
        return socket.create_connection(self.target)


class Pool(HTTPConnectionPool):
    ConnectionCls = Noted


@pytest.fixture
def manager():
    manager = urllib3.PoolManager(retries=False)
    use_pool_classes(manager, Pool, HTTPSConnectionPool)
    Noted.opened = []
    yield manager
    for pool in pools_of(manager):
        pool.close()


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("http://store.example.org:9000/o", ("store.example.org", 9000)),
        ("http://store.example.org./o", ("store.example.org.", 80)),
        ("http://[::1]:9000/o", ("::1", 9000)),
    ],
)
def test_own_socket_connection(manager, scripted, url, opened):
    host, _, port = scripted(lambda request: Answer(200, b"content")).address.rpartition(":")
    Noted.target = (host, int(port))
    assert manager.request("GET", url).data == b"content"
    assert Noted.opened == [opened]


def test_own_socket_connection_that_fails(manager, closed_port):
    Noted.target = ("127.0.0.1", closed_port)
    with pytest.raises(NewConnectionError, match=r"^store\.example\.org:9000: Failed to connect"):
        manager.request("GET", "http://store.example.org:9000/o")


def test_use_pool_classes(manager):
    assert type(manager.connection_from_url("http://host")) is Pool
    assert type(manager.connection_from_url("https://host")) is HTTPSConnectionPool


def test_pools_of(manager):
    urls = ["http://host:1", "http://host:2", "https://host"]
    pools = [manager.connection_from_url(url) for url in urls]
    assert set(pools_of(manager)) == set(pools)
    manager.clear()
    assert pools_of(manager) == []
