"""Life cycle of a server: start, stop, restart and sudden death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import httpx
import psutil
import pytest

from coffea_sx.errors import ConfigurationError
from coffea_sx.local import LocalServiceX, default
from coffea_sx.local.codegen import generate_source
from coffea_sx.local.database import Database
from coffea_sx.local.records import NewRequest, Records

SLOW_SERVER = """
import asyncio, sys
from coffea_sx.local import LocalServiceX

async def slowly(path):
    await asyncio.sleep(0 if path == sys.argv[2] else 3600)

server = LocalServiceX(sys.argv[1], before_report=slowly).start()
print(server.url, flush=True)
sys.stdin.read()
"""

UNGUARDED_SCRIPT = """
import sys, time, httpx
from coffea_sx.local import LocalServiceX

print("started")
server = LocalServiceX().start()
body = {
    "codegen": "uproot", "selection": sys.argv[1], "result-destination": "object-store",
    "result-format": "parquet", "file-list": sys.argv[2:],
}
response = httpx.post(server.url + "/servicex/transformation", json=body).json()
url = f"{server.url}/servicex/transformation/{response['request_id']}"
while (status := httpx.get(url).json())["status"] == "Running":
    time.sleep(0.05)
print(status["files-completed"], server.directory)
"""


def environment() -> dict[str, str]:
    import coffea_sx

    (package,) = coffea_sx.__path__
    return {**os.environ, "PYTHONPATH": str(Path(package).parent)}


def pool_processes() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid}


def test_a_stop_leaves_nothing_behind(inputs, client):
    client.wait(client.submit(inputs))  # starts the fork server, which stays
    threads, processes = threading.active_count(), pool_processes()
    server = LocalServiceX()
    assert repr(server) == "<LocalServiceX stopped, 2 workers>"
    with server:
        directory, url = server.directory, server.url
        body = {
            "codegen": "uproot",
            "selection": "(call EventDataset 'bogus.root' 'Events')",
            "result-destination": "object-store",
            "result-format": "root-file",
            "file-list": [str(path) for path in inputs],
        }
        assert httpx.post(f"{url}/servicex/transformation", json=body).status_code == 200
        deadline = time.monotonic() + 30
        while pool_processes() <= processes and time.monotonic() < deadline:
            time.sleep(0.005)
        assert pool_processes() > processes
        assert server.start() is server
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "servicex.sqlite").stat().st_mode) == 0o600
    server.stop()
    assert not directory.exists()
    assert threading.active_count() == threads
    assert pool_processes() == processes
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0
    with pytest.raises(ConfigurationError, match="not running"):
        _ = server.url


def test_a_server_starts_again_after_a_stop(inputs):
    server = LocalServiceX()
    for _ in range(2):
        with server:
            assert httpx.get(f"{server.url}/servicex").status_code == 200
            assert "secret" not in server._repr_html_()


def test_two_servers_on_one_directory(tmp_path):
    with LocalServiceX(tmp_path) as first:
        with pytest.raises(ConfigurationError, match="one LocalServiceX at a time"):
            LocalServiceX(tmp_path).start()
        assert httpx.get(f"{first.url}/servicex").status_code == 200
    with LocalServiceX(tmp_path):
        pass


def test_port_that_is_taken():
    with LocalServiceX() as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"Port {port}"):
            LocalServiceX(port=port).start()


def test_no_workers():
    with pytest.raises(ConfigurationError, match="workers=0"):
        LocalServiceX(workers=0)


def test_missing_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r'pip install "coffea_sx\[local\]"'):
        LocalServiceX()


def test_import_is_light():
    code = (
        "import sys, coffea_sx; before = set(sys.modules); import coffea_sx.local; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(new & {'starlette', 'uvicorn', 'uproot', 'awkward', 'dask', 'minio'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.strip() == "set()"


def test_requests_of_a_killed_server_continue(tmp_path, serve, inputs):
    arguments = [sys.executable, "-c", SLOW_SERVER, str(tmp_path), str(inputs[0])]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = process.stdout.readline().strip()
        body = {
            "codegen": "uproot",
            "selection": "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) "
            "(dict (list 'MET_pt') (list (subscript e 'MET_pt')))))",
            "result-destination": "object-store",
            "result-format": "root-file",
            "file-list": [str(path) for path in inputs],
        }
        response = httpx.post(f"{url}/servicex/transformation", json=body, timeout=30)
        request_id = response.json()["request_id"]
        rows: list[dict[str, object]] = []
        while not rows:
            response = httpx.get(f"{url}/servicex/transformation/{request_id}/results")
            rows = response.json()["results"]
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []
    client = serve(tmp_path)
    status = client.wait(request_id)
    assert (status["status"], status["files-completed"]) == ("Complete", 4)
    assert client.rows(request_id)[0] == rows[0]
    assert len(client.objects(request_id)) == 4
    assert list((tmp_path / "scratch").iterdir()) == []


def test_unfinished_requests_of_a_crash_continue(tmp_path, inputs, serve, query):
    database = Database(tmp_path)
    records = Records(database)
    source = generate_source(query)

    def add(did_id: int, status: str) -> str:
        request_id = str(uuid.uuid4())
        (tmp_path / "objects" / request_id).mkdir(parents=True)
        records.add_request(
            NewRequest(
                request_id,
                title=None,
                did_id=did_id,
                selection=query,
                source=source,
                codegen="uproot",
                result_format="root-file",
                status=status,
            )
        )
        return request_id

    paths = [str(path) for path in inputs]
    not_started = add(records.dataset_of_list(paths), "Lookup")
    did_id, _ = records.dataset_of_did("rucio://a:b", "rucio")
    looking = [add(did_id, "Lookup"), add(did_id, "Pending Lookup")]
    all_done = add(records.dataset_of_list([]), "Running")
    database.close()
    client = serve(tmp_path, datasets={"rucio://a:b": paths})
    for request_id in [not_started, *looking]:
        status = client.wait(request_id)
        assert (status["status"], status["files"], status["files-completed"]) == ("Complete", 4, 4)
    assert client.wait(all_done)["status"] == "Complete"


def test_keys_and_objects_stay_in_the_directory(tmp_path, serve, inputs):
    first = serve(tmp_path, tokens=False)
    request_id = first.submit(inputs[:1])
    status = first.wait(request_id)
    before = first.objects(request_id)
    first.server.stop()
    second = serve(tmp_path)
    assert second.objects(request_id) == before
    assert second.status(request_id)["minio-secret-key"] == status["minio-secret-key"]


def run_script(
    directory: Path, text: str, *arguments: str | Path, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a script in which warnings are errors."""
    script = directory / "script.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", script, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=timeout_s,
        check=True,
    )


