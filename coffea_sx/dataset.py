"""Which input files: an ordered list whose order is the order of the partitions.

On the server a file is known by its path and by the name of the object that is made of it; a row of
results says both, but no index. So every list in which a row could mean two files is refused.
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

MAX_OBJECT_NAME = 255
# Of a longer name a digest is taken, and so much of its end is kept.
_DIGEST = re.compile("_[0-9a-f]{40}")
_END = MAX_OBJECT_NAME - 41
# What rows of results have for the object of an input file that failed.
NO_OBJECT = "none"
PARQUET = ".parquet"
# Schemes of names that ServiceX looks up, and what makes datasets of these.
LOOKED_UP = {"rucio": "Rucio", "cernopendata": "CERNOpenData"}
# Schemes of paths of the machine that reads them.
_LOCAL = ("file://", "local://")
# What uproot takes for patterns besides ``*`` and ``?``: in local paths, and after such a scheme.
_BRACKETS, _ANY_BRACKET = re.compile(r"\[[^/]+\]|{[^}]*}"), re.compile(r"[][{}]")


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
    _by_object: dict[str, int | None] = field(init=False, repr=False, compare=False)
    _by_end: dict[str, int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_path, plain = {}, {}
        by_object: dict[str, int | None] = {}
        converted: dict[str, int | None] = {}
        by_end: dict[str, int | None] = {}
        for index, entry in enumerate(self.paths):
            for path in map(_https, entry.split(",")):
                by_path[path] = plain[_plain(path)] = index
                _enter(converted, _converted(object_name(path)), index)
                for name in _full_names(path):
                    _enter(by_object, name, index)
                    if len(name) >= _END:
                        _enter(by_object, _shortened(name), index)
                        _enter(by_end, name[-_END:], index)
                        _enter(by_end, _converted(name[-_END:]), index)
        object.__setattr__(self, "_by_path", plain | by_path)
        # A name that only a conversion may have made gives way to one as results always have it.
        object.__setattr__(self, "_by_object", converted | by_object)
        object.__setattr__(self, "_by_end", by_end)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def order(self) -> str:
        """Names this list in this order, shortly."""
        return sha1("\n".join(self.paths).encode(), usedforsecurity=False).hexdigest()[:16]

    def index_of(self, file_path: str, s3_object_name: str) -> int | None:
        """Return the index of the input file that a row of results is about, or None.

        The path in a row may be another replica, ``https`` for ``davs``, and have the address of a
        cache before it. The object is looked at only if the path tells nothing: `owner_of` says
        whether it is made of the same file.
        """
        for path in _behind_caches(_https(file_path), "/"):
            if path in self._by_path:
                return self._by_path[path]
        return self.owner_of(s3_object_name)

    def owner_of(self, object_name: str) -> int | None:
        """Return the index of the input file that an object is made of.

        An object has the name of its input file, of whichever replica was read, with ``:`` for
        ``/``. The address of a cache may be before it, ``.parquet`` behind it or in place of its
        suffix, and a digest in place of the beginning of a name that is too long.

        Returns
        -------
        int or None
            None if the name tells nothing: it is that of no input file, or may be that of several.
        """
        if object_name == NO_OBJECT:
            return None
        for name in _behind_caches(object_name, ":"):
            if name in self._by_object:
                return self._by_object[name]
        if not _DIGEST.match(object_name):
            return None
        # The digest is of an address, too, that is not known: only the end can be compared.
        end = object_name[MAX_OBJECT_NAME - _END :]
        if end in self._by_end:
            return self._by_end[end]
        whole = (self._by_object[name] for name in _tails(end, "::") if name in self._by_object)
        return next(whole, None)


def object_name(path: str) -> str:
    """Return the name of the object that a transformer makes of an input file.

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
    return f"_{digest}{name[-_END:]}"


def _full_names(path: str) -> tuple[str, str]:
    """Return the names of what is made of an input file, as long as they are: also in Parquet."""
    name = path.replace("/", ":")
    return name, f"{name}.parquet"


def _converted(name: str) -> str:
    """Return the name of a result that its transformer could not write in Parquet."""
    dot = name.rfind(".")
    return f"{name[:dot] if 0 < dot < len(name) - 1 else name}.parquet"


def _enter(owners: dict[str, int | None], name: str, index: int) -> None:
    """Enter whose a name is: nobody's, if it is that of several files."""
    if owners.setdefault(name, index) != index:
        owners[name] = None


def suffix_of(result_format: str) -> str:
    """Return what the names of results have behind those of their input files."""
    return PARQUET if result_format == "parquet" else ""


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


def _behind_caches(path: str, slash: str) -> Iterator[str]:
    """Yield a path, and what may stand in it behind the address of a cache; the longest first.

    Servers that read through a cache write ``root://cache//`` before every path, whatever that
    begins with. In names of objects ``slash`` is ``:``.
    """
    yield path
    if path.startswith(f"root:{2 * slash}"):
        yield from _tails(path, 2 * slash, len("root://"))


def _tails(text: str, mark: str, start: int = 0) -> Iterator[str]:
    """Yield what is behind each mark."""
    while (start := text.find(mark, start)) >= 0:
        yield text[start + len(mark) :]
        start += 1


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
        If the list is empty, names a path twice, has a comma or a wildcard in a path, has two
        paths that may become one object in the store, or one whose object would be called
        ``none``; if it names a dataset.
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
        _refuse_what_is_no_file(path)
    _refuse_twice(paths)
    _refuse_shared_objects(paths)
    return InputFiles(tuple(paths))


def _refuse_what_is_no_file(path: str) -> None:
    """Refuse a path that ServiceX would take for something else."""
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
    # In the address of a file elsewhere, what is behind a question mark is for its server.
    if "*" in path or ("?" in path and _is_local(path)):
        how = f", or give servicex.dataset.XRootD({path!r})" if path.startswith("root://") else ""
        raise DatasetError(
            f"{path!r} is a pattern: ServiceX would read all files that match it as one. List the "
            f"files{how}.",
            input_file=path,
        )


def refuse_patterns(files: InputFiles) -> None:
    """Refuse names that uproot takes for patterns, where ServiceX opens files with ``uproot.dask``.

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


def refuse_converted_twins(files: InputFiles) -> None:
    """Refuse files whose results have one name where ServiceX converts them to Parquet.

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


def _refuse_twice(paths: Sequence[str]) -> None:
    counts = Counter(map(_same, paths))
    for path in paths:
        if counts[_same(path)] > 1:
            raise DatasetError(
                f"{path!r} is in the list twice: its events would be counted twice.",
                input_file=path,
            )


def _refuse_shared_objects(paths: Sequence[str]) -> None:
    """Refuse paths of which the names of results could be those of another file."""
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
        others = [owners[one] for one in behind if one in owners]
        if others:
            raise DatasetError(
                f"{path!r} has the same object name as {others[0]!r} where ServiceX reads through "
                "a cache. Rename or link one of them.",
                input_file=path,
            )


def _same(path: str) -> str:
    """Name a file in one way, which may have several: ``./nano.root`` is ``nano.root``."""
    return _plain(path) if "://" in path else normpath(path)


def _kinds(files: Any) -> str:
    if not isinstance(files, Sequence):
        return type(files).__name__
    return "a list with " + ", ".join(sorted({type(file).__name__ for file in files}))
