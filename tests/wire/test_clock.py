"""Every request ends within its limits, whatever a server sends; shown over real sockets."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from support.plays import (
    BODY,
    BUSY,
    HEAD,
    LENGTH,
    LIMIT_S,
    RATE,
    SLACK_S,
    TOTAL,
    Stopwatch,
    always,
    body_of_which_the_rest_is_missing,
    client_of,
    fetched,
    informed_without_end,
    silence,
    silence_after_accepting,
    trickled_body,
    trickled_chunks,
    trickled_head,
    trickled_headers_without_end,
    trickled_length_of_a_chunk,
    trickled_until_the_connection_ends,
)
from support.raw import encrypted, full_backlog, handshake_in_trickles

from coffea_sx.errors import ReadError, ServerError, Unreachable
from coffea_sx.wire.clock import Clock, Limits
from coffea_sx.wire.connections import make_pool
from coffea_sx.wire.exchanges import exchange

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
    ids=lambda value: getattr(value, "__name__", "rate" if value is RATE else "total"),
)


@pytest.mark.sampled(5)
@every_wait
def test_requests_end(raw, play, limits):
    client = client_of(raw(play).url, limits)
    with (
        Stopwatch() as stopwatch,
        pytest.raises(Unreachable, match=r"in time: it sent \d+ bytes in [0-3]"),
    ):
        client.status("d857")
    client.close()
    assert LIMIT_S <= stopwatch.seconds < LIMIT_S + SLACK_S


@pytest.mark.sampled(5)
@every_wait
def test_fetching_ends(raw, play, limits):
    server = raw(play)
    with (
        Stopwatch() as stopwatch,
        pytest.raises(ReadError, match=r"in time: it sent \d+ bytes in [0-3]") as caught,
    ):
        fetched(server.url, limits)
    assert LIMIT_S <= stopwatch.seconds < LIMIT_S + SLACK_S
    assert "o.root" in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_a_head_without_end_ends(raw):
    url = raw(informed_without_end).url
    client = client_of(url, TOTAL)
    for request in (lambda: client.status("d857"), lambda: fetched(url, TOTAL)):
        with (
            Stopwatch() as stopwatch,
            pytest.raises((Unreachable, ReadError), match="all of them headers"),
        ):
            request()
        assert stopwatch.seconds < LIMIT_S + SLACK_S
    client.close()


def tls_plays(context):
    return {
        "silence": silence_after_accepting,
        "handshake": handshake_in_trickles(context),
        "head": encrypted(context, trickled_head),
        "body": encrypted(context, trickled_body),
        "chunks": encrypted(context, trickled_chunks),
    }


@pytest.mark.sampled(3)
@pytest.mark.parametrize("step", ["silence", "handshake", "head", "body", "chunks"])
def test_encrypted_connections_end(raw, context, step):
    url = raw(tls_plays(context)[step]).url.replace("http", "https")
    client = client_of(url, TOTAL)
    for request in (lambda: client.status("d857"), lambda: fetched(url, TOTAL)):
        with (
            Stopwatch() as stopwatch,
            pytest.raises((Unreachable, ReadError), match="in time: it sent"),
        ):
            request()
        assert LIMIT_S <= stopwatch.seconds < LIMIT_S + SLACK_S
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
        for request in (
            lambda: client.status("d857"),
            lambda: fetched(client.endpoint.url, limits),
        ):
            with Stopwatch() as stopwatch, pytest.raises((Unreachable, ReadError)):
                request()
            assert LIMIT_S <= stopwatch.seconds < LIMIT_S + SLACK_S
        client.close()


def test_a_store_that_trickles_ends_within_the_patience_and_a_request(raw):
    patience_s = 1.5
    server = raw(trickled_body)
    with Stopwatch() as stopwatch, pytest.raises(ReadError, match="in time"):
        fetched(server.url, TOTAL, patience_s)
    assert patience_s / 2 < stopwatch.seconds < patience_s + LIMIT_S + SLACK_S
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

    limits = Limits(total_s=0.5, bytes_per_s=300, min_bytes_per_s=100, window_s=0.5)
    with Stopwatch() as stopwatch:
        assert fetched(raw(play).url, limits).data == content
    assert stopwatch.seconds > 1.5


def test_only_time_spent_waiting_counts(raw):
    """A process may be suspended, or busy with received bytes."""
    content = b"x" * 300_000

    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    limits = Limits(total_s=0.5, window_s=0.5)
    clock = Clock(limits)
    received = b""
    with exchange(make_pool(), "GET", raw(play).url, clock, headers={}) as response:
        for block in response.stream(100_000):
            time.sleep(0.3)
            received += block
    assert received == content


# -- the timeout of the caller


REQUESTS = {
    "status": lambda client, s: client.status("d857", timeout_s=s),
    "results": lambda client, s: client.results("d857", timeout_s=s),
    "file_urls": lambda client, s: client.file_urls("d857", ["a"], timeout_s=s),
    "info": lambda client, s: client.info(timeout_s=s),
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize(
    "play", [silence, trickled_body, always(BUSY)], ids=["silence", "trickle", "busy"]
)
@pytest.mark.parametrize("token", [None, "a refresh token"])
def test_a_request_takes_no_longer_than_its_timeout(raw, request_name, play, token):
    client = client_of(raw(play).url, Limits(), patience_s=20, token=token)
    with Stopwatch() as stopwatch, pytest.raises(ServerError):
        REQUESTS[request_name](client, 0.7)
    assert stopwatch.seconds < 0.7 + SLACK_S
    client.close()


def test_waiting_for_the_token_of_another_thread_ends_in_time(raw):
    server = raw(silence)
    client = client_of(server.url, Limits(), token="a refresh token")
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(client.status, "d857", timeout_s=3)
        server.connected.wait(5)
        with Stopwatch() as stopwatch, pytest.raises(Unreachable, match="in time"):
            client.status("d857", timeout_s=0.5)
        assert stopwatch.seconds < SLACK_S
        client.close()
        assert isinstance(other.exception(5), ServerError)


# -- interruption


@pytest.mark.parametrize("play", [silence, trickled_head, trickled_body, always(BUSY)])
def test_closing_ends_a_request_at_once(raw, play):
    server = raw(play)
    client = client_of(server.url, Limits(), patience_s=60)
    with ThreadPoolExecutor(1) as threads:
        request = threads.submit(client.results, "d857")
        assert server.connected.wait(5)
        with Stopwatch() as stopwatch:
            client.close()
            assert isinstance(request.exception(5), ServerError)
    assert stopwatch.seconds < SLACK_S
    with pytest.raises(ServerError, match="was closed"):
        client.results("d857")


def n_connecting(port):
    """Count the connections of this process to a port that are not yet accepted."""
    connections = psutil.Process().net_connections("tcp4")
    return sum(c.status == psutil.CONN_SYN_SENT and c.raddr.port == port for c in connections)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses")
def test_closing_ends_connecting_at_once():
    with full_backlog() as port, ThreadPoolExecutor(1) as threads:
        n_before = n_connecting(port)
        client = client_of(f"http://127.0.0.1:{port}", Limits(), patience_s=60)
        request = threads.submit(client.results, "d857")
        while n_connecting(port) == n_before:
            time.sleep(0.01)
        with Stopwatch() as stopwatch:
            client.close()
            with pytest.raises(ServerError, match="was closed"):
                request.result(5)
        assert stopwatch.seconds < SLACK_S
