"""The faults of servers and networks that a `FaultProxy` can provoke.

An action decides what becomes of one request: it is awaited with the request and with ``ask``,
which gets the true answer of the server, and it returns an `Answer`. Any async function of this
signature is an action.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias
from xml.sax.saxutils import escape

Headers: TypeAlias = list[tuple[str, str]]
Body: TypeAlias = AsyncGenerator[bytes, None]

# Longer than the patience of any client; the end of the proxy ends it earlier.
FOR_EVER_S = 24 * 3600.0

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<size>\d+)")


@dataclass
class Request:
    """A request that reached the proxy, and what was answered so far.

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
        What was answered; None before, and if nothing was.
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
    """What happens to the connection after an answer."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"


@dataclass
class Answer:
    """A response.

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
    """Raised by an action: close the connection without an answer."""


Ask: TypeAlias = Callable[[], Awaitable[Answer]]
Action: TypeAlias = Callable[[Request, Ask], Awaitable[Answer]]


# -- which requests, and how often


@dataclass(frozen=True)
class When:
    r"""Matches requests; what is None matches all.

    Parameters
    ----------
    path : str, optional
        Regular expression that is searched in the path.
    method : str, optional
    is_range : bool, optional
        Whether the request has a Range header.

    Examples
    --------
    >>> part = Request("GET", "/bucket/a.root", "bytes=0-99")
    >>> When(r"\.root$", is_range=True)(part)
    True
    >>> When(method="POST")(part)
    False
    """

    path: str | None = None
    method: str | None = None
    is_range: bool | None = None

    def __call__(self, request: Request) -> bool:
        """Whether a request is meant."""
        return (
            (self.path is None or re.search(self.path, request.path) is not None)
            and self.method in (None, request.method)
            and self.is_range in (None, request.range is not None)
        )


@dataclass(frozen=True)
class Fault:
    """A rule of a script: what happens to which requests.

    Parameters
    ----------
    action : callable
        ``async def action(request, ask) -> Answer``, as the classes below.
    when : callable
        Whether a `Request` is meant; all are by default.
    times : int, optional
        How often it happens before the rule is spent; None for always.
    skip : int
        How many requests that are meant pass unharmed before.
    """

    action: Action
    when: Callable[[Request], bool] = When()
    times: int | None = 1
    skip: int = 0


# -- answers that the server is not asked for


@dataclass(frozen=True)
class Status:
    """Answer with a status.

    Parameters
    ----------
    status : int
    headers : mapping of str to str
    body : bytes

    Examples
    --------
    >>> busy = Status(503, {"Retry-After": "1"})
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer."""
        return whole(self.status, self.headers, self.body)


@dataclass(frozen=True)
class S3Error:
    """Answer with an error of an object store, written as MinIO writes it.

    Parameters
    ----------
    status : int
    code : str
    message : str, optional
        By default what MinIO says to the code.
    headers : mapping of str to str

    Examples
    --------
    >>> expired = S3Error(403, "AccessDenied", "Request has expired")
    >>> rotated = S3Error(403, "InvalidAccessKeyId")
    >>> busy = S3Error(503, "SlowDown", headers={"Retry-After": "1"})
    """

    status: int
    code: str
    message: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer."""
        bucket, _, key = request.path.lstrip("/").partition("/")
        message = _S3_MESSAGES.get(self.code, self.code) if self.message is None else self.message
        facts = {
            "Code": self.code,
            "Message": message,
            "Key": key,
            "BucketName": bucket,
            "Resource": request.path,
            "RequestId": "18C5F0A1B2C3D4E5",
            "HostId": "dd9025bab4ad464b049177c95eb6ebf374d3b3fd1af9251148b658df7ac2e3e8",
        }
        elements = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in facts.items())
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{elements}</Error>'
        return whole(
            self.status, {"Content-Type": "application/xml", **self.headers}, body.encode()
        )


_S3_MESSAGES = {
    "AccessDenied": "Access Denied.",
    "ExpiredToken": "The provided token has expired.",
    "InvalidAccessKeyId": "The Access Key Id you provided does not exist in our records.",
    "NoSuchBucket": "The specified bucket does not exist",
    "NoSuchKey": "The specified key does not exist.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold",
    "SignatureDoesNotMatch": (
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method."
    ),
    "SlowDown": "Please reduce your request rate",
}


@dataclass(frozen=True)
class Redirect:
    """Send the client elsewhere.

    Parameters
    ----------
    url : str
    status : int
    """

    url: str
    status: int = 307

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer."""
        return whole(self.status, {"Location": self.url})


@dataclass(frozen=True)
class Refuse:
    """Close the connection without an answer."""

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Never answer."""
        raise Hangup


# -- answers that come late, or not to their end


@dataclass(frozen=True)
class Delay:
    """Answer later.

    Parameters
    ----------
    seconds : float
    """

    seconds: float

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Wait and ask."""
        await asyncio.sleep(self.seconds)
        return await ask()


