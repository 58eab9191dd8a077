"""A disk without space loses no result, and the server goes on when there is space again."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import awkward as ak
import httpx
import numpy as np
import pytest
import uproot

from coffea_sx.local.database import Database
from coffea_sx.local.records import NewRequest, Records
from coffea_sx.local.transformer import TransformResult

resource = pytest.importorskip("resource", reason="there are no limits of file sizes here")

# Its server cannot let a file grow beyond a limit: what it writes fails as on a full disk.
LIMITED = """
import logging, os, resource, sys
from pathlib import Path
from coffea_sx.local import LocalServiceX

logging.basicConfig()
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)

def limit(nbytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, most))

reported = 0

async def before_report(path):
    global reported
    reported += 1
    if reported == int(sys.argv[2]):
        limit(Path(server.directory, "servicex.sqlite-wal").stat().st_size)

if len(sys.argv) > 3:
    limit(int(sys.argv[3]))
server = LocalServiceX(sys.argv[1], before_report=before_report).start()
print(server.url, flush=True)
for line in sys.stdin:
    limit(most)
    print("unlimited", flush=True)
"""

# Its server is on a disk of its own, of a few megabytes.
SMALL_DISK = """
import logging, sys
from pathlib import Path
from coffea_sx.local import LocalServiceX

logging.basicConfig()
directory = Path(sys.argv[1])
ballast = directory / "ballast"
ballast.write_bytes(bytes(int(sys.argv[2])))
server = LocalServiceX(directory / "state").start()
print(server.url, flush=True)
for line in sys.stdin:
    ballast.unlink()
    print("space", flush=True)
