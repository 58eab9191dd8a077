"""All but dask mode works where dask, dask-awkward and distributed cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import without_dask

SCRIPT = Path(without_dask.__file__)
# Every interpreter that finds this module runs it first: those of workers, too.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
ALL = {"dask", "dask_awkward", "distributed"}


def job(tmp_path: Path, blocked: set[str], *executors: str) -> dict[str, Any]:
    """Run the job in a new interpreter, without some packages."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(names=blocked))
    paths = [str(tmp_path), str(SCRIPT.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "input"), *executors],
        capture_output=True,
        text=True,
        timeout=230,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any]) -> None:
    assert found["columns"] == {
        "func_adl": ["npt", "pt", "met"],
        "raw": ["MET_pt", "nMuon_pt", "Muon_pt"],
    }
    assert [found[way] for way in ("func_adl", "raw", "arriving", "grown")] == [True] * 4
    assert found["spec"] == without_dask.N_FILES * without_dask.N_EVENTS
    for part in ('pip install "coffea_sx[dask-awkward]"', 'mode="virtual"', "work_items()"):
        assert part in found["refusal"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_without_dask_and_distributed(tmp_path: Path) -> None:
    found = job(tmp_path, ALL, "threads", "processes")
    check(found)
    assert [found["threads"], found["processes"]] == [True, True]
    assert found["imported"] == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_without_dask_awkward(tmp_path: Path) -> None:
    """dask and distributed, of any version, may be there."""
    found = job(tmp_path, {"dask_awkward"}, "threads", "distributed")
    check(found)
    assert [found["threads"], found["distributed"]] == [True, True]
    assert "dask_awkward" not in found["imported"]
