"""A submission that was not answered: whether the server has it all the same."""

from __future__ import annotations

from collections.abc import Container
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from time import sleep
from typing import Any

from ..dataset import Dataset
from ..errors import OutcomeUnknown, ServiceXError
from ..query import Selection
from .client import ServiceXClient

# A server may still be at work on what it did not answer: pauses before each look, seconds.
LOOKS_S = (0.0, 0.5, 2.0, 5.0)
# By how much the clocks of the machines of one server may differ.
SKEW = timedelta(seconds=5)
# What makes two transforms the same.
COMPARED = ("did", "selection", "result-format", "code-gen-image")


def find_unanswered(
    client: ServiceXClient,
    selection: Selection,
    dataset: Dataset,
    since: datetime,
    before: Container[str],
    lost: OutcomeUnknown,
) -> str | None:
    """Look for the transform of a submission that was not answered; return its id.

    Parameters
    ----------
    client, selection, dataset
    since : datetime
        When it was submitted, by the clock of the server.
    before : container of str
        Requests that are older.
    lost : OutcomeUnknown
        How the submission went.

    Returns
    -------
    str or None
        None if the server has none. An equal transform that somebody else has submitted since is
        as good: its results are the same.

    Raises
    ------
    OutcomeUnknown
        If the server does not say.

    Notes
    -----
    One request, or a few until it is found; the answer lists all transforms of the server.
    """
    for pause_s in LOOKS_S:
        sleep(pause_s)
        try:
            listed = client.transforms()
            image = client.info().codegens.get(selection.codegen)
        except ServiceXError as error:
            raise undecided(selection, lost, str(error)) from None
        wanted = (_name(dataset), selection.text, selection.result_format, image)
        alike = [
            one
            for one in listed
            if tuple(map(one.get, COMPARED)) == wanted
            and one["request_id"] not in before
            and _submitted_at(one) >= since - SKEW
        ]
        # Ours rather than that of somebody else.
        alike.sort(key=lambda one: one.get("title") != selection.title)
        if alike:
            return str(alike[0]["request_id"])
    return None


def undecided(selection: Selection, lost: OutcomeUnknown, why: str) -> OutcomeUnknown:
    """Return the error for a submission of which nobody knows whether it was one."""
    return OutcomeUnknown(
        f"{lost} Whether the transform was submitted cannot be told: {why} If it was, `servicex "
        f"transforms list` shows it by its title {selection.title!r}, and from_request_id() takes "
        "it up. Submitting again may run it twice.",
        **lost.facts,
    )


def _name(dataset: Dataset) -> str | None:
    """Return what servers call a dataset."""
    if dataset.files is None:
        return dataset.did
    return sha256(" ".join(dataset.files.paths).encode()).hexdigest()


def _submitted_at(status: dict[str, Any]) -> datetime:
    try:
        moment = datetime.fromisoformat(str(status["submit-time"]).replace("Z", "+00:00"))
    except (KeyError, ValueError):
        return datetime.min.replace(tzinfo=timezone.utc)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
