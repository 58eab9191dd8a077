"""Queries of func-adl-servicex, the interface of servicex 2, for ``from_servicex``.

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

A backend with the name of a code generator, for example ``"atlasr22"``, selects that generator;
other backends were names of endpoints, and have no effect. ``codegen=`` overrides both.

- The dataset of a source is not part of its query: give the dataset to `from_servicex`.
- ``AsAwkwardArray``, ``AsPandasDF``, ``AsParquetFiles`` and ``AsROOTTTree`` name the columns of a
  tuple or of a single value, and do nothing else: the format is ``result_format=``, and servers
  name files and trees themselves.
- ``value()`` raises `QueryError`, unless ``return_qastle`` is set on the source.

func-adl-servicex needs two names that servicex 3 does not have. They exist only while a source is
imported from here; servicex is not changed.
"""

from __future__ import annotations

import ast
import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

from func_adl import EventDataset

from ._upstream import func_adl_servicex
from .errors import ConfigurationError, QueryError

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
    """Base of all sources: gives their queries the interface of ``servicex.query``."""

    _codegen: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # func-adl-servicex 2.2 makes nodes that are deprecated in Python 3.12.
            warnings.simplefilter("ignore", DeprecationWarning)
            super().__init__(*args, **kwargs)

    @property
    def default_codegen(self) -> str:
        """Name of the code generator that reads the query."""
        backend = func_adl_servicex.backend_name(self)
        return backend if backend in _CODEGENS else self._codegen

    def generate_selection_string(self) -> str:
        """Return the query as qastle."""
        return self.generate_qastle(self.query_ast)

    async def execute_result_async(self, a: ast.Call, title: str | None = None) -> str:
        """Return the qastle if ``return_qastle`` is set, else raise `QueryError`."""
        if self.return_qastle:
            return self.generate_qastle(a)
        raise QueryError(
            "func-adl-servicex cannot run queries with servicex 3. Leave out .value() and give "
            "the query to NanoEventsFactory.from_servicex."
        )


def _column_names(method: str) -> Callable[..., Any]:
    """Make a method that names the columns, as the method for Parquet does, and returns a query."""

    @functools.wraps(getattr(EventDataset, method))
    def with_names(self: Any, *args: Any, **kwargs: Any) -> Any:
        events, columns = getattr(super(_Source, self), method)(*args, **kwargs).query_ast.args[:2]
        parquet = ast.Call(ast.Name("ResultParquet", ast.Load()), [events, columns], [])
        return self.clone_with_new_ast(parquet, Any)

    return with_names


for _method in (
    *("AsAwkwardArray", "AsPandasDF", "AsParquetFiles", "AsROOTTTree"),
    *("as_awkward", "as_pandas", "as_parquet", "as_ROOT_tree"),
):
    setattr(_Source, _method, _column_names(_method))


@functools.cache
def _source(name: str) -> Any:
    try:
        original = func_adl_servicex.load_source(name)
    except ImportError as error:
        raise ConfigurationError(
            f"{name} is of func-adl-servicex, which cannot be imported: {error}. To install it: "
            'pip install "func-adl-servicex>=2.2".'
        ) from error
    members = {"__doc__": f"{name}, for `from_servicex`.", "_codegen": _SOURCES[name]}
    return type(name, (_Source, original), {"__module__": __name__, **members})
