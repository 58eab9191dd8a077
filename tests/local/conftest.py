"""Servers, input files and a small client for the tests of coffea_sx.local."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import awkward as ak
import httpx
import numpy as np
import pytest
import uproot

from coffea_sx.local import LocalServiceX
from coffea_sx.local.generations import GENERATIONS
from coffea_sx.testing.store import S3Store

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "servicex"

QUERY = (
    "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) (dict (list "
    "'Muon_pt' 'MET_pt' 'event') (list (subscript e 'Muon_pt') (subscript e 'MET_pt') "
    "(subscript e 'event')))))"
)


class Client:
    """An HTTP client of a server."""

    def __init__(self, server: LocalServiceX) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.url, timeout=30)

    def submit(self, paths: list[Any] | None = None, **changes: Any) -> str:
        response = self.post(paths, **changes)
        assert response.status_code == 200, response.text
        return response.json()["request_id"]

    def post(self, paths: list[Any] | None = None, **changes: Any) -> httpx.Response:
        body: dict[str, Any] = {
            "title": "test",
            "codegen": "uproot",
            "selection": QUERY,
            "result-destination": "object-store",
            "result-format": "root-file",
        }
        if paths is not None:
            body["file-list"] = [str(path) for path in paths]
        return self.http.post("/servicex/transformation", json={**body, **changes})

    def status(self, request_id: str) -> dict[str, Any]:
        return self.http.get(f"/servicex/transformation/{request_id}").json()

    def rows(self, request_id: str, **query: str) -> list[dict[str, Any]]:
        path = f"/servicex/transformation/{request_id}/results"
        return self.http.get(path, params=query).json()["results"]

    def reasons(self, request_id: str) -> dict[str, str]:
        response = self.http.get(f"/servicex/transformation/{request_id}/errors").json()
        return {error["file-path"]: error["info"] for error in response["errors"]}

    def wait(self, request_id: str, n_rows: int | None = None) -> dict[str, Any]:
        """Wait until a request has ended, or has this many result rows."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            status = self.status(request_id)
            n_done = status["files-completed"] + status["files-failed"]
            is_over = status["status"] not in ("Submitted", "Lookup", "Pending Lookup", "Running")
            if is_over or (n_rows is not None and n_done >= n_rows):
                return status
            time.sleep(0.01)
        raise AssertionError(f"{request_id} does not end: {status}")

    def urls(self, request_id: str, names: list[str]) -> dict[str, list[Any]]:
        response = self.http.post(
            "/servicex/transformation/file-urls",
            json={"request_id": request_id, "file_list": names},
        )
        assert response.status_code == 200, response.text
        return response.json()["uris"]

    def objects(self, request_id: str) -> dict[str, bytes]:
        """Return the delivered files by their input path."""
        rows = [row for row in self.rows(request_id) if row["transform_status"] == "success"]
        urls = self.urls(request_id, [row["s3-object-name"] for row in rows])
        contents = {}
        for row in rows:
            response = self.http.get(urls[row["s3-object-name"]][0])
            assert response.status_code == 200
            assert len(response.content) == row["total-bytes"]
            contents[row["file-path"]] = response.content
        return contents


def make_input(path: Path, n_events: int = 50, seed: int = 0) -> Path:
    """Write a small file like a NanoAOD file."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, n_events)

    def jagged(values: Any, dtype: type) -> ak.Array:
        return ak.unflatten(values.astype(dtype), counts)

    n_muons = int(counts.sum())
    columns = {
        "run": np.full(n_events, 1, np.uint32),
        "luminosityBlock": np.full(n_events, 1, np.uint32),
        "event": np.arange(n_events, dtype=np.uint64),
        "MET_pt": rng.exponential(30, n_events).astype(np.float32),
        "Muon_pt": jagged(rng.exponential(30, n_muons), np.float32),
        "Muon_eta": jagged(rng.normal(0, 1, n_muons), np.float32),
        "Muon_phi": jagged(rng.uniform(-3, 3, n_muons), np.float32),
        "Muon_mass": jagged(rng.uniform(0, 1, n_muons), np.float32),
        "Muon_charge": jagged(rng.choice([-1, 1], n_muons), np.int32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path) as file:
        types = {name: ak.Array(column).type for name, column in columns.items()}
        tree = file.mktree("Events", types, counter_name=lambda name: "nMuon")
        tree.extend(columns)
    return path


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
    shared = Client(server)
    with shared.http:
        yield shared


@pytest.fixture(scope="session")
def pythonic() -> Any:
    """A client of a server that runs functions of its clients."""
    with LocalServiceX(workers=1, python=True) as running:
        own = Client(running)
        with own.http:
            yield own


@pytest.fixture(scope="session")
def of_2025(s3_store: S3Store) -> Any:
    """A server that keeps its results in the S3 server of the session."""
    with LocalServiceX(object_store=s3_store.url) as running:
        yield running


@pytest.fixture(scope="session")
def client_of_2025(of_2025: LocalServiceX) -> Any:
    shared = Client(of_2025)
    with shared.http:
        yield shared


@pytest.fixture(scope="session")
def clients_of() -> Any:
    """A client of a server of each generation."""
    with contextlib.ExitStack() as running:
        clients = {}
        for generation in GENERATIONS:
            server = LocalServiceX(workers=1, generation=generation)
            clients[generation] = Client(running.enter_context(server))
            running.enter_context(clients[generation].http)
        yield clients


@pytest.fixture
def serve() -> Any:
    """Start servers: ``serve(tokens=True)`` returns a client of a new one."""
    clients: list[Client] = []

    def start(*args: Any, **options: Any) -> Client:
        client = Client(LocalServiceX(*args, **options).start())
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.http.close()
        client.server.stop()


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the recordings of real servers are not at {SHARED}")
    return SHARED
