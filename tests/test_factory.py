"""`NanoEventsFactory.from_servicex`, as a user calls it, on the embedded ServiceX."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle
import dask
import dask_awkward as dak
import httpx
import pytest
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from dask_awkward.lib.testutils import assert_eq
from servicex import query as sx_query
from support.paces import FAST

import coffea_sx
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.errors import (
    BadInput,
    ConfigurationError,
    DatasetError,
    FormError,
    NotAuthorized,
    QueryError,
    TransformCanceled,
    TransformFailed,
    UnknownColumn,
    Unreachable,
)
from coffea_sx.local import LocalServiceX

Submit = Callable[..., Any]


@pytest.fixture(scope="session")
def direct_events(nano_files: list[str]) -> Any:
    """The same events by coffea's own reader."""
    files = dict.fromkeys(nano_files, "Events")
    return NanoEventsFactory.from_root(files, mode="dask", schemaclass=SelectionSchema).events()


def selected(events: Any) -> Any:
    """What the demo's query selects of the input events."""
    return events[ak.num(events.Muon) >= 2]


def equal(a: Any, b: Any) -> bool:
    """Whether two collections have the same values and types; titles may differ."""
    a, b = dask.compute(a, b, scheduler="synchronous")
    return bool(ak.array_equal(a, b, check_parameters=False))


def requests_of(servicex: LocalServiceX) -> int:
    return len(servicex.exchanges)


# -- the factory


def test_is_coffeas_factory(submit: Submit) -> None:
    factory = submit(metadata={"dataset": "dy"})
    assert isinstance(factory, NanoEventsFactory)
    assert isinstance(factory, coffea_sx.ServiceXEventsFactory)
    assert factory.npartitions == 8
    assert factory.form.fields[:3] == ["run", "luminosityBlock", "event"]
    events = factory.events()
    assert isinstance(events, dak.Array)
    assert events.npartitions == 8
    assert events.metadata["dataset"] == "dy"


def test_events_equal_those_of_the_input_files(submit: Submit, direct_events: Any) -> None:
    events, direct = submit().events(), selected(direct_events)
    for collection, field in [("Muon", "pt"), ("Muon", "charge"), ("Jet", "mass"), ("Jet", "eta")]:
        assert equal(events[collection][field], direct[collection][field])
    assert equal(events.event, direct.event)


def test_events_equal_what_coffea_reads_of_the_delivered_files(
    nano_files: list[str], tmp_path: Path
) -> None:
    with LocalServiceX(tmp_path / "servicex") as server:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files[:2], url=server.url, schemaclass=SelectionSchema, pace=FAST
        )
        events = factory.events()
        events.event.compute(scheduler="synchronous")
        delivered = sorted(Path(server.directory, "objects", factory.request_id).iterdir())
        by_coffea = NanoEventsFactory.from_root(
            {str(path): "servicex" for path in delivered}, mode="dask", schemaclass=SelectionSchema
        ).events()
        assert events.layout.form == by_coffea.layout.form
        firsts = [by_coffea.partitions[i].event.compute()[0] for i in range(2)]
        order = sorted(range(2), key=lambda i: firsts[i])
        for i, j in enumerate(order):
            assert_eq(
                events.partitions[i],
                by_coffea.partitions[j],
                check_forms=False,  # done above, on what is known before anything is read
                scheduler="synchronous",
            )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_one_processor_runs_on_both(submit: Submit, direct_events: Any, scheduler: str) -> None:
    processor = DimuonProcessor()
    (of_servicex,) = dask.compute(processor.process(submit().events()), scheduler=scheduler)
    (of_root,) = dask.compute(processor.process(direct_events), scheduler=scheduler)
    assert of_servicex == of_root
    assert of_servicex["mass"].sum() > 1000


