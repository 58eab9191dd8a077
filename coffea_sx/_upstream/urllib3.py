"""Private API of urllib3, tested with 2.7 and 2.8."""

from __future__ import annotations

import socket

from urllib3 import PoolManager
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import NewConnectionError


class OwnSocketConnection(HTTPConnection):
    """A connection whose socket `open_socket` opens.

    urllib3 opens its sockets in the private method ``_new_conn``, with timeouts that limit single
    waits. A public way to give it connected sockets would replace this class.
    """

    def open_socket(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to a host, which is given without brackets."""
        raise NotImplementedError

    def _new_conn(self) -> socket.socket:
        try:
            return self.open_socket(self._dns_host.strip("[]"), self.port)
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, f"Failed to connect: {error}") from error

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def use_pool_classes(
    manager: PoolManager, plain: type[HTTPConnectionPool], encrypted: type[HTTPConnectionPool]
) -> None:
    """Let a manager make pools of these classes.

    ``pool_classes_by_scheme`` is undocumented; a parameter of `PoolManager` would replace it.
    """
    manager.pool_classes_by_scheme = {"http": plain, "https": encrypted}


def pools_of(manager: PoolManager) -> list[HTTPConnectionPool]:
    """Return the pools that a manager holds now.

    ``PoolManager.pools`` is an undocumented container with a lock of its own; its ``keys()`` are a
    copy. `PoolManager.clear` would replace it if it closed idle connections at once.
    """
    pools = [manager.pools.get(key) for key in manager.pools.keys()]  # noqa: SIM118
    return [pool for pool in pools if pool is not None]
