"""One client of each server in a process: it asks once what the server can do."""

from __future__ import annotations

import threading
import weakref

from .client import ServiceXClient
from .config import Endpoint

_clients: weakref.WeakValueDictionary[Endpoint, ServiceXClient] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def client_of(endpoint: Endpoint) -> ServiceXClient:
    """Return the client that this process has of an endpoint, or make it.

    Its connections are closed when nobody holds it any more: do not close it.
    """
    with _lock:
        client = _clients.get(endpoint)
        if client is None:
            client = _clients[endpoint] = ServiceXClient(endpoint)
    return client
