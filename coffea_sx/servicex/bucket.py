"""The bucket of a transform: results of servers that neither list them nor make their URLs.

Servers of 2024 list no results, so objects in the bucket stand for rows of results. Servers before
2026 make no URLs, so they are signed here, with the keys in the status of the transform.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta, timezone
from functools import cached_property, lru_cache, partial
from ipaddress import ip_address
from time import time
from typing import Any
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError

from ..errors import AccessError, ProtocolError
from ..wire.clock import Clock
from ..wire.connections import make_pool
from .client import ServiceXClient
from .models import ResultRow, SignedUrl

# Hosts of stores that are allowed besides those that a ServiceX may name, separated by commas.
ALLOWED_HOSTS = "COFFEA_SX_STORE_HOSTS"


class Bucket:
    """Objects of one transform, read with the keys of the store.

    Parameters
    ----------
    client : ServiceXClient
    request_id : str
    """

    def __init__(self, client: ServiceXClient, request_id: str) -> None:
        self._client, self._request_id = client, request_id

    def rows(self) -> list[ResultRow]:
        """List the objects as rows of results: one request to ServiceX, and some to the store.

        Raises
        ------
        AccessError
            If the store does not list them.
        """
        from minio.error import MinioException

        store = self._store
        try:
            with Clock() as clock:
                clock.expect(0)
                return list(map(_row, store.list_objects(self._request_id, recursive=True)))
        except (MinioException, HTTPError, OSError) as error:
            self.forget_keys()
            reason = getattr(error, "code", type(error).__name__)
            text = f"The store does not list the results of request {self._request_id}: {reason}."
            raise AccessError(text, request_id=self._request_id) from None

    def sign(self, names: Iterable[str]) -> dict[str, SignedUrl]:
        """Make URLs of objects: one request to ServiceX, the first time."""
        lifetime_s = self._client.policy.signed_for_s
        expires_at, expires = time() + lifetime_s, timedelta(seconds=lifetime_s)
        sign = partial(self._store.presigned_get_object, self._request_id, expires=expires)
        return {name: SignedUrl(sign(name), {}, expires_at) for name in names}

    def forget_keys(self) -> None:
        """Get the keys again before they are used next: they may have changed."""
        self.__dict__.pop("_store", None)

    @cached_property
    def _store(self) -> Any:
        import minio

        try:
            keys = self._client.store_keys(self._request_id)
            check_host(self._client, f"//{keys.endpoint}", self._request_id)
            return minio.Minio(
                keys.endpoint,
                access_key=keys.access_key.reveal(),
                secret_key=keys.secret_key.reveal(),
                secure=keys.is_secure,
                region="us-east-1",  # else minio requests it from the store
                http_client=connections(),
            )
        except (ProtocolError, TypeError, ValueError):
            text = f"The status of request {self._request_id} does not say where its results are."
            raise AccessError(text, request_id=self._request_id) from None


def check_host(client: ServiceXClient, url: str, request_id: str, object_name: str = "") -> None:
    """Refuse a store on this machine or its own network that a server elsewhere names.

    Raises
    ------
    AccessError
    """
    host, server = (urlsplit(of).hostname or "" for of in (url, client.endpoint.url))
    allowed = os.environ.get(ALLOWED_HOSTS, "").replace(",", " ").split()
    if host in (server, *allowed) or not _is_inner(host) or _is_inner(server):
        return
    raise AccessError(
        f"ServiceX names a store at {host}, which is this machine or one of its own network only, "
        f"while ServiceX itself is at {server}. If that is meant to be, say so in the environment "
        f"variable {ALLOWED_HOSTS}={host}.",
        request_id=request_id,
        object_name=object_name,
    )


def _is_inner(host: str) -> bool:
    """Return True if a host is this machine, or an address that means nothing elsewhere."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".internal"))
    return address.is_loopback or address.is_link_local or address.is_unspecified


@lru_cache(maxsize=1)
def connections() -> Any:
    """Return the connections of this process to stores."""
    return make_pool()


def _row(item: Any) -> ResultRow:
    """Make a row of results of an object in a listing, which has no number of events."""
    name, made = str(item.object_name), item.last_modified
    # Servers write times in UTC, without a zone.
    created_at = made.astimezone(timezone.utc).replace(tzinfo=None).isoformat() if made else ""
    return ResultRow(name, "", name, True, item.size or 0, None, created_at)