@pytest.mark.parametrize("as_list", [False, True])
def test_files_are_given_with_trees_as_to_from_root(
    submit: Submit, nano_files: list[str], direct_events: Any, as_list: bool
) -> None:
    about = {"object_path": "Events", "steps": [[0, 250], [250, 500]]}
    plain: Any = dict.fromkeys(nano_files, "Events")
    detailed: Any = dict.fromkeys(nano_files, about)
    if as_list:
        plain, detailed = ([{path: a} for path, a in d.items()] for d in (plain, detailed))
    assert submit(dataset=plain).npartitions == 8
    factory = submit(dataset=detailed)
    assert factory.npartitions == 16
    assert [file["input_file"] for file in factory.files] == nano_files
    assert equal(factory.events().event, selected(direct_events).event)
    with pytest.raises(DatasetError, match=r"reads the tree 'Events'.*with the tree 'Runs'"):
        submit(dataset=dict.fromkeys(nano_files, "Runs"))
    raw = sx_query.UprootRaw({"treename": "Events", "filter_name": ["run"]})
    with pytest.raises(DatasetError, match=r"reads the tree 'Events'.*with the tree 'Runs'"):
        submit(raw, dict.fromkeys(nano_files, "Runs"))


def test_building_and_optimising_make_no_request(submit: Submit, servicex: LocalServiceX) -> None:
    factory = submit(ignore_cache=True)
    before = requests_of(servicex)
    histograms = DimuonProcessor().process(factory.events())
    dask.optimize(histograms)
    dak.necessary_columns(histograms["mass"])
    repr(factory)
    factory._repr_html_()
    assert factory.files[0]["status"] == "waiting"
    assert requests_of(servicex) == before
    (computed,) = dask.compute(histograms, scheduler="synchronous")
    assert requests_of(servicex) > before
    assert computed["mass"].sum() > 1000


def test_only_touched_columns_are_read(
    submit: Submit, servicex: LocalServiceX, tmp_path: Path
) -> None:
    from coffea_sx.demo.samples import make_samples

    factory = submit(dataset=make_samples(tmp_path, n_files=2, n_events=100_000))
    events = factory.events()
    touched = ak.flatten(events.Muon.pt) + ak.flatten(events.Muon.eta)
    (columns,) = dak.necessary_columns(touched).values()
    assert columns == {"Muon_pt", "Muon_eta"}

    dak.num(events.Jet.pt).compute(scheduler="synchronous")  # learn that the files are there
    before = requests_of(servicex)
    touched.compute(scheduler="synchronous")
    exchanges = list(servicex.exchanges)[before:]
    sent = sum(e.nbytes_sent for e in exchanges if factory.request_id in e.path)
    whole = sum(file["nbytes"] for file in factory.files)
    assert 0.05 * whole < sent < 0.3 * whole  # two of 21 columns, and the list of them


def test_computing_again_and_in_part_gives_the_same(submit: Submit, direct_events: Any) -> None:
    events = submit().events()
    first = events.Muon.pt.compute(scheduler="synchronous")
    again = events.Muon.pt.compute(scheduler="threads")
    assert ak.array_equal(first, again)
    third = events.partitions[3].Muon.pt.compute(scheduler="synchronous")
    expected = selected(direct_events.partitions[3]).Muon.pt.compute(scheduler="synchronous")
    assert ak.array_equal(third, expected, check_parameters=False)


def test_steps_divide_each_file(submit: Submit, direct_events: Any) -> None:
    factory = submit(steps_per_file=3)
    events = factory.events()
    assert factory.npartitions == events.npartitions == 24
    assert equal(events.event, selected(direct_events).event)
    (layer,) = [lay for n, lay in events.dask.layers.items() if n.startswith("resolve")]
    assert len(layer) == 24


def test_partitions_keep_the_order_of_the_list(submit: Submit, nano_files: list[str]) -> None:
    given = list(reversed(nano_files))
    events = submit(dataset=given).events()
    assert given == list(reversed(nano_files))
    first = [
        events.partitions[i].event.compute(scheduler="synchronous")[0] // 500 for i in range(8)
    ]
    assert first == [7, 6, 5, 4, 3, 2, 1, 0]


