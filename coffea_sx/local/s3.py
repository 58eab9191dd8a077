"""Buckets in an S3 server, as servers of 2025 use MinIO."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ConfigurationError
from .buckets import BucketError, StoreAddress
from .signatures import REGION, Keys

# A request for it checks the address and the keys.
NO_BUCKET = "00000000-0000-4000-8000-000000000000"
DROP_ATTEMPTS = 3

_ENDPOINT = re.compile(r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]+)?")

Returned = TypeVar("Returned")


def parse_object_store(url: str, environment: Mapping[str, str] | None = None) -> StoreAddress:
    """Parse ``s3://KEY:SECRET@host:port``.

    Parameters
    ----------
    url : str
        Without keys, those of the environment are used. A store on this machine is reached by
        http, any other one by https.
    environment : mapping of str to str, optional
        That of this process by default.

    Returns
    -------
    StoreAddress

    Raises
    ------
    ConfigurationError
        If the URL is malformed, or there are no keys.

    Examples
    --------
    >>> parse_object_store("s3://me:secret@127.0.0.1:9000").endpoint
    '127.0.0.1:9000'
    """
    environment = os.environ if environment is None else environment
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _malformed() from None
    endpoint = parts.netloc.rpartition("@")[2]
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme != "s3" or has_more or port == 0 or not _ENDPOINT.fullmatch(endpoint):
        raise _malformed()
    return StoreAddress(endpoint, not _is_loopback(host), _keys(parts, environment))


def _malformed() -> ConfigurationError:
    # Without the URL itself: any part of a malformed one may be the secret.
    return ConfigurationError(
        "object_store= must name an S3 server as s3://host:port, with or without KEY:SECRET@ "
        "before the host; / and @ in keys are written as %2F and %40."
    )


def _keys(parts: SplitResult, environment: Mapping[str, str]) -> Keys:
    if "@" in parts.netloc:
        access_key, secret_key = unquote(parts.username or ""), unquote(parts.password or "")
    else:
        access_key = environment.get("AWS_ACCESS_KEY_ID", "")
        secret_key = environment.get("AWS_SECRET_ACCESS_KEY", "")
    if not access_key or not secret_key:
        raise ConfigurationError(
            "There are no keys for object_store=: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or write KEY:SECRET@ before the host."
        )
    return Keys(access_key, secret_key)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class S3Buckets:
    """Buckets in an S3 server.

    Parameters
    ----------
    address : StoreAddress

    Raises
    ------
    ConfigurationError
        If the store does not respond, or refuses the keys.
    """

    def __init__(self, address: StoreAddress) -> None:
        import minio
        import urllib3

        self.address = address
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=5, read=15),
            retries=urllib3.Retry(total=1, backoff_factor=0.2, status_forcelist=[500, 502, 503]),
        )
        try:
            self._client = _call(
                minio.Minio,
                address.endpoint,
                access_key=address.keys.access_key,
                secret_key=address.keys.secret_key,
                secure=address.is_secured,
                region=REGION,
                http_client=self._pool,
            )
            _call(self._client.bucket_exists, NO_BUCKET)
        except BucketError as error:
            self.close()
            raise ConfigurationError(
                f"The object store at {address.endpoint} cannot be used: {error}"
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    async def make(self, bucket: str) -> None:
        """Create an empty bucket."""
        await asyncio.to_thread(_call, self._client.make_bucket, bucket)

    async def put(self, bucket: str, name: str, written: Path, md5: str) -> None:
        """Create an object from a file."""
        await asyncio.to_thread(_call, self._client.fput_object, bucket, name, str(written))

    async def drop(self, bucket: str) -> None:
        """Remove a bucket with its objects, if it exists."""
        await asyncio.to_thread(_call, self._drop, bucket)

    def _drop(self, bucket: str) -> None:
        from minio.deleteobjects import DeleteObject
        from minio.error import S3Error

        # An upload may end between the listing and the removal.
        for attempt in range(1, DROP_ATTEMPTS + 1):
            try:
                names = [entry.object_name for entry in self._client.list_objects(bucket)]
                # An object that could not be removed makes the removal of the bucket fail.
                list(self._client.remove_objects(bucket, map(DeleteObject, names)))
                self._client.remove_bucket(bucket)
                return
            except S3Error as error:
                if error.code == "NoSuchBucket":
                    return
                if error.code != "BucketNotEmpty" or attempt == DROP_ATTEMPTS:
                    raise


def _call(call: Callable[..., Returned], *arguments: Any, **options: Any) -> Returned:
    """Call a method of the S3 client; its errors become BucketError, without the arguments."""
    from xml.etree.ElementTree import ParseError

    from minio.error import MinioException, S3Error
    from urllib3.exceptions import HTTPError

    try:
        return call(*arguments, **options)
    except S3Error as error:
        raise BucketError(f"{error.code}: {error.message}") from None
    except (MinioException, HTTPError, ParseError, OSError, ValueError) as error:
        raise BucketError(f"{type(error).__name__}: {error}") from None
