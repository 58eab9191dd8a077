"""Queries of func-adl-servicex, the interface before servicex 3, for ``from_servicex``.

>>> from coffea_sx.compat import ServiceXSourceUpROOT
>>> query = ServiceXSourceUpROOT("my_dataset", "Events").Select("lambda e: {'met': e['MET_pt']}")
>>> print(query.generate_selection_string())  # doctest: +ELLIPSIS
(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) ...

========================  ===============  ==================================================
source                    code generator   input
========================  ===============  ==================================================
ServiceXSourceUpROOT      ``uproot``       flat trees, for example NanoAOD; names its tree
ServiceXSourceXAOD        ``atlasr21``     xAOD of ATLAS, release 21
ServiceXSourceCMSRun1AOD  ``cms``          AOD of CMS, Run 1
========================  ===============  ==================================================

A source whose backend is called like a code generator, for example ``"atlasr22"``, means that one;
other backends were names of endpoints, and say nothing. ``codegen=`` overrides both.

- The dataset that a source is given is not in its query, and never was: say it to `from_servicex`.
- ``AsAwkwardArray``, ``AsPandasDF``, ``AsParquetFiles`` and ``AsROOTTTree`` give their names to the
  columns of a tuple or of a single value, and do nothing else: the format is ``result_format=``,
  and servers name files and trees themselves.
- ``value()`` raises `QueryError`, unless ``return_qastle`` is set on the source.

func-adl-servicex cannot be imported beside servicex 3, which lost two names that it asks for. When
a source is taken from here, they are there while it is imported, and then servicex is as it was.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from func_adl import EventDataset

from .errors import ConfigurationError, QueryError

ServiceXSourceUpROOT: Any
ServiceXSourceXAOD: Any
ServiceXSourceCMSRun1AOD: Any
_SOURCES = {
    "ServiceXSourceUpROOT": "uproot",
    "ServiceXSourceXAOD": "atlasr21",
    "ServiceXSourceCMSRun1AOD": "cms",
}
_CODEGENS = {"uproot", "atlasr21", "atlasr22", "atlasxaod", "cms"}
_importing = threading.Lock()


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _importing:
        return _source(name)


class _Source(EventDataset):
    """What is added to a source, so that its queries are like those of ``servicex.query``."""

    _codegen: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # func-adl-servicex 2.2 makes nodes of a kind that is deprecated in Python 3.12.
            warnings.simplefilter("ignore", DeprecationWarning)
            super().__init__(*args, **kwargs)

    @property
    def default_codegen(self) -> str:
        """Name of the code generator that reads the query."""
        backend: str = getattr(self._ds, "backend_name", "")
        return backend if backend in _CODEGENS else self._codegen

    def generate_selection_string(self) -> str:
        """Write the query as qastle."""
        return self.generate_qastle(self.query_ast)

    async def execute_result_async(self, a: ast.Call, title: str | None = None) -> str:
        """Return the qastle if only that is wanted, else raise `QueryError`."""
        if self.return_qastle:
            return self.generate_qastle(a)
        raise QueryError(
            "func-adl-servicex cannot run queries with servicex 3. Leave out .value() and give "
            "the query to NanoEventsFactory.from_servicex."
        )


def _ending(method: str) -> Callable[..., Any]:
    """Make an ending that names columns, which is the one for Parquet, and stays a query."""

    @functools.wraps(getattr(EventDataset, method))
    def ended(self: Any, *args: Any, **kwargs: Any) -> Any:
        events, columns = getattr(super(_Source, self), method)(*args, **kwargs).query_ast.args[:2]
        parquet = ast.Call(ast.Name("ResultParquet", ast.Load()), [events, columns], [])
        return self.clone_with_new_ast(parquet, Any)

    return ended


for _method in (
    *("AsAwkwardArray", "AsPandasDF", "AsParquetFiles", "AsROOTTTree"),
    *("as_awkward", "as_pandas", "as_parquet", "as_ROOT_tree"),
):
    setattr(_Source, _method, _ending(_method))


@functools.cache
def _source(name: str) -> Any:
    import servicex

    vars(utils := ModuleType("servicex.utils"))["DatasetType"] = Any
    try:
        with (
            _supplied(vars(servicex), "ServiceXDataset", _Dataset),
            _supplied(sys.modules, "servicex.utils", utils),
        ):
            theirs = getattr(importlib.import_module("func_adl_servicex"), name)
    except ImportError as error:
        raise ConfigurationError(
            f"{name} is of func-adl-servicex, which cannot be imported: {error}. To install it: "
            'pip install "func-adl-servicex>=2.2".'
        ) from error
    members = {"__doc__": f"{name}, for `from_servicex`.", "_codegen": _SOURCES[name]}
    return type(name, (_Source, theirs), {"__module__": __name__, **members})


class _Dataset:
    """Stands for a dataset of servicex 2, and only remembers where it was to be asked for."""

    def __init__(self, dataset: Any, backend_name: str) -> None:
        self.backend_name = backend_name


@contextmanager
def _supplied(names: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    before = {name: names[name]} if name in names else {}
    names[name] = value
    try:
        yield
    finally:
        del names[name]
        names.update(before)
