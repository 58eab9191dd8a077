"""How much clients may ask for at once: requests, and the bytes that they send."""

from __future__ import annotations

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .web import page

# A list of 100 000 paths of 250 characters fits.
MOST_BYTES = 32 << 20
# Of all requests that are being read, as what they send is in memory until it is answered.
MOST_BYTES_AT_ONCE = 2 * MOST_BYTES
# A client that sends more slowly is not waited for.
BODY_S, LEAST_RATE = 30.0, 10_000
# Closed, as what the client still sends is not read.
_FULL = {"retry-after": "1", "connection": "close"}
_END = {"connection": "close"}


class Limited:
    """An application that answers so many requests at once, and takes bodies of a limited size.

    Parameters
    ----------
    application : ASGIApp
    most : int
        How many requests at once.
    """

    def __init__(self, application: ASGIApp, most: int) -> None:
        self._application = application
        self._most = most
        self._n_requests = 0
        self._n_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._n_requests >= self._most:
            await page(503, _FULL)(scope, receive, send)
            return
        if _announced(scope) > MOST_BYTES:
            await page(413, _END)(scope, receive, send)
            return
        self._n_requests += 1
        body = _Body(self, receive)
        # What comes with these is nowhere kept.
        is_kept = scope["method"] not in ("GET", "HEAD")
        try:
            await self._application(scope, body.receive if is_kept else receive, send)
        finally:
            self._n_requests -= 1
            self._n_bytes -= body.n_bytes

    def take(self, n_bytes: int) -> None:
        """Count bytes that a client has sent."""
        self._n_bytes += n_bytes
        if self._n_bytes > MOST_BYTES_AT_ONCE:
            raise HTTPException(503, headers=_FULL)


class _Body:
    """What one client sends."""

    def __init__(self, limited: Limited, receive: Receive) -> None:
        self.n_bytes = 0
        self._limited = limited
        self._receive = receive
        self._start = time.monotonic()
        self._is_complete = False

    async def receive(self) -> Message:
        """Receive the next part."""
        if self._is_complete:
            return await self._receive()
        left_s = BODY_S + self.n_bytes / LEAST_RATE - (time.monotonic() - self._start)
        try:
            message = await asyncio.wait_for(self._receive(), max(left_s, 0))
        except asyncio.TimeoutError:
            raise HTTPException(408, headers=_END) from None
        n_bytes = len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        self.n_bytes += n_bytes
        self._limited.take(n_bytes)
        if self.n_bytes > MOST_BYTES:
            raise HTTPException(413, headers=_END)
        return message


def _announced(scope: Scope) -> int:
    return int(dict(scope["headers"]).get(b"content-length", b"0"))
