"""Error responses, as JSON or as pages, in the words of a real server."""

from __future__ import annotations

import errno
import sqlite3
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from .buckets import BucketError
from .tokens import TokenError

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


class RefusalError(Exception):
    """A request that is refused with a JSON message.

    Attributes
    ----------
    status : int
        HTTP status of the response.
    message : str
    """

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
        return error_page(503, {"retry-after": "1"})
    # For example a full disk: the request is not carried out, not even in part.
    detail = getattr(error, "strerror", None) or error
    return JSONResponse({"message": f"Something went wrong ({detail})"}, status_code=500)


async def _routing_error(request: Request, error: Any) -> Response:
    return error_page(error.status_code, error.headers)


async def _internal_error(request: Request, error: Any) -> Response:
    return error_page(500)


def error_page(status: int, headers: Any = None) -> Response:
    """Return the HTML page of an error."""
    title, text = _PAGES.get(status, _PAGES[500])
    return HTMLResponse(
        f"<!doctype html>\n<html lang=en>\n<title>{status} {title}</title>\n"
        f"<h1>{title}</h1>\n<p>{text}</p>\n",
        status_code=status,
        headers=headers,
    )


ERROR_HANDLERS: dict[Any, Any] = {
    HTTPException: _routing_error,
    RefusalError: _refusal,
    TokenError: _token_refusal,
    OSError: _storage_error,
    BucketError: _storage_error,
    sqlite3.OperationalError: _storage_error,
    Exception: _internal_error,
}
