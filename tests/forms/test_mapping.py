"""The mapping of delivered columns to events, before any file is delivered."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from coffea.nanoevents import BaseSchema
from support.schemas import EVENT_IDS, Quiet
from support.strategies import columns

from coffea_sx import derive_form
from coffea_sx.errors import BadInput, FormError
from coffea_sx.forms.mapping import form_mapping


@pytest.fixture(scope="module")
def derive(nano_files: list[str]) -> Any:
    def derived(*names: str) -> Any:
        return derive_form(columns(*names), {nano_files[0]: "Events"}, codegen="uproot")

    return derived


def test_event_numbers_are_required(derive: Any) -> None:
    with pytest.raises(FormError, match="Quiet needs luminosityBlock and event, which the query"):
        form_mapping(derive("run", "MET_pt", "MET_phi"), Quiet)


def test_a_class_that_is_no_schema(derive: Any) -> None:
    with pytest.raises(BadInput, match="does not work in dask mode"):
        form_mapping(derive("MET_pt"), dict)


def test_a_schema_that_fails(derive: Any) -> None:
    class Broken(BaseSchema):
        def __init__(self, base_form: Any, version: str = "latest") -> None:
            raise RuntimeError("no jets, no schema")

    with pytest.raises(FormError, match=r"Broken cannot make events.*no jets, no schema"):
        form_mapping(derive("MET_pt"), Broken)


def test_a_schema_that_changes_its_argument(derive: Any) -> None:
    """NanoAODSchema does so: it adds parameters to the form of a list in place."""

    class Scribbling(BaseSchema):
        def __init__(self, base_form: Any, version: str = "latest") -> None:
            def scribble(form: dict[str, Any]) -> None:
                form.setdefault("parameters", {})["__array__"] = "Scribble"
                for inner in (form.get("content"), *form.get("contents", ())):
                    if inner is not None:
                        scribble(inner)

            for content in base_form["contents"]:
                scribble(content)
            super().__init__(base_form)

    delivered = derive(*EVENT_IDS, "Muon_pt", "MET_pt")
    before = delivered.base_form.to_json()
    mapping = form_mapping(delivered, Scribbling)
    mapping(delivered.events_form)
    mapping.events_form(delivered)
    assert delivered.base_form.to_json() == before


def test_a_mapping_can_be_pickled(derive: Any) -> None:
    import cloudpickle

    mapping = form_mapping(derive(*EVENT_IDS, "Jet_pt"), Quiet, {"dataset": "dy"})
    again = pickle.loads(cloudpickle.dumps(mapping))
    assert again.metadata["dataset"] == "dy"
    assert again.schemaclass == mapping.schemaclass
