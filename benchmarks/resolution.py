"""Costs of waiting for files at scale, and gains of reading them as they appear.

``python benchmarks/resolution.py [--files 10000] [--workers 4] [--rate 20] [--out resolution.json]
[--only build|scale|pipelining|overlap]``. Each requirement is printed with the measured value
and its limit.

- build: the graph of as many input files, by `from_servicex` and by coffea's ``from_root`` with a
  known form, in turns in one process: medians of ``events()`` and ``dask.optimize`` of a histogram,
  the bytes in which a dask client would send the graph, and ten times as many files once.
- scale: a scripted ServiceX in a process of its own, over HTTP, whose rows appear at a given rate,
  and a cluster, also elsewhere. Delays are from the moment in which a row appears to the first
  request for its object, both by the clock of the server. Requests are counted there; memory is
  sampled. The rate must be one at which the workers keep up: else delays are those of a queue.
  dask's sampling profiler is off without --profiler: before CPython 3.11.9 it stops
  workers for ever now and then, the sooner the more threads they have (python/cpython#106883).
- pipelining: an embedded ServiceX and a cluster that need about ten seconds each for a hundred
  files, by sleeping: from submitting to the histogram, against ``servicex.deliver`` into a cache
  and ``from_root`` on its files. deliver looks every five seconds, so the ratio to transform and
  analysis without its waiting is printed too.
- overlap: the same when results come in the reverse order of the files, one in 50 ms, and two
  workers of two threads read each as it comes: from the first result to the end, against the
  longer of delivery and of the same analysis when all files are there.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import threading
import time
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import urlopen

import awkward as ak
import dask
import hist
import hist.dask
import numpy as np
import psutil
import uproot
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from distributed import Client, LocalCluster
from distributed.protocol.serialize import ToPickle, serialize
from servicex import General, ServiceXSpec, dataset, deliver, query
from servicex import Sample as Asked

import coffea_sx
from coffea_sx.demo.samples import make_samples, sample_events
from coffea_sx.local import LocalServiceX

TREE = "servicex"
# Maximum rate of requests, and of rows that the server sends for each file, kB: 10 MB for 3000.
REQUESTS_A_SECOND = 1.6
ROWS_KB = 3.3
N_EVENTS = 100
# Rows appear in the order of the files but for so many places: many transformers work on a list.
DISORDER = 200
SAMPLE_S = 0.5
DONE_S = 600.0
N_PIPELINED = 100
LEG_S = 10.0
OVERLAP_PAUSE_S = 0.05
ANALYSIS_PAUSE_S = 0.1
PARTS = ["", "build", "scale", "pipelining", "overlap"]


@dataclass(frozen=True)
class Measured:
    """A number, and the most that it may be if there is a requirement."""

    name: str
    value: float
    unit: str = ""
    limit: float | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the requirement is met."""
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        limit, verdict = "", ""
        if self.limit is not None:
            limit, verdict = f"{self.limit:12.3f}", "ok" if self.is_ok else "NOT"
        return f"{self.name:58}{self.value:12.3f} {self.unit:6}{limit:12}  {verdict}".rstrip()


# -- a ServiceX and its store, scripted


