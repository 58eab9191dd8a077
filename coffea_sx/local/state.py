"""What the server remembers, in one SQLite file: datasets, requests, results, objects."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ..errors import ConfigurationError
from .transformer import Outcome

RUNNING = ("Submitted", "Lookup", "Pending Lookup", "Running")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS datasets (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, did_finder TEXT NOT NULL,
    n_files INTEGER NOT NULL DEFAULT 0, last_used TEXT NOT NULL,
    lookup_status TEXT NOT NULL, is_stale INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS dataset_files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, dataset_id INTEGER NOT NULL, paths TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS files_of_dataset ON dataset_files (dataset_id);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, title TEXT,
    did TEXT NOT NULL, did_id INTEGER NOT NULL, selection TEXT NOT NULL, source TEXT NOT NULL,
    codegen TEXT NOT NULL, result_format TEXT NOT NULL, status TEXT NOT NULL,
    files INTEGER NOT NULL DEFAULT 0, submit_time TEXT NOT NULL, finish_time TEXT);
CREATE TABLE IF NOT EXISTS results (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL, file_id INTEGER NOT NULL,
    file_path TEXT NOT NULL, object_name TEXT NOT NULL, status TEXT NOT NULL,
    seconds REAL NOT NULL, n_events INTEGER NOT NULL, nbytes INTEGER NOT NULL,
    created_at TEXT NOT NULL, reason TEXT, UNIQUE (request_id, file_id));
CREATE TABLE IF NOT EXISTS objects (
    request_id TEXT NOT NULL, name TEXT NOT NULL, file_name TEXT NOT NULL,
    nbytes INTEGER NOT NULL, etag TEXT NOT NULL, modified TEXT NOT NULL,
    PRIMARY KEY (request_id, name));
"""


@dataclass(frozen=True)
class StoredObject:
    """A delivered file: its name in the bucket, and where its bytes are."""

    name: str
    path: Path
    nbytes: int
    etag: str
    modified: datetime


