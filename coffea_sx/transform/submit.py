"""Submit a transform, or find the one that was submitted before."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

from ..dataset import Dataset
from ..errors import AccessError, QueryError, RequestRefused, ServiceXError, TransformGone
from ..query import Selection, select
from .access import Access
from .client import DATASETS, ServiceXClient
from .submissions import Submissions

TITLES = "long_sample_titles_"
_TITLE_LIMIT = re.compile(TITLES + r"\d+")
# What servers take that do not say how long titles may be.
SHORT_TITLE = 128

# Servers take a while to translate a query: so many are submitted to them at the same time.
_submitting = threading.BoundedSemaphore(2)

_DEAD = {"Canceled", "Fatal", "Bad Dataset"}


def check_acceptable(client: ServiceXClient, selection: Selection) -> None:
    """Find out before submitting whether the server will take a selection. At most one request.

    Raises
    ------
    QueryError
        If it has no such code generator, or the title is too long.
    Unreachable, ProtocolError
    """
    info = client.info()
    if selection.codegen not in info.codegens:
        raise QueryError(
            f"ServiceX at {client.endpoint.url} has no code generator {selection.codegen!r}; it "
            f"has {', '.join(map(repr, sorted(info.codegens)))}."
        )
    limits = [int(c[len(TITLES) :]) for c in info.capabilities if _TITLE_LIMIT.fullmatch(c)]
    if len(selection.title) > max(limits, default=SHORT_TITLE):
        raise QueryError(f"The title is longer than this server takes: {selection.title[:40]!r}…")


def submit(
    client: ServiceXClient,
    selection: Selection,
    dataset: Dataset,
    *,
    ignore_cache: bool = False,
    skips: bool = False,
) -> str:
    """Submit a transform, or find one that was submitted before; return its id.

    Parameters
    ----------
    ignore_cache : bool
        Submit in any case.
    skips : bool
        Whether a transform in which files have failed is good enough.

    Raises
    ------
    QueryError
        If the server cannot make code of the selection.
    RequestRefused, Unreachable, NotAuthorized
    """
    submissions = Submissions(client.endpoint, selection, dataset)
    for request_id in () if ignore_cache else submissions.own():
        if _is_well(_status(client, request_id), skips):
            return request_id
    # Those of others may be so old that the store has dropped their results.
    for request_id in () if ignore_cache else submissions.others():
        status = _status(client, request_id)
        if _is_well(status, skips) and _has_results(client, request_id, status):
            return request_id
    request_id = _post(client, selection, dataset)
    submissions.keep(request_id)
    return request_id


def _post(client: ServiceXClient, selection: Selection, dataset: Dataset) -> str:
    files = None if dataset.files is None else dataset.files.paths
    try:
        with _submitting:
            return client.submit(selection, did=dataset.did, files=files)
    except RequestRefused as error:
        if "generate translation code" in str(error):
            raise QueryError(f"ServiceX cannot translate the query. {error}") from None
        raise


def _status(client: ServiceXClient, request_id: str) -> dict[str, Any]:
    """Return the status of a transform; nothing if it is there no longer."""
    try:
        return client.status(request_id)
    except TransformGone:
        return {}


def _is_well(status: Mapping[str, Any], skips: bool) -> bool:
    """Whether a transform is still there, and nothing went wrong in it that matters."""
    if not status or status["status"] in _DEAD:
        return False
    return skips or not status["files-failed"]


def _has_results(client: ServiceXClient, request_id: str, status: Mapping[str, Any]) -> bool:
    """Whether the store has the results of a transform, if it should have any by now."""
    if status["status"] != "Complete":
        return True
    access = Access(client, request_id)
    try:
        if DATASETS not in client.info().capabilities:
            return bool(access.objects())
        rows = client.results(request_id)
        return any(access.has(row["s3-object-name"]) for row in rows[:1])
    except AccessError:
        return False


def selection_of(client: ServiceXClient, request_id: str, codegen: str | None) -> Selection:
    """Return the selection of a transform that was submitted before. Two requests.

    Raises
    ------
    TransformGone
        If the server does not know it.
    QueryError
        If the server does not tell clearly which code generator it was, and nobody else does.
    """
    status = client.status(request_id)
    codegen = codegen or _codegen(client, status["code-gen-image"], status["selection"])
    if codegen is None:
        raise QueryError(
            f"ServiceX does not tell which code generator made request {request_id}: give it as "
            "codegen=."
        )
    return select(
        status["selection"],
        codegen=codegen,
        result_format=status["result-format"],
        title=status.get("title") or None,
    )


def _codegen(client: ServiceXClient, image: str, text: str) -> str | None:
    """Tell a code generator by its image, and if that is no name of one, by the query."""
    codegens = client.info().codegens
    names = [name for name, its_image in codegens.items() if its_image == image]
    if len(names) > 1 and text.lstrip().startswith("["):
        names = [name for name in names if name == "uproot-raw"]
    elif len(names) > 1:
        try:
            select(text, codegen="uproot")
        except ServiceXError:
            return None
        names = [name for name in names if name == "uproot"]
    return names[0] if len(names) == 1 else None
