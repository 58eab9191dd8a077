"""The same events from every result format and store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import dask_awkward as dak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from dask_awkward.lib.testutils import assert_eq
from servicex.query import FuncADL_Uproot, PythonFunction, UprootRaw
from support.paces import FAST

import coffea_sx
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.errors import FormError, FormMismatch, QueryError
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
            **{"pace": FAST, "url": servicex.url, "schemaclass": SelectionSchema, **options},
        )

    return submitted


@pytest.fixture(scope="module")
def servicex_with_s3(s3_store: S3Store) -> Iterator[LocalServiceX]:
    with LocalServiceX(object_store=s3_store.url) as server:
        yield server


@pytest.mark.sampled(2)
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
def test_only_touched_columns_are_read(submit: Submit, result_format: str) -> None:
    events = submit(result_format=result_format).events()
    touched = ak.flatten(events.Muon.pt) + ak.flatten(events.Muon.eta)
    (columns,) = dak.necessary_columns(touched).values()
    assert columns == {"Muon_pt", "Muon_eta"}
    of_trees = submit().events()
    expected = ak.flatten(of_trees.Muon.pt) + ak.flatten(of_trees.Muon.eta)
    found, expected = dask.compute(touched, expected, scheduler="synchronous")
    assert found.to_list() == expected.to_list()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_a_processor_on_a_server_of_2025(
    submit: Submit, servicex_with_s3: LocalServiceX, result_format: str
) -> None:
    factory = submit(url=servicex_with_s3.url, result_format=result_format, steps_per_file=2)
    found = DimuonProcessor().process(factory.events())
    expected = DimuonProcessor().process(submit().events())
    found, expected = dask.compute(found, expected, scheduler="threads")
    assert found == expected
    assert expected["mass"].sum() > 100


# -- regressions: lists whose lengths are in another column


@pytest.mark.sampled(5)
@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_parts_of_files_are_counted_by_their_own_counters(
    submit: Submit, result_format: str, steps: int
) -> None:
    events = submit(result_format=result_format, steps_per_file=steps).events()
    expected = submit().events()
    for name in ("Muon", "Jet"):  # Jet by its counter, Muon by its first column
        found, wanted = dask.compute(events[name], expected[name], scheduler="synchronous")
        assert found.pt.to_list() == wanted.pt.to_list()


MUONS = [[20.0, 5.0], [5.0], [], [30.0], [6.0, 7.0], [8.0]]
JETS = [[50.0], [40.0, 30.0], [20.0], [], [60.0], [70.0]]
MATCHED = [[50.0, None], [30.0], [], [None], [60.0, 60.0], [70.0]]


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of muons that know their jets."""
    indices = ak.values_astype(ak.Array([[0, -1], [1], [], [-1], [0, 0], [0]]), "int32")
    n = len(indices)
    columns: dict[str, Any] = {
        "run": np.ones(n, "u4"),
        "luminosityBlock": np.ones(n, "u4"),
        "event": np.arange(n, dtype="u8"),
        "Muon_jetIdx": indices,
        "Muon_charge": indices,
    }
    for quantity in ("pt", "eta", "phi", "mass"):
        columns[f"Muon_{quantity}"] = ak.values_astype(ak.Array(MUONS), "float32")
        columns[f"Jet_{quantity}"] = ak.values_astype(ak.Array(JETS), "float32")
    path = str(tmp_path_factory.mktemp("matched") / "in.root")
    types = {k: v.type if isinstance(v, ak.Array) else v.dtype for k, v in columns.items()}
    with uproot.recreate(path) as file:
        file.mktree("Events", types).extend(columns)
    return path


