"""Records of datasets, requests and results in the database of a server."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone

from ..dataset import NO_OBJECT
from .database import Database
from .settings import utc_now
from .transformer import TransformResult

RUNNING = ("Submitted", "Lookup", "Pending Lookup", "Running")


@dataclass(frozen=True)
class NewRequest:
    """A transformation request that is recorded. `source` is what the transformers run."""

    request_id: str
    title: str | None
    did_id: int
    selection: str
    source: str
    codegen: str
    result_format: str
    status: str
    result_destination: str = "object-store"
    tree_name: str | None = None
    workers: int | None = 1


class Records:
    """The rows of a database, and their changes.

    Parameters
    ----------
    database : Database
    clock : callable
        Returns the time in UTC.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = clock
        self.transaction = database.transaction
        self.persist = database.persist
        self.until_writable = database.until_writable
        self._last_created = datetime.min.replace(tzinfo=timezone.utc)

    # ---- datasets

    def dataset_of_list(self, paths: Sequence[str]) -> int:
        """Return the id of the dataset of a file list, which is created for a new list."""
        name = hashlib.sha256(" ".join(paths).encode()).hexdigest()
        with self._database.transaction():
            dataset = self._use_dataset(name)
            if dataset is not None:
                return int(dataset["id"])
            dataset_id = self._add_dataset(name, "user", "complete")
            self._add_files(dataset_id, paths)
        return dataset_id

    def dataset_of_did(self, did: str, finder: str) -> tuple[int, str]:
        """Return the id of the dataset of a DID, and "complete", "looking" or "new"."""
        dataset = self._use_dataset(did)
        if dataset is None:
            return self._add_dataset(did, finder, "looking"), "new"
        return int(dataset["id"]), str(dataset["lookup_status"])

    def end_lookup(self, dataset_id: int, paths: Sequence[str] | None) -> list[str]:
        """Record the files of a dataset, or with None that it does not exist.

        Returns
        -------
        list of str
            Ids of the requests that waited for it: they run now, or have ended.
        """
        status = "does_not_exist" if paths is None else "complete"
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE datasets SET lookup_status = ?, n_files = ?, is_stale = ? WHERE id = ?",
                (status, len(paths or ()), paths is None, dataset_id),
            )
            self._add_files(dataset_id, paths or ())
            waiting = self._database.all(
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
        return self._database.first("SELECT * FROM datasets WHERE id = ?", dataset_id)

    def datasets(self, finder: str | None, show_deleted: bool) -> list[sqlite3.Row]:
        """Return the datasets, of one finder or of all."""
        return self._database.all(
            "SELECT * FROM datasets WHERE (? IS NULL OR did_finder = ?) AND (? OR NOT is_stale)"
            " ORDER BY id",
            finder,
            finder,
            show_deleted,
        )

    def dataset_files(self, dataset_id: int) -> list[sqlite3.Row]:
        """Return the files of a dataset in their order."""
        return self._database.all(
            "SELECT * FROM dataset_files WHERE dataset_id = ? ORDER BY id", dataset_id
        )

    def mark_stale(self, dataset_id: int) -> None:
        """Mark a dataset stale, so that it is looked up again."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE datasets SET is_stale = 1 WHERE id = ?", (dataset_id,))

    def _use_dataset(self, name: str) -> sqlite3.Row | None:
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE datasets SET last_used = ? WHERE name = ? AND NOT is_stale",
                (to_text(self._now()), name),
            )
        return self._database.first("SELECT * FROM datasets WHERE name = ? AND NOT is_stale", name)

    def _add_dataset(self, name: str, finder: str, status: str) -> int:
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO datasets (name, did_finder, last_used, lookup_status)"
                " VALUES (?, ?, ?, ?)",
                (name, finder, to_text(self._now()), status),
            )
        return int(cursor.lastrowid or 0)

    def _add_files(self, dataset_id: int, paths: Sequence[str]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO dataset_files (dataset_id, paths) VALUES (?, ?)",
                [(dataset_id, path) for path in paths],
            )

    # ---- requests

    def add_request(self, request: NewRequest) -> None:
        """Record a request, which `start_request` starts."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO requests (request_id, title, did, did_id, selection, source, codegen,"
                " result_format, status, submit_time, result_destination, tree_name, workers)"
                " SELECT :request_id, :title, name, id, :selection, :source, :codegen,"
                " :result_format, :status, :now, :result_destination, :tree_name, :workers"
                " FROM datasets WHERE id = :did_id",
                {**asdict(request), "now": to_text(self._now())},
            )

    def start_request(self, request_id: str) -> None:
        """Start a request, with the files of its dataset."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE requests SET status = 'Running', files ="
                " (SELECT count(*) FROM dataset_files WHERE dataset_id = did_id)"
                " WHERE request_id = ?",
                (request_id,),
            )
            self.complete_if_done(request_id)

    def request(self, key: str) -> sqlite3.Row | None:
        """Return a request by its id, or by the integer id of its row."""
        row_id = int(key) if key.isascii() and key.isdigit() and len(key) < 18 else -1
        return self._database.first(f"{_REQUESTS} WHERE r.request_id = ? OR r.id = ?", key, row_id)

    def requests(self) -> list[sqlite3.Row]:
        """Return all requests in the order of their submission."""
        return self._database.all(f"{_REQUESTS} ORDER BY r.id")

    def unfinished(self, request_id: str) -> list[sqlite3.Row]:
        """Return the input files of a request that have no result yet."""
        return self._database.all(
            "SELECT f.id, f.paths FROM dataset_files f JOIN requests r ON f.dataset_id = r.did_id"
            " WHERE r.request_id = ? AND NOT EXISTS (SELECT 1 FROM results"
            "  WHERE results.request_id = r.request_id AND results.file_id = f.id)"
            " ORDER BY f.id",
            request_id,
        )

    def is_running(self, request_id: str) -> bool:
        """Return True if results of this request are still recorded."""
        row = self._database.first("SELECT status FROM requests WHERE request_id = ?", request_id)
        return row is not None and row["status"] in RUNNING

    def cancel(self, request_id: str) -> None:
        """End a request; its results so far stay."""
        self._set_status(request_id, "Canceled")

    def cancel_all_but(self, codegens: Sequence[str]) -> None:
        """End the running requests of all other code generators than these."""
        for row in self.requests():
            if row["status"] in RUNNING and row["codegen"] not in codegens:
                self.cancel(row["request_id"])

    def delete_request(self, request_id: str) -> None:
        """Delete a request with its results."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM results WHERE request_id = ?", (request_id,))
            connection.execute("DELETE FROM requests WHERE request_id = ?", (request_id,))

    def _set_status(self, request_id: str, status: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE requests SET status = ?, finish_time = ? WHERE request_id = ?",
                (status, to_text(self._now()), request_id),
            )

    def complete_if_done(self, request_id: str) -> None:
        """End a running request that has a result for each of its files."""
        row = self.request(request_id)
        if row is not None and row["status"] == "Running" and row["done"] >= row["files"]:
            self._set_status(request_id, "Complete")

    # ---- results

    def add_result(
        self, request_id: str, file_id: int, result: TransformResult, object_name: str
    ) -> None:
        """Record the result of an input file, unless the request has ended meanwhile."""
        if not self.is_running(request_id):
            return
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO results (request_id, file_id, file_path, object_name, status, seconds,"
                " n_events, nbytes, created_at, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    request_id,
                    file_id,
                    result.input_path,
                    NO_OBJECT if result.reason else object_name,
                    "failure" if result.reason else "success",
                    result.seconds,
                    result.n_events,
                    result.nbytes,
                    to_text(self._next_created()),
                    result.reason,
                ),
            )
            self.complete_if_done(request_id)

    def _next_created(self) -> datetime:
        # Clients request rows later than their last one: no two rows may have the same time.
        self._last_created = max(self._now(), self._last_created + timedelta(microseconds=1))
        return self._last_created

    def results(self, request_id: str, later_than: datetime | None = None) -> list[sqlite3.Row]:
        """Return the result rows of a request, all or those after a time."""
        after = "" if later_than is None else to_text(later_than)
        return self._database.all(
            "SELECT * FROM results WHERE request_id = ? AND created_at > ? ORDER BY id",
            request_id,
            after,
        )


_REQUESTS = """
SELECT r.*,
    (SELECT count(*) FROM results s WHERE s.request_id = r.request_id) AS done,
    (SELECT count(*) FROM results s WHERE s.request_id = r.request_id AND s.status = 'failure')
        AS failed
FROM requests r"""


def to_text(time: datetime) -> str:
    """Return a time in the format of the database: UTC, naive, with microseconds."""
    if time.tzinfo is not None:
        time = time.astimezone(timezone.utc).replace(tzinfo=None)
    return time.isoformat(timespec="microseconds")
