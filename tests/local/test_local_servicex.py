"""The `servicex` client, as it is, talks to this server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DELIVER = """
import sys
from servicex import deliver, query, dataset

spec = {
    "General": {"Delivery": sys.argv[1], "OutputFormat": sys.argv[2], "Codegen": "uproot"},
    "Sample": [{
        "Name": "sample",
        "Dataset": dataset.FileList(sys.argv[3:]),
        "Query": query.FuncADL_Uproot().FromTree("Events").Select(
            lambda e: {"Muon_pt": e["Muon_pt"], "MET_pt": e["MET_pt"]}
        ),
    }],
}
if __name__ == "__main__":
    found = deliver(spec, config_path="servicex.yaml", progress_bar="none")
    print(*found["sample"], sep="\\n")
"""


@pytest.fixture
def folder(serve, tmp_path, monkeypatch):
    """Make a folder with the configuration of a server that wants tokens."""
    client = serve(tokens=True)
    cache = f"cache_path: {tmp_path / 'cache'}\n"
    (tmp_path / "servicex.yaml").write_text(client.server.servicex_yaml() + cache)
    (tmp_path / "deliver.py").write_text(DELIVER)
    return tmp_path


def run(folder: Path, *arguments: object) -> str:
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "HOME": str(folder), "COLUMNS": "300"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def servicex(folder: Path, *arguments: str) -> str:
    return run(folder, Path(sys.executable).parent / "servicex", *arguments, "-c", "servicex.yaml")


def test_deliver_to_the_local_cache_and_command_line(folder, inputs):
    import uproot

    out = run(folder, sys.executable, "deliver.py", "LocalCache", "root-ttree", *inputs)
    paths = [line for line in out.splitlines() if line.startswith("/")]
    assert len(paths) == 4
    n_events = []
    for path in paths:
        with uproot.open({path: None}) as file:
            n_events.append(file["servicex"].num_entries)
    assert sorted(n_events) == [0, 50, 51, 52]
    assert "uproot" in servicex(folder, "codegen", "list", "-b", "local")
    listed = servicex(folder, "transforms", "list", "-b", "local")
    assert "sample" in listed
    assert "Complete" in listed


def test_deliver_urls(folder, inputs):
    import httpx

    out = run(folder, sys.executable, "deliver.py", "URLs", "parquet", *inputs)
    urls = [line for line in out.splitlines() if line.startswith("http://127.0.0.1:")]
    assert len(urls) == 4
    for url in urls:
        assert httpx.get(url).content.startswith(b"PAR1")
