"""The form of the input, from all that users may give as ``input_form=``."""

from __future__ import annotations

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from support.strategies import Answer, serve_file

from coffea_sx.errors import FormError
from coffea_sx.forms.input_form import SAMPLES_TRIED, input_form, sample_forms


@pytest.fixture(scope="module")
def sample(nano_files):
    return nano_files[0]


@pytest.fixture(scope="module")
def form(sample):
    return input_form({sample: "Events"}, None)


@pytest.fixture
def corrupt(tmp_path, sample):
    path = tmp_path / "corrupt.root"
    path.write_bytes(Path(sample).read_bytes()[:1000])
    return str(path)


def test_a_sample_file(form):
    assert str(form.content("MET_pt").type) == "float32"
    assert str(form.content("Muon_charge").type) == "var * int32"
    assert form.content("event").primitive == "uint64"


def test_all_kinds_of_samples_give_the_same_form(sample, form, tmp_path):
    saved = tmp_path / "form.json"
    saved.write_text(json.dumps(form.to_dict()))
    for source, tree_name in [
        (sample, "Events"),
        (Path(sample), "Events"),
        ({sample: "Events"}, "Events"),
        ({sample: "Events;1"}, "/Events"),
        ({sample: None}, "Events"),
        (form, None),
        (form.to_dict(), None),
        (str(saved), None),
        (saved, None),
        (None, "Events"),
    ]:
        assert input_form(source, tree_name, [sample]) == form, source


def test_an_open_tree(sample, form):
    with uproot.open({sample: "Events"}) as tree:
        assert input_form(tree, None) == form


def test_the_first_file_that_can_be_opened(sample, form, corrupt):
    assert input_form(None, "Events", [corrupt, "/nowhere.root", sample]) == form


def test_an_error_names_all_files_that_were_tried(corrupt):
    with pytest.raises(FormError) as caught:
        input_form(None, "Events", [corrupt, "/nowhere.root"])
    text = str(caught.value)
    assert "input_form=" in text
    assert corrupt in text
    assert "/nowhere.root" in text


def test_only_a_few_files_are_tried(sample):
    paths = [f"/nowhere_{i}.root" for i in range(SAMPLES_TRIED)]
    with pytest.raises(FormError, match="input_form="):
        input_form(None, "Events", [*paths, sample])


def test_a_dataset_needs_a_sample():
    with pytest.raises(FormError, match="looks up cannot be opened from here"):
        input_form(None, "Events", [])


@pytest.mark.parametrize("source", ["/nowhere.root", {"/nowhere.root": "Events"}])
def test_a_missing_sample(source):
    with pytest.raises(FormError, match=r"no sample file /nowhere\.root"):
        input_form(source, "Events")


def test_a_corrupt_sample(corrupt):
    with pytest.raises(FormError, match=r"corrupt\.root cannot be read"):
        input_form(corrupt, "Events")


def test_a_sample_that_is_no_root_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(FormError, match=r"notes\.txt cannot be read"):
        input_form(str(path), "Events")


def test_the_tree_is_not_in_the_sample(sample):
    with pytest.raises(FormError, match=r"no tree 'Event'.*'Events'"):
        input_form({sample: "Event"}, None)


def test_the_tree_is_not_a_tree(tmp_path):
    path = str(tmp_path / "histogram.root")
    with uproot.recreate(path) as file:
        file["Events"] = np.histogram([1.0, 2.0])
    with pytest.raises(FormError, match="TTree"):
        input_form({path: "Events"}, None)


def test_a_tree_in_a_directory_is_named_with_it(tmp_path):
    path = str(tmp_path / "deep.root")
    with uproot.recreate(path) as file:
        file.mktree("dir/Events", {"x": "float32"})
    assert input_form({path: "dir/Events"}, None).fields == ["x"]
    with pytest.raises(FormError, match="its trees are 'dir/Events'"):
        input_form(path, "Events")
    with pytest.raises(FormError, match="TTree"):
        input_form(path, "dir")


