"""Input files of a transform: an ordered list, whose order is that of the partitions.

A row of results has the path of an input file and the name of its object in the store, but no
index. So every list in which a row could mean two files is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from posixpath import normpath
from typing import Any

from .errors import DatasetError
from .file_specs import file_specs, is_described

MAX_OBJECT_NAME = 255
# A longer name is replaced by a digest and as many characters of its end.
_DIGEST = re.compile("_[0-9a-f]{40}")
_TAIL_LENGTH = MAX_OBJECT_NAME - 41
# Name of the object in rows of results for input files that failed.
NO_OBJECT = "none"
PARQUET = ".parquet"
# Schemes of datasets that ServiceX looks up, and their classes in servicex.dataset.
DATASET_SCHEMES = {"rucio": "Rucio", "cernopendata": "CERNOpenData"}
# Schemes of paths on the machine that reads them.
_LOCAL = ("file://", "local://")
# Patterns of uproot besides ``*`` and ``?``: in plain paths, and after a local scheme. To
# Python's glob, ``[]`` and ``[!]`` are no patterns: a set has a character at least.
_BRACKETS = re.compile(r"\[(?:![^/]|[^/!])[^/\]]*\]|{[^}]*}")
_ANY_BRACKET = re.compile(r"[][{}]")


@dataclass(frozen=True, slots=True)
class InputFiles:
    """Input files in the order of the partitions.

    Parameters
    ----------
    paths : tuple of str
        One entry for each file; replicas of a file are separated by commas, as servers write them.
    """

    paths: tuple[str, ...]
    _by_path: dict[str, int] = field(init=False, repr=False, compare=False)
    _by_object: dict[str, int | None] = field(init=False, repr=False, compare=False)
    _by_tail: dict[str, int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_path, plain = {}, {}
        by_object: dict[str, int | None] = {}
        converted: dict[str, int | None] = {}
        by_tail: dict[str, int | None] = {}
        for index, entry in enumerate(self.paths):
            for path in map(_https, entry.split(",")):
                by_path[path] = plain[_without_cache(path)] = index
                _set_owner(converted, _converted(object_name(path)), index)
                for name in _full_names(path):
                    _set_owner(by_object, name, index)
                    if len(name) >= _TAIL_LENGTH:
                        _set_owner(by_object, _shortened(name), index)
                        _set_owner(by_tail, name[-_TAIL_LENGTH:], index)
                        _set_owner(by_tail, _converted(name[-_TAIL_LENGTH:]), index)
        object.__setattr__(self, "_by_path", plain | by_path)
        # A name that is certain has precedence over a name that only a conversion makes.
        object.__setattr__(self, "_by_object", converted | by_object)
        object.__setattr__(self, "_by_tail", by_tail)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def order(self) -> str:
        """Digest of the paths in their order."""
        return sha1("\n".join(self.paths).encode(), usedforsecurity=False).hexdigest()[:16]

    def index_of(self, file_path: str, s3_object_name: str) -> int | None:
        """Return the index of the input file of a row of results, or None.

        The path in a row may be another replica, ``https`` for ``davs``, and may begin with the
        address of a cache. The name of the object is used only if no input file has the path.
        """
        for path in _behind_caches(_https(file_path), "/"):
            if path in self._by_path:
                return self._by_path[path]
        return self.owner_of(s3_object_name)

    def owner_of(self, object_name: str) -> int | None:
        """Return the index of the input file of an object.

        An object has the path of its input file, of any replica, with ``:`` for ``/``. The name may
        begin with the address of a cache; ``.parquet`` may follow, or replace the suffix; a digest
        replaces the beginning of a name that is too long.

        Returns
        -------
        int or None
            None if the name fits no input file, or several.
        """
        if object_name == NO_OBJECT:
            return None
        for name in _behind_caches(object_name, ":"):
            if name in self._by_object:
                return self._by_object[name]
        if not _DIGEST.match(object_name):
            return None
        # The digest includes the address of a cache, which is unknown: only the end is compared.
        end = object_name[MAX_OBJECT_NAME - _TAIL_LENGTH :]
        if end in self._by_tail:
            return self._by_tail[end]
        whole = (
            self._by_object[name] for name in _after_each(end, "::") if name in self._by_object
        )
        return next(whole, None)


def object_name(path: str) -> str:
    """Return the name of the object that a transformer writes for an input file.

    Examples
    --------
    >>> object_name("/data/nano.root")
    ':data:nano.root'
    """
    return _shortened(path.replace("/", ":"))


def _shortened(name: str) -> str:
    if len(name) <= MAX_OBJECT_NAME:
        return name
    digest = sha1(name.encode(), usedforsecurity=False).hexdigest()
    return f"_{digest}{name[-_TAIL_LENGTH:]}"


def _full_names(path: str) -> tuple[str, str]:
    """Return the names of the objects of an input file, as ROOT and as Parquet, not shortened."""
    name = path.replace("/", ":")
    return name, f"{name}.parquet"


def _converted(name: str) -> str:
    """Return the name of a result that ServiceX converted to Parquet."""
    dot = name.rfind(".")
    return f"{name[:dot] if 0 < dot < len(name) - 1 else name}.parquet"


def _set_owner(owners: dict[str, int | None], name: str, index: int) -> None:
    """Set the owner of a name: None, if several files have it."""
    if owners.setdefault(name, index) != index:
        owners[name] = None


def suffix_of(result_format: str) -> str:
    """Return the suffix that a result format adds to names of objects."""
    return PARQUET if result_format == "parquet" else ""


def result_name(entry: str, suffix: str = "") -> str:
    """Return the name of the object of an entry of `InputFiles`, by its first replica."""
    return object_name(_https(entry.partition(",")[0]) + suffix)


def _https(path: str) -> str:
    return "https://" + path[len("davs://") :] if path.startswith("davs://") else path


def _without_cache(path: str) -> str:
    """Return a path without the cache: ``root://cache//root://host//data`` is the latter."""
    path = _https(path)
    start = max(path.rfind("root://"), path.rfind("https://"), path.rfind("http://"))
    return path[start:] if start > 0 else path


