"""What a task of the graph does: find out what became of input file ``i``, wherever it runs."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import OwnerLost, ServiceXError
from . import source
from .client import ServiceXClient
from .endpoint import find_endpoint
from .outcomes import Outcome, Read
from .source import ResultSource, TransformAddress
from .submit import files_of
from .watch import Watch


class TransformHandle:
    """A transform in a graph: holds the watch where it lives, travels as an address.

    Parameters
    ----------
    address : TransformAddress
    watch : Watch, optional
        In the process that owns the transform.
    """

    def __init__(self, address: TransformAddress, watch: Watch | None = None) -> None:
        self.address = address
        self.watch = watch if watch is not None else source.owned(address)

    def __repr__(self) -> str:
        return f"<transform {self.address.request_id}>"

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        return ("coffea_sx", self.address.request_id, self.address.on_failure)

    def __reduce__(self) -> tuple[Any, ...]:
        # A graph that leaves this process is on its way to workers, who will ask for outcomes.
        if self.watch is not None and "distributed" in sys.modules:
            from .herald import announce

            announce(self.watch)
        return TransformHandle, (self.address,)


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
        return results.wait(index)
    except OwnerLost as error:
        source.forget(handle.address, results)
        try:
            return source.borrowed(handle.address, lambda: watch_anew(handle.address)).wait(index)
        except ServiceXError:
            raise error from None


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
    return Watch(client, address, files_of(client, address.request_id))


def _give_up_slot() -> None:
    if "distributed" in sys.modules:
        from distributed import secede

        from .listener import in_worker

        if in_worker() is not None:
            secede()