def selecting(path: str, **more: str) -> str:
    """Select all columns of a file, some of them by expressions."""
    with uproot.open(path) as file:
        names = [branch.name for branch in file["Events"].branches if branch.name[0] != "n"]
    expressions = {**more, **{n: f"(subscript e '{n}')" for n in names if n not in more}}
    named = " ".join(map(repr, expressions))
    return (
        "(call Select (call EventDataset 'x' 'Events') (lambda (list e) "
        f"(dict (list {named}) (list {' '.join(expressions.values())}))))"
    )


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_a_number_of_some_jets_is_not_the_number_of_jets(
    submit: Submit, matched: str, result_format: str
) -> None:
    n_tight = "(call Count (call Where (subscript e 'Jet_pt') (lambda (list x) (> x 35))))"
    query = selecting(matched, nJet_tight=n_tight)
    with pytest.warns(UserWarning, match="events has no nJet_tight"):
        factory = submit(query, [matched], codegen="uproot", result_format=result_format)
    found = factory.events().Muon.matched_jet.pt.compute(scheduler="synchronous")
    assert found.to_list() == MATCHED


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_columns_of_one_collection_that_are_cut_differently(
    submit: Submit, matched: str, result_format: str
) -> None:
    hard = "(call Where (subscript e 'Muon_pt') (lambda (list x) (> x 10)))"
    query = selecting(matched, Muon_pt=hard)
    events = submit(query, [matched], codegen="uproot", result_format=result_format).events()
    with pytest.raises(FormMismatch, match=r"'Muon_pt' and 'Muon_eta'.*1 and 2 entries") as caught:
        events.Muon.eta.compute(scheduler="synchronous")
    assert (caught.value.column, caught.value.input_file) == ("Muon_eta", matched)


@pytest.mark.parametrize("result_format", OTHERS)
def test_a_counter_that_counts_something_else(
    submit: Submit, matched: str, result_format: str
) -> None:
    n_tight = "(call Count (call Where (subscript e 'Jet_pt') (lambda (list x) (> x 35))))"
    query = selecting(matched, nJet_pt=n_tight)
    with pytest.warns(UserWarning, match="events has no nJet_pt"):
        factory = submit(query, [matched], codegen="uproot", result_format=result_format)
    events = factory.events()
    with pytest.raises(FormMismatch, match="'nJet_pt' and 'Jet_pt'"):
        events.Muon.matched_jet.pt.compute(scheduler="synchronous")


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("steps", [1, 2])
def test_two_trees_of_one_request(
    submit: Submit, tmp_path: Path, result_format: str, steps: int
) -> None:
    path = str(tmp_path / "two.root")
    numbers = {"A": [0.0, 1, 2], "B": [100.0, 101, 102, 103]}
    with uproot.recreate(path) as file:
        for tree, values in numbers.items():
            file.mktree(tree, {"x": "f4"}).extend({"x": np.array(values, "f4")})
    query = UprootRaw([{"treename": ["A", "B"], "expressions": ["x"]}])
    options = {
        "result_format": result_format,
        "schemaclass": BaseSchema,
        "steps_per_file": steps,
    }
    form = coffea_sx.derive_form(query, path, result_format)
    for tree, values in numbers.items():
        events = submit(query, [path], form=form.of(tree), **options).events()
        assert events.fields == ["x"]
        assert events.x.compute(scheduler="synchronous").to_list() == values
    with pytest.warns(UserWarning, match="events are those of 'A' alone"):
        first = submit(query, [path], **options).events()
    assert first.x.compute(scheduler="synchronous").to_list() == numbers["A"]


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_the_columns_of_a_tuple(submit: Submit, matched: str, result_format: str) -> None:
    query = (
        "(call Select (call EventDataset 'x' 'Events') (lambda (list e) "
        "(list (subscript e 'event') (subscript e 'Jet_pt'))))"
    )
    options = {"codegen": "uproot", "result_format": result_format, "schemaclass": BaseSchema}
    events = submit(query, [matched], **options).events()
    assert events["1"].compute(scheduler="synchronous").to_list() == JETS


def test_a_column_without_a_name(submit: Submit, matched: str) -> None:
    query = (
        "(call Select (call EventDataset 'x' 'Events') (lambda (list e) (subscript e 'Jet_pt')))"
    )
    with pytest.raises(FormError, match="has no name: name it"):
        submit(query, [matched], codegen="uproot", result_format="parquet")


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


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_uproot_raw_has_the_same_columns_in_all_formats(submit: Submit, result_format: str) -> None:
    query = UprootRaw([{"treename": "Events", "filter_name": ["MET_pt", "Muon_pt"]}])
    events = submit(query, result_format=result_format, schemaclass=BaseSchema).events()
    assert set(events.fields) == {"MET_pt", "Muon_pt", "nMuon_pt"}
    found = events.compute(scheduler="synchronous")
    assert found.nMuon_pt.to_list() == ak.num(found.Muon_pt).to_list()


