"""Gains of analysing files as they appear, in each mode, and costs of virtual mode.

``python benchmarks/modes.py [--leg 20] [--rounds 1] [--events 20000] [--out modes.json]
[--only overlap|virtual]``. Each requirement is printed with the measured value and its limit.

- overlap: 60 small files appear one by one, in random order, in the time of a leg, while two
  workers analyse them, by sleeping, in the same time. From the first result at the server to the
  histogram, against the longer of delivery and of the same analysis when all files are there. A
  process polls a server about once a second, and the last file is analysed when the others are
  done: together that is about 1.7 seconds of a leg of 20. ``servicex.deliver``, which looks every
  five seconds, followed by coffea's Runner on its files, is measured beside.
- virtual: two of 40 columns of 100 files are read from the store of an embedded ServiceX, against
  coffea's ``from_root(mode="dask")`` with threads on local copies of the same files. Ways take
  turns, each in a process of its own; medians. Memory is the growth of the peak while they read:
  a column is in memory in pieces and joined, and up to eight files are read at once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import fsspec
import hist
import numpy as np
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from coffea.processor import FuturesExecutor, ProcessorABC, Runner
from distributed import Client
from reading import TWO_COLUMNS, Cost, make_events, write_ttree
from reading import measure as cost_of
from resolution import (
    TREE,
    Measured,
    Turns,
    deliver_files,
    elsewhere,
    host_cluster,
    make_sample,
    slow_histogram,
    timed,
)
from servicex import query
from uproot import ZSTD

import coffea_sx
from coffea_sx import ServiceXEventsFactory
from coffea_sx.demo.analysis import SelectionSchema
from coffea_sx.demo.samples import make_samples
from coffea_sx.local import LocalServiceX

N_FILES = 60
N_WORKERS = 2
N_VIRTUAL = 100
# The most that a total may be, of the longer leg.
POOL, THREADS = 1.15, 1.3
# The most that virtual mode may take, of from_root on local copies.
VIRTUAL = 1.3
# The most that its memory may grow: so many times the columns, and so many files.
COPIES, FILES_AT_ONCE = 4, 8

Analyse = Callable[[Any, float], Any]


# -- overlap


class SlowProcessor(ProcessorABC):  # type: ignore[misc]
    """Fills a histogram, and takes so many seconds for it."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    def process(self, events: Any) -> Any:
        """Return the histogram."""
        time.sleep(self._pause_s)
        pt = ak.flatten(events.Muon.pt)
        return hist.Hist.new.Reg(50, 0, 200, name="pt").Double().fill(pt=pt)

    def postprocess(self, accumulator: Any) -> Any:
        """Return it."""
        return accumulator


def by_pool(executor: Executor, factory: Any, pause_s: float) -> Any:
    """Run the processor by coffea's Runner, with a pool."""
    pool = FuturesExecutor(pool=factory.pool(executor), status=False)
    runner = Runner(pool, schema=factory.schema)
    return runner.run(factory.work_items(), SlowProcessor(pause_s))["out"]


def by_dask(options: Mapping[str, Any], factory: Any, pause_s: float) -> Any:
    """Compute the histogram by a scheduler of dask."""
    result = slow_histogram(factory.events(), pause_s)
    (filled,) = dask.compute(result, num_workers=N_WORKERS, **options)
    return filled


@contextmanager
def threads() -> Iterator[Analyse]:
    """Runner with threads."""
    with ThreadPoolExecutor(N_WORKERS) as executor:
        yield partial(by_pool, executor)


