"""Database: full disks lose no result, and damaged or locked databases are refused."""

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

from coffea_sx.errors import ConfigurationError
from coffea_sx.local import LocalServiceX
from coffea_sx.local.database import Database
from coffea_sx.local.records import NewRequest, Records
from coffea_sx.local.transformer import TransformResult

resource = pytest.importorskip("resource", reason="there are no limits of file sizes here")

# Files of its server cannot grow beyond a limit: writes fail as on a full disk.
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

# Its server is on a separate disk of a few megabytes.
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
    """A server in another process."""

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
        response = httpx.post(f"{self.url}/servicex/transformation", json=body, timeout=30)
        assert response.status_code == 200, response.text
        return str(response.json()["request_id"])

    def until(self, request_id: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            status: dict[str, Any] = self.get(f"transformation/{request_id}")
            if condition(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"{status}\n{self.errors}")

    def is_waiting(self, status: dict[str, Any]) -> bool:
        return "transforms wait until it can be" in self.errors

    def check_objects(self, request_id: str, values: dict[str, Any]) -> int:
        """Compare the delivered files with the input; return their number."""
        rows = self.get(f"transformation/{request_id}/results")["results"]
        good = [row for row in rows if row["transform_status"] == "success"]
        body = {"request_id": request_id, "file_list": [row["s3-object-name"] for row in good]}
        response = httpx.post(f"{self.url}/servicex/transformation/file-urls", json=body)
        for row in good:
            content = httpx.get(response.json()["uris"][row["s3-object-name"]][0]).content
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
    """Write files that are about as large as their results; return their contents."""
    rng = np.random.default_rng(7)
    values = {}
    for i, count in enumerate(counts):
        path = folder / f"in_{i}.root"
        values[str(path)] = rng.integers(0, 2**62, count)
        with uproot.recreate(path) as file:
            file.mktree("Events", {"x": np.int64}).extend({"x": values[str(path)]})
    return values


@pytest.mark.slow
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
        assert len(server.errors.splitlines()) == 1  # about the wait


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
    """Return the start of a command line under which file systems can be mounted."""
    for options in (("--mount",), ("--mount", "--map-root-user")):
        command = ("unshare", *options, "sh", "-c", 'mount -t tmpfs none /mnt && exec "$@"', "sh")
        if shutil.which("unshare"):
            tried = subprocess.run([*command, "true"], capture_output=True, check=False)
            if tried.returncode == 0:
                return command
    pytest.skip("no file system can be mounted here")


@pytest.mark.long
def test_a_full_disk_is_emptied(run, tmp_path):
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


# -- a database whose file cannot grow


@contextmanager
def file_size(nbytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_failed_transaction_records_nothing(tmp_path):
    database = Database(tmp_path)
    records = Records(database)
    size = (tmp_path / "servicex.sqlite-wal").stat().st_size
    with file_size(size + 5000), pytest.raises(sqlite3.OperationalError):
        records.dataset_of_list([f"/data/{i}.root" for i in range(1000)])
    # A request for a list without its files would be complete at once.
    assert records.datasets(None, True) == []
    dataset_id = records.dataset_of_list([f"/data/{i}.root" for i in range(1000)])
    assert len(records.dataset_files(dataset_id)) == 1000
    database.close()


def test_waiting_results_are_recorded_in_order(tmp_path, caplog):
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


# -- databases of earlier servers


def test_columns_are_added_to_the_database_of_an_earlier_server(tmp_path, serve, inputs):
    first = serve(tmp_path)
    request_id = first.submit(inputs[:1])
    first.wait(request_id)
    first.server.stop()
    connection = sqlite3.connect(tmp_path / "servicex.sqlite")
    for column in ("result_destination", "tree_name", "workers"):
        connection.execute(f"ALTER TABLE requests DROP COLUMN {column}")
    connection.close()
    second = serve(tmp_path)
    status = second.status(request_id)
    assert (status["workers"], status["tree-name"]) == (1, None)
    assert status["result-destination"] == "object-store"
    assert second.wait(second.submit(inputs[:1]))["files-completed"] == 1


def damage_header(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content) - 2048, 4096):
        content[start : start + 2048] = b"\xa5" * 2048
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [damage_header, damage_pages, cut])
def test_a_damaged_database_is_named(damage, tmp_path):
    LocalServiceX(tmp_path / "d").start().stop()
    path = tmp_path / "d" / "servicex.sqlite"
    damage(path)
    with pytest.raises(ConfigurationError, match=f"{path} is damaged.* move {path} away"):
        LocalServiceX(tmp_path / "d").start()
    path.rename(tmp_path / "away")
    with LocalServiceX(tmp_path / "d"):
        pass


def test_a_second_server_does_not_end_the_lock_of_the_first(tmp_path, environment):
    """The lock of a process ends when it closes any file descriptor of the database."""
    code = (
        "import sys; from pathlib import Path; from coffea_sx.local.database import Database\n"
        "try: Database(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)"
    )
    first = Database(tmp_path)
    with pytest.raises(ConfigurationError, match="one LocalServiceX at a time"):
        Database(tmp_path)
    other = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert other.stdout == "ConfigurationError\n"
    first.close()