def test_a_dataset_of_the_server_is_looked_up(nano_files: list[str], tmp_path: Path) -> None:
    from servicex import dataset

    with LocalServiceX(datasets={"rucio://user:dy": nano_files}) as server:
        options: dict[str, Any] = {
            "url": server.url,
            "input_form": {nano_files[0]: "Events"},
            "schemaclass": SelectionSchema,
        }
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), dataset.Rucio("user:dy", num_files=3), **{"pace": FAST, **options}
        )
        assert [file["input_file"] for file in factory.files] == nano_files[:3]
        assert len(factory.events().event.compute(scheduler="synchronous")) > 500
        with pytest.raises(coffea_sx.errors.BadDataset, match="it does not exist"):
            NanoEventsFactory.from_servicex(
                dimuon_query(), dataset.Rucio("user:no"), **{"pace": FAST, **options}
            )


def test_local_is_a_servicex_in_this_process(submit: Submit, direct_events: Any) -> None:
    from coffea_sx.local import default

    events = submit(url="local").events()
    try:
        assert httpx.get(f"{default().url}/servicex/transformation").status_code == 401
        assert equal(events.event, selected(direct_events).event)
        assert default().refresh_token.encode() not in cloudpickle.dumps(dict(events.dask))
    finally:
        default().stop()


def test_the_same_query_is_not_submitted_twice(submit: Submit) -> None:
    first = submit()
    assert submit().request_id == first.request_id
    assert submit(ignore_cache=True).request_id != first.request_id
    assert submit(title="another").request_id != first.request_id


def test_status_and_files_after_a_computation(submit: Submit) -> None:
    factory = submit(title="how it went")
    factory.events().event.compute(scheduler="synchronous")
    status = factory.status()
    assert (status.title, status.n_files, status.n_completed, status.n_failed) == (
        "how it went",
        8,
        8,
        0,
    )
    assert status.status == "Complete"
    assert {file["status"] for file in factory.files} == {"delivered"}
    assert len(factory.reads) == 8
    assert sum(read.n_events for read in factory.reads) == sum(
        file["n_events"] for file in factory.files
    )
    assert "8 input files" in repr(factory)
    assert "delivered" in factory._repr_html_()


def test_cancel_ends_the_wait(nano_files: list[str]) -> None:
    import asyncio

    async def never(_: str) -> None:
        await asyncio.sleep(3600)

    with LocalServiceX(before_report=never) as server:
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, url=server.url, schemaclass=SelectionSchema, pace=FAST
        )
        factory.cancel()
        with pytest.raises(TransformCanceled, match="0 of 8 input files were finished"):
            factory.events().event.compute(scheduler="synchronous")
        assert factory.status().status == "Canceled"


def test_a_form_argument_is_used_unchanged(submit: Submit) -> None:
    derived = submit()
    form = ak.forms.from_dict(derived.form.to_dict())
    factory = submit(form=form)
    assert factory.form.fields == derived.form.fields
    assert len(factory.events().event.compute(scheduler="synchronous")) > 1000


def test_an_uproot_raw_query(submit: Submit, nano_files: list[str], direct_events: Any) -> None:
    wanted = ["run", "luminosityBlock", "event", "MET_pt", "MET_phi"]
    query = sx_query.UprootRaw({"treename": "Events", "filter_name": wanted, "cut": "MET_pt > 20"})
    events = submit(query, title="raw").events()
    assert equal(events.MET.pt, direct_events.MET.pt[direct_events.MET.pt > 20])
    assert equal(events.event, direct_events.event[direct_events.MET.pt > 20])


