"""Numbers of events that are known before anything is read: divisions of the graph."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle
import dask
import dask_awkward as dak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from dask_awkward.lib.testutils import assert_eq
from servicex import query as sx_query
from support.paces import FAST
from support.spoiled import N_EVENTS

from coffea_sx import ServiceXEventsFactory
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.errors import LengthMismatch
from coffea_sx.graph.layers import ResolveLayer
from coffea_sx.local import LocalServiceX
from coffea_sx.testing import Answer, Fault, FaultProxy, Request, When
from coffea_sx.testing.messages import Ask, whole

FORMATS = ("root-file", "root-rntuple", "parquet")
Submit = Callable[..., Any]


def raw_query() -> Any:
    names = ["run", "luminosityBlock", "event", "MET_pt", "MET_phi", "nMuon", "Muon_*"]
    return sx_query.UprootRaw({"treename": "Events", "filter_name": names})


def same(found: Any, expected: Any) -> None:
    """Compare values, divisions and types, but not the titles of columns."""
    assert_eq(ak.without_parameters(found), ak.without_parameters(expected))


def finished(factory: Any) -> Any:
    """Wait for all files; return the factory."""
    for partition in range(factory.npartitions):
        factory._source.part(partition)
    return factory


STEPS = {1: [0, N_EVENTS], 3: [0, 167, 334, N_EVENTS]}


def from_root(files: list[str], steps: int = 1) -> Any:
    """Events of the input files, whose divisions coffea's reader is given as well."""
    bounds = STEPS[steps]
    limits = [[a, b] for a, b in pairwise(bounds)]
    about = {"object_path": "Events", "steps": limits}
    return NanoEventsFactory.from_root(
        dict.fromkeys(files, about), mode="dask", schemaclass=SelectionSchema
    ).events()


