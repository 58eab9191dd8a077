"""What a task of the graph does: find out what became of input file ``i``, wherever it runs."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

from ..errors import OwnerLost, ReadError, ServiceXError, TransformFailed
from ..polling.outcomes import Outcome, Read
from ..polling.poller import Poller
from .routing import TransformHandle
from .sources import connect_anew


@dataclass(frozen=True, slots=True)
class ResolvedPartition:
    """Where a partition is: the result of a resolve task.

    Attributes
    ----------
    partition : int
    handle : TransformHandle
        Of the transform that delivers its file.
    outcome : Delivered or Failed
    step : int
        Which part of the file.
    """

    partition: int
    handle: TransformHandle
    outcome: Outcome
    step: int


def place(handle: TransformHandle, number: int, partition: int, step: int) -> ResolvedPartition:
    """Find out where a partition is: in the result of a file of a transform."""
    return ResolvedPartition(partition, handle, resolve(handle, number), step)


async def place_on_worker(
    worker: Any, key: Any, handle: TransformHandle, number: int, partition: int, step: int
) -> ResolvedPartition:
    """Find out where a partition is, on the event loop of a dask worker.

    Waiting takes no thread there, of which a thousand partitions would take a thousand.
    """
    results = handle.results
    if not results.knows(number):
        from ..cluster.subscriber import give_up_slot

        give_up_slot(worker, key)
    try:
        outcome = await results.wait_async(number, handle.failure_policy)
    except OwnerLost as error:
        if isinstance(results, Poller):
            raise
        loop, address = asyncio.get_running_loop(), handle.address
        try:
            own = await loop.run_in_executor(None, connect_anew, address, results)
            outcome = await own.wait_async(number, handle.failure_policy)
        except ServiceXError:
            raise error from None
    return ResolvedPartition(partition, handle, outcome, step)


def resolve(handle: TransformHandle, index: int) -> Outcome:
    """Find out what became of an input file, waiting for it without holding a slot of a worker.

    Raises
    ------
    TransformError, ServerError
        If the transform ended, or the server is not to be reached.
    """
    results = handle.results
    if not results.knows(index):
        _give_up_slot()
    try:
        return results.wait(index, failure_policy=handle.failure_policy)
    except OwnerLost as error:
        if isinstance(results, Poller):
            raise  # closed here, as at the end of the program
        try:
            own = connect_anew(handle.address, results)
            return own.wait(index, failure_policy=handle.failure_policy)
        except ServiceXError:
            raise error from None


def tolerate(
    handle: TransformHandle, error: ReadError | TransformFailed, lost: Read | None = None
) -> None:
    """Let an input file be left out, if not too many are.

    Parameters
    ----------
    handle : TransformHandle
    error : ReadError or TransformFailed
        What happened to it.
    lost : Read, optional
        The partition that cannot be read.

    Raises
    ------
    ReadError, TransformFailed
        The same error, if too many input files have failed.
    OwnerLost
        If the process that counts them does not answer.
    """
    if handle.failure_policy.max_failed is None:
        return
    n_failed = len(handle.results.failures(lost) - handle.failure_policy.elsewhere)
    if not handle.failure_policy.allows(n_failed):
        raise type(error)(
            f"{error} It is one of {n_failed} input files that failed, which is more than "
            f"max_failed={handle.failure_policy.max_failed}.",
            **error.facts,
        )


def note_read(handle: TransformHandle, read: Read) -> None:
    """Let the owner of a transform know that a partition was read."""
    if handle.poller is not None:
        handle.poller.note_read(read)
    elif "distributed" in sys.modules:
        from ..cluster.subscriber import tell_read

        tell_read(handle.address, read)


def _give_up_slot() -> None:
    if "distributed" in sys.modules:
        from distributed import secede

        from ..cluster.subscriber import in_worker

        if in_worker() is not None:
            secede()
