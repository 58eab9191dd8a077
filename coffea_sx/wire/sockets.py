"""Sockets that check the clock of the current request while they wait."""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any

from .clock import DEFAULT_LIMITS, SLICE_S, current


class ClockedSocket(socket.socket):
    """A socket that waits in slices, until the clock of its thread says that the request is over.

    Libraries cannot change the length of a slice with `settimeout`.
    """

    __slots__ = ()

    def settimeout(self, value: float | None) -> None:
        """Set the timeout to one slice, whatever the value."""
        super().settimeout(SLICE_S)

    def recv_into(self, *args: Any) -> int:
        """Receive bytes, and count them."""
        return current.receive(super().recv_into, *args)

    def send(self, *args: Any) -> int:
        """Send some bytes, and note that sending has begun."""
        return current.send(super().send, *args)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all bytes, each `send` of them in slices."""
        with memoryview(data).cast("B") as view:
            begin = 0
            while begin < len(view):
                begin += self.send(view[begin:], flags)


class EncryptedSocket(ClockedSocket, ssl.SSLSocket):
    """A `ClockedSocket` with TLS."""

    def do_handshake(self, block: bool = False) -> None:
        """Make the handshake in slices."""
        current.wait(super().do_handshake, block)


def connect(
    host: str, port: int, *, look_up: Callable[..., list[Any]] = socket.getaddrinfo
) -> ClockedSocket:
    """Connect to the first address of a host that accepts.

    Parameters
    ----------
    host : str
    port : int
    look_up : callable
        As `socket.getaddrinfo`.

    Raises
    ------
    OSError
        If none does within `Limits.connect_s`, or the request is over before.
    """
    failure = OSError("it has no address")
    for family, kind, protocol, _, address in _addresses(host, port, look_up):
        connection = ClockedSocket(family, kind, protocol)
        try:
            _connect(connection, address)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure


def _addresses(host: str, port: int, look_up: Callable[..., list[Any]]) -> list[Any]:
    """Look up the addresses of a host, in a thread, because a look-up cannot be interrupted."""
    addresses: Future[list[Any]] = Future()

    def run() -> None:
        try:
            addresses.set_result(look_up(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            addresses.set_exception(error)

    threading.Thread(target=run, name="coffea_sx-address", daemon=True).start()
    return current.wait(addresses.result, SLICE_S if current.clock else None)


def _connect(connection: ClockedSocket, address: Any) -> None:
    limits = current.clock.limits if current.clock else DEFAULT_LIMITS
    end = monotonic() + limits.connect_s
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    try:
        connection.connect(address)
    except BlockingIOError:
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_WRITE)
            current.wait(_wait_for_connection, selector, end)
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None
    connection.settimeout(SLICE_S)


def _wait_for_connection(selector: selectors.BaseSelector, end: float) -> None:
    if not selector.select(SLICE_S):
        raise TimeoutError if monotonic() < end else OSError("it takes too long to connect")
