"""No token, key or signature leaves the process that owns it: canaries are searched for."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import httpx
import pytest
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import DaskExecutor, FuturesExecutor, Runner
from distributed import Client, LocalCluster
from support.leaks import Canaries, SecretsProxy, watched
from support.paces import FAST

from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.local import LocalServiceX
from coffea_sx.testing import Fault, S3Error, When

pytestmark = [
    pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
EXPIRED = S3Error(403, "AccessDenied", "Request has expired")


@pytest.fixture(scope="module")
def secrets() -> Iterator[SecretsProxy]:
    with LocalServiceX(tokens=True) as server, SecretsProxy(server) as proxy:
        yield proxy


@pytest.fixture
def canaries(secrets: SecretsProxy) -> Iterator[Canaries]:
    with watched(secrets) as canaries:
        yield canaries


def submitted(secrets: SecretsProxy, directory: Path, files: list[str], **options: Any) -> Any:
    config = directory / "servicex.yaml"
    config.write_text(secrets.server.servicex_yaml().replace(secrets.server.url, secrets.url))
    return NanoEventsFactory.from_servicex(
        dimuon_query(),
        files,
        config_path=config,
        schemaclass=SelectionSchema,
        ignore_cache=True,
        **{"pace": FAST, **options},
    )


def test_success_on_a_cluster(
    canaries: Canaries, secrets: SecretsProxy, tmp_path: Path, nano_files: list[str]
) -> None:
    factory = submitted(secrets, tmp_path, nano_files)
    events = factory.events()
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        dask.compute(events.Muon.pt)
        worker_logs = str(client.get_worker_logs()) + str(client.get_scheduler_logs())
    factory.status()
    graph = dask.optimize(events)[0].dask
    # The minimum: a refresh token, an access token, and a signature for each object.
    assert len(canaries.secrets) >= 2 + len(nano_files)
    # As dask pickles it: coffea's behaviours hold functions that plain pickle does not take.
    canaries.assert_absent("the pickled graph", cloudpickle.dumps(events.dask))
    canaries.assert_absent("the optimised graph", cloudpickle.dumps(graph))
    canaries.assert_absent("the pickled factory", cloudpickle.dumps(factory))
    names = [file["object_name"] for file in factory.files]
    signed = factory._source.poller.signed_urls(names).values()
    things = (factory, events, events.dask, factory.files, factory.status(), factory._source.poller)
    for thing in (*things, *signed):
        canaries.assert_absent(f"repr of {type(thing).__name__}", repr(thing))
        html = getattr(thing, "_repr_html_", str)()
        canaries.assert_absent(f"HTML of {type(thing).__name__}", html)
    canaries.assert_absent("the logs of workers", worker_logs)
    canaries.assert_absent("our log", canaries.log.getvalue())
    assert "/results" in canaries.log.getvalue()  # requests are logged


@contextmanager
def executor_of(kind: str, factory: Any) -> Iterator[tuple[Any, Callable[[], str]]]:
    """An executor of coffea, and what its workers log."""
    if kind in ("cluster", "DaskExecutor"):
        with (
            LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):

            def logs() -> str:
                return f"{client.get_worker_logs()}{client.get_scheduler_logs()}"

            if kind == "DaskExecutor":
                yield DaskExecutor(client=client, status=False, retries=0), logs
            else:
                pool = factory.pool(client.get_executor())
                yield FuturesExecutor(pool=pool, status=False, retries=0), logs
        return
    spawned = multiprocessing.get_context("spawn")
    threads = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(2, spawned)
    with threads:
        yield FuturesExecutor(pool=factory.pool(threads), status=False, retries=0), str


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["threads", "processes", "cluster", "DaskExecutor"])
def test_work_items(
    canaries: Canaries, secrets: SecretsProxy, tmp_path: Path, nano_files: list[str], kind: str
) -> None:
    """A call carries the URL of one file, which is in no item, schema, result, error or log."""
    files = [str(shutil.copy(path, tmp_path)) for path in nano_files[:3]]
    factory = submitted(secrets, tmp_path, files)
    items, schema = factory.work_items(), factory.schema
    with executor_of(kind, factory) as (executor, logs_of_workers):
        runner = Runner(executor, schema=schema, savemetrics=True)
        result = runner.run(items, DimuonProcessor())
        _provoke("corrupt", secrets, factory.request_id)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any: its text is tested
            runner.run(items, DimuonProcessor())
        logs = logs_of_workers()
    assert len(canaries.secrets) >= 2 + len(files)
    text = "".join(traceback.format_exception(caught.value))
    # With DaskExecutor coffea opens it, and uproot fails.
    assert "CorruptFile" in text or kind == "DaskExecutor"
    for thing in (items, schema, result, caught.value, factory.metadata_cache):
        canaries.assert_absent(f"repr of {type(thing).__name__}", repr(thing))
    for thing in (items, schema, result):
        canaries.assert_absent(f"pickled {type(thing).__name__}", cloudpickle.dumps(thing))
    canaries.assert_absent("the fileset", factory.to_fileset().model_dump_json())
    canaries.assert_absent("the report", repr(factory.report()))
    canaries.assert_absent("the traceback", text)
    canaries.assert_absent("the logs of workers", logs)
    canaries.assert_absent("our log", canaries.log.getvalue())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("fault", ["expired", "gone", "corrupt", "failed"])
def test_faults(
    canaries: Canaries,
    secrets: SecretsProxy,
    tmp_path: Path,
    nano_files: list[str],
    fault: str,
) -> None:
    files = [str(shutil.copy(path, tmp_path)) for path in nano_files[:3]]
    if fault == "failed":
        Path(files[1]).write_bytes(b"root" + bytes(2000))
    factory = submitted(secrets, tmp_path, files)
    events = factory.events()
    if fault != "failed":
        events.event.compute(scheduler="synchronous")
        _provoke(fault, secrets, factory.request_id)
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any: its text is tested
            events.Muon.pt.compute(scheduler="synchronous")
    finally:
        secrets.proxy.script = [secrets.rule]
    text = "".join(traceback.format_exception(caught.value))
    assert "coffea_sx.errors" in text
    canaries.assert_absent("the traceback", text)
    canaries.assert_absent("the pickled error", pickle.dumps(caught.value))
    canaries.assert_absent("our log", canaries.log.getvalue())


def _provoke(fault: str, secrets: SecretsProxy, request_id: str) -> None:
    server = secrets.server
    if fault == "gone":
        bearer = {"Authorization": f"Bearer {server.refresh_token}"}
        answer = httpx.post(f"{server.url}/token/refresh", headers=bearer)
        bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        url = f"{server.url}/servicex/transformation/{request_id}"
        httpx.delete(url, headers=bearer).raise_for_status()
    elif fault == "corrupt":
        first = min((server.directory / "objects" / request_id).iterdir())
        first.write_bytes(bytes(first.stat().st_size))
    else:
        objects = When(f"^/{request_id}/")
        secrets.proxy.script = [Fault(EXPIRED, objects, times=None), secrets.rule]
