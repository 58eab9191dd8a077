"""The embedded ServiceX: `LocalServiceX`, and the default server of a process."""

from __future__ import annotations

import contextlib
import functools
import html
import importlib.util
import shutil
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .._upstream.python import call_before_executors_end, is_starting_as_child
from ..errors import ConfigurationError
from . import private_files, temporary
from .codegen import CODEGENS, PYTHON
from .fork_safety import run_in_forked_children
from .generations import DEFAULT, DEFAULT_WITH_STORE, find_generation
from .settings import BeforeReport, ServerOptions, ServerSettings

if TYPE_CHECKING:
    from .buckets import StoreAddress
    from .middleware import Exchange
    from .runtime import Runtime

MAX_EXCHANGES = 100_000
# Lower ports are for services of the machine; root could use one by mistake.
MIN_PORT, MAX_PORT = 1024, 65535
CONFIGURATION = "servicex.yaml"


class LocalServiceX:
    """A ServiceX server in a thread of this process.

    It has the REST interface of ServiceX, transforms files with func_adl_uproot in worker
    processes, and serves the results as an object store, or puts them into the `object_store`.
    Only this machine can reach it. Its clients get the keys of the store. It belongs to the process
    that started it: in forked children it is not running.

    Parameters
    ----------
    directory : path-like, optional
        Home of requests and results; no other user may be able to write to it. In the directory
        of an earlier server it continues the requests of that one. By default a temporary
        directory, which is removed at the end, or by the next server if this process is killed.
    workers : int
        Number of worker processes, each of which transforms one file at a time.
    port : int
        TCP port from 1024 on; 0 for a free one.
    tokens : bool
        True if clients need the `refresh_token`, which is in the file `config_path`. Without
        tokens every user of this machine may submit queries and read results.
    python : bool, optional
        True to offer the code generator ``python`` (PythonFunction), which runs the client's code
        with your rights. Without tokens every user of this machine is a client: use
        ``tokens=True`` on a machine with other users. By default as `tokens`.
    datasets : mapping of str to sequence of str, optional
        Files of DIDs, as in ``{"rucio://user:ttbar": ["/data/a.root"]}``.
    object_store : str, optional
        An S3 server for the results, as ``s3://host:port`` or ``s3://KEY:SECRET@host:port``; ``/``
        and ``@`` in keys are written as ``%2F`` and ``%40``. Without keys, those of
        ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` are used. A server on this machine
        is reached by http, any other by https. Each request has a bucket there, which is removed
        with the request and stays when the server stops.
    generation : str, optional
        Server generation to emulate. Servers of ``"2026"`` sign URLs and give the reasons of
        failures. Servers of ``"2025"`` list results, which clients read with the keys of the
        store. Clients of ``"1.5"`` (2024) list the bucket. By default ``"2026"``, and ``"2025"``
        with an `object_store`. A directory may be used by servers of different generations.
    url_expiry_s : int
        Life time of signed URLs, in seconds, during which anyone with the URL can read the file.
        On real servers it is a year (31 536 000) by default.
    access_token_s : float
        Life time of access tokens, in seconds.
    before_report : callable, optional
        ``async def before_report(input_path)``, awaited on the server's event loop between the
        transform of a file and its result row.
    settings : ServerSettings, optional
        Limits for clients, and other settings that rarely change.

    Attributes
    ----------
    exchanges : collections.deque of Exchange
        The latest requests with their responses, oldest first.

    Raises
    ------
    ConfigurationError
        If an optional dependency is missing, the generation is unknown, the port or the object
        store cannot be used, or the directory cannot be: because another server uses it, it cannot
        be created, others can write to it, or its database is damaged.

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
        settings: ServerSettings | None = None,
    ) -> None:
        _require_extra()
        if workers < 1:
            raise ConfigurationError(f"workers={workers}: at least one is needed.")
        _check_port(port)
        if not isinstance(datasets, (Mapping, type(None))):
            raise ConfigurationError("datasets= must name the files of DIDs: {did: [path, ...]}.")
        self._kept_directory = None if directory is None else Path(directory).absolute()
        if generation is None:
            generation = DEFAULT if object_store is None else DEFAULT_WITH_STORE
        self.exchanges: deque[Exchange] = deque(maxlen=MAX_EXCHANGES)
        offers_python = tokens if python is None else python
        self._options = ServerOptions(
            workers=workers,
            port=port,
            needs_tokens=tokens,
            codegens=(*CODEGENS, PYTHON) if offers_python else CODEGENS,
            datasets={did: tuple(paths) for did, paths in (datasets or {}).items()},
            object_store=None if object_store is None else _parse(object_store),
            generation_name=generation,
            generation=find_generation(generation),
            url_expiry_s=url_expiry_s,
            access_token_s=access_token_s,
            before_report=before_report,
            settings=settings or ServerSettings(),
            log=self.exchanges.append,
        )
        self._running: Runtime | None = None

    # ---- life cycle

    def start(self) -> LocalServiceX:
        """Start the server, unless it is running already.

        Raises
        ------
        ConfigurationError
            If the directory, the port or the object store cannot be used, and in a new process
            that runs a script without a ``__main__`` guard again.
        """
        if self._running is None:
            _refuse_unguarded()
            from .runtime import Runtime

            directory = self._kept_directory or temporary.new_directory(_directories_in_use())
            try:
                self._running = Runtime(self._options, directory)
            except BaseException:
                self._remove(directory)
                raise
            _stop_at_exit(self)
            try:
                private_files.write_file(self.config_path, self.servicex_yaml())
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """End the thread and the workers, and close everything, unless the server is stopped.

        In a forked child nothing happens: the server belongs to the parent.
        """
        running, self._running = self._running, None
        if running is not None:
            _live.discard(self)
            running.stop()
            self._remove(running.directory)

    def _leave_to_parent(self) -> None:
        """In a forked child: be stopped, without an effect on the parent."""
        running, self._running = self._running, None
        if running is not None:
            running.leave_to_parent()

    def _remove(self, directory: Path) -> None:
        if self._kept_directory is None:
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

    # ---- address and directory

    @property
    def url(self) -> str:
        """The endpoint, ``http://127.0.0.1:PORT``."""
        return f"http://{self._need().address}"

    @property
    def directory(self) -> Path:
        """Home of requests and results."""
        return self._need().directory

    @property
    def refresh_token(self) -> str | None:
        """The token that clients need, None if they need none."""
        tokens = self._need().tokens
        return None if tokens is None else tokens.refresh_token

    @property
    def config_path(self) -> Path:
        """Path of a ``servicex.yaml`` for this server that only its user can read.

        For ``config_path=`` of `from_servicex`.
        """
        return self.directory / CONFIGURATION

    def servicex_yaml(self) -> str:
        """Return the text of a ``servicex.yaml`` that names this server "local"."""
        lines = ["api_endpoints:", f"  - endpoint: {self.url}", "    name: local"]
        if self.refresh_token is not None:
            lines.append(f"    token: {self.refresh_token}")
        return "\n".join(["default_endpoint: local", *lines, ""])

    def _need(self) -> Runtime:
        if self._running is None:
            raise ConfigurationError("The LocalServiceX is not running: use `with` or start().")
        return self._running

    def __repr__(self) -> str:
        state = "stopped" if self._running is None else self.url
        return f"<LocalServiceX {state}, {self._options.workers} workers>"

    def _repr_html_(self) -> str:
        if self._running is None:
            return f"<code>{html.escape(repr(self))}</code>"
        options = self._options
        rows = {
            "endpoint": self.url,
            "generation": options.generation_name,
            "directory": str(self.directory),
            "workers": str(options.workers),
            "results": options.object_store.endpoint if options.object_store else "its own",
            "tokens": "required" if options.needs_tokens else "not used",
            "answered requests": str(len(self.exchanges)),
        }
        cells = "".join(
            f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items()
        )
        return f"<b>LocalServiceX</b><table>{cells}</table>"


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
    """Raise ConfigurationError if a new process runs the script of its parent again."""
    # multiprocessing has an error of its own for it, which is not shown.
    if is_starting_as_child():
        raise ConfigurationError(
            "A process that is being started runs the script of its parent, and would start "
            'another ServiceX. Put what the script does below `if __name__ == "__main__":`.'
        )


