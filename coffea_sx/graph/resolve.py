"""Resolve tasks of the graph: the outcome of an input file, in any process."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from time import time
from typing import Any

from ..errors import OwnerLost, ReadError, ServiceXError, TransformFailed
from ..polling.outcomes import Outcome, Read
from ..polling.poller import Poller
from .routing import TransformHandle
from .sources import reconnect


@dataclass(frozen=True, slots=True)
class ResolvedPartition:
    """A partition and the outcome of its input file.

    Attributes
    ----------
    partition : int
    handle : TransformHandle
        Of the transform that delivers its file.
    outcome : Delivered or Failed
    step : int
        Position among the partitions of the file.
    """

    partition: int
    handle: TransformHandle
    outcome: Outcome
    step: int


def resolve_partition(
    handle: TransformHandle, index: int, partition: int, step: int
) -> ResolvedPartition:
    """Wait for the outcome of the input file of a partition, without a slot of a worker.

    Raises
    ------
    TransformError, ServerError
        If the transform ended, or the server cannot be reached.
    """
    results = handle.results
    if not results.is_ready(index):
        _secede()
    try:
        outcome = results.wait(index, failure_policy=handle.failure_policy)
    except OwnerLost as error:
        if isinstance(results, Poller):
            raise  # closed here, as at the end of the program
        try:
            own = reconnect(handle.address, results)
            outcome = own.wait(index, failure_policy=handle.failure_policy)
        except ServiceXError:
            raise error from None
    return ResolvedPartition(partition, handle, outcome, step)


async def resolve_on_worker(
    worker: Any, key: Any, handle: TransformHandle, index: int, partition: int, step: int
) -> ResolvedPartition:
    """Wait as `resolve_partition` does, on the event loop of a dask worker.

    Waiting takes no thread there, of which a thousand partitions would take a thousand.
    """
    results = handle.results
    if not results.is_ready(index):
        from .._upstream.distributed import secede_coroutine

        secede_coroutine(worker, key)
    try:
        outcome = await results.wait_async(index, handle.failure_policy)
    except OwnerLost as error:
        if isinstance(results, Poller):
            raise
        loop, address = asyncio.get_running_loop(), handle.address
        try:
            own = await loop.run_in_executor(None, reconnect, address, results)
            outcome = await own.wait_async(index, handle.failure_policy)
        except ServiceXError:
            raise error from None
    return ResolvedPartition(partition, handle, outcome, step)


def allow_failure(
    handle: TransformHandle, error: ReadError | TransformFailed, read: Read | None = None
) -> None:
    """Let an input file be left out, unless none may be, or too many are.

    Parameters
    ----------
    handle : TransformHandle
    error : ReadError or TransformFailed
        Of this file.
    read : Read, optional
        The partition that could not be read.

    Raises
    ------
    ReadError, TransformFailed
        The same error, if no file may fail, or too many have.
    OwnerLost
        If the process that counts them does not respond.
    """
    policy = handle.failure_policy
    if not policy.skips:
        raise error
    if policy.max_failed is None:
        return
    n_failed = len(handle.results.unusable(read) - policy.elsewhere)
    if not policy.allows(n_failed):
        raise type(error)(
            f"{error} It is one of {n_failed} input files that failed, which is more than "
            f"max_failed={policy.max_failed}.",
            **error.facts,
        )


def note_read(
    handle: TransformHandle,
    partition: int,
    npartitions: int,
    index: int,
    n_events: int,
    error: ReadError | None = None,
) -> Read:
    """Report to the owner of a transform that a partition was read, or could not be."""
    name = None if error is None else type(error).__name__
    read = Read(partition, npartitions, index, n_events, time(), name)
    if handle.poller is not None:
        handle.poller.note_read(read)
    elif "distributed" in sys.modules:
        from ..cluster.subscriber import report_read

        report_read(handle.address, read)
    return read


def _secede() -> None:
    if "distributed" in sys.modules:
        from distributed import secede

        from ..cluster.subscriber import worker_of_thread

        if worker_of_thread() is not None:
            secede()
