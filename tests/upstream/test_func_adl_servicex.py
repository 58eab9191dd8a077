"""Canaries: func-adl-servicex is as `coffea_sx._upstream.func_adl_servicex` expects it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import servicex

from coffea_sx._upstream.func_adl_servicex import backend_name, load_source


@pytest.fixture
def source_class() -> Any:
    return load_source("ServiceXSourceXAOD")


def test_load_source_leaves_servicex_unchanged(source_class: Any) -> None:
    assert source_class.__module__.startswith("func_adl_servicex")
    assert not hasattr(servicex, "ServiceXDataset")
    assert "servicex.utils" not in sys.modules


def test_backend_name_is_that_of_the_source(source_class: Any) -> None:
    assert backend_name(source_class("any", backend="atlasr22")) == "atlasr22"
