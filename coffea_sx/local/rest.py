"""Handlers of the REST interface, as servers of each generation have it."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import requests, responses
from .buckets import Buckets
from .codegen import generate_source
from .error_pages import ERROR_HANDLERS, RefusalError
from .generations import FILE_URLS, POST_CANCEL, REASONS, RESULTS
from .middleware import LimitingMiddleware, LoggingMiddleware
from .object_store import ObjectStore
from .queue import TransformQueue
from .records import RUNNING, NewRequest, Records
from .settings import ServerOptions
from .tokens import Tokens

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# The id of the only user.
USER = 1

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class RestAPI:
    """The handlers of one server.

    Attributes
    ----------
    options : ServerOptions
    records : Records
    queue : TransformQueue
    buckets : Buckets
        Their address and keys are in the status of each request.
    object_store : ObjectStore or None
        None if the buckets are in another server.
    tokens : Tokens
    """

    options: ServerOptions
    records: Records
    queue: TransformQueue
    buckets: Buckets
    object_store: ObjectStore | None
    tokens: Tokens

    def application(self, max_requests: int) -> ASGIApp:
        """Return the ASGI application, with at most so many requests in work."""
        routes = [
            Route("/servicex", self.info),
            Route("/token/refresh", self.refresh, methods=["POST"]),
            *self._authorized_routes(),
        ]
        application = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
        application.router.redirect_slashes = False
        # For all other paths: a wrong method for a path of the REST interface stays a 405.
        application.router.default = self._respond_to_other_path
        limited = LimitingMiddleware(application, max_requests, self.options.settings)
        return LoggingMiddleware(limited, self.options.log)

    def _authorized_routes(self) -> list[Route]:
        """Return the routes of the server's generation."""
        transforms, datasets = "/servicex/transformation", "/servicex/datasets"
        table: list[tuple[str | None, str, str, Handler]] = [
            # The first one, as file-urls is not an id.
            (FILE_URLS, "POST", f"{transforms}/file-urls", self.file_urls),
            (None, "POST", transforms, self.submit),
            (None, "GET", transforms, self.list_requests),
            (None, "GET", f"{transforms}/{{id}}", self.status),
            (RESULTS, "DELETE", f"{transforms}/{{id}}", self.delete),
            (None, "GET", f"{transforms}/{{id}}/status", self.statistics),
            (RESULTS, "GET", f"{transforms}/{{id}}/results", self.results),
            (REASONS, "GET", f"{transforms}/{{id}}/errors", self.errors),
            (None, "GET", f"{transforms}/{{id}}/cancel", self.cancel),
            (POST_CANCEL, "POST", f"{transforms}/{{id}}/cancel", self.cancel),
            (RESULTS, "GET", datasets, self.datasets),
            (RESULTS, "GET", f"{datasets}/{{id:int}}", self.dataset),
            (RESULTS, "DELETE", f"{datasets}/{{id:int}}", self.mark_stale),
        ]
        capabilities = (None, *self.options.generation.capabilities)
        return [
            self._route(method, path, handler)
            for needed, method, path, handler in table
            if needed in capabilities
        ]

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        async def authorized(request: Request) -> Response:
            if self.options.needs_tokens:
                self.tokens.check_access(request.headers.get("authorization"))
            return await handler(request)

        return Route(path, authorized, methods=[method])

    # ---- server

    async def info(self, request: Request) -> Response:
        """Return version, code generators and capabilities of the server."""
        described: dict[str, Any] = {
            "app-version": responses.app_version(),
            "code-gen-image": dict.fromkeys(self.options.codegens, responses.image()),
        }
        if self.options.generation.capabilities:
            described["capabilities"] = self.options.generation.capabilities
        return JSONResponse(described)

    async def refresh(self, request: Request) -> Response:
        """Return an access token for a refresh token."""
        self.tokens.check_refresh(request.headers.get("authorization"))
        return JSONResponse({"access_token": self.tokens.access_token()})

    async def _respond_to_other_path(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        bucket = request.url.path.lstrip("/").partition("/")[0]
        is_signed = request.headers.get("authorization", "").startswith("AWS4-")
        if self.object_store is None or not (_UUID.fullmatch(bucket) or is_signed):
            raise HTTPException(404)
        response = await self.object_store(request)
        await response(scope, receive, send)

    # ---- requests

    async def submit(self, request: Request) -> Response:
        """Record and start a transformation request."""
        submission = await requests.read_submission(request, self.options.generation.result_formats)
        scheme = requests.did_scheme(submission.did) if submission.did else ""
        source = await self._generate(submission.codegen, submission.selection)
        request_id = str(uuid.uuid4())
        await self.buckets.make(request_id)
        with self.records.transaction():
            if submission.did:
                did_id, lookup = self.records.dataset_of_did(submission.did, scheme)
            else:
                did_id, lookup = self.records.dataset_of_list(submission.paths), "complete"
            self.records.add_request(
                NewRequest(
                    request_id,
                    title=submission.title,
                    did_id=did_id,
                    selection=submission.selection,
                    source=source,
                    codegen=str(submission.codegen),
                    result_format=submission.result_format,
                    status="Pending Lookup" if lookup == "looking" else "Lookup",
                    result_destination=submission.result_destination,
                    tree_name=submission.tree_name,
                    workers=submission.workers,
                )
            )
            if lookup == "complete":
                self.records.start_request(request_id)
        if lookup == "complete":
            self.queue.add_files(request_id)
        elif lookup == "new":
            self.queue.look_up(did_id, str(submission.did))
        return JSONResponse({"request_id": request_id})

    async def list_requests(self, request: Request) -> Response:
        """Return the requests of all users or of one of them, without the keys of the store."""
        user = requests.read_submitted_by(request)
        # Without tokens the requests belong to no user.
        is_listed = user is None or (self.options.needs_tokens and user == USER)
        rows = self.records.requests() if is_listed else []
        described = [responses.describe_request(row, self.options.generation) for row in rows]
        return JSONResponse({"requests": described})

    async def status(self, request: Request) -> Response:
        """Return one request, with the keys of the object store."""
        described = responses.describe_request(self._request(request), self.options.generation)
        return JSONResponse({**described, **responses.describe_store(self.buckets.address)})

    async def statistics(self, request: Request) -> Response:
        """Return counts and rates of one request."""
        row = self._request(request)
        results = self.records.results(row["request_id"])
        return JSONResponse(responses.describe_statistics(row, results, self.options.generation))

    async def results(self, request: Request) -> Response:
        """Return the result rows; an unknown request has none."""
        later_than = requests.read_later_than(request)
        rows = self.records.results(request.path_params["id"], later_than)
        return JSONResponse({"results": [responses.describe_result(row) for row in rows]})

    async def errors(self, request: Request) -> Response:
        """Return the reasons of failed files."""
        rows = self.records.results(self._request(request)["request_id"])
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
        self.records.cancel(request_id)
        return JSONResponse({"message": f"Canceled transformation request {request_id}"})

    async def delete(self, request: Request) -> Response:
        """Delete a request that has ended."""
        row = self._request(request)
        request_id = row["request_id"]
        if row["status"] in RUNNING:
            raise RefusalError(400, f"Transform request with id {request_id} is still in progress.")
        await self.buckets.drop(request_id)
        self.records.delete_request(request_id)
        return JSONResponse({"message": f"Transform request {request_id} has been archived."})

    async def file_urls(self, request: Request) -> Response:
        """Return signed URLs of objects."""
        key, names = await requests.read_object_names(request)
        row = self.records.request(key)
        if row is None:
            raise _not_found(key)
        address = self.buckets.address
        if self.object_store is not None:
            # The address that the client used: there may be a tunnel or a proxy.
            address = replace(address, endpoint=request.headers["host"])
        uris = {}
        for name in names:
            url, expiry = address.sign(row["request_id"], name, self.options.url_expiry_s)
            uris[name] = [url, {}, expiry]
        return JSONResponse({"uris": uris})

    async def _generate(self, codegen: Any, selection: Any) -> str:
        if codegen not in self.options.codegens:
            raise RefusalError(500, f"Invalid Codegen Image Passed in Request: {codegen}")
        try:
            return await asyncio.to_thread(generate_source, selection, codegen)
        except Exception as error:
            raise RefusalError(
                500, f"Something went wrong (Failed to generate translation code: {error})"
            ) from error

    def _request(self, request: Request) -> sqlite3.Row:
        key = request.path_params["id"]
        row = self.records.request(key)
        if row is None:
            raise _not_found(key)
        return row

    # ---- datasets

    async def datasets(self, request: Request) -> Response:
        """Return all datasets, without their files."""
        rows = self.records.datasets(
            request.query_params.get("did-finder"),
            request.query_params.get("show-deleted", "false").lower() == "true",
        )
        return JSONResponse({"datasets": [responses.describe_dataset(row) for row in rows]})

    async def dataset(self, request: Request) -> Response:
        """Return one dataset and its files, in their order."""
        row = self._dataset(request)
        files = [responses.describe_file(file) for file in self.records.dataset_files(row["id"])]
        return JSONResponse({**responses.describe_dataset(row), "files": files})

    async def mark_stale(self, request: Request) -> Response:
        """Mark a dataset stale."""
        row = self._dataset(request)
        self.records.mark_stale(row["id"])
        return JSONResponse({"dataset-id": row["id"], "stale": True})

    def _dataset(self, request: Request) -> sqlite3.Row:
        dataset_id = request.path_params["id"]
        row = self.records.dataset(dataset_id) if dataset_id < 1 << 63 else None
        if row is None:
            raise RefusalError(404, f"Dataset {dataset_id} not found")
        return row


def _not_found(key: str) -> RefusalError:
    return RefusalError(404, f"Transformation request not found with id: {key}")
