"""Private API of dask (tested with dask 2025.3)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from dask._task_spec import Task, TaskRef, convert_legacy_graph
from dask.blockwise import Blockwise, blockwise_token
from dask.utils import ensure_dict


def make_task(key: Any, function: Callable[..., Any], *arguments: Any) -> Task:
    """Return a task that calls a function with arguments.

    Since dask 2024.12 layers make ``dask._task_spec.Task``; tuples are converted to them. The
    module is private, and the only way to them.
    """
    return Task(key, function, *arguments)


class CoroutineTask(Task):
    """Task that decides where it runs whether it is a coroutine.

    Schedulers await what ``Task.__call__`` returns if ``Task.is_coro`` is true, which by itself is
    a property of the function: here it is one of the place. There is no public equivalent.
    """

    __slots__ = ()

    @property
    def is_coro(self) -> bool:
        """True if calling the task here returns a coroutine."""
        return self.is_coroutine_here()

    def __call__(self, values: Any = ()) -> Any:
        """Run the task; it depends on no values of others."""
        return self.run()

    @abstractmethod
    def is_coroutine_here(self) -> bool:
        """Return True if `run` returns a coroutine."""

    @abstractmethod
    def run(self) -> Any:
        """Return the result, or a coroutine that returns it."""


def init_map_over_layer(
    layer: Blockwise, name: str, input_name: str, npartitions: int, function: Callable[[Any], Any]
) -> None:
    """Initialize a blockwise layer that calls a function with each task of another layer.

    `Blockwise` is documented; that its ``task`` is a ``Task`` whose arguments are references to
    ``blockwise_token`` is not, and `dask.blockwise.blockwise` makes the old form.
    """
    Blockwise.__init__(
        layer,
        output=name,
        output_indices="i",
        task=Task(name, function, TaskRef(blockwise_token(0))),
        indices=[(input_name, "i")],
        numblocks={input_name: (npartitions,)},
    )


def tasks_of(graph: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the tasks of a graph of any kind, by key.

    Schedulers get graphs that may hold tuples for tasks, and convert them by this function of a
    private module. A public replacement would be `dask.local.get_async` with an order as argument.
    """
    return dict(convert_legacy_graph(ensure_dict(graph)))


def task_of_batch(batch: list[tuple[Any, ...]]) -> tuple[Any, Any]:
    """Return the key and the task of a batch of one task.

    `dask.local.get_async` is public and submits a function with such batches to any executor, but
    what is in a batch is not documented. A public replacement would be an executor that is given
    the key and the task.
    """
    ((key, (task, _), *_),) = batch
    return key, task


def with_task(batch: list[tuple[Any, ...]], task: Task) -> list[tuple[Any, ...]]:
    """Return a batch with another task in place of its one; see `task_of_batch`."""
    ((key, (_, data), *rest),) = batch
    return [(key, (task, data), *rest)]
