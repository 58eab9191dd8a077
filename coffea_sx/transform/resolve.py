"""What a task of the graph does: find out what became of input file ``i``, wherever it runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import OwnerLost, ReadError, ServiceXError, TransformFailed
from . import source
from .client import ServiceXClient
from .course import Pace
from .endpoint import find_endpoint
from .lookup import files_of
from .outcomes import Outcome, Read
from .source import ResultSource, TransformAddress
from .tolerance import Tolerance
from .watch import Watch


class TransformHandle:
    """A transform in a graph: holds the watch where it was made, travels as an address.

    Parameters
    ----------
    address : TransformAddress
    tolerance : Tolerance
    watch : Watch, optional
        Of this process, to be held as long as the graph is.
    """

    def __init__(
        self, address: TransformAddress, tolerance: Tolerance, watch: Watch | None = None
    ) -> None:
        self.address = address
        self.tolerance = tolerance
        self._watch = watch

    @property
    def watch(self) -> Watch | None:
        """The watch, in the process that owns the transform."""
        return self._watch if self._watch is not None else source.owned(self.address)

    def __repr__(self) -> str:
        return f"<transform {self.address.request_id}>"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        said = self.tolerance
        counted = (said.on_failure, said.max_failed, sorted(said.elsewhere))
        # The same request may be known by lists of another order, or by parts of its list.
        return ("coffea_sx", self.address.key, *counted)

    def without(self, indices: Iterable[int]) -> TransformHandle:
        """Return a handle for the other files: another transform delivers these."""
        return TransformHandle(self.address, self.tolerance.without(indices), self._watch)

    def __reduce__(self) -> tuple[Any, ...]:
        # A graph that leaves this process is on its way to workers, who will ask for outcomes.
        if self.watch is not None and "distributed" in sys.modules:
            from .herald import announce

            announce(self.watch)
        return TransformHandle, (self.address, self.tolerance)


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Which transform delivers each input file.

    Attributes
    ----------
    handles : tuple of TransformHandle
    routes : tuple of tuple of int, optional
        For each input file, which of the transforms and which file of it; without them the only
        transform delivers all files in their order.
    """

    handles: tuple[TransformHandle, ...]
    routes: tuple[tuple[int, int], ...] | None = None

    def of(self, index: int) -> tuple[TransformHandle, int]:
        """Return the transform of an input file, and the number of the file in it."""
        if self.routes is None:
            return self.handles[0], index
        which, number = self.routes[index]
        return self.handles[which], number

    def rerouted(
        self, n_files: int, numbers: Mapping[int, int], handle: TransformHandle
    ) -> Deliveries:
        """Return deliveries of which another transform does some.

        Parameters
        ----------
        n_files : int
            Of all.
        numbers : mapping of int to int
            Which file of the other transform is which of all.
        handle : TransformHandle
        """
        routes = self.routes or tuple((0, index) for index in range(n_files))
        others = [
            one.without(routes[i][1] for i in numbers if routes[i][0] == which)
            for which, one in enumerate(self.handles)
        ]
        new = len(others)
        return Deliveries(
            (*others, handle),
            tuple((new, numbers[i]) if i in numbers else routes[i] for i in range(n_files)),
        )


@dataclass(frozen=True, slots=True)
class Place:
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


def place(handle: TransformHandle, number: int, partition: int, step: int) -> Place:
    """Find out where a partition is: in the result of a file of a transform."""
    return Place(partition, handle, resolve(handle, number), step)


async def place_on_worker(
    worker: Any, key: Any, handle: TransformHandle, number: int, partition: int, step: int
) -> Place:
    """Find out where a partition is, on the event loop of a dask worker.

    Waiting takes no thread there, of which a thousand partitions would take a thousand.
    """
    results = handle.watch or connect(handle.address)
    if not results.knows(number):
        from .listener import give_up_slot

        give_up_slot(worker, key)
    try:
        outcome = await results.wait_async(number, handle.tolerance)
    except OwnerLost as error:
        if isinstance(results, Watch):
            raise
        source.forget(handle.address, results)
        anew = partial(source.borrowed, handle.address, lambda: watch_anew(handle.address))
        try:
            own = await asyncio.get_running_loop().run_in_executor(None, anew)
            outcome = await own.wait_async(number, handle.tolerance)
        except ServiceXError:
            raise error from None
    return Place(partition, handle, outcome, step)


def resolve(handle: TransformHandle, index: int) -> Outcome:
    """Find out what became of an input file, waiting for it without holding a slot of a worker.

    Raises
    ------
    TransformError, ServerError
        If the transform ended, or the server is not to be reached.
    """
    results = handle.watch or connect(handle.address)
    if not results.knows(index):
        _give_up_slot()
    try:
        return results.wait(index, tolerance=handle.tolerance)
    except OwnerLost as error:
        if isinstance(results, Watch):
            raise  # closed here, as at the end of the program
        source.forget(handle.address, results)
        try:
            own = source.borrowed(handle.address, lambda: watch_anew(handle.address))
            return own.wait(index, tolerance=handle.tolerance)
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
    if handle.tolerance.max_failed is None:
        return
    failures = (handle.watch or connect(handle.address)).failures(lost)
    n_failed = len(failures - handle.tolerance.elsewhere)
    if not handle.tolerance.allows(n_failed):
        raise type(error)(
            f"{error} It is one of {n_failed} input files that failed, which is more than "
            f"max_failed={handle.tolerance.max_failed}.",
            **error.facts,
        )


def connect(address: TransformAddress) -> ResultSource:
    """Return what this process can know of a transform.

    In the owner that is its watch; in a worker of a cluster, the board of the scheduler; elsewhere
    a watch of its own, from the configuration that it finds.
    """
    return source.owned(address) or source.borrowed(address, lambda: _connected(address))


def _connected(address: TransformAddress) -> ResultSource:
    if "distributed" in sys.modules:
        from .listener import Listener, in_worker

        worker = in_worker()
        if worker is not None:
            return Listener(worker, address)
    return watch_anew(address)


def note_read(handle: TransformHandle, read: Read) -> None:
    """Let the owner of a transform know that a partition was read."""
    if handle.watch is not None:
        handle.watch.note_read(read)
    elif "distributed" in sys.modules:
        from .listener import tell_read

        tell_read(handle.address, read)


def watch_anew(address: TransformAddress) -> Watch:
    """Watch a transform that another process submitted. Asks for its status and its files.

    Raises
    ------
    ConfigurationError, ServerError, TransformError
        If the server cannot be found from here, or does not know the transform.
    """
    client = ServiceXClient(find_endpoint(address.endpoint))
    files = files_of(client, address.request_id, Pace())
    if address.order not in ("", files.order):
        client.close()
        raise OwnerLost(
            f"Only the process that defined the events of request {address.request_id} knows the "
            "order of its files. Use the threads of that process, or dask.distributed.",
            request_id=address.request_id,
        )
    return Watch(client, address, files)


def _give_up_slot() -> None:
    if "distributed" in sys.modules:
        from distributed import secede

        from .listener import in_worker

        if in_worker() is not None:
            secede()
