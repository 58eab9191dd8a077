"""Errors of code of coffea and of the user are no errors of the file that is read."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
import traceback

import dask
import pytest
from coffea.nanoevents import BaseSchema, NanoEventsFactory, transforms
from coffea.nanoevents.util import concat
from servicex import query as sx_query
from support.paces import FAST

FORMATS = ["root-file", "root-rntuple", "parquet"]


class OwnError(Exception):
    """An error of the user's code."""


class FailingSchema(BaseSchema):
    """A schema with a column that a function makes while events are read."""

    def __init__(self, base_form, *args, **kwargs):
        super().__init__(base_form, *args, **kwargs)
        fields, contents = self._form["fields"], self._form["contents"]
        column = copy.deepcopy(contents[fields.index("MET_pt")])
        column["form_key"] = concat(column["form_key"], "!made_by_the_user")
        self._form["fields"] = [*fields, "made"]
        self._form["contents"] = [*contents, column]


def events_of(servicex, files, result_format, **options):
    query = sx_query.FuncADL_Uproot().FromTree("Events").Select(lambda e: {"MET_pt": e["MET_pt"]})
    return NanoEventsFactory.from_servicex(
        query,
        files,
        url=servicex.url,
        schemaclass=FailingSchema,
        result_format=result_format,
        **{"pace": FAST, **options},
    ).events()


@pytest.mark.sampled(10)
@pytest.mark.parametrize("result_format", FORMATS)
@pytest.mark.parametrize("on_failure", ["raise", "skip"])
@pytest.mark.parametrize(
    "kind", [OwnError, KeyError, ValueError, OSError, IndexError, RuntimeError, TypeError]
)
def test_an_error_while_events_are_made_passes(
    servicex, nano_files, monkeypatch, result_format, on_failure, kind
):
    def made_by_the_user(stack):
        raise kind("a mistake of the user's")

    monkeypatch.setattr(transforms, "made_by_the_user", made_by_the_user, raising=False)
    events = events_of(servicex, nano_files[:2], result_format, on_failure=on_failure)
    collections = [events[0].made, events[1]] if on_failure == "skip" else [events.made]
    with pytest.raises(kind) as caught:
        dask.compute(*collections, scheduler="synchronous")
    assert type(caught.value) is kind
    assert "a mistake of the user's" in str(caught.value)
    assert "object" not in str(caught.value).split("See if this")[0]
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert "made_by_the_user" in [frame.name for frame in frames]


@pytest.mark.parametrize("result_format", FORMATS)
def test_a_column_that_a_function_makes(servicex, nano_files, monkeypatch, result_format):
    monkeypatch.setattr(transforms, "made_by_the_user", lambda stack: None, raising=False)
    events = events_of(servicex, nano_files[:2], result_format)
    made, read = dask.compute(events.made, events.MET_pt, scheduler="synchronous")
    assert made.to_list() == read.to_list()


def test_the_first_functions_are_compiled_in_threads():
    """numba knows awkward's arrays before the first thread compiles for one of them."""
    script = """
        import threading
        import coffea.nanoevents
        from numba.core import entrypoints, types
        from numba import typeof
        import awkward as ak
        import sys

        from coffea_sx.readers.partition import register_with_numba

        # Another thread has begun to load numba's extensions, and is not yet done.
        entrypoints._already_initialized = True
        register_with_numba()
        threads = [threading.Thread(target=register_with_numba) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        from coffea.nanoevents import transforms
        parents = transforms._distinctParent_kernel(ak.Array([-1, 0, 1]), ak.Array([1, 1, 2]))
        assert parents.tolist() == [-1, -1, 1], parents
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=240)
