"""Costs of a transform for the server: by coffea_sx and by ``servicex.deliver``, in one run.

``python benchmarks/load.py [--out load.json] [--only "6 files" ...]``. Each requirement
is printed with what was measured and its limit.

An embedded ServiceX in a process of its own notes every request and how long it took to answer. Its
results appear one by one, at a steady rate. `servicex.deliver` downloads them; with coffea_sx a
cluster reads them as they come, until the histogram is there. Requests for objects, which both make
once for each result, are left out. Delays are from the row of a result to the first request for its
object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dask
from coffea.nanoevents import NanoAODSchema
from distributed import Client
from resolution import Measured, elsewhere, histogram, host_cluster, make_sample
from servicex import General, ServiceXSpec, dataset, deliver
from servicex import Sample as Asked

import coffea_sx
from coffea_sx.dataset import object_name
from coffea_sx.demo.samples import make_samples
from coffea_sx.local import LocalServiceX

N_EVENTS = 50
DONE_S = 600.0
# The most requests a second of a transform, and server time, of that of deliver.
REQUESTS_A_SECOND = 1.6
SERVER_TIME = 2.0
DELAY_S = 1.5


@dataclass(frozen=True)
class Case:
    """Samples of so many files, and the time in which their results appear."""

    name: str
    n_samples: int
    n_files: int
    seconds: float


CASES = (
    Case("6 files", 1, 6, 10.0),
    Case("20 files", 1, 20, 28.0),
    Case("220 files", 1, 220, 43.0),
    Case("8 samples of 5 files", 8, 5, 22.0),
)


@dataclass(frozen=True)
class Load:
    """What a server had to do."""

    requests: int
    server_s: float
    transform_s: float
    kinds: Counter[str]
    delays: tuple[float, ...]


class Paced:
    """Lets single results through, so many seconds apart."""

    def __init__(self) -> None:
        self.pause_s = 0.0
        self._next = 0.0

    async def __call__(self, input_path: str) -> None:
        """Wait for the turn of a file."""
        now = time.monotonic()
        self._next = max(now, self._next) + self.pause_s
        await asyncio.sleep(self._next - now)


def serve(connection: Connection) -> None:
    """Be an embedded ServiceX: set the pace, or return the requests since it was set."""
    paced = Paced()
    with LocalServiceX(workers=2, before_report=paced, tokens=True) as servicex:
        connection.send(servicex.servicex_yaml())
        while (message := connection.recv()) is not None:
            if message == "log":
                connection.send([asdict(exchange) for exchange in servicex.exchanges])
            else:
                servicex.exchanges.clear()
                paced.pause_s = message


class Server:
    """The server, seen from here."""

    def __init__(self, connection: Connection, directory: Path) -> None:
        self._connection = connection
        self.config = directory / "servicex.yaml"
        self.config.write_text(f"{connection.recv()}cache_path: {directory}/cache\n")

    def begin(self, pause_s: float) -> None:
        """Forget all requests, and let results through so many seconds apart."""
        self._connection.send(pause_s)

    def exchanges(self) -> list[dict[str, Any]]:
        """Return all requests since it began."""
        self._connection.send("log")
        found: list[dict[str, Any]] = self._connection.recv()
        return found


@contextmanager
def server(directory: Path) -> Iterator[Server]:
    """Start the server in a process of its own."""
    import multiprocessing

    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there,))
    process.start()
    there.close()
    try:
        yield Server(here, directory)
    finally:
        here.send(None)
        process.join(30)
        process.kill()
        process.join()


def spec_of(case: Case, files: Sequence[str], query: Any) -> ServiceXSpec:
    """Ask for the samples of a case."""
    parts = [files[i * case.n_files : (i + 1) * case.n_files] for i in range(case.n_samples)]
    return ServiceXSpec(
        General=General(Codegen="uproot", OutputFormat="root-ttree", Delivery="LocalCache"),
        Sample=[
            Asked(
                Name=f"sample {i}",
                Dataset=dataset.FileList(list(part)),
                Query=query,
                IgnoreLocalCache=True,
            )
            for i, part in enumerate(parts)
        ],
    )


def by_deliver(servicex: Server, spec: ServiceXSpec) -> list[dict[str, Any]]:
    """Deliver the samples; return their rows."""
    deliver(spec, config_path=str(servicex.config), progress_bar="none")
    return []


def by_coffea_sx(servicex: Server, spec: ServiceXSpec) -> list[dict[str, Any]]:
    """Analyse the samples as they come; return the facts of their files."""
    samples = coffea_sx.from_spec(
        spec, config_path=str(servicex.config), schemaclass=NanoAODSchema, ignore_cache=True
    )
    dask.compute({name: histogram(factory.events()) for name, factory in samples.items()})
    return [
        {**file, "request_id": factory.request_id}
        for factory in samples.values()
        for file in factory.files
    ]


def load(exchanges: Sequence[dict[str, Any]], files: Sequence[dict[str, Any]]) -> Load:
    """Add up the requests."""
    requests = [e for e in exchanges if e["path"].startswith(("/servicex", "/token"))]
    begin = next(e["time"] for e in requests if e["method"] == "POST")
    first_read: dict[str, float] = {}
    for e in exchanges:
        if e not in requests:
            first_read.setdefault(e["path"].lstrip("/"), e["time"])
    delays = [
        first_read[f"{file['request_id']}/{object_name(file['input_file'])}"]
        - datetime.fromisoformat(file["created_at"]).replace(tzinfo=timezone.utc).timestamp()
        for file in files
    ]
    return Load(
        len(requests),
        sum(e["seconds"] for e in requests),
        max(e["time"] for e in exchanges) - begin,
        Counter(_kind(e) for e in requests),
        tuple(delays),
    )


def _kind(exchange: dict[str, Any]) -> str:
    last = exchange["path"].rstrip("/").rpartition("/")[2]
    return f"{exchange['method']} {'status' if len(last) == 36 else last}"


def measure(servicex: Server, case: Case, files: Sequence[str], query: Any) -> list[Measured]:
    """Measure a case both ways."""
    pause_s = case.seconds / (case.n_samples * case.n_files)
    loads = {}
    for way in (by_deliver, by_coffea_sx):
        servicex.begin(pause_s)
        results = way(servicex, spec_of(case, files, query))
        loads[way] = load(servicex.exchanges(), results)
        done = loads[way]
        print(
            f"  {case.name}, {way.__name__}: {done.requests} requests, {done.server_s:.3f} s of "
            f"the server, {done.transform_s:.1f} s; {dict(done.kinds)}",
            flush=True,
        )
    theirs, ours = loads.values()
    return [
        Measured(
            f"{case.name}: requests a second of the transform",
            ours.requests / ours.transform_s,
            "",
            REQUESTS_A_SECOND,
        ),
        Measured("  of deliver", theirs.requests / theirs.transform_s),
        Measured("  server time, of deliver's", ours.server_s / theirs.server_s, "x", SERVER_TIME),
        Measured("  row to reading, median", statistics.median(ours.delays), "s", DELAY_S),
        Measured("  longest", max(ours.delays), "s"),
    ]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--out", type=Path, default=Path("load.json"))
    arguments = parser.parse_args()
    NanoAODSchema.warn_missing_crossrefs = False
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        query = make_sample(directory / "sample").query
        files = make_samples(directory / "input", max(c.n_samples * c.n_files for c in CASES), 50)
        cluster = elsewhere(host_cluster, 2, False, 2)
        with server(directory) as servicex, cluster as (address, _), Client(address):
            warm = Case("warm up", 1, 4, 0.1)
            by_coffea_sx(servicex, spec_of(warm, files, query))
            for case in CASES:
                if case.name in arguments.only:
                    measured = measure(servicex, case, files, query)
                    print(*measured, sep="\n", flush=True)
                    rows += measured
    arguments.out.write_text(json.dumps([asdict(r) | {"ok": r.is_ok} for r in rows], indent=1))


if __name__ == "__main__":
    main()
