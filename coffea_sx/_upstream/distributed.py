"""Private API of dask.distributed (tested with distributed 2025.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import time
from typing import Any

from distributed import Client, Worker
from distributed.worker_state_machine import SecedeEvent


def all_clients() -> list[Client]:
    """Return the clients of this process.

    ``Client._instances`` is a weak set of them; the public `distributed.get_client` returns the
    current one only, and a graph may be submitted by any.
    """
    return list(Client._instances)


def worker_of_loop(loop: asyncio.AbstractEventLoop) -> Worker | None:
    """Return the worker that runs on an event loop.

    ``Worker._instances`` is a weak set of the workers of this process; the public
    `distributed.get_worker` finds the worker of a thread, but not that of a coroutine.
    """
    workers = list(Worker._instances)
    return next((worker for worker in workers if worker.loop.asyncio_loop is loop), None)


def secede_coroutine(worker: Any, key: Any) -> None:
    """Let a worker run another task while the coroutine of this one waits.

    The public `distributed.secede` does so for tasks in threads: it sends a ``SecedeEvent``, too.
    """
    event = SecedeEvent(key=key, compute_duration=0.0, stimulus_id=f"secede-{time()}")
    worker.loop.add_callback(worker.handle_stimulus, event)


def add_handler(scheduler: Any, name: str, function: Callable[..., Any]) -> None:
    """Let clients and workers call a function as ``scheduler.<name>(...)``.

    Extensions of the scheduler enter their functions in ``scheduler.handlers``, which is not
    documented for plugins. There is no public equivalent.
    """
    scheduler.handlers[name] = function


def has_task_group(scheduler: Any, names: Iterable[str]) -> bool:
    """Return True if the scheduler has tasks of one of these layers of graphs.

    ``scheduler.task_groups`` has the tasks by the name in their keys. There is no public
    equivalent.
    """
    groups = getattr(scheduler, "task_groups", ())
    return any(name in groups for name in names)


def heartbeats(worker: Any) -> Any:
    """Return the periodic callback that sends the heartbeats of a worker.

    Its attribute ``callback`` is what it calls, and ``stop()`` ends it.
    ``Worker.periodic_callbacks`` and ``Worker.heartbeat`` are not documented. A public replacement
    would be a worker that awaits its last heartbeat before it closes its connections.
    """
    return worker.periodic_callbacks["heartbeat"]
