"""A job that needs no dask-awkward: ``python without_dask.py DIRECTORY [distributed]``.

Prints what it found as JSON. It is a program of its own, for environments without dask.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import awkward as ak
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import FuturesExecutor, Runner
from servicex import dataset
from servicex import query as q

from coffea_sx import PollPolicy, derive_form, from_spec
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.demo.samples import make_samples
from coffea_sx.errors import ConfigurationError
from coffea_sx.local import LocalServiceX

N_FILES, N_EVENTS = 3, 200
FAST = PollPolicy(busy_s=0.1)
COLUMNS = ["run", "event", "luminosityBlock", "MET_pt", "MET_phi"]


def columns(sample: dict[str, str]) -> dict[str, list[str]]:
    """Return the columns that are derived for queries of both code generators."""
    queries = {
        "func_adl": q.FuncADL_Uproot()
        .FromTree("Events")
        .Select(lambda e: {"pt": e["Muon_pt"].Where(lambda pt: pt > 20), "met": e["MET_pt"] / 2}),
        "raw": q.UprootRaw({"treename": "Events", "filter_name": ["MET_pt", "Muon_pt"]}),
    }
    return {name: list(derive_form(query, sample).columns) for name, query in queries.items()}


def refusal(submit: Any) -> str:
    """Return the message of the error for dask mode, or an empty text."""
    try:
        submit(mode="dask")
    except ConfigurationError as error:
        return str(error)
    return ""


def executors(names: list[str], stack: ExitStack) -> dict[str, Executor]:
    """Start the executors of some names."""
    made: dict[str, Executor] = {}
    if "threads" in names:
        made["threads"] = stack.enter_context(ThreadPoolExecutor(2))
    if "processes" in names:
        spawn = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
        made["processes"] = stack.enter_context(spawn)
    if "distributed" in names:
        from distributed import Client, LocalCluster

        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
        )
        client = stack.enter_context(Client(stack.enter_context(cluster)))
        made["distributed"] = client.get_executor()
    return made


def run(factory: Any, executor: Executor) -> Any:
    """Run a processor with coffea's Runner on files that may not exist yet."""
    runner = Runner(
        FuturesExecutor(pool=factory.pool(executor), status=False), schema=factory.schema
    )
    return runner.run(factory.work_items(), DimuonProcessor())["out"]


def main(directory: str, names: list[str]) -> dict[str, Any]:
    """Run the job; return what it found."""
    files = make_samples(Path(directory), N_FILES, N_EVENTS)
    parts = [
        NanoEventsFactory.from_root({path: "Events"}, schemaclass=SelectionSchema).events()
        for path in files
    ]
    results = [DimuonProcessor().process(events) for events in parts]
    expected = {name: sum(result[name] for result in results) for name in results[0]}
    met = ak.concatenate([ak.materialize(events.MET.pt) for events in parts])
    with LocalServiceX(workers=2) as server, ExitStack() as stack:

        def submit(query: Any = None, **options: Any) -> Any:
            return NanoEventsFactory.from_servicex(
                query or dimuon_query(),
                files,
                url=server.url,
                schemaclass=SelectionSchema,
                pace=FAST,
                **{"metadata": {"dataset": "dy"}, "mode": "virtual", **options},
            )

        events = submit().events()
        raw = q.UprootRaw({"treename": "Events", "filter_name": COLUMNS})
        found: dict[str, Any] = {
            "columns": columns({files[0]: "Events"}),
            "func_adl": DimuonProcessor().process(events) == expected,
            "raw": bool(ak.array_equal(ak.materialize(submit(raw).events().MET.pt), met)),
            "arriving": sum(len(part) for part in submit().as_completed()) == len(events),
            "grown": [result for result, _ in submit().accumulate(DimuonProcessor())][-1]
            == expected,
            "refusal": refusal(submit),
        }
        sample = {"Name": "dy", "Query": raw, "Dataset": dataset.FileList(files)}
        samples = from_spec({"Sample": [sample]}, url=server.url, mode="virtual", pace=FAST)
        found["spec"] = sum(len(factory.events()) for factory in samples.values())
        for name, executor in executors(names, stack).items():
            found[name] = run(submit(ignore_cache=True), executor) == expected
    packages = ("dask", "dask_awkward", "distributed")
    return {**found, "imported": [package for package in packages if package in sys.modules]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2:])) + "\n")
