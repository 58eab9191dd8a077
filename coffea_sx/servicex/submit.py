"""Submission of a transform, or the earlier one with the same query and dataset."""

from __future__ import annotations

import itertools
import threading

from .. import errors
from ..dataset import Dataset, result_name, suffix_of
from ..errors import AccessError, OutcomeUnknown, QueryError, RequestRefused, ServiceXError
from ..query import Selection, select
from .cache import Submissions
from .client import ServiceXClient
from .models import TransformStatus
from .recovery import find_unanswered, undecided
from .urls import UrlProvider

# Servers take a while to translate a query: so many are submitted to them at the same time.
_submitting = threading.BoundedSemaphore(2)
# Submissions of this process in their order.
_numbers = itertools.count()
_submitted: dict[str, int] = {}


def check_acceptable(client: ServiceXClient, selection: Selection) -> None:
    """Check before submitting that the server accepts a selection. At most one request.

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
    if len(selection.title) > info.longest_title:
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
    client, selection, dataset
    ignore_cache : bool
        Submit in any case.
    skips : bool
        True if a transform in which files have failed is good enough.

    Raises
    ------
    QueryError
        If the server cannot make code of the selection.
    OutcomeUnknown
        If the server did not respond, and may or may not have the transform.
    RequestRefused, Unreachable, NotAuthorized

    Notes
    -----
    One request to submit; for each earlier transform one for its status, and as for `has_results`.
    """
    submissions = Submissions(client.endpoint, selection, dataset)
    unusable = []
    for request_id in () if ignore_cache else submissions.earlier():
        if _is_usable(client, request_id, skips, _first_result(selection, dataset)):
            return request_id
        unusable.append(request_id)
    request_id = _submit_once(client, submissions)
    submissions.record(request_id, unusable)
    return request_id


def _submit_once(client: ServiceXClient, submissions: Submissions) -> str:
    """Submit a transform once, even if the server does not respond that it has it."""
    client.info()  # its response has the time of the server
    since = client.server_time
    for _ in range(client.policy.max_submissions):
        try:
            return _post(client, submissions.selection, submissions.dataset)
        except OutcomeUnknown as failure:
            error = failure
        request_id = find_unanswered(client, submissions, since, error)
        if request_id is not None:
            return request_id
    raise undecided(submissions.selection, error, "the server does not list it yet.")


def _post(client: ServiceXClient, selection: Selection, dataset: Dataset) -> str:
    files = None if dataset.files is None else dataset.files.paths
    try:
        with _submitting:
            number = next(_numbers)
            request_id = client.submit(selection, did=dataset.did, files=files)
    except RequestRefused as error:
        if "generate translation code" in str(error):
            raise QueryError(f"ServiceX cannot translate the query. {error}") from None
        raise
    _submitted[request_id] = number
    return request_id


def _is_usable(client: ServiceXClient, request_id: str, skips: bool, result: str | None) -> bool:
    """Return True if a transform is there, nothing went wrong in it, and its results exist."""
    try:
        status = client.status(request_id)
    except errors.TransformGone:
        return False
    if status.is_dead or (status.n_failed and not skips):
        return False
    # It may be so old that the store has dropped its results.
    return has_results(client, request_id, status, result)


def _first_result(selection: Selection, dataset: Dataset) -> str | None:
    """Return the usual name of the result of the first input file."""
    if dataset.files is None:
        return None
    return result_name(dataset.files.paths[0], suffix_of(selection.result_format))


def has_results(
    client: ServiceXClient, request_id: str, status: TransformStatus, first_result: str | None
) -> bool:
    """Return True if the store has the results of a transform, or there need not be any yet.

    Two requests, one of them to the store, if ``first_result`` is the name of one of the results;
    two more if not.
    """
    if status.status != "Complete" or not status.n_completed:
        return True
    urls = UrlProvider(client, request_id)
    try:
        if first_result is not None and urls.exists(first_result):
            return True
        if not client.info().lists_results:
            return bool(urls.rows())
        names = [row.object_name for row in client.results(request_id) if row.is_success]
        return any(map(urls.exists, names[:1]))
    except AccessError:
        return False


def selection_of(client: ServiceXClient, request_id: str, codegen: str | None) -> Selection:
    """Return the selection of a transform that was submitted before. Two requests.

    Raises
    ------
    TransformGone
        If the server has no such transform.
    QueryError
        If ``codegen`` is None, and several code generators of the server have the same image.
    """
    status = client.status(request_id)
    codegen = codegen or _codegen(client, status)
    if codegen is None:
        raise QueryError(
            f"The status of request {request_id} does not identify its code generator: give it as "
            "codegen=."
        )
    return select(
        status.selection,
        codegen=codegen,
        result_format=status.result_format,
        title=status.title or None,
    )


def _codegen(client: ServiceXClient, status: TransformStatus) -> str | None:
    """Return the code generator with the image of a transform; of several, by the query."""
    codegens = client.info().codegens
    names = [name for name, image in codegens.items() if image == status.codegen_image]
    if len(names) > 1 and status.selection.lstrip().startswith("["):
        names = [name for name in names if name == "uproot-raw"]
    elif len(names) > 1:
        try:
            select(status.selection, codegen="uproot")
        except ServiceXError:
            return None
        names = [name for name in names if name == "uproot"]
    return names[0] if len(names) == 1 else None


def number_of(request_id: str) -> int:
    """Return the number of a submission of this process: servers take them in this order."""
    return _submitted.get(request_id, next(_numbers))
