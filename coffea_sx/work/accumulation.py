"""Results of a processor that grow while files are delivered."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from coffea.nanoevents import NanoEventsFactory
from coffea.processor import ProcessorABC, accumulate
from coffea.processor.executor import WorkItem

from ..errors import BadInput
from .pool import DeliveryPool

# Threads of an accumulation without an executor.
N_THREADS = 4
# Seconds between two results.
PAUSE_S = 1.0

Counts = TypeVar("Counts")


def process(item: WorkItem, processor: Any, schema: Any) -> Any:
    """Run a processor on a work item, as coffea's ``Runner`` does."""
    metadata = {
        "dataset": item.dataset,
        "filename": item.filename,
        "treename": item.treename,
        "entrystart": item.entrystart,
        "entrystop": item.entrystop,
        "fileuuid": str(UUID(bytes=item.fileuuid)),
        **(item.usermeta or {}),
    }
    options = {
        "schemaclass": schema,
        "metadata": metadata,
        "entry_start": item.entrystart,
        "entry_stop": item.entrystop,
    }
    if item.filename.endswith(".parquet"):
        events = NanoEventsFactory.from_parquet(item.filename, **options).events()
    else:
        events = NanoEventsFactory.from_root({item.filename: item.treename}, **options).events()
    return processor.process(events) if isinstance(processor, ProcessorABC) else processor(events)


def accumulation(
    items: Sequence[WorkItem],
    processor: Any,
    schema: Any,
    make_pool: Callable[[Executor], DeliveryPool],
    executor: Executor | None,
    counts: Callable[[], Counts],
) -> Iterator[tuple[Any, Counts]]:
    """Yield the results of a processor so far, at most once a second, and at the end.

    Parameters
    ----------
    items : sequence of WorkItem
    processor : ProcessorABC or callable
    schema : type
        Schema of the files.
    make_pool : callable
        Makes the pool over an executor.
    executor : concurrent.futures.Executor or None
        None for threads that end with the iteration.
    counts : callable
        Returns the numbers of files that are yielded beside each result.

    Raises
    ------
    BadInput
        If the processor is none.
    Exception
        What the processor or reading a file raises.
    """
    if not isinstance(processor, ProcessorABC) and not callable(processor):
        raise BadInput(f"processor= must be a ProcessorABC or a function, got {processor!r}.")
    own = ThreadPoolExecutor(N_THREADS, thread_name_prefix="coffea_sx-accumulate")
    with own if executor is None else nullcontext(executor) as inner:
        pool = make_pool(inner)
        try:
            yield from _grow(pool, items, processor, schema, counts)
        finally:
            # What was not begun is cancelled; the transform goes on.
            pool.shutdown(cancel_futures=True)


def _grow(
    pool: DeliveryPool,
    items: Sequence[WorkItem],
    processor: Any,
    schema: Any,
    counts: Callable[[], Counts],
) -> Iterator[tuple[Any, Counts]]:
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        pool.submit(process, item, processor, schema).add_done_callback(done.put)
    result: Any = None
    next_at = 0.0
    for n_left in reversed(range(len(items))):
        result = accumulate([done.get().result()], result)
        if n_left and monotonic() >= next_at:
            yield result, counts()
            next_at = monotonic() + PAUSE_S
    if isinstance(processor, ProcessorABC):
        final = processor.postprocess(result)
        result = result if final is None else final
    yield result, counts()
