"""Time to read a delivered file, against the usual ways and against no network.

``python benchmarks/reading.py [--out reading.json] [--rounds 5] [--events 200000]``. Files of 30
jagged and 10 flat columns lie in a real S3 server; they are read over loopback, and through a proxy
that adds 10 ms to every round trip and counts requests and bytes. Every way has a process of its
own; they take turns, and what counts are ratios of medians.

- limit: uproot or pyarrow, of bytes that are in memory already
- coffea_sx: the columns of a partition of `from_servicex`
- uproot: those of a partition of ``uproot.dask`` on the presigned URL, as it is by default
- dask-awkward: ``dak.from_parquet`` on the presigned URL, computed (its graph is built before)
- s3fs: uproot or awkward on ``s3://``
- events: a partition of `from_servicex`: the columns, and what coffea makes of them
- coffea: the same by coffea's ``from_root`` on the presigned URL; of RNTuples it has no events
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from coffea.nanoevents import BaseSchema
from coffea.nanoevents.factory import _map_schema_uproot

from coffea_sx.forms import OutputForm
from coffea_sx.forms.file_forms import read_forms
from coffea_sx.polling.outcomes import Delivered
from coffea_sx.readers.parquet import open_parquet
from coffea_sx.readers.partition import blockwise_reader, read
from coffea_sx.readers.root import open_root
from coffea_sx.servicex.urls import SignedUrl
from coffea_sx.storage.stored import stored_object
from coffea_sx.testing import FaultProxy, S3Store

BUCKET = "benchmark"
TREE = "servicex"
ROUND_TRIP_S = 0.010
N_CLUSTERS = 100
COLLECTIONS = ("Electron", "Muon", "Jet")
TWO_COLUMNS = ("Jet_x3", "flat2")


@dataclass(frozen=True)
class Sample:
    """One file and where it is."""

    name: str
    result_format: str
    path: str


@dataclass(frozen=True)
class Task:
    """What to read, and from where."""

    sample: Sample
    columns: tuple[str, ...] | None
    url: str
    endpoint: str
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Cost:
    """Costs of reading a file: seconds, bytes, and requests if they were counted."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    n_requests: int | None = None
    n_bytes: int | None = None


# -- files


def make_events(n_events: int) -> Any:
    """Make random events of 30 jagged and 10 flat columns."""
    rng = np.random.default_rng(1)
    columns = {}
    for collection in COLLECTIONS:
        counts = rng.poisson(1.2, n_events)
        for i in range(10):
            values = rng.exponential(30, counts.sum()).astype(np.float32)
            columns[f"{collection}_x{i}"] = ak.unflatten(values, counts)
    for i in range(10):
        columns[f"flat{i}"] = ak.Array(rng.normal(size=n_events).astype(np.float32))
    return ak.zip(columns, depth_limit=1)


def write_samples(directory: Path, n_events: int) -> list[Sample]:
    """Write the same events in every way that ServiceX writes them."""
    events = make_events(n_events)
    return [
        write_ttree(directory / "ttree-zstd.root", events, uproot.ZSTD(5), 1),
        write_ttree(directory / "ttree-zlib.root", events, uproot.ZLIB(1), 1),
        write_ttree(directory / "ttree-clusters.root", events, uproot.ZSTD(5), N_CLUSTERS),
        _rntuple(directory / "rntuple.root", events),
        _parquet(directory / "table.parquet", events),
    ]


