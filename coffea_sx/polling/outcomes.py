"""What became of one input file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Delivered:
    """A result that can be read.

    Attributes
    ----------
    index : int
        Position of the input file, and so of the partition.
    input_file : str
    object_name : str
        Name of the result in the store.
    nbytes : int
        Size of the result as the server tells it, bytes.
    n_events : int or None
        Events as the server counts them; None if it does not.
    created_at : str
        When the server wrote it down, in its own words.
    """

    index: int
    input_file: str
    object_name: str
    nbytes: int
    n_events: int | None
    created_at: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An input file of which there will be no result.

    Attributes
    ----------
    index : int
    input_file : str
    reason : str or None
        What the server said, if it says anything.
    log_url : str or None
        Where the server keeps the logs of the transform, if it tells.
    kind : str
        Name of the error that stands for it: ``TransformFailed`` if the file could not be
        transformed, else why the transform ended without it.
    """

    index: int
    input_file: str
    reason: str | None
    log_url: str | None = None
    kind: str = "TransformFailed"


Outcome: TypeAlias = Delivered | Failed


@dataclass(frozen=True, slots=True)
class Read:
    """A partition that was read, or could not be.

    Attributes
    ----------
    partition : int
    npartitions : int
        Of how many: events of one transform may be divided in several ways.
    index : int
        Which input file of the transform.
    n_events : int
    finished_at : float
        Seconds since the epoch, by the clock of the reader.
    error : str or None
        Name of the error, if it could not be read.
    """

    partition: int
    npartitions: int
    index: int
    n_events: int
    finished_at: float
    error: str | None = None
