"""The two layers of the graph.

``resolve`` says where the result of input file *i* is; it has one task a partition, which waits.
``load`` reads it, and is all that a user sees: coffea's events, as from any other input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from time import perf_counter, time
from typing import Any

import dask_awkward as dak
from awkward.forms import Form
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.blockwise import Blockwise, blockwise_token
from dask.highlevelgraph import HighLevelGraph, Layer
from dask_awkward.layers.layers import AwkwardInputLayer

from ..errors import ReadError
from ..forms import OutputForm
from ..forms.schema import collection_columns
from ..polling.failures import not_transformed
from ..polling.outcomes import Delivered, Failed, Read
from ..readers.partition import blockwise_reader, read
from ..storage.stored import stored_object
from . import rows
from .resolve import ResolvedPartition, note_read, place, place_on_worker, tolerate
from .routing import Routing

Key = tuple[str, int]


class PlaceTask(Task):
    """A task that waits: on the event loop of a dask worker, elsewhere in the caller's thread."""

    __slots__ = ()

    @property
    def is_coro(self) -> bool:
        """Whether calling it here gives a coroutine."""
        return _worker_here() is not None

    def __call__(self, values: Any = ()) -> Any:
        """Find out where the partition is."""
        worker = _worker_here()
        if worker is None:
            return place(*self.args)
        return place_on_worker(worker, self.key, *self.args)


def _worker_here() -> Any | None:
    if "distributed" not in sys.modules:
        return None
    from ..cluster.subscriber import on_loop_of_worker

    return on_loop_of_worker()


class ResolveLayer(Layer):
    """A task for each partition, which waits for the outcome of its input file.

    Not a Blockwise, so that no optimisation fuses the waiting into the reading.
    """

    def __init__(self, name: str, routing: Routing, npartitions: int, steps: int) -> None:
        super().__init__()
        self.name = name
        self.routing = routing
        self.npartitions = npartitions
        self.steps = steps

    def __getitem__(self, key: Key) -> Task:
        if key not in self:
            raise KeyError(key)
        index, step = divmod(key[1], self.steps)
        return PlaceTask(key, place, *self.routing.of(index), key[1], step)

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
        """Return False: tasks are made when they are looked at."""
        return False

    def get_output_keys(self) -> set[Key]:
        """Return the keys of all tasks."""
        return set(self)

    def get_dependencies(self, key: Key, all_hlg_keys: Any) -> set[Key]:
        """Return the empty set: resolving depends on no task."""
        return set()

    def mock(self) -> MockLayer:
        """Return a layer that resolves nothing, for evaluating the graph without data."""
        return MockLayer(self.name)


class MockLayer(ResolveLayer):
    """Stands for a resolve layer where a graph is evaluated without data."""

    def __init__(self, name: str) -> None:
        super().__init__(name, Routing(()), 1, 1)

    def __getitem__(self, key: Key) -> Any:
        return Task(key, _nowhere)


def _nowhere() -> None:
    return None


class LoadLayer(AwkwardInputLayer):
    """dask-awkward's input layer, except that its inputs are the results of other tasks."""

    def __init__(self, name: str, resolve_name: str, npartitions: int, io_func: Any) -> None:
        self.name = name
        self.resolve_name = resolve_name
        self.npartitions = npartitions
        self.inputs = range(npartitions)
        self.io_func = io_func
        self.label = None
        self.produces_tasks = False
        self.creation_info = None
        self._is_projectable = None
        Blockwise.__init__(
            self,
            output=name,
            output_indices="i",
            task=Task(name, io_func, TaskRef(blockwise_token(0))),
            indices=[(resolve_name, "i")],
            numblocks={resolve_name: (npartitions,)},
        )

    def project(self, report: Any, state: Any) -> LoadLayer:
        """Return the layer that reads only the columns that were touched."""
        return self._with(self.io_func.project(report=report, state=state))

    def project_manually(self, columns: frozenset[str]) -> LoadLayer:
        """Return the layer that reads only the given columns."""
        return self._with(self.io_func.project_manually(columns))

    def _with(self, io_func: Any) -> LoadLayer:
        return LoadLayer(self.name, self.resolve_name, self.npartitions, io_func)


