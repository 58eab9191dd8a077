"""Object store of the server: delivered files over HTTP, with signatures and ranges, as in S3."""

from __future__ import annotations

import asyncio
import re
from email.utils import format_datetime
from typing import BinaryIO
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .buckets import BucketObject, DirectoryBuckets
from .signatures import SignatureError, SignedRequest

BLOCK = 1 << 20
SMALL = 1 << 16
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class ObjectStore:
    """Handler of requests to ``/{bucket}`` and ``/{bucket}/{key}``.

    Parameters
    ----------
    buckets : DirectoryBuckets
        The objects, and the keys whose signatures are accepted.
    listed_objects : int
        Objects in one page of a listing.
    """

    def __init__(self, buckets: DirectoryBuckets, listed_objects: int) -> None:
        self._buckets = buckets
        self._keys = buckets.address.keys
        self._listed_objects = listed_objects

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        raw_path = request.scope["raw_path"].decode("ascii")
        query = request.scope["query_string"].decode("ascii")
        signed = SignedRequest(request.method, raw_path, query, dict(request.headers))
        bucket, _, key = unquote(raw_path.lstrip("/")).partition("/")
        try:
            self._keys.check(signed)
        except SignatureError as error:
            return _error(error.status, error.code, error.message)
        if request.method not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowed", "Objects are read-only.")
        if not self._buckets.exists(bucket):
            return _error(404, "NoSuchBucket", "The specified bucket does not exist", bucket)
        if not key and "location" in signed.parameters:
            # As S3 for its default region.
            return _xml(f'<LocationConstraint xmlns="{NAMESPACE}"/>')
        if not key:
            return self._list(bucket, signed.parameters)
        entry = self._buckets.find_object(bucket, key)
        if entry is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.", bucket)
        return _send_object(entry, request)

    def _list(self, bucket: str, parameters: dict[str, str]) -> Response:
        prefix = parameters.get("prefix", "")
        after = parameters.get("continuation-token") or parameters.get("start-after", "")
        limit = parameters.get("max-keys", "")
        max_keys = (
            min(int(limit), self._listed_objects) if limit.isdigit() else self._listed_objects
        )
        entries = [
            entry
            for entry in self._buckets.list_objects(bucket)
            if entry.name.startswith(prefix) and entry.name > after
        ]
        page = entries[:max_keys]
        is_url = parameters.get("encoding-type") == "url"

        def text(name: str) -> str:
            return quote(name, safe="/-_.~") if is_url else escape(name)

        parts = [f"<Name>{bucket}</Name><Prefix>{text(prefix)}</Prefix>"]
        parts.append(f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{max_keys}</MaxKeys>")
        parts.append(f"<IsTruncated>{str(len(page) < len(entries)).lower()}</IsTruncated>")
        if is_url:
            parts.append("<EncodingType>url</EncodingType>")
        if page and len(page) < len(entries):
            token = escape(page[-1].name)
            parts.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        parts.extend(
            f"<Contents><Key>{text(entry.name)}</Key>"
            f"<LastModified>{entry.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{escape(entry.etag)}</ETag><Size>{entry.nbytes}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for entry in page
        )
        return _xml(f'<ListBucketResult xmlns="{NAMESPACE}">{"".join(parts)}</ListBucketResult>')


def _send_object(entry: BucketObject, request: Request) -> Response:
    condition = request.headers.get("if-match")
    if condition is not None and condition.strip() != "*":
        tags = {tag.strip().strip('"') for tag in condition.split(",")}
        if entry.etag.strip('"') not in tags:
            return _error(
                412,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold",
            )
    headers = {
        "accept-ranges": "bytes",
        "etag": entry.etag,
        "last-modified": format_datetime(entry.modified, usegmt=True),
    }
    try:
        span = _parse_range(request.headers.get("range"), entry.nbytes)
    except ValueError:
        response = _error(416, "InvalidRange", "The requested range is not satisfiable")
        response.headers["content-range"] = f"bytes */{entry.nbytes}"
        return response
    if span is None:
        return _FileSlice(entry, 0, entry.nbytes, 200, headers)
    start, stop = span
    headers["content-range"] = f"bytes {start}-{stop - 1}/{entry.nbytes}"
    return _FileSlice(entry, start, stop, 206, headers)


def _parse_range(header: str | None, nbytes: int) -> tuple[int, int] | None:
    """Return the offsets of the first byte and behind the last; None for the whole object."""
    match = None if header is None else _RANGE.fullmatch(header.strip())
    # For several ranges, or a malformed header, the response is the whole object.
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(nbytes - int(last), 0), nbytes
    else:
        start, stop = int(first), min(int(last) + 1, nbytes) if last else nbytes
        if last and int(last) < start:
            return None
    if start >= stop:
        raise ValueError(header)
    return start, stop


class _FileSlice(Response):
    """A part of a file, read block by block."""

    def __init__(
        self, entry: BucketObject, start: int, stop: int, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(
            status_code=status,
            headers={**headers, "content-length": str(stop - start)},
            media_type="application/octet-stream",
        )
        self._path = entry.path
        self._start = start
        self._left = stop - start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._path.open("rb") as file:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            left = 0 if scope["method"] == "HEAD" else self._left
            file.seek(self._start)
            disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
            try:
                while not disconnected.done():
                    block = await _read(file, min(left, BLOCK))
                    left -= len(block)
                    await send({"type": "http.response.body", "body": block, "more_body": left > 0})
                    # If the file is shorter than its object, the client sees that the connection
                    # ends too early.
                    if left == 0 or not block:
                        break
            finally:
                disconnected.cancel()


async def _read(file: BinaryIO, nbytes: int) -> bytes:
    # A thread takes longer than the read of a small block.
    return file.read(nbytes) if nbytes <= SMALL else await asyncio.to_thread(file.read, nbytes)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(status: int, code: str, message: str, bucket: str | None = None) -> Response:
    detail = "" if bucket is None else f"<BucketName>{escape(bucket)}</BucketName>"
    body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{detail}</Error>"
    return _xml(body, status)


def _xml(body: str, status: int = 200) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'
    return Response(text, status_code=status, media_type="application/xml")
