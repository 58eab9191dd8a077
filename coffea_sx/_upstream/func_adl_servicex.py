"""Private API of func-adl-servicex. It is imported when a function is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def load_source(name: str) -> Any:
    """Return a class of func-adl-servicex, which cannot be imported beside servicex 3.

    What: while func-adl-servicex is imported, servicex has the two names of servicex 2 that it
    imports: ``servicex.ServiceXDataset`` and ``servicex.utils.DatasetType``.
    Why: servicex 3 removed them, and func-adl-servicex has not been adapted.
    Tested with: func-adl-servicex 2.2, servicex 3.3.
    Public replacement: a func-adl-servicex that does not import servicex.

    Raises
    ------
    ImportError
    """
    import servicex

    utils = ModuleType("servicex.utils")
    vars(utils)["DatasetType"] = Any
    with (
        _replaced(vars(servicex), "ServiceXDataset", _Dataset),
        _replaced(sys.modules, "servicex.utils", utils),
    ):
        return getattr(importlib.import_module("func_adl_servicex"), name)


def backend_name(source: Any) -> str:
    """Return the name of the backend that a source was made with, or an empty text.

    What: the attribute ``_ds`` of a source, its dataset of servicex 2 (here `_Dataset`).
    Why: the source keeps the name of its backend nowhere else.
    Tested with: func-adl-servicex 2.2.
    Public replacement: an attribute ``backend_name`` of the source.
    """
    return getattr(source._ds, "backend_name", "")


class _Dataset:
    """Stands for a dataset of servicex 2, and keeps the name of its backend only."""

    def __init__(self, dataset: Any, backend_name: str) -> None:
        self.backend_name = backend_name


@contextmanager
def _replaced(names: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    before = {name: names[name]} if name in names else {}
    names[name] = value
    try:
        yield
    finally:
        del names[name]
        names.update(before)