class LoadPartition:
    """Read a partition from the place that its resolve task has found.

    What it knows of columns and projection is uproot's reader's own.

    Parameters
    ----------
    delivered : OutputForm
    reader : object
        From `coffea_sx.readers.partition.blockwise_reader`.
    steps : int
        Into how many partitions each file is divided.
    npartitions : int
        Of all files.
    skips : bool
        Whether files that failed are left out, and told of in a report.
    collections : sequence
        Columns that events take for columns of one collection.
    """

    def __init__(
        self,
        delivered: OutputForm,
        reader: Any,
        steps: int,
        npartitions: int,
        skips: bool,
        collections: Sequence[Sequence[str]],
    ) -> None:
        self.delivered = delivered
        self.reader = reader
        self.steps = steps
        self.npartitions = npartitions
        self.return_report = skips
        self.collections = collections

    @property
    def expected_form(self) -> Form:
        """Form of the events."""
        return self.reader.expected_form

    def __call__(self, place: ResolvedPartition) -> Any:
        """Read one partition."""
        outcome = place.outcome
        if isinstance(outcome, Failed):
            error = not_transformed(place.handle.address.request_id, [outcome])
            if not self.return_report:
                raise error
            tolerate(place.handle, error)
            return self.reader.mock_empty(backend="cpu"), rows.not_transformed(place, outcome)
        if not self.return_report:
            return self._read(place, outcome)
        start = perf_counter()
        try:
            array = self._read(place, outcome)
        except ReadError as error:
            lost = self._note(place, 0, type(error).__name__)
            tolerate(place.handle, error, lost)
            return self.reader.mock_empty(backend="cpu"), rows.not_read(place, error)
        return array, rows.success(place, len(array), perf_counter() - start)

    def _read(self, place: ResolvedPartition, delivered: Delivered) -> Any:
        stored = stored_object(place.handle.results, delivered.object_name, delivered.nbytes)
        array = read(
            stored,
            delivered,
            self.delivered,
            self.reader,
            place.step,
            self.steps,
            self.collections,
        )
        self._note(place, len(array), None)
        return array

    def _note(self, place: ResolvedPartition, n_events: int, error: str | None) -> Read:
        index = place.outcome.index
        read = Read(place.partition, self.npartitions, index, n_events, time(), error)
        note_read(place.handle, read)
        return read

    def _with(self, reader: Any) -> LoadPartition:
        return LoadPartition(
            self.delivered,
            reader,
            self.steps,
            self.npartitions,
            self.return_report,
            self.collections,
        )

    # dask-awkward's protocols, as uproot's reader implements them

    def mock(self) -> Any:
        """Return events without data."""
        return self.reader.mock()

    def mock_empty(self, backend: str) -> Any:
        """Return no events, of the right form."""
        return self.reader.mock_empty(backend)

    def prepare_for_projection(self) -> Any:
        """Return events without data that note which columns are touched."""
        return self.reader.prepare_for_projection()

    def project(self, *, report: Any, state: Any) -> LoadPartition:
        """Return the function that reads only the columns that were touched."""
        return self._with(self.reader.project(report=report, state=state))

    def project_manually(self, columns: frozenset[str]) -> LoadPartition:
        """Return the function that reads only the given columns."""
        return self._with(self.reader.project_manually(columns))

    def necessary_columns(self, *, report: Any, state: Any) -> frozenset[str]:
        """Return the columns that were touched."""
        return self.reader.necessary_columns(report=report, state=state)


def build(
    routing: Routing,
    delivered: OutputForm,
    form_mapping: Any,
    n_files: int,
    steps: int,
) -> Any:
    """Build the graph of the events of a transform. No request is made.

    Parameters
    ----------
    deliveries : Routing
    delivered : OutputForm
    form_mapping : object
        What makes events of columns: coffea's ``_map_schema_uproot``.
    n_files, steps : int
        Input files, and partitions a file.

    Returns
    -------
    dask_awkward.Array
        With ``on_failure="skip"`` a tuple of it and its report.
    """
    npartitions = n_files * steps
    skips = routing.handles[0].failure_policy.skips
    reader = blockwise_reader(delivered, form_mapping)
    together = collection_columns(reader.expected_form)
    load = LoadPartition(delivered, reader, steps, npartitions, skips, together)
    # dask-awkward's own constructor makes the collections and the report; then its input layer,
    # which takes plain values only, is replaced by ours.
    said = (delivered.tree, delivered.result_format, delivered.base_form, load.expected_form)
    token = tokenize(routing, steps, *map(str, said))
    made = dak.from_map(load, range(npartitions), label="load", token=token)
    resolve = ResolveLayer(f"resolve-{token}", routing, npartitions, steps)
    for handle in routing.handles:
        if handle.poller is not None:
            handle.poller.layers.add(resolve.name)
    if isinstance(made, tuple):
        return tuple(_grafted(array, load, resolve) for array in made)
    return _grafted(made, load, resolve)


def _grafted(array: Any, load: LoadPartition, resolve: ResolveLayer) -> Any:
    graph = array.dask
    (load_name,) = (n for n, layer in graph.layers.items() if isinstance(layer, AwkwardInputLayer))
    layers = {
        **graph.layers,
        load_name: LoadLayer(load_name, resolve.name, resolve.npartitions, load),
        resolve.name: resolve,
    }
    dependencies = {**graph.dependencies, load_name: {resolve.name}, resolve.name: set()}
    return dak.lib.core.new_array_object(
        HighLevelGraph(layers, dependencies),
        array.name,
        meta=array._meta,
        divisions=array.divisions,
    )
