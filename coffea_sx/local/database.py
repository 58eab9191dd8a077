"""The SQLite file of a server: its tables, and transactions that survive a full disk."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..errors import ConfigurationError
from . import private_files
from .fork_safety import never_finalize, run_in_forked_children

logger = logging.getLogger(__name__)

NAME = "servicex.sqlite"
# Seconds between attempts to write while the disk is full: at first, and at most.
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 2.0

Written = TypeVar("Written")

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
    files INTEGER NOT NULL DEFAULT 0, submit_time TEXT NOT NULL, finish_time TEXT,
    result_destination TEXT NOT NULL DEFAULT 'object-store', tree_name TEXT,
    workers INTEGER DEFAULT 1);
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
# Columns of requests that are missing in the directories of earlier servers.
_ADDED = {
    "result_destination": "TEXT NOT NULL DEFAULT 'object-store'",
    "tree_name": "TEXT",
    "workers": "INTEGER DEFAULT 1",
}


class Database:
    """The tables of the server of a directory.

    Parameters
    ----------
    directory : Path
        Created if it does not exist.

    Raises
    ------
    ConfigurationError
        If another server uses the directory, it cannot be created or written to, others can write
        to it, or the database in it is damaged.
    """

    def __init__(self, directory: Path) -> None:
        private_files.make_directory(directory)
        self._path = directory / NAME
        self._depth = 0
        self._writing = asyncio.Lock()
        self._is_writable = asyncio.Event()
        self._is_writable.set()
        try:
            self._connection = _connect(directory)
        except OSError as error:
            raise ConfigurationError(
                f"The directory {directory} cannot be used: {error.strerror}."
            ) from error
        _open.add(self)

    def close(self) -> None:
        """Write everything and release the directory for other servers."""
        self._connection.close()

    def secret(self, name: str) -> str:
        """Return a random text that stays the same in this directory."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, secrets.token_hex(20))
            )
        return str(self.all("SELECT value FROM secrets WHERE name = ?", name)[0]["value"])

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all or nothing; a transaction within another one is a part of it."""
        if self._depth:
            yield self._connection
            return
        self._depth = 1
        try:
            with self._connection:
                yield self._connection
        except sqlite3.Error:
            # Before Python 3.11 a transaction stays open if its commit fails.
            if self._connection.in_transaction:
                self._connection.rollback()
            raise
        finally:
            self._depth = 0

    async def persist(self, write: Callable[[], Written]) -> Written:
        """Call a function that writes, again until the disk has space; one at a time."""
        async with self._writing:
            pause_s = FIRST_PAUSE_S
            while True:
                try:
                    written = write()
                except sqlite3.OperationalError as error:
                    if self._is_writable.is_set():
                        logger.warning(
                            "%s cannot be written (%s): transforms wait until it can be.",
                            self._path,
                            error,
                        )
                    self._is_writable.clear()
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, MAX_PAUSE_S)
                else:
                    self._is_writable.set()
                    return written

    async def until_writable(self) -> None:
        """Wait while a write waits for space on the disk."""
        await self._is_writable.wait()

    def all(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        return self._connection.execute(query, values).fetchall()

    def first(self, query: str, *values: object) -> sqlite3.Row | None:
        """Return the first row of a query."""
        row: sqlite3.Row | None = self._connection.execute(query, values).fetchone()
        return row


def _connect(directory: Path) -> sqlite3.Connection:
    path = directory / NAME
    private_files.make_file(path)
    for suffix in ("-wal", "-shm", "-journal"):
        private_files.check_file(directory / f"{NAME}{suffix}")
    connection = sqlite3.connect(path, timeout=0, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        # The first write locks the file for as long as this server lives.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check_owner(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        _add_columns(connection)
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _unusable(directory, error) from error
    return connection


def _check_owner(connection: sqlite3.Connection) -> None:
    """Raise DatabaseError if it is the database of another program, before writing to it."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    names = {row["name"] for row in rows}
    if names and "secrets" not in names:
        raise sqlite3.DatabaseError("it has the tables of another program")


def _add_columns(connection: sqlite3.Connection) -> None:
    present = {row["name"] for row in connection.execute("PRAGMA table_info(requests)")}
    with connection:
        for name, kind in _ADDED.items():
            if name not in present:
                connection.execute(f"ALTER TABLE requests ADD COLUMN {name} {kind}")


def _unusable(directory: Path, error: sqlite3.DatabaseError) -> ConfigurationError:
    """Return the error of a database that cannot be used."""
    path = directory / NAME
    if not isinstance(error, sqlite3.OperationalError):
        detail = str(error).splitlines()[-1]
        return ConfigurationError(
            f"{path} is damaged, or not a database of a LocalServiceX ({detail}). Take another "
            f"directory, or move {path} away: then the server starts without its requests."
        )
    if "locked" in str(error):
        return ConfigurationError(
            f"The directory {directory} cannot be used ({error}): one LocalServiceX at a time can "
            "use a directory."
        )
    return ConfigurationError(f"{path} cannot be used: {error}.")


_open: weakref.WeakSet[Database] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for database in list(_open):
        never_finalize(database._connection)
    _open.clear()


run_in_forked_children(_leave_to_parent)
