"""One client of each server in a process."""

from __future__ import annotations

import gc

import psutil
from support.strategies import say

from coffea_sx.servicex.client import client_of
from coffea_sx.servicex.config import EndpointName, find_endpoint


def n_connections(server):
    """Count the connections of this process to a server, as the system sees them."""
    port = int(server.address.rpartition(":")[2])
    sockets = psutil.Process().net_connections("tcp")
    return sum(s.status == "ESTABLISHED" and s.raddr.port == port for s in sockets if s.raddr)


def endpoint(server):
    return find_endpoint(EndpointName(None, server.url, None))


def test_a_server_is_asked_once_what_it_can_do(scripted):
    info = {"app-version": "1", "code-gen-image": {}, "capabilities": []}
    server = scripted(lambda asked: say(info))
    first, second = client_of(endpoint(server)), client_of(endpoint(server))
    assert first is second
    assert first.info() == second.info()
    assert server.count("GET", "/servicex") == 1


def test_servers_have_clients_of_their_own(scripted):
    servers = [scripted(lambda asked: say({})) for _ in range(2)]
    assert client_of(endpoint(servers[0])) is not client_of(endpoint(servers[1]))


def test_connections_are_closed_when_nobody_holds_the_client(scripted):
    server = scripted(lambda asked: say({"requests": []}))
    client = client_of(endpoint(server))
    client.transforms()
    assert n_connections(server) == 1
    del client
    gc.collect()
    assert n_connections(server) == 0
