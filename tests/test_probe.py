"""Form of the input, read by ServiceX."""

from __future__ import annotations

import inspect
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import httpx
import numpy as np
import pytest
import uproot
from support.unreadable import write_unreadable

from coffea_sx.dataset import Dataset, InputFiles, identify
from coffea_sx.errors import BadDataset, EmptyDataset, FormError, QueryError, Unreachable
from coffea_sx.forms.input_form import form_of_tree, sample_forms
from coffea_sx.forms.writers import write
from coffea_sx.local import LocalServiceX
from coffea_sx.probe import first_file, parse_forms, probe_forms, run_query


@pytest.fixture(scope="module")
def odd_file(tmp_path_factory):
    """Two trees, the second in a folder, and a histogram; a column has an unknown type."""
    path = tmp_path_factory.mktemp("odd") / "odd.root"
    with uproot.recreate(path, compression=None) as file:
        jagged = ak.Array([[1.5], [], [2.5, 3.5]])
        file.mktree("Events", {"x": "float32", "name": "string", "jets": jagged.type})
        file["Events"].extend({"x": [1, 2, 3], "name": ["a", "bc", ""], "jets": jagged})
        file.mktree("deep/Runs", {"matrix": np.dtype(("int16", (2, 3)))})
        file["hist"] = np.histogram([1.0, 2.0])
    content = path.read_bytes()
    assert b"TLeafC" in content
    path.write_bytes(content.replace(b"TLeafC", b"TLeafQ"))
    with uproot.open(path) as file:
        assert "name" in file["Events"].keys()  # noqa: SIM118
    return str(path)


@pytest.fixture(scope="module")
def server(nano_files, odd_file):
    datasets = {
        "rucio://user:nano": nano_files,
        "rucio://user:odd": [odd_file, "/nowhere.root"],
        "rucio://user:empty": [],
    }
    with LocalServiceX(workers=1, python=True, datasets=datasets) as running:
        yield running


@pytest.fixture
def client(server, client_of):
    return client_of(server.url)


def files(*paths: str) -> Dataset:
    return identify(list(paths))


def submitted(server):
    return [
        e for e in server.exchanges if (e.method, e.path) == ("POST", "/servicex/transformation")
    ]


def test_the_same_as_from_a_sample(client, nano_files):
    found = probe_forms(client, files(*nano_files), ["Events"])
    assert found == sample_forms(nano_files[0], ["Events"])
    assert found["Events"].fields[0] == "run"


def test_only_the_first_file_is_read(client, nano_files):
    assert probe_forms(client, files(nano_files[1], "/nowhere.root"), ["Events"])


def test_several_trees_and_odd_columns(client, odd_file):
    trees = ["Events", "deep/Runs", "nowhere"]
    found = probe_forms(client, files(odd_file), trees)
    assert found == sample_forms(odd_file, trees)
    assert "x" in found["Events"].fields
    assert "name" not in found["Events"].fields
    assert str(found["deep/Runs"].content("matrix").type) == "2 * 3 * int16"


def test_a_dataset_that_is_looked_up(client, server, odd_file):
    found = probe_forms(client, Dataset("rucio://user:odd", None), ["Events"])
    assert found == sample_forms(odd_file, ["Events"])
    (*_, listed) = requests(server)
    assert listed["did"] == "rucio://user:odd?files=1"
    assert listed["files"] == 1


def requests(server):
    """List the requests that a server has, in the order of their submission."""
    rows = httpx.get(f"{server.url}/servicex/transformation").json()["requests"]
    return sorted(rows, key=lambda row: row["submit-time"])


@pytest.mark.parametrize(
    ("did", "first"),
    [
        ("rucio://a:b", "rucio://a:b?files=1"),
        ("rucio://a:b?files=5", "rucio://a:b?files=1"),
        ("rucio://a:b?files=5&get=all", "rucio://a:b?get=all&files=1"),
        ("cernopendata://1507?get=all", "cernopendata://1507?get=all&files=1"),
        ("xrootd://root://se//d/*.root", "xrootd://root://se//d/*.root?files=1"),
    ],
)
def test_the_first_file_of_a_dataset(did, first):
    assert first_file(Dataset(did, None)) == Dataset(first, None)


def test_a_second_probe_submits_nothing(client, server, nano_files):
    first = probe_forms(client, files(nano_files[2]), ["Events"])
    before = len(submitted(server))
    assert probe_forms(client, files(nano_files[2], nano_files[3]), ["Events"]) == first
    assert len(submitted(server)) == before


