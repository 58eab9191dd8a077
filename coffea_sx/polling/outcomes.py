"""Outcomes of input files: a result, or a failure; and of reading the result."""

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
        Size of the result in its row, bytes.
    n_events : int or None
        Number of events in its row; None if the server does not count them.
    created_at : str
        Time at which the row was made, as the server writes it.
    """

    index: int
    input_file: str
    object_name: str
    nbytes: int
    n_events: int | None
    created_at: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An input file without a result, for good.

    Attributes
    ----------
    index : int
    input_file : str
    reason : str or None
        Reason that the server gives.
    log_url : str or None
        Where the server keeps the logs of the transform.
    kind : str
        Name of the class of the error: ``TransformFailed`` if the file could not be transformed,
        else that of the error with which the transform ended.
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
        Number of partitions: events of one transform may be divided in several ways.
    index : int
        Position of the input file.
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
