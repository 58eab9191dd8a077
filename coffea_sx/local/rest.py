"""The REST interface: what servers of each generation answer."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import answers, questions
from .buckets import BucketError, Buckets
from .generations import FILE_URLS, POST_CANCEL, REASONS, RESULTS, Generation
from .limits import Limited
from .objects import Objects
from .state import RUNNING, State
from .tokens import Tokens
from .transformer import CODEGENS, generate_source
from .web import ERROR_HANDLERS, Counted, Exchange, RefusalError
from .work import Work

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# The id of the only user.
USER = 1

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
        Serves the buckets, if they are the server's own.
    tokens : Tokens
    needs_tokens : bool
        Whether only those who have one are let in.
    generation : Generation
        What the server can do.
    url_expiry_s : int
        Life time of the URLs that it signs, in seconds.
    codegens : sequence of str
        The code generators to offer.
    """

    def __init__(
        self,
        state: State,
        work: Work,
        buckets: Buckets,
        objects: Objects | None,
        tokens: Tokens,
        needs_tokens: bool,
        generation: Generation,
        url_expiry_s: int,
        codegens: Sequence[str] = CODEGENS,
    ) -> None:
        self._state = state
        self._work = work
        self._buckets = buckets
        self._objects = objects
        self._tokens = tokens
        self._needs_tokens = needs_tokens
        self._generation = generation
        self._url_expiry_s = url_expiry_s
        self._codegens = tuple(codegens)

    def application(self, report: Callable[[Exchange], None], most_requests: int) -> ASGIApp:
        """Return the ASGI application; `report` is called with every exchange."""
        routes = [
            Route("/servicex", self.info),
            Route("/token/refresh", self.refresh, methods=["POST"]),
            *self._authorized_routes(),
        ]
        application = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
        application.router.redirect_slashes = False
        # Whatever is no path of the REST interface: a wrong method there stays a 405.
        application.router.default = self._objects_or_nothing
        return Counted(Limited(application, most_requests), report)

    def _authorized_routes(self) -> list[Route]:
        """Return the routes that the server's generation has."""
        requests, datasets = "/servicex/transformation", "/servicex/datasets"
        table: list[tuple[str | None, str, str, Handler]] = [
            # First: file-urls is no id.
            (FILE_URLS, "POST", f"{requests}/file-urls", self.file_urls),
            (None, "POST", requests, self.submit),
            (None, "GET", requests, self.list_requests),
            (None, "GET", f"{requests}/{{id}}", self.status),
            (RESULTS, "DELETE", f"{requests}/{{id}}", self.delete),
            (None, "GET", f"{requests}/{{id}}/status", self.statistics),
            (RESULTS, "GET", f"{requests}/{{id}}/results", self.results),
            (REASONS, "GET", f"{requests}/{{id}}/errors", self.errors),
            (None, "GET", f"{requests}/{{id}}/cancel", self.cancel),
            (POST_CANCEL, "POST", f"{requests}/{{id}}/cancel", self.cancel),
            (RESULTS, "GET", datasets, self.datasets),
            (RESULTS, "GET", f"{datasets}/{{id:int}}", self.dataset),
            (RESULTS, "DELETE", f"{datasets}/{{id:int}}", self.forget_dataset),
        ]
        capabilities = (None, *self._generation.capabilities)
        return [
            self._route(method, path, handler)
            for needed, method, path, handler in table
            if needed in capabilities
        ]

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        async def authorized(request: Request) -> Response:
            if self._needs_tokens:
                self._tokens.check_access(request.headers.get("authorization"))
            return await handler(request)

        return Route(path, authorized, methods=[method])

    # ---- server

    async def info(self, request: Request) -> Response:
        """Tell what the server is and can do."""
        said: dict[str, Any] = {
            "app-version": answers.app_version(),
            "code-gen-image": dict.fromkeys(self._codegens, answers.image()),
        }
        if self._generation.capabilities:
            said["capabilities"] = self._generation.capabilities
        return JSONResponse(said)

    async def refresh(self, request: Request) -> Response:
        """Give an access token for a refresh token."""
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
        wanted = await questions.submission(request, self._generation.result_formats)
        scheme = questions.did_scheme(wanted.did) if wanted.did else ""
        source = await self._generate(wanted.codegen, wanted.selection)
        request_id = str(uuid.uuid4())
        await self._in_store(self._buckets.make(request_id))
        with self._state.transaction():
            if wanted.did:
                did_id, lookup = self._state.dataset_of_did(wanted.did, scheme)
            else:
                did_id, lookup = self._state.dataset_of_list(wanted.paths), "complete"
            self._state.add_request(
                request_id,
                title=wanted.title,
                did_id=did_id,
                selection=wanted.selection,
                source=source,
                codegen=str(wanted.codegen),
                result_format=wanted.result_format,
                status="Pending Lookup" if lookup == "looking" else "Lookup",
                result_destination=wanted.result_destination,
                tree_name=wanted.tree_name,
                workers=wanted.workers,
            )
            if lookup == "complete":
                self._state.start_request(request_id)
        if lookup == "complete":
            self._work.add_files(request_id)
        elif lookup == "new":
            self._work.look_up(did_id, str(wanted.did))
        return JSONResponse({"request_id": request_id})

    async def list_requests(self, request: Request) -> Response:
        """Return the requests of all users or of one, without the keys of the object store."""
        user = questions.submitter(request)
        # Where nobody has to say who they are, requests are nobody's.
        is_wanted = user is None or (self._needs_tokens and user == USER)
        rows = self._state.requests() if is_wanted else []
        described = [answers.describe_request(row, self._generation) for row in rows]
        return JSONResponse({"requests": described})

    async def status(self, request: Request) -> Response:
        """Return one request, with the keys of the object store."""
        described = answers.describe_request(self._request(request), self._generation)
        return JSONResponse({**described, **answers.describe_location(self._buckets.location)})

    async def statistics(self, request: Request) -> Response:
        """Return counts and rates of one request."""
        row = self._request(request)
        results = self._state.results(row["request_id"])
        return JSONResponse(answers.describe_statistics(row, results, self._generation))

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

    async def file_urls(self, request: Request) -> Response:
        """Give URLs of objects that need no keys, for some time."""
        key, names = await questions.wanted_objects(request)
        row = self._state.request(key)
        if row is None:
            raise _not_found(key)
        location = self._buckets.location
        if self._objects is not None:
            # Where the client reached this server: a tunnel or a proxy may be before it.
            location = replace(location, endpoint=request.headers["host"])
        uris = {}
        for name in names:
            url, expiry = location.sign(row["request_id"], name, self._url_expiry_s)
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
