"""Public names of `coffea_sx`, and imports that they need."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest
from coffea.nanoevents import NanoEventsFactory

import coffea_sx

# Heavy, or of an extra that may not be installed: not even the names of the package import them.
IMPORTED_WHERE_USED = [
    *("dask", "dask_awkward", "distributed", "servicex", "func_adl", "func_adl_uproot"),
    *("minio", "starlette", "uvicorn"),
]
MODULES = "import sys, json\njson.dump(sorted(sys.modules), sys.__stdout__)"


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
    before = NanoEventsFactory.from_servicex
    coffea_sx._install()
    assert NanoEventsFactory.from_servicex == before


def test_names_are_imported_when_they_are_used():
    done = fresh(
        "import coffea_sx\n"
        "assert set(coffea_sx.__all__) <= set(dir(coffea_sx))\n"
        "for name in coffea_sx.__all__:\n"
        "    assert getattr(coffea_sx, name) is getattr(coffea_sx, name), name\n"
        "from coffea.nanoevents import NanoEventsFactory\n"
        "print(NanoEventsFactory.from_servicex.__self__.__name__)"
    )
    assert done.stdout.strip() == "ServiceXEventsFactory"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'coffea_sx' has no attribute 'Paces'"):
        _ = coffea_sx.Paces


def imported_by(code: str) -> set[str]:
    """Return the modules that a new interpreter has imported after code."""
    done = fresh(f"{code}\n{MODULES}")
    assert done.stderr == ""
    return set(json.loads(done.stdout))


def test_importing_adds_nothing_to_coffea_but_itself():
    added = imported_by("import coffea_sx") - imported_by("import coffea.nanoevents")
    of_others = {m for m in added if m.partition(".")[0] not in sys.stdlib_module_names}
    assert of_others == {"coffea_sx", "coffea_sx._version", "coffea_sx.redact"}


@pytest.fixture(scope="module")
def used() -> set[str]:
    """Modules that are imported when all names were used."""
    return imported_by("from coffea_sx import *")


@pytest.mark.parametrize("module", IMPORTED_WHERE_USED)
def test_names_are_light(used, module):
    assert module not in used


def test_the_logger_is_silent():
    done = fresh(
        "import logging, coffea_sx\n"
        "print([type(h).__name__ for h in logging.getLogger('coffea_sx').handlers])"
    )
    assert done.stdout == "['RedactingHandler']\n"
    assert done.stderr == ""


def test_fsspec_finds_the_filesystem_without_importing_coffea_sx():
    done = fresh("import fsspec; print(fsspec.get_filesystem_class('servicex').__name__)")
    assert done.stdout.strip() == "ServiceXFileSystem"
