"""A scheduler of dask for threads of one process, in which waiting for a file takes no thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def threaded_get(
    graph: Mapping[Any, Any], keys: Any, *, num_workers: int | None = None, **options: Any
) -> Any:
    """Compute a graph with threads, and analyse delivered files while others are awaited.

    Use it as ``dask.compute(todo, scheduler=coffea_sx.threaded_get)``. With dask's own threads a
    file that is late keeps a thread until it is delivered; with these it keeps none. Graphs without
    events of ServiceX are computed as by dask's own.

    Parameters
    ----------
    graph : mapping
        Graph of dask.
    keys : object
        Keys to compute, in nested lists.
    num_workers : int, optional
        Number of threads; by default that of dask's configuration, or of the processors.
    **options
        As for ``dask.local.get_async``: ``cache``, ``callbacks``, ``rerun_exceptions_locally``.
        ``chunksize`` has no effect.

    Returns
    -------
    object
        The results, in tuples nested as the keys.

    Raises
    ------
    TransformError, ServerError
        If a transform ended, or its server cannot be reached.
    ReadError
        If a delivered file cannot be read.
    Exception
        What a task raises.

    Notes
    -----
    Requests to ServiceX are those of the events, as with any scheduler. After an error or Ctrl-C
    nothing more is begun, and each thread ends with the task that it runs.
    """
    from .parking import get  # with dask, which a name of the package must not import

    return get(graph, keys, num_workers, options)