def _behind_caches(path: str, slash: str) -> Iterator[str]:
    """Yield a path, and each part of it that may follow the address of a cache; longest first.

    Servers that read through a cache write ``root://cache//`` before every path. In names of
    objects ``slash`` is ``:``.
    """
    yield path
    if path.startswith(f"root:{2 * slash}"):
        yield from _after_each(path, 2 * slash, len("root://"))


def _after_each(text: str, mark: str, start: int = 0) -> Iterator[str]:
    """Yield the text after each occurrence of a mark."""
    while (start := text.find(mark, start)) >= 0:
        yield text[start + len(mark) :]
        start += 1


@dataclass(frozen=True, slots=True)
class Dataset:
    """Input of a transform: a list of files, or the identifier of a dataset to look up.

    Attributes
    ----------
    did : str or None
        ``scheme://name`` of a dataset that the server looks up.
    files : InputFiles or None
        None for a dataset that the server looks up.
    tree : str or None
        Input tree, if the files are given with one.
    steps : int or None
        Steps of each file, if the files are given with steps.
    """

    did: str | None
    files: InputFiles | None
    tree: str | None = None
    steps: int | None = None


def identify(dataset: Any) -> Dataset:
    """Return a checked dataset, whose files have an unambiguous order.

    Parameters
    ----------
    dataset : sequence of str or Path, str, mapping or servicex.dataset object
        A mapping, or a list of them, as for `file_specs`. The caller's list is copied: the servicex
        client sorts lists in place.

    Raises
    ------
    DatasetError
        If the list is empty, has a path twice, a comma or a wildcard in a path, two paths that may
        become one object in the store, a path whose object would be called ``none``, or the name
        of a dataset. If trees or steps of files are not the same.
    """
    if is_described(dataset):
        specs = file_specs(dataset)
        return Dataset(None, checked_files(specs.paths), specs.tree, specs.steps)
    if isinstance(dataset, (str, Path)):
        return Dataset(None, checked_files([str(dataset)]))
    did = getattr(dataset, "did", None)
    if did is not None:
        return Dataset(str(did), None)
    files = getattr(dataset, "files", dataset)
    if isinstance(files, str):
        files = [files]
    if not isinstance(files, Sequence) or not all(isinstance(f, (str, Path)) for f in files):
        raise DatasetError(
            "Expected a list of files or an object of servicex.dataset (FileList, Rucio, "
            f"CERNOpenData, XRootD); got {_type_names(files)}."
        )
    return Dataset(None, checked_files([str(path) for path in files]))