@contextmanager
def processes() -> Iterator[Analyse]:
    """Runner with processes that are spawned."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(N_WORKERS, mp_context=spawn) as executor:
        yield partial(by_pool, executor)


@contextmanager
def cluster() -> Iterator[Analyse]:
    """Runner with the executor of a dask cluster."""
    with (
        elsewhere(host_cluster, N_WORKERS, False) as (address, _),
        Client(address, set_as_default=False) as client,
        client.get_executor() as executor,
    ):
        yield partial(by_pool, executor)


@contextmanager
def dask_threads(scheduler: Any = "threads") -> Iterator[Analyse]:
    """Dask without a Client."""
    yield partial(by_dask, {"scheduler": scheduler})


@dataclass(frozen=True)
class Way:
    """A way to analyse files as they appear, and its limit."""

    name: str
    start: Callable[[], AbstractContextManager[Analyse]]
    limit: float | None


def ways() -> list[Way]:
    """Return all ways that this version has."""
    return [
        Way("Runner, pool of threads", threads, POOL),
        Way("Runner, pool of processes", processes, POOL),
        Way("Runner, pool of a dask cluster", cluster, POOL),
        Way("dask, threads", dask_threads, None),
        Way(
            "dask, coffea_sx.threaded_get",
            partial(dask_threads, coffea_sx.threaded_get),
            THREADS,
        ),
    ]


@dataclass(frozen=True)
class Legs:
    """Seconds of everything, and of its parts."""

    total_s: float
    delivery_s: float
    analysis_s: float

    @property
    def ratio(self) -> float:
        """The total, of the longer part."""
        return self.total_s / max(self.delivery_s, self.analysis_s)


@dataclass(frozen=True)
class Job:
    """What every way computes."""

    query: Any
    files: list[str]
    leg_s: float

    def few(self) -> Job:
        """Return a job to warm up."""
        return Job(self.query, self.files[: 2 * N_WORKERS], 0.0)

    @property
    def pause_s(self) -> float:
        """Seconds between two results."""
        return self.leg_s / len(self.files)

    def turns(self) -> Turns:
        """Return what lets the results through, in random order."""
        return Turns(random.Random(1).sample(self.files, len(self.files)), self.pause_s)


def as_they_appear(job: Job, analyse: Analyse) -> tuple[Legs, Any]:
    """Analyse results as they appear, and again when all are there."""
    turns = job.turns()
    analysis = partial(analyse, pause_s=job.pause_s * N_WORKERS)
    with LocalServiceX(workers=2, before_report=turns) as servicex:
        factory = NanoEventsFactory.from_servicex(
            job.query, job.files, url=servicex.url, schemaclass=SelectionSchema
        )
        filled = analysis(factory)
        total_s = time.time() - turns.first
        analysis_s, again = timed(partial(analysis, factory))
    check_equal(filled, again)
    return Legs(total_s, turns.last - turns.first, analysis_s), filled


def one_after_the_other(job: Job) -> tuple[Legs, Any]:
    """Have all results delivered by servicex, then analyse them by Runner with threads."""
    turns = job.turns()
    with (
        LocalServiceX(workers=2, before_report=turns) as servicex,
        tempfile.TemporaryDirectory() as directory,
        ThreadPoolExecutor(N_WORKERS) as executor,
    ):
        delivered = deliver_files(servicex, job.query, job.files, directory)
        runner = Runner(FuturesExecutor(pool=executor, status=False), schema=SelectionSchema)
        processor = SlowProcessor(job.pause_s * N_WORKERS)
        run = partial(runner, {"benchmark": delivered}, processor, treename=TREE)
        analysis_s, filled = timed(run)
        total_s = time.time() - turns.first
    return Legs(total_s, turns.last - turns.first, analysis_s), filled


def check_equal(first: Any, second: Any) -> None:
    """Compare two histograms.

    Raises
    ------
    RuntimeError
    """
    if not np.array_equal(first.view(flow=True), second.view(flow=True)):
        raise RuntimeError("the histograms are not equal")


def overlap(directory: Path, arguments: argparse.Namespace) -> Iterator[Measured]:
    """Measure all ways, one after the other."""
    sample = make_sample(directory / "sample")
    job = Job(sample.query, make_samples(directory / "input", N_FILES, 50), arguments.leg)
    theirs, expected = _median([one_after_the_other(job) for _ in range(arguments.rounds)])
    for way in ways():
        with way.start() as analyse:
            as_they_appear(job.few(), analyse)
            rounds = [as_they_appear(job, analyse) for _ in range(arguments.rounds)]
        legs, filled = _median(rounds)
        check_equal(filled, expected)
        yield Measured(f"{way.name}: total, of the longer leg", legs.ratio, "x", way.limit)
        yield from _parts(legs)
    yield Measured("servicex.deliver, then Runner", theirs.ratio, "x")
    yield from _parts(theirs)


def _median(rounds: Sequence[tuple[Legs, Any]]) -> tuple[Legs, Any]:
    return sorted(rounds, key=lambda found: found[0].ratio)[len(rounds) // 2]


def _parts(legs: Legs) -> Iterator[Measured]:
    yield Measured("  total", legs.total_s, "s")
    yield Measured("  delivery", legs.delivery_s, "s")
    yield Measured("  analysis of what is there", legs.analysis_s, "s")


# -- virtual


def sum_of_virtual(request_id: str, url: str, form: Any) -> Callable[[], Any]:
    """Sum the columns in virtual mode, once all outcomes have arrived in this process."""
    factory = ServiceXEventsFactory.from_request_id(
        request_id, url=url, form=form, mode="virtual", schemaclass=BaseSchema
    )
    len(factory)

    def read() -> Any:
        events = factory.events()
        return [ak.sum(events[name]) for name in TWO_COLUMNS]

    return read


def sum_of_copies(paths: Sequence[str]) -> Callable[[], Any]:
    """Sum the columns by coffea's from_root in dask mode."""

    def read() -> Any:
        files = dict.fromkeys(paths, TREE)
        factory = NanoEventsFactory.from_root(files, mode="dask", schemaclass=BaseSchema)
        events = factory.events()
        sums = [ak.sum(events[name], axis=None) for name in TWO_COLUMNS]
        return dask.compute(*sums, scheduler="threads")

    return read


