"""``servicex://<request id>/<object>``: delivered files, for everything that opens fsspec URLs.

The address holds no credentials. Whoever opens it must know the transform: the process that
submitted it, or a worker that reads one of its graphs.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from io import UnsupportedOperation
from typing import Any

from fsspec import AbstractFileSystem

from ..errors import AccessError
from ..transform.access import Grant
from ..transform.source import ResultSource, known
from .transport import CONNECTIONS, fetch

PROTOCOL = "servicex"


def address(request_id: str, object_name: str) -> str:
    """Return the address of an object.

    Examples
    --------
    >>> address("d857", ":data:nano.root")
    'servicex://d857/:data:nano.root'
    """
    return f"{PROTOCOL}://{request_id}/{object_name}"


class ServiceXFileSystem(AbstractFileSystem):
    """Read delivered files. Every read is a request to the store."""

    protocol = PROTOCOL

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return name, size in bytes and type of an object. One request.

        Raises
        ------
        ReadError
            If the object cannot be read.
        """
        _, size = self._fetch(path, 0, 1)
        return {"name": self._strip_protocol(path), "size": size, "type": "file"}

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return bytes ``start`` to ``end`` of an object.

        Raises
        ------
        ReadError
            If they cannot be read.
        """
        if end is None or end < 0 or (start or 0) < 0:
            size = self.info(path)["size"]
            start = max(0, size + start) if start is not None and start < 0 else start
            end = size if end is None else size + end if end < 0 else end
        start = start or 0
        return self._fetch(path, start, end)[0] if end > start else b""

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> list[Any]:
        """Return several ranges, fetched side by side.

        Unlike other file systems this raises by default: uproot takes what is returned for data.
        """
        if not isinstance(starts, list):
            starts, ends = [starts] * len(paths), [ends] * len(paths)
        futures = [
            _fetchers().submit(self.cat_file, path, start, end)
            for path, start, end in zip(paths, starts, ends, strict=True)
        ]
        return [_result(future, on_error) for future in futures]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Refuse: results are only read."""
        raise UnsupportedOperation("servicex:// is read-only")

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode != "rb":
            raise UnsupportedOperation("servicex:// is read-only")
        return super()._open(path, mode, **kwargs)

    def _fetch(self, path: str, start: int, stop: int) -> tuple[bytes, int]:
        request_id, _, object_name = self._strip_protocol(path).partition("/")
        return fetch(object_name, partial(_grant, _source(request_id), object_name), start, stop)


def _result(future: Future[bytes], on_error: str) -> Any:
    error = future.exception()
    if error is None or on_error == "raise":
        return future.result()
    return error


def _source(request_id: str) -> ResultSource:
    source = known(request_id)
    if source is None:
        raise AccessError(
            f"This process does not know the ServiceX request {request_id}. A servicex:// address "
            "can be opened where the query was submitted, and by workers that read its events.",
            request_id=request_id,
        )
    return source


def _grant(source: ResultSource, object_name: str, refresh: bool) -> Grant:
    return source.grant(object_name, refresh=refresh)


@lru_cache(maxsize=1)
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="coffea_sx-fetch")
