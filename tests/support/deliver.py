"""The servicex client in a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

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
