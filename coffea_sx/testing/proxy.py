"""An HTTP proxy that makes the faults and the latency of a network, in front of a real server.

From a shell, ``python -m coffea_sx.testing.proxy --target http://127.0.0.1:9000 --latency 0.01``
writes its address and runs until it is interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from http.client import responses
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from .faults import (
    Action,
    Answer,
    Body,
    Ending,
    Fault,
    Hangup,
    Headers,
    Request,
    blocks,
    header,
    whole,
)

BLOCK = 1 << 20
PAGE = 1 << 16
BACKLOG = 1024
STOP_TIMEOUT_S = 10.0
SETTLE_TIMEOUT_S = 2.0

_T = TypeVar("_T")


class FaultProxy:
    """Passes requests on to a server, except for what a script says.

    It listens on a free port of this machine in a thread of its own. Requests pass as they are,
    with their Host header: a URL that was signed for the address of the proxy is good there. To
    each connection of a client belongs one to the server, and both are kept alive.

    Parameters
    ----------
    target : str
        The server, ``http://host:port``.
    script : iterable of Fault
        The first rule that matches a request and is not spent decides what becomes of it.
    latency_s : float
        What a round trip takes, seconds: each response begins so much later, and each connection
        costs as much, twice that with TLS.
    certificate : path-like, optional
        PEM file with a private key and its certificates; the proxy then speaks https.

    Attributes
    ----------
    requests : list of Request
        All that came, oldest first. A response is counted before the client sees it.
    latency_s : float
        May be changed at any time.

    Examples
    --------
    >>> import httpx
    >>> from coffea_sx.local import LocalServiceX
    >>> from coffea_sx.testing import Fault, FaultProxy, Status
    >>> with LocalServiceX() as servicex, FaultProxy(servicex.url) as proxy:
    ...     proxy.script = [Fault(Status(503, {"Retry-After": "1"}), times=2)]
    ...     statuses = [httpx.get(f"{proxy.url}/servicex").status_code for _ in range(3)]
    >>> statuses
    [503, 503, 200]
    >>> proxy.provoked
    [2]
    >>> proxy.requests[0]
    Request(method='GET', path='/servicex', range=None, connection=0, status=503, nbytes_sent=0)
    """

    def __init__(
        self,
        target: str,
        script: Iterable[Fault] = (),
        latency_s: float = 0.0,
        *,
        certificate: str | os.PathLike[str] | None = None,
    ) -> None:
        parts = urlsplit(target)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"target={target!r}: http://host:port is needed")
        self._target = (parts.hostname, parts.port or 80)
        self._tls = None if certificate is None else _server_context(certificate)
        self._port = 0
        self._running: _Running | None = None
        self.script = script
        self.latency_s = latency_s
        self.requests: list[Request] = []

    # ---- life

    def start(self) -> FaultProxy:
        """Start to listen; nothing happens when it does already.

        A proxy that was stopped starts again at its old address.
        """
        if self._running is None:
            listener = _listen(self._port)
            self._port = listener.getsockname()[1]
            self._running = _Running(partial(self._serve, listener), f"FaultProxy {self.url}")
        return self

    def stop(self) -> None:
        """Break all connections and end the thread; idempotent.

        Raises
        ------
        Exception
            What an action raised, if one failed.
        """
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Its address, ``http://127.0.0.1:PORT``."""
        if not self._port:
            raise RuntimeError("the FaultProxy is not running: use `with` or start()")
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    # ---- script

    @property
    def script(self) -> tuple[Fault, ...]:
        """The rules. What is assigned is a new script, of which nothing has happened yet."""
        return tuple(rule.fault for rule in self._rules)

    @script.setter
    def script(self, script: Iterable[Fault]) -> None:
        self._rules = [_Rule(fault) for fault in script]

    @property
    def provoked(self) -> list[int]:
        """How often each rule of the script was applied."""
        return [rule.n_provoked for rule in self._rules]

    def _action(self, request: Request) -> Action | None:
        return next((rule.fault.action for rule in self._rules if rule.applies(request)), None)

    # ---- connections

    async def _serve(self, listener: socket.socket, ready: Future[Callable[[], object]]) -> None:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()
        numbers = itertools.count()

        def accept() -> None:
            with contextlib.suppress(OSError):  # the client has gone already
                accepted, _ = listener.accept()
                task = loop.create_task(self._converse(accepted, next(numbers)))
                tasks.add(task)
                task.add_done_callback(partial(_end, tasks, accepted))

        with listener:
            loop.add_reader(listener, accept)
            ready.set_result(partial(loop.call_soon_threadsafe, stopping.set))
            await stopping.wait()
            loop.remove_reader(listener)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _converse(self, accepted: socket.socket, number: int) -> None:
        with _opened(accepted, self._tls) as client, _Target(self._target) as target:
            ending = Ending.RESET
            try:
                await self._pause(2 if self._tls else 1)
                await client.shake_hands()
                ending = Ending.KEEP
                while ending is Ending.KEEP:
                    ending = await self._exchange(client, target, number)
                if ending is Ending.CLOSE:
                    await client.say_goodbye()
                else:
                    await client.settle()
            except Hangup:
                ending = Ending.CLOSE
            except (OSError, EOFError):
                ending = Ending.RESET
            finally:
                if ending is not Ending.CLOSE:
                    client.reset()

    async def _exchange(self, client: _Stream, target: _Target, number: int) -> Ending:
        message = await _read_request(client, number)
        if message is None:
            return Ending.CLOSE
        request, head, content = message
        self.requests.append(request)
        await self._pause()
        ask = partial(target.ask, request.method, head + content)
        action = self._action(request)
        answer = await (ask() if action is None else action(request, ask))
        await _send_answer(client, request, answer)
        is_last = _says_close(request.headers) or _says_close(answer.headers)
        return Ending.CLOSE if is_last and answer.ending is Ending.KEEP else answer.ending

    async def _pause(self, round_trips: int = 1) -> None:
        await asyncio.sleep(self.latency_s * round_trips)


