"""Which transforms were submitted before: by this process, and with servicex in any.

servicex keeps a cache of its queries, which does not tell servers apart. So it is used only for a
ServiceX that was found in ``servicex.yaml``, and what it says is asked of the server.

What is found there and cannot be used (because the server has deleted it, say) is replaced for all
processes. Only where servicex has downloaded files that are still there its entry stays, so that
``deliver`` goes on to return them. The new request then has an entry of its own, for one server,
which servicex never looks for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from ..dataset import Dataset
from ..query import Selection
from .config import Endpoint

logger = logging.getLogger(__name__)

# Another process may hold the cache for so long, seconds.
LOCKED_S = 10.0
# What servicex calls a request whose results it does not have.
SUBMITTED = "SUBMITTED"

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

    def known(self) -> Iterator[str]:
        """Yield the ids of earlier requests: of this process, then of others."""
        own = _submitted.get(self._asked)
        if own is not None:
            yield own
        none: list[str] = []
        for request_id in self._with_cache(self._find, none):
            if request_id != own:
                yield request_id

    def before(self) -> set[str]:
        """Return the ids of requests that cannot be new: those of other queries here, too."""
        return {*_submitted.values(), *self.known()}

    def keep(self, request_id: str, unusable: Collection[str] = ()) -> None:
        """Remember a request, in place of those that were found to be of no use."""
        _submitted[self._asked] = request_id

        def enter(cache: Any, request: Any) -> None:
            with cache.lock:
                key = request.compute_hash()
                here = self._key_here(key)
                downloaded = cache.get_transform_by_hash(key)
                stays = downloaded is not None and _is_of_use(downloaded, unusable)
                if not stays:
                    cache.delete_record_by_hash(key)
                    cache.cache_submitted_transform(request, request_id)
                if stays or unusable or cache.is_transform_request_submitted(here):
                    cache.update_transform_status(here, SUBMITTED)
                    cache.update_transform_request_id(here, request_id)

        self._with_cache(enter, None)

    def _find(self, cache: Any, request: Any) -> list[str]:
        key = request.compute_hash()
        with cache.lock:
            return [
                cache.get_transform_request_id(one)
                for one in (self._key_here(key), key)
                if cache.contains_hash(one) or cache.is_transform_request_submitted(one)
            ]

    def _key_here(self, key: str) -> str:
        """Return the key of an entry for one server."""
        return f"{key} at {self._endpoint.url}"

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


def _is_of_use(downloaded: Any, unusable: Collection[str]) -> bool:
    """Whether what servicex has downloaded is still to be had, from the server or from the disk."""
    paths = downloaded.file_list
    return downloaded.request_id not in unusable or (
        bool(paths) and all(Path(path).is_file() for path in paths)
    )
