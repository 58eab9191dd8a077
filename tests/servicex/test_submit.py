"""Submitting: what is found out before, and what is reused."""

from __future__ import annotations

import time

import httpx
import pytest
from support.strategies import columns, say

from coffea_sx.dataset import identify
from coffea_sx.errors import NotAuthorized, QueryError, RequestRefused
from coffea_sx.query import select
from coffea_sx.servicex.submit import check_acceptable, submit


@pytest.fixture
def client(servicex, client_of):
    return client_of(servicex.url)


def acceptable(capabilities=(), codegens=("uproot",)):
    def play(asked):
        if asked.path == "/servicex":
            return say(
                {
                    "app-version": "1",
                    "code-gen-image": dict.fromkeys(codegens, "image"),
                    "capabilities": list(capabilities),
                }
            )
        return say({"message": "not found"}, 404)

    return play


def test_acceptable(client, selection):
    check_acceptable(client, selection)


def test_one_request_before_the_first_submission(scripted, client_of, selection):
    server = scripted(acceptable())
    client = client_of(server.url)
    for _ in range(3):
        check_acceptable(client, selection)
    assert [(a.method, a.path) for a in server.asked] == [("GET", "/servicex")]


def test_an_unknown_codegen(client):
    with pytest.raises(QueryError, match=r"no code generator 'nope'.*'uproot'"):
        check_acceptable(client, select("text", codegen="nope"))


@pytest.mark.parametrize(
    ("capabilities", "length", "is_fine"),
    [
        ((), 128, True),
        ((), 129, False),
        (("long_sample_titles_10240",), 10240, True),
        (("long_sample_titles_10240",), 10241, False),
        (("long_sample_titles_x",), 10, True),
    ],
)
def test_the_length_of_titles(scripted, client_of, capabilities, length, is_fine):
    client = client_of(scripted(acceptable(capabilities)).url)
    selection = select(columns("MET_pt"), codegen="uproot", title="x" * length)
    if is_fine:
        check_acceptable(client, selection)
    else:
        with pytest.raises(QueryError, match="title is longer"):
            check_acceptable(client, selection)


def test_who_is_not_let_in_submits_nothing(scripted, client_of, selection, nano_files):
    play = acceptable()

    def refusing(asked):
        return play(asked) if asked.path == "/servicex" else say({"msg": "No token"}, 401)

    server = scripted(refusing)
    with pytest.raises(NotAuthorized, match="No token"):
        submit(client_of(server.url), selection, identify(nano_files[:1]))
    assert server.count("POST") == 1


def test_the_same_question_is_submitted_once(client, selection, nano_files):
    wanted = identify(nano_files[:1])
    first = submit(client, selection, wanted)
    assert submit(client, selection, identify(nano_files[:1])) == first
    assert submit(client, selection, wanted, ignore_cache=True) != first


def test_another_question_is_another_transform(client, selection, nano_files):
    first = submit(client, selection, identify(nano_files[:2]))
    assert submit(client, selection, identify(nano_files[1::-1])) != first
    other = select(columns("MET_phi"), codegen="uproot")
    assert submit(client, other, identify(nano_files[:2])) != first


def test_what_is_deleted_or_failed_is_submitted_again(client, selection, tmp_path):
    wanted = identify([str(tmp_path / "nowhere.root")])
    first = submit(client, selection, wanted)
    deadline = time.monotonic() + 20
    while client.status(first).status != "Complete" and time.monotonic() < deadline:
        time.sleep(0.02)
    second = submit(client, selection, wanted)
    assert second != first
    while client.status(second).status != "Complete" and time.monotonic() < deadline:
        time.sleep(0.02)
    path = f"/servicex/transformation/{second}"
    httpx.delete(f"{client.endpoint.url}{path}").raise_for_status()
    assert submit(client, selection, wanted) not in (first, second)


def test_a_selection_that_the_server_cannot_translate(client, nano_files):
    selection = select("(call EventDataset 'bogus.root' 'Events')", codegen="uproot")
    broken = type(selection)("(call Nonsense)", "uproot", "root-file", None, "a broken selection")
    with pytest.raises(QueryError, match="cannot translate"):
        submit(client, broken, identify(nano_files[:1]))


def test_other_refusals_stay_what_they_are(client, selection):
    wanted = type(identify(["/a.root"]))("bogus://x", None)
    with pytest.raises(RequestRefused, match="not supported: bogus"):
        submit(client, selection, wanted)
