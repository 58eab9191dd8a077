"""Forked children do not disturb the server of their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")

FORKING = """
import contextlib, multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from coffea_sx.local import LocalServiceX, default

fork = multiprocessing.get_context("fork")


def use(server):
    # A child may do this with a server that it inherits.
    server.stop()
    server.__exit__(None, None, None)
    return repr(server)


def by_process(server):
    process = fork.Process(target=use, args=(server,))
    process.start()
    process.join()
    return process.exitcode


def by_pool(server):
    pool = fork.Pool(2)
    results = pool.map(nothing, range(4))
    pool.close()
    pool.join()
    return len(results) - 4


def by_executor(server):
    with ProcessPoolExecutor(2, mp_context=fork) as executor:
        return sum(executor.map(nothing, range(4)))


def nothing(_):
    return 0


def by_fork(server):
    child = os.fork()
    if child == 0:
        use(server)
        sys.exit(0)
    return os.waitpid(child, 0)[1]


ways = {"process": by_process, "pool": by_pool, "executor": by_executor, "fork": by_fork}
if __name__ == "__main__":
    server = LocalServiceX(*sys.argv[2:]).start()
    print(server.url, server.directory, flush=True)
    for line in sys.stdin:
        print(ways[sys.argv[1]](server), flush=True)
"""
WAYS = ("process", "pool", "executor", "fork")


class Script:
    """A script with a server, which forks on command."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        path = folder / "script.py"
        path.write_text(FORKING)
        self.errors = folder / "stderr"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore::DeprecationWarning", path, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        self.url, directory = self.read().split()
        self.directory = Path(directory)

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        return line

    def fork(self) -> int:
        """Fork a child and wait for its end; return its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.read())

    def submit(self, body: dict[str, Any]) -> str:
        response = httpx.post(f"{self.url}/servicex/transformation", json=body, timeout=30)
        return str(response.json()["request_id"])

    def status(self, request_id: str) -> dict[str, Any]:
        status: dict[str, Any] = httpx.get(
            f"{self.url}/servicex/transformation/{request_id}"
        ).json()
        return status


@pytest.fixture
def script(tmp_path: Path, environment: dict[str, str]) -> Any:
    started: list[Script] = []

    def start(*arguments: str) -> Script:
        started.append(Script(tmp_path, environment, *arguments))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.communicate()


@pytest.fixture
def body(query: str, inputs: list[Path]) -> dict[str, Any]:
    return {
        "codegen": "uproot",
        "selection": query,
        "result-destination": "object-store",
        "result-format": "parquet",
        "file-list": [str(path) for path in inputs],
    }


@pytest.mark.sampled(4)
@pytest.mark.parametrize("way", WAYS)
def test_a_server_survives_the_end_of_a_child(way, script, body):
    parent = script(way)
    assert parent.directory.is_dir()
    request_id = parent.submit(body)
    assert parent.fork() == 0
    assert parent.directory.is_dir()
    while (status := parent.status(request_id))["status"] == "Running":
        pass
    assert (status["status"], status["files-completed"]) == ("Complete", 4)
    parent.process.communicate("", timeout=30)
    assert parent.process.returncode == 0
    assert not parent.directory.exists()  # removed at the end of its own process
    assert parent.errors.read_text() == ""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("way", WAYS)
def test_a_database_survives_the_end_of_a_child(way, script, body, tmp_path, serve):
    parent = script(way, str(tmp_path / "given"))
    request_id = parent.submit(body)
    while parent.status(request_id)["status"] == "Running":
        pass
    before = sorted(path.name for path in parent.directory.iterdir())
    assert "servicex.sqlite-wal" in before
    assert parent.fork() == 0
    assert sorted(path.name for path in parent.directory.iterdir()) == before
    parent.process.send_signal(signal.SIGKILL)
    parent.process.wait()
    after = serve(tmp_path / "given")
    status = after.status(request_id)
    assert (status["status"], status["files-completed"]) == ("Complete", 4)
    assert len(after.objects(request_id)) == 4


CHILD_OUTLIVES = """
import os, sys, time
from coffea_sx.local import LocalServiceX

server = LocalServiceX(sys.argv[1], port=int(sys.argv[2])).start()
child = os.fork()
if child == 0:
    print(repr(server), flush=True)
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""


def test_a_child_that_outlives_its_parent_frees_the_port(tmp_path, closed_port, serve, environment):
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD_OUTLIVES, tmp_path / "d", str(closed_port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        lines = {parent.stdout.readline().strip() for _ in range(2)}
        (child,) = [int(line) for line in lines if line.isdigit()]
        try:
            assert "<LocalServiceX stopped, 2 workers>" in lines
            parent.kill()
            parent.wait()
            successor = serve(tmp_path / "d", port=closed_port)
            assert successor.http.get("/servicex").status_code == 200
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_can_have_a_server_of_its_own(environment):
    code = (
        "import os, sys, httpx\n"
        "from coffea_sx.local import default\n"
        "first = default().url\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    own = default()\n"
        "    assert own.url != first and httpx.get(own.url + '/servicex').status_code == 200\n"
        "    own.stop()\n"
        "    sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "print(httpx.get(first + '/servicex').status_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert (done.stdout, done.stderr) == ("200\n", "")