@pytest.mark.slow
def test_directories_of_killed_servers_are_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    base = tmp_path / f"servicex-{os.geteuid()}"
    base.mkdir(mode=0o700)
    killed, kept = base / "killed", tmp_path / "servicex-of-mine"
    for directory in (killed, kept):
        LocalServiceX(directory).start().stop()
    (killed / "temporary").touch()
    with LocalServiceX() as young, LocalServiceX() as alive:
        os.utime(alive.directory / "temporary", (0, 0))
        with LocalServiceX():
            assert killed.exists()  # its server may be starting
            os.utime(killed / "temporary", (0, 0))
        code = "from coffea_sx.local import LocalServiceX\nLocalServiceX().start().stop()\n"
        done = run_script(tmp_path, code)
        assert done.stderr == ""
        left = {path.name for path in (*base.iterdir(), *tmp_path.glob("servicex-of-*"))}
        assert left == {kept.name, young.directory.name, alive.directory.name}


def test_paths_that_are_no_directory(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with pytest.raises(ConfigurationError, match=f"The directory {path} cannot be used"):
            LocalServiceX(path).start()
    with pytest.raises(ConfigurationError, match="datasets="):
        LocalServiceX(datasets=[str(file)])


@pytest.mark.slow
def test_script_without_main_guard(tmp_path, inputs, query):
    done = run_script(tmp_path, UNGUARDED_SCRIPT, query, *inputs)
    assert done.stderr == ""
    started, result = done.stdout.splitlines()
    count, directory = result.split()
    assert (started, count) == ("started", "4")
    assert not Path(directory).exists()  # removed at the end of the process


@pytest.mark.slow
def test_a_process_that_runs_the_script_again_starts_no_server(tmp_path):
    """As those of dask's `scheduler="processes"`."""
    done = run_script(
        tmp_path,
        "import multiprocessing\n"
        "from coffea_sx.local import LocalServiceX\n"
        "server = LocalServiceX().start()\n"
        'process = multiprocessing.get_context("spawn").Process(target=print)\n'
        "process.start()\n"
        "process.join()\n"
        "print(process.exitcode)\n",
    )
    assert done.stdout == "1\n"
    assert "ConfigurationError" in done.stderr
    assert '`if __name__ == "__main__":`' in done.stderr


@pytest.mark.slow
def test_exit_does_not_wait_for_a_file(tmp_path, query):
    fifo = tmp_path / "fifo.root"
    os.mkfifo(fifo)  # blocks when it is opened
    text = UNGUARDED_SCRIPT.partition("url = ")[0] + "time.sleep(2)\nprint(server.directory)\n"
    done = run_script(tmp_path, text, query, fifo, timeout_s=40)
    assert done.stderr == ""
    assert not Path(done.stdout.split()[1]).exists()


def test_default_server():
    server = default()
    assert default() is server
    assert httpx.get(f"{server.url}/servicex").status_code == 200
    assert httpx.get(f"{server.url}/servicex/transformation").status_code == 401
    assert stat.S_IMODE(server.config_path.stat().st_mode) == 0o600
    assert server.refresh_token in server.config_path.read_text()
    server.stop()
    assert default() is server
    server.stop()


@pytest.mark.parametrize("port", [-5, 22, 1023, 65536])
def test_ports_that_are_refused(port):
    with pytest.raises(ConfigurationError, match=f"Port {port} cannot be used"):
        LocalServiceX(port=port)
