"""Canaries for the private API of Python."""

from __future__ import annotations

import subprocess
import sys

# The job ends only when the function has run.
SCRIPT = """
import threading
from concurrent.futures import ThreadPoolExecutor
from coffea_sx._upstream.python import call_before_executors_end

ended = threading.Event()
pool = ThreadPoolExecutor(1)
pool.submit(ended.wait, 60)
call_before_executors_end(ended.set)
"""


def test_call_before_executors_end():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=30)
