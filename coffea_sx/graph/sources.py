"""Sources of results in a process that did not submit the transform."""

from __future__ import annotations

import sys

from ..errors import OwnerLost
from ..policy import PollPolicy
from ..polling.lookup import files_of
from ..polling.poller import Poller
from ..polling.registry import TransformAddress, connections
from ..polling.results import ResultSource
from ..servicex.client import client_of
from ..servicex.config import find_endpoint


def connect(address: TransformAddress) -> ResultSource:
    """Return the source of results of a transform of another process.

    In a worker of a cluster it is a subscriber to the scheduler; elsewhere a poller, for the
    endpoint that this process has configured.
    """
    return connections.get(address, lambda: _connected(address))


def connect_worker(address: TransformAddress) -> ResultSource | None:
    """Return the source of results of a transform of another process in a worker of its cluster.

    It is None elsewhere: a process that nobody prepared would need a token of its own.
    """
    if "distributed" not in sys.modules:
        return None
    from ..cluster.subscriber import worker_of_thread

    return None if worker_of_thread() is None else connect(address)


def reconnect(address: TransformAddress, lost: ResultSource) -> ResultSource:
    """Return a poller of this process, after the owner was lost.

    Raises
    ------
    ConfigurationError, ServerError, TransformError
        If the endpoint is not configured here, or its server does not have the transform.
    """
    connections.remove(address, lost)
    return connections.get(address, lambda: _poll(address))


def _connected(address: TransformAddress) -> ResultSource:
    if "distributed" in sys.modules:
        from ..cluster.subscriber import Subscriber, worker_of_thread

        if (worker := worker_of_thread()) is not None:
            return Subscriber(worker, address)
    return _poll(address)


def _poll(address: TransformAddress) -> Poller:
    """Poll a transform that another process submitted. Requests its status and its files."""
    client = client_of(find_endpoint(address.endpoint))
    files = files_of(client, address.request_id, PollPolicy())
    if address.order not in ("", files.order):
        raise OwnerLost(
            f"Only the process that defined the events of request {address.request_id} has the "
            "order of its files. Use the threads of that process, or dask.distributed.",
            request_id=address.request_id,
        )
    return Poller(client, address, files)
