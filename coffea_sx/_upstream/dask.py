"""Private API of dask (tested with dask 2025.3)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from dask._task_spec import Task, TaskRef
from dask.blockwise import Blockwise, blockwise_token


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
