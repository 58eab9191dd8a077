"""Faults of a store that only a real S3 server has: URLs that expire, keys that change, and more.

The numbers are those of docs/faults.md.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import awkward as ak
import pytest
import uproot
from support.faulty import (
    OBJECTS,
    OF_VICTIM,
    VICTIM,
    Analysis,
    read_with,
    requests_for,
)
from support.leaks import SecretsProxy, watched

from coffea_sx.errors import AccessError, ObjectGone
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import ClientPolicy
from coffea_sx.storage.policy import DEFAULT_POLICY, ReadPolicy
from coffea_sx.testing import Answer, Delay, Fault, FaultProxy, Request, S3Store, Truncate
from coffea_sx.testing.messages import Ask

pytestmark = pytest.mark.usefixtures("s3_store")


def location(store: S3Store, proxy: FaultProxy) -> str:
    """Return the store, behind a proxy, as LocalServiceX takes it."""
    return f"s3://{store.access_key}:{store.secret_key}@{urlsplit(proxy.url).netloc}"


@pytest.fixture(scope="module")
def shared_proxy(s3_store: S3Store) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://{s3_store.endpoint}") as running:
        yield running


@pytest.fixture(scope="module")
def server(s3_store: S3Store, shared_proxy: FaultProxy) -> Iterator[LocalServiceX]:
    with LocalServiceX(tokens=True, object_store=location(s3_store, shared_proxy)) as running:
        yield running


@pytest.fixture(scope="module")
def secrets(server: LocalServiceX) -> Iterator[SecretsProxy]:
    with SecretsProxy(server) as running:
        yield running


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """Proxy in front of the store."""
    shared_proxy.requests.clear()
    yield shared_proxy
    shared_proxy.script = ()


@pytest.fixture
def analysis(
    server: LocalServiceX,
    secrets: SecretsProxy,
    shared_proxy: FaultProxy,
    s3_store: S3Store,
    nano_files: list[str],
    tmp_path: Path,
) -> Iterator[Analysis]:
    with watched(secrets) as canaries:
        canaries.secrets |= {s3_store.access_key, s3_store.secret_key}
        canaries.stores.append(shared_proxy)
        yield Analysis(server, secrets.url, nano_files[:3], tmp_path, canaries)


class Stored:
    """The object of the victim."""

    def __init__(self, store: S3Store, factory: Any) -> None:
        self.client = store.client()
        self.bucket = factory.request_id
        factory.events().event.compute(scheduler="synchronous")
        self.name = factory.files[VICTIM]["object_name"]

    def content(self) -> bytes:
        with self.client.get_object(self.bucket, self.name) as answer:
            return answer.read()

    def put(self, content: bytes) -> None:
        self.client.put_object(self.bucket, self.name, io.BytesIO(content), len(content))

    def remove(self) -> None:
        self.client.remove_object(self.bucket, self.name)


@pytest.fixture
def stored(analysis: Analysis, s3_store: S3Store, proxy: FaultProxy) -> Iterator[Stored]:
    found = Stored(s3_store, analysis.factory())
    before = found.content()
    proxy.requests.clear()
    yield found
    found.put(before)


@pytest.fixture
def short_lived(analysis: Analysis) -> None:
    """URLs are good for some seconds, in which a busy machine sends a request."""
    analysis.connect(ClientPolicy(signed_for_s=3))


# On its way a request takes longer than its URL lives.
SLOW = Delay(3.2)


@pytest.mark.usefixtures("short_lived")
def test_26_a_url_expires(analysis: Analysis, proxy: FaultProxy) -> None:
    proxy.script = [Fault(SLOW, OF_VICTIM)]
    analysis.assert_right("threads")
    first, second = requests_for(proxy, OF_VICTIM)
    assert (first.status, second.status) == (403, 200)
    assert "X-Amz-Expires=3&" in first.query
    assert first.query != second.query


@pytest.mark.slow
@pytest.mark.usefixtures("short_lived")
def test_26_the_new_url_expires_too(analysis: Analysis, proxy: FaultProxy) -> None:
    proxy.script = [Fault(SLOW, OF_VICTIM, times=None)]
    analysis.assert_raises_for_victim(AccessError, "403 AccessDenied")
    assert [request.status for request in requests_for(proxy, OF_VICTIM)] == [403, 403]


def before(do: Callable[[], object]) -> Any:
    """Make an action: do something, then pass the request on."""

    async def action(request: Request, ask: Ask) -> Answer:
        await asyncio.to_thread(do)
        return await ask()

    return action


def after(do: Callable[[], object], act: Any = None) -> Any:
    """Make an action: let the server answer, then do something."""

    async def action(request: Request, ask: Ask) -> Answer:
        asking: Awaitable[Answer] = ask() if act is None else act(request, ask)
        answer = await asking
        await asyncio.to_thread(do)
        return answer

    return action


def test_27_keys_are_changed_while_files_are_read(nano_files: list[str], tmp_path: Path) -> None:
    with S3Store() as store, FaultProxy(f"http://{store.endpoint}") as proxy:
        serve = partial(LocalServiceX, tmp_path / "servicex", tokens=True)
        servers = [serve(object_store=location(store, proxy)).start()]
        old = {store.access_key, store.secret_key}

        def rotate() -> None:
            port = urlsplit(servers[0].url).port
            servers[0].stop()
            store.rotate_keys()
            servers.append(serve(port=port, object_store=location(store, proxy)).start())

        try:
            with SecretsProxy(servers[0]) as secrets, watched(secrets) as canaries:
                analysis = Analysis(servers[0], secrets.url, nano_files[:3], tmp_path, canaries)
                canaries.stores.append(proxy)
                proxy.script = [Fault(before(rotate), OF_VICTIM)]
                analysis.assert_right()
                assert old | {store.access_key, store.secret_key} <= canaries.secrets
        finally:
            servers[-1].stop()
        assert [request.status for request in requests_for(proxy, OF_VICTIM)] == [403, 200]
        assert store.access_key in requests_for(proxy, OF_VICTIM)[1].query


def test_28_an_object_is_not_there_yet(
    analysis: Analysis, proxy: FaultProxy, stored: Stored
) -> None:
    content = stored.content()
    stored.remove()
    proxy.script = [Fault(after(partial(stored.put, content)), OF_VICTIM)]
    start = time.monotonic()
    analysis.assert_right()
    assert time.monotonic() - start >= DEFAULT_POLICY.missing_pauses_s[0]
    assert [request.status for request in requests_for(proxy, OF_VICTIM)] == [404, 200]


def test_28_an_object_is_gone(
    analysis: Analysis, proxy: FaultProxy, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_with(monkeypatch, ReadPolicy(missing_pauses_s=(0.01, 0.02)))
    stored.remove()
    analysis.assert_raises_for_victim(ObjectGone, "404 NoSuchKey")
    assert [request.status for request in requests_for(proxy, OF_VICTIM)] == [404, 404, 404]
    analysis.assert_skips_victim(ObjectGone, "404 NoSuchKey", "threads")


def doubled(content: bytes) -> bytes:
    """Write a result with other numbers, as many, in a file of another size."""
    with uproot.open(io.BytesIO(content)) as file:
        events = file["servicex"].arrays()
    written = io.BytesIO()
    written.close = lambda: None  # type: ignore[method-assign]
    with uproot.recreate(written) as file:
        columns = {name: events[name] for name in ("event", "MET_pt", "Muon_pt")}
        columns["MET_pt"] = 2 * columns["MET_pt"]
        file.mktree("servicex", {name: column.type.content for name, column in columns.items()})
        file["servicex"].extend(columns)
    return written.getvalue()


def expected(analysis: Analysis) -> Any:
    """Return the numbers, with those of the victim doubled."""
    met = ak.to_numpy(analysis.truth["MET_pt"]).copy()
    met[500:1000] *= 2
    return met.tolist()


def test_21_an_object_was_replaced(analysis: Analysis, stored: Stored) -> None:
    """The size that the store sends counts, not that of the row."""
    content = stored.content()
    other = doubled(content)
    assert len(other) != len(content)
    stored.put(other)
    assert analysis.compute()["MET_pt"].to_list() == expected(analysis)
    analysis.assert_silent()


def test_24_an_object_is_replaced_while_it_is_read(
    analysis: Analysis, proxy: FaultProxy, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_with(monkeypatch, ReadPolicy(block_bytes=1000))
    replace = partial(stored.put, doubled(stored.content()))
    proxy.script = [Fault(Truncate(9000), OF_VICTIM), Fault(before(replace), OF_VICTIM)]
    assert analysis.compute()["MET_pt"].to_list() == expected(analysis)
    assert proxy.provoked == [1, 1]
    asked = [(request.range, request.status) for request in requests_for(proxy, OF_VICTIM)]
    assert asked == [(None, 200), ("bytes=9000-", 206), (None, 200)]
    assert len(requests_for(proxy, OBJECTS)) == 5
    analysis.assert_silent()
