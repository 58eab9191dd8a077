"""Which input files: an ordered list whose order is the order of the partitions.

On the server a file is known by its path and by the name of the object that is made of it; a row of
results says both, but no index. So every list in which a row could mean two files is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from posixpath import normpath
from typing import Any

from .errors import DatasetError

MAX_OBJECT_NAME = 255
# What rows of results have for the object of an input file that failed.
NO_OBJECT = "none"
# Schemes of names that ServiceX looks up, and what makes datasets of these.
LOOKED_UP = {"rucio": "Rucio", "cernopendata": "CERNOpenData"}


@dataclass(frozen=True, slots=True)
class InputFiles:
    """Input files in the order of the partitions.

    Parameters
    ----------
    paths : tuple of str
        One entry a file; replicas of one file are separated by commas, as the server writes them.
    """

    paths: tuple[str, ...]
    _by_path: dict[str, int] = field(init=False, repr=False, compare=False)
    _by_object: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_path, by_object = {}, {}
        for index, entry in enumerate(self.paths):
            for replica in entry.split(","):
                by_path[_plain(replica)] = index
                for suffix in ("", ".parquet"):
                    by_object[object_name(_https(replica) + suffix)] = index
        object.__setattr__(self, "_by_path", by_path)
        object.__setattr__(self, "_by_object", by_object)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def order(self) -> str:
        """Names this list in this order, shortly."""
        return sha1("\n".join(self.paths).encode(), usedforsecurity=False).hexdigest()[:16]

    def index_of(self, file_path: str, s3_object_name: str) -> int | None:
        """Return the index of the input file that a row of results is about, or None.

        The path in a row may be another replica, ``https`` for ``davs``, and have the address of a
        cache before it.
        """
        index = self._by_path.get(_plain(file_path))
        if index is None and s3_object_name != NO_OBJECT:
            index = self._by_object.get(s3_object_name)
        return index


def object_name(path: str) -> str:
    """Return the name of the object that a transformer makes of an input file.

    Examples
    --------
    >>> object_name("/data/nano.root")
    ':data:nano.root'
    """
    name = path.replace("/", ":")
    if len(name) <= MAX_OBJECT_NAME:
        return name
    digest = sha1(name.encode(), usedforsecurity=False).hexdigest()
    return f"_{digest}{name[len(digest) + 1 - MAX_OBJECT_NAME :]}"


def result_name(entry: str, suffix: str = "") -> str:
    """Return the name of the object that is made of an entry of a list, of its first replica."""
    return object_name(_https(entry.partition(",")[0]) + suffix)


def _https(path: str) -> str:
    return "https://" + path[len("davs://") :] if path.startswith("davs://") else path


def _plain(path: str) -> str:
    """Drop what caches put before a path: ``root://cache//root://host//data`` is the latter."""
    path = _https(path)
    start = max(path.rfind("root://"), path.rfind("https://"), path.rfind("http://"))
    return path[start:] if start > 0 else path


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is submitted: a list of files, or the identifier of a dataset to look up.

    Attributes
    ----------
    did : str or None
        ``scheme://name``, to be looked up by the server.
    files : InputFiles or None
        Known before anything is submitted only for lists of files.
    """

    did: str | None
    files: InputFiles | None


def identify(dataset: Any) -> Dataset:
    """Turn what the user gave into a dataset, or say why it has no unambiguous order.

    Parameters
    ----------
    dataset : sequence of str or Path, str, or servicex.dataset object
        The caller's list is copied: the servicex client sorts lists in place.

    Raises
    ------
    DatasetError
        If the list is empty, names a path twice, has a comma in a path, has two paths that become
        one object in the store, or one whose object would be called ``none``; if it names a
        dataset.
    """
    if isinstance(dataset, (str, Path)):
        return Dataset(None, listed([str(dataset)]))
    did = getattr(dataset, "did", None)
    if did is not None:
        return Dataset(str(did), None)
    files = getattr(dataset, "files", dataset)
    if isinstance(files, str):
        files = [files]
    if not isinstance(files, Sequence) or not all(isinstance(f, (str, Path)) for f in files):
        raise DatasetError(
            "Expected a list of files or an object of servicex.dataset (FileList, Rucio, "
            f"CERNOpenData, XRootD); got {_kinds(files)}."
        )
    return Dataset(None, listed([str(path) for path in files]))


def listed(paths: Sequence[str]) -> InputFiles:
    """Check a list of paths given by a user, and copy it."""
    if not paths:
        raise DatasetError("The list of input files is empty.")
    for path in paths:
        if not path:
            raise DatasetError("A path in the list of input files is empty.")
        if "," in path:
            raise DatasetError(
                f"There is a comma in {path!r}: ServiceX would take it for two replicas of one "
                "file. Rename or link the file.",
                input_file=path,
            )
        scheme, _, name = path.partition("://")
        if name and scheme in LOOKED_UP:
            raise DatasetError(
                f"{path!r} is no file but a dataset: give it as "
                f"servicex.dataset.{LOOKED_UP[scheme]}({name!r}).",
                input_file=path,
            )
        if object_name(_https(path)) == NO_OBJECT:
            raise DatasetError(
                f"The path {path!r} is what ServiceX writes for the result of a file that failed. "
                "Give the whole path.",
                input_file=path,
            )
    _refuse_twins(paths, "is in the list twice: its events would be counted twice", _same)
    _refuse_twins(
        paths,
        "has the same object name as another file of the list, so one result would overwrite the "
        "other. Rename or link one of them",
        lambda path: object_name(_https(path)),
    )
    return InputFiles(tuple(paths))


def _same(path: str) -> str:
    """Name a file in one way, which may have several: ``./nano.root`` is ``nano.root``."""
    return _plain(path) if "://" in path else normpath(path)


def _kinds(files: Any) -> str:
    if not isinstance(files, Sequence):
        return type(files).__name__
    return "a list with " + ", ".join(sorted({type(file).__name__ for file in files}))


def _refuse_twins(paths: Sequence[str], why: str, name: Any) -> None:
    counts = Counter(map(name, paths))
    for path in paths:
        if counts[name(path)] > 1:
            raise DatasetError(f"{path!r} {why}.", input_file=path)