def test_uproot_raw_takes_brackets_in_names(
    submit: Submit, nano_files: list[str], tmp_path: Path
) -> None:
    """UprootRaw opens each file; queries of func_adl would read another one (below)."""
    names = [str(tmp_path / name) for name in ("a[1].root", "a1.root")]
    for i, name in enumerate(names):
        shutil.copy(nano_files[i], name)
    columns = ["run", "luminosityBlock", "event"]
    query = sx_query.UprootRaw({"treename": "Events", "filter_name": columns})
    events = submit(query, names, title="brackets").events()
    assert events.event.compute(scheduler="synchronous").to_list() == list(range(1000))
    with pytest.raises(DatasetError, match=r"brackets in '.*a\[1\]\.root'"):
        submit(dataset=names)


@pytest.mark.slow
def test_the_input_form_is_probed_by_servicex(nano_files: list[str], direct_events: Any) -> None:
    with LocalServiceX(python=True) as server:
        options: dict[str, Any] = {"url": server.url, "schemaclass": SelectionSchema}
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, input_form="probe", **{"pace": FAST, **options}
        )
        assert equal(factory.events().event, selected(direct_events).event)
        query = sx_query.UprootRaw(
            {"treename": "Events", "filter_name": ["run", "luminosityBlock", "event"]}
        )
        raw = NanoEventsFactory.from_servicex(
            query, nano_files, input_form="probe", **{"pace": FAST, **options}
        )
        assert equal(raw.events().event, direct_events.event)
        again = coffea_sx.ServiceXEventsFactory.from_request_id(
            raw.request_id, input_form="probe", **{"pace": FAST, **options}
        )
        assert again.form == raw.form


def test_results_without_a_derived_form_wait_for_the_first_file(submit: Submit) -> None:
    names = ["run", "luminosityBlock", "event", "MET_pt", "MET_phi"]

    def run_query(input_filenames=None):  # type: ignore[no-untyped-def]
        import uproot

        names = ["run", "luminosityBlock", "event", "MET_pt", "MET_phi"]
        with uproot.open({input_filenames: "Events"}) as tree:
            return tree.arrays(names)

    function = sx_query.PythonFunction().with_uproot_function(run_query)
    with LocalServiceX(python=True) as server:
        derived = submit(
            sx_query.UprootRaw({"treename": "Events", "filter_name": names}), url=server.url
        )
        with pytest.warns(UserWarning, match="waits for the first file"):
            waited = submit(function, url=server.url)
        assert waited.form.fields == derived.form.fields
        assert equal(waited.events().MET.pt, derived.events().MET.pt)
        assert equal(waited.events().event, derived.events().event)


def test_other_schemas(submit: Submit) -> None:
    events = submit(schemaclass=BaseSchema).events()
    assert "nMuon_pt" in events.fields
    assert ak.all((ak.num(events.Muon_pt) == events.nMuon_pt).compute(scheduler="synchronous"))


# -- failed files


def test_a_corrupt_input_is_named(submit: Submit, one_corrupt: list[str]) -> None:
    events = submit(dataset=one_corrupt).events()
    with pytest.raises(TransformFailed) as caught:
        events.Muon.pt.compute(scheduler="threads")
    assert caught.value.input_file == one_corrupt[5]
    assert one_corrupt[5] in str(caught.value)
    assert caught.value.reason
    assert caught.value.reason in str(caught.value)


