"""The REST interface of a ServiceX server, with responses as models."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from ..policy import DEFAULT_CLIENT, ClientPolicy
from ..query import Selection
from ..wire.clock import DEFAULT_LIMITS, Limits
from . import models
from .config import Endpoint
from .http import TRANSFORMATION, HttpSession, Request
from .models import DatasetInfo, ResultRow, ServerInfo, SignedUrl, StoreKeys, TransformStatus


class ServiceXClient(HttpSession):
    """Requests to one ServiceX.

    Parameters
    ----------
    endpoint : Endpoint
    policy : ClientPolicy
    limits : Limits
        Time that one request may take.

    Raises
    ------
    ServerError
        By every method that makes a request: `Unreachable`, `NotAuthorized`, `RequestRefused`, and
        `ProtocolError` for a response that no ServiceX gives.
    TransformGone
        By methods that take a request id, if the server has no such transform.

    Notes
    -----
    Reading is repeated on transient errors; submitting is repeated only if it was not sent, so that
    no transform runs twice. An access token is renewed once when the server refuses it.

    ``timeout_s`` is the most seconds that a request takes in all, with repetitions and a new access
    token. `close` ends requests at once, from any thread.
    """

    _info: ServerInfo | None = None

    def info(self, *, timeout_s: float = math.inf) -> ServerInfo:
        """Return what the server can do. One request, the first time."""
        if self._info is None:
            self._info = self.get("/servicex", ServerInfo.from_json, timeout_s)
        return self._info

    def submit(self, selection: Selection, *, did: str | None, files: Sequence[str] | None) -> str:
        """Submit a transform; return its request id.

        Raises
        ------
        OutcomeUnknown
            If the server does not respond, and may have the transform.
        """
        body: dict[str, Any] = {
            "title": selection.title,
            "selection": selection.text,
            "codegen": selection.codegen,
            "result-destination": "object-store",
            "result-format": selection.result_format,
            **({"file-list": list(files or ())} if did is None else {"did": did}),
        }
        request = Request("POST", TRANSFORMATION, body, is_repeatable=False)
        return self.send(request, partial(models.read, "request_id", models.exactly(str)))

    def transforms(self) -> list[TransformStatus]:
        """Return the status of every transform that the server lists."""
        parse = partial(models.read, "requests", TransformStatus.all_from_json)
        return self.get(TRANSFORMATION, parse)

    def status(self, request_id: str, *, timeout_s: float = math.inf) -> TransformStatus:
        """Return the status of a transform."""
        return self.get(f"{TRANSFORMATION}/{request_id}", models.parse_status, timeout_s)

    def store_keys(self, request_id: str) -> StoreKeys:
        """Return the keys of the store, which are in the status of a transform."""
        return self.get(f"{TRANSFORMATION}/{request_id}", StoreKeys.from_json)

    def results(
        self, request_id: str, later_than: datetime | None = None, *, timeout_s: float = math.inf
    ) -> list[ResultRow]:
        """Return rows of results, unsorted: all, or those that were made after a time.

        Rows may appear after others that were made later.
        """
        since = f"?{urlencode({'later_than': later_than.isoformat()})}" if later_than else ""
        parse = partial(models.read, "results", ResultRow.all_from_json)
        return self.get(f"{TRANSFORMATION}/{request_id}/results{since}", parse, timeout_s)

    def reasons(self, request_id: str, *, timeout_s: float = math.inf) -> dict[str, str]:
        """Return why input files failed, by path, if the server keeps that."""
        if not self.info(timeout_s=timeout_s).gives_reasons:
            return {}
        parse = partial(models.read, "errors", models.failure_reasons)
        return self.get(f"{TRANSFORMATION}/{request_id}/errors", parse, timeout_s)

    def dataset(self, dataset_id: int | None) -> DatasetInfo:
        """Return a dataset with its files and the state of its look-up."""
        return self.get(f"/servicex/datasets/{dataset_id}", DatasetInfo.from_json)

    def file_urls(
        self, request_id: str, names: Sequence[str], *, timeout_s: float = math.inf
    ) -> dict[str, SignedUrl]:
        """Return URLs of objects, by name, from a server that makes them."""
        body = {"request_id": request_id, "file_list": list(names)}
        request = Request("POST", f"{TRANSFORMATION}/file-urls", body)
        return self.send(request, partial(models.read, "uris", models.signed_urls), timeout_s)

    def cancel(self, request_id: str) -> None:
        """Cancel a transform."""
        method = "POST" if self.info().cancels_by_post else "GET"
        request = Request(method, f"{TRANSFORMATION}/{request_id}/cancel")
        self.send(request, lambda response: None)


_clients: weakref.WeakValueDictionary[Endpoint, ServiceXClient] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def client_of(
    endpoint: Endpoint, policy: ClientPolicy = DEFAULT_CLIENT, limits: Limits = DEFAULT_LIMITS
) -> ServiceXClient:
    """Return the client of this process for an endpoint; make it, if there is none.

    Its connections are closed when no reference to it is left: do not close it.

    Parameters
    ----------
    endpoint : Endpoint
    policy, limits
        For a client that is made.
    """
    with _lock:
        client = _clients.get(endpoint)
        if client is None:
            client = _clients[endpoint] = ServiceXClient(endpoint, policy, limits)
    return client
