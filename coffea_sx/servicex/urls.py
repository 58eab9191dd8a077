"""URLs by which the objects of a transform can be read for a short time.

Only the process that owns the transform makes URLs; others request them from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import islice

from urllib3.exceptions import HTTPError

from ..dataset import PARQUET, InputFiles, result_name, suffix_of
from ..errors import AccessError, RequestRefused
from ..policy import is_transient
from ..wire.clock import Clock
from ..wire.exchanges import exchange
from .bucket import Bucket, check_host, connections
from .client import ServiceXClient
from .models import ResultRow, SignedUrl

# Results of the files that follow are expected next: as many requests for URLs are prefetched from.
_REQUESTS_AHEAD = 10


@dataclass(eq=False, repr=False)
class UrlProvider:
    """Make and keep the URLs of the objects of one transform.

    Parameters
    ----------
    client : ServiceXClient
    request_id : str
    files : InputFiles, optional
        Input files whose results are expected: URLs of results are requested together, before the
        results are there.
    result_format : str, optional
        Format of the results, if it is derived before there are any.
    timeout_s : float
        Time to wait for URLs, seconds.
    """

    client: ServiceXClient
    request_id: str
    files: InputFiles | None = None
    result_format: str | None = None
    timeout_s: float = 45.0

    def __post_init__(self) -> None:
        self._suffix = None if self.result_format is None else suffix_of(self.result_format)
        self._urls: dict[str, SignedUrl] = {}
        self._lock = threading.Lock()
        self._bucket = Bucket(self.client, self.request_id)

    def urls(
        self,
        names: Sequence[str],
        *,
        refresh: bool = False,
        prefetch: Callable[[], Iterable[str]] = tuple,
        wait_for_turn: Callable[[], object] = bool,
    ) -> dict[str, SignedUrl]:
        """Return URLs of objects, making those that are missing or about to expire.

        Parameters
        ----------
        names : sequence of str
        refresh : bool
            Make new URLs even if the old ones seem to be good.
        prefetch : callable
            Returns names that will be requested soon, to save a request for each.
        wait_for_turn : callable
            Waits until a request may be made.

        Raises
        ------
        AccessError
            If the server gives no URL for an object, or one that is not http(s).
        """
        refused = {name: self._urls.get(name) for name in names} if refresh else {}
        if refused or self.lacks(names):
            with self._lock:
                if self._missing(names, refused):
                    wait_for_turn()
                    self._make_all(self._missing(names, refused), refused, prefetch())
        return {name: self._url(name) for name in names}

    def make_ready(self, names: Sequence[str]) -> None:
        """Make URLs of results that were delivered or are expected, unless another thread does.

        Raises
        ------
        ServiceXError
            As for `urls`.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._make_all(self._missing(names, {}), {}, ())
            finally:
                self._lock.release()

    def lacks(self, names: Iterable[str]) -> bool:
        """Return True if a URL must be made to read one of these objects."""
        return not all(map(self._has_fresh, names))

    def expects_results(self) -> bool:
        """Return True if URLs of the first results can be made, and were not made yet."""
        first = next(self._expected(()), None)
        return first is not None and not self._urls

    def exists(self, name: str) -> bool:
        """Return True if the store has an object: one request to it, besides those for a URL.

        Raises
        ------
        AccessError
            If there is no URL for it.
        """
        url = self.urls([name])[name]
        pool, headers = connections(), {**url.headers, "Range": "bytes=0-0"}
        try:
            with exchange(pool, "GET", url.url, Clock(), headers=headers, at_most=0) as response:
                return response.status != HTTPStatus.NOT_FOUND
        except HTTPError:
            return True  # a store that does not answer now may do so later

    def rows(self) -> list[ResultRow]:
        """Return rows of results where the server lists none: they are made of the bucket."""
        return self._bucket.rows()

    # -- making URLs

    def _missing(self, names: Iterable[str], refused: Mapping[str, SignedUrl | None]) -> list[str]:
        """Return the objects that need a new URL, unless another thread has made it by now."""
        return [
            name
            for name in names
            if not self._has_fresh(name) or self._urls[name] is refused.get(name)
        ]

    def _make_all(
        self, names: Sequence[str], refused: Mapping[str, SignedUrl | None], soon: Iterable[str]
    ) -> None:
        """Make URLs of objects, and together with them those that will be requested soon."""
        if refused:
            self._bucket.forget_keys()
        # URLs that were made together with the refused ones are refused too.
        last = max((url.expires_at for url in refused.values() if url), default=0.0)
        is_old = partial(self._is_old, last)
        requested = dict.fromkeys([*names, *filter(is_old, soon)])
        expected = filter(is_old, self._expected(names))
        limit = max(self.client.policy.urls_per_request, len(names))
        every = list(islice(dict.fromkeys([*requested, *expected]), limit))
        if not every:
            return
        try:
            self._urls.update(self._make(every))
        except RequestRefused as error:
            if is_transient(error) or not set(every) - set(requested):
                raise
            # Perhaps the server makes URLs only of objects that are there.
            self.files = None
            if requested:
                self._urls.update(self._make(list(requested)))

    def _make(self, names: Sequence[str]) -> dict[str, SignedUrl]:
        if not self.client.info().generates_urls:
            return self._bucket.sign(names)
        made = self.client.file_urls(self.request_id, names, timeout_s=self.timeout_s)
        urls = {name: made[name] for name in names if name in made}
        for name, url in urls.items():
            check_host(self.client, url.url, self.request_id, name)
        return urls

    def _expected(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the results of the input files that follow, if names follow from those of files."""
        if self.files is None:
            return
        paths, first = self.files.paths, self.files.owner_of(names[0]) if names else 0
        if first is None:
            return
        if names:
            self._suffix = "" if names[0] == result_name(paths[first]) else PARQUET
        if self._suffix is not None:
            n_ahead = _REQUESTS_AHEAD * self.client.policy.urls_per_request
            for i in range(min(len(paths), n_ahead)):
                yield result_name(paths[(first + i) % len(paths)], self._suffix)

    # -- URLs that were made

    def _url(self, name: str) -> SignedUrl:
        url = self._urls.get(name)
        if url is None:
            where = f"the object {name!r} of request {self.request_id}"
            facts = {"request_id": self.request_id, "object_name": name}
            raise AccessError(f"ServiceX gives no http(s) URL for {where}.", **facts)
        return url

    def _has_fresh(self, name: str) -> bool:
        url = self._urls.get(name)
        # URLs that live only shortly are fresh for most of that time.
        margin_s = min(60.0, 0.1 * self.client.policy.signed_for_s)
        return url is not None and url.is_fresh(margin_s)

    def _is_old(self, last: float, name: str) -> bool:
        """Return True if a URL is missing, about to expire, or expires no later than a moment."""
        return not self._has_fresh(name) or self._urls[name].expires_at <= last
