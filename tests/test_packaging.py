"""Imports are declared in setup.cfg, and every lower bound has a reason."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import coffea_sx

(PACKAGE,) = map(Path, coffea_sx.__path__)
MODULES = sorted(PACKAGE.rglob("*.py"))
SETUP = PACKAGE.parent / "setup.cfg"
REQUIRED = "install_requires"
# Parts of the package that need an extra.
EXTRAS = {
    "demo": "demo",
    "local": "local",
    "_upstream/uvicorn.py": "local",
    "testing": "test",
    "forms/xaod.py": "xaod",
    "_upstream/func_adl.py": "xaod",
}
# Tools and tests take the newest versions.
FREE = {"benchmark", "dev", "notebook", "test"}


class Declared(NamedTuple):
    """A requirement, and the comment above it."""

    requirement: Requirement
    reason: str

    @property
    def name(self) -> str:
        """The distribution."""
        return canonicalize_name(self.requirement.name)


@lru_cache
def declared() -> dict[str, list[Declared]]:
    """Read the requirements, and those of each extra."""
    if not SETUP.is_file():
        pytest.skip(f"there is no {SETUP.name} next to the installed package")
    options = ConfigParser(comment_prefixes=(), inline_comment_prefixes=())
    options.read_string(re.sub(r"^#.*$", "", SETUP.read_text(), flags=re.MULTILINE))
    lists = {
        REQUIRED: options["options"][REQUIRED],
        **options["options.extras_require"],
    }
    return {name: list(_entries(text)) for name, text in lists.items()}


def _entries(text: str) -> Iterator[Declared]:
    comment: list[str] = []
    for line in text.split("\n"):
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
        elif line:
            yield Declared(Requirement(line), " ".join(comment))
            comment = []


def available(name: str) -> set[str]:
    """Return the distributions that are installed with an extra."""
    found: set[str] = set()
    for entry in declared()[name]:
        if entry.name == "coffea-sx":
            found.update(*map(available, entry.requirement.extras))
        else:
            found.add(entry.name)
    return found | (set() if name == REQUIRED else available(REQUIRED))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Find the packages that a module imports, anywhere in it and however."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            modules = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            modules = [str(ast.literal_eval(a)) for a in node.args if isinstance(a, ast.Constant)]
        else:
            continue
        for module in modules:
            top = module.partition(".")[0]
            if top and top not in sys.stdlib_module_names and top != "coffea_sx":
                yield node.lineno, top


def needs(path: Path) -> str:
    """Return the extra that a module needs."""
    place = path.relative_to(PACKAGE).as_posix()
    return next((extra for part, extra in EXTRAS.items() if place.startswith(part)), REQUIRED)


@lru_cache
def distributions() -> dict[str, set[str]]:
    return {
        top: {canonicalize_name(name) for name in names}
        for top, names in packages_distributions().items()
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_declared(path: Path) -> None:
    extra = needs(path)
    there = available(extra)
    missing = {f"line {n}: {top}" for n, top in imports(path) if not distributions()[top] & there}
    assert not missing, f"of {extra}"


def test_imports_are_found_in_functions_and_by_name() -> None:
    assert {"servicex", "func_adl_servicex"} == {
        top for _, top in imports(PACKAGE / "_upstream" / "func_adl_servicex.py")
    }
    assert "starlette" in {top for _, top in imports(PACKAGE / "local" / "rest.py")}
    assert "starlette" not in {canonicalize_name(name) for name in available(REQUIRED)}


def test_declared_packages_are_imported() -> None:
    imported = {top for path in MODULES for _, top in imports(path)}
    used = {name for top in imported for name in distributions()[top]}
    for extra in set(declared()) - FREE:
        assert {entry.name for entry in declared()[extra]} - {"coffea-sx"} <= used, extra


@pytest.mark.parametrize("extra", [REQUIRED, "dask-awkward", "demo", "local", "xaod"])
def test_every_requirement_has_a_lower_bound_with_a_reason(extra: str) -> None:
    assert set(declared()) == {REQUIRED, "dask-awkward", "demo", "local", "xaod"} | FREE
    for entry in declared()[extra]:
        if entry.name != "coffea-sx":
            assert ">=" in str(entry.requirement.specifier), entry
            assert entry.reason, entry


def test_the_demo_extra_holds_the_local_extra() -> None:
    assert available("local") < available("demo") <= available("test")


def test_the_recipe_without_dask_names_the_declared_bounds() -> None:
    page = SETUP.parent / "docs" / "without_dask.md"
    named = {Requirement(text) for text in re.findall(r'"([\w\[\]-]+>=[^"]+)"', page.read_text())}
    bounds = {
        entry.name: entry.requirement.specifier
        for extra in ("local", REQUIRED)
        for entry in declared()[extra]
    }
    for requirement in named:
        assert requirement.specifier == bounds[canonicalize_name(requirement.name)], requirement
    left_out = {"dask", "dask-awkward", "distributed"}
    # These come with coffea, servicex, minio and uproot, in newer versions.
    brought = {"awkward", "certifi", "fsspec", "numpy", "pyarrow", "pyyaml", "rich", "tenacity"}
    others = left_out | brought | {"urllib3", "vector"}
    assert {canonicalize_name(requirement.name) for requirement in named} == (
        bounds.keys() - others - {"coffea-sx"}
    )
