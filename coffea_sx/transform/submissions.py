"""Which transforms were submitted before: by this process, and with servicex in any.

servicex keeps a cache of its queries, which does not tell servers apart. So it is used only for a
ServiceX that was found in ``servicex.yaml``, and what it says is asked of the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from ..dataset import Dataset
from ..query import Selection
from .endpoint import Endpoint

logger = logging.getLogger(__name__)

# Another process may hold the cache for so long, seconds.
LOCKED_S = 10.0

Result = TypeVar("Result")

_submitted: dict[tuple[str, Selection, Dataset], str] = {}


class Submissions:
    """The transforms of one query on one dataset.

    Parameters
    ----------
    endpoint : Endpoint
    selection : Selection
    dataset : Dataset
    """

    def __init__(self, endpoint: Endpoint, selection: Selection, dataset: Dataset) -> None:
        self._endpoint = endpoint
        self._selection = selection
        self._dataset = dataset
        self._asked = (endpoint.url, selection, dataset)

    def own(self) -> list[str]:
        """Return the id of the request that this process has submitted, if it has."""
        return [_submitted[self._asked]] if self._asked in _submitted else []

    def others(self) -> list[str]:
        """Return the ids of requests that other processes have submitted."""
        none: list[str] = []
        return [one for one in self._with_cache(_find, none) if one not in self.own()]

    def keep(self, request_id: str) -> None:
        """Remember a request."""
        _submitted[self._asked] = request_id

        def enter(cache: Any, request: Any) -> None:
            # What servicex has downloaded stays what it is.
            if not cache.contains_hash(request.compute_hash()):
                cache.cache_submitted_transform(request, request_id)

        self._with_cache(enter, None)

    @property
    def _request(self) -> Any:
        """What servicex would submit, by which it remembers."""
        from servicex.models import ResultDestination, ResultFormat, TransformRequest

        files = self._dataset.files
        return TransformRequest(
            title=self._selection.title,
            did=self._dataset.did,
            file_list=None if files is None else list(files.paths),
            selection=self._selection.text,
            codegen=self._selection.codegen,
            result_destination=ResultDestination.object_store,
            result_format=ResultFormat(self._selection.result_format),
        )

    def _with_cache(self, do: Callable[[Any, Any], Result], otherwise: Result) -> Result:
        """Do something with the cache of servicex; a cache that cannot be used is no reason."""
        if self._endpoint.name.url is not None:
            return otherwise
        from servicex.configuration import Configuration
        from servicex.query_cache import QueryCache

        try:
            with closing(QueryCache(Configuration.read(self._endpoint.name.config_path))) as cache:
                cache.lock.timeout = LOCKED_S
                return do(cache, self._request)
        except Exception as error:
            # Other versions of servicex, other programs and full disks have their part in it.
            logger.warning("The cache of servicex cannot be used: %s", type(error).__name__)
            return otherwise


def _find(cache: Any, request: Any) -> list[str]:
    key = request.compute_hash()
    if cache.contains_hash(key) or cache.is_transform_request_submitted(key):
        return [cache.get_transform_request_id(key)]
    return []