@pytest.fixture
def named_trees(tmp_path: Path) -> str:
    """A file with a column of the name that ServiceX adds to Parquet files."""
    path = str(tmp_path / "named.root")
    with uproot.recreate(path) as file:
        tree = file.mktree("Events", {"treename": "i4", "x": "f4"})
        tree.extend({"treename": np.arange(3, dtype="i4"), "x": np.arange(3, dtype="f4")})
    return path


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_a_column_that_is_called_treename(
    submit: Submit, named_trees: str, result_format: str
) -> None:
    options = {"result_format": result_format, "schemaclass": BaseSchema}
    func_adl = selecting(named_trees)
    events = submit(func_adl, [named_trees], codegen="uproot", **options).events()
    assert events.treename.compute(scheduler="synchronous").to_list() == [0, 1, 2]

    aliases = {"label": "treename"}
    renamed = [{"treename": "Events", "expressions": ["label", "x"], "aliases": aliases}]
    events = submit(UprootRaw(renamed), [named_trees], **options).events()
    assert events.label.compute(scheduler="synchronous").to_list() == [0, 1, 2]

    raw = UprootRaw([{"treename": "Events"}])
    if result_format == "parquet":
        with pytest.warns(UserWarning, match="events have no 'treename'.*the name of the tree"):
            events = submit(raw, [named_trees], **options).events()
        assert events.fields == ["x"]
    else:
        events = submit(raw, [named_trees], **options).events()
        assert events.treename.compute(scheduler="synchronous").to_list() == [0, 1, 2]
    assert events.x.compute(scheduler="synchronous").to_list() == [0, 1, 2]


# -- lists that are no column of a collection