@dataclass
class Scripted:
    """A transform whose rows appear at a given rate, from the first request for them on."""

    paths: list[str]
    rate: float
    nbytes: int
    start: float | None = None
    order: list[int] = field(default_factory=list)
    answers: list[dict[str, float]] = field(default_factory=list)
    first_read: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = random.Random(1)
        self.order = sorted(range(len(self.paths)), key=lambda i: i + places.uniform(0, DISORDER))
        self._encoded = b""
        self._ends = [0]

    def appears_at(self, place: int) -> float:
        """Tell when the row at a place in the order of appearance can be seen."""
        return (self.start or 0.0) + (place + 1) / self.rate

    def n_rows(self) -> int:
        """Count the rows that can be seen now."""
        if self.start is None:
            return 0
        return min(len(self.paths), int((time.time() - self.start) * self.rate))

    def rows(self, later_than: str | None) -> bytes:
        """Return the body of an answer with all rows, or with those after a moment."""
        now = time.time()
        if self.start is None:
            self.start = now
            self._encode()
        n_rows, first = self.n_rows(), 0
        if later_than is not None:
            moment = datetime.fromisoformat(later_than.replace("Z", "+00:00"))
            moment = moment.replace(tzinfo=moment.tzinfo or timezone.utc)
            first = bisect_right(range(n_rows), moment.timestamp(), key=self.appears_at)
        body = self._encoded[self._ends[first] : self._ends[n_rows]].removesuffix(b",")
        self.answers.append({"at": time.time(), "n_rows": n_rows, "nbytes": len(body)})
        return b'{"results":[' + body + b"]}"

    def _encode(self) -> None:
        parts = []
        for place, i in enumerate(self.order):
            created = datetime.fromtimestamp(self.appears_at(place), timezone.utc)
            row = {
                "id": place + 1,
                "request-id": "d8574447-0000-0000-0000-000000000000",
                "file-id": place + 1,
                "file-path": self.paths[i],
                "s3-object-name": object_name(self.paths[i]),
                "transform_status": "success",
                "transform_time": 0,
                "total-events": N_EVENTS,
                "total-bytes": self.nbytes,
                "avg-rate": 2107.3,
                "created_at": created.replace(tzinfo=None).isoformat(timespec="microseconds"),
            }
            parts.append(json.dumps(row).encode() + b",")
            self._ends.append(self._ends[-1] + len(parts[-1]))
        self._encoded = b"".join(parts)

    def status(self, request_id: str) -> dict[str, Any]:
        """Return the status as servers send it."""
        n_rows, n_files = self.n_rows(), len(self.paths)
        is_over = n_rows == n_files
        return {
            "request_id": request_id,
            "title": "benchmark",
            "did": "f345b579",
            "did_id": 1,
            "status": "Complete" if is_over else "Running",
            "files": n_files,
            "files-completed": n_rows,
            "files-failed": 0,
            "files-remaining": n_files - n_rows,
            "submit-time": "2026-11-22T14:43:41.069160Z",
            "finish-time": "2026-11-22T14:43:45.670044Z" if is_over else "None",
        }


def object_name(path: str) -> str:
    """Name what a transformer makes of a path, if it is short."""
    return path.replace("/", ":")


class ScriptedServiceX(ThreadingHTTPServer):
    """Responds as a ServiceX of 2026; all its objects are the same file."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, content: bytes, rate: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.content = content
        self.rate = rate
        self.transforms: dict[str, Scripted] = {}
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def log(self, request_id: str) -> dict[str, Any]:
        """Return the requests about a transform, and their times."""
        scripted = self.transforms[request_id]
        rows = [
            (scripted.appears_at(place), scripted.first_read.get(object_name(scripted.paths[i])))
            for place, i in enumerate(scripted.order)
        ]
        return {
            "now": time.time(),
            "counts": self.counts,
            "rows": rows,
            "answers": scripted.answers,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: ScriptedServiceX

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        first, *rest = [unquote(part) for part in address.path.strip("/").split("/")]
        if first == "objects":
            self._send_object(*rest)
        elif first == "log":
            self._say(self.server.log(*rest))
        elif rest[:1] == ["transformation"]:
            self._send_state(rest[1], rest[2:], parse_qs(address.query))
        else:
            self._count("info")
            self._say(
                {
                    "app-version": "scripted",
                    "code-gen-image": {"uproot": "scripted"},
                    "capabilities": ["poll_local_transformation_results", "generate_file_urls"],
                }
            )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/file-urls"):
            self._count("file-urls")
            begin, expiry = f"{self.server.url}/objects/{body['request_id']}/", time.time() + 3600
            uris = {name: [begin + quote(name), {}, expiry] for name in body["file_list"]}
            self._say({"uris": uris})
            return
        self._count("submit")
        request_id = str(uuid.uuid4())
        scripted = Scripted(body["file-list"], self.server.rate, len(self.server.content))
        self.server.transforms[request_id] = scripted
        self._say({"request_id": request_id})

    def _describe(
        self, request_id: str, what: Sequence[str], query: Mapping[str, list[str]]
    ) -> None:
        scripted = self.server.transforms.get(request_id)
        if scripted is None:
            self._count("check")
            self._say({"message": f"Transformation request not found with id: {request_id}"}, 404)
        elif what == ["results"]:
            self._count("results")
            self._send(200, scripted.rows(query.get("later_than", [None])[0]))
        else:
            self._count("status")
            self._say(scripted.status(request_id))

    def _send_object(self, request_id: str, name: str) -> None:
        self._count("objects")
        self.server.transforms[request_id].first_read.setdefault(name, time.time())
        content, tag = self.server.content, {"ETag": '"one"', "Accept-Ranges": "bytes"}
        byte_range = self.headers.get("Range")
        if byte_range is None:
            self._send(200, content, tag)
            return
        first, _, last = byte_range.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(content)) + 1, len(content))
        where = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        self._send(206, content[start:stop], tag | where)

    def _count(self, kind: str) -> None:
        with self.server.lock:
            self.server.counts[kind] += 1

    def _say(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """Answer until the client goes, in whatever way."""
        with suppress(ConnectionError):
            super().handle()


# -- processes


def serve(connection: Connection, content: bytes, rate: float) -> None:
    """Run a scripted ServiceX until a message comes."""
    with ScriptedServiceX(content, rate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection.send(server.url)
        _wait_for_the_end(connection)
        server.shutdown()


def host_cluster(
    connection: Connection, n_workers: int, has_profiler: bool, n_threads: int = 1
) -> None:
    """Run the scheduler of a cluster, and its workers, until a message comes."""
    dask.config.set({"distributed.worker.profile.enabled": has_profiler})
    options = {"threads_per_worker": n_threads, "dashboard_address": ":0"}
    with LocalCluster(n_workers=n_workers, processes=True, **options) as cluster:
        connection.send(cluster.scheduler_address)
        _wait_for_the_end(connection)


def _wait_for_the_end(connection: Connection) -> None:
    with suppress(EOFError, KeyboardInterrupt):
        connection.recv()


@contextmanager
def elsewhere(work: Callable[..., None], *arguments: Any) -> Iterator[tuple[str, int]]:
    """Run something in a process of its own; yield its address and process id."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=work, args=(there, *arguments))
    process.start()
    there.close()
    try:
        yield here.recv(), process.pid or 0
    finally:
        with suppress(OSError):
            here.send(None)
        process.join(30)
        process.kill()
        process.join()