def write_ttree(path: Path, events: Any, compression: Any, n_clusters: int) -> Sample:
    """Write a file with one tree."""
    step = -(-len(events) // n_clusters)
    with uproot.recreate(path, compression=compression) as file:
        tree = file.mktree(TREE, {name: events[name].type for name in events.fields})
        for start in range(0, len(events), step):
            part = events[start : start + step]
            tree.extend({name: part[name] for name in part.fields})
    return Sample(path.stem, "root-file", str(path))


def _rntuple(path: Path, events: Any) -> Sample:
    with uproot.recreate(path, compression=uproot.ZSTD(5)) as file:
        file.mkrntuple(TREE, events)
    return Sample(path.stem, "root-rntuple", str(path))


def _parquet(path: Path, events: Any) -> Sample:
    ak.to_parquet(events, path, compression="zstd")
    return Sample("parquet", "parquet", str(path))


# -- ways of reading: each prepares what is not measured, and returns what is


def in_memory(task: Task) -> Callable[[], Any]:
    """Read bytes that are in memory already."""
    content = Path(task.sample.path).read_bytes()
    if task.sample.result_format == "parquet":
        import pyarrow.parquet

        def read_table() -> Any:
            columns = list(task.columns) if task.columns else None
            return ak.from_arrow(pyarrow.parquet.read_table(io.BytesIO(content), columns=columns))

        return read_table
    return lambda: _arrays(io.BytesIO(content), task)


class Presigned:
    """Has the URL of the only object."""

    def __init__(self, task: Task) -> None:
        self._url = task.url

    def signed_url(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        """Return it."""
        return SignedUrl(self._url, {}, time.time() + 600)

    def held(self, object_name: str) -> None:
        """Return None: no bytes are held."""


def promised(task: Task) -> tuple[OutputForm, int]:
    """Tell what is in a task's object, and its size in bytes."""
    sample = task.sample
    trees = read_forms(sample.path, sample.result_format)
    delivered = OutputForm(trees, next(iter(trees)), sample.result_format)
    return delivered, Path(sample.path).stat().st_size


def our_columns(task: Task) -> Callable[[], Any]:
    """Read the columns of a partition of from_servicex."""
    delivered, nbytes = promised(task)
    open_ = open_parquet if task.sample.result_format == "parquet" else open_root
    names = list(task.columns or delivered.columns)

    def read_columns() -> Any:
        stored = stored_object(Presigned(task), task.sample.name, nbytes)
        with open_(stored, delivered, len(names) / len(delivered.columns)) as columns:
            return columns.arrays(names, 0, columns.n_events)

    return read_columns


def our_events(task: Task) -> Callable[[], Any]:
    """Read a partition of from_servicex."""
    delivered, nbytes = promised(task)
    mapping = _map_schema_uproot(BaseSchema, behavior={}, version="v")
    # Columns of the file: RNTuples and Parquet have no counters, which only we would make.
    names = frozenset(task.columns or delivered.columns)
    reader = blockwise_reader(delivered, mapping).project_manually(names)
    outcome = Delivered(0, task.sample.path, task.sample.name, nbytes, 0, "")
    stored = partial(stored_object, Presigned(task), task.sample.name, nbytes)
    return lambda: read(stored(), outcome, delivered, reader, 0, 1)


def coffea_events(task: Task) -> Callable[[], Any]:
    """Read a partition of coffea's from_root."""
    events = uproot.dask(
        {task.url: TREE},
        open_files=False,
        known_base_form=_form(task),
        full_paths=True,
        ak_add_doc={"__doc__": "title", "typename": "typename"},
        form_mapping=_map_schema_uproot(BaseSchema, behavior={}, version="v"),
    )
    return _partition_of(events, task)


def uproot_partition(task: Task) -> Callable[[], Any]:
    """Read a partition of uproot.dask."""
    events = uproot.dask({task.url: TREE}, open_files=False, known_base_form=_form(task))
    return _partition_of(events, task)


def _partition_of(events: Any, task: Task) -> Callable[[], Any]:
    (layer,) = events.dask.layers.values()
    read = layer.io_func
    if task.columns:
        read = read.project_manually(frozenset(task.columns))
    return lambda: read((task.url, TREE, 0, 1, False))


def dask_awkward_table(task: Task) -> Callable[[], Any]:
    """Compute the columns of dak.from_parquet."""
    import dask_awkward as dak

    events = dak.from_parquet(task.url)
    columns = events[list(task.columns)] if task.columns else events
    return lambda: columns.compute(scheduler="synchronous")


def s3fs_default(task: Task) -> Callable[[], Any]:
    """Read through s3fs."""
    options = {
        "key": task.access_key,
        "secret": task.secret_key,
        "endpoint_url": f"http://{task.endpoint}",
    }
    address = f"s3://{BUCKET}/{task.sample.name}"
    if task.sample.result_format == "parquet":
        columns = list(task.columns) if task.columns else None
        return lambda: ak.from_parquet(address, columns=columns, storage_options=options)
    return lambda: _arrays(address, task, **options)


def _form(task: Task) -> Any:
    return read_forms(task.sample.path, task.sample.result_format)[TREE]


def _arrays(source: Any, task: Task, **options: Any) -> Any:
    where = {source: None} if isinstance(source, str) else source
    with uproot.open(where, array_cache=None, **options) as file:
        return file[TREE].arrays(filter_name=list(task.columns) if task.columns else None)


WAYS: dict[str, Callable[[Task], Callable[[], Any]]] = {
    "limit": in_memory,
    "coffea_sx": our_columns,
    "uproot": uproot_partition,
    "dask-awkward": dask_awkward_table,
    "s3fs": s3fs_default,
    "events": our_events,
    "coffea": coffea_events,
}


def ways_for(sample: Sample) -> list[str]:
    """Name the ways that can read a sample."""
    peer = "dask-awkward" if sample.result_format == "parquet" else "uproot"
    s3fs = ["s3fs"] if importlib.util.find_spec("s3fs") else []
    coffea = ["coffea"] if sample.result_format == "root-file" else []
    return ["limit", "coffea_sx", peer, *s3fs, "events", *coffea]


# -- measuring


def work(connection: Connection) -> None:
    """Read in a process of its own, and send what it took."""
    while (message := connection.recv()) is not None:
        way, task = message
        try:
            connection.send(measure(WAYS[way](task)))
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}"[:300])


def measure(read: Callable[[], Any]) -> Cost:
    """Measure a reading; its result is read, whether it is used or not."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # begin counting the peak again
    before, cpu, start = _status("VmRSS"), time.process_time(), time.perf_counter()
    result = read()
    cost = Cost(time.perf_counter() - start, time.process_time() - cpu, _status("VmHWM") - before)
    del result
    return cost


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {field}")


class Readers:
    """One process for each way of reading."""

    def __init__(self) -> None:
        self._spawn = multiprocessing.get_context("spawn")
        self._running: dict[str, tuple[Any, Connection]] = {}

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *error: object) -> None:
        for process, connection in self._running.values():
            connection.send(None)
            process.join(10)

    def read(self, way: str, task: Task) -> Cost:
        """Have a file read once."""
        if way not in self._running:
            here, there = self._spawn.Pipe()
            process = self._spawn.Process(target=work, args=(there,), daemon=True)
            process.start()
            self._running[way] = (process, here)
        connection = self._running[way][1]
        connection.send((way, task))
        cost = connection.recv()
        if isinstance(cost, str):
            raise RuntimeError(f"{way} cannot read {task.sample.name}: {cost}")
        return cost


def tasks(
    samples: Sequence[Sample], store: S3Store, proxy: FaultProxy
) -> Iterator[tuple[str, str, Task]]:
    """Yield links, shares and what to read."""
    for sample in samples:
        for link, endpoint in (
            ("loopback", store.endpoint),
            ("10 ms", proxy.url.removeprefix("http://")),
        ):
            url = _signed(store, endpoint, sample.name)
            for share, columns in (("all", None), ("2 of 40", TWO_COLUMNS)):
                keys = (store.access_key, store.secret_key)
                yield link, share, Task(sample, columns, url, endpoint, *keys)


def _signed(store: S3Store, endpoint: str, name: str) -> str:
    import minio

    client = minio.Minio(
        endpoint,
        access_key=store.access_key,
        secret_key=store.secret_key,
        secure=False,
        region="us-east-1",
    )
    return str(client.presigned_get_object(BUCKET, name, expires=timedelta(hours=12)))


def run(n_events: int, rounds: int, only: str) -> list[dict[str, Any]]:
    """Measure everything; one row for each file, link, share and way."""
    rows = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = stack.enter_context(S3Store())
        proxy = stack.enter_context(FaultProxy(f"http://{store.endpoint}", latency_s=ROUND_TRIP_S))
        readers = stack.enter_context(Readers())
        samples = [s for s in write_samples(directory, n_events) if only in s.name]
        store.client().make_bucket(BUCKET)
        for sample in samples:
            store.client().fput_object(BUCKET, sample.name, sample.path)
        for link, share, task in tasks(samples, store, proxy):
            costs: dict[str, list[Cost]] = {way: [] for way in ways_for(task.sample)}
            for turn in range(rounds + 1):
                for way, measured in costs.items():
                    before = len(proxy.requests)
                    cost = readers.read(way, task)
                    if turn:  # the first one warms up
                        measured.append(_counted(cost, proxy.requests[before:], link, way))
            rows += [
                _row(task.sample, link, share, way, measured) for way, measured in costs.items()
            ]
            _print(rows[-len(costs) :])
    return rows


def _counted(cost: Cost, requests: Sequence[Any], link: str, way: str) -> Cost:
    if link == "loopback" or way == "limit":
        return cost
    sent = sum(request.nbytes_sent for request in requests)
    return Cost(cost.wall_s, cost.cpu_s, cost.peak_bytes, len(requests), sent)


def _row(sample: Sample, link: str, share: str, way: str, costs: Sequence[Cost]) -> dict[str, Any]:
    medians = {
        name: None if value is None else statistics.median(asdict(cost)[name] for cost in costs)
        for name, value in asdict(costs[0]).items()
    }
    nbytes = Path(sample.path).stat().st_size
    return {
        "file": sample.name,
        "nbytes": nbytes,
        "link": link,
        "share": share,
        "way": way,
    } | medians


def _print(rows: Sequence[dict[str, Any]]) -> None:
    by_way = {row["way"]: row for row in rows}
    mine = by_way["coffea_sx"]
    for way, row in by_way.items():
        requests = "" if row["n_requests"] is None else f"{row['n_requests']:4.0f} requests"
        sent = "" if row["n_bytes"] is None else f"{row['n_bytes'] / 1e6:7.1f} MB"
        print(
            f"{row['file']:15} {row['link']:9} {row['share']:8} {way:13}"
            f"{row['wall_s'] * 1e3:8.1f} ms  {row['cpu_s'] * 1e3:8.1f} ms CPU "
            f"{row['peak_bytes'] / 1e6:7.1f} MB peak  {row['wall_s'] / mine['wall_s']:6.2f} x ours"
            f"  {requests} {sent}",
            flush=True,
        )


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reading.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="files whose names have this in them")
    parser.add_argument("--events", type=int, default=200_000)
    arguments = parser.parse_args()
    rows = run(arguments.events, arguments.rounds, arguments.only)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
