"""Requests and answers that pass through a `FaultProxy`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

Headers: TypeAlias = list[tuple[str, str]]
Body: TypeAlias = AsyncGenerator[bytes, None]


@dataclass
class Request:
    """A request that reached the proxy, and the answer that was sent so far.

    Attributes
    ----------
    method : str
    path : str
        Decoded, without the query.
    range : str or None
        The Range header.
    connection : int
        Number of the client's connection, from 0.
    status : int or None
        Status of the answer; None before, and if there was none.
    nbytes_sent : int
        Bytes of the response's body.
    query : str
        As sent. It may hold a signature.
    headers : list of tuple of str
        As sent. They may hold a token.
    """

    method: str
    path: str
    range: str | None = None
    connection: int = 0
    status: int | None = None
    nbytes_sent: int = 0
    query: str = field(default="", repr=False)
    headers: Headers = field(default_factory=list, repr=False)


class Ending(Enum):
    """Fate of the connection after an answer."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"


@dataclass
class Answer:
    """Answer to a request.

    Attributes
    ----------
    status : int
    headers : list of tuple of str
    body : async generator of bytes
    ending : Ending
    """

    status: int
    headers: Headers
    body: Body
    ending: Ending = Ending.KEEP


class Hangup(Exception):
    """Raised by an action to close the connection without an answer."""


Ask: TypeAlias = Callable[[], Awaitable[Answer]]
Action: TypeAlias = Callable[[Request, Ask], Awaitable[Answer]]


def whole(status: int, headers: Mapping[str, str] | None = None, content: bytes = b"") -> Answer:
    """Return an answer with its content."""
    length = {"Content-Length": str(len(content))}
    return Answer(status, list({**(headers or {}), **length}.items()), blocks(content))


def header(headers: Headers, name: str) -> str | None:
    """Return the value of a header, None if there is none."""
    return next((text for other, text in headers if other.lower() == name.lower()), None)


async def blocks(*contents: bytes) -> Body:
    """Yield the blocks of a body."""
    for content in contents:
        yield content
