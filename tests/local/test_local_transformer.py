"""Transformer: files that queries deliver, and functions of the code generator ``python``."""

from __future__ import annotations

import io

import awkward as ak
import numpy as np
import pyarrow.parquet
import pytest
import uproot
from servicex.query import PythonFunction
from support.functions import HEAD, encoded, returning

from coffea_sx.local.transformer import transform_file


def run_query(input_filenames=None):
    import uproot

    with uproot.open({input_filenames: "Events"}) as tree:
        return tree.arrays(["MET_pt", "Muon_pt"])


@pytest.fixture
def deliver(pythonic, inputs):
    """Run a selection over the first input file; return the delivered bytes and the events."""

    def run(selection: str, result_format: str = "root-file"):
        request_id = pythonic.submit(
            inputs[:1], codegen="python", selection=selection, **{"result-format": result_format}
        )
        pythonic.wait(request_id)
        (row,) = pythonic.rows(request_id)
        if row["transform_status"] == "failure":
            return None, pythonic.reasons(request_id)[str(inputs[0])]
        (content,) = pythonic.objects(request_id).values()
        return io.BytesIO(content), row["total-events"]

    return run


def trees(content):
    with uproot.open(content) as file:
        assert set(file.classnames().values()) == {"TTree"}
        return {name: file[name].arrays() for name in file.keys(cycle=False)}


def test_a_function_of_the_servicex_client(deliver, inputs):
    selection = PythonFunction(run_query).generate_selection_string()
    content, n_events = deliver(selection)
    expected = run_query(str(inputs[0]))
    assert n_events == len(expected) == 50
    (delivered,) = trees(content).values()
    assert delivered.fields == ["MET_pt", "nMuon_pt", "Muon_pt"]
    assert ak.array_equal(delivered[expected.fields], expected, check_parameters=False)
    content, n_events = deliver(selection, "parquet")
    assert n_events == 50
    delivered = ak.from_arrow(pyarrow.parquet.read_table(content))
    assert delivered.to_list() == expected.to_list()


def test_a_dict_is_one_tree_for_each_key(deliver):
    selection = returning('{"a": ak.Array([{"x": 1}] * 3), "b": ak.Array([[1.5], []])}')
    content, n_events = deliver(selection)
    delivered = trees(content)
    assert {name: tree.fields for name, tree in delivered.items()} == {
        "a": ["x"],
        "b": ["nbranch", "branch"],
    }
    assert delivered["b"].branch.to_list() == [[1.5], []]
    assert n_events == 2
    content, n_events = deliver(selection, "parquet")
    assert n_events == 3
    assert pyarrow.parquet.read_table(content).to_pydict() == {"x": [1, 1, 1]}


def test_an_array_without_fields(deliver):
    content, _ = deliver(returning("ak.Array([1, 2])"))
    assert trees(content)["servicex"].to_list() == [{"branch": 1}, {"branch": 2}]
    content, _ = deliver(returning("ak.Array([1, 2])"), "parquet")
    assert pyarrow.parquet.read_table(content).column_names == [""]


@pytest.mark.parametrize(
    ("expression", "branches"),
    [("ak.Array([])", ["branch"]), ('ak.Array([{"x": [1]}])[:0]', ["x"])],
)
def test_without_events_branches_have_no_types(deliver, expression, branches):
    content, n_events = deliver(returning(expression))
    assert n_events == 0
    (delivered,) = trees(content).values()
    assert str(delivered.type) == f"0 * {{{branches[0]}: float64}}"


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("uproot.open(path + 'x')", "FileNotFoundError"),
        ("None", "TypeError: run_query must return an awkward array or a dict of them, not NoneT"),
        ('{"a": np.zeros(2)}', "not ndarray"),
        ("{}", "ValueError: run_query returned no arrays"),
        ("(_ for _ in ()).throw(KeyboardInterrupt('x'))", "KeyboardInterrupt: x"),
        ("os._exit(1)", "the transformer process died"),
    ],
)
def test_a_function_that_fails(deliver, expression, reason):
    content, failure = deliver(returning(expression))
    assert content is None
    assert reason in failure


def test_a_format_that_cannot_be_written(deliver):
    content, failure = deliver(returning("ak.Array([1])"), "root-rntuple")
    assert content is None
    assert "cannot be written as 'root-rntuple'" in failure


def test_files_share_no_globals(pythonic, inputs):
    count = "def run_query(path):\n    seen.append(path)\n    return ak.Array([len(seen)])"
    selection = encoded(f"{HEAD}seen = []\n{count}")
    request_id = pythonic.submit(inputs[:2], codegen="python", selection=selection)
    pythonic.wait(request_id)
    contents = pythonic.objects(request_id).values()
    delivered = [trees(io.BytesIO(content))["servicex"].branch.to_list() for content in contents]
    assert delivered == [[1], [1]]


def test_the_first_of_two_branches_with_one_name_is_the_column(tmp_path):
    """As with uproot.dask: split objects have such branches."""
    path, result = tmp_path / "twice.root", str(tmp_path / "out.root")
    with uproot.recreate(path) as file:
        file.mktree("Events", {"bits": "float64", "bitS": "int32"}).extend(
            {"bits": np.arange(3.0), "bitS": np.arange(3, dtype="int32")}
        )
    path.write_bytes(path.read_bytes().replace(b"bitS", b"bits"))
    with uproot.open({path: "Events"}) as tree:
        assert tree.keys() == ["bits", "bits"]
    query = "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) e))"
    done = transform_file("uproot", query, [str(path)], result, "root-file")
    assert (done.reason, done.n_events) == (None, 3)
    (delivered,) = trees(result).values()
    assert delivered.fields == uproot.dask({path: "Events"}).fields
    assert delivered.bits.to_list() == [0.0, 1.0, 2.0]
