"""Connections of clients: limits of their number, and of the time that they may be idle."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import select
import socket
import time
from typing import Any

import uvicorn

from .._upstream.uvicorn import HTTPProtocol, protocol_factory
from .settings import ServerSettings

# Part of all open files that connections may be: a response may need a file, too, and the process
# has files of its own.
SHARE = 2
# Open files where the system has no limit to read.
USUAL_FILES = 1024
# Connections that the operating system holds while `max_connections` are open.
BACKLOG = 2048
# Seconds until the process may have open files again.
EXHAUSTED_S = 0.1

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# uvicorn warns of every malformed request; failures of the server itself are errors.
logger = logging.getLogger(__name__)
logger.setLevel(logging.ERROR)


def limit_connections(max_connections: int) -> int:
    """Return how many connections may be open, at most `max_connections`.

    The number depends on the open files that this process may have.
    """
    try:
        import resource
    except ImportError:
        return USUAL_FILES // SHARE
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return max_connections
    return min(max_connections, max(files // SHARE, 1))


class Connections:
    """The connections of a server.

    While `max_connections` are open, new ones wait in the operating system. A connection without
    a request makes room for them after a while, one that has its response does so at once.

    Parameters
    ----------
    settings : ServerSettings

    Attributes
    ----------
    max_connections : int
        How many may be open.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.max_connections = limit_connections(settings.max_connections)
        self._open: set[Connection] = set()
        # Connections without a request yet and since when, oldest first; and those with a response.
        self._new: dict[Connection, float] = {}
        self._answered: dict[Connection, None] = {}
        self._is_less = asyncio.Event()

    def accept(self, listener: socket.socket, server: uvicorn.Server) -> asyncio.Task[None]:
        """Listen from now on, and accept connections for as long as the server runs."""
        listener.setblocking(False)
        listener.listen(BACKLOG)
        return asyncio.ensure_future(self._accept(listener, server))

    async def _accept(self, listener: socket.socket, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()
        make_connection = protocol_factory(Connection, server, self)
        while True:
            await self._make_room()
            try:
                accepted, _ = await loop.sock_accept(listener)
                if server.should_exit:
                    accepted.close()
                    return
                await loop.connect_accepted_socket(make_connection, accepted)
            except OSError as error:
                # The client has gone already, or there are no more open files. The operating
                # system reports the latter even if no client waits.
                if error.errno in _EXHAUSTED and _has_client_waiting(listener):
                    self._drop_idle()
                await asyncio.sleep(EXHAUSTED_S)

    async def _make_room(self) -> None:
        """Wait until another connection may be opened."""
        idle_s = self.settings.idle_s
        while len(self._open) >= self.max_connections and not self._drop_idle():
            left_s = next(iter(self._new.values()), math.inf) + idle_s - time.monotonic()
            self._is_less.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._is_less.wait(), min(max(left_s, 0), idle_s))

    def _drop_idle(self) -> bool:
        """Close a connection that has its response, or no request for long; False if none."""
        sent = (c for c in self._answered if not c.transport.get_write_buffer_size())
        latest = time.monotonic() - self.settings.idle_s
        silent = (connection for connection, at in self._new.items() if at <= latest)
        idle = next(sent, None) or next(silent, None)
        if idle is not None:
            idle.drop()
        return idle is not None

    def add(self, connection: Connection) -> None:
        """Record a new connection."""
        self._open.add(connection)
        self._new[connection] = time.monotonic()

    def remove(self, connection: Connection) -> None:
        """Record that a connection is closed."""
        self._open.discard(connection)
        self._new.pop(connection, None)
        self._answered.pop(connection, None)
        self._is_less.set()

    def update(self, connection: Connection, is_idle: bool) -> None:
        """Record that a connection has a request, or has its response."""
        self._new.pop(connection, None)
        self._answered.pop(connection, None)
        if is_idle and connection in self._open:
            self._answered[connection] = None
            self._is_less.set()


def _has_client_waiting(listener: socket.socket) -> bool:
    # Neither of the two needs an open file, as an epoll does.
    if not hasattr(select, "poll"):
        return bool(select.select([listener], [], [], 0)[0])
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


class Connection(HTTPProtocol):
    """One connection, which is closed when its client is silent for too long."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.logger = logger
        self._all = connections
        self._timer: asyncio.TimerHandle | None = None
        self._was_idle = True
        self._n_unread = 0

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._all.add(self)
        self._close_in(self._all.settings.request_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free what the connection held."""
        self._close_in(None)
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._update()

    def pause_writing(self) -> None:
        """Wait until the client reads."""
        super().pause_writing()
        self._close_in(self._all.settings.reading_s)

    def resume_writing(self) -> None:
        """Continue, as the client reads."""
        super().resume_writing()
        self._wait_for_client()

    def drop(self) -> None:
        """Close the connection at once."""
        self._all.remove(self)
        self.transport.abort()

    def _update(self) -> None:
        was_idle, self._was_idle = self._was_idle, self.is_idle
        if was_idle != self._was_idle:
            self._all.update(self, self._was_idle)
            if not self.is_write_paused:
                self._wait_for_client()

    def _wait_for_client(self) -> None:
        self._close_in(self._all.settings.request_s if self._was_idle else None)

    def _close_in(self, seconds: float | None) -> None:
        """Replace the timer that closes the connection; None for no timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._time_out)

    def _time_out(self) -> None:
        n_unread = self.transport.get_write_buffer_size()
        if n_unread and n_unread != self._n_unread:
            # The client still reads the response, or may begin to.
            self._n_unread = n_unread
            self._close_in(self._all.settings.reading_s)
        else:
            self.drop()