class Memory:
    """Samples the memory of processes; MB."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.most_threads = 0
        self.cpu_s: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._before = self._cpu_s()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        with suppress(psutil.NoSuchProcess):
            self.cpu_s = {n: spent - self._before[n] for n, spent in self._cpu_s().items()}

    def _cpu_s(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    def _sample(self) -> None:
        with suppress(psutil.NoSuchProcess):
            while not self._over.wait(SAMPLE_S):
                rss = {n: p.memory_info().rss / 1e6 for n, p in self._processes.items()}
                self.samples.append((time.time(), rss))
                n_threads = [process.num_threads() for process in self._processes.values()]
                self.most_threads = max(self.most_threads, *n_threads)

    def rows(self, start: float, stop: float) -> list[Measured]:
        """Tell the memory at the start, in the middle and at the end of a time."""
        samples = [(at, rss) for at, rss in self.samples if start <= at <= stop]
        if len(samples) < 4:
            return []
        half = samples[len(samples) // 2 :]
        rows = [Measured("most threads of a process", self.most_threads)]
        for name in self._processes:
            begin, middle, end = (samples[i][1][name] for i in (0, len(samples) // 2, -1))
            slope = np.polyfit([at for at, _ in half], [rss[name] for _, rss in half], 1)[0]
            growth = float(100 * slope * (half[-1][0] - half[0][0]) / middle)
            print(f"  memory of {name}: {begin:.0f}, {middle:.0f}, {end:.0f} MB", flush=True)
            limit = None if name == "server" else 10.0
            rows.append(
                Measured(f"memory of {name}, growth over the second half", growth, "%", limit)
            )
        return rows


# -- build


@dataclass(frozen=True)
class Sample:
    """A query, its result for one file, and its form."""

    query: Any
    content: bytes
    form: Any


def make_sample(directory: Path) -> Sample:
    """Write the file that every input file becomes."""
    (source,) = make_samples(directory, 1, N_EVENTS)
    names = ["pt", "eta", "phi", "mass", "charge"]
    selected = (
        query.FuncADL_Uproot()
        .FromTree("Events")
        .Select(
            lambda e: {
                "run": e["run"],
                "luminosityBlock": e["luminosityBlock"],
                "event": e["event"],
                "Muon_pt": e["Muon_pt"],
                "Muon_eta": e["Muon_eta"],
                "Muon_phi": e["Muon_phi"],
                "Muon_mass": e["Muon_mass"],
                "Muon_charge": e["Muon_charge"],
            }
        )
    )
    events = sample_events(N_EVENTS, np.random.default_rng(1))
    columns = {name: events[name] for name in ("run", "luminosityBlock", "event")}
    columns |= {f"Muon_{name}": events["Muon"][name] for name in names}
    written = directory / "delivered.root"
    with uproot.recreate(written) as file:
        file.mktree(TREE, {n: c.type.content for n, c in columns.items()}).extend(columns)
    return Sample(
        selected, written.read_bytes(), coffea_sx.derive_form(selected, {source: "Events"})
    )


def paths(n_files: int) -> list[str]:
    """Name input files as experiments do."""
    return [
        f"root://eospublic.cern.ch//eos/cms/store/nano/part_{i:06d}.root" for i in range(n_files)
    ]


def from_servicex(sample: Sample, url: str, n_files: int) -> Any:
    """Submit the query of a sample."""
    return NanoEventsFactory.from_servicex(
        sample.query, paths(n_files), form=sample.form, url=url, ignore_cache=True
    )


def from_root(sample: Sample, url: str, n_files: int) -> Any:
    """Make coffea's own factory of the same files, as if they were there."""
    files = {f"{url}/objects/{uuid.uuid4()}/{object_name(p)}": TREE for p in paths(n_files)}
    form = sample.form.base_form
    return NanoEventsFactory.from_root(files, mode="dask", known_base_form=form)