def default() -> LocalServiceX:
    """Return the server of this process, which starts at the first call and stops at the end.

    Its clients need its token, which ``url="local"`` finds and other users cannot read.

    Raises
    ------
    ConfigurationError
        If an optional dependency is missing.
    """
    global _default
    with _lock:
        if _default is None:
            _default = LocalServiceX(tokens=True)
        return _default.start()


def _stop_at_exit(server: LocalServiceX) -> None:
    """Stop a server at exit, before Python waits until its workers finish their files."""
    _live.add(server)
    with contextlib.suppress(RuntimeError):  # the interpreter is ending already
        _register_stop_all()


@functools.cache
def _register_stop_all() -> None:
    call_before_executors_end(_stop_all)


def _stop_all() -> None:
    for server in list(_live):
        server.stop()


def _directories_in_use() -> set[Path]:
    runtimes = [server._running for server in list(_live)]
    return {runtime.directory for runtime in runtimes if runtime is not None}


def _leave_to_parent() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it
    for server in list(_live):
        server._leave_to_parent()
    _live.clear()


run_in_forked_children(_leave_to_parent)


def _parse(object_store: str) -> StoreAddress:
    from .s3 import parse_object_store

    return parse_object_store(object_store)


def _require_extra() -> None:
    needed = {"starlette": "starlette", "uvicorn": "uvicorn", "jwt": "PyJWT"}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(
            f"LocalServiceX needs {' and '.join(missing)}: "
            'install with `pip install "coffea_sx[local]"`'
        )
