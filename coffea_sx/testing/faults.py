"""The faults of servers and networks that a `FaultProxy` can cause.

An action makes the answer to one request: it is awaited with the request and with ``ask``, which
returns the answer of the server. Any async function of this signature is an action.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import escape

from .messages import Answer, Ask, Body, Ending, Hangup, Headers, Request, blocks, header, whole

# Longer than any client waits; the proxy ends it when it stops.
FOR_EVER_S = 24 * 3600.0

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<size>\d+)")


# -- answers without the server


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
        """Return the answer."""
        return whole(self.status, self.headers, self.body)


@dataclass(frozen=True)
class S3Error:
    """Answer with an error of an object store, written as MinIO writes it.

    Parameters
    ----------
    status : int
    code : str
    message : str, optional
        By default that of MinIO for the code.
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
        """Return the answer."""
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
    """Answer with a redirect.

    Parameters
    ----------
    url : str
    status : int
    """

    url: str
    status: int = 307

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Return the answer."""
        return whole(self.status, {"Location": self.url})


@dataclass(frozen=True)
class Refuse:
    """Close the connection without an answer."""

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Raise `Hangup`."""
        raise Hangup


# -- late and incomplete answers


@dataclass(frozen=True)
class Delay:
    """Answer later.

    Parameters
    ----------
    seconds : float
    """

    seconds: float

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Wait, and return the answer of the server."""
        await asyncio.sleep(self.seconds)
        return await ask()


@dataclass(frozen=True)
class Hang:
    """Accept the request and send nothing more; after some time close the connection.

    Parameters
    ----------
    seconds : float
    after : int, optional
        Bytes of the body that are sent before; by default there is no answer at all.
    """

    seconds: float = FOR_EVER_S
    after: int | None = None

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Wait without an answer, or return one that is incomplete."""
        if self.after is None:
            await asyncio.sleep(self.seconds)
            raise Hangup
        answer = await ask()
        body = _then_silence(_first(answer.body, self.after), self.seconds)
        return replace(answer, body=body, ending=Ending.CLOSE)


@dataclass(frozen=True)
class Truncate:
    """Close the connection within the body, without an error of TCP.

    Parameters
    ----------
    after : int
        Bytes of the body that are sent, at most.
    """

    after: int

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Return an answer that is shorter than announced."""
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
        """Return an answer that ends with a reset."""
        answer = await ask()
        return replace(answer, body=_first(answer.body, self.after), ending=Ending.RESET)


# -- wrong answers


@dataclass(frozen=True)
class Shorten:
    """Send fewer bytes than requested, with the right Content-Length.

    Parameters
    ----------
    to : int
        Bytes of the body.
    fix_range : bool
        Adapt Content-Range to the bytes that are sent.
    """

    to: int
    fix_range: bool = True

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Return a shorter answer."""
        answer = await ask()
        content = await _joined(_first(answer.body, self.to))
        length = len(content)
        if request.method == "HEAD":
            length = min(self.to, int(header(answer.headers, "Content-Length") or 0))
        headers = _replaced(answer.headers, "Transfer-Encoding", None)
        headers = _replaced(headers, "Content-Length", str(length))
        sent = _CONTENT_RANGE.fullmatch(header(headers, "Content-Range") or "")
        if self.fix_range and sent is not None and length:
            last = int(sent["first"]) + length - 1
            shorter = f"bytes {sent['first']}-{last}/{sent['size']}"
            headers = _replaced(headers, "Content-Range", shorter)
        return replace(answer, headers=headers, body=blocks(content))


@dataclass(frozen=True)
class Corrupt:
    """Change bytes of the body.

    Parameters
    ----------
    at : int
        Position in the body, not in the object if the request has a range.
    with_ : bytes
        The bytes that replace others from there on.
    """

    at: int
    with_: bytes

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Return an answer with other bytes."""
        answer = await ask()
        return replace(answer, body=_overwritten(answer.body, self.at, self.with_))


@dataclass(frozen=True)
class ReplaceBody:
    """Send another body with the headers of the server, as a broken cache or gateway does.

    Parameters
    ----------
    data : bytes
        The body; it may be empty, or a page that reports an error.
    status : int, optional
        None for the status of the server, and its Content-Range.
    """

    data: bytes
    status: int | None = 200

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Return an answer with the other body."""
        answer = await ask()
        await answer.body.aclose()
        headers = _replaced(answer.headers, "Transfer-Encoding", None)
        headers = _replaced(headers, "Content-Length", str(len(self.data)))
        if self.status is not None:
            headers = _replaced(headers, "Content-Range", None)
        return Answer(self.status or answer.status, headers, blocks(self.data), answer.ending)


@dataclass(frozen=True)
class ChangeETag:
    """Send another ETag, as if the object had been replaced.

    A store that checks If-Match answers ``S3Error(412, "PreconditionFailed")`` instead.

    Parameters
    ----------
    value : str
        With its quotation marks, as in ``'"d41d8cd9"'``.
    """

    value: str

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        """Return the answer with the ETag."""
        answer = await ask()
        return replace(answer, headers=_replaced(answer.headers, "ETag", self.value))


# -- headers and bodies


def _replaced(headers: Headers, name: str, value: str | None) -> Headers:
    kept = [(other, text) for other, text in headers if other.lower() != name.lower()]
    return kept if value is None else [*kept, (name, value)]


async def _joined(body: Body) -> bytes:
    async with aclosing(body):
        return b"".join([block async for block in body])


async def _first(body: Body, nbytes: int) -> Body:
    async with aclosing(body):
        while nbytes > 0:
            block = await anext(body, b"")
            if not block:
                return
            yield block[:nbytes]
            nbytes -= len(block)


async def _then_silence(body: Body, seconds: float) -> Body:
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
