"""The schema of delivered files that coffea opens itself."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import pytest
from coffea.nanoevents import BaseSchema
from coffea.processor import FuturesExecutor, Runner
from support.runner import Submit, causes, numbers_of

from coffea_sx.demo.analysis import SelectionSchema
from coffea_sx.errors import (
    FormMismatch,
)
from coffea_sx.forms import OutputForm
from coffea_sx.work.schema import ExpectedFiles, delivered_schema, packed, unpacked


@pytest.mark.filterwarnings("ignore:Skipping bad file")
@pytest.mark.parametrize("skipbadfiles", [False, True])
def test_another_form_is_not_a_bad_file(
    submit: Submit, threads: ThreadPoolExecutor, skipbadfiles: bool
) -> None:
    factory = submit()
    form = factory._source.output_form
    changed = form.base_form.copy(
        contents=[
            content.copy(primitive="bool") if name == "event" else content
            for name, content in zip(form.base_form.fields, form.base_form.contents, strict=True)
        ]
    )
    wrong = OutputForm({form.tree: changed}, form.tree, form.result_format)
    schema = delivered_schema(
        SelectionSchema, ((factory.request_id, ExpectedFiles(packed(wrong), True)),)
    )
    runner = Runner(
        FuturesExecutor(pool=factory.pool(threads), status=False, retries=0),
        schema=schema,
        skipbadfiles=skipbadfiles,
    )
    with pytest.raises(Exception, match=r"nano_\d.*'event' should be bool") as caught:
        runner.run(factory.work_items(), numbers_of)
    assert any(isinstance(error, FormMismatch) for error in causes(caught.value))


def test_schemas_are_pickled(submit: Submit) -> None:
    factory = submit()
    schema = factory.schema
    assert issubclass(schema, SelectionSchema)
    assert factory.schema is schema
    assert pickle.loads(pickle.dumps(schema)) is schema
    assert issubclass(cloudpickle.loads(cloudpickle.dumps(schema)), BaseSchema)
    form = unpacked(packed(factory._source.output_form))
    assert form.base_form == factory._source.output_form.base_form
    assert form.tree == factory.treename == factory._source.output_form.tree
