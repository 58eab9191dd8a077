"""Transforms of servers of each generation, from submission to end: every input file has an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.histories import HISTORIES, REQUEST_ID, History, Player, late_commits
from support.paces import IMPATIENT

from coffea_sx.dataset import InputFiles
from coffea_sx.errors import TransformError, TransformFailed, TransformStalled
from coffea_sx.policy import LENIENT
from coffea_sx.polling.poller import Poller
from coffea_sx.polling.registry import TransformAddress
from coffea_sx.servicex.config import EndpointName

PACE = replace(IMPATIENT, busy_s=0.01, idle_s=0.02)


@pytest.fixture
def polled(scripted: Any, client_of: Any) -> Iterator[Callable[[History], Poller]]:
    """Poll a history that is played."""
    pollers: list[Poller] = []

    def start(history: History) -> Poller:
        player = Player(history)
        server = scripted(player)
        player.store = server.address
        client = client_of(server.url, 0.3)
        address = TransformAddress(REQUEST_ID, EndpointName(None, client.endpoint.url, None))
        pace = replace(PACE, stall_s=1.0) if history.ending is TransformStalled else PACE
        pollers.append(Poller(client, address, InputFiles(history.paths), pace))
        return pollers[-1]

    yield start
    for poller in pollers:
        poller.close()


def outcomes_of(poller: Poller) -> tuple[dict[int, Any], TransformError | None]:
    """Wait for each input file; return the outcomes, and the error of those without any."""
    outcomes, ending = {}, None
    for index in range(poller.n_files):
        try:
            outcomes[index] = poller.wait(index, 20, LENIENT)
        except TransformError as error:
            ending = error
    return outcomes, poller.ending or ending


def indices(outcomes: dict[int, Any], kind: str) -> set[int]:
    """Return the files that were delivered, or that failed in this way."""
    return {i for i, outcome in outcomes.items() if getattr(outcome, "kind", "Delivered") == kind}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", HISTORIES)
def test_every_history_ends_as_it_should(name: str, polled: Callable[[History], Poller]) -> None:
    history = HISTORIES[name]
    poller = polled(history)
    outcomes, ending = outcomes_of(poller)
    assert indices(outcomes, "Delivered") == history.delivered
    assert indices(outcomes, "TransformFailed") == history.failed
    for index, outcome in outcomes.items():
        assert outcome.input_file == history.paths[index]
    assert type(ending) is (history.ending or type(None))
    if ending is not None:
        counts = f"{len(history.delivered)} of {len(history.paths)}"
        assert counts in str(ending)
        assert REQUEST_ID in str(ending)
    for index in history.failed:
        with pytest.raises(TransformFailed):
            poller.wait(index)


def test_rows_that_are_committed_late_are_not_missed(
    polled: Callable[[History], Poller],
) -> None:
    history = late_commits()
    outcomes, ending = outcomes_of(polled(history))
    assert ending is None
    assert indices(outcomes, "Delivered") == history.delivered
