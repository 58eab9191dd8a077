"""Each fault of docs/faults.md is shown by tests that exist, and tests number no other faults."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LIST = TESTS.parent / "docs" / "faults.md"
N_FAULTS = 54
# Checks of the versions on workers come with a new channel to them.
NOT_SHOWN = {51}


@lru_cache
def faults() -> dict[int, list[str]]:
    """Read ``| # | fault | behaviour | tests |``."""
    if not LIST.is_file():
        pytest.skip(f"there is no {LIST.name} next to the installed package")
    rows = [line.strip("| ").split(" | ") for line in LIST.read_text().splitlines()]
    return {
        int(row[0]): re.findall(r"`([\w/.:]+)`", row[3])
        for row in rows
        if len(row) == 4 and row[0].isdecimal()
    }


@lru_cache
def functions(path: Path) -> dict[str, list[ast.expr]]:
    """Find the functions of a file, and their decorators."""
    return {
        node.name: node.decorator_list
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def is_run_by_default(file: str, name: str) -> bool:
    return not {"pytest.mark.slow", "pytest.mark.long", "pytest.mark.chaos"} & set(
        map(ast.unparse, functions(TESTS / file)[name])
    )


def test_the_faults_are_numbered() -> None:
    assert list(faults()) == list(range(1, N_FAULTS + 1))


@pytest.mark.parametrize("number", range(1, N_FAULTS + 1))
def test_a_fault_is_shown_by_tests(number: int) -> None:
    tests = faults()[number]
    assert bool(tests) is (number not in NOT_SHOWN)
    for test in tests:
        file, _, name = test.partition("::")
        assert name in functions(TESTS / file), test


@pytest.mark.parametrize("number", sorted(set(range(1, N_FAULTS + 1)) - NOT_SHOWN))
def test_a_fault_is_shown_by_a_test_that_is_run_by_default(number: int) -> None:
    assert any(is_run_by_default(*test.split("::")) for test in faults()[number])


def numbered() -> Iterator[tuple[str, int]]:
    """Find the tests and parameters of test_faults*.py that begin with a number."""
    for path in sorted(TESTS.glob("test_faults*.py")):
        text = path.read_text()
        found = re.findall(r"def test_(\d+)_|id=f?\"(\d+)-|ids=\[\"(\d+)-", text)
        yield from ((path.name, int(first or second or third)) for first, second, third in found)


def test_tests_number_the_faults_of_the_list() -> None:
    assert len(list(numbered())) > 50
    assert {number for _, number in numbered()} <= faults().keys()


def test_tests_refer_to_nothing_outside_of_the_repository() -> None:
    outside = re.compile(r"PROMISES|TRIALS|SERVICEX\.md|\bshared/|\.\./shared")
    own = {Path(__file__), TESTS / "recorded" / "conftest.py"}
    paths = (path for path in TESTS.rglob("*.py") if path not in own)
    assert [path.name for path in paths if outside.search(path.read_text())] == []
