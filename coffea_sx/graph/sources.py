"""Whom a process asks what became of a transform that it does not own."""

from __future__ import annotations

import sys

from ..errors import OwnerLost
from ..policy import PollPolicy
from ..polling import registry
from ..polling.lookup import files_of
from ..polling.poller import Poller
from ..polling.registry import ResultSource, TransformAddress
from ..servicex.client import client_of
from ..servicex.config import find_endpoint


def connect(address: TransformAddress) -> ResultSource:
    """Return what this process can know of a transform of another process.

    In a worker of a cluster that is the board of the scheduler; elsewhere a watch of its own, from
    the configuration that it finds.
    """
    return registry.borrowed(address, lambda: _connected(address))


def _connected(address: TransformAddress) -> ResultSource:
    if "distributed" in sys.modules:
        from ..cluster.subscriber import Subscriber, in_worker

        worker = in_worker()
        if worker is not None:
            return Subscriber(worker, address)
    return _poll_anew(address)


def connect_anew(address: TransformAddress, lost: ResultSource) -> ResultSource:
    """Return what this process can find out itself, now that the owner is lost.

    Raises
    ------
    ConfigurationError, ServerError, TransformError
        If the server cannot be found from here, or does not know the transform.
    """
    registry.forget(address, lost)
    return registry.borrowed(address, lambda: _poll_anew(address))


def _poll_anew(address: TransformAddress) -> Poller:
    """Watch a transform that another process submitted. Asks for its status and its files."""
    client = client_of(find_endpoint(address.endpoint))
    files = files_of(client, address.request_id, PollPolicy())
    if address.order not in ("", files.order):
        raise OwnerLost(
            f"Only the process that defined the events of request {address.request_id} knows the "
            "order of its files. Use the threads of that process, or dask.distributed.",
            request_id=address.request_id,
        )
    return Poller(client, address, files)
