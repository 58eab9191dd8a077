"""The REST interface: requests and responses, and the client of this process for a server."""

from __future__ import annotations

import gc

import psutil
import pytest
from support.strategies import say

from coffea_sx.errors import ProtocolError, ServerError, TransformGone
from coffea_sx.servicex.client import client_of as shared_client_of
from coffea_sx.servicex.config import EndpointName, find_endpoint

INFO = {"app-version": "1", "code-gen-image": {"uproot": "image"}, "capabilities": ["a"]}


def submit(client, selection):
    return client.submit(selection, did=None, files=["/a.root"])


def test_submitting(scripted, client_of, selection):
    server = scripted(lambda asked: say({"request_id": "d857"}))
    assert submit(client_of(server.url), selection) == "d857"
    (asked,) = server.asked
    assert asked.json == {
        "title": selection.title,
        "selection": selection.text,
        "codegen": "uproot",
        "result-destination": "object-store",
        "result-format": "root-file",
        "file-list": ["/a.root"],
    }


def test_submitting_a_did(scripted, client_of, selection):
    server = scripted(lambda asked: say({"request_id": "d857"}))
    client_of(server.url).submit(selection, did="rucio://me:ttbar", files=None)
    assert server.asked[0].json["did"] == "rucio://me:ttbar"
    assert "file-list" not in server.asked[0].json


@pytest.mark.parametrize("said", [[], "text", None, {}])
def test_a_submission_without_a_request_id(scripted, client_of, selection, said):
    server = scripted(lambda asked: say(said))
    with pytest.raises(ServerError):
        submit(client_of(server.url), selection)


@pytest.mark.parametrize("said", [[], "text", None, {}, {"results": None}])
def test_rows_that_are_none(scripted, client_of, said):
    server = scripted(lambda asked: say(said))
    with pytest.raises(ServerError):
        client_of(server.url).results("d857")


@pytest.mark.parametrize(
    "said", [[], "text", None, 3, {}, {"app-version": "1"}, {**INFO, "capabilities": 3}]
)
def test_something_else_than_a_servicex(scripted, client_of, said):
    server = scripted(lambda asked: say(said))
    with pytest.raises(ProtocolError, match="address"):
        client_of(server.url).info()


def test_an_old_server_has_no_capabilities(scripted, client_of):
    old = {"app-version": "1.5.3", "code-gen-image": {"uproot": "x"}}
    server = scripted(lambda asked: say(old))
    client = client_of(server.url)
    assert client.info().capabilities == frozenset()
    assert client.reasons("d857") == {}
    client.cancel("d857")
    assert server.asked[-1].method == "GET"


def test_info_is_asked_once(scripted, client_of):
    server = scripted(lambda asked: say(INFO))
    client = client_of(server.url)
    assert client.info() is client.info()
    assert len(server.asked) == 1


def test_a_request_that_nobody_has(servicex, client_of):
    client = client_of(servicex.url)
    with pytest.raises(TransformGone):
        client.status("00000000-0000-0000-0000-000000000000")
    assert client.results("00000000-0000-0000-0000-000000000000") == []


# -- one client for a server in a process


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
    first, second = shared_client_of(endpoint(server)), shared_client_of(endpoint(server))
    assert first is second
    assert first.info() == second.info()
    assert server.count("GET", "/servicex") == 1


def test_servers_have_clients_of_their_own(scripted):
    servers = [scripted(lambda asked: say({})) for _ in range(2)]
    assert shared_client_of(endpoint(servers[0])) is not shared_client_of(endpoint(servers[1]))


def test_connections_are_closed_when_nobody_holds_the_client(scripted):
    server = scripted(lambda asked: say({"requests": []}))
    client = shared_client_of(endpoint(server))
    client.transforms()
    assert n_connections(server) == 1
    del client
    gc.collect()
    assert n_connections(server) == 0
