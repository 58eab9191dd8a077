"""Schemas of other experiments, on columns with the names of their files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask_awkward as dak
import pytest
import uproot
from coffea.nanoevents import (
    DelphesSchema,
    NanoEventsFactory,
    PHYSLITESchema,
    ScoutingNanoAODSchema,
    TreeMakerSchema,
)
from servicex import query
from support.experiments import EXPERIMENTS, Experiment, path_in_file
from support.paces import FAST

from coffea_sx import derive_form
from coffea_sx._upstream.coffea import is_interpretable
from coffea_sx.errors import FormError
from coffea_sx.forms.file_forms import DOCUMENTATION
from coffea_sx.forms.mapping import form_mapping
from coffea_sx.forms.requirements import unmet_requirements
from coffea_sx.local import LocalServiceX
from coffea_sx.storage.filesystem import address

pytestmark = [
    pytest.mark.filterwarnings("ignore:Missing cross-reference:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
EXPRESSIONS = [(name, key) for name in EXPERIMENTS for key in EXPERIMENTS[name].expressions]


def selecting(experiment: Experiment, *names: str) -> Any:
    """Make a query of columns by their names; by default of all."""
    return query.UprootRaw(
        [{"treename": experiment.tree, "filter_name": list(names or experiment.names)}]
    )


def computed(array: Any) -> list[Any]:
    return array.compute(scheduler="synchronous").to_list()


class Files:
    """The input file of each experiment, and the file that ServiceX delivers for it."""

    def __init__(self, servicex: LocalServiceX, directory: Path) -> None:
        self.servicex = servicex
        self.directory = directory
        self._factories: dict[str, Any] = {}

    def input(self, name: str) -> dict[str, str]:
        path = self.directory / f"{name}.root"
        if not path.exists():
            EXPERIMENTS[name].write(path)
        return {str(path): EXPERIMENTS[name].tree}

    def factory(self, name: str) -> Any:
        """Submit the query of an experiment, once."""
        if name not in self._factories:
            experiment, files = EXPERIMENTS[name], self.input(name)
            self._factories[name] = NanoEventsFactory.from_servicex(
                selecting(experiment),
                list(files),
                url=self.servicex.url,
                schemaclass=experiment.schemaclass,
                input_form=files,
                pace=FAST,
            )
        return self._factories[name]

    def delivered(self, name: str) -> dict[str, str]:
        """Wait for the delivered file, and return its address and tree."""
        factory = self.factory(name)
        factory.events().compute(scheduler="synchronous")
        (file,) = factory.files
        return {address(factory.request_id, file["object_name"]): EXPERIMENTS[name].tree}

    def of_experiment(self, name: str) -> Any:
        """Read the same columns from a file of the experiment with coffea alone."""
        experiment = EXPERIMENTS[name]
        path = self.directory / f"{name}_by_path.root"
        if not path.exists():
            experiment.write(path, by_path=True)
        columns = {path_in_file(column) for column in experiment.names}
        counters = {experiment.counter(column) for column in COUNTED.get(name, [])}
        return NanoEventsFactory.from_root(
            {str(path): experiment.tree},
            mode="dask",
            schemaclass=experiment.schemaclass,
            uproot_options={"filter_name": lambda column: column in columns | counters},
        ).events()


# Columns whose counters the schema of the experiment needs.
COUNTED = {
    "Delphes": ["Event.Number", "MissingET.MET", "Jet.PT", "Muon.PT", "Particle.PT"],
    "Scouting": ["ScoutingJet_pt", "ScoutingElectron_pt", "ScoutingMuonVtx_pt", "GenPart_pt"],
    "test beam": ["track_x", "hit_time"],
}


@pytest.fixture(scope="module")
def files(servicex: LocalServiceX, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(servicex, tmp_path_factory.mktemp("experiments"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_collections_of_the_derived_form(name: str, files: Files) -> None:
    experiment = EXPERIMENTS[name]
    delivered = derive_form(selecting(experiment), files.input(name))
    mapping = form_mapping(delivered, experiment.schemaclass)
    assert unmet_requirements(delivered, mapping) == []
    form, _ = mapping(delivered.base_form)
    events = ak.typetracer.typetracer_from_form(form, behavior=mapping.behavior, highlevel=True)
    records = {
        field: events[field].layout.purelist_parameter("__record__") or ""
        for field in experiment.collections
    }
    assert records == experiment.collections


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_graph_is_that_of_an_opened_file(name: str, files: Files) -> None:
    events = files.factory(name).events()
    opened = opened_with(files.factory(name)._schema, files.delivered(name))
    assert events.layout.form == opened.layout.form
    for expression in EXPERIMENTS[name].expressions.values():
        (ours,) = dak.necessary_columns(expression(events)).values()
        (theirs,) = dak.necessary_columns(expression(opened)).values()
        assert ours == theirs


def opened_with(mapping: Any, file: dict[str, str]) -> Any:
    """Open a file as ``from_root`` does, with a mapping that was made before the file."""
    opener = partial(
        uproot.dask,
        file,
        full_paths=True,
        open_files=False,
        ak_add_doc=DOCUMENTATION,
        filter_branch=is_interpretable,
    )
    return NanoEventsFactory(mapping, opener, None, mode="dask").events()


@pytest.mark.parametrize("name", ["PHYSLITE", "test beam"])
def test_the_graph_is_that_of_from_root(name: str, files: Files) -> None:
    """With the columns of the query, or with all columns for a schema of the user."""
    experiment = EXPERIMENTS[name]
    options = {"filter_name": experiment.names} if name == "PHYSLITE" else {}
    opened = NanoEventsFactory.from_root(
        files.delivered(name),
        mode="dask",
        schemaclass=experiment.schemaclass,
        uproot_options=options,
    ).events()
    assert files.factory(name).events().layout.form == opened.layout.form


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_events_have_what_those_of_the_experiment_have(name: str, files: Files) -> None:
    events, theirs = files.factory(name).events(), files.of_experiment(name)
    assert set(events.fields) == set(theirs.fields)
    for field in theirs.fields:
        assert set(events[field].fields) == set(theirs[field].fields)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "key"), EXPRESSIONS)
def test_values_are_those_of_the_experiment(name: str, key: str, files: Files) -> None:
    expression = EXPERIMENTS[name].expressions[key]
    values = computed(expression(files.factory(name).events()))
    assert values == computed(expression(files.of_experiment(name)))
    assert len(set(map(str, values))) > 2


@pytest.mark.parametrize("name", ["Delphes", "TreeMaker"])
def test_columns_may_have_paths_as_names(name: str, files: Files) -> None:
    """A func_adl query may give any names to columns."""
    experiment = EXPERIMENTS[name]
    text = (
        f"(call Select (call EventDataset 'bogus.root' '{experiment.tree}') (lambda (list e) "
        f"(dict (list {' '.join(repr(path_in_file(column)) for column in experiment.names)}) "
        f"(list {' '.join(f'(subscript e {column!r})' for column in experiment.names)}))))"
    )
    inputs = files.input(name)
    events = NanoEventsFactory.from_servicex(
        text,
        list(inputs),
        codegen="uproot",
        url=files.servicex.url,
        schemaclass=experiment.schemaclass,
        input_form=inputs,
        pace=FAST,
    ).events()
    theirs = files.of_experiment(name)
    for expression in experiment.expressions.values():
        assert computed(expression(events)) == computed(expression(theirs))


@pytest.mark.filterwarnings("error")
def test_a_calculated_column_is_no_branch_of_an_object(files: Files) -> None:
    """Though its name has a dot."""
    computing = query.UprootRaw([{"treename": "PreSelection", "expressions": ["HT", "HT*1.5"]}])
    delivered = derive_form(computing, files.input("TreeMaker"))
    form, _ = form_mapping(delivered, TreeMakerSchema)(delivered.base_form)
    assert form.fields == ["HT", "HT*1.5"]


def test_sizes_of_delphes_are_taken_if_they_are_selected(files: Files) -> None:
    delphes = EXPERIMENTS["Delphes"]
    columns = [name for name in delphes.names if name.startswith("Jet.")]
    for sizes, counter in ([], "nJet.PT"), (["Jet_size"], "Jet_size"):
        delivered = derive_form(selecting(delphes, *columns, *sizes), files.input("Delphes"))
        mapping = form_mapping(delivered, DelphesSchema)
        form, _ = mapping(delivered.base_form)
        assert form.fields == ["Jet.offsets", "Jet"]
        assert mapping.keys_for_buffer_keys([f"x/data/{form.content(0).form_key}"]) == {counter}


@pytest.mark.parametrize(
    ("name", "columns", "sentences"),
    [
        (
            "PHYSLITE",
            ["AnalysisMuonsAuxDyn.pt"],
            ["events.Muons needs AnalysisMuonsAuxDyn.phi and AnalysisMuonsAuxDyn.eta"],
        ),
        (
            "PHYSLITE",
            ["AnalysisJetsAuxDyn.pt", "AnalysisJetsAuxDyn.phi", "AnalysisJetsAuxDyn.eta"],
            ["events.Jets needs AnalysisJetsAuxDyn.m"],
        ),
        (
            "PHYSLITE",
            ["TruthMuonsAuxDyn.px", "TruthMuonsAuxDyn.e"],
            ["events.TruthMuons needs TruthMuonsAuxDyn.py and TruthMuonsAuxDyn.pz"],
        ),
        (
            "PHYSLITE",
            ["CombinedMuonTrackParticlesAuxDyn.qOverP", "CombinedMuonTrackParticlesAuxDyn.theta"],
            ["events.CombinedMuonTrackParticles needs CombinedMuonTrackParticlesAuxDyn.phi"],
        ),
        (
            "Scouting",
            ["ScoutingMuonVtx_pt", "ScoutingMuonVtx_eta", "ScoutingMuonVtx_phi"],
            ["events.ScoutingMuonVtx needs ScoutingMuonVtx_charge and ScoutingMuonVtx_m"],
        ),
        (
            "Scouting",
            ["ScoutingJet_pt", "ScoutingJet_eta", "ScoutingJet_phi"],
            ["events.ScoutingJet needs ScoutingJet_mass"],
        ),
    ],
)
def test_missing_columns_have_the_names_of_the_input(
    name: str, columns: list[str], sentences: list[str], files: Files
) -> None:
    experiment = EXPERIMENTS[name]
    event_ids = ["run", "luminosityBlock", "event"] if name == "Scouting" else []
    delivered = derive_form(selecting(experiment, *columns, *event_ids), files.input(name))
    mapping = form_mapping(delivered, experiment.schemaclass)
    problems = unmet_requirements(delivered, mapping)
    assert problems == [f"{sentence}: add that to the query." for sentence in sentences]
    listed = problems[0].partition(" needs ")[2].partition(":")[0].replace(" and ", ", ")
    assert set(listed.split(", ")) <= set(experiment.names)


@pytest.mark.parametrize(
    ("name", "columns", "sentence"),
    [
        (
            "test beam",
            ["spill", "track_x", "track_z", "hit_time", "hit_trackIdx"],
            "events.track cannot be used: BeamTrackArray: missing azimuthal coordinates",
        ),
        (
            "PHYSLITE",
            [f"TruthMuonsAuxDyn.{name}" for name in ("px", "py", "pz", "e", "m")],
            "events.TruthMuons cannot be used: TruthParticleArray: multiple temporal aliases",
        ),
    ],
)
def test_problems_without_a_column_are_those_of_coffea(
    name: str, columns: list[str], sentence: str, files: Files
) -> None:
    experiment = EXPERIMENTS[name]
    delivered = derive_form(selecting(experiment, *columns), files.input(name))
    (problem,) = unmet_requirements(delivered, form_mapping(delivered, experiment.schemaclass))
    assert problem.startswith(sentence)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("Delphes", "Jet.PT", "DelphesSchema cannot make .* it misses 'Eta'"),
        ("TreeMaker", "Jets.fCoordinates.fPt", r"split branches of object Jets: .*fPt'\]\)\. The"),
        (
            "PHYSLITE",
            "CombinedMuonTrackParticlesAuxDyn.z0",
            "PHYSLITESchema cannot make .* it misses 'qOverP'",
        ),
    ],
)
def test_errors_of_schemas_name_the_missing_columns(
    name: str, column: str, message: str, files: Files
) -> None:
    experiment = EXPERIMENTS[name]
    delivered = derive_form(selecting(experiment, column), files.input(name))
    with pytest.raises(FormError, match=message):
        form_mapping(delivered, experiment.schemaclass)


@pytest.mark.parametrize(
    ("name", "schemaclass"),
    [
        ("PHYSLITE", PHYSLITESchema),
        ("Delphes", DelphesSchema),
        ("TreeMaker", TreeMakerSchema),
        ("Scouting", ScoutingNanoAODSchema),
    ],
)
def test_subclasses_of_schemas_are_adapted_too(name: str, schemaclass: Any, files: Files) -> None:
    own = type("Own", (schemaclass,), {})
    delivered = derive_form(selecting(EXPERIMENTS[name]), files.input(name))
    form, _ = form_mapping(delivered, own)(delivered.base_form)
    expected, _ = form_mapping(delivered, schemaclass)(delivered.base_form)
    assert form == expected
