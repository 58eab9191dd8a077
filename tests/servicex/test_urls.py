"""URLs of objects: asked for or signed, kept while they are good, shown to nobody."""

from __future__ import annotations

import pickle
import time
from functools import partial
from types import SimpleNamespace
from urllib.parse import parse_qs, quote, unquote, urlsplit

import httpx
import pytest
from support.strategies import say, status_json

from coffea_sx.dataset import InputFiles
from coffea_sx.errors import (
    AccessError,
    NotAuthorized,
    RequestRefused,
    ServiceXError,
    TransformGone,
)
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import DEFAULT_CLIENT
from coffea_sx.servicex.bucket import check_host
from coffea_sx.servicex.config import Endpoint, EndpointName
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
def access_of(scripted, client_of):
    return lambda play: UrlProvider(client_of(scripted(play).url), "d857")


@pytest.fixture
def delivered(servicex, watching, selection, nano_files):
    """A watch that knows two results."""
    poller = watching(servicex, selection, nano_files[:2])
    return poller, [poller.wait(i).object_name for i in range(2)]


def read(grant):
    return httpx.get(grant.url, headers=grant.headers)


# -- asked for


def test_urls_of_the_server_can_be_read(delivered):
    poller, names = delivered
    for name in names:
        answer = read(poller.grant(name))
        assert answer.status_code == 200
        assert answer.content[:4] == b"root"


def test_one_request_for_many_and_none_for_those_known(access_of):
    play = UrlServer()
    access = access_of(play)
    grants = access.urls(["a", "b"])
    assert list(grants) == ["a", "b"]
    assert access.urls(["b"])["b"] == grants["b"]
    assert play.asked_for == [["a", "b"]]


def test_asking_for_one_brings_the_others(access_of):
    play = UrlServer()
    access = access_of(play)
    access.urls(["a"], prefetch=lambda: ["a", "b"])
    access.urls(["b"], prefetch=lambda: ["c"])
    assert play.asked_for == [["a", "b"]]


def test_refresh_asks_again(access_of):
    play = UrlServer()
    access = access_of(play)
    first = access.urls(["a"])["a"]
    second = access.urls(["a"], refresh=True)["a"]
    assert first.url != second.url
    assert access.urls(["a"])["a"] == second
    assert play.asked_for == [["a"], ["a"]]


def test_what_is_about_to_expire_is_asked_for_again(access_of):
    play = UrlServer(lives_s=20)
    access = access_of(play)
    access.urls(["a"])
    access.urls(["a"])
    assert len(play.asked_for) == 2


def test_headers_and_expiry_are_those_of_the_server(access_of):
    grant = access_of(UrlServer(600)).urls(["a:b c.root"])["a:b c.root"]
    assert grant.headers == {"X-N": "1"}
    assert abs(grant.expires_at - time.time() - 600) < 5
    assert grant.is_fresh()
    assert not SignedUrl("u", {}, time.time() + 1).is_fresh()
    assert not SignedUrl("u", {}, time.time() - 1).is_fresh()


def test_requests_are_limited(access_of):
    play = UrlServer()
    access = access_of(play)
    access.urls(
        ["a"], prefetch=lambda: [f"n{i}" for i in range(3 * DEFAULT_CLIENT.urls_per_request)]
    )
    assert [len(names) for names in play.asked_for] == [DEFAULT_CLIENT.urls_per_request]
    assert play.asked_for[0][0] == "a"


def test_many_that_are_wanted_are_all_given(access_of):
    names = [f"n{i}" for i in range(2 * DEFAULT_CLIENT.urls_per_request + 3)]
    assert list(access_of(UrlServer()).urls(names)) == names


def test_a_url_that_is_missing_for_what_is_not_wanted_yet(access_of):
    """Other files must not be lost because one has no URL."""

    def play(asked):
        if asked.path == "/servicex":
            return say(INFO)
        return say({"uris": {"a": ["http://store/a", {}, time.time() + 600]}})

    assert access_of(play).urls(["a"], prefetch=lambda: ["b"])["a"].url == "http://store/a"


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://store/a", "simplecache::http://store/a", "/a", "", None, 3, []],
)
def test_only_web_addresses(access_of, url):
    def play(asked):
        if asked.path == "/servicex":
            return say(INFO)
        return say({"uris": {"a": [url, {}, time.time() + 600]}})

    with pytest.raises(AccessError, match=r"http\(s\)") as caught:
        access_of(play).urls(["a"])
    assert caught.value.object_name == "a"


@pytest.mark.parametrize("uris", [{}, {"b": ["http://store/b", {}, 0]}])
def test_no_url_for_an_object(access_of, uris):
    def play(asked):
        return say(INFO) if asked.path == "/servicex" else say({"uris": uris})

    with pytest.raises(AccessError, match=r"'a'.*d857"):
        access_of(play).urls(["a"])


@pytest.mark.parametrize(
    "said",
    [{}, [], None, {"uris": None}, {"uris": {"a": None}}, {"uris": {"a": ["http://store/a"]}},
     {"uris": {"a": ["http://store/a", {}, None]}}, {"uris": {"a": ["http://store/a", {}, "x"]}}],
)  # fmt: skip
def test_nonsense_is_an_error_of_ours(access_of, said):
    def play(asked):
        return say(INFO) if asked.path == "/servicex" else say(said)

    with pytest.raises(ServiceXError):
        access_of(play).urls(["a"])


@pytest.mark.parametrize(("status", "kind"), [(404, TransformGone), (403, NotAuthorized)])
def test_refusals(access_of, status, kind):
    def play(asked):
        return say(INFO) if asked.path == "/servicex" else say({"message": "no"}, status)

    with pytest.raises(kind):
        access_of(play).urls(["a"])