def measured_sum(prepare: Callable[[], Callable[[], Any]]) -> tuple[Cost, list[float]]:
    """Sum the columns in this process; return the cost, and the sums."""
    results: list[Any] = []
    read = prepare()
    cost = cost_of(lambda: results.append(read()))
    return cost, [float(value) for value in results[0]]


def virtual(directory: Path, arguments: argparse.Namespace) -> Iterator[Measured]:
    """Measure virtual mode and from_root, in turns."""
    source = directory / "source.root"
    events = make_events(arguments.events)
    directory.mkdir()
    write_ttree(source, events, ZSTD(5), 1)
    files = [directory / f"input_{i}.root" for i in range(N_VIRTUAL)]
    for path in files:
        path.hardlink_to(source)
    copies = directory / "copies"
    with LocalServiceX(workers=2) as servicex:
        whole = query.UprootRaw({"treename": TREE})
        factory = NanoEventsFactory.from_servicex(
            whole, list(map(str, files)), url=servicex.url, schemaclass=BaseSchema
        )
        len(factory)
        fsspec.filesystem("servicex").get(factory.request_id, str(copies), recursive=True)
        paths = sorted(map(str, copies.iterdir()))
        files_mb = sum(Path(path).stat().st_size for path in paths) / 1e6
        columns = [ak.to_packed(events[name]) for name in TWO_COLUMNS]
        columns_mb = N_VIRTUAL * sum(column.nbytes for column in columns) / 1e6
        yield from _compared(
            partial(sum_of_virtual, factory.request_id, servicex.url, factory.form),
            partial(sum_of_copies, paths),
            arguments.rounds,
            COPIES * columns_mb + FILES_AT_ONCE * files_mb / N_VIRTUAL,
        )
    yield Measured("  the two columns", columns_mb, "MB")
    yield Measured("  all files", files_mb, "MB")


def _compared(ours: Any, theirs: Any, rounds: int, most_mb: float) -> Iterator[Measured]:
    spawn = multiprocessing.get_context("spawn")
    costs: tuple[list[Cost], list[Cost]] = ([], [])
    with (
        ProcessPoolExecutor(1, mp_context=spawn) as first,
        ProcessPoolExecutor(1, mp_context=spawn) as second,
    ):
        for turn in range(max(rounds, 3) + 1):
            found = []
            for executor, prepare, measured in zip(
                (first, second), (ours, theirs), costs, strict=True
            ):
                cost, sums = executor.submit(measured_sum, prepare).result()
                found.append(sums)
                if turn:  # the first one warms up
                    measured.append(cost)
            if not np.allclose(*found, rtol=1e-4):
                raise RuntimeError(f"the sums are not equal: {found}")
    wall, local = (statistics.median(cost.wall_s for cost in each) for each in costs)
    peak, other = (max(cost.peak_bytes for cost in each) / 1e6 for each in costs)
    yield Measured("virtual, of from_root (dask) on local copies", wall / local, "x", VIRTUAL)
    yield Measured("  virtual", wall, "s")
    yield Measured("  from_root", local, "s")
    yield Measured("  growth of memory, virtual", peak, "MB", most_mb)
    yield Measured("  growth of memory, from_root", other, "MB")


# -- all


PARTS = {"overlap": overlap, "virtual": virtual}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leg", type=float, default=20.0, help="seconds of delivery and analysis")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--events", type=int, default=20_000, help="of each file of virtual")
    parser.add_argument("--out", type=Path, default=Path("modes.json"))
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for name in arguments.only:
            for row in PARTS[name](Path(directory) / name, arguments):
                rows.append(row)
                print(row, flush=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    options = {name: value for name, value in vars(arguments).items() if name != "out"}
    saved = [asdict(row) | {"ok": row.is_ok} for row in rows]
    arguments.out.write_text(
        json.dumps({"machine": machine, "options": options, "rows": saved}, indent=1)
    )


if __name__ == "__main__":
    main()
