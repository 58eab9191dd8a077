"""Matching of rows of results to input files."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

from ..dataset import InputFiles
from ..servicex.models import ResultRow
from .outcomes import Delivered, Failed, Outcome
from .results import ResultStore

logger = logging.getLogger(__name__)

# The fields of a row that may change: servers since 2026 rewrite the row of a file.
Version: TypeAlias = tuple[bool, str, int]


class RowMatcher:
    """Outcomes of input files, from rows of results: each file has one, which never changes.

    Parameters
    ----------
    files : InputFiles
    results : ResultStore
        The outcomes so far; nothing is entered here.

    Attributes
    ----------
    newest : datetime or None
        Latest time at which a row was made.
    """

    def __init__(self, files: InputFiles, results: ResultStore) -> None:
        self.files = files
        self.results = results
        self.newest: datetime | None = None
        self._seen: dict[int | str, Version] = {}
        self._index_of_object: dict[str, int] = {}

    def new_outcomes(self, rows: Iterable[ResultRow]) -> list[Outcome]:
        """Return the outcomes in rows that are not in the store yet.

        Rows come in any order and any number of times.
        """
        unseen = [row for row in rows if self._seen.get(row.id) != _version(row)]
        new: dict[int, Outcome] = {}
        for row in sorted(unseen, key=lambda row: row.id):
            outcome = self._outcome(row)
            if outcome is None:
                continue
            recorded = self.results.outcomes.get(outcome.index)
            if recorded is not None:
                _warn_of_change(recorded, outcome)
            elif not isinstance(new.get(outcome.index), Delivered):
                # Of several rows for a file, a result is worth more than a failure.
                new[outcome.index] = outcome
        self._seen.update((row.id, _version(row)) for row in unseen)
        times = [self.newest, *(row.created for row in unseen)]
        self.newest = max((time for time in times if time), default=None)
        return list(new.values())

    def _outcome(self, row: ResultRow) -> Outcome | None:
        index = self.files.index_of(row.file_path, row.object_name)
        if index is None:
            logger.warning("A row of results is about a file that was not requested")
            return None
        path = self.files.paths[index]
        if not row.is_success:
            return Failed(index, path, None)
        owner = self._index_of_object.setdefault(
            row.object_name, self._owner_of(row.object_name, index)
        )
        if owner != index:
            return Failed(
                index,
                path,
                f"the server names the object {row.object_name!r} as its result, which is that of "
                f"{self.files.paths[owner]}",
            )
        return Delivered(index, path, row.object_name, row.nbytes, row.n_events, row.created_at)

    def _owner_of(self, object_name: str, default: int) -> int:
        """Return the input file whose result has a name; the default if there is none."""
        owner = self.files.owner_of(object_name)
        return default if owner is None else owner

    @property
    def n_rows(self) -> int:
        """Number of rows so far."""
        return len(self._seen)


def _version(row: ResultRow) -> Version:
    return row.is_success, row.object_name, row.nbytes


def _warn_of_change(recorded: Outcome, changed: Outcome) -> None:
    """Warn that a file which has failed has a result now; its outcome stays."""
    # A task that runs again must give the same data.
    if isinstance(recorded, Failed) and isinstance(changed, Delivered):
        logger.warning(
            "%s failed, and has a result now: retry_failed() gets it", changed.input_file
        )
