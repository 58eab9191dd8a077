"""Input files that differ from the sample: an error or right values, after a whole transform."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import numpy as np
import pytest
import uproot
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from servicex import query as sx_query
from support.paces import FAST

from coffea_sx.errors import FormMismatch
from coffea_sx.forms import OutputForm, derive_form
from coffea_sx.local import LocalServiceX

Write = Callable[..., str]
SCHEDULERS = ["synchronous", "threads"]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an input file: ``write("name", "float32", n)`` has `n` events, flat and jagged."""

    def written(name: str, dtype: str, n: int = 4) -> str:
        path = str(tmp_path / f"{name}.root")
        counts = np.arange(n) % 3
        columns = {
            "pt": np.arange(n).astype(dtype) + np.asarray(1, dtype),
            "pts": ak.unflatten(np.arange(counts.sum()).astype(dtype), counts),
        }
        with uproot.recreate(path) as file:
            tree = file.mktree("Events", {"pt": dtype, "pts": f"var * {dtype}"})
            if n:
                tree.extend(columns)
        return path

    return written


def make_query() -> Any:
    return (
        sx_query.FuncADL_Uproot()
        .FromTree("Events")
        .Select(lambda e: {"pt": e["pt"], "pts": e["pts"]})
    )


def submitted(servicex: LocalServiceX, files: list[str], **options: Any) -> Any:
    return NanoEventsFactory.from_servicex(
        make_query(),
        files,
        **{"pace": FAST, "url": servicex.url, "schemaclass": BaseSchema, **options},
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("column", ["pt", "pts"])
def test_a_float64_file_does_not_match_a_float32_form(
    servicex: LocalServiceX, write: Write, scheduler: str, column: str
) -> None:
    files = [write("a", "float32"), write("b", "float64"), write("c", "float32")]
    events = submitted(servicex, files, input_form={files[0]: "Events"}).events()
    with pytest.raises(FormMismatch) as caught:
        events[column].compute(scheduler=scheduler)
    error = caught.value
    assert (error.input_file, error.column) == (files[1], column)
    lists = "var * " if column == "pts" else ""
    assert (error.expected, error.found) == (f"{lists}float32", f"{lists}float64")
    assert all(part in str(error) for part in (files[1], repr(column), error.expected, error.found))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_mismatched_file_is_skipped_and_reported(
    servicex: LocalServiceX, write: Write, scheduler: str
) -> None:
    files = [write("a", "float32", 4), write("b", "float64", 5), write("c", "float32", 6)]
    factory = submitted(servicex, files, on_failure="skip")
    events, report = factory.events()
    pt, rows = dask.compute(events.pt, report, scheduler=scheduler)
    (failed,) = rows[~ak.is_none(rows.exception)].to_list()
    assert (failed["partition"], failed["input_file"]) == (1, files[1])
    assert (failed["failed_at"], failed["exception"]) == ("read", "FormMismatch")
    assert "float32, found float64" in failed["message"]
    assert pt.to_list() == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert rows.n_events.to_list() == [4, 0, 6]
    empty = events.partitions[1].compute(scheduler=scheduler)
    assert len(empty) == 0
    assert set(empty.fields) >= {"pt", "pts"}
    assert ak.type(empty.pt).content.primitive == "float32"


@pytest.mark.parametrize(
    ("promised", "found"),
    [("float64", "float32"), ("int64", "int32"), ("float64", "int32"), ("int16", "uint8")],
)
def test_narrower_numbers_are_converted(
    servicex: LocalServiceX, write: Write, promised: str, found: str
) -> None:
    files = [write("a", promised, 4), write("b", found, 5)]
    events = submitted(servicex, files).events()
    pt, pts = dask.compute(events.pt, events.pts, scheduler="synchronous")
    assert pt.to_list() == [1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert pts.to_list() == [[], [0], [1, 2], [], [], [0], [1, 2], [], [3]]
    for array in (pt, ak.flatten(pts)):
        assert ak.to_numpy(array).dtype == promised


@pytest.mark.parametrize(
    ("promised", "found"),
    [("float64", "int64"), ("int64", "uint64"), ("int32", "int64"), ("uint8", "bool")],
)
def test_lossy_conversions_are_refused(
    servicex: LocalServiceX, write: Write, promised: str, found: str
) -> None:
    files = [write("a", promised), write("b", found)]
    events = submitted(servicex, files).events()
    with pytest.raises(FormMismatch, match=f"should be {promised}, found {found}"):
        events.pt.compute(scheduler="synchronous")


def test_a_file_without_events(servicex: LocalServiceX, write: Write) -> None:
    files = [write("a", "float32", 4), write("b", "float32", 0)]
    events = submitted(servicex, files).events()
    empty = events.partitions[1].compute(scheduler="synchronous")
    assert (len(empty), ak.type(empty.pt).content.primitive) == (0, "float32")
    assert events.pt.compute(scheduler="synchronous").to_list() == [1, 2, 3, 4]


def test_a_file_without_the_tree(servicex: LocalServiceX, write: Write, tmp_path: Path) -> None:
    """Uproot-raw delivers a file without a tree for it."""
    other = str(tmp_path / "other.root")
    with uproot.recreate(other) as file:
        file.mktree("Other", {"x": "int32"})
    files = [write("a", "float32", 4), other]
    query = sx_query.UprootRaw([{"treename": "Events", "filter_name": ["pt", "pts"]}])
    events = NanoEventsFactory.from_servicex(
        query, files, url=servicex.url, schemaclass=BaseSchema, pace=FAST
    ).events()
    empty = events.partitions[1].compute(scheduler="synchronous")
    assert (len(empty), set(empty.fields) >= {"pt", "pts"}) == (0, True)
    assert ak.type(empty.pt).content.primitive == "float32"
    assert events.pt.compute(scheduler="synchronous").to_list() == [1, 2, 3, 4]


def test_the_form_of_another_query(servicex: LocalServiceX, write: Write) -> None:
    files = [write("a", "float32")]
    other = derive_form(
        sx_query.FuncADL_Uproot().FromTree("Events").Select(lambda e: {"energy": e["pt"]}),
        {files[0]: "Events"},
    )
    events = submitted(servicex, files, form=other).events()
    with pytest.raises(FormMismatch, match="no such column") as caught:
        events.energy.compute(scheduler="synchronous")
    assert (caught.value.input_file, caught.value.column) == (files[0], "energy")


def test_the_form_of_another_tree(servicex: LocalServiceX, write: Write) -> None:
    files = [write("a", "float32")]
    form = derive_form(make_query(), {files[0]: "Events"})
    renamed = OutputForm({"reco": form.base_form}, "reco")
    events = submitted(servicex, files, form=renamed).events()
    with pytest.raises(FormMismatch, match=r"tree 'reco'.*'servicex'") as caught:
        events.pt.compute(scheduler="synchronous")
    assert caught.value.input_file == files[0]
