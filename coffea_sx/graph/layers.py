"""Layers of the graph of events.

The tasks of ``resolve``, one a partition, wait for the outcomes of input files; those of ``load``
read the results. Users see coffea's events, as from any other input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import dask_awkward as dak
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from .._upstream.dask import CoroutineTask, make_task
from .._upstream.dask_awkward import DependentInputLayer, input_layer_name, with_graph
from ..forms import OutputForm
from ..forms.schema import collection_columns
from ..readers.partition import blockwise_reader
from .load import LoadPartition
from .resolve import resolve_on_worker, resolve_partition
from .routing import Routing

Key = tuple[str, int]


class ResolveTask(CoroutineTask):
    """Task that waits: on the event loop of a dask worker, elsewhere in its own thread."""

    __slots__ = ()

    def is_coroutine_here(self) -> bool:
        """Return True on the event loop of a worker."""
        return _worker_here() is not None

    def run(self) -> Any:
        """Resolve the partition."""
        worker = _worker_here()
        if worker is None:
            return resolve_partition(*self.args)
        return resolve_on_worker(worker, self.key, *self.args)


def _worker_here() -> Any | None:
    if "distributed" not in sys.modules:
        return None
    from ..cluster.subscriber import worker_of_coroutine

    return worker_of_coroutine()


class ResolveLayer(Layer):
    """A task for each partition, which waits for the outcome of its input file.

    Not a Blockwise, so that no optimisation fuses waiting with reading.
    """

    def __init__(self, name: str, routing: Routing, npartitions: int, steps: int) -> None:
        super().__init__()
        self.name = name
        self.routing = routing
        self.npartitions = npartitions
        self.steps = steps

    def __getitem__(self, key: Key) -> Any:
        if key not in self:
            raise KeyError(key)
        index, step = divmod(key[1], self.steps)
        return ResolveTask(key, resolve_partition, *self.routing.of(index), key[1], step)

    def __contains__(self, key: object) -> bool:
        return (
            isinstance(key, tuple)
            and len(key) == 2
            and key[0] == self.name
            and isinstance(key[1], int)
            and 0 <= key[1] < self.npartitions
        )

    def __iter__(self) -> Iterator[Key]:
        return ((self.name, i) for i in range(self.npartitions))

    def __len__(self) -> int:
        return self.npartitions

    def __repr__(self) -> str:
        return f"ResolveLayer<{self.name}, {self.npartitions} partitions>"

    def is_materialized(self) -> bool:
        """Return False: tasks are made when they are needed."""
        return False

    def get_output_keys(self) -> set[Key]:
        """Return the keys of all tasks."""
        return set(self)

    def get_dependencies(self, key: Key, all_hlg_keys: Any) -> set[Key]:
        """Return the empty set: resolving depends on no task."""
        return set()

    def mock(self) -> MaterializedLayer:
        """Return a layer that resolves nothing, for evaluating the graph without data."""
        key = (self.name, 0)
        return MaterializedLayer({key: make_task(key, lambda: None)})


def build(
    routing: Routing,
    delivered: OutputForm,
    form_mapping: Any,
    n_files: int,
    steps: int,
    lengths: Sequence[int] | None = None,
    *,
    is_exact: bool = False,
) -> Any:
    """Build the graph of the events of a transform. No request is made.

    Parameters
    ----------
    routing : Routing
    delivered : OutputForm
    form_mapping : object
        Makes events of columns; coffea's mapping of a schema.
    n_files, steps : int
        Input files, and partitions a file.
    lengths : sequence of int, optional
        Numbers of events of the partitions, if all are known: then the events have divisions.
    is_exact : bool
        Verify the numbers of events that the server has counted on reading, whether the lengths
        are known yet or not: partitions of the same name are the same.

    Returns
    -------
    dask_awkward.Array
        With ``on_failure="skip"`` a tuple of it and its report.
    """
    npartitions = n_files * steps
    skips = routing.handles[0].failure_policy.skips
    reader = blockwise_reader(delivered, form_mapping)
    together = collection_columns(reader.expected_form)
    load = LoadPartition(delivered, reader, steps, npartitions, skips, together, is_exact)
    parts = (delivered.tree, delivered.result_format, delivered.base_form, load.expected_form)
    token = tokenize(routing, steps, *map(str, parts))
    resolve = ResolveLayer(f"resolve-{token}", routing, npartitions, steps)
    for handle in routing.handles:
        if handle.poller is not None:
            handle.poller.layers.add(resolve.name)
    # dask-awkward makes the collections and the report; then its input layer, which takes plain
    # values only, is replaced.
    divisions = None if lengths is None else (0, *accumulate(lengths))
    made = dak.from_map(load, range(npartitions), label="load", token=token, divisions=divisions)
    if isinstance(made, tuple):
        return tuple(_resolved_first(array, load, resolve) for array in made)
    return _resolved_first(made, load, resolve)


def _resolved_first(array: Any, load: LoadPartition, resolve: ResolveLayer) -> Any:
    """Return the collection that reads what the tasks of the resolve layer return."""
    graph = array.dask
    name = input_layer_name(graph)
    load_layer = DependentInputLayer(name, resolve.name, resolve.npartitions, load)
    layers = {**graph.layers, name: load_layer, resolve.name: resolve}
    dependencies = {**graph.dependencies, name: {resolve.name}, resolve.name: set()}
    return with_graph(array, HighLevelGraph(layers, dependencies))