def histogram(events: Any) -> Any:
    """Define a small histogram."""
    return (
        hist.dask.Hist.new.Reg(50, 0, 200, name="pt").Double().fill(pt=ak.flatten(events.Muon.pt))
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def build(sample: Sample, url: str, n_files: int, rounds: int) -> list[Measured]:
    """Measure the graph against coffea's."""
    makers = {"coffea_sx": from_servicex, "coffea": from_root}
    seconds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in makers}
    nbytes: dict[str, int] = {}
    for turn in range(rounds + 1):
        for name, make in makers.items():
            made_s, factory = timed(partial(make, sample, url, n_files if turn else 10))
            events_s, events = timed(factory.events)
            optimize_s, (result,) = timed(partial(dask.optimize, histogram(events)))
            if turn:  # the first one warms up
                seconds[name].append((made_s, events_s, optimize_s))
                nbytes[name] = sent_bytes(result)
    medians = {n: [statistics.median(c) for c in zip(*t, strict=True)] for n, t in seconds.items()}
    built = {name: events_s + optimize_s for name, (_, events_s, optimize_s) in medians.items()}
    rows = [Measured("build, of coffea's", built["coffea_sx"] / built["coffea"], "x", 1.0)]
    for name, parts in medians.items():
        steps = ("factory", "events()", "dask.optimize")
        rows += [Measured(f"  {name}: {s}", t, "s") for s, t in zip(steps, parts, strict=True)]
    rows.append(Measured("graph as it is sent", nbytes["coffea_sx"] / 1e6, "MB", 1.5))
    rows.append(Measured("  coffea's", nbytes["coffea"] / 1e6, "MB"))
    made_s, factory = timed(partial(from_servicex, sample, url, 10 * n_files))
    events_s, events = timed(factory.events)
    rows.append(
        Measured(
            f"from_servicex and events() of {10 * n_files} files", made_s + events_s, "s", 10.0
        )
    )
    rows.append(Measured("  from_servicex", made_s, "s"))
    rows.append(
        Measured("  its dask.optimize", timed(partial(dask.optimize, histogram(events)))[0], "s")
    )
    return rows


def sent_bytes(result: Any) -> int:
    """Count the bytes in which a dask client sends a graph to its scheduler."""
    header, frames = serialize(ToPickle(result.__dask_graph__()), on_error="raise")
    return sum(memoryview(frame).nbytes for frame in frames) + len(str(header))


# -- scale


