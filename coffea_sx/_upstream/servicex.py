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
    from servicex.query_cache import QueryCache

    with closing(QueryCache(read_configuration(config_path))) as cache:
        cache.lock.timeout = LOCKED_S
        with cache.lock:
            yield cache


def transform_request(result_format: str, **fields: Any) -> Any:
    """Return what servicex would submit: ``compute_hash`` of it is a key of the cache.

    What: ``servicex.models.TransformRequest``, which `locked_cache` takes too.
    Why: the cache is shared with ``servicex.deliver``, so keys must be the same.
    Tested with: servicex 3.3.
    Public replacement: a method of ``QueryCache`` that returns the key of a query and a dataset.
    """
    from servicex.models import ResultDestination, ResultFormat, TransformRequest

    fields["result_destination"] = ResultDestination.object_store
    return TransformRequest(result_format=ResultFormat(result_format), **fields)


def read_configuration(path: str | None) -> Any:
    """Return the configuration in a ``servicex.yaml``; None for the one that servicex would find.

    What: ``servicex.configuration.Configuration.read``, with ``endpoint_dict``,
    ``default_endpoint`` and ``config_file`` of what it returns.
    Why: the file is looked for in the same places, and read in the same way.
    Tested with: servicex 3.3.
    Public replacement: the configuration of a ``ServiceXClient``, without making one.

    Raises
    ------
    NameError
        If there is no file.
    OSError, ValueError, yaml.YAMLError
        If it cannot be read, or is not valid.
    """
    from servicex.configuration import Configuration

    return Configuration.read(path)


def load_specification(specification: Any) -> Any:
    """Return a specification as a ``servicex.ServiceXSpec``.

    What: ``servicex.servicex_client._load_ServiceXSpec``, which ``servicex.deliver`` calls. It
    takes a ``ServiceXSpec``, a mapping, or the path of a YAML file.
    Why: only this function reads the YAML tags of queries and datasets, such as
    ``!FuncADL_Uproot`` and those of installed plugins.
    Tested with: servicex 3.3.
    Public replacement: a class method ``ServiceXSpec.load``.
    """
    from servicex.servicex_client import _load_ServiceXSpec

    return _load_ServiceXSpec(specification)
