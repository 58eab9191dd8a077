"""``servicex://<request id>/<object>``: a file system of results, for everything that opens URLs.

The address holds no credentials. It can be opened where the transform is registered: in the process
that submitted it, and in a worker that reads one of its graphs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from io import UnsupportedOperation
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile
from fsspec.utils import stringify_path

from ..errors import AccessError, ObjectGone, ObjectReplaced, ReadError, ServiceXError
from ..policy import LENIENT
from ..polling.outcomes import Delivered, Failed
from ..polling.registry import find_source
from ..polling.results import ResultSource
from .policy import DEFAULT_POLICY, ReadPolicy
from .stored import Fetch, StoredObject, about, fetcher
from .transfer import ObjectPart, Range

PROTOCOL = "servicex"

# The suffix names the format, for those who look at suffixes.
_BY_INDEX = re.compile(r"@(\d+)(\.root|\.parquet)?")
# fsspec takes "::" for a chain of file systems; names of objects that were made of XRootD URLs
# contain it.
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


def address_of_index(request_id: str, index: int, result_format: str) -> str:
    """Return the address of the result of an input file, whatever its name.

    Examples
    --------
    >>> address_of_index("d857", 3, "root-file")
    'servicex://d857/@3.root'
    """
    suffix = "parquet" if result_format == "parquet" else "root"
    return f"{PROTOCOL}://{request_id}/@{index}.{suffix}"


def index_of(address: str) -> tuple[str, int] | None:
    """Return request id and index of an address that has an index."""
    request_id, name = split_address(address)
    match = _BY_INDEX.fullmatch(name) if address.startswith(f"{PROTOCOL}://") else None
    return (request_id, int(match[1])) if match else None


def _path(request_id: str, object_name: str) -> str:
    return f"{request_id}/" + _ESCAPED.sub(lambda match: f"%{ord(match[0]):X}", object_name)


def split_address(address: str) -> tuple[str, str]:
    """Return request id and name of an object from its address, with or without protocol.

    Examples
    --------
    >>> split_address("servicex://d857/root%3A:data:nano.root")
    ('d857', 'root::data:nano.root')
    """
    path = stringify_path(address).removeprefix(f"{PROTOCOL}://").removeprefix(f"{PROTOCOL}::")
    request_id, _, escaped = path.rstrip("/").partition("/")
    return request_id, _ESCAPES.sub(lambda match: chr(int(match[0][1:], 16)), escaped)


class _Location(NamedTuple):
    """An object, the source of its transform, and its result if it is a known one."""

    source: ResultSource
    object_name: str
    delivered: Delivered | None = None

    def fetcher(self, policy: ReadPolicy) -> Fetch:
        """Return the function that fetches bytes; its errors name the input file if it is known."""
        fetch = fetcher(self.source, self.object_name, policy)
        return fetch if self.delivered is None else partial(_fetch_delivered, fetch, self.delivered)


class ServiceXFileSystem(AbstractFileSystem):
    """File system of the results of ServiceX.

    A path is ``<request id>/<object>``, or ``<request id>/@<i>`` for the result of input file *i*,
    whatever its name, perhaps with ``.root`` or ``.parquet``: the path with an index waits for the
    result. ``::`` in the name of an object
    is written as ``%3A:``, as `ls` and `address` do.

    Parameters
    ----------
    patience_s : float, optional
        Time to wait for a result, seconds; by default until the transform ends or stalls.
    policy : ReadPolicy

    Notes
    -----
    Every read is a request to the store. Sizes are those of the result rows, which need no request;
    open files have the size that the store announces, should rows be wrong.
    """

    protocol = PROTOCOL

    def __init__(
        self,
        patience_s: float | None = DEFAULT_POLICY.result_s,
        policy: ReadPolicy = DEFAULT_POLICY,
        **storage_options: Any,
    ) -> None:
        super().__init__(patience_s=patience_s, policy=policy, **storage_options)
        self.patience_s, self.policy = patience_s, policy

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List the results of a transform that this process has received. No request.

        They are in the order of the input files. Results arrive while something waits for them: a
        computation, or opening an input file by its index.

        Raises
        ------
        AccessError
            If the transform is not registered in this process.
        ObjectGone
            If the path is that of an object which does not exist.
        """
        request_id, object_name = split_address(path)
        if object_name:
            infos = [self.info(path)]
        else:
            results = sorted(_source(request_id).delivered(), key=lambda result: result.index)
            infos = [_info(request_id, result) for result in results]
        return infos if detail else [info["name"] for info in infos]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return name, size in bytes and type of an object, its input file and number of events.

        An object that is no result, as far as this process has received them, has only name, size
        and type; that takes one request.

        Raises
        ------
        ReadError
            If there is no such object, or no result of the input file.
        TransformError
            If the transform ended without a result of the input file.
        """
        request_id, object_name = split_address(path)
        if not object_name:
            _source(request_id)
            return {"name": request_id, "size": 0, "type": "directory"}
        location = self._locate(path)
        if location.delivered is not None:
            return _info(request_id, location.delivered)
        size = self._fetcher(location)(0, 1).size
        return {"name": _path(request_id, location.object_name), "size": size, "type": "file"}

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return bytes ``start`` to ``end`` of an object. One request; two to count from its end.

        Raises
        ------
        ReadError
            If they cannot be read.
        """
        fetch = self._fetcher(self._locate(path))
        if (start or 0) < 0 or (end or 0) < 0:
            start, end, _ = slice(start, end).indices(fetch(0, 1).size)
        if end is not None and end <= (start or 0):
            return b""
        return fetch(start or 0, end).data

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

        Unlike other file systems this one raises by default, because uproot takes returned errors
        for data.
        """
        limits = (x if isinstance(x, list) else [x] * len(paths) for x in (starts, ends))
        ranges = list(zip(paths, *limits, strict=True))
        contents: dict[int, Any] = {}
        for path in dict.fromkeys(paths):
            positions = [i for i, (other, _, _) in enumerate(ranges) if other == path]
            try:
                parts: Sequence[Any] = self._cat_ranges(path, [ranges[i][1:] for i in positions])
            except ServiceXError as error:
                if on_error == "raise":
                    raise
                parts = [error] * len(positions)
            contents.update(zip(positions, parts, strict=True))
        return [contents[i] for i in range(len(ranges))]

    def _cat_ranges(self, path: str, ranges: list[tuple[int | None, int | None]]) -> list[bytes]:
        location = self._locate(path)
        size = location.delivered.nbytes if location.delivered else 0
        if any(end is None or end < 0 or (start or 0) < 0 for start, end in ranges):
            size = self._fetcher(location)(0, 1).size
            ranges = [slice(*limits).indices(size)[:2] for limits in ranges]
        wanted = [(start or 0, end or 0) for start, end in ranges]
        fetch = self._fetcher(location)
        stored = StoredObject(location.object_name, fetch, size, self.policy)
        stored.need(wanted)
        return [bytes(stored.read(start, stop)) for start, stop in wanted]

    def get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        """Copy an object to a file, which exists as a whole or not at all.

        fsspec's caches take any existing file for the whole object.
        """
        if not isinstance(lpath, (str, os.PathLike)) or Path(lpath).is_dir():
            return super().get_file(rpath, lpath, **kwargs)
        part = Path(f"{os.fspath(lpath)}.{uuid4().hex}.part")
        try:
            super().get_file(rpath, str(part), **kwargs)
            part.replace(lpath)
        finally:
            part.unlink(missing_ok=True)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Raise UnsupportedOperation: results are read-only."""
        raise UnsupportedOperation("servicex:// is read-only")

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any
    ) -> DeliveredFile:
        if mode != "rb":
            raise UnsupportedOperation("servicex:// is read-only")
        block_size = block_size or DeliveredFile.DEFAULT_BLOCK_SIZE
        return DeliveredFile(self, path, self._locate(path), block_size, **kwargs)

    def _fetcher(self, location: _Location) -> Fetch:
        return location.fetcher(self.policy)

    def _locate(self, path: str) -> _Location:
        """Return the object of a path; wait for its result if the path has an index."""
        request_id, object_name = split_address(path)
        by_index = _BY_INDEX.fullmatch(object_name)
        source = _source(request_id, by_index=by_index is not None)
        if not object_name:
            raise ReadError(
                f"servicex://{request_id} is a request, and no file.", request_id=request_id
            )
        index = int(by_index[1]) if by_index else None
        for delivered in source.delivered():
            if delivered.object_name == object_name or delivered.index == index:
                return _Location(source, delivered.object_name, delivered)
        if index is None:
            return _Location(source, object_name)
        delivered = self._wait(source, request_id, index)
        return _Location(source, delivered.object_name, delivered)

    def _wait(self, source: ResultSource, request_id: str, index: int) -> Delivered:
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
    """An open object, of one version and with the size that the store announces.

    One request opens it, and fetches all of it if that is less than a block.
    """

    def __init__(
        self, fs: ServiceXFileSystem, path: str, location: _Location, block_size: int, **kwargs: Any
    ) -> None:
        _, self._object_name, delivered = location
        self._fetch = location.fetcher(fs.policy)
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


def _fetch_delivered(
    fetch: Fetch,
    delivered: Delivered,
    start: int,
    stop: int | None,
    wanted: Sequence[Range] | None = None,
) -> ObjectPart:
    with about(delivered):
        return fetch(start, stop, wanted)


def _source(request_id: str, *, by_index: bool = False) -> ResultSource:
    """Return the source of the results of a transform in this process."""
    source = find_source(request_id, by_index=by_index)
    if source is None:
        raise AccessError(
            f"This process does not know the ServiceX request {request_id}. A servicex:// address "
            "can be opened where the query was submitted, and by workers that read its events. "
            "In other processes coffea's Runner needs the pool of the factory: "
            "FuturesExecutor(pool=factory.pool(executor)).",
            request_id=request_id,
        )
    return source


def _info(request_id: str, result: Delivered) -> dict[str, Any]:
    return {
        "name": _path(request_id, result.object_name),
        "size": result.nbytes,
        "type": "file",
        "input_file": result.input_file,
        "n_events": result.n_events,
    }
