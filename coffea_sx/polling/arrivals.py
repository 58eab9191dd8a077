"""Outcomes of input files, in the order in which they arrive."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from ..policy import FailurePolicy
from .outcomes import Outcome
from .results import SLICE_S, ResultSource

Label = TypeVar("Label")


@dataclass(frozen=True, slots=True, eq=False)
class Awaited(Generic[Label]):
    """An input file that is waited for.

    Attributes
    ----------
    label : object
        Anything, returned with the outcome.
    source : ResultSource
    index : int
    failure_policy : FailurePolicy
    """

    label: Label
    source: ResultSource
    index: int
    failure_policy: FailurePolicy


def arrivals(files: Sequence[Awaited[Label]]) -> Iterator[tuple[Label, Outcome]]:
    """Yield the label and the outcome of each input file, as they arrive.

    Raises
    ------
    TransformError
        If a transform ended without an outcome of a file, or if more files have failed than
        allowed.
    ServerError, OwnerLost
        If a server did not respond for too long.
    """
    ready: queue.SimpleQueue[Awaited[Label]] = queue.SimpleQueue()
    wakers = {file: partial(ready.put, file) for file in files}
    for file, wake in wakers.items():
        file.source.when_ready(file.index, wake)
    try:
        while wakers:
            try:
                file = ready.get(timeout=SLICE_S)
            except queue.Empty:
                for source in {file.source for file in wakers}:
                    source.keep_polling()
                continue
            if file.source.results.outcome(file.index, file.failure_policy) is None:
                # Its poller was closed, or has begun anew.
                file.source.when_ready(file.index, wakers[file])
                continue
            del wakers[file]
            outcome = file.source.wait(file.index, failure_policy=file.failure_policy)
            yield file.label, outcome
    finally:
        for file, wake in wakers.items():
            file.source.results.remove_waker(file.index, wake)
