"""How many input files a transform has: the number of partitions, which must not change later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic, sleep
from typing import Any

from ..dataset import NO_OBJECT, InputFiles
from ..errors import BadDataset, DatasetError, DeadlineExceeded, EmptyDataset, TransformStalled
from ..policy import PollPolicy, RetryPolicy
from ..servicex.client import DATASETS, ServiceXClient
from ..servicex.urls import UrlProvider
from . import failures
from .failures import TransformProgress
from .monitor import monitor_of
from .state import TERMINAL

logger = logging.getLogger(__name__)

_BAD_DATASET = {
    "does_not_exist": "it does not exist",
    "bad_name": "its name is not valid",
    "internal_failure": "the look-up itself failed; try again later",
}

# Files of which only their number is known.
UNNAMED = "(input file without a result,"

Told = Callable[[int], None]


class LookUp:
    """A look-up, told by what the server says of it.

    Parameters
    ----------
    request_id : str
    pace : PollPolicy
        For how long nothing may change, and how long all may take.
    now : float
        Seconds of any clock that does not go back.

    Attributes
    ----------
    n_known : int
        Files that were found so far.
    """

    def __init__(self, request_id: str, pace: PollPolicy, now: float) -> None:
        self.n_known = 0
        self._request_id = request_id
        self._pace = pace
        self._began = self._last_change = now

    def see(
        self, status: Mapping[str, Any], dataset: Mapping[str, Any], now: float
    ) -> InputFiles | None:
        """Enter what the server says; return the files if they are all known.

        Raises
        ------
        BadDataset, EmptyDataset, TransformCanceled, TransformFatal
        TransformStalled, DeadlineExceeded
        """
        name = dataset.get("name") or status.get("did")
        lookup = dataset.get("lookup_status", "")
        if status["status"] == "Bad Dataset":
            raise BadDataset(
                f"ServiceX cannot look up {name}: {_BAD_DATASET.get(lookup, lookup)} (request "
                f"{self._request_id}).",
                request_id=self._request_id,
                lookup_status=lookup,
            )
        if status["status"] in ("Canceled", "Fatal"):
            standing = TransformProgress(self._request_id, 0, 0, (), status.get("log-url"))
            raise failures.over(status["status"], standing)
        # Servers before 2026 may say Complete while the look-up goes on: only its own word counts.
        files = sorted(dataset["files"], key=lambda file: file["id"])
        if lookup == "complete":
            if not files:
                raise EmptyDataset(
                    f"The dataset {name} has no files (request {self._request_id}).",
                    request_id=self._request_id,
                )
            return InputFiles(tuple(file["paths"] for file in files))
        self._watch_the_time(len(files), str(name), now)
        return None

    def _watch_the_time(self, n_known: int, name: str, now: float) -> None:
        if n_known != self.n_known:
            self.n_known, self._last_change = n_known, now
        so_far = (
            f"(request {self._request_id}, {self.n_known} files so far). "
            "from_request_id() takes it up again; see the logs of the server."
        )
        if now - self._last_change > self._pace.stall_s:
            raise TransformStalled(
                f"The look-up of {name} found nothing new for {self._pace.stall_s:.0f} s {so_far}",
                request_id=self._request_id,
            )
        if now - self._began > self._pace.deadline_s:
            raise DeadlineExceeded(
                f"The look-up of {name} is not over after {self._pace.deadline_s:.0f} s {so_far}",
                request_id=self._request_id,
            )


def files_of(
    client: ServiceXClient,
    request_id: str,
    pace: PollPolicy,
    told: Told | None = None,
    listed: InputFiles | None = None,
) -> InputFiles:
    """Wait until the server knows all input files of a transform; return them in order.

    Parameters
    ----------
    pace : PollPolicy
        How long to wait: while nothing changes, in all, and for a server that does not answer.
    told : callable, optional
        Told how many files are known so far.
    listed : InputFiles, optional
        The same files in the order that is wanted.

    Raises
    ------
    DatasetError
        If the list is not that of all files of the transform, as far as the server tells them.
    BadDataset, EmptyDataset, TransformStalled, DeadlineExceeded, TransformCanceled, TransformFatal
    ServerError
        If the server does not answer for too long.

    Notes
    -----
    Servers of 2024 do not tell the files of a dataset: this waits for the end of the transform
    then, and names files by their results.
    """
    if DATASETS not in client.info().capabilities:
        return listed or _files_by_results(client, request_id, pace, told)
    lookup = LookUp(request_id, pace, monotonic())

    def ask() -> InputFiles | None:
        status = client.status(request_id)
        return lookup.see(status, client.dataset(status["did_id"]), monotonic())

    while True:
        files = RetryPolicy(pace.outage_s, pace.idle_s).call(ask)
        if files is not None:
            return files if listed is None else _as_listed(files, listed, request_id)
        if told is not None:
            told(lookup.n_known)
        _wait_for_turn(client, pace, n_requests=2)


def _wait_for_turn(client: ServiceXClient, pace: PollPolicy, n_requests: int = 1) -> None:
    """Wait until the server may be asked again; look-ups of this process take turns."""
    monitor_of(client.endpoint.url).take_turn(n_requests * pace.busy_s, sleep)


def _as_listed(known: InputFiles, listed: InputFiles, request_id: str) -> InputFiles:
    """Return the list, if it is that of all files."""
    indices = [known.index_of(path.split(",")[0], NO_OBJECT) for path in listed.paths]
    strange = [path for path, i in zip(listed.paths, indices, strict=True) if i is None]
    missing = [path for i, path in enumerate(known.paths) if i not in indices]
    if strange or missing:
        which = f"{strange[0]!r} is none of them" if strange else f"{missing[0]!r} is not in it"
        raise DatasetError(
            f"The list is not that of the {len(known)} input files of request {request_id}: "
            f"{which}. Leave it out to have them in the order of the server; some of them are "
            "events().partitions[...]."
        )
    return listed


def _files_by_results(
    client: ServiceXClient, request_id: str, pace: PollPolicy, told: Told | None
) -> InputFiles:
    """Name the files of a transform by the objects in its bucket, once it is over."""
    n_done, last_change = -1, monotonic()
    began, ask = last_change, partial(client.status, request_id)
    while True:
        status = RetryPolicy(pace.outage_s, pace.idle_s).call(ask)
        if status["status"] in TERMINAL:
            break
        if status["files-completed"] != n_done:
            n_done, last_change = status["files-completed"], monotonic()
        standing = TransformProgress(request_id, status["files"], n_done, (), status.get("log-url"))
        if monotonic() - last_change > pace.stall_s:
            raise failures.stalled(status["status"], pace.stall_s, standing)
        if monotonic() - began > pace.deadline_s:
            raise failures.late(status["status"], pace.deadline_s, standing)
        if told is not None:
            told(status["files"])
        _wait_for_turn(client, pace)
    if status["status"] == "Complete" and not status["files"]:
        raise EmptyDataset(
            f"The dataset {status.get('did')} has no files (request {request_id}).",
            request_id=request_id,
        )
    access, n_done = UrlProvider(client, request_id), int(status["files-completed"] or 0)
    retry = RetryPolicy(pace.outage_s, pace.idle_s)
    names = retry.call(partial(_settled, access, n_done, pace.settle_s))
    n_unnamed = max(0, int(status["files"] or 0) - len(names))
    unnamed = (f"{UNNAMED} {i + 1})" for i in range(n_unnamed))
    return InputFiles((*names, *unnamed))


def _settled(access: UrlProvider, n_expected: int, settle_s: float) -> list[str]:
    """List a bucket until everything is there; what is put there may come after the status."""
    deadline = monotonic() + settle_s
    while True:
        names = sorted(one.name for one in access.objects())
        if len(names) >= n_expected or monotonic() > deadline:
            return names
        sleep(0.5)
