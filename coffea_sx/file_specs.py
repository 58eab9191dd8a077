"""Descriptions of input files as coffea's ``from_root`` and ``DataGroupSpec`` have them.

>>> specs = file_specs({"a.root": "Events", "b.root": {"object_path": "Events", "steps": None}})
>>> specs.paths, specs.tree, specs.steps
(('a.root', 'b.root'), 'Events', None)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .errors import DatasetError


@dataclass(frozen=True, slots=True)
class FileSpecs:
    """Input files, and what their descriptions have in common.

    Attributes
    ----------
    paths : tuple of str
    tree : str or None
        None if no file has an object path.
    steps : int or None
        Steps of each file; None if no file has any.
    """

    paths: tuple[str, ...]
    tree: str | None
    steps: int | None


def is_described(files: Any) -> bool:
    """Return True if input files have descriptions: a mapping, or a list of mappings."""
    if isinstance(files, Mapping):
        return True
    is_list = isinstance(files, Sequence) and not isinstance(files, str) and bool(files)
    return is_list and all(isinstance(file, Mapping) for file in files)


def file_specs(files: Mapping[Any, Any] | Iterable[Mapping[Any, Any]]) -> FileSpecs:
    """Return the paths of described files, their tree and the number of their steps.

    Parameters
    ----------
    files : mapping, or list of mappings
        ``{path: "Events"}``, ``{path: {"object_path": "Events", "steps": [[0, 10], [10, 20]]}}``,
        or file specs of coffea in place of the dicts.

    Raises
    ------
    DatasetError
        If the files have several trees, different numbers of steps, or steps that leave out events.
    """
    mappings = [files] if isinstance(files, Mapping) else files
    described = [(str(path), _description(path, about)) for path, about in _items(mappings)]
    return FileSpecs(
        tuple(path for path, _ in described),
        _common(described, "tree", lambda path, about: about.get("object_path")),
        _common(described, "number of steps", _n_steps),
    )


def _items(mappings: Iterable[Mapping[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for mapping in mappings:
        yield from mapping.items()


def _description(path: Any, about: Any) -> Mapping[str, Any]:
    if hasattr(about, "model_dump"):
        about = about.model_dump()
    if about is None or isinstance(about, str):
        about = {"object_path": about}
    if not isinstance(path, (str, Path)) or not isinstance(about, Mapping):
        raise DatasetError(
            f"The description of the input file {path!r} is of type {type(about).__name__}: give "
            "the name of its tree, or {'object_path': ..., 'steps': ...}, as to from_root."
        )
    return about


def _common(described: Iterable[tuple[str, Mapping[str, Any]]], name: str, value_of: Any) -> Any:
    """Return the value that all files have in common; None if none has one."""
    first: tuple[Any, str] | None = None
    for path, about in described:
        value = value_of(path, about)
        if value is None:
            continue
        if first is not None and value != first[0]:
            raise DatasetError(
                f"Input files of one dataset have the same {name}: that of {first[1]!r} is "
                f"{first[0]!r}, and that of {path!r} is {value!r}. Make two datasets of them.",
                input_file=path,
            )
        first = first or (value, path)
    return None if first is None else first[0]


def _n_steps(path: str, about: Mapping[str, Any]) -> int | None:
    """Return the number of steps of a file, or None if any number would do.

    Raises
    ------
    DatasetError
    """
    steps, n_events = about.get("steps"), about.get("num_entries")
    if steps is None or n_events == 0:
        return None
    try:
        limits = [(int(start), int(stop)) for start, stop in _pairs(list(steps))]
    except (TypeError, ValueError):
        raise DatasetError(
            f"steps={steps!r} of {path!r} are no pairs [start, stop], as [[0, 10], [10, 20]].",
            input_file=path,
        ) from None
    starts = [0, *(stop for _, stop in limits)]
    is_whole = bool(limits) and [start for start, _ in limits] == starts[:-1]
    if not is_whole or n_events not in (None, starts[-1]):
        covered = f"{sum(stop - start for start, stop in limits)} events"
        total = "" if n_events is None else f" of {n_events}"
        raise DatasetError(
            f"The steps of {path!r} leave out events: {steps!r} are {covered}{total}. ServiceX "
            "transforms whole files: leave out the steps, or select events in the query.",
            input_file=path,
        )
    return len(limits)


def _pairs(steps: list[Any]) -> Iterable[Any]:
    """Return the limits of steps: pairs, or as uproot takes them too, offsets."""
    return steps if any(isinstance(step, Sequence) for step in steps) else pairwise(steps)
