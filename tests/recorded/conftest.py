"""Recordings of real servers, which lie beside the repository; without them, tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.rest_client import RestClient

from coffea_sx.local import LocalServiceX

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of requests and responses, and of the input and result files that belong to them."""
    return _folder("servicex")


@pytest.fixture(scope="session")
def nano_aod() -> Path:
    """NanoAOD file that ROOT itself has written."""
    return _folder("samples") / "nano_dy.root"


def _folder(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"there are no recordings of real servers in {SHARED / name}")
    return SHARED / name


@pytest.fixture
def serve() -> Iterator[Any]:
    """Start servers; ``serve(tokens=True)`` returns a client of a new server."""
    clients: list[RestClient] = []

    def start(**options: Any) -> RestClient:
        clients.append(RestClient(LocalServiceX(**options).start()))
        return clients[-1]

    yield start
    for client in clients:
        client.http.close()
        client.server.stop()


@pytest.fixture(scope="module")
def client() -> Iterator[RestClient]:
    """Client of a server that the tests of a module share."""
    with LocalServiceX() as server:
        client = RestClient(server)
        with client.http:
            yield client
