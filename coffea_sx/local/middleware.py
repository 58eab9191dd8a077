"""ASGI middleware around the REST handlers: the log of requests, host names, and limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .error_pages import error_page
from .settings import ServerSettings

# Clients choose their paths, and the log is long.
LOGGED_PATH = 400
# The connection is closed, as the rest of the request is not read.
_OVERLOADED = {"retry-after": "1", "connection": "close"}
_CLOSE = {"connection": "close"}


@dataclass(frozen=True)
class Exchange:
    """A request and its response.

    Attributes
    ----------
    time : float
        Arrival of the request, in seconds since the epoch.
    method, path : str
        Without the query, and at most the first 400 characters of the path.
    status : int
    nbytes_sent : int
        Bytes of the response's body.
    seconds : float
        Until the end of the response was sent.
    """

    time: float
    method: str
    path: str
    status: int
    nbytes_sent: int
    seconds: float


class LoggingMiddleware:
    """Logs every exchange, and refuses requests for host names of other machines.

    With the check of the host name no web page can use a browser as its client, by a DNS entry
    that points to 127.0.0.1.

    Parameters
    ----------
    application : ASGIApp
    log : callable
        Called with every `Exchange`.
    """

    def __init__(self, application: ASGIApp, log: Callable[[Exchange], None]) -> None:
        self._application = application
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        start = time.time()
        status, nbytes, is_logged = 500, 0, False

        def log() -> None:
            nonlocal is_logged
            is_logged = True
            path, seconds = scope["path"][:LOGGED_PATH], time.time() - start
            self._log(Exchange(start, scope["method"], path, status, nbytes, seconds))

        async def counting_send(message: Message) -> None:
            nonlocal status, nbytes
            if message["type"] == "http.response.start":
                status = message["status"]
            elif scope["method"] != "HEAD":
                nbytes += len(message.get("body", b""))
            # Before the client sees the end, so that it finds its own request in the log.
            if message["type"] == "http.response.body" and not message.get("more_body"):
                log()
            await send(message)

        application = self._application if _is_for_this_machine(scope) else error_page(400)
        try:
            await application(scope, receive, counting_send)
        finally:
            if not is_logged:
                log()


def _is_for_this_machine(scope: Scope) -> bool:
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    return host.partition(":")[0] in ("127.0.0.1", "localhost")


class LimitingMiddleware:
    """Limits the requests in work, and the bytes of their bodies.

    Parameters
    ----------
    application : ASGIApp
    max_requests : int
        Requests in work at the same time.
    settings : ServerSettings
    """

    def __init__(self, application: ASGIApp, max_requests: int, settings: ServerSettings) -> None:
        self.settings = settings
        self._application = application
        self._max_requests = max_requests
        self._n_requests = 0
        self._n_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if self._n_requests >= self._max_requests:
            await error_page(503, _OVERLOADED)(scope, receive, send)
            return
        if _content_length(scope) > self.settings.max_body_bytes:
            await error_page(413, _CLOSE)(scope, receive, send)
            return
        self._n_requests += 1
        body = _Body(self, receive)
        # The bodies of these are not kept in memory.
        has_body = scope["method"] not in ("GET", "HEAD")
        try:
            await self._application(scope, body.receive if has_body else receive, send)
        finally:
            self._n_requests -= 1
            self._n_bytes -= body.n_bytes

    def add_bytes(self, n_bytes: int) -> None:
        """Count received bytes; raise HTTPException if those in work are too many."""
        self._n_bytes += n_bytes
        if self._n_bytes > self.settings.max_bytes_in_work:
            raise HTTPException(503, headers=_OVERLOADED)


class _Body:
    """The body of one request, which arrives in parts."""

    def __init__(self, limiting: LimitingMiddleware, receive: Receive) -> None:
        self.n_bytes = 0
        self._limiting = limiting
        self._receive = receive
        self._start = time.monotonic()
        self._is_complete = False

    async def receive(self) -> Message:
        """Receive the next part."""
        if self._is_complete:
            return await self._receive()
        settings = self._limiting.settings
        allowed_s = settings.body_s + self.n_bytes / settings.min_body_rate
        left_s = allowed_s - (time.monotonic() - self._start)
        try:
            message = await asyncio.wait_for(self._receive(), max(left_s, 0))
        except asyncio.TimeoutError:
            raise HTTPException(408, headers=_CLOSE) from None
        n_bytes = len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        self.n_bytes += n_bytes
        self._limiting.add_bytes(n_bytes)
        if self.n_bytes > settings.max_body_bytes:
            raise HTTPException(413, headers=_CLOSE)
        return message


def _content_length(scope: Scope) -> int:
    return int(dict(scope["headers"]).get(b"content-length", b"0"))
