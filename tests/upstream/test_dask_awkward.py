"""Canaries for the private API of dask-awkward."""

from __future__ import annotations

import awkward as ak
import dask_awkward as dak
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from coffea_sx._upstream.dask import make_task
from coffea_sx._upstream.dask_awkward import DependentInputLayer, input_layer_name, with_graph

COLUMNS = frozenset({"x", "y"})


class Reader:
    """Reads records of two columns, and only those that are projected."""

    read = None

    def __init__(self, columns=COLUMNS):
        self.columns = columns

    def __call__(self, number):
        Reader.read = self.columns
        array = ak.Array([{"x": number, "y": 10 * number}])
        return array[sorted(self.columns)]

    @property
    def return_report(self):
        return False

    def mock(self):
        return ak.Array(self(0).layout.to_typetracer(forget_length=True))

    def prepare_for_projection(self):
        form = ak.Array([{"x": 0, "y": 0}]).layout.form_with_key("@{id}")
        layout, report = ak.typetracer.typetracer_with_report(form)
        return ak.Array(layout), report, form

    def project(self, *, report, state):
        return Reader(self.necessary_columns(report=report, state=state))

    def project_manually(self, columns):
        return Reader(columns)

    def necessary_columns(self, *, report, state):
        touched = set(report.data_touched)
        names = zip(state.fields, state.contents, strict=True)
        return frozenset(name for name, content in names if f"{content.form_key}" in touched)


def test_an_input_layer_depends_on_other_tasks_and_is_projected():
    array = dak.from_map(Reader(), range(3), label="load")
    name = input_layer_name(array.dask)
    tasks = {("numbers", i): make_task(("numbers", i), int, i + 1) for i in range(3)}
    layer = DependentInputLayer(name, "numbers", 3, Reader())
    layers = {**array.dask.layers, name: layer, "numbers": MaterializedLayer(tasks)}
    dependencies = {**array.dask.dependencies, name: {"numbers"}, "numbers": set()}
    replaced = with_graph(array, HighLevelGraph(layers, dependencies))
    assert replaced.name == array.name
    assert replaced.divisions == array.divisions
    assert replaced.form == array.form
    assert replaced.compute().to_list() == [{"x": i, "y": 10 * i} for i in (1, 2, 3)]
    assert dak.report_necessary_columns(replaced.x) == {name: frozenset({"x"})}
    assert replaced.x.compute(scheduler="synchronous").to_list() == [1, 2, 3]
    assert Reader.read == {"x"}
    assert layer.project_manually(frozenset({"y"})).io_func.columns == {"y"}
