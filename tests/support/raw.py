"""Servers of raw sockets, which send any bytes at any time."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

PAUSE_S = 0.05

Play = Callable[["RawConnection"], None]


class RawConnection:
    """Server side of one connection."""

    def __init__(self, accepted: socket.socket, over: threading.Event) -> None:
        self.socket = accepted
        self.over = over

    def read_request(self) -> bytes:
        """Return the head of a request."""
        head = b""
        while b"\r\n\r\n" not in head:
            part = self.socket.recv(4096)
            if not part:
                break
            head += part
        return head

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def trickle(self, content: bytes, pause_s: float = PAUSE_S) -> None:
        """Send one byte after another, with pauses."""
        for i in range(len(content)):
            if self.over.wait(pause_s):
                return
            self.socket.sendall(content[i : i + 1])

    def be_silent(self) -> None:
        """Keep the connection, and send nothing."""
        self.over.wait()


class RawServer:
    """A server that calls a function for each connection."""

    def __init__(self, play: Play, backlog: int = 50) -> None:
        self.n_connections = 0
        self.connected = threading.Event()
        self._over = threading.Event()
        self._play = play
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.port = self._socket.getsockname()[1]
        self._accepted: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._over.set()
        for each in (self._socket, *self._accepted):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # ends waiting for what a client does not send
        self._socket.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            self.n_connections += 1
            self.connected.set()
            self._accepted.append(accepted)
            thread = threading.Thread(target=self._serve, args=(accepted,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(OSError):
            self._play(RawConnection(accepted, self._over))


def encrypted(context: ssl.SSLContext, play: Play) -> Play:
    """Return the same play over TLS."""

    def play_encrypted(connection: RawConnection) -> None:
        with context.wrap_socket(connection.socket, server_side=True) as wrapped:
            play(RawConnection(wrapped, connection.over))

    return play_encrypted


def handshake_in_trickles(context: ssl.SSLContext) -> Play:
    """Return a play that sends its handshake of TLS one byte after another."""

    def play(connection: RawConnection) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(connection.socket.recv(16384))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        connection.trickle(outgoing.read())
        connection.be_silent()

    return play


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port that accepts no connection, like one behind a firewall."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address[1]