def scale(sample: Sample, url: str, server: int, arguments: argparse.Namespace) -> list[Measured]:
    """Measure a computation whose files appear while it runs."""
    n_files = arguments.files
    with ExitStack() as stack:
        address, scheduler = stack.enter_context(
            elsewhere(host_cluster, arguments.workers, arguments.profiler)
        )
        client = stack.enter_context(Client(address))
        processes = {"owner": os.getpid(), "server": server, "scheduler": scheduler}
        pids = client.run(os.getpid)
        processes |= {f"worker {i}": pid for i, pid in enumerate(pids.values())}
        warm_up = from_servicex(sample, url, 4 * arguments.workers)
        histogram(warm_up.events()).compute()
        before = Counter(_log(url, warm_up.request_id)["counts"])
        factory = from_servicex(sample, url, n_files)
        result = histogram(factory.events())
        memory = stack.enter_context(Memory(processes))
        compute_s, filled = timed(
            partial(_waited, client, result, DONE_S + n_files / arguments.rate)
        )
        memory.__exit__()
        log = _log(url, factory.request_id)
    expected = n_files * _n_muons(sample)
    if filled is not None and filled.sum(flow=True) != expected:
        raise RuntimeError(f"the histogram has {filled.sum(flow=True)} entries, not {expected}")
    counts = Counter(log["counts"]) - before
    reads = {read.partition: read.finished_at for read in factory.reads}
    print(f"  CPU seconds: {_rounded(memory.cpu_s)}", flush=True)
    print(f"  requests: {dict(counts)}", flush=True)
    rows = [*_delays(log), Measured("  partitions noted by factory.reads", len(reads))]
    rows += _requests(log, counts)
    rows += [Measured("computation", compute_s, "s")]
    first, last = log["rows"][0][0], log["rows"][-1][0]
    rows += [Measured("  time in which rows appear", last - first, "s")]
    return rows + memory.rows(first, last)


def _waited(client: Client, result: Any, timeout_s: float) -> Any:
    """Compute; None if it takes too long."""
    with suppress(TimeoutError):
        return client.compute(result).result(timeout=timeout_s)


def _log(url: str, request_id: str) -> Any:
    with urlopen(f"{url}/log/{request_id}") as answer:
        return json.load(answer)


def _n_muons(sample: Sample) -> int:
    with uproot.open(io.BytesIO(sample.content)) as file:
        return int(ak.count(file[TREE]["Muon_pt"].array()))


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def _delays(log: Any) -> list[Measured]:
    """Return the delays, and the time until rows were requested."""
    answers = log["answers"]
    sent_at = [answer["at"] for answer in answers]
    n_sent = [answer["n_rows"] for answer in answers]
    delays, unrequested = [], []
    for place, (appeared, read) in enumerate(log["rows"]):
        delays.append((read or log["now"]) - appeared)  # unread: at least
        number = bisect_right(n_sent, place)
        unrequested.append((sent_at[number] if number < len(n_sent) else log["now"]) - appeared)
    tenths = statistics.quantiles(delays, n=10)
    return [
        Measured("rows that were never read", sum(read is None for _, read in log["rows"]), "", 0),
        Measured("row to reading, median", statistics.median(delays), "s", 1.5),
        Measured("  of which until it is requested", statistics.median(unrequested), "s"),
        Measured("  nine of ten", tenths[-1], "s"),
        Measured("  longest", max(delays), "s"),
        Measured("  median of the last thousand", statistics.median(delays[-1000:]), "s"),
    ]


def _requests(log: Any, counts: Mapping[str, int]) -> list[Measured]:
    answers = log["answers"]
    span = answers[-1]["at"] - answers[0]["at"]
    total = sum(n for kind, n in counts.items() if kind != "objects")
    return [
        Measured("requests to ServiceX", total, "", REQUESTS_A_SECOND * span + 10),
        Measured("  time between requests for rows, mean", span / max(1, len(answers) - 1), "s"),
        Measured(
            "  rows that were sent, for each file",
            sum(a["nbytes"] for a in answers) / len(log["rows"]) / 1e3,
            "kB",
            ROWS_KB,
        ),
        Measured("  requests for URLs", counts.get("file-urls", 0)),
        Measured("  requests to the store for each file", counts["objects"] / len(log["rows"])),
    ]


# -- pipelining


