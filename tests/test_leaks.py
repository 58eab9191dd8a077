"""No token, key or signature leaves the process that owns it: canaries, looked for everywhere."""

from __future__ import annotations

import logging
import pickle
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import httpx
import pytest
from coffea.nanoevents import NanoEventsFactory
from distributed import Client, LocalCluster
from support.leaks import Canaries

from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.local import LocalServiceX
from coffea_sx.servicex.models import SignedUrl

pytestmark = [
    pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def canaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Canaries, LocalServiceX]]:
    with LocalServiceX(tokens=True) as server:
        (tmp_path / "servicex.yaml").write_text(server.servicex_yaml())
        found = Canaries(server, monkeypatch)
        handler = logging.StreamHandler(found.log)
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        yield found, server
        root.removeHandler(handler)
        root.setLevel(level)


def submitted(directory: Path, files: list[str], **options: Any) -> Any:
    return NanoEventsFactory.from_servicex(
        dimuon_query(),
        files,
        config_path=directory / "servicex.yaml",
        schemaclass=SelectionSchema,
        **options,
    )


def test_success_on_a_cluster(
    canaries: tuple[Canaries, LocalServiceX], tmp_path: Path, nano_files: list[str]
) -> None:
    found, _ = canaries
    factory = submitted(tmp_path, nano_files)
    events = factory.events()
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        dask.compute(events.Muon.pt)
        worker_logs = str(client.get_worker_logs()) + str(client.get_scheduler_logs())
    factory.status()
    graph = dask.optimize(events)[0].dask
    # as dask pickles it: coffea's behaviours hold functions that plain pickle does not take
    found.assert_absent("the pickled graph", cloudpickle.dumps(events.dask))
    found.assert_absent("the optimised graph", cloudpickle.dumps(graph))
    found.assert_absent("the pickled factory", cloudpickle.dumps(factory))
    for thing in (factory, events, events.dask, factory.files, factory.status(), factory._poller):
        found.assert_absent(f"repr of {type(thing).__name__}", repr(thing))
        html = getattr(thing, "_repr_html_", str)()
        found.assert_absent(f"HTML of {type(thing).__name__}", html)
    names = [file["object_name"] for file in factory.files]
    for url in factory._poller.url_provider.urls(names).values():
        found.assert_absent("repr of a signed URL", repr(url))
    found.assert_absent("the logs of workers", worker_logs)
    found.assert_absent("our log", found.log.getvalue())
    assert "/results" in found.log.getvalue()  # the log does say what was asked


@pytest.mark.parametrize("fault", ["expired", "gone", "corrupt", "failed"])
def test_faults(
    canaries: tuple[Canaries, LocalServiceX],
    tmp_path: Path,
    nano_files: list[str],
    fault: str,
) -> None:
    found, server = canaries
    files = [shutil.copy(path, tmp_path) for path in nano_files[:3]]
    if fault == "failed":
        Path(files[1]).write_bytes(b"root" + bytes(2000))
    factory = submitted(tmp_path, files)
    events = factory.events()
    if fault != "failed":
        events.event.compute(scheduler="synchronous")
        _provoke(fault, server, factory)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any: what it says is tested
        events.Muon.pt.compute(scheduler="synchronous")
    text = "".join(traceback.format_exception(caught.value))
    assert "coffea_sx.errors" in text
    found.assert_absent("the traceback", text)
    found.assert_absent("the pickled error", pickle.dumps(caught.value))
    found.assert_absent("our log", found.log.getvalue())


def _provoke(fault: str, server: LocalServiceX, factory: Any) -> None:
    objects = sorted((server.directory / "objects" / factory.request_id).iterdir())
    client = factory._poller.client
    if fault == "gone":
        refreshed = httpx.post(
            f"{server.url}/token/refresh",
            headers={"Authorization": f"Bearer {server.refresh_token}"},
        )
        token = refreshed.raise_for_status().json()["access_token"]
        httpx.delete(
            f"{server.url}/servicex/transformation/{factory.request_id}",
            headers={"Authorization": f"Bearer {token}"},
        ).raise_for_status()
    elif fault == "corrupt":
        objects[0].write_bytes(bytes(objects[0].stat().st_size))
    else:
        names = [file["object_name"] for file in factory.files]
        stale = {
            name: SignedUrl(url.url.replace("Signature=", "Signature=0"), {}, 2e9)
            for name, url in factory._poller.url_provider.urls(names).items()
        }
        client.file_urls = lambda *args, **options: stale
        factory._poller.url_provider.urls(names, refresh=True)
