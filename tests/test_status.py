"""`factory.status()`: optional, missing and invalid values in the response."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.faulty import Rewrite
from support.strategies import submit_dimuons

from coffea_sx.errors import ProtocolError
from coffea_sx.local import LocalServiceX
from coffea_sx.testing import Fault, FaultProxy, When

STATUS = When("^/servicex/transformation/[0-9a-f-]{36}$", method="GET")


@pytest.fixture(scope="module")
def proxy(servicex: LocalServiceX) -> Iterator[FaultProxy]:
    with FaultProxy(servicex.url) as running:
        yield running


@pytest.fixture(scope="module")
def factory(proxy: FaultProxy, nano_files: list[str]) -> Any:
    return submit_dimuons(proxy, nano_files)  # type: ignore[arg-type]


def change_status(proxy: FaultProxy, change: Callable[[dict[str, Any]], Any]) -> None:
    proxy.script = [Fault(Rewrite(change), STATUS, times=None)]


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda response: {name: value for name, value in response.items() if name != key}


@pytest.mark.parametrize("key", ["submit-time", "title", "finish-time", "minio-secret-key"])
def test_optional_keys(proxy: FaultProxy, factory: Any, key: str) -> None:
    change_status(proxy, without(key))
    status = factory.status()
    assert status.n_files == 8
    assert status.submitted_at == "" or key != "submit-time"


@pytest.mark.parametrize("key", ["status", "files", "files-completed", "files-failed"])
def test_required_keys(proxy: FaultProxy, factory: Any, key: str) -> None:
    change_status(proxy, without(key))
    with pytest.raises(ProtocolError, match=f"'{key}'"):
        factory.status()


@pytest.mark.parametrize("value", ["many", [], {}, float("inf")])
def test_invalid_numbers(proxy: FaultProxy, factory: Any, value: Any) -> None:
    change_status(proxy, lambda response: {**response, "files": value or [1]})
    with pytest.raises(ProtocolError, match="'files': "):
        factory.status()


def test_a_number_that_the_server_does_not_have_yet(proxy: FaultProxy, factory: Any) -> None:
    change_status(proxy, lambda response: {**response, "files": None})
    assert factory.status().n_files == 0