"""

COLUMN = (
    "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) (dict (list 'x') "
    "(list (subscript e 'x')))))"
)


class Process:
    """A server in a process of its own."""

    def __init__(self, process: Any, errors: Path) -> None:
        self.process = process
        self._errors = errors
        self.url = self.read()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def read(self) -> str:
        line: str = self.process.stdout.readline().strip()
        assert line, self.errors
        return line

    def make_space(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.read()

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}/servicex/{path}", timeout=30).json()

    def submit(self, paths: list[Path], **changes: Any) -> str:
        body = {
            "codegen": "uproot",
            "selection": COLUMN,
            "result-destination": "object-store",
            "result-format": "root-file",
            "file-list": [str(path) for path in paths],
            **changes,
        }
        answer = httpx.post(f"{self.url}/servicex/transformation", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def until(self, request_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            status: dict[str, Any] = self.get(f"transformation/{request_id}")
            if is_so(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"{status}\n{self.errors}")

    def is_waiting(self, status: dict[str, Any]) -> bool:
        return "transforms wait until it can be" in self.errors

    def check_objects(self, request_id: str, values: dict[str, Any]) -> int:
        """Read what was delivered, and compare it with the input."""
        rows = self.get(f"transformation/{request_id}/results")["results"]
        good = [row for row in rows if row["transform_status"] == "success"]
        body = {"request_id": request_id, "file_list": [row["s3-object-name"] for row in good]}
        answer = httpx.post(f"{self.url}/servicex/transformation/file-urls", json=body)
        for row in good:
            content = httpx.get(answer.json()["uris"][row["s3-object-name"]][0]).content
            assert len(content) == row["total-bytes"]
            read_from = self._errors.parent / "object.root"
            read_from.write_bytes(content)
            with uproot.open({read_from: None}) as file:
                assert ak.array_equal(file["servicex/x"].array(), values[row["file-path"]])
        return len(good)


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Any]:
    @contextmanager
    def running(script: str, *arguments: object, before: tuple[str, ...] = ()) -> Iterator[Process]:
        (tmp_path / "script.py").write_text(script)
        command = [*before, sys.executable, str(tmp_path / "script.py"), *map(str, arguments)]
        with (tmp_path / "stderr").open("w") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        with process:
            try:
                yield Process(process, tmp_path / "stderr")
            finally:
                process.kill()

    return running


def make_inputs(folder: Path, counts: list[int]) -> dict[str, Any]:
    """Write files whose results are about as large as they are; return what is in them."""
    rng = np.random.default_rng(7)
    values = {}
    for i, count in enumerate(counts):
        path = folder / f"in_{i}.root"
        values[str(path)] = rng.integers(0, 2**62, count)
        with uproot.recreate(path) as file:
            file.mktree("Events", {"x": np.int64}).extend({"x": values[str(path)]})
    return values


def test_results_wait_until_they_can_be_recorded(run, tmp_path):
    values = make_inputs(tmp_path, [100] * 12)
    with run(LIMITED, tmp_path / "d", 4) as server:
        request_id = server.submit([Path(path) for path in values])
        server.until(request_id, server.is_waiting)
        status = server.get(f"transformation/{request_id}")
        assert status["status"] == "Running"
        assert 3 <= status["files-completed"] < 12
        assert server.check_objects(request_id, values) == status["files-completed"]
        refused = httpx.get(f"{server.url}/servicex/transformation/{request_id}/cancel")
        assert (refused.status_code, refused.json()["message"][:20]) == (
            500,
            "Something went wrong",
        )
        server.make_space()
        status = server.until(request_id, lambda status: status["status"] != "Running")
        assert (status["status"], status["files-completed"]) == ("Complete", 12)
        assert server.check_objects(request_id, values) == 12
        assert len(server.errors.splitlines()) == 1  # that it waits


def test_a_result_that_cannot_be_written_fails_alone(run, tmp_path):
    values = make_inputs(tmp_path, [100, 200_000, 100, 100])
    big = str(tmp_path / "in_1.root")
    with run(LIMITED, tmp_path / "d", 0, 1_000_000) as server:
        request_id = server.submit([Path(path) for path in values])
        status = server.until(request_id, lambda status: status["status"] != "Running")
        assert (status["status"], status["files-completed"]) == ("Complete", 3)
        (error,) = server.get(f"transformation/{request_id}/errors")["errors"]
        assert error["file-path"] == big
        assert "File too large" in error["info"]
        assert server.check_objects(request_id, values) == 3
        assert list((tmp_path / "d" / "scratch").iterdir()) == []
        assert server.errors == ""


def private_mount() -> tuple[str, ...]:
    """The command that runs another one where it can mount file systems, if there is one."""
    for options in (("--mount",), ("--mount", "--map-root-user")):
        command = ("unshare", *options, "sh", "-c", 'mount -t tmpfs none /mnt && exec "$@"', "sh")
        if shutil.which("unshare"):
            tried = subprocess.run([*command, "true"], capture_output=True, check=False)
            if tried.returncode == 0:
                return command
    pytest.skip("no file system can be mounted here")


def test_a_disk_that_is_full_for_a_while(run, tmp_path):
    values = make_inputs(tmp_path, [8000] * 40)  # of 64 kB each
    command = private_mount()
    mount = f'mount -t tmpfs -o size=12m none {tmp_path / "disk"} && exec "$@"'
    before = (*command[:-2], mount, command[-1])
    (tmp_path / "disk").mkdir(mode=0o700)
    script = f"import os; os.chmod({str(tmp_path / 'disk')!r}, 0o700)\n{SMALL_DISK}"
    with run(script, tmp_path / "disk", 10_500_000, before=before) as server:
        request_id = server.submit([Path(path) for path in values])

        def is_full(status: dict[str, Any]) -> bool:
            return status["files-failed"] > 0 or server.is_waiting(status)

        status = server.until(request_id, is_full)
        n_before = status["files-completed"]
        assert n_before > 5
        server.make_space()
        status = server.until(request_id, lambda status: status["status"] != "Running")
        assert status["status"] == "Complete"
        assert status["files-completed"] + status["files-failed"] == 40
        assert status["files-completed"] >= n_before
        assert server.check_objects(request_id, values) == status["files-completed"]
        reasons = server.get(f"transformation/{request_id}/errors")["errors"]
        assert len(reasons) == status["files-failed"]
        assert all("No space left" in reason["info"] for reason in reasons)
        failed = [Path(reason["file-path"]) for reason in reasons] or [tmp_path / "in_0.root"]
        again = server.submit(failed)
        status = server.until(again, lambda status: status["status"] != "Running")
        assert (status["files-completed"], status["files-failed"]) == (len(failed), 0)
        assert "Traceback" not in server.errors


# -- the database alone, whose file cannot grow


@contextmanager
def file_size(nbytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_cannot_be_recorded_is_not_recorded_in_part(tmp_path):
    database = Database(tmp_path)
    records = Records(database)
    size = (tmp_path / "servicex.sqlite-wal").stat().st_size
    with file_size(size + 5000), pytest.raises(sqlite3.OperationalError):
        records.dataset_of_list([f"/data/{i}.root" for i in range(1000)])
    # A list that is known without its files would be a request that is complete at once.
    assert records.datasets(None, True) == []
    dataset_id = records.dataset_of_list([f"/data/{i}.root" for i in range(1000)])
    assert len(records.dataset_files(dataset_id)) == 1000
    database.close()


def test_what_waits_is_recorded_in_order(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    database = Database(tmp_path)
    records = Records(database)
    paths = [f"/data/{i}.root" for i in range(50)]

    async def record() -> None:
        dataset_id = records.dataset_of_list(paths)
        added = {"title": None, "did_id": dataset_id, "selection": "", "source": "", "codegen": ""}
        records.add_request(NewRequest("id", **added, result_format="", status="Lookup"))
        records.start_request("id")
        files = [file["id"] for file in records.dataset_files(dataset_id)]

        def add(file_id: int, path: str) -> None:
            records.add_result("id", file_id, TransformResult(path), path)

        size = (tmp_path / "servicex.sqlite-wal").stat().st_size
        with file_size(size):
            tasks = [
                asyncio.ensure_future(records.persist(lambda i=i, path=path: add(i, path)))
                for i, path in zip(files, paths, strict=True)
            ]
            waiting = asyncio.ensure_future(records.until_writable())
            while not caplog.records:
                await asyncio.sleep(0.01)
            assert records.results("id") == []
        await asyncio.gather(*tasks, waiting)

    asyncio.run(record())
    assert [row["file_path"] for row in records.results("id")] == paths
    assert records.request("id")["status"] == "Complete"
    assert len(caplog.records) == 1
    assert str(tmp_path) in caplog.text
    database.close()