@dataclass(frozen=True)
class Hang:
    """Accept the request and fall silent; after some time close the connection.

    Parameters
    ----------
    seconds : float
    after : int, optional
        How many bytes of the body are sent before; by default there is no answer at all.
    """

    seconds: float = FOR_EVER_S
    after: int | None = None

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer not, or not to the end."""
        if self.after is None:
            await asyncio.sleep(self.seconds)
            raise Hangup
        answer = await ask()
        body = _silent(_first(answer.body, self.after), self.seconds)
        return replace(answer, body=body, ending=Ending.CLOSE)


@dataclass(frozen=True)
class Truncate:
    """Close the connection within the body, in good order but too early.

    Parameters
    ----------
    after : int
        Bytes of the body that are sent, at most.
    """

    after: int

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer with less than is announced."""
        answer = await ask()
        return replace(answer, body=_first(answer.body, self.after), ending=Ending.CLOSE)


@dataclass(frozen=True)
class Reset:
    """Break the connection within the body (TCP RST).

    Parameters
    ----------
    after : int
        Bytes of the body that are sent before, at most. A client that does not take them within
        two seconds may lose some.
    """

    after: int = 0

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer until the connection breaks."""
        answer = await ask()
        return replace(answer, body=_first(answer.body, self.after), ending=Ending.RESET)


# -- answers that are wrong


@dataclass(frozen=True)
class Shorten:
    """Send fewer bytes than are asked for, and say so in Content-Length.

    Parameters
    ----------
    to : int
        Bytes of the body.
    fix_range : bool
        Whether Content-Range names the bytes that are sent, or still those that should be.
    """

    to: int
    fix_range: bool = True

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer with less."""
        answer = await ask()
        content = await _joined(_first(answer.body, self.to))
        length = len(content)
        if request.method == "HEAD":
            length = min(self.to, int(header(answer.headers, "Content-Length") or 0))
        headers = _replaced(answer.headers, "Transfer-Encoding", None)
        headers = _replaced(headers, "Content-Length", str(length))
        where = _CONTENT_RANGE.fullmatch(header(headers, "Content-Range") or "")
        if self.fix_range and where is not None and length:
            last = int(where["first"]) + length - 1
            shorter = f"bytes {where['first']}-{last}/{where['size']}"
            headers = _replaced(headers, "Content-Range", shorter)
        return replace(answer, headers=headers, body=blocks(content))


@dataclass(frozen=True)
class Corrupt:
    """Change bytes of the body.

    Parameters
    ----------
    at : int
        Of the body, not of the object if the request is for a part of it.
    with_ : bytes
        What is found there instead.
    """

    at: int
    with_: bytes

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer with other bytes."""
        answer = await ask()
        return replace(answer, body=_overwritten(answer.body, self.at, self.with_))


@dataclass(frozen=True)
class ReplaceBody:
    """Send another body with the headers of the server, as a broken cache or gateway does.

    Parameters
    ----------
    data : bytes
        Perhaps none, or a page that reports an error.
    status : int, optional
        None for the status of the server, and its Content-Range.
    """

    data: bytes
    status: int | None = 200

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer with something else."""
        answer = await ask()
        await answer.body.aclose()
        headers = _replaced(answer.headers, "Transfer-Encoding", None)
        headers = _replaced(headers, "Content-Length", str(len(self.data)))
        if self.status is not None:
            headers = _replaced(headers, "Content-Range", None)
        return Answer(self.status or answer.status, headers, blocks(self.data), answer.ending)


@dataclass(frozen=True)
class ChangeETag:
    """Send another ETag, as if the object had been changed.

    A store that minds If-Match answers ``S3Error(412, "PreconditionFailed")`` instead.

    Parameters
    ----------
    value : str
        With its quotation marks, as in ``'"d41d8cd9"'``.
    """

    value: str

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Answer with the ETag."""
        answer = await ask()
        return replace(answer, headers=_replaced(answer.headers, "ETag", self.value))


# -- headers and bodies


def whole(status: int, headers: Mapping[str, str] | None = None, content: bytes = b"") -> Answer:
    """Return an answer with its content."""
    length = {"Content-Length": str(len(content))}
    return Answer(status, list({**(headers or {}), **length}.items()), blocks(content))


def header(headers: Headers, name: str) -> str | None:
    """Return the value of a header, None if there is none."""
    return next((text for other, text in headers if other.lower() == name.lower()), None)


def _replaced(headers: Headers, name: str, value: str | None) -> Headers:
    kept = [(other, text) for other, text in headers if other.lower() != name.lower()]
    return kept if value is None else [*kept, (name, value)]


async def _joined(body: Body) -> bytes:
    async with aclosing(body):
        return b"".join([block async for block in body])


async def blocks(*contents: bytes) -> Body:
    """Generate a body."""
    for content in contents:
        yield content


async def _first(body: Body, nbytes: int) -> Body:
    async with aclosing(body):
        while nbytes > 0:
            block = await anext(body, b"")
            if not block:
                return
            yield block[:nbytes]
            nbytes -= len(block)


async def _silent(body: Body, seconds: float) -> Body:
    async with aclosing(body):
        async for block in body:
            yield block
    await asyncio.sleep(seconds)


async def _overwritten(body: Body, at: int, patch: bytes) -> Body:
    position = 0
    async with aclosing(body):
        async for block in body:
            start = max(at - position, 0)
            stop = min(at + len(patch) - position, len(block))
            if start < stop:
                part = patch[start + position - at : stop + position - at]
                block = block[:start] + part + block[stop:]
            position += len(block)
            yield block
