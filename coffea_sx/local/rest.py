"""The REST interface: what ServiceX of 2026 answers, key by key."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import statistics
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..query import RESULT_FORMATS
from .objects import Objects
from .signatures import Keys
from .state import RUNNING, State
from .tokens import Tokens
from .transformer import CODEGENS, generate_source
from .web import ERROR_HANDLERS, Counted, Exchange, RefusalError
from .work import Work

CAPABILITIES = [
    "poll_local_transformation_results",
    "long_sample_titles_10240",
    "post_cancel_transform",
    "generate_file_urls",
    "transformation_errors",
]
DID_SCHEMES = ("rucio", "cernopendata", "xrootd")

_BAD_REQUEST = "400 Bad Request"
_MALFORMED = (
    f"The json request was malformed: {_BAD_REQUEST}: The browser (or proxy) sent a request "
    "that this server could not understand."
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NEVER = "1970-01-01T00:00:00.000000Z"

Handler = Callable[[Request], Awaitable[Response]]


class Rest:
    """The handlers.

    Parameters
    ----------
    state : State
    work : Work
    keys : Keys
        For the object store, told to clients in the status.
    tokens : Tokens or None
        None lets everybody in.
    address : str
        ``host:port`` that clients connect to.
    url_expiry_s : int
        Life time of URLs from ``file-urls``, in seconds.
    codegens : sequence of str
        The code generators to offer.
    """

    def __init__(
        self,
        state: State,
        work: Work,
        keys: Keys,
        tokens: Tokens | None,
        address: str,
        url_expiry_s: int,
        codegens: Sequence[str] = CODEGENS,
    ) -> None:
        self._state = state
        self._work = work
        self._keys = keys
        self._tokens = tokens
        self._address = address
        self._url_expiry_s = url_expiry_s
        self._codegens = tuple(codegens)
        self._objects = Objects(state, keys)

    def application(self, report: Callable[[Exchange], None]) -> ASGIApp:
        """Return the ASGI application; `report` is called with every exchange."""
        base = "/servicex/transformation"
        routes = [
            Route("/servicex", self.info),
            Route("/token/refresh", self.refresh, methods=["POST"]),
            self._route(base, self.submit, "POST"),
            self._route(base, self.list_requests, "GET"),
            self._route(f"{base}/file-urls", self.file_urls, "POST"),
            self._route(f"{base}/{{id}}", self.status, "GET"),
            self._route(f"{base}/{{id}}", self.delete, "DELETE"),
            self._route(f"{base}/{{id}}/status", self.statistics, "GET"),
            self._route(f"{base}/{{id}}/results", self.results, "GET"),
            self._route(f"{base}/{{id}}/errors", self.errors, "GET"),
            self._route(f"{base}/{{id}}/cancel", self.cancel, "GET", "POST"),
            self._route("/servicex/datasets", self.datasets, "GET"),
            self._route("/servicex/datasets/{id:int}", self.dataset, "GET"),
            self._route("/servicex/datasets/{id:int}", self.forget_dataset, "DELETE"),
        ]
        application = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
        application.router.redirect_slashes = False
        # Whatever is no path of the REST interface: a wrong method there stays a 405.
        application.router.default = self._objects_or_nothing
        return Counted(application, report)

    def _route(self, path: str, handler: Handler, *methods: str) -> Route:
        async def authorized(request: Request) -> Response:
            if self._tokens is not None:
                self._tokens.check_access(request.headers.get("authorization"))
            return await handler(request)

        return Route(path, authorized, methods=list(methods))

    # ---- server

    async def info(self, request: Request) -> Response:
        """Tell what the server is and can do."""
        return JSONResponse(
            {
                "app-version": _app_version(),
                "code-gen-image": dict.fromkeys(self._codegens, _image()),
                "capabilities": CAPABILITIES,
            }
        )

    async def refresh(self, request: Request) -> Response:
        """Give an access token for a refresh token."""
        if self._tokens is None:
            raise HTTPException(404)
        self._tokens.check_refresh(request.headers.get("authorization"))
        return JSONResponse({"access_token": self._tokens.access_token()})

    async def _objects_or_nothing(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        bucket = request.url.path.lstrip("/").partition("/")[0]
        is_signed = request.headers.get("authorization", "").startswith("AWS4-")
        if not (_UUID.fullmatch(bucket) or is_signed):
            raise HTTPException(404)
        response = await self._objects(request)
        await response(scope, receive, send)

    # ---- requests

    async def submit(self, request: Request) -> Response:
        """Record and start a transformation request."""
        body = await _json_body(request)
        _check_submission(body)
        did: str = body.get("did") or ""
        paths: list[str] = body.get("file-list") or []
        if bool(did) == bool(paths):
            raise RefusalError(400, f"{_BAD_REQUEST}: Must provide did or file-list but not both")
        scheme = ""
        if did:
            scheme = did.partition("://")[0] if "://" in did else DID_SCHEMES[0]
            if scheme not in DID_SCHEMES:
                raise RefusalError(400, f"{_BAD_REQUEST}: DID scheme is not supported: {scheme}")
        source = await self._generate(body.get("codegen"), body.get("selection"))
        if paths:
            did_id, lookup = self._state.dataset_of_list(paths), "complete"
        else:
            did_id, lookup = self._state.dataset_of_did(did, scheme)
        request_id = self._state.add_request(
            title=body.get("title"),
            did_id=did_id,
            selection=body["selection"],
            source=source,
            codegen=body["codegen"],
            result_format=body["result-format"],
            status="Pending Lookup" if lookup == "looking" else "Lookup",
        )
        if lookup == "complete":
            self._state.start_request(request_id)
            self._work.add_files(request_id)
        elif lookup == "new":
            self._work.look_up(did_id, did)
        return JSONResponse({"request_id": request_id})

    async def list_requests(self, request: Request) -> Response:
        """Return all requests, without the keys of the object store."""
        rows = self._state.requests()
        return JSONResponse({"requests": [self._describe(row) for row in rows]})

    async def status(self, request: Request) -> Response:
        """Return one request, with the keys of the object store."""
        described = self._describe(self._request(request))
        described["minio-endpoint"] = self._address
        described["minio-secured"] = False
        described["minio-access-key"] = self._keys.access_key
        described["minio-secret-key"] = self._keys.secret_key
        return JSONResponse(described)

    async def statistics(self, request: Request) -> Response:
        """Return counts and rates of one request."""
        row = self._request(request)
        described = self._describe(row)
        return JSONResponse(
            {
                "files-completed": described["files-completed"],
                "files-failed": described["files-failed"],
                "files-processed": described["files-completed"],
                "files-remaining": described["files-remaining"],
                "files-skipped": described["files-failed"],
                "finish-time": described["finish-time"],
                "request-id": row["request_id"],
                "stats": _rates(self._state.results(row["request_id"])),
                "status": described["status"],
                "submit-time": described["submit-time"],
            }
        )

    async def results(self, request: Request) -> Response:
        """Return the result rows; an unknown request has none."""
        later_than = None
        text = request.query_params.get("later_than")
        if text is not None:
            later_than = _parse_time(text)
        rows = self._state.results(request.path_params["id"], later_than)
        return JSONResponse({"results": [_describe_result(row) for row in rows]})

    async def errors(self, request: Request) -> Response:
        """Tell why files failed."""
        rows = self._state.results(self._request(request)["request_id"])
        failed = [row for row in rows if row["status"] == "failure"]
        return JSONResponse(
            {"errors": [{"file-path": r["file_path"], "info": r["reason"]} for r in failed]}
        )

    async def cancel(self, request: Request) -> Response:
        """End a running request."""
        row = self._request(request)
        request_id = row["request_id"]
        if row["status"] not in RUNNING:
            raise RefusalError(400, f"Transform request with id {request_id} is not in progress.")
        self._state.cancel(request_id)
        return JSONResponse({"message": f"Canceled transformation request {request_id}"})

    async def delete(self, request: Request) -> Response:
        """Drop a request that has ended."""
        row = self._request(request)
        request_id = row["request_id"]
        if row["status"] in RUNNING:
            raise RefusalError(400, f"Transform request with id {request_id} is still in progress.")
        self._state.delete_request(request_id)
        return JSONResponse({"message": f"Transform request {request_id} has been archived."})

    async def file_urls(self, request: Request) -> Response:
        """Give URLs of objects that need no keys, for some time."""
        body = await _json_body(request)
        request_id, names = body.get("request_id"), body.get("file_list", None)
        if not isinstance(request_id, str) or not isinstance(names, list) or not _is_strings(names):
            raise RefusalError(400, _MALFORMED)
        row = self._state.request(request_id)
        if row is None:
            raise _not_found(request_id)
        base = f"http://{self._address}/{row['request_id']}"
        uris = {}
        for name in names:
            url, expiry = self._keys.presign(
                f"{base}/{quote(name, safe='-_.~')}", self._url_expiry_s
            )
            uris[name] = [url, {}, expiry]
        return JSONResponse({"uris": uris})

    async def _generate(self, codegen: Any, selection: Any) -> str:
        if codegen not in self._codegens:
            raise RefusalError(500, f"Invalid Codegen Image Passed in Request: {codegen}")
        try:
            return await asyncio.to_thread(generate_source, selection, codegen)
        except Exception as error:
            raise RefusalError(
                500, f"Something went wrong (Failed to generate translation code: {error})"
            ) from error

    def _request(self, request: Request) -> sqlite3.Row:
        key = request.path_params["id"]
        row = self._state.request(key)
        if row is None:
            raise _not_found(key)
        return row

    def _describe(self, row: sqlite3.Row) -> dict[str, Any]:
        return {
            "request_id": row["request_id"],
            "title": row["title"],
            "did": row["did"],
            "did_id": row["did_id"],
            "selection": row["selection"],
            "tree-name": None,
            "image": _image(),
            "workers": 1,
            "result-destination": "object-store",
            "result-format": row["result_format"],
            "generated-code-cm": f"{row['request_id']}-generated-source",
            "status": row["status"],
            "failure-info": None,
            "app-version": _app_version(),
            "code-gen-image": _image(),
            "files": row["files"],
            "files-completed": row["done"] - row["failed"],
            "files-failed": row["failed"],
            "files-remaining": row["files"] - row["done"] if row["files"] else None,
            "submit-time": f"{row['submit_time']}Z",
            "finish-time": f"{row['finish_time']}Z" if row["finish_time"] else "None",
        }

    # ---- datasets

    async def datasets(self, request: Request) -> Response:
        """Return all datasets, without their files."""
        rows = self._state.datasets(
            request.query_params.get("did-finder"),
            request.query_params.get("show-deleted", "false").lower() == "true",
        )
        return JSONResponse({"datasets": [_describe_dataset(row) for row in rows]})

    async def dataset(self, request: Request) -> Response:
        """Return one dataset and its files, in their order."""
        row = self._dataset(request)
        files = [
            {
                "id": file["id"],
                "adler32": "xxx",
                "file_size": 0,
                "file_events": 0,
                "paths": file["paths"],
            }
            for file in self._state.dataset_files(row["id"])
        ]
        return JSONResponse({**_describe_dataset(row), "files": files})

    async def forget_dataset(self, request: Request) -> Response:
        """Mark a dataset stale."""
        row = self._dataset(request)
        self._state.forget_dataset(row["id"])
        return JSONResponse({"dataset-id": row["id"], "stale": True})

    def _dataset(self, request: Request) -> sqlite3.Row:
        dataset_id = request.path_params["id"]
        row = self._state.dataset(dataset_id) if dataset_id < 1 << 63 else None
        if row is None:
            raise RefusalError(404, f"Dataset {dataset_id} not found")
        return row


def _describe_dataset(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "did_finder": row["did_finder"],
        "n_files": row["n_files"],
        "size": 0,
        "events": 0,
        "last_used": f"{row['last_used']}Z",
        "last_updated": _NEVER,
        "lookup_status": row["lookup_status"],
        "is_stale": bool(row["is_stale"]),
    }


def _describe_result(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "request-id": row["request_id"],
        "file-id": row["id"],
        "file-path": row["file_path"],
        "s3-object-name": row["object_name"],
        "transform_status": row["status"],
        "transform_time": int(row["seconds"]),
        "total-events": row["n_events"],
        "total-bytes": row["nbytes"],
        "avg-rate": _rate(row),
        "created_at": row["created_at"],
    }


def _rate(row: sqlite3.Row) -> float:
    return row["n_events"] / row["seconds"] if row["seconds"] > 0 else 0.0


def _rates(rows: list[sqlite3.Row]) -> dict[str, Any] | None:
    if not rows:
        return None
    times = [int(row["seconds"]) for row in rows]
    return {
        "avg-rate": statistics.fmean(_rate(row) for row in rows),
        "avg-time": statistics.fmean(times),
        "max-time": max(times),
        "min-time": min(times),
        "total-bytes": sum(row["nbytes"] for row in rows),
        "total-events": sum(row["n_events"] for row in rows),
        "total-time": sum(times),
    }


def _check_submission(body: dict[str, Any]) -> None:
    paths = body.get("file-list")
    is_good = (
        body.get("result-destination") == "object-store"
        and body.get("result-format") in RESULT_FORMATS
        and (paths is None or _is_strings(paths))
        and all(isinstance(body.get(name), str | None) for name in ("title", "did", "codegen"))
    )
    if not is_good:
        raise RefusalError(400, _MALFORMED)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


async def _json_body(request: Request) -> dict[str, Any]:
    # Browsers send other sites' forms without asking, but not as JSON.
    is_json = request.headers.get("content-type", "").partition(";")[0] == "application/json"
    try:
        body = await request.json() if is_json else None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RefusalError(400, _MALFORMED)
    return body


def _parse_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return time if time.tzinfo is None else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise RefusalError(
            400, f"later_than value {text} is not an ISO 8601 compliant datetime"
        ) from None


def _not_found(key: str) -> RefusalError:
    return RefusalError(404, f"Transformation request not found with id: {key}")


def _image() -> str:
    return f"coffea_sx.local:{_app_version()}"


def _app_version() -> str:
    try:
        return version("coffea_sx")
    except PackageNotFoundError:
        return "develop"
