"""What `import coffea_sx` gives, and what it does not do."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest
from coffea.nanoevents import NanoEventsFactory

import coffea_sx
from coffea_sx import factory

# Heavy, or of an extra that may not be installed.
IMPORTED_WHERE_USED = ["distributed", "starlette", "uvicorn", "func_adl_uproot", "minio"]


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )


def test_all_is_sorted_and_importable():
    names = coffea_sx.__all__
    assert names == sorted(set(names))
    for name in names:
        assert getattr(coffea_sx, name) is not None
    assert {n for n in names if not n.startswith("__")} == {
        n for n in vars(coffea_sx) if not n.startswith("_") and _is_ours(n)
    }


def _is_ours(name: str) -> bool:
    value = getattr(coffea_sx, name)
    is_room = f"coffea_sx.{name}" in sys.modules
    return name == "errors" or (
        not is_room and getattr(value, "__module__", "").startswith("coffea_sx")
    )


def test_every_public_class_has_a_docstring():
    assert all(getattr(coffea_sx, name).__doc__ for name in coffea_sx.__all__ if name[0] != "_")


def test_version_is_that_of_the_installed_package():
    assert coffea_sx.__version__ == importlib.metadata.version("coffea_sx")


def test_importing_adds_from_servicex():
    assert NanoEventsFactory.from_servicex == coffea_sx.ServiceXEventsFactory.from_servicex
    assert issubclass(coffea_sx.ServiceXEventsFactory, NanoEventsFactory)


def test_installing_twice_changes_nothing():
    before = dict(vars(NanoEventsFactory))
    factory.install()
    after = dict(vars(NanoEventsFactory))
    assert before.keys() == after.keys()
    assert before["from_servicex"] == after["from_servicex"]


@pytest.fixture(scope="module")
def imported() -> subprocess.CompletedProcess[str]:
    return fresh(
        "import sys, logging, coffea_sx\n"
        "handlers = [type(h).__name__ for h in logging.getLogger('coffea_sx').handlers]\n"
        "import json\n"
        "json.dump([sorted(sys.modules), handlers], sys.__stdout__)"
    )


def test_importing_prints_nothing(imported):
    assert imported.stdout.startswith('[["')
    assert imported.stderr == ""


@pytest.mark.parametrize("module", IMPORTED_WHERE_USED)
def test_importing_is_light(imported, module):
    assert module not in json.loads(imported.stdout)[0]


def test_the_logger_is_silent(imported):
    assert json.loads(imported.stdout)[1] == ["RedactingHandler"]  # a NullHandler


def test_the_address_is_known_to_fsspec_without_importing_coffea_sx():
    done = fresh("import fsspec; print(fsspec.get_filesystem_class('servicex').__name__)")
    assert done.stdout.strip() == "ServiceXFileSystem"
