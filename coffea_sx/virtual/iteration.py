"""Iteration over events as they arrive, for ``for`` and ``async for``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

_END = object()


class Completed(Iterator[Any]):
    """Events of partitions in the order in which their files arrive.

    Parameters
    ----------
    events : iterator
        It waits for the next file.
    """

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events

    def __next__(self) -> Any:
        return next(self._events)

    async def __aiter__(self) -> AsyncIterator[Any]:
        # A thread waits, so that the event loop goes on.
        while (events := await asyncio.to_thread(next, self._events, _END)) is not _END:
            yield events