class Turnstile:
    """Lets single results through, so many seconds apart."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._lock: asyncio.Lock | None = None

    async def __call__(self, input_path: str) -> None:
        """Wait for the turn of a file."""
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            await asyncio.sleep(self._pause_s)


def slow(pt: Any, pause_s: float) -> Any:
    """Take some time for data, and none for its shape."""
    if ak.backend(pt) != "typetracer":
        time.sleep(pause_s)
    return pt


def slow_histogram(events: Any, pause_s: float) -> Any:
    """Define a histogram that takes time."""
    pt = ak.flatten(events.Muon.pt.map_partitions(slow, pause_s))
    return hist.dask.Hist.new.Reg(50, 0, 200, name="pt").Double().fill(pt=pt)


@dataclass(frozen=True)
class Job:
    """What is computed twice."""

    query: Any
    files: list[str]
    servicex: LocalServiceX
    client: Client
    pause_s: float


def as_they_appear(job: Job) -> tuple[dict[str, float], Any]:
    """Analyse results as they appear."""
    url = job.servicex.url
    make = partial(
        NanoEventsFactory.from_servicex, job.query, job.files, url=url, ignore_cache=True
    )
    start = time.time()
    factory = make()
    result = job.client.compute(slow_histogram(factory.events(), job.pause_s)).result(DONE_S)
    end = time.time()
    last = max(_seconds(file["created_at"]) for file in factory.files)
    return {"total": end - start, "transform": last - start}, result


def deliver_files(
    servicex: LocalServiceX, query: Any, files: Sequence[str], directory: str
) -> list[str]:
    """Have all results delivered by servicex; return where they are."""
    config = Path(directory) / "servicex.yaml"
    config.write_text(f"{servicex.servicex_yaml()}cache_path: {directory}/cache\n")
    spec = ServiceXSpec(
        General=General(Codegen="uproot", OutputFormat="root-ttree", Delivery="LocalCache"),
        Sample=[
            Asked(
                Name="benchmark",
                Dataset=dataset.FileList(list(files)),
                Query=query,
                IgnoreLocalCache=True,
            )
        ],
    )
    delivered = deliver(spec, config_path=str(config), progress_bar="none")
    return [str(path) for path in delivered["benchmark"]]


def one_after_the_other(job: Job) -> tuple[dict[str, float], Any]:
    """Have all results delivered, then analyse them."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.time()
        delivered = deliver_files(job.servicex, job.query, job.files, directory)
        between = time.time()
        events = NanoEventsFactory.from_root(dict.fromkeys(delivered, TREE), mode="dask").events()
        result = job.client.compute(slow_histogram(events, job.pause_s)).result(DONE_S)
        end = time.time()
    times = {"total": end - start, "deliver": between - start, "analysis": end - between}
    return times, result


def _seconds(moment: str) -> float:
    """Read a moment as servers write it: ISO 8601 in UTC."""
    parsed = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return parsed.replace(tzinfo=parsed.tzinfo or timezone.utc).timestamp()


def pipelining(sample: Sample, directory: Path, arguments: argparse.Namespace) -> list[Measured]:
    """Measure both ways in turns."""
    n_workers = arguments.workers
    files = make_samples(directory, N_PIPELINED, 1000)
    ways = {"as they appear": as_they_appear, "deliver first": one_after_the_other}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with ExitStack() as stack:
        turnstile = Turnstile(LEG_S / N_PIPELINED)
        servicex = stack.enter_context(LocalServiceX(workers=2, before_report=turnstile))
        address, _ = stack.enter_context(
            elsewhere(host_cluster, arguments.workers, arguments.profiler)
        )
        client = stack.enter_context(Client(address))
        few = Job(sample.query, files[: 2 * n_workers], servicex, client, 0.0)
        job = Job(sample.query, files, servicex, client, LEG_S * n_workers / N_PIPELINED)
        for way in ways.values():
            way(few)
        for _ in range(arguments.rounds):
            results = []
            for name, way in ways.items():
                measured, result = way(job)
                times[name].append(measured)
                results.append(result)
                print(f"  {name}: {_rounded(measured)}", flush=True)
            if not np.array_equal(results[0].view(flow=True), results[1].view(flow=True)):
                raise RuntimeError("the histograms of both ways are not equal")
    return _compared(*times.values())


