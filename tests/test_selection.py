"""Tests that are run by default: every n-th case of a test that is marked ``sampled(n)``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SAMPLED = Path(__file__).parent / "wire" / "test_exchanges.py"


def listed(*options: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(SAMPLED), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return [line for line in done.stdout.splitlines() if "::test_connections_of_malf" in line]


@pytest.mark.slow
def test_every_fourth_case_is_run_by_default() -> None:
    cases = listed("-m", "slow or not slow")
    assert len(cases) > 8
    assert listed() == cases[::4]
