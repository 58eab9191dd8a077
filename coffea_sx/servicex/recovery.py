"""Recovery of a submission without a response: the server may have accepted it all the same."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from hashlib import sha256

import tenacity

from ..dataset import Dataset
from ..errors import OutcomeUnknown, ServiceXError
from ..query import Selection
from .cache import Submissions
from .client import ServiceXClient
from .models import parse_time

# By how much the clocks of the machines of one server may differ.
SKEW = timedelta(seconds=5)
# For a transform whose time of submission is not given.
_NEVER = datetime.min.replace(tzinfo=timezone.utc)


def find_unanswered(
    client: ServiceXClient, submissions: Submissions, since: datetime, error: OutcomeUnknown
) -> str | None:
    """Find the transform of a submission without a response.

    Parameters
    ----------
    client : ServiceXClient
    submissions : Submissions
        The query, the dataset, and the requests that are older.
    since : datetime
        Time of the submission by the clock of the server.
    error : OutcomeUnknown
        Error of the submission.

    Returns
    -------
    str or None
        Request id; None if the server has no such transform. An equal transform that another user
        has submitted since is as good: its results are the same.

    Raises
    ------
    OutcomeUnknown
        If the server does not list its transforms.

    Notes
    -----
    One request, or a few until the transform is found; the response lists all transforms of the
    server.
    """
    selection, earlier = submissions.selection, submissions.all_earlier()

    def search() -> str | None:
        try:
            listed, image = client.transforms(), client.info().codegens.get(selection.codegen)
        except ServiceXError as failure:
            raise undecided(selection, error, str(failure)) from None
        content = (_did(submissions.dataset), selection.text, selection.result_format, image)
        equal = [
            status
            for status in listed
            if (status.did, status.selection, status.result_format, status.codegen_image) == content
            and status.request_id not in earlier
            and (parse_time(status.submitted_at) or _NEVER) >= since - SKEW
        ]
        # Our own rather than that of another user.
        equal.sort(key=lambda status: status.title != selection.title)
        return equal[0].request_id if equal else None

    pauses_s = client.policy.recovery_pauses_s
    searches = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda request_id: request_id is None),
        stop=tenacity.stop_after_attempt(len(pauses_s) + 1),
        wait=tenacity.wait_chain(*map(tenacity.wait_fixed, pauses_s)),
        retry_error_callback=lambda state: None,
    )
    return searches(search)


def undecided(selection: Selection, error: OutcomeUnknown, reason: str) -> OutcomeUnknown:
    """Return the error for a submission that the server may or may not have accepted."""
    return OutcomeUnknown(
        f"{error} It is unknown if the transform was submitted: {reason} If it was, "
        f"`servicex transforms list` shows it by its title {selection.title!r}, and "
        "from_request_id() takes it up. Submitting again may run it twice.",
        **error.facts,
    )


def _did(dataset: Dataset) -> str | None:
    """Return the name of a dataset on servers: of a list of files, its digest."""
    if dataset.files is None:
        return dataset.did
    return sha256(" ".join(dataset.files.paths).encode()).hexdigest()
