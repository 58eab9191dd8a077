"""Retry of input files that failed, by another transform."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from .dataset import Dataset, InputFiles
from .errors import BadInput, DeadlineExceeded, TransformError, TransformStalled
from .event_source import EventSource, make_handle, poller_of
from .policy import LENIENT
from .polling.lookup import UNNAMED
from .polling.poller import Poller
from .report import Report, check_requests
from .servicex.submit import submit


def retry_failed(source: EventSource, report: Report) -> EventSource:
    """Submit the input files that failed; return a source that reads them from the new transform.

    Errors and requests are those of `ServiceXEventsFactory.retry_failed`. Returns the same source
    if no file has failed.
    """
    check_requests((file.request_id for file in report.inputs), source.request_ids)
    failed = [index for index, file in enumerate(report.inputs) if file.status == "failed"]
    if not failed:
        return source
    files = InputFiles(tuple(source.files.paths[index] for index in failed))
    if any(path.startswith(UNNAMED) for path in files.paths):
        raise BadInput(
            "This server does not name the files that failed, so they cannot be submitted "
            "again; submit the whole query with ignore_cache=True."
        )
    poller, n_files = source.poller, len(source.files)
    request_id = submit(poller.client, source.selection, Dataset(None, files), ignore_cache=True)
    policy = source.routing.handles[0].failure_policy.among(n_files)
    handle = make_handle(poller.client, request_id, files, source.selection, policy, poller.pace)
    numbers = {index: number for number, index in enumerate(failed)}
    return replace(source, routing=source.routing.rerouted(n_files, numbers, handle))


def complete_outcomes(source: EventSource) -> None:
    """Learn the outcomes of transforms that ended while no task waited for them.

    Raises
    ------
    BadInput
        If waiting for a transform was given up, and it still runs.
    """
    for poller, waiting in _without_outcome(source):
        request_id = poller.address.request_id
        if poller.client.status(request_id).is_over:
            _wait_for_all(poller, waiting)
        elif isinstance(poller.ending, (TransformStalled, DeadlineExceeded)):
            raise BadInput(
                f"Request {request_id} was given up here, but goes on at the server, and has "
                f"not delivered {len(waiting)} input files. End it before they are submitted "
                "again: cancel(), then retry_failed()."
            )


def complete_if_over(source: EventSource) -> None:
    """Learn the outcomes of transforms that have ended, and with them the numbers of events.

    How a transform has ended is no error here: it is one where its files are read.

    Raises
    ------
    ServerError
        If the server does not respond.
    """
    for poller, waiting in _without_outcome(source):
        with suppress(TransformError):
            if poller.client.status(poller.address.request_id).is_over:
                _wait_for_all(poller, waiting)


def _without_outcome(source: EventSource) -> Iterator[tuple[Poller, list[int]]]:
    """Yield pollers of transforms, each with its files that have no outcome, if there are any."""
    routes = [source.routing.of(index) for index in range(len(source.files))]
    for handle in source.routing.handles:
        poller = poller_of(handle)
        numbers = (number for owner, number in routes if owner is handle)
        waiting = [number for number in numbers if number not in poller.outcomes]
        if waiting:
            yield poller, waiting


def _wait_for_all(poller: Poller, numbers: list[int]) -> None:
    """Wait for the outcomes of files of a transform that has ended."""
    for number in numbers:
        try:
            poller.wait(number, failure_policy=LENIENT)
        except TransformError:
            # The end of the transform gives outcomes to all of its files, or to none.
            if number not in poller.outcomes:
                raise