class _Running:
    """An event loop in a thread."""

    def __init__(
        self, serve: Callable[[Future[Callable[[], object]]], Coroutine[Any, Any, None]], name: str
    ) -> None:
        self._serve = serve
        self._ready: Future[Callable[[], object]] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._stop = self._ready.result(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve(self._ready))
        except BaseException as error:
            (self._ended if self._ready.done() else self._ready).set_exception(error)
        else:
            self._ended.set_result(None)

    def stop(self) -> None:
        self._stop()
        self._thread.join(STOP_TIMEOUT_S)
        self._ended.result(0)


class _Rule:
    """A fault, and how often it happened."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.n_provoked = 0
        self._n_skipped = 0

    def applies(self, request: Request) -> bool:
        """Whether the fault happens to a request; then it is counted."""
        fault = self.fault
        if self.n_provoked == fault.times or not fault.when(request):
            return False
        if self._n_skipped < fault.skip:
            self._n_skipped += 1
            return False
        self.n_provoked += 1
        return True


class _Target:
    """The connection to the server that belongs to a connection of a client."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._stream: _Stream | None = None
        self._is_idle = True

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    async def ask(self, method: str, message: bytes) -> Answer:
        """Return the answer of the server; 502 if it has none."""
        try:
            return await self._ask(method, message)
        except (OSError, EOFError) as error:
            self.close()
            return whole(502, {"Content-Type": "text/plain"}, repr(error).encode())

    async def _ask(self, method: str, message: bytes) -> Answer:
        stream = await self._connected()
        self._is_idle = False
        await stream.send(message)
        status = 100
        while status < 200:
            line, headers = await _read_head(stream)
            status = int(line.split(" ", 2)[1])
        ending = Ending.KEEP if line.startswith("HTTP/1.1") else Ending.CLOSE
        if method == "HEAD" or status in (204, 304):
            body = blocks()
        elif _is_chunked(headers) or header(headers, "Content-Length") is not None:
            body = _read_body(stream, headers)
        else:
            body, ending = _read_to_end(stream), Ending.CLOSE
        return Answer(status, headers, self._until_idle(body), ending)

    async def _until_idle(self, body: Body) -> Body:
        async with contextlib.aclosing(body):
            async for block in body:
                yield block
        self._is_idle = True

    async def _connected(self) -> _Stream:
        if self._stream is not None and not (self._is_idle and self._stream.is_quiet()):
            self.close()
        if self._stream is None:
            self._stream = _Stream(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            await self._stream.connect(self._address)
        return self._stream


# -- messages

# Of an upload: it is sent on as a whole, so there is nothing to expect and no need for chunks.
_ON_THE_WAY = {"expect", "transfer-encoding", "content-length"}


async def _read_request(client: _Stream, number: int) -> tuple[Request, bytes, bytes] | None:
    """Return a request with its head and its content as they are to be sent on."""
    if await client.is_at_end():
        return None
    line, headers = await _read_head(client)
    method, address, _ = line.split(" ", 2)
    path, _, query = address.partition("?")
    if (header(headers, "Expect") or "").lower() == "100-continue":
        await client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = b"".join([block async for block in _read_body(client, headers)])
    sent_on = [pair for pair in headers if pair[0].lower() not in _ON_THE_WAY]
    if content or header(headers, "Content-Length") is not None:
        sent_on.append(("Content-Length", str(len(content))))
    given_range = header(headers, "Range")
    request = Request(method, unquote(path), given_range, number, query=query, headers=headers)
    return request, _head(line, sent_on), content


async def _send_answer(client: _Stream, request: Request, answer: Answer) -> None:
    head = _head(f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}", answer.headers)
    is_chunked = _is_chunked(answer.headers)
    request.status = answer.status
    async with contextlib.aclosing(answer.body) as body:
        await client.send(head)
        if request.method == "HEAD":
            return
        async for block in body:
            request.nbytes_sent += len(block)
            await client.send(b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block)
        if is_chunked and answer.ending is Ending.KEEP:
            await client.send(b"0\r\n\r\n")


async def _read_head(stream: _Stream) -> tuple[str, Headers]:
    """Return the first line of a message and its headers."""
    lines = (await stream.read_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:])
    return lines[0], [(name, text.strip()) for name, _, text in pairs]


