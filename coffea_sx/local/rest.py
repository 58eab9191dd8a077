"""The REST interface: what ServiceX of 2026 answers, and of 2025 when results are in S3."""

from __future__ import annotations

import asyncio
import functools
import re
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import answers, questions
from .buckets import BucketError, Buckets
from .objects import Objects
from .state import RUNNING, State
from .tokens import Tokens
from .transformer import CODEGENS, generate_source
from .web import ERROR_HANDLERS, Counted, Exchange, RefusalError
from .work import Work

CAPABILITIES_2025 = [
    "poll_local_transformation_results",
    "long_sample_titles_10240",
    "post_cancel_transform",
]
CAPABILITIES = [*CAPABILITIES_2025, "generate_file_urls", "transformation_errors"]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Handler = Callable[[Request], Awaitable[Response]]


class Rest:
    """The handlers.

    Parameters
    ----------
    state : State
    work : Work
    buckets : Buckets
        Where results are kept. Their location and keys are told to clients in the status.
    objects : Objects or None
        Serves the buckets, if they are the server's own. Without, the server is one of 2025,
        which leaves it to its clients to sign URLs and does not tell why files failed.
    tokens : Tokens or None
        None lets everybody in.
    codegens : sequence of str
        The code generators to offer.
    """

    def __init__(
        self,
        state: State,
        work: Work,
        buckets: Buckets,
        objects: Objects | None,
        tokens: Tokens | None,
        codegens: Sequence[str] = CODEGENS,
    ) -> None:
        self._state = state
        self._work = work
        self._buckets = buckets
        self._objects = objects
        self._tokens = tokens
        self._codegens = tuple(codegens)

    def application(self, report: Callable[[Exchange], None]) -> ASGIApp:
        """Return the ASGI application; `report` is called with every exchange."""
        base = "/servicex/transformation"
        routes = [
            Route("/servicex", self.info),
            Route("/token/refresh", self.refresh, methods=["POST"]),
            self._route(base, self.submit, "POST"),
            self._route(base, self.list_requests, "GET"),
            self._route(f"{base}/{{id}}", self.status, "GET"),
            self._route(f"{base}/{{id}}", self.delete, "DELETE"),
            self._route(f"{base}/{{id}}/status", self.statistics, "GET"),
            self._route(f"{base}/{{id}}/results", self.results, "GET"),
            self._route(f"{base}/{{id}}/cancel", self.cancel, "GET", "POST"),
            self._route("/servicex/datasets", self.datasets, "GET"),
            self._route("/servicex/datasets/{id:int}", self.dataset, "GET"),
            self._route("/servicex/datasets/{id:int}", self.forget_dataset, "DELETE"),
        ]
        if self._objects is not None:
            file_urls = functools.partial(self.file_urls, self._objects)
            # First: file-urls is no id.
            routes.insert(0, self._route(f"{base}/file-urls", file_urls, "POST"))
            routes.append(self._route(f"{base}/{{id}}/errors", self.errors, "GET"))
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
                "app-version": answers.app_version(),
                "code-gen-image": dict.fromkeys(self._codegens, answers.image()),
                "capabilities": CAPABILITIES if self._objects else CAPABILITIES_2025,
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
        if self._objects is None or not (_UUID.fullmatch(bucket) or is_signed):
            raise HTTPException(404)
        response = await self._objects(request)
        await response(scope, receive, send)

    # ---- requests

    async def submit(self, request: Request) -> Response:
        """Record and start a transformation request."""
        body = await questions.submission(request)
        did: str = body.get("did") or ""
        scheme = questions.did_scheme(did) if did else ""
        source = await self._generate(body.get("codegen"), body.get("selection"))
        request_id = str(uuid.uuid4())
        await self._in_store(self._buckets.make(request_id))
        if did:
            did_id, lookup = self._state.dataset_of_did(did, scheme)
        else:
            did_id, lookup = self._state.dataset_of_list(body["file-list"]), "complete"
        self._state.add_request(
            request_id,
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
        return JSONResponse({"requests": [answers.describe_request(row) for row in rows]})

    async def status(self, request: Request) -> Response:
        """Return one request, with the keys of the object store."""
        described = answers.describe_request(self._request(request))
        return JSONResponse({**described, **answers.describe_location(self._buckets.location)})

    async def statistics(self, request: Request) -> Response:
        """Return counts and rates of one request."""
        row = self._request(request)
        results = self._state.results(row["request_id"])
        return JSONResponse(answers.describe_statistics(row, results))

    async def results(self, request: Request) -> Response:
        """Return the result rows; an unknown request has none."""
        later_than = questions.later_than(request)
        rows = self._state.results(request.path_params["id"], later_than)
        return JSONResponse({"results": [answers.describe_result(row) for row in rows]})

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
        await self._in_store(self._buckets.drop(request_id))
        self._state.delete_request(request_id)
        return JSONResponse({"message": f"Transform request {request_id} has been archived."})

    async def file_urls(self, objects: Objects, request: Request) -> Response:
        """Give URLs of objects that need no keys, for some time."""
        key, names = await questions.wanted_objects(request)
        row = self._state.request(key)
        if row is None:
            raise _not_found(key)
        uris = {}
        for name in names:
            url, expiry = objects.sign(request.headers["host"], row["request_id"], name)
            uris[name] = [url, {}, expiry]
        return JSONResponse({"uris": uris})

    async def _in_store(self, action: Awaitable[None]) -> None:
        try:
            await action
        except BucketError as error:
            raise RefusalError(500, f"Something went wrong ({error})") from error

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

    # ---- datasets

    async def datasets(self, request: Request) -> Response:
        """Return all datasets, without their files."""
        rows = self._state.datasets(
            request.query_params.get("did-finder"),
            request.query_params.get("show-deleted", "false").lower() == "true",
        )
        return JSONResponse({"datasets": [answers.describe_dataset(row) for row in rows]})

    async def dataset(self, request: Request) -> Response:
        """Return one dataset and its files, in their order."""
        row = self._dataset(request)
        files = [answers.describe_input(file) for file in self._state.dataset_files(row["id"])]
        return JSONResponse({**answers.describe_dataset(row), "files": files})

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


def _not_found(key: str) -> RefusalError:
    return RefusalError(404, f"Transformation request not found with id: {key}")
