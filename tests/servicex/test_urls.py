"""URLs of objects: requested together, kept while they are good, shown in no text."""

from __future__ import annotations

import pickle
import time
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from support.strategies import say

from coffea_sx.dataset import InputFiles
from coffea_sx.errors import (
    AccessError,
    NotAuthorized,
    RequestRefused,
    ServiceXError,
    TransformGone,
)
from coffea_sx.policy import DEFAULT_CLIENT
from coffea_sx.servicex.models import SignedUrl
from coffea_sx.servicex.urls import UrlProvider

INFO = {"app-version": "1", "code-gen-image": {}, "capabilities": ["generate_file_urls"]}


class UrlServer:
    """Gives URLs that live for some time, each another one."""

    def __init__(self, lives_s=600.0):
        self.lives_s, self.asked_for = lives_s, []

    def __call__(self, asked):
        if asked.path == "/servicex":
            return say(INFO)
        self.asked_for.append(asked.json["file_list"])
        n, expiry = len(self.asked_for), time.time() + self.lives_s
        return say(
            {
                "uris": {
                    name: [f"http://store/{quote(name)}?n={n}", {"X-N": str(n)}, expiry]
                    for name in asked.json["file_list"]
                }
            }
        )


@pytest.fixture
def provider_of(scripted, client_of):
    return lambda play: UrlProvider(client_of(scripted(play).url), "d857")


@pytest.fixture
def delivered(servicex, watching, selection, nano_files):
    """A poller with two results."""
    poller = watching(servicex, selection, nano_files[:2])
    return poller, [poller.wait(i).object_name for i in range(2)]


def read(grant):
    return httpx.get(grant.url, headers=grant.headers)


# -- requested from the server


def test_urls_of_the_server_can_be_read(delivered):
    poller, names = delivered
    for name in names:
        answer = read(poller.signed_url(name))
        assert answer.status_code == 200
        assert answer.content[:4] == b"root"


def test_one_request_for_many_and_none_for_those_that_were_made(provider_of):
    play = UrlServer()
    provider = provider_of(play)
    grants = provider.urls(["a", "b"])
    assert list(grants) == ["a", "b"]
    assert provider.urls(["b"])["b"] == grants["b"]
    assert play.asked_for == [["a", "b"]]


def test_one_request_brings_the_others(provider_of):
    play = UrlServer()
    provider = provider_of(play)
    provider.urls(["a"], prefetch=lambda: ["a", "b"])
    provider.urls(["b"], prefetch=lambda: ["c"])
    assert play.asked_for == [["a", "b"]]


def test_refresh_makes_a_new_request(provider_of):
    play = UrlServer()
    provider = provider_of(play)
    first = provider.urls(["a"])["a"]
    second = provider.urls(["a"], refresh=True)["a"]
    assert first.url != second.url
    assert provider.urls(["a"])["a"] == second
    assert play.asked_for == [["a"], ["a"]]


def test_what_is_about_to_expire_is_requested_again(provider_of):
    play = UrlServer(lives_s=20)
    provider = provider_of(play)
    provider.urls(["a"])
    provider.urls(["a"])
    assert len(play.asked_for) == 2


def test_headers_and_expiry_are_those_of_the_server(provider_of):
    grant = provider_of(UrlServer(600)).urls(["a:b c.root"])["a:b c.root"]
    assert grant.headers == {"X-N": "1"}
    assert abs(grant.expires_at - time.time() - 600) < 5
    assert grant.is_fresh()
    assert not SignedUrl("u", {}, time.time() + 1).is_fresh()
    assert not SignedUrl("u", {}, time.time() - 1).is_fresh()


def test_requests_are_limited(provider_of):
    play = UrlServer()
    provider = provider_of(play)
    provider.urls(
        ["a"], prefetch=lambda: [f"n{i}" for i in range(3 * DEFAULT_CLIENT.urls_per_request)]
    )
    assert [len(names) for names in play.asked_for] == [DEFAULT_CLIENT.urls_per_request]
    assert play.asked_for[0][0] == "a"


