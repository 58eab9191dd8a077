"""Each room imports only the rooms that the table in ARCHITECTURE.md allows."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

import coffea_sx

(PACKAGE,) = map(Path, coffea_sx.__path__)
MODULES = sorted(PACKAGE.rglob("*.py"))
# Not rooms: the public names, and the version, which any room may read.
ROOT = {"__init__", "__main__", "_version"}

NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    tokenize.ENDMARKER,
}


@lru_cache
def rows() -> dict[str, list[str]]:
    """Read ``| room | may import | lines | holds |``."""
    path = PACKAGE.parent / "ARCHITECTURE.md"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} next to the installed package")
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in path.read_text().splitlines()
        if line.lstrip().startswith("|")
    ]
    start = next(i for i, row in enumerate(cells) if row[:2] == ["room", "may import"])
    return {row[0].strip("`"): row[1:] for row in cells[start + 2 :]}


def table() -> dict[str, set[str]]:
    """Return the rooms that each room may import."""
    return {room: set(re.findall(r"`(\w+)`", row[0])) for room, row in rows().items()}


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


def code_lines(path: Path) -> int:
    """Count the lines of a module that are neither blank nor comments nor docstrings."""
    text = path.read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            lines -= set(range(first.lineno, (first.end_lineno or 0) + 1))
    return len(lines)


def test_the_sizes_of_the_rooms_are_those_of_the_table():
    sizes: Counter[str] = Counter()
    for path in MODULES:
        sizes[room_of(path)] += code_lines(path)
    wrong = {
        room: sizes[room]
        for room, row in rows().items()
        if abs(sizes[room] - int(row[1])) > max(10, 0.2 * sizes[room])
    }
    assert not wrong