def test_the_client_stays_open(client, nano_files):
    probe_forms(client, files(nano_files[0]), ["Events"])
    assert client.transforms()


def test_a_missing_tree(client, odd_file):
    with pytest.raises(FormError, match=r"no tree 'Event'; it has 'Events', 'deep/Runs'\."):
        probe_forms(client, files(odd_file), ["Event"])


def test_a_tree_without_readable_columns(client, tmp_path):
    path = tmp_path / "void.root"
    with uproot.recreate(path, compression=None) as file:
        file.mktree("Events", {"name": "string"})
    path.write_bytes(path.read_bytes().replace(b"TLeafC", b"TLeafQ"))
    with pytest.raises(FormError, match=r"'Events' cannot be read: .*input_form="):
        probe_forms(client, files(str(path)), ["Events"])


def test_a_corrupt_first_file(client, nano_files, tmp_path):
    corrupt = tmp_path / "corrupt.root"
    corrupt.write_bytes(Path(nano_files[0]).read_bytes()[:1000])
    with pytest.raises(FormError) as caught:
        probe_forms(client, files(str(corrupt), nano_files[0]), ["Events"])
    assert str(corrupt) in str(caught.value)
    assert "input_form=" in str(caught.value)
    assert "on_failure" not in str(caught.value)


@pytest.mark.parametrize(("did", "kind"), [("nowhere", BadDataset), ("empty", EmptyDataset)])
def test_a_dataset_without_files(client, did, kind):
    with pytest.raises(kind):
        probe_forms(client, Dataset(f"rucio://user:{did}", None), ["Events"])


def test_a_server_without_python(servicex, client_of, nano_files):
    before = len(submitted(servicex))
    with pytest.raises(QueryError, match=r"no code generator 'python'.*input_form="):
        probe_forms(client_of(servicex.url), files(nano_files[0]), ["Events"])
    assert len(submitted(servicex)) == before


def test_an_unreachable_server_is_reported(client_of, closed_port, nano_files):
    with pytest.raises(Unreachable):
        probe_forms(
            client_of(f"http://127.0.0.1:{closed_port}", 0.1), files(nano_files[0]), ["Events"]
        )


def test_a_transform_that_stalls(nano_files, client_of):
    import asyncio

    async def never(path: str) -> None:
        await asyncio.sleep(600)

    with LocalServiceX(workers=1, python=True, before_report=never) as stuck:
        client = client_of(stuck.url)
        with pytest.raises(FormError, match=r"Nothing happened .*input_form="):
            probe_forms(client, files(nano_files[0]), ["Events"], patience_s=0.5)


@pytest.mark.parametrize("forms", ["no JSON", "[]", '{"Events": {"form": {"class": "Nonsense"}}}'])
def test_a_result_without_forms(forms):
    file = io.BytesIO()
    write(ak.Array([{"forms": forms}]), file, "parquet")
    for content in (file.getvalue(), b"PAR1"):
        with pytest.raises(FormError, match="sent no forms"):
            parse_forms(content, ["Events"])


def test_the_selection_is_the_same_for_all_files(client, server, nano_files, odd_file):
    for path, tree in [(nano_files[4], "Events"), (odd_file, "deep/Runs")]:
        probe_forms(client, files(path), [tree])
    assert len({row["selection"] for row in requests(server)}) == 1


def test_the_probe_needs_nothing_of_this_package(odd_file):
    namespace: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + inspect.getsource(run_query), namespace)
    found = namespace["run_query"](odd_file)
    assert len(found) == 1
    file = io.BytesIO()
    write(found, file, "parquet")
    with uproot.open(odd_file) as opened:
        expected = {"Events;1": form_of_tree(opened["Events"])}
    assert parse_forms(file.getvalue(), ["Events;1"]) == expected


def test_the_replicas_of_a_file_go_together():
    dataset = Dataset(None, InputFiles(("/a.root,/b.root", "/c.root")))
    first = first_file(dataset)
    assert first == replace(dataset, files=InputFiles(("/a.root,/b.root",)))


def test_unreadable_columns_are_marked(client, tmp_path):
    path = write_unreadable(tmp_path / "things.root")
    found = probe_forms(client, files(path), ["Events"])
    assert found == sample_forms(path, ["Events"])
    assert found["Events"].fields == ["x", "thing"]
