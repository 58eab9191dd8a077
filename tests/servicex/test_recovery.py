"""Submissions that are not answered: the transform is looked for before it is submitted again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from support.strategies import columns

from coffea_sx.dataset import identify
from coffea_sx.errors import OutcomeUnknown, Unreachable
from coffea_sx.local import LocalServiceX
from coffea_sx.local.settings import ServerSettings
from coffea_sx.policy import ClientPolicy
from coffea_sx.query import Selection, select
from coffea_sx.servicex import cache
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.servicex.config import EndpointName, find_endpoint
from coffea_sx.servicex.submit import submit
from coffea_sx.testing import (
    Answer,
    Fault,
    FaultProxy,
    Hangup,
    Refuse,
    Request,
    Reset,
    Truncate,
    When,
)
from coffea_sx.testing.messages import Ask, whole

SUBMITTING = When("^/servicex/transformation$", method="POST")
LISTING = When("^/servicex/transformation$", method="GET")
DID = "rucio://user:nano"


async def lose_the_answer(request: Request, ask: Ask) -> Answer:
    """Break the connection when the server has taken the submission."""
    await committed(ask)
    raise Hangup


async def answer_too_late(request: Request, ask: Ask) -> Answer:
    """Answer as a gateway does that has waited long enough for the server behind it."""
    await committed(ask)
    return whole(504, {"Content-Type": "text/html"}, b"<html>Gateway Time-out</html>")


async def committed(ask: Ask) -> bytes:
    answer = await ask()
    content = b"".join([block async for block in answer.body])
    assert answer.status == 200, content
    return content


class Clock:
    """The clock of the server, which may be wrong."""

    ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(timezone.utc) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(nano_files: list[str], clock: Clock) -> Iterator[LocalServiceX]:
    settings = ServerSettings(clock=clock)
    with LocalServiceX(workers=1, datasets={DID: nano_files[:2]}, settings=settings) as running:
        yield running


@pytest.fixture
def proxy(server: LocalServiceX) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as running:
        yield running


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[ServiceXClient]:
    cache.forget()
    endpoint = find_endpoint(EndpointName(None, proxy.url, None))
    policy = ClientPolicy(patience_s=0.5, recovery_pauses_s=(0.02, 0.1))
    connection = ServiceXClient(endpoint, policy)
    yield connection
    connection.close()


@pytest.fixture
def transforms(server: LocalServiceX, client_of: Callable[..., ServiceXClient]) -> Callable:
    """List the ids of the transforms of the server."""
    beside = client_of(server.url)
    return lambda: [status.request_id for status in beside.transforms()]


def n_posts(proxy: FaultProxy) -> int:
    return sum(SUBMITTING(request) for request in proxy.requests)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("loss", [lose_the_answer, answer_too_late, Truncate(5), Reset()])
@pytest.mark.parametrize("dataset", ["list", "did"])
def test_what_was_taken_is_not_submitted_again(
    client, proxy, transforms, selection, nano_files, loss, dataset
):
    wanted = identify(nano_files[:2])
    if dataset == "did":
        wanted = type(wanted)(DID, None)
    proxy.script = [Fault(loss, SUBMITTING)]
    request_id = submit(client, selection, wanted)
    assert transforms() == [request_id]
    assert (proxy.provoked, n_posts(proxy)) == ([1], 1)
    # It is remembered as any other.
    assert submit(client, selection, wanted) == request_id


def test_what_was_not_taken_is_submitted_again(client, proxy, transforms, selection, nano_files):
    proxy.script = [Fault(Refuse(), SUBMITTING)]
    request_id = submit(client, selection, identify(nano_files[:1]))
    assert transforms() == [request_id]
    assert n_posts(proxy) == 2


def test_what_is_taken_late_is_waited_for(
    client, proxy, server, transforms, selection, nano_files, client_of
):
    """The server has it only when it is asked for the third time."""
    late = client_of(server.url)

    async def take_it(request: Request, ask: Ask) -> Answer:
        await asyncio.to_thread(late.submit, selection, did=None, files=nano_files[:1])
        return await ask()

    proxy.script = [Fault(Refuse(), SUBMITTING), Fault(take_it, LISTING, skip=2)]
    request_id = submit(client, selection, identify(nano_files[:1]))
    assert transforms() == [request_id]
    assert n_posts(proxy) == 1


def test_where_nothing_can_be_told_nothing_is_submitted_again(
    client, proxy, transforms, selection, nano_files
):
    proxy.script = [Fault(lose_the_answer, SUBMITTING), Fault(Refuse(), LISTING, times=None)]
    titled = select(selection.text, codegen="uproot", title="my title")
    with pytest.raises(OutcomeUnknown, match="It is unknown if") as caught:
        submit(client, titled, identify(nano_files[:1]))
    assert "servicex transforms list" in str(caught.value)
    assert "'my title'" in str(caught.value)
    assert "from_request_id" in str(caught.value)
    assert caught.value.url == proxy.url
    assert len(transforms()) == n_posts(proxy) == 1


def test_a_server_that_takes_nothing_is_left_alone(
    client, proxy, transforms, selection, nano_files
):
    proxy.script = [Fault(Refuse(), SUBMITTING, times=None)]
    with pytest.raises(OutcomeUnknown, match="does not list it"):
        submit(client, selection, identify(nano_files[:1]))
    assert (transforms(), n_posts(proxy)) == ([], 2)


def test_a_hang_before_anything_is_sent_is_none(closed_port, client_of, selection, nano_files):
    with pytest.raises(Unreachable) as caught:
        submit(client_of(f"http://127.0.0.1:{closed_port}", 0.3), selection, identify(nano_files))
    assert not isinstance(caught.value, OutcomeUnknown)


# -- which one it is


def unlike(selection: Selection) -> list[Selection]:
    """Return selections that differ in what matters."""
    return [
        select(columns("MET_phi"), codegen="uproot"),
        select(selection.text, codegen="uproot", result_format="parquet"),
    ]


def test_other_transforms_are_not_taken_for_it(
    client, proxy, server, transforms, selection, nano_files, client_of
):
    others = client_of(server.url)
    wanted = identify(nano_files[:2])

    async def others_submit(request: Request, ask: Ask) -> Answer:
        for other in unlike(selection):
            await asyncio.to_thread(others.submit, other, did=None, files=nano_files[:2])
        for files in (nano_files[1::-1], nano_files[:1]):
            await asyncio.to_thread(others.submit, selection, did=None, files=files)
        raise Hangup

    proxy.script = [Fault(others_submit, SUBMITTING)]
    request_id = submit(client, selection, wanted)
    assert n_posts(proxy) == 2
    assert len(transforms()) == 5
    assert transforms()[-1] == request_id


def test_ones_own_is_taken_rather_than_an_equal_one(
    client, proxy, server, transforms, selection, nano_files, client_of
):
    others = client_of(server.url)
    mine = select(selection.text, codegen="uproot", title="mine")

    async def another_is_faster(request: Request, ask: Ask) -> Answer:
        await asyncio.to_thread(others.submit, selection, did=None, files=nano_files[:1])
        return await lose_the_answer(request, ask)

    proxy.script = [Fault(another_is_faster, SUBMITTING)]
    request_id = submit(client, mine, identify(nano_files[:1]))
    assert client.status(request_id).title == "mine"
    assert transforms()[1:] == [request_id]


def test_one_of_this_process_is_not_taken_for_a_new_one(
    client, proxy, transforms, selection, nano_files
):
    first = submit(client, selection, identify(nano_files[:1]))
    proxy.script = [Fault(Refuse(), SUBMITTING)]
    again = submit(client, selection, identify(nano_files[:1]), ignore_cache=True)
    assert transforms() == [first, again]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("ahead_h", [-2, 0, 2])
@pytest.mark.parametrize("loss", [lose_the_answer, Refuse()], ids=["taken", "not taken"])
def test_an_earlier_one_is_not_taken_whatever_the_clock(
    client, proxy, server, transforms, selection, nano_files, client_of, clock, ahead_h, loss
):
    clock.ahead = timedelta(hours=ahead_h, minutes=-1)

    async def by_that_clock(request: Request, ask: Ask) -> Answer:
        answer = await ask()
        kept = [(name, text) for name, text in answer.headers if name.lower() != "date"]
        date = ("Date", format_datetime(clock(), usegmt=True))
        return Answer(answer.status, [*kept, date], answer.body, answer.ending)

    earlier = client_of(server.url).submit(selection, did=None, files=nano_files[:1])
    clock.ahead += timedelta(minutes=1)
    proxy.script = [Fault(loss, SUBMITTING), Fault(by_that_clock, times=None)]
    request_id = submit(client, selection, identify(nano_files[:1]))
    assert transforms() == [earlier, request_id]
    assert n_posts(proxy) == (1 if loss is lose_the_answer else 2)
