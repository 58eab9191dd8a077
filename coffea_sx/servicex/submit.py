"""Submit a transform, or find the one that was submitted before."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Mapping
from typing import Any

from ..dataset import Dataset, result_name, suffix_of
from ..errors import (
    AccessError,
    OutcomeUnknown,
    QueryError,
    RequestRefused,
    ServiceXError,
    TransformGone,
)
from ..query import Selection, select
from .cache import Submissions
from .client import DATASETS, ServiceXClient
from .recovery import find_unanswered, undecided
from .urls import UrlProvider

TITLES = "long_sample_titles_"
_TITLE_LIMIT = re.compile(TITLES + r"\d+")
# What servers take that do not say how long titles may be.
SHORT_TITLE = 128

# Servers take a while to translate a query: so many are submitted to them at the same time.
_submitting = threading.BoundedSemaphore(2)
# How often a transform is submitted that the server neither takes nor refuses.
TRIES = 2

_DEAD = {"Canceled", "Fatal", "Bad Dataset"}

# Submissions of this process in their order.
_numbers = itertools.count()
_submitted: dict[str, int] = {}


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
    OutcomeUnknown
        If the server did not answer, and whether it has the transform cannot be told.
    RequestRefused, Unreachable, NotAuthorized
    """
    submissions = Submissions(client.endpoint, selection, dataset)
    unusable = []
    for request_id in () if ignore_cache else submissions.known():
        status = _status(client, request_id)
        # It may be so old that the store has dropped its results.
        if _is_well(status, skips) and _has_results(client, status, _likely(selection, dataset)):
            return request_id
        unusable.append(request_id)
    request_id = _post(client, selection, dataset, submissions)
    submissions.keep(request_id, unusable)
    return request_id


def _post(
    client: ServiceXClient, selection: Selection, dataset: Dataset, submissions: Submissions
) -> str:
    """Submit a transform once, even if the server does not say that it has it."""
    client.info()  # whose answer tells the time there
    since = client.server_time
    for _ in range(TRIES):
        try:
            return _posted(client, selection, dataset)
        except OutcomeUnknown as error:
            lost = error
        before = submissions.before()
        found = find_unanswered(client, selection, dataset, since, before, lost)
        if found is not None:
            return found
    raise undecided(selection, lost, "the server does not list it yet.")


def _posted(client: ServiceXClient, selection: Selection, dataset: Dataset) -> str:
    files = None if dataset.files is None else dataset.files.paths
    try:
        with _submitting:
            number = next(_numbers)
            request_id = client.submit(selection, did=dataset.did, files=files)
        _submitted[request_id] = number
        return request_id
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


def _likely(selection: Selection, dataset: Dataset) -> str | None:
    """Return what the result of the first input file is called, unless a server is special."""
    if dataset.files is None:
        return None
    return result_name(dataset.files.paths[0], suffix_of(selection.result_format))


def _has_results(client: ServiceXClient, status: Mapping[str, Any], likely: str | None) -> bool:
    """Whether the store has the results of a transform, if it should have any by now.

    Two requests, one of them to the store, if one of the results is called as it is likely; two
    more if not.
    """
    if status["status"] != "Complete" or not status["files-completed"]:
        return True
    access = UrlProvider(client, status["request_id"])
    try:
        if likely is not None and access.has(likely):
            return True
        if DATASETS not in client.info().capabilities:
            return bool(access.objects())
        rows = client.results(status["request_id"])
        names = [row["s3-object-name"] for row in rows if row["transform_status"] == "success"]
        return any(access.has(name) for name in names[:1])
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


def number_of(request_id: str) -> int:
    """Return which submission of this process a transform is: servers take them in this order."""
    return _submitted.get(request_id, next(_numbers))