def test_a_corrupt_input_is_skipped_and_reported(
    submit: Submit, one_corrupt: list[str], nano_files: list[str], direct_events: Any
) -> None:
    events, report = submit(dataset=one_corrupt, on_failure="skip").events()
    numbers, rows = dask.compute(events.event, report, scheduler="threads")
    (failed,) = rows[~ak.is_none(rows.exception)].to_list()
    assert failed["input_file"] == one_corrupt[5]
    assert (failed["partition"], failed["failed_at"]) == (5, "transform")
    assert failed["exception"] == "TransformFailed"
    assert failed["message"]
    assert len(rows) == 8
    expected = selected(direct_events).event.compute(scheduler="synchronous")
    assert ak.all(numbers == expected[expected // 500 != 5])
    assert ak.sum(rows.n_events) == len(numbers)


def test_an_unreadable_result_is_skipped_and_reported(
    nano_files: list[str],
) -> None:
    with LocalServiceX() as server:
        options: dict[str, Any] = {"url": server.url, "schemaclass": SelectionSchema}
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(), nano_files, on_failure="skip", **{"pace": FAST, **options}
        )
        events, report = factory.events()
        events.event.compute(scheduler="synchronous")
        (directory,) = (server.directory / "objects").iterdir()
        victim = max(directory.iterdir())
        victim.write_bytes(bytes(victim.stat().st_size))
        numbers, rows = dask.compute(events.event, report, scheduler="synchronous")
        (failed,) = rows[~ak.is_none(rows.exception)].to_list()
        assert failed["failed_at"] == "read"
        assert failed["exception"] == "CorruptFile"
        assert failed["input_file"] in failed["message"]
        assert ak.sum(rows.n_events) == len(numbers)


# -- bad input, before anything is submitted


@pytest.fixture
def nothing_submitted(servicex: LocalServiceX) -> Any:
    before = requests_of(servicex)
    yield
    methods = {e.method for e in list(servicex.exchanges)[before:]}
    assert "POST" not in methods


@pytest.mark.usefixtures("nothing_submitted")
class TestBadInput:
    def test_a_path_twice(self, submit: Submit, nano_files: list[str]) -> None:
        with pytest.raises(DatasetError, match="in the list twice"):
            submit(dataset=[*nano_files, nano_files[2]])

    def test_a_comma(self, submit: Submit) -> None:
        with pytest.raises(DatasetError, match="two replicas"):
            submit(dataset=["/data/a,b.root"])

    def test_two_paths_with_one_object_name(self, submit: Submit) -> None:
        with pytest.raises(DatasetError, match="same object name"):
            submit(dataset=["/data/a/b.root", "/data/a:b.root"])

    def test_a_pattern(self, submit: Submit, nano_files: list[str]) -> None:
        # It has one partition, and would have the events of all files.
        pattern = str(Path(nano_files[0]).parent / "*.root")
        with pytest.raises(DatasetError, match="is a pattern: ServiceX would read all"):
            submit(dataset=[pattern], input_form={nano_files[0]: "Events"})

    def test_results_that_are_converted_to_one_name(self, submit: Submit) -> None:
        with pytest.raises(DatasetError, match=r"would both be called ':d:x\.root\.parquet'"):
            submit(
                "(call Select ...)",
                ["/d/x.root.1", "/d/x.root.2"],
                codegen="atlasr22",
                result_format="parquet",
            )

    def test_an_empty_list(self, submit: Submit) -> None:
        with pytest.raises(DatasetError, match="empty"):
            submit(dataset=[])

    def test_no_tree(self, submit: Submit) -> None:
        query = sx_query.FuncADL_Uproot().Select(lambda e: {"run": e["run"]})
        with pytest.raises(QueryError, match="FromTree"):
            submit(query)

    def test_an_unreachable_server(self, submit: Submit, closed_port: int) -> None:
        with pytest.raises(Unreachable, match=f"127.0.0.1:{closed_port} does not answer"):
            submit(url=f"http://127.0.0.1:{closed_port}")

    def test_a_server_that_needs_a_token(self, submit: Submit) -> None:
        with (
            LocalServiceX(tokens=True) as server,
            pytest.raises(NotAuthorized, match="does not accept this user"),
        ):
            submit(url=server.url)
        assert {(e.method, e.status) for e in server.exchanges} == {("GET", 200), ("POST", 401)}

    def test_a_missing_sample_file(self, submit: Submit, tmp_path: Path) -> None:
        missing = tmp_path / "no.root"
        with pytest.raises(FormError, match=f"There is no sample file {missing}"):
            submit(input_form={str(missing): "Events"})

    @pytest.mark.parametrize(
        ("path", "hint"),
        [("/data/*.root", r"glob\.glob"), ("/data/a.root:Events", "The query names the tree")],
    )
    def test_a_path_that_is_no_file(self, submit: Submit, path: str, hint: str) -> None:
        with pytest.raises(FormError, match=f"There is no sample file .* {hint}"):
            submit(input_form=path)

    def test_the_class_of_a_query(self, submit: Submit) -> None:
        with pytest.raises(
            QueryError, match=r"is the class of queries: make one, with parentheses"
        ):
            submit(sx_query.FuncADL_Uproot)

    def test_an_unknown_column(self, submit: Submit) -> None:
        query = sx_query.FuncADL_Uproot().FromTree("Events").Select(lambda e: {"pt": e["Muon_ptt"]})
        with pytest.raises(UnknownColumn, match=r"'Muon_ptt'.*Did you mean 'Muon_pt'") as caught:
            submit(query)
        assert caught.value.nearest[0] == "Muon_pt"

    def test_columns_that_the_schema_needs(self, submit: Submit) -> None:
        query = sx_query.FuncADL_Uproot().FromTree("Events").Select(lambda e: {"run": e["run"]})
        with pytest.raises(FormError, match="SelectionSchema needs luminosityBlock and event"):
            submit(query)

    def test_a_query_of_another_code_generator(self, submit: Submit) -> None:
        with pytest.raises(QueryError, match=r"no code generator 'atlasr22'.*'uproot'"):
            submit("(call Select ...)", codegen="atlasr22", form=submit_form())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mode": "lazy"}, "'virtual', 'eager' or 'dask', got 'lazy'"),
            ({"on_failure": "ignore"}, 'must be "raise" or "skip"'),
            ({"steps_per_file": 0}, "at least 1"),
            ({"steps_per_file": 1.5}, "steps_per_file= must be a number of partitions, got 1.5"),
            ({"steps_per_file": True}, "steps_per_file="),
            ({"metadata": [1]}, "metadata= must be a dict"),
            ({"pace": 5}, r"pace= must be a coffea_sx\.PollPolicy, got 5"),
            ({"progress": True}, "progress= must be a TransformProgress"),
            ({"ignore_cache": "no"}, "ignore_cache= must be True or False, got 'no'"),
            ({"schemaclass": "NanoAODSchema"}, "is no class: give that itself"),
            ({"codegen": 3}, "codegen= must be a text"),
            ({"title": 5}, "title= must be a text"),
            ({"form": 3}, "form= must be an awkward form.* it is int"),
            ({"url": 5}, "url= must be a text, got int"),
            ({"backend": "x"}, "not both"),
            ({"url": "ftp://servicex"}, "not the http"),
        ],
    )
    def test_options(self, submit: Submit, options: dict[str, Any], message: str) -> None:
        with pytest.raises(BadInput, match=message):
            submit(**options)

    def test_a_bad_query_starts_no_server(self, nano_files: list[str]) -> None:
        code = (
            "import sys\n"
            "from coffea.nanoevents import NanoEventsFactory\n"
            "import coffea_sx\n"
            "text = \"(call EventDataset 'bogus.root')\"\n"
            "try:\n"
            "    options = {'codegen': 'uproot', 'url': 'local'}\n"
            "    NanoEventsFactory.from_servicex(text, sys.argv[1:], **options)\n"
            "except coffea_sx.errors.QueryError:\n"
            "    print('coffea_sx.local' in sys.modules)"
        )
        command = [sys.executable, "-c", code, *nano_files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "False\n"

    def test_no_configuration(
        self, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ConfigurationError, match=r"There is no servicex\.yaml"):
            submit(url=None, config_path=tmp_path / "servicex.yaml")


def submit_form() -> Any:
    """A delivered form with what NanoAOD needs."""
    from awkward.forms import NumpyForm, RecordForm

    names = ["run", "luminosityBlock", "event"]
    return RecordForm([NumpyForm("int32") for _ in names], names)
