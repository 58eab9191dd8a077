"""Private API of servicex. It is imported when a function is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

# Time for which another process may hold the cache, seconds.
LOCKED_S = 10.0


@contextmanager
def locked_cache(config_path: str | None) -> Iterator[Any]:
    """Open the cache of a ``servicex.yaml``, which no other process changes meanwhile.

    What: ``QueryCache.lock``, a ``filelock.FileLock`` that each of its methods takes; it can be
    taken by one thread several times.
    Why: entries are read and replaced together, and waiting for another process must end.
    Tested with: servicex 3.3.
    Public replacement: a method of ``QueryCache`` that replaces an entry, and its timeout.
    """
    from servicex.configuration import Configuration
    from servicex.query_cache import QueryCache

    with closing(QueryCache(Configuration.read(config_path))) as cache:
        cache.lock.timeout = LOCKED_S
        with cache.lock:
            yield cache
