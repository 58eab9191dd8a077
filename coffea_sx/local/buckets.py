"""Buckets of delivered files: one for each request, with an object for each input file."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from .database import Database
from .records import to_text
from .settings import utc_now
from .signatures import Keys


@dataclass(frozen=True)
class StoreAddress:
    """Address and keys of an object store.

    Attributes
    ----------
    endpoint : str
        ``host:port``, or only a host.
    is_secured : bool
        True for https.
    keys : Keys
    """

    endpoint: str
    is_secured: bool
    keys: Keys

    def sign(self, bucket: str, name: str, expires_s: int) -> tuple[str, int]:
        """Return a signed URL of an object, and when it expires (seconds since the epoch)."""
        scheme = "https" if self.is_secured else "http"
        url = f"{scheme}://{self.endpoint}/{bucket}/{quote(name, safe='-_.~')}"
        return self.keys.presign(url, expires_s)


class BucketError(Exception):
    """The object store failed."""


class Buckets(Protocol):
    """An object store as the server uses it. Every method may raise BucketError."""

    @property
    def address(self) -> StoreAddress:
        """Address and keys for clients, which are in the status of each request."""

    async def make(self, bucket: str) -> None:
        """Create an empty bucket."""

    async def put(self, bucket: str, name: str, written: Path, md5: str) -> None:
        """Create an object from a file, which may be moved."""

    async def drop(self, bucket: str) -> None:
        """Remove a bucket with its objects, if it exists."""

    def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True)
class BucketObject:
    """An object of a bucket, and the file with its bytes."""

    name: str
    path: Path
    nbytes: int
    etag: str
    modified: datetime


class DirectoryBuckets:
    """Buckets that are directories of the server. `ObjectStore` serves them.

    Parameters
    ----------
    database : Database
        Has a row for each object.
    directory : Path
        Has a directory for each bucket.
    address : StoreAddress
        Of the server itself.
    """

    def __init__(self, database: Database, directory: Path, address: StoreAddress) -> None:
        self.address = address
        self._database = database
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    async def make(self, bucket: str) -> None:
        """Create an empty bucket."""
        (self._directory / bucket).mkdir(mode=0o700)

    async def put(self, bucket: str, name: str, written: Path, md5: str) -> None:
        """Create an object from a file, which is moved."""
        file_name = hashlib.sha256(name.encode()).hexdigest()
        nbytes = written.stat().st_size
        written.replace(self._directory / bucket / file_name)
        row = (bucket, name, file_name, nbytes, md5, to_text(utc_now()))
        await self._database.persist(lambda: self._record(row))

    def _record(self, row: tuple[str | int, ...]) -> None:
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)", row)

    async def drop(self, bucket: str) -> None:
        """Remove a bucket with its objects."""
        # Files first: on a full disk nothing can be recorded before.
        shutil.rmtree(self._directory / bucket, ignore_errors=True)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM objects WHERE request_id = ?", (bucket,))

    def close(self) -> None:
        """Do nothing: the server itself closes the database."""

    def exists(self, bucket: str) -> bool:
        """Return True if there is a request with this id and a bucket."""
        row = self._database.first("SELECT 1 FROM requests WHERE request_id = ?", bucket)
        return row is not None and (self._directory / bucket).is_dir()

    def find_object(self, bucket: str, name: str) -> BucketObject | None:
        """Return an object, None if the bucket does not have it."""
        row = self._database.first(
            "SELECT * FROM objects WHERE request_id = ? AND name = ?", bucket, name
        )
        return None if row is None else self._object(row)

    def list_objects(self, bucket: str) -> list[BucketObject]:
        """Return the objects of a bucket in the order of their names."""
        rows = self._database.all(
            "SELECT * FROM objects WHERE request_id = ? ORDER BY name", bucket
        )
        return [self._object(row) for row in rows]

    def _object(self, row: sqlite3.Row) -> BucketObject:
        return BucketObject(
            name=row["name"],
            path=self._directory / row["request_id"] / row["file_name"],
            nbytes=row["nbytes"],
            etag=f'"{row["etag"]}"',
            modified=datetime.fromisoformat(row["modified"]).replace(tzinfo=timezone.utc),
        )