def _compared(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]
) -> list[Measured]:
    def median(times: Sequence[Mapping[str, float]], part: str) -> float:
        return statistics.median(time[part] for time in times)

    total, legs = median(ours, "total"), median(ours, "transform") + median(theirs, "analysis")
    return [
        Measured("pipelined, of deliver first", total / median(theirs, "total"), "x", 0.62),
        Measured("  of transform and analysis, without deliver", total / legs, "x"),
        Measured("  total", total, "s"),
        Measured("  of which after the last row", total - median(ours, "transform"), "s"),
        Measured("  transform", median(ours, "transform"), "s"),
        Measured("  deliver", median(theirs, "deliver"), "s"),
        Measured("  analysis of what was delivered", median(theirs, "analysis"), "s"),
    ]


# -- overlap


class Turns:
    """Lets single results through in the order of a list, so many seconds apart, once all are made.

    Attributes
    ----------
    first, last : float
        Times of the first and the last of them.
    """

    def __init__(self, files: Sequence[str], pause_s: float) -> None:
        self._rank = {path: rank for rank, path in enumerate(files)}
        self._pause_s = pause_s
        self._n_made = 0
        self.first = self.last = 0.0

    async def __call__(self, input_path: str) -> None:
        """Wait for the turn of a file."""
        self._n_made += 1
        while self._n_made < len(self._rank):
            await asyncio.sleep(0.01)
        self.first = self.first or time.time()
        await asyncio.sleep(self.first + self._rank[input_path] * self._pause_s - time.time())
        self.last = time.time()


def overlap(sample: Sample, directory: Path, arguments: argparse.Namespace) -> list[Measured]:
    """Measure an analysis while results come, and again when all are there."""
    files = make_samples(directory, N_PIPELINED, 50)
    ratios, legs = [], []
    address = elsewhere(host_cluster, 2, arguments.profiler, 2)
    with address as (scheduler, _), Client(scheduler) as client:
        for _ in range(arguments.rounds):
            turns = Turns(files[::-1], OVERLAP_PAUSE_S)
            with LocalServiceX(workers=2, before_report=turns) as servicex:
                factory = NanoEventsFactory.from_servicex(sample.query, files, url=servicex.url)
                result = slow_histogram(factory.events(), ANALYSIS_PAUSE_S)
                filled = client.compute(result).result(DONE_S)
                total_s = time.time() - turns.first
                again = partial(client.compute(result, pure=False).result, DONE_S)
                analysis_s, refilled = timed(again)
            if not np.array_equal(filled.view(flow=True), refilled.view(flow=True)):
                raise RuntimeError("the histograms are not equal")
            delivery_s = turns.last - turns.first
            ratios.append(total_s / max(delivery_s, analysis_s))
            legs.append((total_s, delivery_s, analysis_s))
    medians = [statistics.median(leg) for leg in zip(*legs, strict=True)]
    names = ("  total", "  delivery", "  analysis of what is there")
    return [
        Measured("overlapping, of the longer leg", statistics.median(ratios), "x", 1.3),
        *(Measured(name, value, "s") for name, value in zip(names, medians, strict=True)),
    ]


# -- all


def run(arguments: argparse.Namespace) -> Iterator[list[Measured]]:
    """Measure the chosen parts."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sample = make_sample(directory / "sample")
        if arguments.only in ("build", "scale", ""):
            started = elsewhere(serve, sample.content, arguments.rate)
            url, server = stack.enter_context(started)
        if arguments.only in ("build", ""):
            yield build(sample, url, arguments.files, arguments.rounds)
        if arguments.only in ("scale", ""):
            yield scale(sample, url, server, arguments)
        if arguments.only in ("pipelining", ""):
            yield pipelining(sample, directory / "input", arguments)
        if arguments.only in ("overlap", ""):
            yield overlap(sample, directory / "reversed", arguments)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=20.0, help="rows a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profiler", action="store_true", help="leave dask's profiler on")
    parser.add_argument("--out", type=Path, default=Path("resolution.json"))
    parser.add_argument("--only", default="", choices=PARTS)
    arguments = parser.parse_args()
    NanoAODSchema.warn_missing_crossrefs = False
    rows = []
    for part in run(arguments):
        rows += part
        print(*part, sep="\n", flush=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    options = {name: value for name, value in vars(arguments).items() if name != "out"}
    saved = {
        "machine": machine,
        "options": options,
        "rows": [asdict(r) | {"ok": r.is_ok} for r in rows],
    }
    arguments.out.write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()
