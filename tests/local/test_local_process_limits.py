"""Process limits: a query that exceeds one fails its file, and nothing else."""

from __future__ import annotations

import multiprocessing
import re
import signal
from base64 import b64encode

import pytest

from coffea_sx.local.process_limits import (
    CPU_S,
    FILE_BYTES,
    OPEN_FILES,
    limit_file,
    max_memory,
)

resource = pytest.importorskip("resource")

KINDS = ("CORE", "NOFILE", "FSIZE", "DATA", "CPU")


@pytest.fixture
def reason(pythonic, inputs):
    """Run a function over the first input file; return the reason of its failure."""

    def run(body: str) -> str:
        source = f"import awkward as ak, numpy as np, resource\ndef run_query(path):\n    {body}\n"
        request_id = pythonic.submit(
            inputs[:1], codegen="python", selection=b64encode(source.encode()).decode()
        )
        assert pythonic.wait(request_id)["files-failed"] == 1
        return pythonic.reasons(request_id)[str(inputs[0])]

    yield run
    # The server still works.
    assert pythonic.wait(pythonic.submit(inputs))["files-completed"] == 4


def test_every_process_has_limits(reason):
    names = ", ".join(f"resource.RLIMIT_{kind}" for kind in KINDS)
    failure = reason(f"raise ValueError([resource.getrlimit(kind) for kind in ({names})])")
    pairs = re.findall(r"\((-?\d+), (-?\d+)\)", failure)
    limits = dict(zip(KINDS, [tuple(map(int, pair)) for pair in pairs], strict=True))
    assert limits["CORE"] == (0, 0)
    assert 0 < limits["NOFILE"][0] == limits["NOFILE"][1] <= OPEN_FILES
    assert limits["FSIZE"] == (FILE_BYTES, FILE_BYTES)
    assert max_memory() < limits["DATA"][0] == limits["DATA"][1] < max_memory() + (2 << 30)
    assert 0 < limits["CPU"][0] < CPU_S + 600


def test_memory(reason):
    # Not written to: without a limit the machine allocates it.
    failure = reason(f"return np.empty({max_memory() + (2 << 30)}, np.uint8)")
    assert "MemoryError" in failure


def test_the_size_of_a_file(reason, tmp_path):
    path = str(tmp_path / "large")
    failure = reason(f"open({path!r}, 'wb').truncate({FILE_BYTES + 1})")
    assert "OSError: [Errno 27]" in failure


def _spin() -> None:
    limit_file(cpu_s=0.1)
    while True:
        pass


def test_processor_time():
    process = multiprocessing.get_context("spawn").Process(target=_spin)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGXCPU
