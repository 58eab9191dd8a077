"""Rows of results, joined to input files."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from ..dataset import InputFiles
from .outcomes import Delivered, Failed, Outcome

logger = logging.getLogger(__name__)


class Ledger:
    """What became of the input files: each has one outcome, which never changes.

    Parameters
    ----------
    files : InputFiles
    """

    def __init__(self, files: InputFiles) -> None:
        self.files = files
        self.outcomes: dict[int, Outcome] = {}

    def news(self, rows: Iterable[dict[str, Any]]) -> list[Outcome]:
        """Return the outcomes in rows that are not kept yet.

        Rows come in any order and any number of times.
        """
        new: dict[int, Outcome] = {}
        for row in sorted(rows, key=lambda row: row["id"]):
            outcome = self._outcome(row)
            if outcome is None or outcome.index in self.outcomes:
                continue
            # Of several rows for a file, a result is worth more than a failure.
            if not isinstance(new.get(outcome.index), Delivered):
                new[outcome.index] = outcome
        return list(new.values())

    def keep(self, outcomes: Iterable[Outcome]) -> None:
        """Keep outcomes for good."""
        self.outcomes.update((outcome.index, outcome) for outcome in outcomes)

    def _outcome(self, row: dict[str, Any]) -> Outcome | None:
        name = row["s3-object-name"]
        index = self.files.index_of(row["file-path"], name)
        if index is None:
            logger.warning("A row of results is about a file that was not asked for")
            return None
        path = self.files.paths[index]
        if row["transform_status"] != "success":
            return Failed(index, path, None)
        return Delivered(
            index,
            path,
            name,
            int(row["total-bytes"] or 0),
            int(row["total-events"] or 0),
            str(row["created_at"]),
        )

    @property
    def missing(self) -> list[int]:
        """Input files without an outcome."""
        return [i for i in range(len(self.files)) if i not in self.outcomes]

    @property
    def is_complete(self) -> bool:
        """Whether every input file has an outcome."""
        return len(self.outcomes) == len(self.files)
