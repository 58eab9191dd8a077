"""Earlier submissions: those of this process, and those in the cache of servicex.

The cache of servicex has the same keys for all servers. So it is used only for a ServiceX that was
found in ``servicex.yaml``, and the status of each entry is requested.

An entry that cannot be used (because the server has deleted the transform, say) is replaced for all
processes. Only where servicex has downloaded files that are still there its entry stays, so that
``deliver`` goes on to return them. The new request then has an entry of its own, for one server,
which servicex never looks for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from .._upstream.servicex import locked_cache, transform_request
from ..dataset import Dataset
from ..query import Selection
from .config import Endpoint

logger = logging.getLogger(__name__)

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
        self.selection, self.dataset = selection, dataset
        self._endpoint, self._key = endpoint, (endpoint.url, selection, dataset)

    def earlier(self) -> Iterator[str]:
        """Yield the ids of earlier requests: of this process, then of others."""
        own = _submitted.get(self._key)
        if own is not None:
            yield own
        for request_id in self._with_cache(self._find) or ():
            if request_id != own:
                yield request_id

    def all_earlier(self) -> set[str]:
        """Return the ids of requests that cannot be new: those of other queries here, too."""
        return {*_submitted.values(), *self.earlier()}

    def record(self, request_id: str, unusable: Collection[str] = ()) -> None:
        """Record a request, in place of those that cannot be used."""
        _submitted[self._key] = request_id

        def enter(cache: Any, request: Any) -> None:
            key = request.compute_hash()
            here = self._key_here(key)
            downloaded = cache.get_transform_by_hash(key)
            stays = downloaded is not None and _is_usable(downloaded, unusable)
            if not stays:
                cache.delete_record_by_hash(key)
                cache.cache_submitted_transform(request, request_id)
            if stays or unusable or cache.is_transform_request_submitted(here):
                cache.update_transform_status(here, SUBMITTED)
                cache.update_transform_request_id(here, request_id)

        self._with_cache(enter)

    def _find(self, cache: Any, request: Any) -> list[str]:
        key = request.compute_hash()
        return [
            cache.get_transform_request_id(entry)
            for entry in (self._key_here(key), key)
            if cache.contains_hash(entry) or cache.is_transform_request_submitted(entry)
        ]

    def _key_here(self, key: str) -> str:
        """Return the key of an entry for one server."""
        return f"{key} at {self._endpoint.url}"

    def _with_cache(self, function: Callable[[Any, Any], Result]) -> Result | None:
        """Call a function with the locked cache of servicex; return None if that cannot be used."""
        name, files = self._endpoint.name, self.dataset.files
        if name.url is not None:
            return None
        try:
            request = transform_request(
                title=self.selection.title,
                did=self.dataset.did,
                file_list=None if files is None else list(files.paths),
                selection=self.selection.text,
                codegen=self.selection.codegen,
                result_format=self.selection.result_format,
            )
            with locked_cache(name.config_path) as cache:
                return function(cache, request)
        except Exception as error:
            # Other versions of servicex, other programs and full disks have their part in it.
            logger.warning("The cache of servicex cannot be used: %s", type(error).__name__)
            return None


def forget() -> None:
    """Forget the submissions of this process, as if another one had made them."""
    _submitted.clear()


def _is_usable(downloaded: Any, unusable: Collection[str]) -> bool:
    """Return True if files that servicex has downloaded are on the server, or on the disk."""
    paths = list(map(Path, downloaded.file_list or ()))
    return downloaded.request_id not in unusable or (bool(paths) and all(map(Path.is_file, paths)))
