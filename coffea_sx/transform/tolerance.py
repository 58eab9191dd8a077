"""How many input files may fail before a computation does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real

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
    n_files : int
        Of which a fraction is one.
    """

    on_failure: str
    max_failed: int | float | None = None
    elsewhere: frozenset[int] = frozenset()
    n_files: int = 0

    def __post_init__(self) -> None:
        if self.on_failure not in ("raise", "skip"):
            raise BadInput(f'on_failure must be "raise" or "skip", got {self.on_failure!r}.')
        if self.max_failed is None:
            return
        if self.on_failure == "raise":
            raise BadInput(
                'max_failed= says how many files may be left out; use on_failure="skip".'
            )
        # numpy's numbers are numbers, too; bools are only to Python.
        is_number = isinstance(self.max_failed, Real) and not isinstance(self.max_failed, bool)
        is_count = isinstance(self.max_failed, Integral)
        if not is_number or not 0 <= self.max_failed <= (math.inf if is_count else 1.0):
            raise BadInput(
                "max_failed must be a number of files (int), or a fraction of them (float, 0.0 to "
                f"1.0), got {self.max_failed!r}."
            )
        plain = int(self.max_failed) if is_count else float(self.max_failed)
        object.__setattr__(self, "max_failed", plain)

    @property
    def skips(self) -> bool:
        """Whether failed files are left out."""
        return self.on_failure == "skip"

    @property
    def limit(self) -> int | None:
        """How many files may be left out; None is any."""
        if isinstance(self.max_failed, float):
            return int(self.max_failed * self.n_files)
        return self.max_failed

    def among(self, n_files: int) -> Tolerance:
        """Return the same for so many files, none of which is delivered elsewhere."""
        return replace(self, n_files=n_files, elsewhere=frozenset())

    def without(self, indices: Iterable[int]) -> Tolerance:
        """Return the same for a transform some of whose files another one delivers."""
        return replace(self, elsewhere=self.elsewhere.union(indices))

    def allows(self, n_failed: int) -> bool:
        """Whether a computation goes on when so many of its input files have failed."""
        return not n_failed or (self.skips and (self.limit is None or n_failed <= self.limit))


STRICT = Tolerance("raise")
LENIENT = Tolerance("skip")
