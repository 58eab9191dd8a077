"""Submitting: what is found out before, what is reused, and how many files there are."""

from __future__ import annotations

import time

import pytest
from strategies import columns, say

from coffea_sx.dataset import identify
from coffea_sx.errors import (
    BadDataset,
    EmptyDataset,
    NotAuthorized,
    QueryError,
    RequestRefused,
    TransformStalled,
)
from coffea_sx.local import LocalServiceX
from coffea_sx.query import select
from coffea_sx.transform import lookup as lookup_module
from coffea_sx.transform.client import DATASETS
from coffea_sx.transform.lookup import files_of
from coffea_sx.transform.submit import check_acceptable, submit


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


def test_two_requests_before_submitting(scripted, client_of, selection):
    server = scripted(acceptable())
    check_acceptable(client_of(server.url), selection)
    assert [a.method for a in server.asked] == ["GET", "GET"]


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


def test_who_is_not_let_in_learns_it_before_submitting(scripted, client_of, selection):
    play = acceptable()

    def refusing(asked):
        return play(asked) if asked.path == "/servicex" else say({"msg": "No token"}, 401)

    server = scripted(refusing)
    with pytest.raises(NotAuthorized, match="No token"):
        check_acceptable(client_of(server.url), selection)
    assert server.count("POST") == 0


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
    while client.status(first)["status"] != "Complete" and time.monotonic() < deadline:
        time.sleep(0.02)
    second = submit(client, selection, wanted)
    assert second != first
    while client.status(second)["status"] != "Complete" and time.monotonic() < deadline:
        time.sleep(0.02)
    client._http.delete(f"/servicex/transformation/{second}").raise_for_status()
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


# -- the number of files


def test_files_of_a_list_in_the_order_of_the_list(client, selection, nano_files):
    wanted = identify(nano_files[::-1])
    request_id = submit(client, selection, wanted)
    assert files_of(client, request_id).paths == tuple(nano_files[::-1])


def test_files_of_a_did(client_of, selection, nano_files):
    with LocalServiceX(workers=1, datasets={"rucio://me:nano": nano_files[:3]}) as server:
        client = client_of(server.url)
        wanted = identify(nano_files[:1])
        request_id = submit(client, selection, type(wanted)("rucio://me:nano", None))
        assert files_of(client, request_id).paths == tuple(nano_files[:3])


@pytest.fixture
def fast(monkeypatch):
    """Let looked-up datasets be asked for more often."""
    real = time.sleep
    monkeypatch.setattr(lookup_module, "sleep", lambda seconds: real(min(seconds, 0.02)))


class Lookup:
    """Plays a look-up: each question finds the next state."""

    def __init__(self, *states):
        self.states = list(states)

    def __call__(self, asked):
        status, lookup, files = self.states[0]
        if asked.path == "/servicex":
            return say({"app-version": "1", "code-gen-image": {}, "capabilities": [DATASETS]})
        if "/datasets/" in asked.path:
            if len(self.states) > 1:
                self.states.pop(0)
            return say(
                {
                    "name": "me:ttbar",
                    "lookup_status": lookup,
                    "files": [{"id": i, "paths": f"/{i}.root"} for i in files],
                }
            )
        return say({"status": status, "did_id": 3, "did": "rucio://me:ttbar", "files": len(files)})


def files_after(scripted, client_of, *states, patience_s=5.0):
    return files_of(client_of(scripted(Lookup(*states)).url), "d857", patience_s)


def test_a_look_up_is_waited_for(scripted, client_of, fast):
    files = files_after(
        scripted,
        client_of,
        ("Lookup", "looking", []),
        ("Lookup", "looking", [8]),
        ("Running", "looking", [8, 3]),
        ("Complete", "looking", [8, 3]),  # too early, as servers before 2026 do
        ("Running", "complete", [8, 3, 11]),
    )
    assert files.paths == ("/3.root", "/8.root", "/11.root")


def test_an_empty_dataset(scripted, client_of, fast):
    with pytest.raises(EmptyDataset, match="me:ttbar") as caught:
        files_after(scripted, client_of, ("Complete", "complete", []))
    assert caught.value.request_id == "d857"


@pytest.mark.parametrize(
    ("lookup", "says"),
    [
        ("does_not_exist", "does not exist"),
        ("bad_name", "name is not valid"),
        ("internal_failure", "try again"),
        ("something_new", "something_new"),
    ],
)
def test_a_bad_dataset(scripted, client_of, fast, lookup, says):
    with pytest.raises(BadDataset, match=f"me:ttbar.*{says}") as caught:
        files_after(scripted, client_of, ("Bad Dataset", lookup, []))
    assert (caught.value.request_id, caught.value.lookup_status) == ("d857", lookup)


@pytest.mark.parametrize("status", ["Canceled", "Fatal"])
def test_a_transform_that_ends_during_the_look_up(scripted, client_of, fast, status):
    start = time.monotonic()
    with pytest.raises(Exception, match="d857") as caught:
        files_after(scripted, client_of, (status, "looking", []), patience_s=3)
    assert not isinstance(caught.value, TransformStalled)
    assert time.monotonic() - start < 2


def test_a_look_up_that_stalls(scripted, client_of, fast):
    start = time.monotonic()
    with pytest.raises(TransformStalled, match="2 files so far"):
        files_after(scripted, client_of, ("Lookup", "looking", [1, 2]), patience_s=0.5)
    assert time.monotonic() - start < 3
