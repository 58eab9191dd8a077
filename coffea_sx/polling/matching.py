"""Rows of results, joined to input files."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from ..dataset import InputFiles
from .outcomes import Delivered, Failed, Outcome
from .results import ResultStore

logger = logging.getLogger(__name__)


class RowMatcher:
    """Make outcomes of rows of results: each input file has one, which never changes.

    Parameters
    ----------
    files : InputFiles
    results : ResultStore
        The outcomes so far; nothing is entered here.

    Attributes
    ----------
    newest : datetime or None
        The latest time at which a row says that it was made.
    """

    def __init__(self, files: InputFiles, results: ResultStore) -> None:
        self.files = files
        self.results = results
        self.newest: datetime | None = None
        self._seen: dict[Any, tuple[Any, ...]] = {}
        self._index_of_object: dict[str, int] = {}

    def news(self, rows: Iterable[dict[str, Any]]) -> list[Outcome]:
        """Return the outcomes in rows that are not in the store yet.

        Rows come in any order and any number of times.
        """
        fresh = [(row, _said(row)) for row in rows if self._seen.get(row["id"]) != _said(row)]
        new: dict[int, Outcome] = {}
        for row, _ in sorted(fresh, key=lambda one: one[0]["id"]):
            outcome = self._outcome(row)
            if outcome is None:
                continue
            kept = self.results.outcomes.get(outcome.index)
            if kept is not None:
                _compare(kept, outcome)
            elif not isinstance(new.get(outcome.index), Delivered):
                # Of several rows for a file, a result is worth more than a failure.
                new[outcome.index] = outcome
        # Only now: rows that make no sense are to be looked at again.
        self._seen.update((row["id"], said) for row, said in fresh)
        moments = [self.newest, *(_moment(row) for row, _ in fresh)]
        self.newest = max((moment for moment in moments if moment), default=None)
        return list(new.values())

    def _outcome(self, row: dict[str, Any]) -> Outcome | None:
        name = row["s3-object-name"]
        index = self.files.index_of(row["file-path"], name)
        if index is None:
            logger.warning("A row of results is about a file that was not asked for")
            return None
        path = self.files.paths[index]
        if row["transform_status"] != "success":
            return Failed(index, path, None)
        other = self._index_of_object.setdefault(name, self._owner_of(name, index))
        if other != index:
            return Failed(
                index,
                path,
                f"the server names the object {name!r} as its result, which is that of "
                f"{self.files.paths[other]}",
            )
        return Delivered(
            index,
            path,
            name,
            int(row["total-bytes"] or 0),
            None if row["total-events"] is None else int(row["total-events"]),
            str(row["created_at"]),
        )

    def _owner_of(self, name: str, index: int) -> int:
        """Return the input file whose result has a name, this one if names do not tell."""
        owner = self.files.owner_of(name)
        return index if owner is None else owner

    @property
    def n_rows(self) -> int:
        """How many rows there were."""
        return len(self._seen)


def _said(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what may change in a row."""
    return row["transform_status"], row["s3-object-name"], row["total-bytes"]


def _moment(row: dict[str, Any]) -> datetime | None:
    """Tell when a row says that it was made: in UTC, whether it says so or not."""
    try:
        moment = datetime.fromisoformat(row["created_at"].replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _compare(kept: Outcome, changed: Outcome) -> None:
    """Say that a file which has failed has a result by now: servers of 2026 change rows."""
    # A task that runs again must give the same data, so what was said stays said.
    if isinstance(kept, Failed) and isinstance(changed, Delivered):
        logger.warning(
            "%s failed, and has a result by now: retry_failed() gets it", kept.input_file
        )
