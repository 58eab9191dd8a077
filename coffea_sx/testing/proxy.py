"""An HTTP proxy with faults and latency, in front of a real server.

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
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from .http1 import closes, is_chunked, read_body, read_head, read_request, read_to_end, send_answer
from .messages import Action, Answer, Body, Ending, Hangup, Request, blocks, header, whole
from .script import Fault, Rule
from .streams import Stream, open_stream

BACKLOG = 1024
STOP_TIMEOUT_S = 10.0

# Receives the function that stops a server once it listens.
_Ready: TypeAlias = "Future[Callable[[], object]]"


class FaultProxy:
    """Proxy that passes requests on to a server, except for the faults of a script.

    It listens on a free port of this machine in a thread of its own. Requests pass as they are,
    with their Host header: a URL that was signed for the address of the proxy is valid there. Each
    connection of a client has its own connection to the server, and both are kept alive.

    Parameters
    ----------
    target : str
        The server, ``http://host:port``.
    script : iterable of Fault
        The first rule that matches a request, and has times left, is applied to it.
    latency_s : float
        Time of a round trip, seconds: each response begins so much later, and each connection
        takes as long, twice that with TLS.
    certificate : path-like, optional
        PEM file with a private key and its certificates; the proxy then speaks https.

    Attributes
    ----------
    requests : list of Request
        All received requests, oldest first. A response is counted before the client sees it.
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
        self._running: _LoopThread | None = None
        self.script = script
        self.latency_s = latency_s
        self.requests: list[Request] = []

    # ---- life

    def start(self) -> FaultProxy:
        """Start to listen; do nothing if it does already.

        A proxy that was stopped starts again at its old address.
        """
        if self._running is None:
            listener = _listen(self._port)
            self._port = listener.getsockname()[1]
            self._running = _LoopThread(partial(self._serve, listener), f"FaultProxy {self.url}")
        return self

    def stop(self) -> None:
        """Break all connections and end the thread; idempotent.

        Raises
        ------
        Exception
            The error of an action, if one failed.
        """
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address of the proxy, ``http://127.0.0.1:PORT``."""
        if not self._port:
            raise RuntimeError("the FaultProxy is not running: use `with` or start()")
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    # ---- script

    @property
    def script(self) -> tuple[Fault, ...]:
        """The rules. An assigned script begins anew, with all its times left."""
        return tuple(rule.fault for rule in self._rules)

    @script.setter
    def script(self, script: Iterable[Fault]) -> None:
        self._rules = [Rule(fault) for fault in script]

    @property
    def provoked(self) -> list[int]:
        """Number of times that each rule of the script was applied."""
        return [rule.n_provoked for rule in self._rules]

    def _action(self, request: Request) -> Action | None:
        return next((rule.fault.action for rule in self._rules if rule.applies(request)), None)

    # ---- connections

    async def _serve(self, listener: socket.socket, ready: _Ready) -> None:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()
        numbers = itertools.count()

        def accept() -> None:
            with contextlib.suppress(OSError):  # the client has gone already
                accepted, _ = listener.accept()
                task = loop.create_task(self._serve_connection(accepted, next(numbers)))
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

    async def _serve_connection(self, accepted: socket.socket, number: int) -> None:
        with open_stream(accepted, self._tls) as client, _Target(self._target) as target:
            ending = Ending.RESET
            try:
                await self._pause(2 if self._tls else 1)
                await client.handshake()
                ending = Ending.KEEP
                while ending is Ending.KEEP:
                    ending = await self._serve_request(client, target, number)
                if ending is Ending.CLOSE:
                    await client.say_end()
                else:
                    await client.settle()
            except Hangup:
                ending = Ending.CLOSE
            except (OSError, EOFError):
                ending = Ending.RESET
            finally:
                if ending is not Ending.CLOSE:
                    client.reset()

    async def _serve_request(self, client: Stream, target: _Target, number: int) -> Ending:
        message = await read_request(client, number)
        if message is None:
            return Ending.CLOSE
        request, head, content = message
        self.requests.append(request)
        await self._pause()
        ask = partial(target.ask, request.method, head + content)
        action = self._action(request)
        answer = await (ask() if action is None else action(request, ask))
        await send_answer(client, request, answer)
        is_last = closes(request.headers) or closes(answer.headers)
        return Ending.CLOSE if is_last and answer.ending is Ending.KEEP else answer.ending

    async def _pause(self, round_trips: int = 1) -> None:
        await asyncio.sleep(self.latency_s * round_trips)


class _LoopThread:
    """Event loop in a thread."""

    def __init__(self, serve: Callable[[_Ready], Coroutine[Any, Any, None]], name: str) -> None:
        self._serve = serve
        self._ready: _Ready = Future()
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


class _Target:
    """Connection to the server for one connection of a client."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._stream: Stream | None = None
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
        """Return the answer of the server, or 502 without one."""
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
            line, headers = await read_head(stream)
            status = int(line.split(" ", 2)[1])
        ending = Ending.KEEP if line.startswith("HTTP/1.1") else Ending.CLOSE
        if method == "HEAD" or status in (204, 304):
            body = blocks()
        elif is_chunked(headers) or header(headers, "Content-Length") is not None:
            body = read_body(stream, headers)
        else:
            body, ending = read_to_end(stream), Ending.CLOSE
        return Answer(status, headers, self._until_idle(body), ending)

    async def _until_idle(self, body: Body) -> Body:
        async with contextlib.aclosing(body):
            async for block in body:
                yield block
        self._is_idle = True

    async def _connected(self) -> Stream:
        if self._stream is not None and not (self._is_idle and self._stream.is_idle()):
            self.close()
        if self._stream is None:
            self._stream = Stream(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            await self._stream.connect(self._address)
        return self._stream


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
    # Failed tasks are kept, so that stopping the proxy raises their errors.
    if task.cancelled() or task.exception() is None:
        tasks.discard(task)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a proxy that only adds latency, until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m coffea_sx.testing.proxy", description=__doc__)
    parser.add_argument("--target", required=True, help="http://host:port of the server")
    parser.add_argument("--latency", type=float, default=0.0, help="time of a round trip, seconds")
    options = parser.parse_args(arguments)
    with FaultProxy(options.target, latency_s=options.latency) as proxy:
        sys.stdout.write(f"{proxy.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
