"""A delivered file has the expected form, or reading it is an error that names the file."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import BaseSchema
from support.strategies import Answer, ScriptedServer, columns, serve_file

from coffea_sx._upstream.coffea import SchemaMapping
from coffea_sx.errors import CorruptFile, FormMismatch, ObjectGone, ReadError
from coffea_sx.forms import OutputForm
from coffea_sx.forms.derivation import form_of_selection
from coffea_sx.forms.input_form import input_form
from coffea_sx.forms.output_form import as_output_form
from coffea_sx.forms.writers import write
from coffea_sx.polling.outcomes import Delivered
from coffea_sx.query import select
from coffea_sx.readers.partition import blockwise_reader, read
from coffea_sx.servicex.models import SignedUrl
from coffea_sx.storage.stored import stored_object

NAMES = ["MET_pt", "Muon_pt", "event"]


class Bench:
    """A server of one delivered file, whose bytes tests may change, and a source of its URL."""

    def __init__(self, delivered, outcome, content, scripted):
        self.delivered, self.outcome, self.content = delivered, outcome, content
        self.server = scripted(lambda request: serve_file(self.content)(request))

    def signed_url(self, object_name, *, refresh=False):
        return SignedUrl(f"{self.server.url}/o?Signature=CANARY", {}, time.time() + 600)

    def held(self, object_name):
        return None

    def note_error(self, object_name, error):
        pass

    def read(self, step=0, steps=1, delivered=None, only=None):
        delivered = delivered or self.delivered
        mapping = SchemaMapping(
            schemaclass=BaseSchema, behavior={}, metadata=None, version="latest"
        )
        reader = blockwise_reader(delivered, mapping)
        if only is not None:
            reader = reader.project_manually(frozenset(only))
        stored = stored_object(self, self.outcome.object_name, self.outcome.nbytes)
        return read(stored, self.outcome, delivered, reader, step, steps)


@pytest.fixture(scope="module")
def form(nano_files):
    selection = select(columns(*NAMES), codegen="uproot")
    return form_of_selection(selection, input_form({nano_files[0]: "Events"}, None))


@pytest.fixture(scope="module")
def original(truth, tmp_path_factory):
    path = tmp_path_factory.mktemp("delivered") / "out.root"
    write(truth, str(path), "root-file")
    return path.read_bytes()


@pytest.fixture
def bench(form, original, nano_files, scripted):
    outcome = Delivered(0, nano_files[0], ":nano_0.root", len(original), 500, "today")
    return Bench(form, outcome, original, scripted)


@pytest.fixture(scope="module")
def truth(nano_files):
    with uproot.open({nano_files[0]: "Events"}) as tree:
        return tree.arrays(NAMES)


def test_values_are_those_of_the_input(bench, truth):
    array = bench.read()
    assert set(NAMES) <= set(array.fields)
    for name in NAMES:
        assert ak.array_equal(ak.without_parameters(array[name]), truth[name])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 499, 500, 501])
def test_steps_are_the_file_in_parts(bench, truth, steps):
    some = range(steps) if steps < 10 else [0, 1, steps // 2, steps - 2, steps - 1]
    size = -(-500 // steps)
    for step in some:
        part = bench.read(step, steps)
        expected = truth["event"][step * size : (step + 1) * size]
        assert part["event"].to_list() == expected.to_list()


def test_some_columns(bench):
    array = bench.read(only=["MET_pt"])
    assert len(array) == 500
    assert ak.sum(array.MET_pt) > 0


def test_another_tree_name(bench):
    expected = OutputForm({"other": bench.delivered.base_form}, "other")
    with pytest.raises(FormMismatch, match=r"tree 'other'.*'servicex'") as caught:
        bench.read(delivered=expected)
    assert caught.value.input_file == bench.outcome.input_file


def test_another_type(bench):
    expected = as_output_form(ak.forms.RecordForm([ak.forms.NumpyForm("int32")], ["MET_pt"]))
    with pytest.raises(FormMismatch, match="'MET_pt' should be int32, found float32") as caught:
        bench.read(delivered=expected)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.column, error.expected, error.found) == ("MET_pt", "int32", "float32")
    assert error.object_name == bench.outcome.object_name


def test_a_wider_type_than_that_of_the_file(bench, truth):
    double = ak.forms.NumpyForm("float64")
    wide = ak.forms.RecordForm(
        [double, ak.forms.ListOffsetForm("i64", double)], ["MET_pt", "Muon_pt"]
    )
    array = bench.read(delivered=as_output_form(wide))
    for name in ("MET_pt", "Muon_pt"):
        expected = ak.values_astype(truth[name], "float64")
        assert ak.array_equal(ak.without_parameters(array[name]), expected)


def test_a_file_of_an_input_without_the_tree(bench, tmp_path):
    with uproot.recreate(tmp_path / "no_keys.root"):
        pass
    bench.content = (tmp_path / "no_keys.root").read_bytes()
    with pytest.raises(FormMismatch, match="holds nothing"):
        bench.read()  # the server counted 500 events
    bench.outcome = replace(bench.outcome, n_events=0)
    array = bench.read()
    assert len(array) == 0
    assert set(NAMES) <= set(array.fields)


def test_a_column_that_is_missing(bench):
    form = ak.forms.RecordForm([ak.forms.NumpyForm("float32")], ["MET"])
    with pytest.raises(FormMismatch, match=r"'MET'.*no such column"):
        bench.read(delivered=as_output_form(form))


def noise(n):
    return np.random.default_rng(1).bytes(n)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1000],
        lambda content: b"<html>502 Bad Gateway</html>",
        lambda content: b"PAR1" + content[4:],
        lambda content: content[:200] + noise(len(content) - 200),
        lambda content: noise(len(content)),
        lambda content: content[: len(content) // 4] + bytes(len(content) * 3 // 4),
    ],
    ids=["nothing", "head", "half", "no tail", "html", "parquet", "noise", "all noise", "zeros"],
)
def test_corrupt_files_are_errors(bench, change):
    bench.content = change(bench.content)
    with pytest.raises(ReadError) as caught:
        bench.read()
    error = caught.value
    assert error.object_name == bench.outcome.object_name
    assert bench.outcome.input_file in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    assert "CANARY" not in str(error) + repr(pickle.dumps(error))


def test_a_longer_file_than_reported(bench):
    """A file that another attempt has written since is read if it has the expected form."""
    bench.content += b"tail"
    assert len(bench.read()) == 500


@pytest.mark.parametrize("n_events", [0, 499, 501])
def test_the_number_of_events_is_that_of_the_file(bench, n_events):
    """Some transformers report the number of events that they have read."""
    bench.outcome = replace(bench.outcome, n_events=n_events)
    assert len(bench.read()) == 500


def test_an_empty_tree_of_the_right_form(bench, tmp_path):
    with uproot.recreate(tmp_path / "empty.root") as file:
        file.mktree("servicex", {"MET_pt": "float32"})
    bench.content = (tmp_path / "empty.root").read_bytes()
    bench.outcome = replace(bench.outcome, n_events=0)
    form = ak.forms.RecordForm([ak.forms.NumpyForm("float32")], ["MET_pt"])
    assert len(bench.read(delivered=as_output_form(form))) == 0
    assert len(bench.read(2, 3, delivered=as_output_form(form))) == 0


def test_a_file_without_trees(bench, tmp_path):
    with uproot.recreate(tmp_path / "empty.root"):
        pass
    bench.content = (tmp_path / "empty.root").read_bytes()
    with pytest.raises(FormMismatch, match="it holds nothing"):
        bench.read()


def test_a_file_that_is_gone(bench):
    bench.server.stop()
    bench.server = ScriptedServer(lambda request: Answer(404))
    with pytest.raises(ObjectGone) as caught:
        bench.read()
    bench.server.stop()
    assert bench.outcome.input_file in str(caught.value)


def test_a_name_that_is_not_a_tree(bench, tmp_path):
    with uproot.recreate(tmp_path / "histogram.root") as file:
        file["servicex"] = np.histogram([1.0])
    bench.content = (tmp_path / "histogram.root").read_bytes()
    with pytest.raises((FormMismatch, CorruptFile)):
        bench.read()
