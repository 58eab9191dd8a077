"""Runtime of an embedded server: its socket, its database, its workers and its thread."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from pathlib import Path

import uvicorn

from .._upstream.uvicorn import sockets_of
from ..errors import ConfigurationError
from .buckets import Buckets, DirectoryBuckets, StoreAddress
from .connections import Connections
from .database import Database
from .fork_safety import never_finalize, replace_by_null_device
from .object_store import ObjectStore
from .queue import TransformQueue
from .records import Records
from .rest import RestAPI
from .s3 import S3Buckets
from .settings import ServerOptions
from .signatures import Keys
from .tokens import Tokens

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0


class Runtime:
    """Everything that exists between the start and the stop of a server.

    Parameters
    ----------
    options : ServerOptions
    directory : Path
        Home of requests and results.

    Attributes
    ----------
    address : str
        ``127.0.0.1:PORT``.
    tokens : Tokens or None
        None if clients need no tokens.

    Raises
    ------
    ConfigurationError
        If the port, the directory or the object store cannot be used.
    """

    def __init__(self, options: ServerOptions, directory: Path) -> None:
        self.directory = directory
        self._failure: BaseException | None = None
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(_bind(options.port))
            self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
            self._database = opened.enter_context(contextlib.closing(Database(directory)))
            self._buckets, object_store = self._open_buckets(options)
            opened.callback(self._buckets.close)
            self._build(options, object_store)
            self._thread = threading.Thread(
                target=self._run, name=f"LocalServiceX {self.address}", daemon=True
            )
            self._thread.start()
            self._wait_until_up()
            opened.pop_all()

    def _open_buckets(self, options: ServerOptions) -> tuple[Buckets, ObjectStore | None]:
        """Return the buckets, and the store that serves them if they are in this server."""
        if options.object_store is not None:
            return S3Buckets(options.object_store), None
        secret = self._database.secret
        keys = Keys(secret("access-key")[:20], secret("secret-key"))
        address = StoreAddress(self.address, False, keys)
        buckets = DirectoryBuckets(self._database, self.directory / "objects", address)
        return buckets, ObjectStore(buckets, options.settings.listed_objects)

    def _build(self, options: ServerOptions, object_store: ObjectStore | None) -> None:
        """Create the queue and the HTTP server."""
        secret, settings = self._database.secret, options.settings
        tokens = Tokens(secret("token-key"), secret("refresh-id"), options.access_token_s)
        self.tokens = tokens if options.needs_tokens else None
        records = Records(self._database, settings.clock)
        self._queue = TransformQueue(options, records, self._buckets, self.directory / "scratch")
        records.cancel_all_but(options.codegens)
        api = RestAPI(options, records, self._queue, self._buckets, object_store, tokens)
        self._connections = Connections(settings)
        # The others are for connections without a request yet, and for the files of responses.
        max_requests = max(self._connections.max_connections // 4, 1)
        config = uvicorn.Config(
            api.application(max_requests),
            log_config=None,
            access_log=False,
            lifespan="off",
            loop="asyncio",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._http = uvicorn.Server(config)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error

    async def _serve(self) -> None:
        self._queue.start()
        accepting = self._connections.accept(self._socket, self._http)
        try:
            # Without sockets, as uvicorn itself would accept too many connections.
            await self._http.serve(sockets=[])
        finally:
            accepting.cancel()
            await self._queue.stop()

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while not self._http.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                self._http.should_exit = True
                self._thread.join(STOP_TIMEOUT_S)
                raise ConfigurationError("The server did not start.") from self._failure
            time.sleep(0.005)
        connection = http.client.HTTPConnection(self.address, timeout=START_TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("GET", "/servicex")
            connection.getresponse().read()

    def leave_to_parent(self) -> None:
        """In a forked child: end nothing, and do not keep sockets of the parent open."""
        never_finalize(self)
        numbers = [opened.fileno() for opened in (self._socket, *sockets_of(self._http))]
        replace_by_null_device(number for number in numbers if number >= 0)

    def stop(self) -> None:
        """End the thread and the workers, and close everything."""
        self._http.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)
        self._socket.close()
        self._buckets.close()
        self._database.close()


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(f"Port {port} cannot be used: {error}.") from error
    return listener
