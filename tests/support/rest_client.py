"""A small client of the embedded server, as any HTTP client is, and input files for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import awkward as ak
import httpx
import numpy as np
import uproot

from coffea_sx.local import LocalServiceX

QUERY = (
    "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) (dict (list "
    "'Muon_pt' 'MET_pt' 'event') (list (subscript e 'Muon_pt') (subscript e 'MET_pt') "
    "(subscript e 'event')))))"
)


class RestClient:
    """Sends requests to a server, without the checks of ServiceXClient."""

    def __init__(self, server: LocalServiceX) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.url, timeout=30)

    def submit(self, paths: list[Any] | None = None, **changes: Any) -> str:
        answer = self.post(paths, **changes)
        assert answer.status_code == 200, answer.text
        return answer.json()["request_id"]

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
        answer = self.http.get(f"/servicex/transformation/{request_id}/errors").json()
        return {error["file-path"]: error["info"] for error in answer["errors"]}

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
        answer = self.http.post(
            "/servicex/transformation/file-urls",
            json={"request_id": request_id, "file_list": names},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["uris"]

    def objects(self, request_id: str) -> dict[str, bytes]:
        """Return the delivered files by their input path."""
        rows = [row for row in self.rows(request_id) if row["transform_status"] == "success"]
        urls = self.urls(request_id, [row["s3-object-name"] for row in rows])
        found = {}
        for row in rows:
            answer = self.http.get(urls[row["s3-object-name"]][0])
            assert answer.status_code == 200
            assert len(answer.content) == row["total-bytes"]
            found[row["file-path"]] = answer.content
        return found


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
