"""Errors of coffea's code and of the user's are no errors of the file that is read."""

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

from coffea_sx.errors import CorruptFile

FORMATS = ["root-file", "root-rntuple", "parquet"]


class OwnError(Exception):
    """An error that nobody else knows."""


class FailingSchema(BaseSchema):
    """Has a column more, which is made by a function while events are read."""

    def __init__(self, base_form, *args, **kwargs):
        super().__init__(base_form, *args, **kwargs)
        fields, contents = self._form["fields"], self._form["contents"]
        made = copy.deepcopy(contents[fields.index("MET_pt")])
        made["form_key"] = concat(made["form_key"], "!made_by_the_user")
        self._form["fields"] = [*fields, "made"]
        self._form["contents"] = [*contents, made]


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
    wanted = [events[0].made, events[1]] if on_failure == "skip" else [events.made]
    with pytest.raises(kind) as caught:
        dask.compute(*wanted, scheduler="synchronous")
    assert type(caught.value) is kind
    assert "a mistake of the user's" in str(caught.value)
    assert "object" not in str(caught.value).split("See if this")[0]
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert "made_by_the_user" in [frame.name for frame in frames]


@pytest.mark.parametrize("result_format", FORMATS)
def test_what_is_made_of_good_columns_is_read(servicex, nano_files, monkeypatch, result_format):
    monkeypatch.setattr(transforms, "made_by_the_user", lambda stack: None, raising=False)
    events = events_of(servicex, nano_files[:2], result_format)
    made, read = dask.compute(events.made, events.MET_pt, scheduler="synchronous")
    assert made.to_list() == read.to_list()


def test_lists_that_do_not_end_are_an_error_of_the_file():
    import awkward as ak
    import numpy as np

    from coffea_sx.readers.columns import Columns

    lists = ak.Array(
        ak.contents.ListOffsetArray(
            ak.index.Index64(np.array([0, 3, 1, 4])), ak.contents.NumpyArray(np.arange(4.0))
        )
    )
    columns = Columns("o.root", 3, {"x"}, dict, lambda *args: {"x": lists}, {})
    with pytest.raises(CorruptFile, match=r"o\.root.*'x'") as caught:
        columns.arrays(["x"], 0, 3)
    assert caught.value.object_name == "o.root"


def test_the_first_functions_are_compiled_in_threads():
    """numba knows awkward's arrays before the first thread compiles for one of them."""
    script = """
        import threading
        import coffea.nanoevents
        from numba.core import entrypoints, types
        from numba import typeof
        import awkward as ak
        import sys

        from coffea_sx.readers.partition import _prepare_to_compile

        # Another thread has begun to load numba's extensions, and is not yet done.
        entrypoints._already_initialized = True
        _prepare_to_compile()
        threads = [threading.Thread(target=_prepare_to_compile) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        from coffea.nanoevents import transforms
        found = transforms._distinctParent_kernel(ak.Array([-1, 0, 1]), ak.Array([1, 1, 2]))
        assert found.tolist() == [-1, -1, 1], found
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=240)
