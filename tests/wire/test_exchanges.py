"""Responses that are not HTTP are errors, and leave nothing behind; shown over real sockets."""

from __future__ import annotations

import gc
import math
import socket
from types import SimpleNamespace

import pytest
from support.plays import (
    BUSY,
    HEAD,
    LIMIT_S,
    SLACK_S,
    TOTAL,
    Stopwatch,
    always,
    client_of,
    fetched,
)

from coffea_sx.errors import ReadError, ServerError
from coffea_sx.servicex.urls import SignedUrl
from coffea_sx.storage.policy import ReadPolicy
from coffea_sx.storage.transport import fetch
from coffea_sx.wire.exchanges import retry_after
from coffea_sx.wire.sockets import ClockedSocket

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


@pytest.mark.sampled(4)
@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_response_is_a_server_error(raw, answer):
    client = client_of(raw(once(answer)).url, TOTAL, patience_s=0.5)
    with Stopwatch() as stopwatch, pytest.raises(ServerError):
        client.results("d857")
    assert stopwatch.seconds < 0.5 + LIMIT_S + SLACK_S
    client.close()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", sorted(set(MALFORMED) - {"gzip", "nested", "line", "lines"}))
def test_a_malformed_object_is_a_read_error(raw, name):
    with Stopwatch() as stopwatch, pytest.raises(ReadError):
        fetched(raw(once(MALFORMED[name])).url, TOTAL, 0.5)
    assert stopwatch.seconds < 0.5 + LIMIT_S + SLACK_S


@pytest.mark.parametrize(
    "content_range",
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
def test_a_malformed_range_is_a_read_error(raw, content_range, status):
    answer = (
        f"HTTP/1.1 {status} X\r\nContent-Range: {content_range}\r\nContent-Length: 5\r\n\r\nabcde"
    )
    server = raw(once(answer.encode("latin-1")))
    with Stopwatch() as stopwatch:
        if status == 416:  # nothing is there
            assert fetched(server.url, TOTAL, 0.5).data == b""
        else:
            with pytest.raises(ReadError):
                fetched(server.url, TOTAL, 0.5)
    assert stopwatch.seconds < 0.5 + LIMIT_S + SLACK_S


@pytest.mark.parametrize(
    "header", [{"X-Key": "CANARY\r\nX: y"}, {"X-Key": "CANARY\u2028"}, {"X-Key CANARY\n": "x"}]
)
def test_headers_that_cannot_be_sent(raw, header):
    signed_url = SignedUrl(f"{raw(once(BUSY)).url}/o", header, math.inf)
    with pytest.raises(ReadError, match="cannot be sent as it is") as caught:
        fetch("o.root", lambda refresh: signed_url, 0, 10, policy=ReadPolicy(retry_s=0.3))
    assert "CANARY" not in str(caught.value)


INVALID_PAUSES = [
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


@pytest.mark.parametrize("value", INVALID_PAUSES)
def test_an_invalid_pause_is_ignored(value):
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


@pytest.mark.sampled(5)
@pytest.mark.parametrize("value", [v for v in INVALID_PAUSES if v])
def test_an_invalid_pause_changes_no_error(raw, value):
    busy = BUSY.replace(b"Content", b"Retry-After: " + value.encode("latin-1") + b"\r\nContent")
    url = raw(always(busy)).url
    client = client_of(url, TOTAL, patience_s=0.5)
    for request in (lambda: client.results("d857"), lambda: fetched(url, TOTAL, 0.5)):
        with Stopwatch() as stopwatch, pytest.raises((ServerError, ReadError), match="503"):
            request()
        assert stopwatch.seconds < 0.5 + SLACK_S
    client.close()


def open_sockets():
    sockets = [item for item in gc.get_objects() if isinstance(item, ClockedSocket)]
    return {id(item) for item in sockets if item.fileno() >= 0}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_connections_of_malformed_responses_are_closed(raw, answer):
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
