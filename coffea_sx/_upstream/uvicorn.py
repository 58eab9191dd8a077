"""Internal API of uvicorn (tested with 0.30 to 0.54)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


class HTTPProtocol(H11Protocol):
    """The asyncio protocol of one HTTP connection, on h11.

    uvicorn documents the choice of a protocol class (``http=``), but not the class itself. A public
    replacement would be limits of connections and read times in `uvicorn.Config`.
    """

    @property
    def is_idle(self) -> bool:
        """True if no request is in work: none has come, or the last one has its response."""
        cycle: Any = self.cycle  # annotated without None
        return cycle is None or bool(cycle.response_complete)

    @property
    def is_write_paused(self) -> bool:
        """True while the client reads too slowly for more to be written."""
        return self.flow.write_paused


def protocol_factory(
    protocol: Callable[..., HTTPProtocol], server: uvicorn.Server, *arguments: Any
) -> Callable[[], HTTPProtocol]:
    """Return a function without arguments that makes a protocol for a connection of a server.

    uvicorn makes protocols itself only for sockets on which it accepts connections itself, without
    a limit. A public replacement would be such a limit.
    """
    options = {"config": server.config, "server_state": server.server_state, "app_state": {}}
    return partial(protocol, *arguments, **options)


def sockets_of(server: uvicorn.Server) -> list[socket.socket]:
    """Return the sockets of the connections of a server, which uvicorn only keeps for itself."""
    connections = server.server_state.connections
    sockets = (connection.transport.get_extra_info("socket") for connection in connections)
    return [opened for opened in sockets if opened is not None]
