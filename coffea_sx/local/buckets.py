"""Where delivered files are kept: a bucket for each request, an object for each file."""

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
from .signatures import Keys
from .state import now, to_text


@dataclass(frozen=True)
class Location:
    """Where clients find the buckets, and with which keys.

    Attributes
    ----------
    endpoint : str
        ``host:port``, or only a host.
    is_secured : bool
        Whether it is reached by https.
    keys : Keys
    """

    endpoint: str
    is_secured: bool
    keys: Keys

    def sign(self, bucket: str, name: str, expires_s: int) -> tuple[str, int]:
        """Return a URL of an object that needs no keys, and when it ends (epoch)."""
        scheme = "https" if self.is_secured else "http"
        url = f"{scheme}://{self.endpoint}/{bucket}/{quote(name, safe='-_.~')}"
        return self.keys.presign(url, expires_s)


class BucketError(Exception):
    """The store did not do what it was asked for."""


class Buckets(Protocol):
    """What the server does with a store of objects. Every method may raise BucketError."""

    @property
    def location(self) -> Location:
        """What the status of a request tells its clients."""

    async def make(self, bucket: str) -> None:
        """Make an empty bucket."""

    async def put(self, bucket: str, name: str, written: Path, md5: str) -> None:
        """Make an object of a file, which may be gone afterwards."""

    async def drop(self, bucket: str) -> None:
        """Remove a bucket with everything in it; one that is gone already is no error."""

    def close(self) -> None:
        """Give up what is held while the server runs."""


@dataclass(frozen=True)
class StoredObject:
    """A delivered file: its name in the bucket, and where its bytes are."""

    name: str
    path: Path
    nbytes: int
    etag: str
    modified: datetime


class OwnBuckets:
    """Buckets that are directories of the server; `Objects` serves them.

    Parameters
    ----------
    database : Database
        Has a row for each object.
    directory : Path
        Has a directory for each bucket.
    location : Location
        Of the server itself.
    """

    def __init__(self, database: Database, directory: Path, location: Location) -> None:
        self.location = location
        self._database = database
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    async def make(self, bucket: str) -> None:
        """Make an empty bucket."""
        (self._directory / bucket).mkdir(mode=0o700)

    async def put(self, bucket: str, name: str, written: Path, md5: str) -> None:
        """Make an object of a file, which is moved."""
        file_name = hashlib.sha256(name.encode()).hexdigest()
        nbytes = written.stat().st_size
        written.replace(self._directory / bucket / file_name)
        row = (bucket, name, file_name, nbytes, md5, to_text(now()))
        await self._database.persist(lambda: self._record(row))

    def _record(self, row: tuple[str | int, ...]) -> None:
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)", row)

    async def drop(self, bucket: str) -> None:
        """Remove a bucket with everything in it."""
        # First: on a disk that is full there is no space to record anything before.
        shutil.rmtree(self._directory / bucket, ignore_errors=True)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM objects WHERE request_id = ?", (bucket,))

    def close(self) -> None:
        """Do nothing: the database is closed by who opened it."""

    def exists(self, bucket: str) -> bool:
        """Whether there is a request with objects."""
        row = self._database.first("SELECT 1 FROM requests WHERE request_id = ?", bucket)
        return row is not None and (self._directory / bucket).is_dir()

    def stored_object(self, bucket: str, name: str) -> StoredObject | None:
        """Return one object of a bucket."""
        row = self._database.first(
            "SELECT * FROM objects WHERE request_id = ? AND name = ?", bucket, name
        )
        return None if row is None else self._stored(row)

    def stored_objects(self, bucket: str) -> list[StoredObject]:
        """Return the objects of a bucket in the order of their names."""
        rows = self._database.all(
            "SELECT * FROM objects WHERE request_id = ? ORDER BY name", bucket
        )
        return [self._stored(row) for row in rows]

    def _stored(self, row: sqlite3.Row) -> StoredObject:
        return StoredObject(
            name=row["name"],
            path=self._directory / row["request_id"] / row["file_name"],
            nbytes=row["nbytes"],
            etag=f'"{row["etag"]}"',
            modified=datetime.fromisoformat(row["modified"]).replace(tzinfo=timezone.utc),
        )
