"""Private API of dask.distributed (tested with distributed 2025.3)."""

from __future__ import annotations

from typing import Any


def heartbeats(worker: Any) -> Any:
    """Return the periodic callback that sends the heartbeats of a worker.

    Its attribute ``callback`` is what it calls, and ``stop()`` ends it.
    ``Worker.periodic_callbacks`` and ``Worker.heartbeat`` are not documented. A public replacement
    would be a worker that awaits its last heartbeat before it closes its connections.
    """
    return worker.periodic_callbacks["heartbeat"]
