"""Buckets of transforms: URLs that are signed here, and the hosts of stores that are allowed."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest
from support.strategies import say, status_json

from coffea_sx.dataset import object_name
from coffea_sx.errors import AccessError
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import DEFAULT_CLIENT
from coffea_sx.servicex.bucket import Bucket, check_host
from coffea_sx.servicex.config import Endpoint, EndpointName
from coffea_sx.servicex.urls import UrlProvider

INFO = {"app-version": "1", "code-gen-image": {}, "capabilities": []}


@pytest.fixture
def provider_of(scripted, client_of):
    return lambda play: UrlProvider(client_of(scripted(play).url), "d857")


def read(url):
    return httpx.get(url.url, headers=url.headers)


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
        response = read(poller.signed_url(name))
        assert response.status_code == 200
        assert response.content[:4] == b"root"
    assert not any(e.path.endswith("file-urls") for e in server_of_2025.exchanges)


def test_signed_urls_live_shortly_and_hide_the_secret(signing):
    poller, names = signing
    url = poller.signed_url(names[0])
    query = parse_qs(urlsplit(url.url).query)
    assert query["X-Amz-Expires"] == [str(DEFAULT_CLIENT.signed_for_s)]
    assert unquote(urlsplit(url.url).path) == f"/{poller.address.request_id}/{names[0]}"
    assert url.is_fresh()
    keys = poller.client.store_keys(poller.address.request_id)
    assert keys.secret_key.reveal() not in url.url


def keys_json(name="store"):
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
            return say(INFO)
        return say({**status_json(), **(keys.pop(0) if len(keys) > 1 else keys[0])})

    return play


def test_a_refresh_signs_with_the_keys_of_today(provider_of):
    provider = provider_of(keys_server([keys_json("first"), keys_json("second")]))
    first = provider.urls(["a"])["a"]
    assert "first-access" in first.url
    assert provider.urls(["a"])["a"] == first
    assert "second-access" in provider.urls(["a"], refresh=True)["a"].url


@pytest.mark.parametrize(
    "keys", [{}, dict.fromkeys(keys_json()), {**keys_json(), "minio-endpoint": "store.org/path"}]
)
def test_a_status_without_keys(provider_of, keys):
    with pytest.raises(AccessError, match="d857"):
        provider_of(keys_server([keys])).urls(["a"])


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


def test_rows_of_a_server_that_lists_no_results(client_of, selection, nano_files):
    with LocalServiceX(workers=1, generation="1.5") as server:
        client = client_of(server.url)
        request_id = client.submit(selection, did=None, files=nano_files[:1])
        end = time.monotonic() + 60
        while not client.status(request_id).is_over:
            assert time.monotonic() < end
            time.sleep(0.02)
        (row,) = Bucket(client, request_id).rows()
    assert row.id == row.object_name == object_name(nano_files[0])
    assert (row.file_path, row.is_success, row.n_events) == ("", True, None)
    assert row.nbytes > 0
    assert row.created is not None