def checked_files(paths: Sequence[str]) -> InputFiles:
    """Return a copy of a list of paths, after checks."""
    if not paths:
        raise DatasetError("The list of input files is empty.")
    for path in paths:
        _check_path(path)
    _check_duplicates(paths)
    _check_object_names(paths)
    return InputFiles(tuple(paths))


def _check_path(path: str) -> None:
    """Check that ServiceX reads a path as one file."""
    if not path:
        raise DatasetError("A path in the list of input files is empty.")
    if "," in path:
        raise DatasetError(
            f"There is a comma in {path!r}: ServiceX would take it for two replicas of one "
            "file. Rename or link the file.",
            input_file=path,
        )
    scheme, _, name = path.partition("://")
    if name and scheme in DATASET_SCHEMES:
        raise DatasetError(
            f"{path!r} is no file but a dataset: give it as "
            f"servicex.dataset.{DATASET_SCHEMES[scheme]}({name!r}).",
            input_file=path,
        )
    if object_name(_https(path)) == NO_OBJECT:
        raise DatasetError(
            f"The path {path!r} is what ServiceX writes for the result of a file that failed. "
            "Give the whole path.",
            input_file=path,
        )
    # In a URL, a query for the server follows a question mark.
    if "*" in path or ("?" in path and _is_local(path)):
        other = f", or give servicex.dataset.XRootD({path!r})" if path.startswith("root://") else ""
        raise DatasetError(
            f"{path!r} is a pattern: ServiceX would read all files that match it as one. List the "
            f"files{other}.",
            input_file=path,
        )


def check_brackets(files: InputFiles) -> None:
    """Refuse brackets, which are patterns where ServiceX opens files with ``uproot.dask``.

    Raises
    ------
    DatasetError
    """
    for path in files.paths:
        brackets = _ANY_BRACKET if path.startswith(_LOCAL) else _BRACKETS
        if _is_local(path) and brackets.search(path):
            raise DatasetError(
                f"There are brackets in {path!r}: ServiceX would take it for a pattern, and look "
                "for other files. Rename or link the file.",
                input_file=path,
            )


def check_converted_names(files: InputFiles) -> None:
    """Refuse files whose results have the same name after ServiceX converts them to Parquet.

    Raises
    ------
    DatasetError
    """
    first: dict[str, str] = {}
    for path in files.paths:
        name = _converted(object_name(_https(path)))
        if first.setdefault(name, path) != path:
            raise DatasetError(
                f"The results of {first[name]!r} and {path!r} would both be called {name!r} in "
                "Parquet. Ask for result_format='root-file', or rename or link one of them.",
                input_file=path,
            )


def _is_local(path: str) -> bool:
    return "://" not in path or path.startswith(_LOCAL)


def _check_duplicates(paths: Sequence[str]) -> None:
    counts = Counter(map(_normalized, paths))
    for path in paths:
        if counts[_normalized(path)] > 1:
            raise DatasetError(
                f"{path!r} is in the list twice: its events would be counted twice.",
                input_file=path,
            )


def _check_object_names(paths: Sequence[str]) -> None:
    """Refuse paths whose results could have the name of another file's result."""
    owners: dict[str, str] = {}
    for path in paths:
        for name in map(_shortened, _full_names(_https(path))):
            if owners.setdefault(name, path) != path:
                raise DatasetError(
                    f"{path!r} has the same object name as {owners[name]!r}, so one result would "
                    "overwrite the other. Rename or link one of them.",
                    input_file=path,
                )
    for path in paths:
        name, *behind = _behind_caches(_full_names(_https(path))[0], ":")
        others = [owners[part] for part in behind if part in owners]
        if others:
            raise DatasetError(
                f"{path!r} has the same object name as {others[0]!r} where ServiceX reads through "
                "a cache. Rename or link one of them.",
                input_file=path,
            )


def _normalized(path: str) -> str:
    """Return the same text for all spellings of a path: ``./nano.root`` is ``nano.root``."""
    return _without_cache(path) if "://" in path else normpath(path)


def _type_names(files: Any) -> str:
    if not isinstance(files, Sequence):
        return type(files).__name__
    return "a list with " + ", ".join(sorted({type(file).__name__ for file in files}))