LISTS = ["LHEPdfWeight", "LHEScaleWeight", "LHEReweightingWeight", "PSWeight"]
# Of NanoAOD without simulation of the detector, and lists of whole numbers.
LISTS += ["MEParamWeight", "PdfWeight", "ScaleWeight", "UnknownWeight", "boostedIndex"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with each list that NanoAOD has at the top level, and the counter of each."""
    rng = np.random.default_rng(11)
    n_events = 40
    columns: dict[str, Any] = {
        "run": np.ones(n_events, "u4"),
        "luminosityBlock": np.ones(n_events, "u4"),
        "event": np.arange(n_events, dtype="u8"),
        "genWeight": rng.normal(size=n_events).astype("f4"),
    }
    for name in LISTS:
        counts = rng.integers(0, 5, n_events)
        values = rng.normal(size=counts.sum()).astype("i4" if name == LISTS[-1] else "f4")
        columns[name] = ak.unflatten(values, counts)
    path = str(tmp_path_factory.mktemp("weights") / "in.root")
    types = {k: v.type if isinstance(v, ak.Array) else v.dtype for k, v in columns.items()}
    with uproot.recreate(path) as file:
        file.mktree("Events", types).extend(columns)
    return path


@pytest.mark.sampled(5)
@pytest.mark.parametrize("is_raw", [False, True], ids=["func_adl", "raw"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_lists_at_the_top_level(
    submit: Submit, weights: str, result_format: str, steps: int, is_raw: bool
) -> None:
    schemaclass = SelectionSchema
    of_file = NanoEventsFactory.from_root(
        {weights: "Events"}, mode="dask", schemaclass=schemaclass
    ).events()
    events = submit(
        UprootRaw([{"treename": "Events"}]) if is_raw else selecting(weights),
        [weights],
        codegen="uproot-raw" if is_raw else "uproot",
        result_format=result_format,
        schemaclass=schemaclass,
        steps_per_file=steps,
    ).events()
    assert set(LISTS) < set(events.fields)
    for name in LISTS:
        found, expected = dask.compute(events[name], of_file[name], scheduler="synchronous")
        assert found.to_list() == expected.to_list()
        assert ak.type(found).content.parameters["__array__"] == "NanoCollection"


# -- missing values


def muons(text: str) -> Any:
    """Select one column of the muons, beside the ids of events."""
    return (
        FuncADL_Uproot()
        .FromTree("Events")
        .Select(
            "lambda e: {'run': e.run, 'luminosityBlock': e.luminosityBlock, 'event': e.event, "
            f"'best': {text}}}"
        )
    )


def raw_muons(text: str) -> Any:
    aliases = {"best": text}
    ids = ["run", "luminosityBlock", "event"]
    return UprootRaw([{"treename": "Events", "expressions": [*ids, "best"], "aliases": aliases}])


LARGEST = [max(pts, default=None) for pts in MUONS]
# Queries of missing values, what they give, and whether RNTuples have them.
MISSING: dict[str, tuple[Any, list[Any], bool]] = {
    "Max": (muons("e.Muon_pt.Max()"), LARGEST, False),
    "Min": (muons("e.Muon_pt.Min()"), [min(pts, default=None) for pts in MUONS], False),
    "computed": (muons("e.Muon_pt.Max() * 2"), [m and 2 * m for m in LARGEST], True),
    "compared": (muons("e.Muon_pt.Max() > 10"), [m and m > 10 for m in LARGEST], True),
    "conditional": (
        muons("e.Muon_pt.Max() if e.Muon_pt.Count() > 0 else -1"),
        [m or -1 for m in LARGEST],
        True,
    ),
    "raw max": (raw_muons("max(Muon_pt)"), LARGEST, False),
    "raw first": (raw_muons("firsts(Muon_pt)"), [p[0] if p else None for p in MUONS], True),
    "raw in lists": (raw_muons("pad_none(Muon_pt, 1)"), [p or [None] for p in MUONS], True),
    "raw lists": (
        raw_muons("mask(Muon_pt, num(Muon_pt) > 1)"),
        [p if len(p) > 1 else None for p in MUONS],
        False,
    ),
}


@pytest.mark.sampled(11)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("schemaclass", [BaseSchema, SelectionSchema])
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("name", MISSING)
def test_missing_values_are_read_or_refused(
    submit: Submit, matched: str, name: str, result_format: str, schemaclass: Any, steps: int
) -> None:
    query, expected, is_in_rntuples = MISSING[name]
    options = {
        "result_format": result_format,
        "schemaclass": schemaclass,
        "steps_per_file": steps,
    }
    has_them = {"root-file": False, "root-rntuple": is_in_rntuples, "parquet": True}
    if not has_them[result_format]:
        with pytest.raises(QueryError, match=r"(?s)'best'.*take result_format=.parquet"):
            submit(query, [matched], **options)
        return
    events = submit(query, [matched], **options).events()
    assert events.best.compute(scheduler="synchronous").to_list() == expected
    assert events.event.compute(scheduler="synchronous").to_list() == list(range(len(MUONS)))
    some = events[events.event > 2].best
    assert dak.drop_none(some).compute(scheduler="synchronous").to_list() == [
        best for best in expected[3:] if best is not None
    ]


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_the_advice_of_a_refusal_works(submit: Submit, matched: str, result_format: str) -> None:
    options = {"result_format": result_format, "schemaclass": BaseSchema}
    with_muons = FuncADL_Uproot().FromTree("Events")
    with_muons = with_muons.Where(lambda e: e["Muon_pt"].Count() > 0)
    largest = with_muons.Select(
        lambda e: {"best": e["Muon_pt"].OrderByDescending(lambda pt: pt).First(), "id": e["event"]}
    )
    events = submit(largest, [matched], **options).events()
    assert events.best.compute(scheduler="synchronous").to_list() == [m for m in LARGEST if m]
    events = submit(raw_muons("fill_none(max(Muon_pt), -1)"), [matched], **options).events()
    assert events.best.compute(scheduler="synchronous").to_list() == [m or -1 for m in LARGEST]
    events = submit(raw_muons("Muon_pt"), [matched], **options).events()
    assert dak.max(events.best, axis=1).compute(scheduler="synchronous").to_list() == LARGEST


def run_query(input_filenames=None):  # type: ignore[no-untyped-def]
    """Run on the server."""
    import uproot

    with uproot.open({input_filenames: "Events"}) as tree:
        return tree.arrays(["MET_pt", "Muon_pt"])


@pytest.mark.parametrize("result_format", ["root-file", "parquet"])
def test_the_form_is_read_from_the_first_delivered_file(
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
def test_a_form_argument_works_for_any_format(submit: Submit, result_format: str) -> None:
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
    """Warnings are errors in all tests, but for those that pyproject.toml lists."""
    for result_format in RESULT_FORMATS:
        submit(result_format=result_format).events().Muon.pt.compute(scheduler="threads")
