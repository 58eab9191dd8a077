"""Structure of the package: no import circles, no private API outside `_upstream`, no JSON keys."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import coffea_sx

(PACKAGE,) = map(Path, coffea_sx.__path__)
PATHS = {
    ".".join(("coffea_sx", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Keys and capabilities of the REST interface of ServiceX that mean nothing else.
SERVICEX_KEY = re.compile(
    r"file-path|s3-object-name|transform_status|total-(bytes|events)|files-(completed|failed)"
    r"|minio-[a-z-]+|log-url|submit-time|finish-time|lookup_status|code-gen-image|did_id"
    r"|poll_local_transformation_results|generate_file_urls|long_sample_titles_\w*"
)
# Documented names with a leading underscore: of named tuples, of `ast` and of `os`.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}
# The embedded server and the tools for tests speak the server's side of the interface.
SERVERS = ("coffea_sx.local.", "coffea_sx.testing.")


@lru_cache
def tree(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text())


def imports(module: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name of each import when a module runs, anywhere in it."""
    package = module if PATHS[module].name == "__init__.py" else module.rpartition(".")[0]
    typing_only = {
        child
        for node in ast.walk(tree(module))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree(module)):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            base = above[: len(above) + 1 - node.level] if node.level else []
            target = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, target, alias.name) for alias in node.names)


def dependencies(module: str) -> set[str]:
    """Return the modules of the package that a module imports, lazily or not."""
    targets = (
        f"{target}.{name}" if f"{target}.{name}" in PATHS else target
        for _, target, name in imports(module)
    )
    return {target for target in targets if target in PATHS and target != module}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: dependencies(module) for module in PATHS}
    # The package makes its public names available when they are used.
    graph["coffea_sx"] = set()
    assert "coffea_sx.local" in graph["coffea_sx.options"], "a lazy import was not found"
    assert find_circle(graph) == []


def test_circles_are_found() -> None:
    assert sorted(set(find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}))) == ["b", "c"]


# -- private API of other packages


@lru_cache
def private_names() -> frozenset[str]:
    """Collect the names with a leading underscore that this package defines."""
    names: set[str] = set()
    for module in PATHS:
        for node in ast.walk(tree(module)):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                    names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)  # in __slots__, getattr() or object.__setattr__()
    return frozenset(name for name in names if is_private(name))


def is_private(name: str) -> bool:
    is_special = name.startswith("__") and name.endswith("__")
    return name.startswith("_") and not is_special and name not in DOCUMENTED


def is_own(module: str) -> bool:
    return module.partition(".")[0] == "coffea_sx"


def private_api(module: str) -> Iterator[str]:
    """Yield uses of names with a leading underscore of other packages."""
    foreign = set()
    for line, target, name in imports(module):
        if is_own(target):
            continue
        if is_private(name) or any(map(is_private, target.split("."))):
            yield f"line {line}: {target}.{name}"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            foreign |= {
                (alias.asname or alias.name).partition(".")[0]
                for alias in node.names
                if not is_own(alias.name)
            }
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = ast.unparse(node.value).partition(".")[0]
            if root in ("self", "cls") and isinstance(node.value, ast.Name):
                continue
            if root in foreign or node.attr not in private_names():
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            is_self = ast.unparse(node.args[0]) in ("self", "cls")
            if is_private(str(name)) and not is_self:
                yield f"line {node.lineno}: {ast.unparse(node)}"


ELSEWHERE = [module for module in PATHS if not module.startswith("coffea_sx._upstream")]


@pytest.mark.parametrize("module", ELSEWHERE)
def test_private_api_of_other_packages_is_used_in_upstream_only(module: str) -> None:
    assert list(private_api(module)) == []


def test_private_api_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        "import threading, sys\n"
        "from dask._task_spec import Task\n"
        "from coffea.nanoevents.factory import _map_schema_uproot\n"
        "sys._getframe()\n"
        "getattr(threading, '_register_atexit', None)\n"
        "array._meta_of_upstream\n"
        "self._mine, self.__dict__\n"
    )
    monkeypatch.setitem(PATHS, "coffea_sx.example", path)
    lines = [use.partition(":")[0] for use in private_api("coffea_sx.example")]
    assert sorted(lines) == ["line 2", "line 3", "line 4", "line 5", "line 6"]


# -- keys of the REST interface


def servicex_keys(module: str) -> Iterator[str]:
    for node in ast.walk(tree(module)):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and SERVICEX_KEY.fullmatch(value):
            yield f"line {node.lineno}: {value}"


def test_keys_of_the_rest_interface_are_in_the_models_only() -> None:
    found = {
        module: keys
        for module in PATHS
        if module != "coffea_sx.servicex.models" and not module.startswith(SERVERS)
        if (keys := list(servicex_keys(module)))
    }
    assert found == {}


def test_keys_are_found() -> None:
    of_the_server = [key for module in PATHS if "local" in module for key in servicex_keys(module)]
    assert any("file-path" in key for key in of_the_server)