def test_the_tree_of_the_query_is_used(tmp_path, sample):
    path = str(tmp_path / "cycles.root")
    with uproot.recreate(path) as file:
        file.mktree("Events", {"old": "float32"})
        file.mktree("Events", {"new": "float32"})
    assert input_form({path: "Events"}, None).fields == ["new"]
    assert input_form({path: "Events;1"}, None).fields == ["old"]
    assert input_form({path: "Events;1"}, "Events").fields == ["new"]
    with pytest.raises(FormError, match=r"query reads the tree 'Event', and input_form= names 'Ev"):
        input_form({sample: "Events"}, "Event")
    with pytest.raises(FormError, match="no tree 'A' or 'B'"):
        sample_forms(sample, ["A", "B"])


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((b"TLeafD", b"TLeafQ", 2), "no column that uproot understands: it has 'x'"),
        ((b"TLeafD", b"TLea/D", 1), "The column 'x' of the tree 'Events'"),
    ],
    ids=["unknown type", "invalid title"],
)
def test_trees_that_cannot_be_read(patch, message, tmp_path):
    path = tmp_path / "odd.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "float64"})
    path.write_bytes(path.read_bytes().replace(*patch))
    with pytest.raises(FormError, match=message):
        input_form({str(path): "Events"}, None)


def test_a_tree_that_dask_cannot_divide(tmp_path):
    """Old trees count their entries with a double."""
    path = str(tmp_path / "old.root")
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "float64"}).extend({"x": np.arange(3.0)})
    with uproot.open(path) as file:
        tree = file["Events"]
        tree._members["fEntries"] = 3.0
        with pytest.raises(FormError, match=r"'Events' of .* counts its entries with a float"):
            input_form(tree, None)


def test_an_rntuple(tmp_path):
    path = str(tmp_path / "ntuple.root")
    with uproot.recreate(path) as file:
        file.mkrntuple("Events", {"x": np.arange(3.0)})
    with pytest.raises(FormError, match=r"is an RNTuple.*form="):
        input_form({path: "Events"}, None)


def test_a_sample_needs_a_tree(sample):
    with pytest.raises(FormError, match="Which tree"):
        input_form(sample, None)


def test_more_than_one_sample(nano_files):
    with pytest.raises(FormError, match="One sample file is enough"):
        input_form(dict.fromkeys(nano_files[:2], "Events"), None)


def test_no_sample():
    with pytest.raises(FormError):
        input_form({}, None)


@pytest.mark.parametrize(
    "source", [3, object(), ["a.root"], ak.Array([1, 2]), ak.forms.NumpyForm("float32")]
)
def test_other_objects_are_refused(source):
    with pytest.raises(FormError):
        input_form(source, "Events")


@pytest.mark.parametrize(
    "form",
    [
        {"class": "NumpyArray", "primitive": "float32"},
        {"class": "Nonsense"},
        {"class": "RecordArray"},
        {"class": "RecordArray", "fields": None, "contents": ["int64"]},
    ],
)
def test_forms_of_no_columns_are_refused(form, tmp_path):
    with pytest.raises(FormError):
        input_form(form, None)
    saved = tmp_path / "form.json"
    saved.write_text(json.dumps(form))
    with pytest.raises(FormError, match=r"form\.json"):
        input_form(saved, None)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"text"', "null"])
def test_a_file_that_is_no_saved_form(text, tmp_path):
    saved = tmp_path / "form.json"
    saved.write_text(text)
    with pytest.raises(FormError, match=r"form\.json"):
        input_form(saved, None)


def test_a_saved_form_that_does_not_exist(tmp_path):
    with pytest.raises(FormError, match="cannot be read"):
        input_form(tmp_path / "form.json", None)


def test_a_sample_on_the_web(scripted, sample, form):
    server = scripted(serve_file(Path(sample).read_bytes()))
    assert input_form({f"{server.url}/nano.root?token=CANARY": "Events"}, None) == form


def test_errors_hide_the_signature_of_a_sample(scripted):
    server = scripted(lambda request: Answer(403))
    with pytest.raises(FormError) as caught:
        input_form({f"{server.url}/nano.root?token=CANARY": "Events"}, None)
    assert "CANARY" not in str(caught.value)
    assert "CANARY" not in str(caught.value.facts)
