"""Plays for `support.raw.RawServer` that never end, and clients that must end nevertheless."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from coffea_sx.policy import ClientPolicy
from coffea_sx.redact import Secret
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.servicex.config import Endpoint, EndpointName
from coffea_sx.servicex.urls import SignedUrl
from coffea_sx.storage.policy import ReadPolicy
from coffea_sx.storage.transfer import ObjectPart
from coffea_sx.storage.transport import fetch
from coffea_sx.wire.clock import Limits
from support.raw import Play, RawConnection

LIMIT_S = 1.0
# All of a request; only a window of its body.
TOTAL = Limits(total_s=LIMIT_S)
RATE = Limits(total_s=60.0, window_s=LIMIT_S)
# For a machine that is busy.
SLACK_S = 2.0

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"results": [], "title": "x" * 5000}).encode()
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)


def silence(connection: RawConnection) -> None:
    connection.read_request()
    connection.be_silent()


def silence_after_accepting(connection: RawConnection) -> None:
    connection.be_silent()


def trickled_head(connection: RawConnection) -> None:
    connection.read_request()
    connection.trickle(HEAD + LENGTH + BODY)


def trickled_headers_without_end(connection: RawConnection) -> None:
    connection.read_request()
    connection.send(HEAD)
    connection.trickle(b"X-More: " + b"x" * 5000)


def informed_without_end(connection: RawConnection) -> None:
    connection.read_request()
    while not connection.over.is_set():
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def trickled_body(connection: RawConnection) -> None:
    connection.read_request()
    connection.send(HEAD + LENGTH)
    connection.trickle(BODY)


def body_of_which_the_rest_is_missing(connection: RawConnection) -> None:
    connection.read_request()
    connection.send(HEAD + LENGTH + BODY[:100])
    connection.be_silent()


def trickled_chunks(connection: RawConnection) -> None:
    connection.read_request()
    connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while not connection.over.is_set():
        connection.trickle(b"1\r\nx\r\n")


def trickled_length_of_a_chunk(connection: RawConnection) -> None:
    connection.read_request()
    connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    connection.trickle(b"0" * 5000)


def trickled_until_the_connection_ends(connection: RawConnection) -> None:
    connection.read_request()
    connection.send(HEAD + b"Connection: close\r\n\r\n")
    connection.trickle(BODY)


def always(answer: bytes) -> Play:
    def play(connection: RawConnection) -> None:
        while connection.read_request():
            connection.send(answer)

    return play


BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


def client_of(
    url: str, limits: Limits, patience_s: float = 0.0, token: str | None = None
) -> ServiceXClient:
    """Make a client of a server."""
    secret = Secret(token) if token else None
    endpoint = Endpoint(url, secret, EndpointName(None, url, None))
    return ServiceXClient(endpoint, ClientPolicy(patience_s=patience_s), limits)


def fetched(url: str, limits: Limits, retry_s: float = 0.0) -> ObjectPart:
    """Fetch an object of a store."""
    signed_url = SignedUrl(f"{url}/o?Signature=CANARY", {}, math.inf)
    policy = ReadPolicy(limits=limits, retry_s=retry_s)
    return fetch("o.root", lambda refresh: signed_url, 0, 10**6, policy=policy)


class Stopwatch:
    """Measures the seconds that its block takes."""

    def __enter__(self) -> Stopwatch:
        self.begin = time.monotonic()
        return self

    def __exit__(self, *error: Any) -> None:
        self.seconds = time.monotonic() - self.begin
