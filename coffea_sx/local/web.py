"""What surrounds the REST handlers: error pages, the record of exchanges, the host check."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .tokens import TokenError

# Clients choose their paths, and many exchanges are kept.
PATH_KEPT = 400

_PAGES = {
    404: (
        "Not Found",
        "The requested URL was not found on the server. "
        "If you entered the URL manually please check your spelling and try again.",
    ),
    400: (
        "Bad Request",
        "The browser (or proxy) sent a request that this server could not understand.",
    ),
    415: (
        "Unsupported Media Type",
        "Did not attempt to load JSON data because the request Content-Type was not "
        "&#39;application/json&#39;.",
    ),
    405: ("Method Not Allowed", "The method is not allowed for the requested URL."),
    408: (
        "Request Timeout",
        "The server closed the network connection because the browser didn&#39;t finish the "
        "request within the specified time.",
    ),
    413: (
        "Request Entity Too Large",
        "The data value transmitted exceeds the capacity limit.",
    ),
    503: (
        "Service Unavailable",
        "The server is temporarily unable to service your request due to maintenance downtime or "
        "capacity problems. Please try again later.",
    ),
    500: (
        "Internal Server Error",
        "The server encountered an internal error and was unable to complete your request. "
        "Either the server is overloaded or there is an error in the application.",
    ),
}


@dataclass(frozen=True)
class Exchange:
    """One answered request.

    Attributes
    ----------
    time : float
        When it came in, in seconds since the epoch.
    method, path : str
        Without the query, and only the beginning of one that is very long.
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


class RefusalError(Exception):
    """A request is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def _refusal(request: Request, error: Any) -> Response:
    return JSONResponse({"message": error.message}, status_code=error.status)


async def _token_refusal(request: Request, error: Any) -> Response:
    return JSONResponse(error.body, status_code=error.status)


async def _storage_error(request: Request, error: Any) -> Response:
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return page(503, {"retry-after": "1"})
    # A disk without space, for example: what was asked for is not done, not even in part.
    detail = getattr(error, "strerror", None) or error
    return JSONResponse({"message": f"Something went wrong ({detail})"}, status_code=500)


async def _routing_error(request: Request, error: Any) -> Response:
    return page(error.status_code, error.headers)


async def _internal_error(request: Request, error: Any) -> Response:
    return page(500)


def page(status: int, headers: Any = None) -> Response:
    """Return the HTML page of an error."""
    title, text = _PAGES.get(status, _PAGES[500])
    return HTMLResponse(
        f"<!doctype html>\n<html lang=en>\n<title>{status} {title}</title>\n"
        f"<h1>{title}</h1>\n<p>{text}</p>\n",
        status_code=status,
        headers=headers,
    )


class Counted:
    """Reports every exchange, and answers only those who ask for this machine.

    The check of the host name keeps web pages out that make a browser look it up as 127.0.0.1.
    """

    def __init__(self, application: ASGIApp, report: Callable[[Exchange], None]) -> None:
        self._application = application
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = time.time()
        status, nbytes, is_reported = 500, 0, False

        def report() -> None:
            nonlocal is_reported
            is_reported = True
            path, seconds = scope["path"][:PATH_KEPT], time.time() - start
            self._report(Exchange(start, scope["method"], path, status, nbytes, seconds))

        async def counting_send(message: Message) -> None:
            nonlocal status, nbytes
            if message["type"] == "http.response.start":
                status = message["status"]
            elif scope["method"] != "HEAD":
                nbytes += len(message.get("body", b""))
            # Before the client sees the end, so that it finds its own request in the record.
            if message["type"] == "http.response.body" and not message.get("more_body"):
                report()
            await send(message)

        application = self._application if _is_local(scope) else page(400)
        try:
            await application(scope, receive, counting_send)
        finally:
            if not is_reported:
                report()


def _is_local(scope: Scope) -> bool:
    """Whether the client knows the server by a name of this machine."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    return host.partition(":")[0] in ("127.0.0.1", "localhost")


ERROR_HANDLERS: dict[Any, Any] = {
    HTTPException: _routing_error,
    RefusalError: _refusal,
    TokenError: _token_refusal,
    OSError: _storage_error,
    sqlite3.OperationalError: _storage_error,
    Exception: _internal_error,
}
