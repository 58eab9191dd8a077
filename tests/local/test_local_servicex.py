"""The unchanged `servicex` client works with this server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.deliver import DELIVER, run


@pytest.fixture
def folder(serve, tmp_path):
    """Make a folder with the configuration of a server with tokens."""
    client = serve(tokens=True)
    cache = f"cache_path: {tmp_path / 'cache'}\n"
    (tmp_path / "servicex.yaml").write_text(client.server.servicex_yaml() + cache)
    (tmp_path / "deliver.py").write_text(DELIVER)
    return tmp_path


def servicex(folder: Path, *arguments: str) -> str:
    return run(folder, Path(sys.executable).parent / "servicex", *arguments, "-c", "servicex.yaml")


@pytest.mark.slow
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
