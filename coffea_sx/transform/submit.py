"""Submit a transform, and learn how many input files it has: the number of partitions."""

from __future__ import annotations

import re
from time import monotonic, sleep

from ..dataset import Dataset, InputFiles
from ..errors import (
    BadDataset,
    EmptyDataset,
    QueryError,
    RequestRefused,
    TransformCanceled,
    TransformFatal,
    TransformGone,
    TransformStalled,
)
from ..query import Selection
from .client import ServiceXClient

TITLES = "long_sample_titles_"
_TITLE_LIMIT = re.compile(TITLES + r"\d+")
# What servers take that do not say how long titles may be.
SHORT_TITLE = 128

_DEAD = {"Canceled", "Fatal", "Bad Dataset"}
_BAD_DATASET = {
    "does_not_exist": "it does not exist",
    "bad_name": "its name is not valid",
    "internal_failure": "the look-up itself failed; try again later",
}


def check_acceptable(client: ServiceXClient, selection: Selection) -> None:
    """Find out before submitting whether the server will take a selection. Two requests.

    Raises
    ------
    QueryError
        If it has no such code generator, or the title is too long.
    Unreachable, NotAuthorized, ProtocolError
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
    client.check_authorized()


# Transforms that this process has submitted, by server and what was asked.
_submitted: dict[tuple[str, Selection, Dataset], str] = {}


def submit(
    client: ServiceXClient, selection: Selection, dataset: Dataset, *, ignore_cache: bool = False
) -> str:
    """Submit a transform, or find the one that this process has submitted; return its id.

    Parameters
    ----------
    ignore_cache : bool
        Submit in any case.

    Raises
    ------
    QueryError
        If the server cannot make code of the selection.
    RequestRefused, Unreachable, NotAuthorized
    """
    asked = (client.endpoint.url, selection, dataset)
    request_id = None if ignore_cache else _submitted.get(asked)
    if request_id is None or not _is_usable(client, request_id):
        request_id = _submitted[asked] = _post(client, selection, dataset)
    return request_id


def _post(client: ServiceXClient, selection: Selection, dataset: Dataset) -> str:
    files = None if dataset.files is None else dataset.files.paths
    try:
        return client.submit(selection, did=dataset.did, files=files)
    except RequestRefused as error:
        if "generate translation code" in str(error):
            raise QueryError(f"ServiceX cannot translate the query. {error}") from None
        raise


def _is_usable(client: ServiceXClient, request_id: str) -> bool:
    """Whether a transform is still there, and nothing went wrong in it."""
    try:
        status = client.status(request_id)
    except TransformGone:
        return False
    return status["status"] not in _DEAD and not status["files-failed"]


def files_of(client: ServiceXClient, request_id: str, patience_s: float = 600.0) -> InputFiles:
    """Wait until the server knows all input files of a transform; return them in order.

    Parameters
    ----------
    patience_s : float
        How long to wait while nothing changes, seconds.

    Raises
    ------
    BadDataset, EmptyDataset, TransformStalled
    """
    last_change, n_known, interval = monotonic(), -1, 0.1
    while True:
        status = client.status(request_id)
        dataset = client.dataset(status["did_id"])
        if status["status"] == "Bad Dataset":
            lookup = dataset.get("lookup_status", "")
            raise BadDataset(
                f"ServiceX cannot look up {dataset.get('name', status['did'])}: "
                f"{_BAD_DATASET.get(lookup, lookup)} (request {request_id}).",
                request_id=request_id,
                lookup_status=lookup,
            )
        if status["status"] in ("Canceled", "Fatal"):
            kind = TransformCanceled if status["status"] == "Canceled" else TransformFatal
            raise kind(
                f"Request {request_id} ended while its dataset was looked up: {status['status']}.",
                request_id=request_id,
            )
        files = sorted(dataset["files"], key=lambda file: file["id"])
        if dataset["lookup_status"] == "complete":
            if not files:
                raise EmptyDataset(
                    f"The dataset {dataset.get('name', status['did'])} has no files (request "
                    f"{request_id}).",
                    request_id=request_id,
                )
            return InputFiles(tuple(file["paths"] for file in files))
        if len(files) != n_known:
            last_change, n_known = monotonic(), len(files)
        if monotonic() - last_change > patience_s:
            raise TransformStalled(
                f"The look-up of {dataset.get('name', status['did'])} found nothing new for "
                f"{patience_s:.0f} s (request {request_id}, {n_known} files so far).",
                request_id=request_id,
            )
        sleep(interval)
        interval = min(interval * 1.5, 2.0)
