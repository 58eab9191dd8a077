"""Every request ends within its limit, whatever a server sends, shown over real sockets."""

from __future__ import annotations

import gc
import json
import math
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import trustme
from support.raw import RawServer, encrypted, full_backlog, handshake_in_trickles

from coffea_sx import wire
from coffea_sx.errors import ReadError, ServerError, Unreachable
from coffea_sx.policy import ClientPolicy
from coffea_sx.redact import Secret
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.servicex.config import Endpoint, EndpointName
from coffea_sx.servicex.models import SignedUrl
from coffea_sx.storage import transport
from coffea_sx.storage.transport import fetch
from coffea_sx.wire import Limits, retry_after

LIMIT_S = 1.0
# All of a request; only a window of its body.
TOTAL = Limits(total_s=LIMIT_S)
RATE = Limits(total_s=60.0, window_s=LIMIT_S)
# For a machine that is busy.
SLACK_S = 2.0

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"results": [], "title": "x" * 5000}).encode()
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)


def silence(connection):
    connection.read_request()
    connection.be_silent()


def silence_after_accepting(connection):
    connection.be_silent()


def trickled_head(connection):
    connection.read_request()
    connection.trickle(HEAD + LENGTH + BODY)


def trickled_headers_without_end(connection):
    connection.read_request()
    connection.send(HEAD)
    connection.trickle(b"X-More: " + b"x" * 5000)


def informed_without_end(connection):
    connection.read_request()
    while not connection.over.is_set():
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def trickled_body(connection):
    connection.read_request()
    connection.send(HEAD + LENGTH)
    connection.trickle(BODY)


def body_of_which_the_rest_is_missing(connection):
    connection.read_request()
    connection.send(HEAD + LENGTH + BODY[:100])
    connection.be_silent()


def trickled_chunks(connection):
    connection.read_request()
    connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while not connection.over.is_set():
        connection.trickle(b"1\r\nx\r\n")


def trickled_length_of_a_chunk(connection):
    connection.read_request()
    connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    connection.trickle(b"0" * 5000)


def trickled_until_the_connection_ends(connection):
    connection.read_request()
    connection.send(HEAD + b"Connection: close\r\n\r\n")
    connection.trickle(BODY)


HEADS = [silence, silence_after_accepting, trickled_head, trickled_headers_without_end]
BODIES = [
    trickled_body,
    body_of_which_the_rest_is_missing,
    trickled_chunks,
    trickled_length_of_a_chunk,
    trickled_until_the_connection_ends,
]
every_wait = pytest.mark.parametrize(
    ("play", "limits"),
    [
        *((play, TOTAL) for play in [*HEADS, *BODIES]),
        *((play, RATE) for play in BODIES),
    ],
    ids=lambda given: getattr(given, "__name__", "rate" if given is RATE else "total"),
)


@pytest.fixture
def raw():
    servers = []

    def start(play):
        servers.append(RawServer(play))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def context(authority, tmp_path, monkeypatch):
    """What a server needs for TLS with a certificate that is trusted here."""
    import ssl

    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    # Stores are connected to anew, by who trusts the authority.
    transport._connections.cache_clear()
    yield context
    transport._connections.cache_clear()


def client_of(url, limits, patience_s=0.0, token=None):
    secret = Secret(token) if token else None
    endpoint = Endpoint(url, secret, EndpointName(None, url, None))
    return ServiceXClient(endpoint, ClientPolicy(patience_s=patience_s), limits)


def fetched(url, limits, patience_s=0.0):
    grant = SignedUrl(f"{url}/o?Signature=CANARY", {}, math.inf)
    return fetch("o.root", lambda refresh: grant, 0, 10**6, None, patience_s, limits)


class Poller:
    """Measures how long something takes."""

    def __enter__(self):
        self.begin = time.monotonic()
        return self

    def __exit__(self, *error):
        self.seconds = time.monotonic() - self.begin


