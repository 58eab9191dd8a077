"""Look-up of the input files of a transform: their number is that of the partitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import TypeVar

import tenacity

from .. import errors
from ..dataset import NO_OBJECT, InputFiles
from ..errors import DeadlineExceeded, EmptyDataset, TransformError, TransformStalled
from ..policy import PollPolicy, RetryPolicy
from ..servicex.client import ServiceXClient
from ..servicex.models import DatasetInfo, ResultRow, TransformStatus
from ..servicex.urls import UrlProvider
from . import failures
from .failures import TransformProgress
from .monitor import monitor_of

_BAD_DATASET = {
    "does_not_exist": "it does not exist",
    "bad_name": "its name is not valid",
    "internal_failure": "the look-up itself failed; try again later",
}
# Begins the names of files of which only their number is available.
UNNAMED = "(input file without a result,"
# Time between two listings of a bucket, seconds.
_LISTING_S = 0.5

OnProgress = Callable[[int], None]
Found = TypeVar("Found")


class _LookUp:
    """Requests about the files of a transform, repeated until all are found."""

    def __init__(
        self,
        client: ServiceXClient,
        request_id: str,
        pace: PollPolicy,
        on_progress: OnProgress | None,
    ) -> None:
        self._monitor = monitor_of(client.endpoint.url)
        self._request_id = request_id
        self._pace = pace
        self._on_progress = on_progress
        self._n_found = -1
        self._began = self._last_change = monotonic()

    def poll(self, find: Callable[[], Found | None], n_requests: int) -> Found:
        """Repeat requests until they find something; look-ups of this process take turns."""
        retry = RetryPolicy(self._pace.outage_s, self._pace.idle_s)
        polls = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda found: found is None),
            wait=tenacity.wait_fixed(n_requests * self._pace.busy_s),
            sleep=lambda pause_s: self._monitor.take_turn(pause_s, sleep),
        )
        found: Found = polls(retry.call, find)
        return found

    def go_on(self, name: str, n_files: int, n_found: int) -> None:
        """Record the progress of a look-up that is not over.

        Raises
        ------
        TransformStalled, DeadlineExceeded
        """
        now, pace = monotonic(), self._pace
        if n_found != self._n_found:
            self._n_found, self._last_change = n_found, now
        kind: type[TransformError] = DeadlineExceeded
        limit = f"is not over after {pace.deadline_s:.0f} s"
        if now - self._last_change > pace.stall_s:
            kind, limit = TransformStalled, f"found nothing new for {pace.stall_s:.0f} s"
        if kind is TransformStalled or now - self._began > pace.deadline_s:
            raise kind(
                f"The look-up of {name} {limit} (request {self._request_id}, {n_found} files so "
                "far). from_request_id() takes it up again; see the logs of the server.",
                request_id=self._request_id,
            )
        if self._on_progress is not None:
            self._on_progress(n_files)


def files_of(
    client: ServiceXClient,
    request_id: str,
    pace: PollPolicy,
    on_progress: OnProgress | None = None,
    listed: InputFiles | None = None,
) -> InputFiles:
    """Wait until the server lists all input files of a transform; return them in order.

    Parameters
    ----------
    client : ServiceXClient
    request_id : str
    pace : PollPolicy
        Time to wait: while nothing changes, in all, and for a server that does not respond.
    on_progress : callable, optional
        Called with the number of files found so far.
    listed : InputFiles, optional
        The same files in the order of the partitions.

    Raises
    ------
    DatasetError
        If ``listed`` are not all files of the transform, as far as the server lists them.
    BadDataset, EmptyDataset, TransformStalled, DeadlineExceeded, TransformCanceled, TransformFatal
    ServerError
        If the server does not respond for too long.

    Notes
    -----
    Two requests at a time. Servers of 2024 do not list the files of a dataset: this waits for the
    end of the transform then, with one request at a time, and names files by their results.
    """
    if not client.info().lists_results:
        return listed or _files_by_results(client, request_id, pace, on_progress)
    lookup = _LookUp(client, request_id, pace, on_progress)

    def find() -> InputFiles | None:
        status = client.status(request_id)
        dataset = client.dataset(status.did_id)
        files, n_files = _complete_files(request_id, status, dataset), len(dataset.files)
        if files is None:
            lookup.go_on(dataset.name or status.did, n_files, n_files)
        return files

    files = lookup.poll(find, n_requests=2)
    return files if listed is None else _in_order(files, listed, request_id)


def _complete_files(
    request_id: str, status: TransformStatus, dataset: DatasetInfo
) -> InputFiles | None:
    """Return the files of a dataset, once its look-up is complete.

    Raises
    ------
    BadDataset, EmptyDataset, TransformCanceled, TransformFatal
    """
    name, lookup = dataset.name or status.did, dataset.lookup_status
    if status.status == "Bad Dataset":
        raise errors.BadDataset(
            f"ServiceX cannot look up {name}: {_BAD_DATASET.get(lookup, lookup)} (request "
            f"{request_id}).",
            request_id=request_id,
            lookup_status=lookup,
        )
    if status.is_dead:
        raise failures.over(status.status, TransformProgress(request_id, 0, 0, (), status.log_url))
    # Servers before 2026 may report Complete while the look-up goes on.
    if lookup == "complete" and not dataset.files:
        raise _empty(name, request_id)
    return InputFiles(dataset.files) if lookup == "complete" else None


def _in_order(files: InputFiles, listed: InputFiles, request_id: str) -> InputFiles:
    """Return the list, if it is that of all files."""
    indices = [files.index_of(path.split(",")[0], NO_OBJECT) for path in listed.paths]
    strange = [path for path, i in zip(listed.paths, indices, strict=True) if i is None]
    missing = [path for i, path in enumerate(files.paths) if i not in indices]
    if strange or missing:
        which = f"{strange[0]!r} is none of them" if strange else f"{missing[0]!r} is not in it"
        raise errors.DatasetError(
            f"The list is not that of the {len(files)} input files of request {request_id}: "
            f"{which}. Leave it out to have them in the order of the server; some of them are "
            "events().partitions[...]."
        )
    return listed


def _files_by_results(
    client: ServiceXClient, request_id: str, pace: PollPolicy, on_progress: OnProgress | None
) -> InputFiles:
    """Name the files of a transform by its results, once it is over."""
    lookup = _LookUp(client, request_id, pace, on_progress)

    def find_end() -> TransformStatus | None:
        status = client.status(request_id)
        if status.is_over:
            return status
        lookup.go_on(status.did, status.n_files, status.n_completed)
        return None

    status = lookup.poll(find_end, n_requests=1)
    if status.status == "Complete" and not status.n_files:
        raise _empty(status.did, request_id)
    urls, retry = UrlProvider(client, request_id), RetryPolicy(pace.outage_s, pace.idle_s)
    rows = retry.call(partial(_all_rows, urls, status.n_completed, pace.settle_s))
    names = sorted(row.object_name for row in rows)
    unnamed = (f"{UNNAMED} {i + 1})" for i in range(status.n_files - len(names)))
    return InputFiles((*names, *unnamed))


def _all_rows(urls: UrlProvider, n_expected: int, settle_s: float) -> list[ResultRow]:
    """List results until all are there; they may come after the status."""
    listings = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda rows: len(rows) < n_expected),
        stop=tenacity.stop_after_delay(settle_s),
        wait=tenacity.wait_fixed(_LISTING_S),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    rows: list[ResultRow] = listings(urls.rows)
    return rows


def _empty(name: str, request_id: str) -> EmptyDataset:
    return EmptyDataset(
        f"The dataset {name} has no files (request {request_id}).", request_id=request_id
    )
