"""Files that real servers and ROOT wrote: the derived forms are theirs, and they are read right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import awkward as ak
import pytest
import uproot
from support.derived_files import described, written
from support.skims import assert_jets_have_their_muons

from coffea_sx.forms import OutputForm, derive_form
from coffea_sx.forms.file_forms import read_forms
from coffea_sx.forms.input_form import form_of_tree, input_form
from coffea_sx.forms.uproot_raw import raw_forms
from coffea_sx.local import LocalServiceX
from coffea_sx.readers.root import open_root
from coffea_sx.storage.stored import StoredObject
from coffea_sx.storage.transfer import ObjectPart

FUNC_ADL = [
    "rest_funcadl_root",
    "rest_funcadl_root_new",
    "rest_funcadl_cut_root",
    "rest_funcadl_tuple_root",
    "rest_funcadl_parquet",
    "rest_funcadl_cut_parquet",
    "rest_funcadl_tuple_parquet",
    "rest_funcadl_single_parquet",
    "rest_funcadl_rntuple_new",
]
RAW = [
    "rest_raw_missing_tree_parquet",
    "rest_raw_missing_tree_root",
    "rest_raw_parquet_new",
    "rest_raw_rntuple_new",
    "rest_raw_root",
    "rest_raw_root_new",
    "rest_raw_two_root",
]


def body_of(recordings: Path, name: str) -> dict[str, Any]:
    """Return the body with which a transform was submitted."""
    exchanges = json.loads((recordings / f"exchanges/{name}.json").read_text())["exchanges"]
    (body,) = (e["request"]["json"] for e in exchanges if e["request"]["method"] == "POST")
    return body


def outputs_of(recordings: Path, name: str) -> list[Path]:
    outputs = sorted((recordings / "outputs" / name).iterdir())
    assert outputs
    return outputs


@pytest.mark.parametrize("name", FUNC_ADL)
def test_func_adl(recordings: Path, name: str) -> None:
    body = body_of(recordings, name)
    result_format = body["result-format"]
    form = input_form({str(recordings / "inputs/nano_0.root"): "Events"}, None)
    derived = derive_form(body["selection"], form, result_format, body["codegen"])
    for output in outputs_of(recordings, name):
        assert read_forms(str(output), result_format) == derived.trees, output


@pytest.mark.parametrize("name", RAW)
def test_uproot_raw(recordings: Path, name: str) -> None:
    body = body_of(recordings, name)
    with uproot.open(recordings / "inputs/nano_0.root") as file:
        form = form_of_tree(file["Events"])
    derived = raw_forms(body["selection"], {"Events": form})
    expected = described(written(derived, body["result-format"]), body["result-format"])
    for output in outputs_of(recordings, name):
        assert described(output.read_bytes(), body["result-format"]) == expected


def test_every_output_is_derived(recordings: Path) -> None:
    names = {path.name for path in (recordings / "outputs").iterdir()}
    # A template of 2024 wrote rest_funcadl_single_root, with a branch "" that later ones refuse.
    assert names == {*FUNC_ADL, *RAW, "rest_funcadl_single_root"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Branch .* already exists:RuntimeWarning")
def test_cross_references_of_a_skim_without_counters(
    servicex: LocalServiceX, nano_aod: Path
) -> None:
    assert_jets_have_their_muons(servicex, str(nano_aod))


def test_a_file_that_root_itself_has_written(nano_aod: Path) -> None:
    content = nano_aod.read_bytes()
    names = ["run", "Muon_pt", "Jet_eta", "MET_pt"]
    form = OutputForm(read_forms(str(nano_aod), "root-file"), "Events", "root-file")

    def fetch(start: int, stop: int | None, wanted: Any = None) -> ObjectPart:
        ranges = [(start, len(content))] if wanted is None else wanted
        return ObjectPart([bytearray(content[i:j]) for i, j in ranges], len(content), "one")

    stored = StoredObject("o", fetch, len(content))
    with open_root(stored, form, 0.1) as columns, uproot.open(nano_aod) as file:
        found = columns.arrays(names, 0, columns.n_events)
        expected = file["Events"].arrays(names)
    for name in names:
        assert ak.array_equal(found[name], expected[name], check_parameters=False)
