"""Several samples: the specifications of servicex, and dataset groups of coffea."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import pytest
from coffea.dataset_tools import preprocess
from coffea.dataset_tools.filespec import DataGroupSpec
from servicex import General, ServiceXSpec, dataset, query
from servicex import Sample as SXSample
from support.paces import FAST

from coffea_sx import ServiceXEventsFactory, from_spec
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.errors import BadDataset, BadInput, DatasetError, QueryError, UnknownColumn
from coffea_sx.local import LocalServiceX
from coffea_sx.testing import Answer, Fault, FaultProxy, Request, When
from coffea_sx.testing.messages import Ask

N_EVENTS = 500  # of each input file
Submit = Callable[..., dict[str, Any]]

YAML = """
Definition:
  - &query !FuncADL_Uproot |
      FromTree("Events").Select(lambda e: {columns})
General:
  OutputFormat: {output}
Sample:
  - Name: listed
    Dataset: !FileList [{files}]
    Query: *query
  - Name: found
    Dataset: !Rucio user:three
    NFiles: 2
    Query: *query
  - Name: raw
    Dataset: !FileList [{files}]
    Query: !UprootRaw |
      {{"treename": "Events", "filter_name": ["run", "event", "luminosityBlock", "MET_*"]}}
"""


NAMES = ("run", "event", "luminosityBlock", "MET_pt", "MET_phi")
COLUMNS = ", ".join(f'"{name}": e["{name}"]' for name in NAMES)


@pytest.fixture(scope="module")
def server(nano_files: list[str]) -> Iterator[LocalServiceX]:
    datasets = {"rucio://user:three": nano_files[:3], "rucio://user:two": nano_files[3:5]}
    with LocalServiceX(datasets=datasets) as running:
        yield running


@pytest.fixture
def submit(server: LocalServiceX, nano_files: list[str]) -> Submit:
    def submitted(spec: Any, default_query: Any = None, **options: Any) -> dict[str, Any]:
        defaults = {
            "url": server.url,
            "schemaclass": SelectionSchema,
            "input_form": {nano_files[0]: "Events"},
        }
        return from_spec(spec, default_query, **{"pace": FAST, **defaults, **options})

    return submitted


@pytest.fixture
def nothing_submitted(server: LocalServiceX) -> Iterator[None]:
    before = n_submitted(server)
    yield
    assert n_submitted(server) == before


def n_submitted(server: LocalServiceX) -> int:
    return sum(
        (exchange.method, exchange.path) == ("POST", "/servicex/transformation")
        for exchange in server.exchanges
    )


def sample(name: str, files: Any, **changes: Any) -> dict[str, Any]:
    identifier = dataset.FileList(files) if isinstance(files, list) else files
    return {"Name": name, "Dataset": identifier, "Query": dimuon_query(), **changes}


def two_samples(files: list[str]) -> dict[str, Any]:
    return {"Sample": [sample("dy", files[:3]), sample("ttbar", files[3:5])]}


def paths(factory: Any) -> list[str]:
    return [file["input_file"] for file in factory.files]


def about(factory: Any) -> dict[str, Any]:
    """Metadata of events without that of the schema."""
    return {key: value for key, value in factory.events().metadata.items() if key != "version"}


def files_in(events: Any) -> list[int]:
    """Numbers of the input files of events, in the order of the partitions."""
    numbers = events.event.compute(scheduler="synchronous")
    return list(dict.fromkeys((numbers // N_EVENTS).to_list()))


# -- what a specification may be


def test_a_dict_keeps_names_and_orders(submit: Submit, nano_files: list[str]) -> None:
    backwards = nano_files[2::-1]
    original = list(backwards)
    spec = {"Sample": [sample("z", original), sample("a", nano_files[4:2:-1])]}
    samples = submit(spec)
    assert list(samples) == ["z", "a"]
    assert all(isinstance(factory, ServiceXEventsFactory) for factory in samples.values())
    assert paths(samples["z"]) == backwards == original
    assert files_in(samples["z"].events()) == [2, 1, 0]
    assert files_in(samples["a"].events()) == [4, 3]


def test_events_know_their_sample(submit: Submit, nano_files: list[str]) -> None:
    samples = submit(two_samples(nano_files), metadata={"year": 2018, "dataset": "no"})
    for name, factory in samples.items():
        assert about(factory) == {"year": 2018, "dataset": name}
        assert factory.status().title == name


def test_a_servicexspec(submit: Submit, nano_files: list[str]) -> None:
    spec = ServiceXSpec(
        General=General(OutputFormat="parquet", Delivery="URLs"),
        Sample=[
            SXSample(Name="dy", Dataset=dataset.FileList(nano_files[:2]), Query=dimuon_query()),
            SXSample(Name="three", Dataset=dataset.Rucio("user:three"), Query=dimuon_query()),
        ],
    )
    samples = submit(spec)
    assert [len(paths(factory)) for factory in samples.values()] == [2, 3]
    assert files_in(samples["dy"].events()) == [0, 1]
    assert files_in(samples["three"].events()) == [0, 1, 2]
    names = [file["object_name"] for file in samples["dy"].files]
    assert all(name.endswith(".parquet") for name in names)


@pytest.mark.parametrize("output", ["root-ttree", "parquet"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_yaml_file(
    submit: Submit, nano_files: list[str], tmp_path: Path, kind: type, output: str
) -> None:
    path = tmp_path / "spec.yaml"
    listed = ", ".join(f'"{file}"' for file in nano_files[1::-1])
    path.write_text(YAML.format(files=listed, output=output, columns=f"{{{COLUMNS}}}"))
    samples = submit(kind(path))
    assert list(samples) == ["listed", "found", "raw"]
    # servicex sorts what YAML lists.
    assert paths(samples["listed"]) == nano_files[:2]
    assert paths(samples["found"]) == nano_files[:2]
    events = [factory.events().MET.pt for factory in samples.values()]
    listed_pt, found_pt, raw_pt = dask.compute(*events, scheduler="synchronous")
    assert len(listed_pt) == 2 * N_EVENTS
    assert ak.array_equal(listed_pt, found_pt, check_parameters=False)
    assert ak.array_equal(listed_pt, raw_pt, check_parameters=False)


def test_a_dataset_group_of_coffea(submit: Submit, nano_files: list[str]) -> None:
    group = DataGroupSpec(
        {
            "dy": {
                "files": dict.fromkeys(nano_files[1::-1], "Events"),
                "metadata": {"xsec": 2008.4, "year": 1},
            },
            "ttbar": {"files": {nano_files[2]: "Events"}},
        }
    )
    samples = submit(group, dimuon_query(), metadata={"year": 2018}, result_format="parquet")
    assert list(samples) == ["dy", "ttbar"]
    assert paths(samples["dy"]) == nano_files[1::-1]
    assert about(samples["dy"]) == {"dataset": "dy", "xsec": 2008.4, "year": 1}
    assert about(samples["ttbar"]) == {"dataset": "ttbar", "year": 2018}
    assert files_in(samples["dy"].events()) == [1, 0]


HALVES = {"object_path": "Events", "steps": [[0, 200], [200, 500]], "num_entries": N_EVENTS}


@pytest.mark.parametrize("form", ["group", "dict", "json"])
def test_steps_of_a_dataset_group(submit: Submit, nano_files: list[str], form: str) -> None:
    group = DataGroupSpec(
        {
            "dy": {"files": dict.fromkeys(nano_files[:2], HALVES), "metadata": {"year": 1}},
            "ttbar": {"files": {nano_files[2]: "Events"}},
        }
    )
    spec = {"group": group, "dict": group.model_dump(), "json": json.loads(group.model_dump_json())}
    samples = submit(spec[form], dimuon_query())
    assert [factory.npartitions for factory in samples.values()] == [4, 1]
    assert files_in(samples["dy"].events()) == [0, 1]
    assert about(samples["dy"]) == {"dataset": "dy", "year": 1}
    virtual = submit(spec[form], dimuon_query(), mode="virtual")
    assert [factory.npartitions for factory in virtual.values()] == [2, 1]
    assert len(virtual["dy"]) == len(samples["dy"].events().event.compute())


def test_a_group_that_coffea_has_preprocessed(submit: Submit, nano_files: list[str]) -> None:
    files = DataGroupSpec({"dy": {"files": dict.fromkeys(nano_files[:2], "Events")}})
    prepared, _ = preprocess(files, step_size=250, scheduler="synchronous")
    assert submit(prepared, dimuon_query())["dy"].npartitions == 4


def test_nfiles_limits_the_files(submit: Submit, nano_files: list[str]) -> None:
    spec = {
        "Sample": [
            sample("listed", nano_files[3::-1], NFiles=2),
            sample("found", dataset.Rucio("user:three"), NFiles=1),
            sample("all", dataset.Rucio("user:two")),
        ]
    }
    samples = submit(spec)
    assert paths(samples["listed"]) == nano_files[3:1:-1]
    assert paths(samples["found"]) == nano_files[:1]
    assert paths(samples["all"]) == nano_files[3:5]


def test_a_query_for_samples_without_one(submit: Submit, nano_files: list[str]) -> None:
    spec = {"Sample": [{"Name": "dy", "Dataset": dataset.FileList(nano_files[:1])}]}
    assert files_in(submit(spec, dimuon_query())["dy"].events()) == [0]


def test_options_are_those_of_every_sample(submit: Submit, nano_files: list[str]) -> None:
    samples = submit(two_samples(nano_files), on_failure="skip", steps_per_file=2)
    assert [factory.npartitions for factory in samples.values()] == [6, 4]
    assert all(isinstance(factory.events(), tuple) for factory in samples.values())


# -- submitting


def test_all_are_submitted_before_any_look_up_ends(
    server: LocalServiceX, submit: Submit, nano_files: list[str]
) -> None:
    before, seen = n_submitted(server), []

    async def wait_for_the_others(request: Request, ask: Ask) -> Answer:
        deadline = time.monotonic() + 10
        while n_submitted(server) < before + 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        seen.append(n_submitted(server) - before)
        return await ask()

    spec = {
        "General": {"IgnoreLocalCache": True},
        "Sample": [
            sample("a", dataset.Rucio("user:three")),
            sample("b", dataset.Rucio("user:two")),
            sample("c", nano_files[:1]),
        ],
    }
    looked_up = Fault(wait_for_the_others, When("/servicex/datasets/"), times=None)
    with FaultProxy(server.url, [looked_up]) as proxy:
        samples = submit(spec, url=proxy.url)
    assert seen == [3, 3]
    assert [len(paths(factory)) for factory in samples.values()] == [3, 2, 1]


@pytest.mark.parametrize("where", ["General", "Sample", "call"])
def test_ignoring_the_cache_submits_again(
    server: LocalServiceX, submit: Submit, nano_files: list[str], where: str
) -> None:
    def spec(ignored: bool) -> dict[str, Any]:
        again = sample("again", nano_files[:1], IgnoreLocalCache=ignored and where == "Sample")
        return {"General": {"IgnoreLocalCache": ignored and where == "General"}, "Sample": [again]}

    first = submit(spec(False))["again"].request_id
    before = n_submitted(server)
    assert submit(spec(False))["again"].request_id == first
    assert n_submitted(server) == before
    again = submit(spec(True), ignore_cache=where == "call")["again"]
    assert again.request_id != first
    assert n_submitted(server) == before + 1


def test_a_dataset_that_does_not_exist_is_named(submit: Submit, nano_files: list[str]) -> None:
    spec = {"Sample": [sample("dy", nano_files[:1]), sample("no", dataset.Rucio("user:no"))]}
    with pytest.raises(BadDataset, match=r"Sample 'no'.*it does not exist"):
        submit(spec)


# Ignoring the cache, as nothing is submitted either of what was submitted before.
@pytest.mark.usefixtures("nothing_submitted")
class TestBadInput:
    def test_a_bad_query_names_its_sample(self, submit: Submit, nano_files: list[str]) -> None:
        spec = two_samples(nano_files)
        spec["Sample"].append(sample("bad", nano_files[:1], Query="(call", Codegen="uproot"))
        with pytest.raises(QueryError, match="Sample 'bad'"):
            submit(spec, ignore_cache=True)

    def test_a_missing_code_generator_names_its_sample(
        self, submit: Submit, nano_files: list[str]
    ) -> None:
        spec = two_samples(nano_files)
        python = query.PythonFunction().with_uproot_function(about)
        spec["Sample"].append(sample("bad", nano_files[:1], Query=python))
        with (
            pytest.warns(UserWarning, match="cannot be derived from the query"),
            pytest.raises(QueryError, match=r"Sample 'bad'.*no code generator 'python'"),
        ):
            submit(spec, ignore_cache=True)

    def test_a_name_longer_than_a_title(self, submit: Submit, nano_files: list[str]) -> None:
        spec = two_samples(nano_files)
        spec["Sample"].append(sample("x" * 10_241, nano_files[:1]))
        with pytest.raises(QueryError, match="title is longer"):
            submit(spec, ignore_cache=True)

    def test_an_unknown_column_is_a_fact_of_the_error(
        self, submit: Submit, nano_files: list[str]
    ) -> None:
        bad = query.FuncADL_Uproot().FromTree("Events").Select(lambda e: {"a": e["MET_p"]})
        spec = {"Sample": [sample("good", nano_files), sample("bad", nano_files[:1], Query=bad)]}
        with pytest.raises(UnknownColumn, match=r"Sample 'bad'.*MET_pt") as caught:
            submit(spec, ignore_cache=True)
        assert caught.value.nearest[0] == "MET_pt"

    def test_a_list_without_order_names_its_sample(
        self, submit: Submit, nano_files: list[str]
    ) -> None:
        spec = {"Sample": [sample("dy", nano_files), sample("bad", nano_files[:1] * 2)]}
        with pytest.raises(DatasetError, match=r"Sample 'bad'.*twice"):
            submit(spec, ignore_cache=True)

    def test_a_sample_without_a_query(self, submit: Submit, nano_files: list[str]) -> None:
        spec = {"Sample": [sample("dy", nano_files), sample("bad", nano_files[:1], Query=None)]}
        with pytest.raises(BadInput, match="'bad' has no query"):
            submit(spec, ignore_cache=True)

    def test_a_dataset_group_without_a_query(self, submit: Submit, nano_files: list[str]) -> None:
        group = DataGroupSpec({"dy": {"files": {nano_files[0]: "Events"}}})
        with pytest.raises(BadInput, match="give it as query="):
            submit(group)

    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            ({"steps": [[0, 200], [300, 500]]}, {}, "leave out events.*400 events of 500"),
            ({"steps": [[0, 200]]}, {}, "leave out events.*200 events of 500"),
            ({"steps": [[100, 500]], "num_entries": None}, {}, "leave out events.*400 events"),
            ({"steps": []}, {}, "leave out events"),
            ({}, {"steps": [[0, 500]]}, "same number of steps.* is 2, .* is 1"),
            ({"object_path": "Other"}, {}, "same tree.*'Other'.*'Events'"),
            (
                {"object_path": "Other"},
                {"object_path": "Other"},
                "reads the tree 'Events'.*'Other'",
            ),
        ],
    )
    def test_descriptions_of_files_that_cannot_work(
        self,
        submit: Submit,
        nano_files: list[str],
        first: dict[str, Any],
        second: dict[str, Any],
        message: str,
    ) -> None:
        files = {nano_files[0]: {**HALVES, **first}, nano_files[1]: {**HALVES, **second}}
        group = {"good": {"files": nano_files[2:4]}, "bad": {"files": files}}
        with pytest.raises(DatasetError, match=f"Sample 'bad'.*{message}"):
            submit(group, dimuon_query(), ignore_cache=True)

    def test_two_numbers_of_steps(self, submit: Submit, nano_files: list[str]) -> None:
        group = {"dy": {"files": {nano_files[0]: HALVES}}}
        with pytest.raises(BadInput, match=r"steps_per_file=3.*have 2 steps"):
            submit(group, dimuon_query(), steps_per_file=3, ignore_cache=True)

    def test_two_samples_of_one_name(self, submit: Submit, nano_files: list[str]) -> None:
        spec = {"Sample": [sample("dy", nano_files[:1]), sample("dy", nano_files[1:2])]}
        with pytest.raises(BadInput, match="more than one sample 'dy'"):
            submit(spec, ignore_cache=True)

    @pytest.mark.parametrize(
        "spec", [{}, {"Sample": [{"Name": "dy"}]}, 3, "/no/such/spec.yaml", {"Sample": "dy"}]
    )
    def test_invalid_specifications(self, submit: Submit, spec: Any) -> None:
        with pytest.raises(BadInput, match="no specification that servicex understands"):
            submit(spec, ignore_cache=True)

    def test_no_samples(self, submit: Submit) -> None:
        with pytest.raises(BadInput, match="has no samples"):
            submit({"Sample": []})
        with pytest.raises(BadInput, match="has no samples"):
            submit(DataGroupSpec({}), dimuon_query())

    def test_bad_options(self, submit: Submit, nano_files: list[str]) -> None:
        with pytest.raises(BadInput, match="at least 1"):
            submit(two_samples(nano_files), steps_per_file=0)


# -- computing


def test_samples_give_the_same_together_and_alone(submit: Submit, nano_files: list[str]) -> None:
    processor = DimuonProcessor()
    samples = submit(two_samples(nano_files))
    histograms = {name: processor.process(factory.events()) for name, factory in samples.items()}
    (at_once,) = dask.compute(histograms)
    one_by_one = {name: dask.compute(todo)[0] for name, todo in histograms.items()}
    assert at_once == one_by_one
    assert at_once["dy"]["mass"].sum() > at_once["ttbar"]["mass"].sum() > 100
