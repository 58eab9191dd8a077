"""Each room imports only the rooms that the table in ARCHITECTURE.md allows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

import coffea_sx

(PACKAGE,) = map(Path, coffea_sx.__path__)
MODULES = sorted(PACKAGE.rglob("*.py"))
# Not rooms: the public names, and the version, which any room may read.
ROOT = {"__init__", "__main__", "_version"}


@lru_cache
def table() -> dict[str, set[str]]:
    """Read ``| room | may import | … |``."""
    path = PACKAGE.parent / "ARCHITECTURE.md"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} next to the installed package")
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in path.read_text().splitlines()
        if line.lstrip().startswith("|")
    ]
    start = next(i for i, row in enumerate(rows) if row[:2] == ["room", "may import"])
    allowed = {}
    for row in rows[start + 2 :]:
        allowed[row[0].strip("`")] = set(re.findall(r"`(\w+)`", row[1]))
    return allowed


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Find the rooms that a module imports, anywhere in it."""
    package = ("coffea_sx", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "coffea_sx":
                yield node.lineno, target[1] if len(target) > 1 else ""


def test_the_table_has_every_room():
    assert set(table()) == {room_of(path) for path in MODULES} - ROOT


def test_the_table_is_a_hierarchy():
    """A room may import only those above it, so that there are no circles."""
    rooms = list(table())
    for i, (room, allowed) in enumerate(table().items()):
        assert allowed <= set(rooms), room
        assert allowed <= set(rooms[:i]), f"{room} imports rooms below it: {allowed}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_allowed(path):
    room = room_of(path)
    if room in ROOT:
        return
    allowed = table()[room] | {room, "_version"}
    wrong = [f"line {n}: {target}" for n, target in imports(path) if target not in allowed]
    assert not wrong, f"{room} may import {sorted(allowed)}"


def test_imports_are_found_in_functions_and_relative():
    found = {target for _, target in imports(PACKAGE / "graph" / "resolve.py")}
    assert {"errors", "polling"} <= found