@every_wait
def test_a_question_ends(raw, play, limits):
    client = client_of(raw(play).url, limits)
    with (
        Poller() as poller,
        pytest.raises(Unreachable, match=r"in time: it sent \d+ bytes in [0-3]"),
    ):
        client.status("d857")
    client.close()
    assert LIMIT_S <= poller.seconds < LIMIT_S + SLACK_S


@every_wait
def test_fetching_ends(raw, play, limits):
    server = raw(play)
    with (
        Poller() as poller,
        pytest.raises(ReadError, match=r"in time: it sent \d+ bytes in [0-3]") as caught,
    ):
        fetched(server.url, limits)
    assert LIMIT_S <= poller.seconds < LIMIT_S + SLACK_S
    assert "o.root" in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_a_head_without_end_ends(raw):
    url = raw(informed_without_end).url
    client = client_of(url, TOTAL)
    for ask in (lambda: client.status("d857"), lambda: fetched(url, TOTAL)):
        with (
            Poller() as poller,
            pytest.raises((Unreachable, ReadError), match="all of them headers"),
        ):
            ask()
        assert poller.seconds < LIMIT_S + SLACK_S
    client.close()


def ways_of_tls(context):
    return {
        "silence": silence_after_accepting,
        "handshake": handshake_in_trickles(context),
        "head": encrypted(context, trickled_head),
        "body": encrypted(context, trickled_body),
        "chunks": encrypted(context, trickled_chunks),
    }


@pytest.mark.parametrize("what", ["silence", "handshake", "head", "body", "chunks"])
def test_encrypted_connections_end(raw, context, what):
    url = raw(ways_of_tls(context)[what]).url.replace("http", "https")
    client = client_of(url, TOTAL)
    for ask in (lambda: client.status("d857"), lambda: fetched(url, TOTAL)):
        with Poller() as poller, pytest.raises((Unreachable, ReadError), match="in time: it sent"):
            ask()
        assert LIMIT_S <= poller.seconds < LIMIT_S + SLACK_S
    client.close()


def test_encrypted_answers_arrive(raw, context):
    def play(connection):
        while connection.read_request():
            connection.send(HEAD + LENGTH + BODY)

    server = raw(encrypted(context, play))
    client = client_of(server.url.replace("http", "https"), TOTAL)
    assert [client.results("d857"), client.results("d857")] == [[], []]
    assert server.n_connections == 1
    client.close()
    assert fetched(server.url.replace("http", "https"), TOTAL).data == BODY


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses")
def test_connecting_ends():
    limits = Limits(total_s=60.0, connect_s=LIMIT_S)
    with full_backlog() as port:
        client = client_of(f"http://127.0.0.1:{port}", limits)
        for ask in (lambda: client.status("d857"), lambda: fetched(client.endpoint.url, limits)):
            with Poller() as poller, pytest.raises((Unreachable, ReadError)):
                ask()
            assert LIMIT_S <= poller.seconds < LIMIT_S + SLACK_S
        client.close()


def test_looking_up_a_name_ends(monkeypatch):
    over = threading.Event()

    def look_up(*args, **options):
        over.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with Poller() as poller, pytest.raises(Unreachable, match="in time"):
        client_of("http://servicex.example.org", TOTAL).status("d857")
    over.set()
    assert poller.seconds < LIMIT_S + SLACK_S


def test_a_store_that_trickles_ends_within_the_patience_and_a_request(raw):
    patience_s = 1.5
    server = raw(trickled_body)
    with Poller() as poller, pytest.raises(ReadError, match="in time"):
        fetched(server.url, TOTAL, patience_s)
    assert patience_s / 2 < poller.seconds < patience_s + LIMIT_S + SLACK_S
    assert server.n_connections > 1


def test_a_slow_store_that_is_fast_enough_is_waited_for(raw):
    """Longer than the limit, because of the bytes, and at the least rate."""
    content = bytes(range(256)) * 4

    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
        for i in range(0, len(content), 64):
            connection.over.wait(0.1)
            connection.send(content[i : i + 64])

    limits = Limits(total_s=0.5, bytes_per_s=300, least_rate=100, window_s=0.5)
    with Poller() as poller:
        assert fetched(raw(play).url, limits).data == content
    assert poller.seconds > 1.5