def test_many_that_are_requested_are_all_returned(provider_of):
    names = [f"n{i}" for i in range(2 * DEFAULT_CLIENT.urls_per_request + 3)]
    assert list(provider_of(UrlServer()).urls(names)) == names


def test_a_missing_url_of_a_prefetched_object(provider_of):
    """Other files must not be lost because one has no URL."""

    def play(asked):
        if asked.path == "/servicex":
            return say(INFO)
        return say({"uris": {"a": ["http://store/a", {}, time.time() + 600]}})

    assert provider_of(play).urls(["a"], prefetch=lambda: ["b"])["a"].url == "http://store/a"


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://store/a", "simplecache::http://store/a", "/a", "", None, 3, []],
)
def test_only_web_addresses(provider_of, url):
    def play(asked):
        if asked.path == "/servicex":
            return say(INFO)
        return say({"uris": {"a": [url, {}, time.time() + 600]}})

    with pytest.raises(AccessError, match=r"http\(s\)") as caught:
        provider_of(play).urls(["a"])
    assert caught.value.object_name == "a"


@pytest.mark.parametrize("uris", [{}, {"b": ["http://store/b", {}, 0]}])
def test_no_url_for_an_object(provider_of, uris):
    def play(asked):
        return say(INFO) if asked.path == "/servicex" else say({"uris": uris})

    with pytest.raises(AccessError, match=r"'a'.*d857"):
        provider_of(play).urls(["a"])


@pytest.mark.parametrize(
    "said",
    [{}, [], None, {"uris": None}, {"uris": {"a": None}}, {"uris": {"a": ["http://store/a"]}},
     {"uris": {"a": ["http://store/a", {}, None]}}, {"uris": {"a": ["http://store/a", {}, "x"]}}],
)  # fmt: skip
def test_a_malformed_response_is_an_error_of_the_package(provider_of, said):
    def play(asked):
        return say(INFO) if asked.path == "/servicex" else say(said)

    with pytest.raises(ServiceXError):
        provider_of(play).urls(["a"])


@pytest.mark.parametrize(("status", "kind"), [(404, TransformGone), (403, NotAuthorized)])
def test_refusals(provider_of, status, kind):
    def play(asked):
        return say(INFO) if asked.path == "/servicex" else say({"message": "no"}, status)

    with pytest.raises(kind):
        provider_of(play).urls(["a"])


def test_requests_for_urls_are_repeated(provider_of):
    play, outage = UrlServer(), [say({}, 503)]
    provider = provider_of(
        lambda asked: outage.pop() if outage and asked.method == "POST" else play(asked)
    )
    assert provider.urls(["a"])["a"].url


# -- shown in no text


def test_a_signed_url_shows_no_signature(delivered):
    poller, names = delivered
    grant = poller.signed_url(names[0])
    signature = parse_qs(urlsplit(grant.url).query)["Signature"][0]
    assert signature not in repr(grant)
    assert signature not in str([grant])
    assert pickle.loads(pickle.dumps(grant)) == grant


# -- URLs of what is not there yet


@pytest.mark.parametrize(
    ("status", "asked_last"), [(503, [":a.root", ":b.root"]), (400, [":a.root"])]
)
def test_only_a_refusal_ends_requests_for_what_is_expected(scripted, client_of, status, asked_last):
    """A server that is away refuses nothing: it is not asked a second time for less."""

    def play(asked):
        if asked.path == "/servicex":
            return say({**INFO, "capabilities": ["generate_file_urls"]})
        return say({"message": "no"}, status)

    server = scripted(play)
    files = InputFiles(("/a.root", "/b.root"))
    provider = UrlProvider(client_of(server.url, 0.0), "d857", files, "root-file")
    with pytest.raises(RequestRefused):
        provider.urls([":a.root"])
    asked = [one.json["file_list"] for one in server.asked if one.method == "POST"]
    assert asked[0] == [":a.root", ":b.root"]
    assert asked[-1] == asked_last
