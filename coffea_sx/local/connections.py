"""The connections of clients: how many there may be, and how long they may do nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import select
import socket
import time
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# A connection that has sent no whole request for so long is closed, as is one whose client has
# not read anything of its answer.
REQUEST_S, READING_S = 10.0, 120.0
# The most that are open at once, and the part of all open files that they may be: an answer may
# need a file, too, and the process has files of its own.
MOST, SHARE = 1000, 2
# Where nobody says how many files may be open.
USUAL_FILES = 1024
# While there are so many, the operating system holds others. One that has asked for nothing for so
# long then makes room for them; one that has had its answer does so at once.
QUEUE, PATIENCE_S = 2048, 2.0
# Until there may be open files again.
EXHAUSTED_S = 0.1

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# uvicorn warns of every request that is none; failures of the server itself are errors.
logger = logging.getLogger(__name__)
logger.setLevel(logging.ERROR)


def most_connections() -> int:
    """Return how many connections there may be, from the open files that this process may have."""
    try:
        import resource
    except ImportError:
        return USUAL_FILES // SHARE
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else min(MOST, max(files // SHARE, 1))


class Connections:
    """The connections of one server.

    Attributes
    ----------
    most : int
        How many there may be.
    """

    def __init__(self) -> None:
        self.most = most_connections()
        self._open: set[Connection] = set()
        # Those that wait for a request, the first one for longest; and those that had an answer.
        self._fresh: dict[Connection, float] = {}
        self._answered: dict[Connection, None] = {}
        self._is_less = asyncio.Event()

    def accept(self, listener: socket.socket, server: uvicorn.Server) -> asyncio.Task[None]:
        """Listen from now on, and take connections in for as long as the server runs."""
        listener.setblocking(False)
        listener.listen(QUEUE)
        return asyncio.ensure_future(self._accept(listener, server))

    async def _accept(self, listener: socket.socket, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()
        make = partial(Connection, self, config=server.config, server_state=server.server_state)
        while True:
            await self._room()
            try:
                accepted, _ = await loop.sock_accept(listener)
                if server.should_exit:
                    accepted.close()
                    return
                await loop.connect_accepted_socket(partial(make, app_state={}), accepted)
            except OSError as error:
                # The client has gone already, or there are no more open files: the operating
                # system says so even if nobody asks for a connection.
                if error.errno in _EXHAUSTED and _is_asked(listener):
                    self._drop_idle()
                await asyncio.sleep(EXHAUSTED_S)

    async def _room(self) -> None:
        """Wait until there may be another connection."""
        while len(self._open) >= self.most and not self._drop_idle():
            left_s = next(iter(self._fresh.values()), math.inf) + PATIENCE_S - time.monotonic()
            self._is_less.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._is_less.wait(), min(max(left_s, 0), PATIENCE_S))

    def _drop_idle(self) -> bool:
        """Close a connection that has had its answer, or sent nothing for long; False if none."""
        unsent = (one for one in self._answered if not one.transport.get_write_buffer_size())
        late = (one for one, at in self._fresh.items() if at + PATIENCE_S <= time.monotonic())
        idle = next(unsent, None) or next(late, None)
        if idle is not None:
            idle.drop()
        return idle is not None

    def add(self, connection: Connection) -> None:
        """Count a new connection."""
        self._open.add(connection)
        self._fresh[connection] = time.monotonic()

    def remove(self, connection: Connection) -> None:
        """Count a connection no more."""
        self._open.discard(connection)
        self._fresh.pop(connection, None)
        self._answered.pop(connection, None)
        self._is_less.set()

    def note(self, connection: Connection, is_idle: bool) -> None:
        """Learn that a connection has a request, or has had its answer."""
        self._fresh.pop(connection, None)
        self._answered.pop(connection, None)
        if is_idle and connection in self._open:
            self._answered[connection] = None
            self._is_less.set()


def _is_asked(listener: socket.socket) -> bool:
    """Return True if a client waits to be connected."""
    # Neither of the two needs an open file, as an epoll does.
    if not hasattr(select, "poll"):
        return bool(select.select([listener], [], [], 0)[0])
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


class Connection(H11Protocol):
    """A connection that does not wait for ever."""

    def __init__(self, connections: Connections, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = logger
        self._all = connections
        self._timer: asyncio.TimerHandle | None = None
        self._is_idle = True
        self._n_unread = 0

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        self._all.add(self)
        self._wait(REQUEST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._wait(None)
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, or the whole."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Read the next request."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Wait for a client that does not read."""
        super().pause_writing()
        self._wait(READING_S)

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        self._wait_for_client()

    def drop(self) -> None:
        """Close the connection at once."""
        self._all.remove(self)
        self.transport.abort()

    def _look(self) -> None:
        was_idle, self._is_idle = self._is_idle, self.cycle is None or self.cycle.response_complete
        if was_idle != self._is_idle:
            self._all.note(self, self._is_idle)
            if not self.flow.write_paused:
                self._wait_for_client()

    def _wait_for_client(self) -> None:
        self._wait(REQUEST_S if self._is_idle else None)

    def _wait(self, seconds: float | None) -> None:
        """Close the connection in some seconds, unless something else is waited for by then."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._end)

    def _end(self) -> None:
        n_unread = self.transport.get_write_buffer_size()
        if n_unread and n_unread != self._n_unread:
            # The client still reads the answer, or may begin to.
            self._n_unread = n_unread
            self._wait(READING_S)
        else:
            self.drop()