@pytest.fixture(scope="module")
def uneven(nano_files: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of 500, 0, 7 and 123 events."""
    folder = tmp_path_factory.mktemp("uneven")
    paths = [nano_files[0]]
    with uproot.open({nano_files[1]: "Events"}) as tree:
        for length in (0, 7, 123):
            path = folder / f"nano_{length}.root"
            with uproot.recreate(path) as file:
                branches = {
                    name: tree[name].array(entry_stop=length)
                    for name in ("run", "luminosityBlock", "event", "MET_pt", "MET_phi")
                }
                file.mktree("Events", {name: array.type for name, array in branches.items()})
                file["Events"].extend(branches)
            paths.append(str(path))
    return paths


# -- divisions


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("result_format", FORMATS)
def test_events_are_those_of_from_root(
    submit: Submit, nano_files: list[str], result_format: str, steps: int
) -> None:
    factory = finished(submit(raw_query(), result_format=result_format, steps_per_file=steps))
    events, direct = factory.events(), from_root(nano_files, steps)
    assert events.known_divisions
    for a, b in [
        (events.Muon.pt, direct.Muon.pt),
        (events[:10].event, direct[:10].event),
        (events[495:1010:3].MET.pt, direct[495:1010:3].MET.pt),
        (events.Muon[-5:].eta, direct.Muon[-5:].eta),
    ]:
        same(a, b)
    assert_eq(events.event[1234], direct.event[1234])
    assert len(events) == len(direct) == 4000


def test_files_of_different_lengths(servicex: LocalServiceX, uneven: list[str]) -> None:
    query = sx_query.UprootRaw({"treename": "Events", "filter_name": ["run", "lumi*", "event"]})
    factory = NanoEventsFactory.from_servicex(
        query, uneven, url=servicex.url, schemaclass=SelectionSchema, pace=FAST, steps_per_file=2
    )
    events = finished(factory).events()
    assert events.divisions == (0, 250, 500, 500, 500, 504, 507, 569, 630)
    expected = ak.concatenate([uproot.open(path)["Events/event"].array() for path in uneven])
    for part in (slice(0, 10), slice(495, 505), slice(500, 508), slice(600, None)):
        same(events[part].event, expected[part])


def test_lengths_are_those_of_selected_events(submit: Submit, nano_files: list[str]) -> None:
    direct = from_root(nano_files)
    direct = direct[ak.num(direct.Muon) >= 2]
    events = finished(submit()).events()
    assert events.known_divisions
    assert not direct.known_divisions
    same(events.Muon.pt, direct.Muon.pt)
    assert len(events) == len(direct.event.compute(scheduler="synchronous"))
    same(events[:10].Jet.pt, direct.Jet.pt.compute(scheduler="synchronous")[:10])


def test_divisions_survive_optimisation(submit: Submit) -> None:
    events = finished(submit()).events()
    muons = events.Muon.pt * 2
    assert muons.divisions == events.divisions
    (optimised,) = dask.optimize(muons)
    assert optimised.divisions == events.divisions
    (columns,) = dak.necessary_columns(muons).values()
    assert columns <= {"Muon_pt", "nMuon"}
    same(optimised, muons)
    first = events[:10].event
    assert [first.npartitions, len(first)] == [1, 10]


def test_lengths_open_no_file(nano_files: list[str], tmp_path: Path) -> None:
    with LocalServiceX(tmp_path / "servicex") as server:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files[:3], url=server.url, schemaclass=SelectionSchema, pace=FAST
        )
        events = finished(factory).events()
        before = len(server.exchanges)
        assert len(events) == sum(file["n_events"] for file in factory.files)
        first = events[:10]
        assert len(first) == 10
        assert len(server.exchanges) == before
        first.event.compute(scheduler="synchronous")
        assert {read.partition for read in factory.reads} == {0}


def test_unknown_until_all_files_are_delivered(submit: Submit) -> None:
    factory = submit(ignore_cache=True)
    before = factory.events()
    assert not before.known_divisions
    after = finished(factory).events()
    assert after.known_divisions
    # Both verify the lengths, so that they may share their partitions in one computation.
    assert before.name == after.name
    same(before.event, after.event)
    (resolve,) = (layer for layer in after.dask.layers.values() if isinstance(layer, ResolveLayer))
    assert resolve.name in before.dask.layers
    assert all(dask.compute(before.event == after.event, scheduler="synchronous")[0])


def test_unknown_where_files_may_be_left_out(submit: Submit) -> None:
    factory = finished(submit(on_failure="skip"))
    events, _ = factory.events()
    assert not events.known_divisions


def test_unknown_where_the_server_counts_other_events(
    servicex: LocalServiceX, tmp_path: Path
) -> None:
    path = str(tmp_path / "trees.root")
    with uproot.recreate(path) as file:
        for name, length in (("a", 5), ("b", 3)):
            file.mktree(name, {"x": "int64"}).extend({"x": np.arange(length)})
    both = [{"treename": name} for name in ("a", "b")]
    with pytest.warns(UserWarning, match="the events are those of 'a' alone"):
        factory = NanoEventsFactory.from_servicex(
            sx_query.UprootRaw(both), [path], url=servicex.url, schemaclass=BaseSchema, pace=FAST
        )
    events = finished(factory).events()
    assert factory.files[0]["n_events"] == 8
    assert not events.known_divisions
    assert events.x.compute(scheduler="synchronous").to_list() == list(range(5))


def test_unknown_where_the_outcomes_are_not(submit: Submit) -> None:
    factory = finished(submit())
    assert factory._source.lengths() is not None
    assert subprocess_lengths(factory) == "None"


def subprocess_lengths(factory: Any) -> str:
    """Ask for the lengths in a process that did not submit the query."""
    script = "import sys, cloudpickle; print(cloudpickle.load(sys.stdin.buffer).lengths())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=cloudpickle.dumps(factory._source),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


# -- from_request_id


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServiceX]:
    with LocalServiceX(tmp_path_factory.mktemp("server") / "servicex") as running:
        yield running


def test_a_request_that_has_ended(server: LocalServiceX, nano_files: list[str]) -> None:
    options: dict[str, Any] = {"url": server.url, "schemaclass": SelectionSchema, "pace": FAST}
    first = NanoEventsFactory.from_servicex(dimuon_query(), nano_files, **options)
    events = finished(first).events()
    first._source.poller.close()
    again = ServiceXEventsFactory.from_request_id(first.request_id, **options)
    assert again._source.poller is not first._source.poller
    assert again.counts.delivered == len(nano_files)
    assert again.events().divisions == events.divisions
    assert again.to_fileset().num_entries == len(events)


# -- wrong lengths


async def counts_too_many(request: Request, ask: Ask) -> Answer:
    """Add one to the number of events of the first input file, as a broken transformer may do."""
    answer = await ask()
    content = json.loads(b"".join([block async for block in answer.body]))
    for row in content["results"]:
        row["total-events"] += row["file-path"].endswith("nano_0.root")
    json_type = {"Content-Type": "application/json"}
    return whole(answer.status, json_type, json.dumps(content).encode())


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("result_format", FORMATS)
def test_a_file_of_another_length(
    servicex: LocalServiceX, nano_files: list[str], result_format: str, steps: int
) -> None:
    assert nano_files[0].endswith("nano_0.root")
    rows = Fault(counts_too_many, When("/results"), times=None)
    with FaultProxy(servicex.url, [rows]) as proxy:
        factory = NanoEventsFactory.from_servicex(
            raw_query(),
            nano_files[:2],
            url=proxy.url,
            schemaclass=SelectionSchema,
            pace=FAST,
            ignore_cache=True,
            result_format=result_format,
            steps_per_file=steps,
        )
        unknown = factory.events()
        known = finished(factory).events()
        assert [unknown.known_divisions, len(known)] == [False, 1001]
        for events in (unknown.event, known.event, known[:10].event):
            with pytest.raises(LengthMismatch, match=r"has 500 events.*reported 501") as caught:
                events.compute(scheduler="synchronous")
            assert caught.value.input_file == nano_files[0]
            assert (caught.value.facts["expected"], caught.value.facts["found"]) == (501, 500)
        assert len(known.partitions[steps:].event.compute(scheduler="synchronous")) == 500
