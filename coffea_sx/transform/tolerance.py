"""How many input files may fail before a computation does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import BadInput


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How many input files may fail.

    Attributes
    ----------
    on_failure : {"raise", "skip"}
        Whether failed files end a computation, or are left out of it.
    max_failed : int or float or None
        How many may be left out: a number of files, or as a float a fraction of them; None is any.
    elsewhere : frozenset of int
        Files of the transform that count no longer: another transform delivers them.
    """

    on_failure: str
    max_failed: int | float | None = None
    elsewhere: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.on_failure not in ("raise", "skip"):
            raise BadInput(f'on_failure must be "raise" or "skip", got {self.on_failure!r}.')
        if self.max_failed is None:
            return
        if self.on_failure == "raise":
            raise BadInput(
                'max_failed= says how many files may be left out; use on_failure="skip".'
            )
        is_number = isinstance(self.max_failed, (int, float)) and not isinstance(
            self.max_failed, bool
        )
        limit = 1.0 if isinstance(self.max_failed, float) else float("inf")
        if not is_number or not 0 <= self.max_failed <= limit:
            raise BadInput(
                "max_failed must be a number of files (int), or a fraction of them (float, 0.0 to "
                f"1.0), got {self.max_failed!r}."
            )

    @property
    def skips(self) -> bool:
        """Whether failed files are left out."""
        return self.on_failure == "skip"

    def among(self, n_files: int) -> Tolerance:
        """Return the same with a number of files in place of a fraction."""
        if not isinstance(self.max_failed, float):
            return self
        return replace(self, max_failed=int(self.max_failed * n_files))

    def without(self, indices: Iterable[int]) -> Tolerance:
        """Return the same for a transform some of whose files another one delivers."""
        return replace(self, elsewhere=self.elsewhere.union(indices))

    def allows(self, n_failed: int) -> bool:
        """Whether a computation goes on when so many of its input files have failed."""
        return not n_failed or (
            self.skips and (self.max_failed is None or n_failed <= self.max_failed)
        )


STRICT = Tolerance("raise")
LENIENT = Tolerance("skip")
