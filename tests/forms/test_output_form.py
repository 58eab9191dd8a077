"""A form that the user gives, and outputs of real servers."""

from __future__ import annotations

import json

import awkward as ak
import pytest
from support.strategies import columns

from coffea_sx.errors import FormError
from coffea_sx.forms import OutputForm, derive_form
from coffea_sx.forms.output_form import as_output_form
from coffea_sx.forms.writers import TREE

FORM = ak.forms.RecordForm(
    [ak.forms.NumpyForm("float32"), ak.forms.ListOffsetForm("i64", ak.forms.NumpyForm("int32"))],
    ["met", "charge"],
)


def test_all_kinds_of_forms(tmp_path):
    saved = tmp_path / "form.json"
    saved.write_text(json.dumps(FORM.to_dict()))
    for source in (FORM, FORM.to_dict(), str(saved), saved):
        output_form = as_output_form(source)
        assert output_form.tree == TREE
        assert output_form.columns == ["met", "charge"]
        assert output_form.base_form.type == as_output_form(FORM).base_form.type
        for content in output_form.base_form.contents:
            assert {"__doc__", "typename"} <= content.parameters.keys()


def test_an_output_form_is_not_converted():
    output_form = OutputForm({"my_tree": FORM}, "my_tree")
    assert as_output_form(output_form) is output_form


def test_an_output_form_of_another_result_format():
    output_form = OutputForm({"my_tree": FORM}, "my_tree", "parquet")
    with pytest.raises(FormError, match="result_format='root-file'"):
        as_output_form(output_form)


def test_a_derived_form_survives_json(nano_files, tmp_path):
    derived = derive_form(columns("MET_pt", "Muon_pt"), {nano_files[0]: "Events"}, codegen="uproot")
    saved = tmp_path / "form.json"
    saved.write_text(json.dumps(derived.base_form.to_dict()))
    assert as_output_form(saved) == derived


@pytest.mark.parametrize(
    "source",
    [
        3,
        [],
        FORM.contents[0],
        ak.forms.RecordForm([FORM.contents[0]], None),
        {"class": "NumpyArray", "primitive": "float32"},
        {"class": "Nonsense"},
        {},
        "/nowhere.json",
    ],
    ids=str,
)
def test_everything_else_is_refused(source):
    with pytest.raises(FormError):
        as_output_form(source)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"text"', "null"])
def test_a_file_without_a_form(text, tmp_path):
    saved = tmp_path / "form.json"
    saved.write_text(text)
    with pytest.raises(FormError):
        as_output_form(saved)
