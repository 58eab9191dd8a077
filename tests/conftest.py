"""Fixtures of all tests: a ServiceX, input files, clients, and servers with faults."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import pytest
from coffea.nanoevents import NanoEventsFactory
from support.paces import FAST, IMPATIENT
from support.spoiled import spoil
from support.strategies import Play, ScriptedServer, columns, connected

from coffea_sx.dataset import InputFiles
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.demo.samples import make_samples
from coffea_sx.errors import ConfigurationError
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import PollPolicy
from coffea_sx.polling.poller import Poller
from coffea_sx.polling.registry import TransformAddress
from coffea_sx.query import Selection, select
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.testing.store import S3Store

# Before CPython 3.11.9 dask's sampling profiler now and then stops a worker for good
# (python/cpython#106883). The environment holds for the processes that tests start, too.
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"
dask.config.refresh()

# They hold no examples, and all have one module name.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

# Where tests run in the background of a shell, Ctrl-C is ignored, and so it would be by the
# processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by marks, or shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all cases but every n-th of a test with the mark ``sampled(n)`` as slow."""
    n_cases: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is None:
            continue
        test = item.nodeid.partition("[")[0]
        if n_cases[test] % mark.args[0]:
            item.add_marker(pytest.mark.slow)
        n_cases[test] += 1


@pytest.fixture(scope="session")
def servicex() -> Iterator[LocalServiceX]:
    """A ServiceX for all tests that do not disturb it."""
    with LocalServiceX(workers=2) as server:
        yield server


@pytest.fixture(scope="session")
def s3_store() -> Iterator[S3Store]:
    """An S3 server for all tests that do not disturb it."""
    try:
        store = S3Store()
    except ConfigurationError as missing:
        if sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64"):
            raise
        pytest.skip(str(missing))  # there is no wheel of it for every machine
    with store:
        yield store


@pytest.fixture(scope="session")
def nano_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Eight files of 500 events."""
    return make_samples(tmp_path_factory.mktemp("nano"), n_files=8, n_events=500)


@pytest.fixture(scope="session")
def submit(servicex: LocalServiceX, nano_files: list[str]) -> Callable[..., Any]:
    """`from_servicex` with the demo's query on the session's files."""

    def submitted(query: Any = None, dataset: Any = None, **options: Any) -> Any:
        return NanoEventsFactory.from_servicex(
            dimuon_query() if query is None else query,
            nano_files if dataset is None else dataset,
            **{"pace": FAST, "url": servicex.url, "schemaclass": SelectionSchema, **options},
        )

    return submitted


@pytest.fixture
def one_corrupt(tmp_path: Path, nano_files: list[str]) -> list[str]:
    """Eight files of which the sixth is corrupt."""
    files = [shutil.copy(path, tmp_path) for path in nano_files]
    spoil(files[5])
    return files


@pytest.fixture(scope="session")
def selection() -> Selection:
    """A selection of two columns."""
    return select(columns("MET_pt", "Muon_pt"), codegen="uproot")


@pytest.fixture(autouse=True, scope="session")
def no_tokens() -> Iterator[None]:
    """No test sends the token of the user who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BEARER_TOKEN_FILE", raising=False)
        yield


@pytest.fixture
def client_of() -> Iterator[Callable[..., ServiceXClient]]:
    """Make clients of servers: ``client_of(url, patience_s, limits)``."""
    clients: list[ServiceXClient] = []

    def make(url: str, *options: Any, **more: Any) -> ServiceXClient:
        clients.append(connected(url, *options, **more))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def watching() -> Iterator[Callable[..., Poller]]:
    """Submit a selection and poll its transform: ``watching(server, selection, files)``."""
    pollers: list[Poller] = []

    def start(
        server: LocalServiceX,
        selection: Selection,
        files: Sequence[str],
        pace: PollPolicy = IMPATIENT,
    ) -> Poller:
        client = connected(server.url)
        request_id = client.submit(selection, did=None, files=files)
        address = TransformAddress(request_id, client.endpoint.name)
        pollers.append(Poller(client, address, InputFiles(tuple(files)), pace))
        return pollers[-1]

    yield start
    for poller in pollers:
        poller.close()


@pytest.fixture
def scripted() -> Iterator[Callable[[Play], ScriptedServer]]:
    """Start servers whose responses a function makes: ``scripted(play)``."""
    servers: list[ScriptedServer] = []

    def start(play: Play) -> ScriptedServer:
        servers.append(ScriptedServer(play))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def closed_port() -> int:
    """Port without a server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
