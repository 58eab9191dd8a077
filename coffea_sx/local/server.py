"""The life of a ServiceX for one machine: a thread, a socket, a directory."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import html
import http.client
import importlib.util
import multiprocessing
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from . import forks, private
from .generations import WITH_OBJECT_STORE, WITH_OWN_STORE, find_generation

if TYPE_CHECKING:
    import uvicorn

    from .buckets import Buckets, Location
    from .database import Database
    from .objects import Objects
    from .tokens import Tokens
    from .web import Exchange
    from .work import BeforeReport, Work

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
EXCHANGES_KEPT = 100_000
# Ports below are for the machine's own services; root could take them unawares.
MIN_PORT, MAX_PORT = 1024, 65535
CONFIGURATION = "servicex.yaml"
# Is in directories that nobody wants to keep.
MARKER = "temporary"


class LocalServiceX:
    """A ServiceX server in a thread of this process.

    It answers what a ServiceX answers, transforms files with func_adl_uproot in processes of its
    own, and serves the results as an object store, or puts them into the `object_store`. Only this
    machine can reach it. It tells everyone who may ask it the keys of the store. It belongs to the
    process that started it: in a child that this one forks, it is not running.

    Parameters
    ----------
    directory : path-like, optional
        Where requests and results are kept, in a directory that nobody else can write to. A server
        that starts in the directory of an earlier one goes on with what that one left undone. By
        default a temporary directory that is removed at the end, or by the next server if this
        process is killed.
    workers : int
        How many files are transformed at once.
    port : int
        TCP port from 1024 on; 0 takes a free one.
    tokens : bool
        Whether clients need the `refresh_token`, which is in the file `config_path`. Without, every
        user of this machine may submit queries and read results.
    python : bool, optional
        Whether to offer the code generator ``python`` (PythonFunction). It runs the client's code
        with your rights, and without tokens every user of this machine is a client: take
        ``tokens=True`` where others work too. By default it is offered when `tokens` is.
    datasets : mapping of str to sequence of str, optional
        The files of DIDs, as in ``{"rucio://user:ttbar": ["/data/a.root"]}``.
    object_store : str, optional
        An S3 server for the results, as ``s3://host:port`` or ``s3://KEY:SECRET@host:port``; ``/``
        and ``@`` in keys are written as ``%2F`` and ``%40``. Without keys in it, those in
        ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` are taken. A server on this machine
        is reached by http, any other by https. Each request has a bucket there, which is removed
        when the request is deleted and stays when the server stops.
    generation : str, optional
        Which servers it answers like. One of ``"2026"`` signs URLs and tells why files failed. One
        of ``"2025"`` lists results, and clients read them with the keys of the store. Clients of
        one of ``"1.5"`` (2024) list the bucket. By default ``"2026"``, and ``"2025"`` with an
        `object_store`. The directory of a server of another generation may be taken.
    url_expiry_s : int
        Life time of the URLs that ``file-urls`` gives, in seconds. A real server has a setting for
        it, by default a year (31 536 000), for which everyone who sees a URL can read the file.
    access_token_s : float
        Life time of access tokens, in seconds.
    before_report : callable, optional
        ``async def before_report(input_path)``, awaited on the server's event loop between the
        transform of a file and its result row.

    Attributes
    ----------
    exchanges : collections.deque of Exchange
        The newest answered requests, oldest first.

    Raises
    ------
    ConfigurationError
        Without the optional dependencies, for an unknown generation or a port that no server can
        have, when another server uses the directory, it cannot be made, others can write to it or
        its database is damaged, when the port is taken, or when the object store cannot be used.

    Examples
    --------
    >>> with LocalServiceX() as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        workers: int = 2,
        port: int = 0,
        *,
        tokens: bool = False,
        python: bool | None = None,
        datasets: Mapping[str, Sequence[str]] | None = None,
        object_store: str | None = None,
        generation: str | None = None,
        url_expiry_s: int = 600,
        access_token_s: float = 21600,
        before_report: BeforeReport | None = None,
    ) -> None:
        _require_extra()
        if workers < 1:
            raise ConfigurationError(f"workers={workers}: at least one is needed.")
        _check_port(port)
        if not isinstance(datasets, (Mapping, type(None))):
            raise ConfigurationError("datasets= must name the files of DIDs: {did: [path, ...]}.")
        self._given_directory = None if directory is None else Path(directory).absolute()
        self._workers = workers
        self._port = port
        self._uses_tokens = tokens
        self._offers_python = tokens if python is None else python
        self._datasets = {did: tuple(paths) for did, paths in (datasets or {}).items()}
        self._object_store = None if object_store is None else _parse(object_store)
        if generation is None:
            generation = WITH_OWN_STORE if object_store is None else WITH_OBJECT_STORE
        self._generation_name = generation
        self._generation = find_generation(generation)
        self._url_expiry_s = url_expiry_s
        self._access_token_s = access_token_s
        self._before_report = before_report
        self._running: _Running | None = None
        self.exchanges: deque[Exchange] = deque(maxlen=EXCHANGES_KEPT)

    # ---- life

    def start(self) -> LocalServiceX:
        """Start to answer; nothing happens when it does already.

        Raises
        ------
        ConfigurationError
            When the directory or the port is taken, or the object store cannot be used; in a
            process that is being started, where a script without a guard comes by again.
        """
        if self._running is None:
            _refuse_unguarded()
            directory = self._given_directory or _temporary_directory()
            try:
                self._running = _Running(self, directory)
            except BaseException:
                self._remove(directory)
                raise
            _stop_at_exit(self)
            try:
                private.write_private(self.config_path, self.servicex_yaml())
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """End the thread and the processes, and close everything; idempotent.

        Nothing happens in a child that was forked: the server belongs to its parent.
        """
        running, self._running = self._running, None
        if running is not None:
            _live.discard(self)
            running.stop()
            self._remove(running.directory)

    def _forget(self) -> None:
        """In a child that was forked: not be running, and leave everything to the parent."""
        running, self._running = self._running, None
        if running is not None:
            running.forget()

    def _remove(self, directory: Path) -> None:
        if self._given_directory is None:
            shutil.rmtree(directory, ignore_errors=True)

    def __enter__(self) -> LocalServiceX:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- facts

    @property
    def url(self) -> str:
        """The endpoint, ``http://127.0.0.1:PORT``."""
        return f"http://{self._need().address}"

    @property
    def directory(self) -> Path:
        """Where requests and results are kept."""
        return self._need().directory

    @property
    def refresh_token(self) -> str | None:
        """The token that clients need, None when they need none."""
        tokens = self._need().tokens
        return None if tokens is None else tokens.refresh_token

    @property
    def config_path(self) -> Path:
        """A ``servicex.yaml`` for this server that only its user can read, in its directory.

        It is what ``config_path=`` of `from_servicex` takes.
        """
        return self.directory / CONFIGURATION

    def servicex_yaml(self) -> str:
        """Return the text of a ``servicex.yaml`` that names this server "local"."""
        lines = ["api_endpoints:", f"  - endpoint: {self.url}", "    name: local"]
        if self.refresh_token is not None:
            lines.append(f"    token: {self.refresh_token}")
        return "\n".join(["default_endpoint: local", *lines, ""])

    def _need(self) -> _Running:
        if self._running is None:
            raise ConfigurationError("The LocalServiceX is not running: use `with` or start().")
        return self._running

    def __repr__(self) -> str:
        where = "stopped" if self._running is None else self.url
        return f"<LocalServiceX {where}, {self._workers} workers>"

    def _repr_html_(self) -> str:
        if self._running is None:
            return f"<code>{html.escape(repr(self))}</code>"
        rows = {
            "endpoint": self.url,
            "generation": self._generation_name,
            "directory": str(self.directory),
            "workers": str(self._workers),
            "results": self._object_store.endpoint if self._object_store else "its own",
            "tokens": "required" if self._uses_tokens else "not used",
            "answered requests": str(len(self.exchanges)),
        }
        cells = "".join(
            f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items()
        )
        return f"<b>LocalServiceX</b><table>{cells}</table>"


class _Running:
    """Everything that exists between start and stop."""

    def __init__(self, server: LocalServiceX, directory: Path) -> None:
        self.directory = directory
        self.tokens: Tokens | None = None
        self._failure: BaseException | None = None
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(_listen(server._port))
            self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
            self._database = opened.enter_context(contextlib.closing(_open_database(directory)))
            self._buckets, objects = self._store(server)
            opened.callback(self._buckets.close)
            self._http, self._work = self._build(server, objects)
            self._thread = threading.Thread(
                target=self._run, name=f"LocalServiceX {self.address}", daemon=True
            )
            self._thread.start()
            self._wait_until_up()
            opened.pop_all()

    def _build(self, server: LocalServiceX, objects: Objects | None) -> tuple[uvicorn.Server, Work]:
        import uvicorn

        from .connections import Connections
        from .rest import Rest
        from .state import State
        from .tokens import Tokens
        from .transformer import CODEGENS, PYTHON
        from .work import Work

        database = self._database
        tokens = Tokens(
            database.secret("token-key"), database.secret("refresh-id"), server._access_token_s
        )
        self.tokens = tokens if server._uses_tokens else None
        state = State(database)
        work = Work(
            state,
            self._buckets,
            self.directory / "scratch",
            server._workers,
            server._datasets,
            server._before_report,
        )
        codegens = (*CODEGENS, PYTHON) if server._offers_python else CODEGENS
        state.cancel_others(codegens)
        rest = Rest(
            state,
            work,
            self._buckets,
            objects,
            tokens,
            server._uses_tokens,
            server._generation,
            server._url_expiry_s,
            codegens,
        )
        self._connections = Connections()
        # The others are for connections that ask for nothing yet, and for the files of answers.
        most_requests = max(self._connections.most // 4, 1)
        config = uvicorn.Config(
            rest.application(server.exchanges.append, most_requests),
            log_config=None,
            access_log=False,
            lifespan="off",
            loop="asyncio",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        return uvicorn.Server(config), work

    def _store(self, server: LocalServiceX) -> tuple[Buckets, Objects | None]:
        """Return where results are kept, and what serves them if that is this server."""
        from .buckets import Location, OwnBuckets
        from .objects import Objects
        from .s3 import S3Buckets
        from .signatures import Keys

        if server._object_store is not None:
            return S3Buckets(server._object_store), None
        secret = self._database.secret
        keys = Keys(secret("access-key")[:20], secret("secret-key"))
        location = Location(self.address, False, keys)
        buckets = OwnBuckets(self._database, self.directory / "objects", location)
        return buckets, Objects(buckets)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error

    async def _serve(self) -> None:
        self._work.start()
        accepting = self._connections.accept(self._socket, self._http)
        try:
            # Connections come from the line before: uvicorn itself would take in too many.
            await self._http.serve(sockets=[])
        finally:
            accepting.cancel()
            await self._work.stop()

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

    def forget(self) -> None:
        """In a child that was forked: end nothing, and do not hold sockets of the parent open."""
        forks.keep_for_ever(self)
        connections = [
            connection.transport.get_extra_info("socket")
            for connection in self._http.server_state.connections
        ]
        numbers = [opened.fileno() for opened in (self._socket, *connections) if opened is not None]
        forks.let_go_of(number for number in numbers if number >= 0)

    def stop(self) -> None:
        self._http.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)
        self._socket.close()
        self._buckets.close()
        self._database.close()


def _temporary_directory() -> Path:
    """Make a directory; remove those of servers whose process was killed."""
    # To open the database of one here and close it would end its lock.
    runs = [server._running for server in list(_live)]
    in_use = {running.directory for running in runs if running is not None}
    for directory in private.temporary_directories():
        with contextlib.suppress(OSError, ConfigurationError):
            # A younger one may not be locked yet.
            is_old = time.time() - (directory / MARKER).stat().st_mtime > START_TIMEOUT_S
            if is_old and directory not in in_use:
                _open_database(directory).close()  # which a server that lives does not allow
                shutil.rmtree(directory, ignore_errors=True)
    directory = private.temporary_directory()
    (directory / MARKER).touch()
    return directory


def _check_port(port: int) -> None:
    if port != 0 and not MIN_PORT <= port <= MAX_PORT:
        raise ConfigurationError(
            f"Port {port} cannot be used: take one from {MIN_PORT} to {MAX_PORT}, or 0 for a free "
            "one. Those below are for the services of the machine."
        )


_live: set[LocalServiceX] = set()
_lock = threading.Lock()
_default: LocalServiceX | None = None


def _refuse_unguarded() -> None:
    """Refuse what processes of such a script do: run it from its beginning."""
    # As multiprocessing itself finds out, whose own error nobody would see.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigurationError(
            "A process that is being started runs the script of its parent, and would start "
            'another ServiceX. Put what the script does below `if __name__ == "__main__":`.'
        )


def default() -> LocalServiceX:
    """Return the server of this process, started at the first call and stopped at the end.

    Its clients need its token, which ``url="local"`` finds and other users do not.

    Raises
    ------
    ConfigurationError
        Without the optional dependencies.
    """
    global _default
    with _lock:
        if _default is None:
            _default = LocalServiceX(tokens=True)
        return _default.start()


def _stop_at_exit(server: LocalServiceX) -> None:
    """Stop a server before the interpreter waits for its processes to finish their files."""
    _live.add(server)
    with contextlib.suppress(RuntimeError):  # the interpreter is ending already
        _register_stop_all()


@functools.cache
def _register_stop_all() -> None:
    # The functions of `atexit` come too late: executors are waited for before.
    register = getattr(threading, "_register_atexit", atexit.register)
    register(_stop_all)


def _stop_all() -> None:
    for server in list(_live):
        server.stop()


def _begin_child() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is not here may have held it
    for server in list(_live):
        server._forget()
    _live.clear()


forks.after_in_child(_begin_child)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(f"Port {port} cannot be used: {error}.") from error
    return listener


def _open_database(directory: Path) -> Database:
    from .database import Database

    return Database(directory)


def _parse(object_store: str) -> Location:
    from .s3 import parse_object_store

    return parse_object_store(object_store)


def _require_extra() -> None:
    missing: list[Any] = [
        name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ConfigurationError(
            f"LocalServiceX needs {' and '.join(missing)}: "
            'install with `pip install "coffea_sx[local]"`'
        )
