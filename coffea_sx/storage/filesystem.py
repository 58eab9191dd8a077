"""``servicex://<request id>/<object>``: delivered files, for everything that opens fsspec URLs.

The address holds no credentials. Whoever opens it must know the transform: the process that
submitted it, or a worker that reads one of its graphs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from io import UnsupportedOperation
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from ..errors import AccessError, ObjectGone, ObjectReplaced, ReadError, ServiceXError
from ..policy import LENIENT
from ..polling.outcomes import Delivered, Failed
from ..polling.registry import find_source
from ..polling.results import ResultSource
from .stored import Fetch, fetcher, stored_object

PROTOCOL = "servicex"
# How long opening an input file that has no result yet waits for it, seconds.
PATIENCE_S = 600.0

_BY_INDEX = re.compile(r"@(\d+)")
# fsspec takes "::", which is in the names of what was made of XRootD URLs, for a chain of file
# systems.
_ESCAPED = re.compile(r":(?=:)|%(?=3A|25)")
_ESCAPES = re.compile("%3A|%25")


def address(request_id: str, object_name: str) -> str:
    """Return the address of an object.

    Examples
    --------
    >>> address("d857", ":data:nano.root")
    'servicex://d857/:data:nano.root'
    """
    return f"{PROTOCOL}://{_path(request_id, object_name)}"


def _path(request_id: str, object_name: str) -> str:
    return f"{request_id}/" + _ESCAPED.sub(lambda found: f"%{ord(found[0]):X}", object_name)


class ServiceXFileSystem(AbstractFileSystem):
    """Read delivered files.

    A path is ``<request id>/<object>``, or ``<request id>/@<i>`` for the result of input file *i*,
    whatever it is called: that waits until there is one. ``::`` in the name of an object is
    written as ``%3A:``, as `ls` and `address` do.

    Parameters
    ----------
    patience_s : float
        How long it waits, seconds.

    Notes
    -----
    Every read is a request to the store. Sizes are those of the result rows, which need none;
    files that are open have the size that the store tells, should rows be wrong.
    """

    protocol = PROTOCOL

    def __init__(self, patience_s: float = PATIENCE_S, **storage_options: Any) -> None:
        super().__init__(patience_s=patience_s, **storage_options)
        self.patience_s = patience_s

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List the results of a request that this process knows of. No request.

        They are in the order of the input files. Results become known while something waits for
        them: a computation, or opening an input file by its index.

        Raises
        ------
        AccessError
            If this process does not know the ServiceX request.
        ObjectGone
            If the path is that of an object which does not exist.
        """
        request_id, object_name = self._parts(path)
        if object_name:
            found = [self.info(path)]
        else:
            delivered = sorted(_knowing(request_id).delivered(), key=lambda one: one.index)
            found = [_described(request_id, one) for one in delivered]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return name, size in bytes and type of an object, its input file and number of events.

        Of an object that this process does not know as a result only name, size and type, with
        one request.

        Raises
        ------
        ReadError
            If there is no such object, or no result of the input file.
        TransformError
            If the transform ended without one.
        """
        request_id, object_name = self._parts(path)
        if not object_name:
            _knowing(request_id)
            return {"name": request_id, "size": 0, "type": "directory"}
        source, object_name, delivered = self._object(path)
        if delivered is not None:
            return _described(request_id, delivered)
        size = fetcher(source, object_name)(0, 1).size
        return {"name": _path(request_id, object_name), "size": size, "type": "file"}

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return bytes ``start`` to ``end`` of an object. One request; two to count from its end.

        Raises
        ------
        ReadError
            If they cannot be read.
        """
        fetch = self._fetcher(path)
        if (start or 0) < 0 or (end or 0) < 0:
            start, end, _ = slice(start, end).indices(fetch(0, 1).size)
        start = start or 0
        if end is not None and end <= start:
            return b""
        return fetch(start, end).data

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> list[Any]:
        """Return several ranges, fetched in few requests.

        Unlike other file systems this raises by default: uproot takes what is returned for data.
        """
        if not isinstance(starts, list):
            starts = [starts] * len(paths)
        if not isinstance(ends, list):
            ends = [ends] * len(paths)
        ranges = list(zip(paths, starts, ends, strict=True))
        found: dict[int, Any] = {}
        for path in dict.fromkeys(paths):
            places = [i for i, (other, _, _) in enumerate(ranges) if other == path]
            try:
                parts: Sequence[Any] = self._ranges(path, [ranges[i][1:] for i in places])
            except ServiceXError as error:
                if on_error == "raise":
                    raise
                parts = [error] * len(places)
            found.update(zip(places, parts, strict=True))
        return [found[i] for i in range(len(ranges))]

    def _ranges(self, path: str, ranges: list[tuple[int | None, int | None]]) -> list[bytes]:
        source, object_name, delivered = self._object(path)
        size = delivered.nbytes if delivered else 0
        if any(end is None or end < 0 or (start or 0) < 0 for start, end in ranges):
            size = fetcher(source, object_name)(0, 1).size
            ranges = [slice(*limits).indices(size)[:2] for limits in ranges]
        wanted = [(start or 0, end or 0) for start, end in ranges]
        stored = stored_object(source, object_name, size)
        stored.need(wanted)
        return [bytes(stored.read(start, stop)) for start, stop in wanted]

    def get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        """Copy an object to a file, which is there as a whole or not at all.

        fsspec's caches take any file that is there for the whole object.
        """
        if not isinstance(lpath, (str, os.PathLike)) or Path(lpath).is_dir():
            super().get_file(rpath, lpath, **kwargs)
            return
        part = Path(f"{os.fspath(lpath)}.{uuid4().hex}.part")
        try:
            super().get_file(rpath, str(part), **kwargs)
            part.replace(lpath)
        finally:
            part.unlink(missing_ok=True)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Refuse: results are only read."""
        raise UnsupportedOperation("servicex:// is read-only")

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any
    ) -> DeliveredFile:
        if mode != "rb":
            raise UnsupportedOperation("servicex:// is read-only")
        return DeliveredFile(self, path, block_size=block_size, **kwargs)

    def _parts(self, path: str) -> tuple[str, str]:
        request_id, _, escaped = self._strip_protocol(path).partition("/")
        return request_id, _ESCAPES.sub(lambda found: chr(int(found[0][1:], 16)), escaped)

    def _fetcher(self, path: str) -> Fetch:
        source, object_name, _ = self._object(path)
        return fetcher(source, object_name)

    def _object(self, path: str) -> tuple[ResultSource, str, Delivered | None]:
        """Return who knows an object, its name, and its result if it is known as one.

        Waits for it if the path names an input file.
        """
        request_id, object_name = self._parts(path)
        source = _knowing(request_id)
        if not object_name:
            raise ReadError(
                f"servicex://{request_id} is a request, and no file.", request_id=request_id
            )
        by_index = _BY_INDEX.fullmatch(object_name)
        index = int(by_index[1]) if by_index else None
        for delivered in source.delivered():
            if delivered.object_name == object_name or delivered.index == index:
                return source, delivered.object_name, delivered
        if index is None:
            return source, object_name, None
        delivered = self._awaited(source, request_id, index)
        return source, delivered.object_name, delivered

    def _awaited(self, source: ResultSource, request_id: str, index: int) -> Delivered:
        if source.n_files is not None and index >= source.n_files:
            raise ReadError(
                f"Request {request_id} has {source.n_files} input files, counted from 0: there "
                f"is no file {index}.",
                request_id=request_id,
            )
        try:
            outcome = source.wait(index, self.patience_s, LENIENT)
        except TimeoutError:
            raise ReadError(
                f"Input file {index} of request {request_id} has no result after "
                f"{self.patience_s:g} s.",
                request_id=request_id,
            ) from None
        if isinstance(outcome, Failed):
            raise ObjectGone(
                f"There is no result of {outcome.input_file}: ServiceX could not transform it, "
                f"{outcome.reason or 'and gives no reason'}.",
                request_id=request_id,
                input_file=outcome.input_file,
            )
        return outcome


class DeliveredFile(AbstractBufferedFile):
    """An object that is open: of one version, and as large as the store says.

    One request opens it, and fetches all of it if that is less than a block.
    """

    def __init__(
        self, fs: ServiceXFileSystem, path: str, block_size: int | None = None, **kwargs: Any
    ) -> None:
        block_size = block_size or self.DEFAULT_BLOCK_SIZE
        source, self._object_name, delivered = fs._object(path)
        self._fetch = fetcher(source, self._object_name)
        is_small = delivered is not None and delivered.nbytes <= block_size
        first = self._fetch(0, block_size if is_small else 1)
        self._etag = first.etag
        if len(first.data) == first.size:
            kwargs.update(cache_type="all", cache_options={"data": first.data})
        kwargs["size"] = first.size
        super().__init__(fs, path, "rb", block_size, **kwargs)

    def _fetch_range(self, start: int, end: int) -> bytes:
        part = self._fetch(start, end)
        if (part.etag, part.size) != (self._etag, self.size):
            raise ObjectReplaced(
                f"The object {self._object_name!r} was replaced in the store while it was read.",
                object_name=self._object_name,
            )
        return part.data


def _knowing(request_id: str) -> ResultSource:
    """Return who knows the results of a request in this process."""
    source = find_source(request_id)
    if source is None:
        raise AccessError(
            f"This process does not know the ServiceX request {request_id}. A servicex:// address "
            "can be opened where the query was submitted, and by workers that read its events.",
            request_id=request_id,
        )
    return source


def _described(request_id: str, delivered: Delivered) -> dict[str, Any]:
    return {
        "name": _path(request_id, delivered.object_name),
        "size": delivered.nbytes,
        "type": "file",
        "input_file": delivered.input_file,
        "n_events": delivered.n_events,
    }
