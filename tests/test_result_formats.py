"""The same events, whatever the format of the results and the store they are in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import dask_awkward as dak
import pytest
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from dask_awkward.lib.testutils import assert_eq
from servicex.query import PythonFunction, UprootRaw

import coffea_sx
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.errors import FormError
from coffea_sx.local import LocalServiceX
from coffea_sx.query import RESULT_FORMATS
from coffea_sx.testing import S3Store

Submit = Callable[..., Any]
OTHERS = [name for name in RESULT_FORMATS if name != "root-file"]


@pytest.fixture
def submit(servicex: LocalServiceX, nano_files: list[str]) -> Submit:
    """`from_servicex` with the demo's query on three files."""

    def submitted(query: Any = None, dataset: Any = None, **options: Any) -> Any:
        return NanoEventsFactory.from_servicex(
            dimuon_query() if query is None else query,
            nano_files[:3] if dataset is None else dataset,
            **{"url": servicex.url, "schemaclass": SelectionSchema, **options},
        )

    return submitted


@pytest.fixture(scope="module")
def servicex_with_s3(s3_store: S3Store) -> Iterator[LocalServiceX]:
    with LocalServiceX(object_store=s3_store.url) as server:
        yield server


@pytest.mark.parametrize("schemaclass", [SelectionSchema, BaseSchema])
@pytest.mark.parametrize("result_format", OTHERS)
def test_the_events_are_those_of_ttrees(
    submit: Submit, result_format: str, schemaclass: Any
) -> None:
    as_trees = submit(schemaclass=schemaclass).events()
    events = submit(schemaclass=schemaclass, result_format=result_format).events()
    assert set(events.fields) == set(as_trees.fields)
    fields = as_trees.fields
    assert events[fields].layout.form == as_trees[fields].layout.form
    # But for the titles of branches, which only TTrees have.
    bare, bare_trees = map(ak.without_parameters, (events[fields], as_trees[fields]))
    assert_eq(bare, bare_trees, check_divisions=False, scheduler="synchronous")


@pytest.mark.parametrize("result_format", OTHERS)
def test_columns_are_read_of_columns_touched(submit: Submit, result_format: str) -> None:
    events = submit(result_format=result_format).events()
    touched = ak.flatten(events.Muon.pt) + ak.flatten(events.Muon.eta)
    (columns,) = dak.necessary_columns(touched).values()
    assert columns == {"Muon_pt", "Muon_eta"}
    of_trees = submit().events()
    expected = ak.flatten(of_trees.Muon.pt) + ak.flatten(of_trees.Muon.eta)
    found, expected = dask.compute(touched, expected, scheduler="synchronous")
    assert found.to_list() == expected.to_list()


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_a_processor_on_a_server_of_2025(
    submit: Submit, servicex_with_s3: LocalServiceX, result_format: str
) -> None:
    factory = submit(url=servicex_with_s3.url, result_format=result_format, steps_per_file=2)
    found = DimuonProcessor().process(factory.events())
    expected = DimuonProcessor().process(submit().events())
    found, expected = dask.compute(found, expected, scheduler="threads")
    assert found["mass"] == expected["mass"]
    assert expected["mass"].sum() > 100


@pytest.mark.parametrize("result_format", OTHERS)
def test_a_failed_file_is_a_row_of_the_report(
    submit: Submit, nano_files: list[str], tmp_path: Path, result_format: str
) -> None:
    corrupt = tmp_path / "corrupt.root"
    corrupt.write_bytes(b"root" + bytes(2000))
    files = [nano_files[0], str(corrupt), nano_files[1]]
    factory = submit(dataset=files, result_format=result_format, on_failure="skip")
    events, report = dask.compute(*factory.events(), scheduler="synchronous")
    assert report.failed_at.to_list() == [None, "transform", None]
    assert report.n_events.to_list() == [len(events) - report.n_events[2], 0, report.n_events[2]]


def test_uproot_raw_in_parquet_says_which_tree(submit: Submit, nano_files: list[str]) -> None:
    query = UprootRaw([{"treename": "Events", "filter_name": ["MET_pt", "Muon_pt"]}])
    events = submit(query, result_format="parquet", schemaclass=BaseSchema).events()
    assert set(events.fields) == {"MET_pt", "Muon_pt", "nMuon_pt", "treename"}
    found = events.compute(scheduler="synchronous")
    assert set(found.treename.to_list()) == {"Events"}
    assert found.nMuon_pt.to_list() == ak.num(found.Muon_pt).to_list()


def run_query(input_filenames=None):  # type: ignore[no-untyped-def]
    """Run on the server."""
    import uproot

    with uproot.open({input_filenames: "Events"}) as tree:
        return tree.arrays(["MET_pt", "Muon_pt"])


@pytest.mark.parametrize("result_format", ["root-file", "parquet"])
def test_the_first_delivered_file_tells_the_form(
    submit: Submit, result_format: str, nano_files: list[str]
) -> None:
    with LocalServiceX(python=True) as servicex:
        with pytest.warns(UserWarning, match="waits for the first file"):
            factory = submit(
                PythonFunction(run_query),
                nano_files[:2],
                url=servicex.url,
                result_format=result_format,
                schemaclass=BaseSchema,
            )
        events = factory.events()
        assert set(events.fields) == {"MET_pt", "Muon_pt", "nMuon_pt"}
        found = events.compute(scheduler="synchronous")
    assert len(found) == 1000
    assert found.nMuon_pt.to_list() == ak.num(found.Muon_pt).to_list()


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_a_form_that_is_known_is_of_any_format(submit: Submit, result_format: str) -> None:
    form = ak.forms.RecordForm([ak.forms.NumpyForm("float32")], ["MET_pt"])
    query = UprootRaw([{"treename": {"Events": "servicex"}, "filter_name": "MET_pt"}])
    options = {"form": form, "result_format": result_format, "schemaclass": BaseSchema}
    events = submit(query, **options).events()
    assert events.fields == ["MET_pt"]
    assert len(events.MET_pt.compute(scheduler="synchronous")) == 1500


def test_a_form_of_another_format(submit: Submit, nano_files: list[str]) -> None:
    delivered = coffea_sx.derive_form(dimuon_query(), {nano_files[0]: "Events"})
    with pytest.raises(FormError, match="'root-file', and the results are to be 'parquet'"):
        submit(form=delivered, result_format="parquet")


def test_no_warning_of_formats(submit: Submit) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for result_format in RESULT_FORMATS:
            submit(result_format=result_format).events().Muon.pt.compute(scheduler="threads")
