"""HTTP/1.1 messages, read from and written to the streams of a `FaultProxy`."""

from __future__ import annotations

import contextlib
from http.client import responses
from urllib.parse import unquote

from .messages import Answer, Body, Ending, Headers, Request, header
from .streams import BLOCK, Stream

# Headers of an upload that are not sent on, because its body is sent as a whole.
_HOP_HEADERS = {"expect", "transfer-encoding", "content-length"}


async def read_request(client: Stream, number: int) -> tuple[Request, bytes, bytes] | None:
    """Return a request, and head and content to send on; None at the end of the stream."""
    if await client.is_at_end():
        return None
    line, headers = await read_head(client)
    method, address, _ = line.split(" ", 2)
    path, _, query = address.partition("?")
    if (header(headers, "Expect") or "").lower() == "100-continue":
        await client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = b"".join([block async for block in read_body(client, headers)])
    sent_on = [pair for pair in headers if pair[0].lower() not in _HOP_HEADERS]
    if content or header(headers, "Content-Length") is not None:
        sent_on.append(("Content-Length", str(len(content))))
    byte_range = header(headers, "Range")
    request = Request(method, unquote(path), byte_range, number, query=query, headers=headers)
    return request, _head(line, sent_on), content


async def send_answer(client: Stream, request: Request, answer: Answer) -> None:
    """Send an answer, and note in the request what was sent."""
    head = _head(f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}", answer.headers)
    in_chunks = is_chunked(answer.headers)
    request.status = answer.status
    async with contextlib.aclosing(answer.body) as body:
        await client.send(head)
        if request.method == "HEAD":
            return
        async for block in body:
            request.nbytes_sent += len(block)
            await client.send(b"%x\r\n%b\r\n" % (len(block), block) if in_chunks else block)
        if in_chunks and answer.ending is Ending.KEEP:
            await client.send(b"0\r\n\r\n")


async def read_head(stream: Stream) -> tuple[str, Headers]:
    """Return the first line of a message and its headers."""
    lines = (await stream.read_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:])
    return lines[0], [(name, text.strip()) for name, _, text in pairs]


def _head(line: str, headers: Headers) -> bytes:
    lines = [line, *(f"{name}: {text}" for name, text in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def is_chunked(headers: Headers) -> bool:
    """Return True if a body comes in chunks."""
    return (header(headers, "Transfer-Encoding") or "").lower() == "chunked"


def closes(headers: Headers) -> bool:
    """Return True if the connection ends after a message."""
    return (header(headers, "Connection") or "").lower() == "close"


async def read_body(stream: Stream, headers: Headers) -> Body:
    """Yield the body of a message with a length or in chunks."""
    if not is_chunked(headers):
        async for block in _read_exactly(stream, int(header(headers, "Content-Length") or 0)):
            yield block
        return
    nbytes = -1
    while nbytes:
        nbytes = int((await stream.read_until(b"\r\n")).partition(b";")[0], 16)
        async for block in _read_exactly(stream, nbytes):
            yield block
        await stream.read_until(b"\r\n")


async def _read_exactly(stream: Stream, nbytes: int) -> Body:
    while nbytes:
        block = await stream.read(nbytes)
        if not block:
            raise EOFError("the message is incomplete")
        nbytes -= len(block)
        yield block


async def read_to_end(stream: Stream) -> Body:
    """Yield all bytes until the connection ends."""
    while block := await stream.read(BLOCK):
        yield block
