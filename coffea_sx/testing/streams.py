"""Sockets of a `FaultProxy`, plain or with TLS, read through a buffer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

BLOCK = 1 << 20
PAGE = 1 << 16
SETTLE_TIMEOUT_S = 2.0

_T = TypeVar("_T")


class Stream:
    """A socket with a buffer; cheaper than the streams of asyncio, which copy all bytes."""

    def __init__(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; bytes that were sent still arrive."""
        self._socket.close()

    def reset(self) -> None:
        """Let `close` break the connection: a socket that does not linger sends RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def connect(self, address: tuple[str, int]) -> None:
        """Connect the socket."""
        await self._loop.sock_connect(self._socket, address)

    async def handshake(self) -> None:
        """Begin the connection."""

    async def say_end(self) -> None:
        """Announce the end of the connection."""

    async def settle(self) -> None:
        """Wait until the other side has all bytes that were sent; a reset would drop them."""
        end = self._loop.time() + SETTLE_TIMEOUT_S
        while _count_unsent(self._socket) and self._loop.time() < end:
            await asyncio.sleep(0.001)

    async def receive(self, nbytes: int) -> bytes:
        """Return some received bytes, at most so many; none at the end."""
        return await self._loop.sock_recv(self._socket, nbytes)

    async def send(self, data: bytes) -> None:
        """Send all bytes."""
        await self._loop.sock_sendall(self._socket, data)

    async def read(self, nbytes: int) -> bytes:
        """Return buffered or received bytes, at most so many; none at the end."""
        if not self._buffer:
            return await self.receive(min(nbytes, BLOCK))
        data = bytes(self._buffer[:nbytes])
        del self._buffer[:nbytes]
        return data

    async def read_until(self, end: bytes) -> bytes:
        """Return the bytes before a mark, and skip the mark."""
        while (stop := self._buffer.find(end)) < 0:
            if not await self.fill():
                raise EOFError("the other side has closed the connection")
        content = bytes(self._buffer[:stop])
        del self._buffer[: stop + len(end)]
        return content

    async def fill(self) -> bool:
        """Receive more bytes; return False at the end."""
        data = await self.receive(PAGE)
        self._buffer += data
        return bool(data)

    async def is_at_end(self) -> bool:
        """Wait for bytes to read; return True if there are no more."""
        return not self._buffer and not await self.fill()

    def is_idle(self) -> bool:
        """Return True if the other side has neither sent bytes nor closed the connection."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._buffer
        except OSError:
            pass
        return False


class TLSStream(Stream):
    """Server side of a socket with TLS."""

    def __init__(self, opened: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(opened)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def handshake(self) -> None:
        """Agree on keys."""
        await self._until_done(self._tls.do_handshake)

    async def say_end(self) -> None:
        """Announce the end, without waiting for that of the other side."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    async def receive(self, nbytes: int) -> bytes:
        """Return some received bytes, at most so many; none at the end."""
        try:
            return await self._until_done(partial(self._tls.read, nbytes))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def send(self, data: bytes) -> None:
        """Send all bytes."""
        if data:
            await self._until_done(partial(self._tls.write, data))

    async def _until_done(self, operation: Callable[[], _T]) -> _T:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                pass
            finally:
                # This also sends the reason why a handshake failed.
                await self._flush()
            data = await super().receive(PAGE)
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await super().send(self._outgoing.read())


def open_stream(accepted: socket.socket, context: ssl.SSLContext | None) -> Stream:
    """Return the stream of an accepted socket, with TLS if there is a context."""
    return Stream(accepted) if context is None else TLSStream(accepted, context)


def _count_unsent(opened: socket.socket) -> int:
    """Count the bytes that the other side has not acknowledged; 0 where that is unknown."""
    if sys.platform == "win32":
        return 0
    import fcntl
    import termios

    (count,) = struct.unpack("i", fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)))
    return int(count)
