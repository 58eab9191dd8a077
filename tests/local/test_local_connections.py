"""Connections: clients that open too many or are silent do not harm the others."""

from __future__ import annotations

import collections
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from coffea_sx.local.settings import ServerSettings

SERVER = """
import resource, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), most))
from coffea_sx.local import LocalServiceX
with LocalServiceX() as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""
HEAD = b"GET /servicex HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SUBMIT = "/servicex/transformation"
N_FLOOD = 2000


class ServerProcess:
    """A server in another process, whose open files are limited."""

    def __init__(self, process: Any, errors: Path) -> None:
        self.url = process.stdout.readline().strip()
        assert self.url, errors.read_text()
        self.port = int(self.url.rpartition(":")[2])
        self.process = process
        self._seen = psutil.Process(process.pid)
        self._errors = errors
        self.get()
        self._at_first = self.memory()

    def memory(self) -> int:
        nbytes: int = self._seen.memory_info().rss
        return nbytes

    @property
    def growth(self) -> int:
        return self.memory() - self._at_first

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def get(self) -> httpx.Response:
        return httpx.get(f"{self.url}/servicex", timeout=60)

    def do(self, command: str, reply: str) -> None:
        """Send a command to the process, and wait for its reply."""
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{reply}\n"

    def connect(self, first: bytes) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connected.sendall(first)
        return connected


@pytest.fixture
def limited(
    tmp_path: Path, environment: dict[str, str]
) -> Iterator[Callable[[int], ServerProcess]]:
    resource = pytest.importorskip("resource", reason="open files are not limited here")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * N_FLOOD:
        pytest.skip("too few open files for a flood")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * N_FLOOD), hard))
    with contextlib.ExitStack() as running, (tmp_path / "stderr").open("w") as errors:

        def start(n_files: int) -> ServerProcess:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(n_files)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
            running.enter_context(process)
            running.callback(process.kill)
            return ServerProcess(process, tmp_path / "stderr")

        yield start
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def status_of(client: socket.socket) -> tuple[int, dict[bytes, bytes]]:
    """Read the head of a response."""
    head, _, _ = client.recv(10_000).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines)
    return int(first.split()[1]), headers


@pytest.mark.slow
def test_a_flood_of_half_open_connections(limited):
    server = limited(1024)
    with contextlib.ExitStack() as opened:
        for i in range(N_FLOOD):
            opened.enter_context(server.connect(b"" if i % 2 else HEAD))
            if i % 400 == 399:
                assert server.get().status_code == 200
        for _ in range(5):
            assert server.get().status_code == 200
    assert server.errors == ""
    assert server.growth < 100e6
    server.process.stdin.close()
    assert server.process.wait(20) == 0


@pytest.mark.slow
def test_many_requests_at_once(limited):
    server = limited(1024)
    with contextlib.ExitStack() as opened:
        clients = [
            opened.enter_context(server.connect(HEAD + b"Connection: close\r\n\r\n"))
            for _ in range(N_FLOOD)
        ]
        statuses = collections.Counter(status_of(client)[0] for client in clients)
    assert set(statuses) <= {200, 503}, statuses
    assert statuses[200] > N_FLOOD / 2
    assert server.errors == ""
    assert server.growth < 100e6


EXHAUSTED = """
import os, resource, sys, time
from coffea_sx.local import LocalServiceX
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, most))
with LocalServiceX() as server:
    print(server.url, flush=True)
    taken = []
    for line in sys.stdin:
        # Also those that the server closes meanwhile, when clients close their connections.
        until = time.monotonic() + 1
        while time.monotonic() < until:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
                until = time.monotonic() + 1
            except OSError:
                time.sleep(0.01)
        print("exhausted", flush=True)
        for line in sys.stdin:
            for _ in range(1 if line == "close one\\n" else len(taken)):
                os.close(taken.pop())
            print("closed", flush=True)
"""


@pytest.fixture
def exhausted(tmp_path: Path, environment: dict[str, str]) -> Iterator[ServerProcess]:
    """A server in a process that has used up its open files."""
    pytest.importorskip("resource", reason="open files are not limited here")
    errors = tmp_path / "stderr"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", EXHAUSTED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment,
        )
        with process:
            try:
                server = ServerProcess(process, errors)
                server.do("open all", "exhausted")
                yield server
                assert server.errors == ""
            finally:
                process.kill()


@pytest.mark.slow
def test_a_client_waits_while_there_are_no_open_files(exhausted):
    with exhausted.connect(HEAD + b"\r\n") as waiting:
        waiting.settimeout(1)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        exhausted.do("close all", "closed")
        waiting.settimeout(30)
        assert status_of(waiting)[0] == 200


@pytest.mark.slow
def test_a_new_connection_is_kept_when_open_files_run_out(exhausted):
    """The client with the last open file keeps it while no other client waits."""
    with exhausted.connect(HEAD) as begun:
        exhausted.do("close one", "closed")
        begun.settimeout(0.5)
        with pytest.raises(TimeoutError):
            begun.recv(1)
        exhausted.do("close all", "closed")
        begun.settimeout(30)
        begun.sendall(b"\r\n")
        assert status_of(begun)[0] == 200


def test_too_many_requests_are_refused_for_a_while(limited):
    server = limited(128)  # 64 connections and 16 requests
    body = b'{"title": "half of it'
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) + 1}\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as opened:
        posts = [opened.enter_context(server.connect(head + body)) for _ in range(16)]
        deadline = time.monotonic() + 20
        while (response := server.get()).status_code == 200:
            assert time.monotonic() < deadline
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.text.startswith("<!doctype html>")
        posts[0].sendall(b"}")
        assert status_of(posts[0])[0] == 400  # not JSON
        assert server.get().status_code == 200
    assert server.errors == ""


def chunks(n_bytes: int) -> Iterator[bytes]:
    for _ in range(n_bytes >> 20):
        yield bytes(1 << 20)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_that_is_too_large(is_announced, limited):
    server = limited(1024)
    headers = {"content-type": "application/json"}
    if is_announced:
        headers["content-length"] = str(400 << 20)
    response = httpx.post(
        server.url + SUBMIT, content=chunks(400 << 20), headers=headers, timeout=60
    )
    assert response.status_code == 413
    assert server.growth < 150e6
    assert server.get().status_code == 200
    assert server.errors == ""


def wait_for_connections(client: Any, count: int) -> None:
    """Wait until a server in this process has so many open connections."""
    port = int(client.server.url.rpartition(":")[2])
    deadline = time.monotonic() + 20
    while True:
        sockets = psutil.Process().net_connections("tcp")
        is_open = [s.laddr.port == port and s.status == psutil.CONN_ESTABLISHED for s in sockets]
        if sum(is_open) == count:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(client: Any, first: bytes) -> socket.socket:
    host, port = client.server.url.removeprefix("http://").split(":")
    connected = socket.create_connection((host, int(port)), timeout=20)
    connected.sendall(first)
    return connected


@pytest.mark.parametrize("first", [b"", HEAD, HEAD + b"\r\n" + HEAD])
def test_a_connection_without_a_request_is_closed(first, serve):
    server = serve(settings=ServerSettings(request_s=0.2))
    with connect(server, first) as client, contextlib.suppress(ConnectionResetError):
        while client.recv(10_000):
            pass  # until it is closed, or the timeout of the test


def test_an_incomplete_body_times_out(serve):
    server = serve(settings=ServerSettings(body_s=0.2))
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000\r\n\r\n{"
    ).encode()
    with connect(server, head) as client:
        status, headers = status_of(client)
        assert (status, headers[b"connection"]) == (408, b"close")


def test_a_client_that_does_not_read_is_disconnected(serve, inputs):
    client = serve(settings=ServerSettings(reading_s=0.5))
    request_id = client.submit(inputs[:1], title="x" * 20_000_000)
    client.http.close()
    request = HEAD.replace(b"/servicex", f"{SUBMIT}/{request_id}".encode())
    wait_for_connections(client, 0)
    with connect(client, request + b"\r\n") as silent:
        wait_for_connections(client, 1)
        wait_for_connections(client, 0)
        n_bytes = 0
        with contextlib.suppress(ConnectionResetError):
            while block := silent.recv(1 << 20):
                n_bytes += len(block)
        assert n_bytes < 20_000_000


@pytest.mark.slow
def test_a_client_that_reads_slowly_gets_everything(serve, inputs):
    client = serve(settings=ServerSettings(reading_s=1.0, request_s=0.1))
    request_id = client.submit(inputs[:1], title="x" * 20_000_000)
    request = HEAD.replace(b"/servicex", f"{SUBMIT}/{request_id}".encode())
    with connect(client, request + b"Connection: close\r\n\r\n") as slow:
        n_bytes = 0
        while block := slow.recv(1 << 19):
            n_bytes += len(block)
            time.sleep(0.05)  # much slower than the server
        assert n_bytes > 20_000_000


def test_malformed_requests_are_refused_without_a_message_on_stderr(serve, capfd):
    client = serve()
    for first in (b"garbage\r\n\r\n", b"\x16\x03\x01" * 50, HEAD + b"X: " + b"y" * 70_000):
        with connect(client, first) as sent:
            assert status_of(sent)[0] == 400
    assert client.http.get("/servicex", headers={"upgrade": "websocket"}).status_code == 200
    assert capfd.readouterr().err == ""