def _head(line: str, headers: Headers) -> bytes:
    lines = [line, *(f"{name}: {text}" for name, text in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _is_chunked(headers: Headers) -> bool:
    return (header(headers, "Transfer-Encoding") or "").lower() == "chunked"


def _says_close(headers: Headers) -> bool:
    return (header(headers, "Connection") or "").lower() == "close"


async def _read_body(stream: _Stream, headers: Headers) -> Body:
    if not _is_chunked(headers):
        async for block in _read_exactly(stream, int(header(headers, "Content-Length") or 0)):
            yield block
        return
    nbytes = -1
    while nbytes:
        nbytes = int((await stream.read_until(b"\r\n")).partition(b";")[0], 16)
        async for block in _read_exactly(stream, nbytes):
            yield block
        await stream.read_until(b"\r\n")


async def _read_exactly(stream: _Stream, nbytes: int) -> Body:
    while nbytes:
        block = await stream.read(nbytes)
        if not block:
            raise EOFError("the message is incomplete")
        nbytes -= len(block)
        yield block


async def _read_to_end(stream: _Stream) -> Body:
    while block := await stream.read(BLOCK):
        yield block


# -- sockets


class _Stream:
    """A socket with a buffer. Cheaper than asyncio's streams, which copy all that they read."""

    def __init__(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; what was sent still arrives."""
        self._socket.close()

    def reset(self) -> None:
        """Make closing it break the connection: a socket that does not linger sends RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def connect(self, address: tuple[str, int]) -> None:
        """Connect the socket."""
        await self._loop.sock_connect(self._socket, address)

    async def shake_hands(self) -> None:
        """Begin the conversation."""

    async def say_goodbye(self) -> None:
        """End the conversation in good order."""

    async def settle(self) -> None:
        """Wait until the other side has what was sent, which a reset would throw away."""
        end = self._loop.time() + SETTLE_TIMEOUT_S
        while _count_unsent(self._socket) and self._loop.time() < end:
            await asyncio.sleep(0.001)

    async def receive(self, nbytes: int) -> bytes:
        """Return some of what has come, at most so many bytes; none at the end."""
        return await self._loop.sock_recv(self._socket, nbytes)

    async def send(self, data: bytes) -> None:
        """Send everything."""
        await self._loop.sock_sendall(self._socket, data)

    async def read(self, nbytes: int) -> bytes:
        """Return some bytes, at most so many; none at the end."""
        if not self._buffer:
            return await self.receive(min(nbytes, BLOCK))
        data = bytes(self._buffer[:nbytes])
        del self._buffer[:nbytes]
        return data

    async def read_until(self, end: bytes) -> bytes:
        """Return what comes before a mark, and read that too."""
        while (stop := self._buffer.find(end)) < 0:
            if not await self.fill():
                raise EOFError("the other side has closed the connection")
        found = bytes(self._buffer[:stop])
        del self._buffer[: stop + len(end)]
        return found

    async def fill(self) -> bool:
        """Wait for more bytes to read; whether there are any."""
        data = await self.receive(PAGE)
        self._buffer += data
        return bool(data)

    async def is_at_end(self) -> bool:
        """Wait for something to read; whether there is nothing more."""
        return not self._buffer and not await self.fill()

    def is_quiet(self) -> bool:
        """Whether the other side has neither said anything nor closed the connection."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._buffer
        except OSError:
            pass
        return False


class _TLSStream(_Stream):
    """The side of the server of a socket with TLS."""

    def __init__(self, opened: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(opened)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def shake_hands(self) -> None:
        """Agree on keys."""
        await self._until_done(self._tls.do_handshake)

    async def say_goodbye(self) -> None:
        """Tell that this is the end, without waiting for the same."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    async def receive(self, nbytes: int) -> bytes:
        """Return some of what has come, at most so many bytes; none at the end."""
        try:
            return await self._until_done(partial(self._tls.read, nbytes))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def send(self, data: bytes) -> None:
        """Send everything."""
        if data:
            await self._until_done(partial(self._tls.write, data))

    async def _until_done(self, operation: Callable[[], _T]) -> _T:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                pass
            finally:
                # Also what tells the other side why a handshake failed.
                await self._flush()
            data = await super().receive(PAGE)
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await super().send(self._outgoing.read())


def _opened(accepted: socket.socket, context: ssl.SSLContext | None) -> _Stream:
    return _Stream(accepted) if context is None else _TLSStream(accepted, context)


def _count_unsent(opened: socket.socket) -> int:
    """Count the bytes that the other side has not acknowledged, where that can be known."""
    if sys.platform == "win32":
        return 0
    import fcntl
    import termios

    (count,) = struct.unpack("i", fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)))
    return int(count)


def _listen(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def _server_context(certificate: str | os.PathLike[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _end(tasks: set[asyncio.Task[None]], accepted: socket.socket, task: asyncio.Task[None]) -> None:
    accepted.close()  # also if the task was cancelled before it began
    # Those that failed are kept for the end, which raises it.
    if task.cancelled() or task.exception() is None:
        tasks.discard(task)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a proxy that only adds latency, until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m coffea_sx.testing.proxy", description=__doc__)
    parser.add_argument("--target", required=True, help="http://host:port of the server")
    parser.add_argument("--latency", type=float, default=0.0, help="of a round trip, seconds")
    given = parser.parse_args(arguments)
    with FaultProxy(given.target, latency_s=given.latency) as proxy:
        sys.stdout.write(f"{proxy.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
