"""The object store: delivered files over HTTP, with signatures and ranges, as S3 serves them."""

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

from .buckets import OwnBuckets, StoredObject
from .signatures import SignatureError, SignedRequest

BLOCK = 1 << 20
SMALL = 1 << 16
MAX_KEYS = 1000
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Objects:
    """Answers requests to ``/{bucket}`` and ``/{bucket}/{key}``.

    Parameters
    ----------
    buckets : OwnBuckets
        Have the objects, and the keys whose signatures are accepted.
    """

    def __init__(self, buckets: OwnBuckets) -> None:
        self._buckets = buckets
        self._keys = buckets.location.keys

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        raw_path = request.scope["raw_path"].decode("ascii")
        query = request.scope["query_string"].decode("ascii")
        signed = SignedRequest(request.method, raw_path, query, dict(request.headers))
        bucket, _, key = unquote(raw_path.lstrip("/")).partition("/")
        try:
            self._keys.check(signed)
        except SignatureError as refused:
            return _error(refused.status, refused.code, refused.message)
        if request.method not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowed", "Objects are read-only.")
        if not self._buckets.exists(bucket):
            return _error(404, "NoSuchBucket", "The specified bucket does not exist", bucket)
        if not key and "location" in signed.parameters:
            # What S3 says where no region has to be named.
            return _xml(f'<LocationConstraint xmlns="{NAMESPACE}"/>')
        if not key:
            return self._list(bucket, signed.parameters)
        stored = self._buckets.stored_object(bucket, key)
        if stored is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.", bucket)
        return _send_object(stored, request)

    def _list(self, bucket: str, parameters: dict[str, str]) -> Response:
        prefix = parameters.get("prefix", "")
        after = parameters.get("continuation-token") or parameters.get("start-after", "")
        limit = parameters.get("max-keys", "")
        limit_keys = min(int(limit), MAX_KEYS) if limit.isdigit() else MAX_KEYS
        found = [
            stored
            for stored in self._buckets.stored_objects(bucket)
            if stored.name.startswith(prefix) and stored.name > after
        ]
        page = found[:limit_keys]
        is_url = parameters.get("encoding-type") == "url"

        def text(name: str) -> str:
            return quote(name, safe="/-_.~") if is_url else escape(name)

        parts = [f"<Name>{bucket}</Name><Prefix>{text(prefix)}</Prefix>"]
        parts.append(f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{limit_keys}</MaxKeys>")
        parts.append(f"<IsTruncated>{str(len(page) < len(found)).lower()}</IsTruncated>")
        if is_url:
            parts.append("<EncodingType>url</EncodingType>")
        if page and len(page) < len(found):
            token = escape(page[-1].name)
            parts.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        parts.extend(
            f"<Contents><Key>{text(stored.name)}</Key>"
            f"<LastModified>{stored.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{escape(stored.etag)}</ETag><Size>{stored.nbytes}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for stored in page
        )
        return _xml(f'<ListBucketResult xmlns="{NAMESPACE}">{"".join(parts)}</ListBucketResult>')


def _send_object(stored: StoredObject, request: Request) -> Response:
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted.strip() != "*":
        tags = {tag.strip().strip('"') for tag in wanted.split(",")}
        if stored.etag.strip('"') not in tags:
            return _error(
                412,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold",
            )
    headers = {
        "accept-ranges": "bytes",
        "etag": stored.etag,
        "last-modified": format_datetime(stored.modified, usegmt=True),
    }
    try:
        span = _parse_range(request.headers.get("range"), stored.nbytes)
    except ValueError:
        refused = _error(416, "InvalidRange", "The requested range is not satisfiable")
        refused.headers["content-range"] = f"bytes */{stored.nbytes}"
        return refused
    if span is None:
        return _FileSlice(stored, 0, stored.nbytes, 200, headers)
    start, stop = span
    headers["content-range"] = f"bytes {start}-{stop - 1}/{stored.nbytes}"
    return _FileSlice(stored, start, stop, 206, headers)


def _parse_range(header: str | None, nbytes: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last; None for the whole object."""
    given = None if header is None else _RANGE.fullmatch(header.strip())
    # A header of several ranges, or one that is malformed, is answered with everything.
    if given is None or given.group(0) == "bytes=-":
        return None
    first, last = given.groups()
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
    """Bytes of a file, read block by block."""

    def __init__(
        self, stored: StoredObject, start: int, stop: int, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(
            status_code=status,
            headers={**headers, "content-length": str(stop - start)},
            media_type="application/octet-stream",
        )
        self._path = stored.path
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
            gone = asyncio.ensure_future(_disconnected(receive))
            try:
                while not gone.done():
                    block = await _read(file, min(left, BLOCK))
                    left -= len(block)
                    await send({"type": "http.response.body", "body": block, "more_body": left > 0})
                    # Of a file that is shorter than its object the rest is not sent: the client
                    # sees that the connection ends too early.
                    if left == 0 or not block:
                        break
            finally:
                gone.cancel()


async def _read(file: BinaryIO, nbytes: int) -> bytes:
    # For a few pages a thread costs more than the read.
    return file.read(nbytes) if nbytes <= SMALL else await asyncio.to_thread(file.read, nbytes)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(status: int, code: str, message: str, bucket: str | None = None) -> Response:
    detail = "" if bucket is None else f"<BucketName>{escape(bucket)}</BucketName>"
    body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{detail}</Error>"
    return _xml(body, status)


def _xml(body: str, status: int = 200) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'
    return Response(text, status_code=status, media_type="application/xml")
