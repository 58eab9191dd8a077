"""Private API of dask-awkward (tested with dask-awkward 2026.2)."""

from __future__ import annotations

from typing import Any

import dask_awkward as dak
from dask.highlevelgraph import HighLevelGraph
from dask_awkward.layers import AwkwardInputLayer
from dask_awkward.lib.core import new_array_object, typetracer_array

from .dask import init_map_over_layer


class DependentInputLayer(AwkwardInputLayer):
    """Input layer of dask-awkward, except that its inputs are the results of other tasks.

    dask-awkward optimises the columns of its ``AwkwardInputLayer`` only, whose constructor takes
    plain values as inputs: here its attributes are set by hand. A public replacement would be
    `dask_awkward.from_map` with delayed inputs that keeps the projection of columns.

    Parameters
    ----------
    name : str
    input_name : str
        Of the layer whose results are the inputs.
    npartitions : int
    io_func : object
        With dask-awkward's protocols for projection.
    """

    def __init__(self, name: str, input_name: str, npartitions: int, io_func: Any) -> None:
        self.name, self.input_name, self.io_func = name, input_name, io_func
        self.npartitions, self.inputs = npartitions, range(npartitions)
        self.label = self.creation_info = self._is_projectable = None
        self.produces_tasks = False
        init_map_over_layer(self, name, input_name, npartitions, io_func)

    def project(self, report: Any, state: Any) -> DependentInputLayer:
        """Return the layer that reads only the columns that were touched."""
        return self._with(self.io_func.project(report=report, state=state))

    def project_manually(self, columns: frozenset[str]) -> DependentInputLayer:
        """Return the layer that reads only the given columns."""
        return self._with(self.io_func.project_manually(columns))

    def _with(self, io_func: Any) -> DependentInputLayer:
        return DependentInputLayer(self.name, self.input_name, self.npartitions, io_func)


def input_layer_name(graph: HighLevelGraph) -> str:
    """Return the name of the only input layer of a graph.

    `dask_awkward.from_map` makes one, of a class that is not documented.
    """
    layers = graph.layers.items()
    (name,) = (name for name, layer in layers if isinstance(layer, AwkwardInputLayer))
    return name


def with_graph(array: dak.Array, graph: HighLevelGraph) -> dak.Array:
    """Return the same collection with another graph.

    The functions for that are in `dask_awkward.lib.core` and not documented. A public replacement
    would be a method that replaces the graph of a collection.
    """
    meta = typetracer_array(array)
    return new_array_object(graph, array.name, meta=meta, divisions=array.divisions)