def test_time_in_which_nobody_waits_does_not_count(raw):
    """A process may be suspended, and busy with what it has."""
    content = b"x" * 300_000

    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    limits = Limits(total_s=0.5, window_s=0.5)
    clock = wire.Clock(limits)
    found = b""
    with wire.exchange(wire.pool(), "GET", raw(play).url, clock, headers={}) as response:
        for block in response.stream(100_000):
            time.sleep(0.3)
            found += block
    assert found == content


# -- the caller's limit


def always(answer):
    def play(connection):
        while connection.read_request():
            connection.send(answer)

    return play


BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
QUESTIONS = {
    "status": lambda client, s: client.status("d857", timeout_s=s),
    "results": lambda client, s: client.results("d857", timeout_s=s),
    "file_urls": lambda client, s: client.file_urls("d857", ["a"], timeout_s=s),
    "info": lambda client, s: client.info(timeout_s=s),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    "play", [silence, trickled_body, always(BUSY)], ids=["silence", "trickle", "busy"]
)
@pytest.mark.parametrize("token", [None, "a refresh token"])
def test_a_question_takes_no_longer_than_the_caller_wants(raw, question, play, token):
    client = client_of(raw(play).url, Limits(), patience_s=20, token=token)
    with Poller() as poller, pytest.raises(ServerError):
        QUESTIONS[question](client, 0.7)
    assert poller.seconds < 0.7 + SLACK_S
    client.close()


def test_whoever_waits_for_the_token_of_another_thread_waits_no_longer(raw):
    server = raw(silence)
    client = client_of(server.url, Limits(), token="a refresh token")
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(client.status, "d857", timeout_s=3)
        server.connected.wait(5)
        with Poller() as poller, pytest.raises(Unreachable, match="in time"):
            client.status("d857", timeout_s=0.5)
        assert poller.seconds < SLACK_S
        client.close()
        assert isinstance(other.exception(5), ServerError)


# -- interrupted


@pytest.mark.parametrize("play", [silence, trickled_head, trickled_body, always(BUSY)])
def test_closing_ends_a_question_at_once(raw, play):
    server = raw(play)
    client = client_of(server.url, Limits(), patience_s=60)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.results, "d857")
        assert server.connected.wait(5)
        with Poller() as poller:
            client.close()
            assert isinstance(asked.exception(5), ServerError)
    assert poller.seconds < SLACK_S
    with pytest.raises(ServerError, match="was closed"):
        client.results("d857")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses")
def test_closing_ends_connecting_at_once():
    begun = threading.Event()

    class Noted(ServiceXClient):
        def _send(self, *args):
            begun.set()
            return super()._send(*args)

    with full_backlog() as port, ThreadPoolExecutor(1) as threads:
        url = f"http://127.0.0.1:{port}"
        client = Noted(Endpoint(url, None, EndpointName(None, url, None)), 60)
        asked = threads.submit(client.results, "d857")
        assert begun.wait(5)
        with Poller() as poller:
            client.close()
            with pytest.raises(ServerError, match="was closed"):
                asked.result(5)
        assert poller.seconds < SLACK_S


# -- what is not HTTP

MALFORMED = {
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    "length of another script": b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}",
    "an endless length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "status": b"HTTP/1.1 abc OK\r\n\r\n",
    "no status": b"\r\n\r\n",
    "version": b"HTTP/9.9.9 200 OK\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n",
    "negative chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n",
    "gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "lines": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"\r\n",
    "nested": HEAD + b"Content-Length: 200000\r\n\r\n" + b"[" * 200_000,
}


def once(answer):
    def play(connection):
        connection.read_request()
        connection.send(answer)
        connection.socket.shutdown(socket.SHUT_WR)
        connection.socket.recv(1)

    return play


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_an_answer_that_is_none_is_an_error_of_the_server(raw, answer):
    client = client_of(raw(once(answer)).url, TOTAL, patience_s=0.5)
    with Poller() as poller, pytest.raises(ServerError):
        client.results("d857")
    assert poller.seconds < 0.5 + LIMIT_S + SLACK_S
    client.close()