class State:
    """The database and the objects below one directory.

    Parameters
    ----------
    directory : Path
        Made when it does not exist.

    Raises
    ------
    ConfigurationError
        When another server uses the directory.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._objects = directory / "objects"
        self.scratch = directory / "scratch"
        for folder in (self._objects, self.scratch):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._connection = _connect(directory)
        # The directory is ours now: what is left in it belongs to a server that was killed.
        for leftover in self.scratch.iterdir():
            leftover.unlink()
        self._last_created = datetime.min.replace(tzinfo=timezone.utc)

    def close(self) -> None:
        """Write everything and let other servers use the directory."""
        self._connection.close()

    def secret(self, name: str) -> str:
        """Return a random string that stays the same in this directory."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, secrets.token_hex(20))
            )
        return str(self._all("SELECT value FROM secrets WHERE name = ?", name)[0]["value"])

    # ---- datasets

    def dataset_of_list(self, paths: Sequence[str]) -> int:
        """Return the id of the dataset of a file list, a new one for a new list."""
        name = hashlib.sha256(" ".join(paths).encode()).hexdigest()
        known = self._use_dataset(name)
        if known is not None:
            return int(known["id"])
        dataset_id = self._add_dataset(name, "user", "complete")
        self._add_files(dataset_id, paths)
        return dataset_id

    def dataset_of_did(self, did: str, finder: str) -> tuple[int, str]:
        """Return the id of the dataset of a DID, and "complete", "looking" or "new"."""
        known = self._use_dataset(did)
        if known is None:
            return self._add_dataset(did, finder, "looking"), "new"
        return int(known["id"]), str(known["lookup_status"])

    def end_lookup(self, dataset_id: int, paths: Sequence[str] | None) -> list[str]:
        """Record the files of a dataset, or with None that it does not exist.

        Returns
        -------
        list of str
            The requests that waited for it: they run now, or have ended.
        """
        status = "does_not_exist" if paths is None else "complete"
        with self._transaction() as database:
            database.execute(
                "UPDATE datasets SET lookup_status = ?, n_files = ?, is_stale = ? WHERE id = ?",
                (status, len(paths or ()), paths is None, dataset_id),
            )
        self._add_files(dataset_id, paths or ())
        waiting = self._all(
            "SELECT request_id FROM requests WHERE did_id = ? AND status LIKE '%Lookup'",
            dataset_id,
        )
        for request in waiting:
            if paths is None:
                self._set_status(request["request_id"], "Bad Dataset")
            else:
                self.start_request(request["request_id"])
        return [request["request_id"] for request in waiting]

    def dataset(self, dataset_id: int) -> sqlite3.Row | None:
        """Return one dataset."""
        return self._first("SELECT * FROM datasets WHERE id = ?", dataset_id)

    def datasets(self, finder: str | None, show_deleted: bool) -> list[sqlite3.Row]:
        """Return the datasets, of one finder or of all."""
        return self._all(
            "SELECT * FROM datasets WHERE (? IS NULL OR did_finder = ?) AND (? OR NOT is_stale)"
            " ORDER BY id",
            finder,
            finder,
            show_deleted,
        )

    def dataset_files(self, dataset_id: int) -> list[sqlite3.Row]:
        """Return the files of a dataset in their order."""
        return self._all("SELECT * FROM dataset_files WHERE dataset_id = ? ORDER BY id", dataset_id)

    def forget_dataset(self, dataset_id: int) -> None:
        """Mark a dataset stale, so that it is looked up again."""
        with self._transaction() as database:
            database.execute("UPDATE datasets SET is_stale = 1 WHERE id = ?", (dataset_id,))

    def _use_dataset(self, name: str) -> sqlite3.Row | None:
        with self._transaction() as database:
            database.execute(
                "UPDATE datasets SET last_used = ? WHERE name = ? AND NOT is_stale",
                (to_text(now()), name),
            )
        return self._first("SELECT * FROM datasets WHERE name = ? AND NOT is_stale", name)

    def _add_dataset(self, name: str, finder: str, status: str) -> int:
        with self._transaction() as database:
            cursor = database.execute(
                "INSERT INTO datasets (name, did_finder, last_used, lookup_status)"
                " VALUES (?, ?, ?, ?)",
                (name, finder, to_text(now()), status),
            )
        return int(cursor.lastrowid or 0)

    def _add_files(self, dataset_id: int, paths: Sequence[str]) -> None:
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO dataset_files (dataset_id, paths) VALUES (?, ?)",
                [(dataset_id, path) for path in paths],
            )

    # ---- requests

    def add_request(
        self,
        *,
        title: str | None,
        did_id: int,
        selection: str,
        source: str,
        codegen: str,
        result_format: str,
        status: str,
    ) -> str:
        """Record a request that is still to be started, and return its id."""
        request_id = str(uuid.uuid4())
        (self._objects / request_id).mkdir(mode=0o700)
        with self._transaction() as database:
            database.execute(
                "INSERT INTO requests (request_id, title, did, did_id, selection, source, codegen,"
                " result_format, status, submit_time)"
                " SELECT ?, ?, name, id, ?, ?, ?, ?, ?, ? FROM datasets WHERE id = ?",
                (
                    request_id,
                    title,
                    selection,
                    source,
                    codegen,
                    result_format,
                    status,
                    to_text(now()),
                    did_id,
                ),
            )
        return request_id

    def start_request(self, request_id: str) -> None:
        """Give a request the files of its dataset."""
        with self._transaction() as database:
            database.execute(
                "UPDATE requests SET status = 'Running', files ="
                " (SELECT count(*) FROM dataset_files WHERE dataset_id = did_id)"
                " WHERE request_id = ?",
                (request_id,),
            )
        self.complete_if_done(request_id)

    def request(self, key: str) -> sqlite3.Row | None:
        """Return a request by its id, or by the integer id of its row."""
        row_id = int(key) if key.isascii() and key.isdigit() and len(key) < 18 else -1
        return self._first(f"{_REQUESTS} WHERE r.request_id = ? OR r.id = ?", key, row_id)

    def requests(self) -> list[sqlite3.Row]:
        """Return all requests in the order of their submission."""
        return self._all(f"{_REQUESTS} ORDER BY r.id")

    def unfinished(self, request_id: str) -> list[sqlite3.Row]:
        """Return the input files of a request that have no result yet."""
        return self._all(
            "SELECT f.id, f.paths FROM dataset_files f JOIN requests r ON f.dataset_id = r.did_id"
            " WHERE r.request_id = ? AND NOT EXISTS (SELECT 1 FROM results"
            "  WHERE results.request_id = r.request_id AND results.file_id = f.id)"
            " ORDER BY f.id",
            request_id,
        )

    def is_running(self, request_id: str) -> bool:
        """Whether results of this request are still wanted."""
        row = self._first("SELECT status FROM requests WHERE request_id = ?", request_id)
        return row is not None and row["status"] in RUNNING

    def cancel(self, request_id: str) -> None:
        """End a request; the results it has stay."""
        self._set_status(request_id, "Canceled")

    def delete_request(self, request_id: str) -> None:
        """Drop a request with its results and objects."""
        with self._transaction() as database:
            database.execute("DELETE FROM results WHERE request_id = ?", (request_id,))
            database.execute("DELETE FROM objects WHERE request_id = ?", (request_id,))
            database.execute("DELETE FROM requests WHERE request_id = ?", (request_id,))
        shutil.rmtree(self._objects / request_id, ignore_errors=True)

    def _set_status(self, request_id: str, status: str) -> None:
        with self._transaction() as database:
            database.execute(
                "UPDATE requests SET status = ?, finish_time = ? WHERE request_id = ?",
                (status, to_text(now()), request_id),
            )

    def complete_if_done(self, request_id: str) -> None:
        """End a running request that has a result for each of its files."""
        row = self.request(request_id)
        if row is not None and row["status"] == "Running" and row["done"] >= row["files"]:
            self._set_status(request_id, "Complete")

    # ---- results

    def add_result(
        self, request_id: str, file_id: int, outcome: Outcome, object_name: str, written: Path
    ) -> None:
        """Record what became of an input file, unless the request has ended meanwhile."""
        if not self.is_running(request_id):
            written.unlink(missing_ok=True)
            return
        if outcome.reason is None:
            self._keep_object(request_id, object_name, outcome, written)
        with self._transaction() as database:
            database.execute(
                "INSERT INTO results (request_id, file_id, file_path, object_name, status, seconds,"
                " n_events, nbytes, created_at, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    request_id,
                    file_id,
                    outcome.input_path,
                    "none" if outcome.reason else object_name,
                    "failure" if outcome.reason else "success",
                    outcome.seconds,
                    outcome.n_events,
                    outcome.nbytes,
                    to_text(self._next_created()),
                    outcome.reason,
                ),
            )
        self.complete_if_done(request_id)

    def _next_created(self) -> datetime:
        # Clients ask for rows later than the last one they saw: no two may have one time.
        self._last_created = max(now(), self._last_created + timedelta(microseconds=1))
        return self._last_created

    def results(self, request_id: str, later_than: datetime | None = None) -> list[sqlite3.Row]:
        """Return the result rows of a request, all or those after a time."""
        after = "" if later_than is None else to_text(later_than)
        return self._all(
            "SELECT * FROM results WHERE request_id = ? AND created_at > ? ORDER BY id",
            request_id,
            after,
        )

    # ---- objects

    def _keep_object(self, request_id: str, name: str, outcome: Outcome, written: Path) -> None:
        file_name = hashlib.sha256(name.encode()).hexdigest()
        written.replace(self._objects / request_id / file_name)
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)",
                (request_id, name, file_name, outcome.nbytes, outcome.md5, to_text(now())),
            )

    def bucket_exists(self, bucket: str) -> bool:
        """Whether there is a request with objects."""
        return (
            self._first("SELECT 1 FROM requests WHERE request_id = ?", bucket) is not None
            and (self._objects / bucket).is_dir()
        )

    def stored_object(self, bucket: str, name: str) -> StoredObject | None:
        """Return one object of a bucket."""
        row = self._first("SELECT * FROM objects WHERE request_id = ? AND name = ?", bucket, name)
        return None if row is None else self._stored(row)

    def stored_objects(self, bucket: str) -> list[StoredObject]:
        """Return the objects of a bucket in the order of their names."""
        rows = self._all("SELECT * FROM objects WHERE request_id = ? ORDER BY name", bucket)
        return [self._stored(row) for row in rows]

    def _stored(self, row: sqlite3.Row) -> StoredObject:
        return StoredObject(
            name=row["name"],
            path=self._objects / row["request_id"] / row["file_name"],
            nbytes=row["nbytes"],
            etag=f'"{row["etag"]}"',
            modified=datetime.fromisoformat(row["modified"]).replace(tzinfo=timezone.utc),
        )

    # ---- SQLite

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection:
            yield self._connection

    def _all(self, query: str, *values: object) -> list[sqlite3.Row]:
        return self._connection.execute(query, values).fetchall()

    def _first(self, query: str, *values: object) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._connection.execute(query, values).fetchone()
        return row


_REQUESTS = """
SELECT r.*,
    (SELECT count(*) FROM results s WHERE s.request_id = r.request_id) AS done,
    (SELECT count(*) FROM results s WHERE s.request_id = r.request_id AND s.status = 'failure')
        AS failed
FROM requests r"""


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(timezone.utc)


def to_text(time: datetime) -> str:
    """Return a time as the database keeps it: UTC, naive, with microseconds."""
    if time.tzinfo is not None:
        time = time.astimezone(timezone.utc).replace(tzinfo=None)
    return time.isoformat(timespec="microseconds")


def _connect(directory: Path) -> sqlite3.Connection:
    path = directory / "servicex.sqlite"
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=0, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        # The first write locks the file for as long as this server lives.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    except sqlite3.OperationalError as error:
        connection.close()
        raise ConfigurationError(
            f"{directory} cannot be used ({error}): one LocalServiceX at a time can use a directory"
        ) from error
    return connection
