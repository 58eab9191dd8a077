"""From the name of an object to a URL that can be read for a short time.

Only the process that owns the transform makes URLs; others ask it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial
from http import HTTPStatus
from ipaddress import ip_address
from itertools import islice
from time import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError

from ..dataset import PARQUET, InputFiles, result_name, suffix_of
from ..errors import AccessError, RequestRefused
from ..policy import is_transient
from ..wire.clock import Clock
from ..wire.connections import make_pool
from ..wire.exchanges import exchange
from .client import ServiceXClient

# A URL that we sign ourselves lives as long as a slow read of one file, not longer.
SIGNED_FOR_S = 600
# Hosts of stores that are allowed besides those that a ServiceX may name, separated by commas.
ALLOWED_HOSTS = "COFFEA_SX_STORE_HOSTS"
# Names in one request for URLs; servers answer it in one go.
BATCH = 500
# Of so many files after the one that is read the results are expected next.
EXPECTED = 10 * BATCH


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """Permission to read one object for a while.

    Attributes
    ----------
    url : str
        With a signature; shown in no message.
    headers : dict
        To be sent along.
    expires_at : float
        Seconds since the epoch.
    """

    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    expires_at: float

    def is_fresh(self) -> bool:
        """Whether the grant will outlive a request that starts now."""
        return time() < self.expires_at - min(60.0, 0.1 * SIGNED_FOR_S)


class Object(NamedTuple):
    """An object in the bucket of a transform: its name, its size in bytes, when it was made."""

    name: str
    nbytes: int
    modified: str


class UrlProvider:
    """Make and keep the grants for the objects of one transform.

    Parameters
    ----------
    client : ServiceXClient
    request_id : str
    files : InputFiles, optional
        Whose results are to be expected: their URLs are asked for together, before they are there.
    result_format : str, optional
        Of the results, if it is known before there are any.
    timeout_s : float
        For how long to wait for URLs, seconds.
    """

    def __init__(
        self,
        client: ServiceXClient,
        request_id: str,
        files: InputFiles | None = None,
        result_format: str | None = None,
        timeout_s: float = 45.0,
    ) -> None:
        self.timeout_s = timeout_s
        self._client = client
        self._request_id = request_id
        self._files = files
        self._suffix = None if result_format is None else suffix_of(result_format)
        self._grants: dict[str, SignedUrl] = {}
        self._lock = threading.Lock()
        self._known_store: Any = None

    def grants(
        self,
        names: Sequence[str],
        *,
        refresh: bool = False,
        also: Callable[[], Iterable[str]] = tuple,
        turn: Callable[[], object] = bool,
    ) -> dict[str, SignedUrl]:
        """Return grants for objects, making those that are missing or about to expire.

        Parameters
        ----------
        names : sequence of str
        refresh : bool
            Make new ones even if the old ones seem to be good.
        also : callable
            Returns names that will be asked for soon, to save a request for each.
        turn : callable
            Waits until a request may be made.

        Raises
        ------
        AccessError
            If the server gives no URL for an object, or one that is not http(s).
        """
        refused = {name: self._grants.get(name) for name in names} if refresh else {}
        if refused or self.lacks(names):
            with self._lock:
                if self._missing(names, refused):
                    turn()
                    self._make_all(self._missing(names, refused), refused, also())
        return {name: self._given(name) for name in names}

    def make_ready(self, names: Sequence[str]) -> None:
        """Make grants for results that were delivered and that will be, unless others do just now.

        Raises
        ------
        ServiceXError
            As for `grants`.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._make_all(self._missing(names, {}), {}, ())
            finally:
                self._lock.release()

    def lacks(self, names: Iterable[str]) -> bool:
        """Whether a grant must be made to read one of these objects."""
        return not all(map(self._has_fresh, names))

    def _missing(self, names: Iterable[str], refused: Mapping[str, SignedUrl | None]) -> list[str]:
        """Name the objects that need a new grant, unless another thread has made it by now."""
        return [
            name
            for name in names
            if not self._has_fresh(name)
            or (name in refused and self._grants.get(name) is refused[name])
        ]

    def _make_all(
        self, names: Sequence[str], refused: Mapping[str, SignedUrl | None], also: Iterable[str]
    ) -> None:
        """Make grants for objects, and on the way those that will be asked for soon."""
        last = 0.0
        if refused:
            self._known_store = None
            # What was made with the refused ones is refused too.
            last = max((grant.expires_at for grant in refused.values() if grant), default=0.0)
        asked = dict.fromkeys([*names, *filter(partial(self._is_old, last), also)])
        soon = filter(partial(self._is_old, last), self._expected(names))
        wanted = list(islice(dict.fromkeys([*asked, *soon]), max(BATCH, len(names))))
        if not wanted:
            return
        try:
            self._grants.update(self._make(wanted))
        except RequestRefused as error:
            if is_transient(error) or not set(wanted) - set(asked):
                raise
            # Perhaps it gives URLs only of what is there.
            self._files = None
            if asked:
                self._grants.update(self._make(list(asked)))

    def _is_old(self, last: float, name: str) -> bool:
        """Whether a grant is missing, about to expire, or expires no later than a moment."""
        return not self._has_fresh(name) or self._grants[name].expires_at <= last

    def _expected(self, names: Sequence[str]) -> Iterator[str]:
        """Name the results of the input files that follow, if names follow from those of files."""
        if self._files is None:
            return
        paths, first = self._files.paths, 0
        if names:
            index = self._files.owner_of(names[0])
            if index is None:
                return
            first = index
            self._suffix = "" if names[0] == result_name(paths[first]) else PARQUET
        if self._suffix is not None:
            for i in range(min(len(paths), EXPECTED)):
                yield result_name(paths[(first + i) % len(paths)], self._suffix)

    def expects(self) -> bool:
        """Whether grants can be made for the first results, and are not there yet."""
        first = next(self._expected(()), None)
        return first is not None and not self._grants

    def _given(self, name: str) -> SignedUrl:
        grant = self._grants.get(name)
        if grant is None:
            raise AccessError(
                f"ServiceX gives no http(s) URL for the object {name!r} of request "
                f"{self._request_id}.",
                request_id=self._request_id,
                object_name=name,
            )
        return grant

    def _has_fresh(self, name: str) -> bool:
        grant = self._grants.get(name)
        return grant is not None and grant.is_fresh()

    def _make(self, names: Sequence[str]) -> dict[str, SignedUrl]:
        if "generate_file_urls" in self._client.info().capabilities:
            return self._asked_for(names)
        return self._signed(names)

    def _asked_for(self, names: Sequence[str]) -> dict[str, SignedUrl]:
        answer = self._client.file_urls(self._request_id, names, timeout_s=self.timeout_s)
        grants = {name: _grant(answer.get(name)) for name in names}
        return {name: self._allowed(name, grant) for name, grant in grants.items() if grant}

    def has(self, name: str) -> bool:
        """Whether the store has an object: one request to it, besides those for a grant.

        Raises
        ------
        AccessError
            If there is no URL for it.
        """
        grant = self.grants([name])[name]
        headers = {**grant.headers, "Range": "bytes=0-0"}
        try:
            with exchange(
                _connections(), "GET", grant.url, Clock(), headers=headers, at_most=0
            ) as response:
                return response.status != HTTPStatus.NOT_FOUND
        except HTTPError:
            return True  # a store that does not answer now may do so later

    def objects(self) -> list[Object]:
        """List the bucket of the transform: one request to ServiceX, and some to the store.

        Raises
        ------
        AccessError
            If the store does not list it.
        """
        from minio.error import MinioException

        store = self._store()
        try:
            with Clock() as clock:
                clock.expect(0)
                listed = list(store.list_objects(self._request_id, recursive=True))
            return [
                Object(str(one.object_name), one.size or 0, _moment(one.last_modified))
                for one in listed
            ]
        except (MinioException, HTTPError, OSError) as error:
            self._known_store = None  # its keys may have changed
            raise AccessError(
                f"The store does not list the results of request {self._request_id}: "
                f"{getattr(error, 'code', type(error).__name__)}.",
                request_id=self._request_id,
            ) from None

    def _store(self) -> Any:
        """Return a client of the store with the keys in the status. One request, the first time."""
        if self._known_store is None:
            self._known_store = self._made_store()
        return self._known_store

    def _made_store(self) -> Any:
        import minio

        status = self._client.status(self._request_id)
        try:
            self._check_host(urlsplit(f"//{status['minio-endpoint']}").hostname or "", "")
            return minio.Minio(
                status["minio-endpoint"],
                access_key=status["minio-access-key"],
                secret_key=status["minio-secret-key"],
                secure=bool(status["minio-secured"]),
                region="us-east-1",  # else minio asks the server for it
                http_client=_connections(),
            )
        except (KeyError, TypeError, ValueError):
            raise AccessError(
                f"The status of request {self._request_id} does not say where its results are.",
                request_id=self._request_id,
            ) from None

    def _signed(self, names: Sequence[str]) -> dict[str, SignedUrl]:
        """Sign with the keys in the status, as servers before 2026 want it."""
        store = self._store()
        expires_at = time() + SIGNED_FOR_S
        lifetime = timedelta(seconds=SIGNED_FOR_S)
        urls = {
            name: store.presigned_get_object(self._request_id, name, expires=lifetime)
            for name in names
        }
        return {name: SignedUrl(url, {}, expires_at) for name, url in urls.items()}

    def _allowed(self, name: str, grant: SignedUrl) -> SignedUrl:
        self._check_host(urlsplit(grant.url).hostname or "", name)
        return grant

    def _check_host(self, host: str, name: str) -> None:
        """Refuse a machine that a ServiceX elsewhere has no business to send us to."""
        known = urlsplit(self._client.endpoint.url).hostname
        listed = os.environ.get(ALLOWED_HOSTS, "").replace(",", " ").split()
        if host in (known, *listed) or not (_is_inner(host) and not _is_inner(known or "")):
            return
        raise AccessError(
            f"ServiceX names a store at {host}, which is this machine or one of its own network "
            f"only, while ServiceX itself is at {known}. If that is meant to be, say so in the "
            f"environment variable {ALLOWED_HOSTS}={host}.",
            request_id=self._request_id,
            object_name=name,
        )


@lru_cache(maxsize=1)
def _connections() -> Any:
    return make_pool()


def _moment(time: datetime | None) -> str:
    """Write a moment as servers do: ISO 8601 in UTC."""
    return "" if time is None else time.astimezone(timezone.utc).replace(tzinfo=None).isoformat()


def _is_inner(host: str) -> bool:
    """Whether a host is this machine, or an address that says nothing elsewhere."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".internal"))
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _grant(answer: Any) -> SignedUrl | None:
    """Understand ``[url, headers, expiry]``; None if it is anything else, or not of the web."""
    try:
        url, headers, expires_at = answer
        if urlsplit(url).scheme in ("http", "https"):
            return SignedUrl(url, dict(headers or {}), float(expires_at))
    except (TypeError, ValueError, AttributeError):
        pass
    return None