@pytest.mark.parametrize("name", sorted(set(MALFORMED) - {"gzip", "nested", "line", "lines"}))
def test_an_object_that_is_none_is_an_error_of_reading(raw, name):
    with Poller() as poller, pytest.raises(ReadError):
        fetched(raw(once(MALFORMED[name])).url, TOTAL, patience_s=0.5)
    assert poller.seconds < 0.5 + LIMIT_S + SLACK_S


@pytest.mark.parametrize(
    "where",
    [
        "bytes 0-9/" + "9" * 5000,
        "bytes -5-9/10",
        "bytes 0-9/-10",
        "bytes \u00b2-9/10",
        "bytes 9-0/10",
        "bytes 0-9/1e9",
        "bytes",
        "*",
    ],
)
@pytest.mark.parametrize("status", [206, 416])
def test_a_range_that_is_none_is_an_error_of_reading(raw, where, status):
    answer = f"HTTP/1.1 {status} X\r\nContent-Range: {where}\r\nContent-Length: 5\r\n\r\nabcde"
    server = raw(once(answer.encode("latin-1")))
    with Poller() as poller:
        if status == 416:  # nothing is there
            assert fetched(server.url, TOTAL, 0.5).data == b""
        else:
            with pytest.raises(ReadError):
                fetched(server.url, TOTAL, 0.5)
    assert poller.seconds < 0.5 + LIMIT_S + SLACK_S


@pytest.mark.parametrize(
    "header", [{"X-Key": "CANARY\r\nX: y"}, {"X-Key": "CANARY\u2028"}, {"X-Key CANARY\n": "x"}]
)
def test_headers_that_cannot_be_sent(raw, header):
    grant = SignedUrl(f"{raw(once(BUSY)).url}/o", header, math.inf)
    with pytest.raises(ReadError, match="cannot be sent as it is") as caught:
        fetch("o.root", lambda refresh: grant, 0, 10, patience_s=0.3)
    assert "CANARY" not in str(caught.value)


SENSELESS = [
    "\u00b2",
    "-5",
    "nan",
    "inf",
    "1e9",
    "",
    "soon",
    "9" * 5000,
    "Mon, 32 Foo 99999 99:99:99 GMT",
    "1 2",
]


@pytest.mark.parametrize("value", SENSELESS)
def test_a_senseless_pause_is_none(value):
    assert retry_after(SimpleNamespace(headers={"Retry-After": value})) in (None, 0.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5),
        (" 5 ", 5),
        ("1.5", 1.5),
        ("999999999", 3600),
        ("Wed, 25 Nov 2020 00:00:00 GMT", 0),
        ("Tue, 02 Oct 2096 07:06:40 GMT", 3600),
    ],
)
def test_pauses_are_bounded(value, seconds):
    assert retry_after(SimpleNamespace(headers={"Retry-After": value})) == seconds


@pytest.mark.parametrize("value", [v for v in SENSELESS if v])
def test_a_senseless_pause_does_no_harm(raw, value):
    busy = BUSY.replace(b"Content", b"Retry-After: " + value.encode("latin-1") + b"\r\nContent")
    url = raw(always(busy)).url
    client = client_of(url, TOTAL, patience_s=0.5)
    for ask in (lambda: client.results("d857"), lambda: fetched(url, TOTAL, 0.5)):
        with Poller() as poller, pytest.raises((ServerError, ReadError), match="503"):
            ask()
        assert poller.seconds < 0.5 + SLACK_S
    client.close()


def open_sockets():
    return {
        id(one) for one in gc.get_objects() if isinstance(one, wire._Socket) and one.fileno() >= 0
    }


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_connections_of_answers_that_are_none_are_closed(raw, answer):
    client = client_of(raw(once(answer)).url, TOTAL)
    gc.collect()
    gc.disable()
    try:
        before = open_sockets()  # the store's pool keeps some for other tests
        with pytest.raises(ServerError):
            client.results("d857")
        client.close()
        assert open_sockets() <= before
    finally:
        gc.enable()
