"""Queue of input files: reports that take long, canceled requests, and DIDs."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from coffea_sx.local.queue import find_files


class Gate:
    """A `before_report` that holds some paths until it is opened."""

    def __init__(self, *held: Path) -> None:
        self.held = {str(path) for path in held}
        self.opened = threading.Event()

    async def __call__(self, path: str) -> None:
        while path in self.held and not self.opened.is_set():
            await asyncio.sleep(0.005)


def test_held_report_does_not_hold_others(serve, inputs):
    gate = Gate(inputs[0])
    client = serve(workers=1, before_report=gate)
    request_id = client.submit(inputs)
    status = client.wait(request_id, n_rows=3)
    assert (status["status"], status["files-completed"]) == ("Running", 3)
    assert str(inputs[0]) not in {row["file-path"] for row in client.rows(request_id)}
    gate.opened.set()
    assert client.wait(request_id)["files-completed"] == 4


def test_cancel_keeps_rows_and_drops_late_results(serve, inputs):
    gate = Gate(*inputs[1:])
    client = serve(before_report=gate)
    request_id = client.submit(inputs)
    client.wait(request_id, n_rows=1)
    assert client.http.delete(f"/servicex/transformation/{request_id}").status_code == 400
    response = client.http.post(f"/servicex/transformation/{request_id}/cancel")
    assert response.json()["message"] == f"Canceled transformation request {request_id}"
    gate.opened.set()
    time.sleep(0.3)
    status = client.status(request_id)
    assert (status["status"], status["files-completed"], status["files-remaining"]) == (
        "Canceled",
        1,
        3,
    )
    assert status["finish-time"] != "None"
    assert len(client.rows(request_id)) == 1
    assert list((client.server.directory / "scratch").iterdir()) == []
    again = client.http.get(f"/servicex/transformation/{request_id}/cancel")
    assert (again.status_code, again.json()["message"]) == (
        400,
        f"Transform request with id {request_id} is not in progress.",
    )


def test_find_files():
    datasets = {"rucio://a": ["1", "2", "3"], "rucio://b?files=1": ["9"]}
    assert find_files(datasets, "rucio://a?files=2") == ["1", "2"]
    assert find_files(datasets, "rucio://a?files=x") == ["1", "2", "3"]
    assert find_files(datasets, "rucio://b?files=1") == ["9"]
    assert find_files(datasets, "rucio://c") is None
