"""Canaries for the private API of the standard library."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from coffea_sx._upstream import python

EXIT = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from coffea_sx._upstream.python import call_before_executors_end

stopped = threading.Event()
call_before_executors_end(stopped.set)
executor = ThreadPoolExecutor(1)
executor.submit(lambda: print(stopped.wait(30)))
"""

SCRIPT = """
import multiprocessing, sys
from coffea_sx._upstream.python import is_starting_as_child, main_module_not_imported

print("starts as child:", is_starting_as_child(), flush=True)


def start():
    process = multiprocessing.get_context("spawn").Process(target=print, args=("child",))
    process.start()
    process.join()


if not is_starting_as_child():
    start()
    with main_module_not_imported("coffea_sx.local"):
        start()
"""


def run(code: str, folder: Path) -> str:
    path = folder / "script.py"
    path.write_text(code)
    done = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(python.__file__).parents[2])},
    )
    assert done.stderr == ""
    return done.stdout


def test_call_before_executors_end(tmp_path):
    """The job of the executor waits for the function; without it the exit would take 30 s."""
    assert run(EXIT, tmp_path) == "True\n"


def test_scripts_in_processes_that_start(tmp_path):
    first, again, child, last = run(SCRIPT, tmp_path).splitlines()
    assert (first, again) == ("starts as child: False", "starts as child: True")
    # The second process does not run the script.
    assert (child, last) == ("child", "child")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forget_child_processes():
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    try:
        pid = os.fork()
        if pid == 0:
            python.forget_child_processes({process.pid})
            os._exit(len(multiprocessing.active_children()))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert process in multiprocessing.active_children()
    finally:
        process.kill()
        process.join()


def test_number_of_workers() -> None:
    assert python.number_of_workers(ThreadPoolExecutor(3)) == 3
    assert python.number_of_workers(ProcessPoolExecutor(2)) == 2
    assert python.number_of_workers(object()) is None
