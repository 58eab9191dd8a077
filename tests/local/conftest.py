"""Servers, input files and clients for the tests of coffea_sx.local."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from support.rest_client import QUERY, RestClient, make_input

from coffea_sx.local import LocalServiceX
from coffea_sx.local.generations import GENERATIONS
from coffea_sx.testing.store import S3Store


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four good input files of 50, 51, 52 and 0 events."""
    folder = tmp_path_factory.mktemp("inputs")
    counts = [50, 51, 52, 0]
    return [make_input(folder / f"in_{i}.root", n, i) for i, n in enumerate(counts)]


@pytest.fixture(scope="session")
def corrupt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corrupt") / "corrupt.root"
    path.write_bytes(b"root" + bytes(300))
    return path


@pytest.fixture(scope="session")
def input_maker() -> Any:
    return make_input


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of a process that imports the tested package."""
    import coffea_sx

    (package,) = coffea_sx.__path__
    return {**os.environ, "PYTHONPATH": str(Path(package).parent)}


@pytest.fixture(scope="session")
def query() -> str:
    return QUERY


@pytest.fixture(scope="session")
def server() -> Any:
    with LocalServiceX() as running:
        yield running


@pytest.fixture(scope="session")
def client(server: LocalServiceX) -> Any:
    client = RestClient(server)
    with client.http:
        yield client


@pytest.fixture(scope="session")
def pythonic() -> Any:
    """A client of a server that runs functions of its clients."""
    with LocalServiceX(workers=1, python=True) as running:
        own = RestClient(running)
        with own.http:
            yield own


@pytest.fixture(scope="session")
def of_2025(s3_store: S3Store) -> Any:
    """A server that keeps its results in the S3 server of the session."""
    with LocalServiceX(object_store=s3_store.url) as running:
        yield running


@pytest.fixture(scope="session")
def client_of_2025(of_2025: LocalServiceX) -> Any:
    client = RestClient(of_2025)
    with client.http:
        yield client


@pytest.fixture(scope="session")
def clients_of() -> Any:
    """A client of a server of each generation."""
    with contextlib.ExitStack() as running:
        clients = {}
        for generation in GENERATIONS:
            server = LocalServiceX(workers=1, generation=generation)
            clients[generation] = RestClient(running.enter_context(server))
            running.enter_context(clients[generation].http)
        yield clients


@pytest.fixture
def serve() -> Any:
    """Start servers: ``serve(tokens=True)`` returns a client of a new one."""
    clients: list[RestClient] = []

    def start(*args: Any, **options: Any) -> RestClient:
        client = RestClient(LocalServiceX(*args, **options).start())
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.http.close()
        client.server.stop()