def test_asking_for_urls_is_repeated(access_of):
    play, outage = UrlServer(), [say({}, 503)]
    access = access_of(
        lambda asked: outage.pop() if outage and asked.method == "POST" else play(asked)
    )
    assert access.urls(["a"])["a"].url


# -- signed here


@pytest.fixture(scope="module")
def server_of_2025():
    """A server that makes no URLs."""
    with LocalServiceX(workers=1, generation="2025") as server:
        yield server


@pytest.fixture
def signing(server_of_2025, watching, selection, nano_files):
    """A poller with two results of a server of 2025."""
    poller = watching(server_of_2025, selection, nano_files[:2])
    return poller, [poller.wait(i).object_name for i in range(2)]


def test_signed_urls_can_be_read(signing, server_of_2025):
    poller, names = signing
    for name in names:
        response = read(poller.grant(name))
        assert response.status_code == 200
        assert response.content[:4] == b"root"
    assert not any(e.path.endswith("file-urls") for e in server_of_2025.exchanges)


def test_signed_urls_live_shortly_and_hide_the_secret(signing):
    poller, names = signing
    grant = poller.grant(names[0])
    query = parse_qs(urlsplit(grant.url).query)
    assert query["X-Amz-Expires"] == [str(DEFAULT_CLIENT.signed_for_s)]
    assert unquote(urlsplit(grant.url).path) == f"/{poller.address.request_id}/{names[0]}"
    assert grant.is_fresh()
    keys = poller.client.store_keys(poller.address.request_id)
    assert keys.secret_key.reveal() not in grant.url


def keys_json(name="minio"):
    """Make the part of a status that says where the results are."""
    return {
        "minio-endpoint": "store.org:9000",
        "minio-access-key": f"{name}-access",
        "minio-secret-key": f"{name}-secret",
        "minio-secured": False,
    }


def keys_server(keys):
    """Play a server that makes no URLs, with these parts of the status in turn."""

    def play(asked):
        if asked.path == "/servicex":
            return say({**INFO, "capabilities": []})
        return say({**status_json(), **(keys.pop(0) if len(keys) > 1 else keys[0])})

    return play


def test_a_refresh_signs_with_the_keys_of_today(access_of):
    access = access_of(keys_server([keys_json("first"), keys_json("second")]))
    first = access.urls(["a"])["a"]
    assert "first-access" in first.url
    assert access.urls(["a"])["a"] == first
    assert "second-access" in access.urls(["a"], refresh=True)["a"].url


@pytest.mark.parametrize(
    "keys", [{}, dict.fromkeys(keys_json()), {**keys_json(), "minio-endpoint": "store.org/path"}]
)
def test_a_status_without_keys(access_of, keys):
    with pytest.raises(AccessError, match="d857"):
        access_of(keys_server([keys])).urls(["a"])


# -- shown to nobody


def test_a_grant_shows_no_signature(delivered):
    poller, names = delivered
    grant = poller.grant(names[0])
    signature = parse_qs(urlsplit(grant.url).query)["Signature"][0]
    assert signature not in repr(grant)
    assert signature not in str([grant])
    assert pickle.loads(pickle.dumps(grant)) == grant


@pytest.mark.parametrize(
    ("servicex", "store", "is_allowed"),
    [
        ("https://servicex.org", "https://minio.elsewhere.org/o", True),
        ("https://servicex.org", "https://10.1.2.3/o", True),
        ("https://servicex.org", "http://169.254.169.254/latest", False),
        ("https://servicex.org", "http://127.0.0.1:9000/o", False),
        ("https://servicex.org", "http://localhost/o", False),
        ("https://servicex.org", "http://[::1]/o", False),
        ("https://servicex.org", "http://[fe80::1]/o", False),
        ("https://servicex.org", "http://metadata.google.internal/o", False),
        ("https://servicex.org", "http://0.0.0.0/o", False),
        ("http://localhost:5000", "http://127.0.0.1:9000/o", True),
        ("http://127.0.0.1:5000", "https://minio.elsewhere.org/o", True),
    ],
)
def test_no_store_on_the_users_own_machine_but_beside_its_servicex(
    servicex, store, is_allowed, monkeypatch
):
    endpoint = Endpoint(servicex, None, EndpointName(None, servicex, None))
    check = partial(check_host, SimpleNamespace(endpoint=endpoint), store, "d857", "o")
    if is_allowed:
        check()
        return
    with pytest.raises(AccessError, match="COFFEA_SX_STORE_HOSTS") as caught:
        check()
    assert caught.value.request_id == "d857"
    monkeypatch.setenv("COFFEA_SX_STORE_HOSTS", f"a.org, {urlsplit(store).hostname}")
    check()


# -- URLs of what is not there yet


@pytest.mark.parametrize(
    ("status", "asked_last"), [(503, [":a.root", ":b.root"]), (400, [":a.root"])]
)
def test_only_a_refusal_ends_asking_for_what_is_expected(scripted, client_of, status, asked_last):
    """A server that is away refuses nothing: it is not asked a second time for less."""

    def play(asked):
        if asked.path == "/servicex":
            return say({**INFO, "capabilities": ["generate_file_urls"]})
        return say({"message": "no"}, status)

    server = scripted(play)
    files = InputFiles(("/a.root", "/b.root"))
    access = UrlProvider(client_of(server.url, 0.0), "d857", files, "root-file")
    with pytest.raises(RequestRefused):
        access.urls([":a.root"])
    asked = [one.json["file_list"] for one in server.asked if one.method == "POST"]
    assert asked[0] == [":a.root", ":b.root"]
    assert asked[-1] == asked_last
