"""``servicex://``: results for everything that opens fsspec URLs."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import pickle
import shutil
import subprocess
import sys
import threading
import time
from uuid import uuid4

import awkward as ak
import dask_awkward as dak
import fsspec
import httpx
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import pytest
import uproot
from fsspec.callbacks import Callback
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests
from hypothesis import example, given
from hypothesis import strategies as st
from support.paces import FAST
from support.strategies import columns, serve_file

from coffea_sx.dataset import InputFiles
from coffea_sx.errors import (
    AccessError,
    ObjectGone,
    ObjectReplaced,
    ReadError,
    ServiceXError,
)
from coffea_sx.local import LocalServiceX
from coffea_sx.polling import registry
from coffea_sx.polling.outcomes import Delivered
from coffea_sx.polling.poller import Poller
from coffea_sx.polling.registry import TransformAddress
from coffea_sx.query import select
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.servicex.config import EndpointName, find_endpoint
from coffea_sx.servicex.models import SignedUrl
from coffea_sx.storage.filesystem import ServiceXFileSystem, address, split_address
from coffea_sx.storage.policy import ReadPolicy

# No object here is listed before it can be read.
HURRIED = ReadPolicy(missing_pauses_s=(0.01, 0.01))


@pytest.fixture(scope="module")
def content_and_url(servicex, nano_files, selection):
    """Bytes and address of one result, and the poller that must be held."""

    client = ServiceXClient(find_endpoint(EndpointName(None, servicex.url, None)))
    request_id = client.submit(selection, did=None, files=nano_files[:2])
    where = TransformAddress(request_id, client.endpoint.name)
    poller = Poller(client, where, InputFiles(tuple(nano_files[:2])), FAST)
    outcome = poller.wait(0)
    signed_url = poller.signed_url(outcome.object_name)
    content = httpx.get(signed_url.url, headers=signed_url.headers).content
    assert len(content) == outcome.nbytes
    yield content, address(request_id, outcome.object_name), poller
    poller.close()


@pytest.fixture
def content(content_and_url):
    return content_and_url[0]


@pytest.fixture
def url(content_and_url):
    return content_and_url[1]


@pytest.fixture
def fs():
    return fsspec.filesystem("servicex", policy=HURRIED)


@pytest.fixture
def request_id(content_and_url):
    """Id of a request whose two results are delivered."""
    poller = content_and_url[2]
    poller.wait(1)
    return poller.address.request_id


@pytest.fixture
def requests(servicex):
    """Return the requests to the server, and to its store, since the test began."""
    begin = len(servicex.exchanges)
    return lambda: [(e.method, e.path) for e in list(servicex.exchanges)[begin:]]


class Objects:
    """Objects of scripted stores, with the sizes that a server gives for them."""

    def __init__(self):
        self.address = TransformAddress(uuid4().hex, EndpointName(None, "http://localhost", None))
        self.rows, self.urls = [], {}
        registry.register(self.address, self)

    def add(self, name, url, nbytes):
        i = len(self.rows)
        self.rows.append(Delivered(i, f"/data/{i}.root", name, nbytes, 10, "today"))
        self.urls[name] = url
        return address(self.address.request_id, name)

    def delivered(self):
        return self.rows

    def held(self, object_name):
        return None

    def wait(self, index, timeout_s=None):
        raise TimeoutError

    def signed_url(self, object_name, *, refresh=False):
        return SignedUrl(self.urls[object_name], {}, time.time() + 60)


def test_the_protocol_is_registered(fs):
    assert isinstance(fs, ServiceXFileSystem)


def test_open_and_read(url, content):
    with fsspec.open(url) as file:
        assert file.read(10) == content[:10]
        file.seek(-7, 2)
        assert file.read() == content[-7:]
        file.seek(3)
        assert file.read() == content[3:]


def test_info(fs, url, content):
    info = fs.info(url)
    assert (info["size"], info["type"]) == (len(content), "file")
    assert fs.size(url) == len(content)
    assert fs.exists(url)
    assert fs.isfile(url)


# -- lists and facts


def test_a_result_beside_a_file_that_failed(
    fs, servicex, watching, selection, nano_files, tmp_path
):
    bad = tmp_path / "bad.root"
    bad.write_bytes(b"root" + bytes(300))
    poller = watching(servicex, selection, [nano_files[0], str(bad)])
    where = f"servicex://{poller.address.request_id}"
    assert fs.info(f"{where}/@0")["input_file"] == nano_files[0]
    with pytest.raises(ObjectGone, match=str(bad)):
        fs.info(f"{where}/@1")
    assert fs.info(f"{where}/@0")["size"] > 0


def test_the_files_of_a_request(fs, request_id, nano_files, requests):
    infos = fs.ls(f"servicex://{request_id}")
    assert [info["input_file"] for info in infos] == nano_files[:2]
    assert [info["n_events"] for info in infos] == [500, 500]
    assert all(info["size"] > 10_000 and info["type"] == "file" for info in infos)
    assert fs.ls(request_id, detail=False) == [info["name"] for info in infos]
    assert requests() == []


def test_the_list_of_an_object(fs, url):
    assert fs.ls(url) == [fs.info(url)]
    assert fs.ls(url, detail=False) == [url.removeprefix("servicex://")]
    with pytest.raises(ObjectGone):
        fs.ls(url + "x")


def test_nothing_is_listed_before_it_is_delivered(fs, servicex, watching, selection, nano_files):
    poller = watching(servicex, selection, nano_files[:2])
    assert fs.ls(poller.address.request_id) == []
    fs.info(f"{poller.address.request_id}/@1")
    assert fs.ls(poller.address.request_id)


def test_info_of_a_result_makes_no_request(fs, url, nano_files, content, requests):
    info = fs.info(url)
    assert (info["input_file"], info["n_events"]) == (nano_files[0], 500)
    assert info["name"] == url.removeprefix("servicex://")
    assert fs.sizes([url, url]) == [len(content)] * 2
    assert requests() == []


def test_info_of_an_object_that_is_no_result(fs, scripted):
    objects = Objects()
    url = objects.add("log.txt", scripted(serve_file(b"0123456789")).url, 7)
    objects.rows.clear()
    name = url.removeprefix("servicex://")
    assert fs.info(url) == {"name": name, "size": 10, "type": "file"}


def test_files_and_directories(fs, url, request_id):
    assert [fs.exists(p) for p in (request_id, url, url + "x", "nobodys")] == [
        True,
        True,
        False,
        False,
    ]
    assert [fs.isfile(p) for p in (request_id, url, url + "x")] == [False, True, False]
    assert [fs.isdir(p) for p in (request_id, url, url + "x")] == [True, False, False]


def test_finding(fs, request_id, content):
    names = fs.ls(request_id, detail=False)
    assert fs.find(f"servicex://{request_id}") == names
    assert fs.glob(f"servicex://{request_id}/*nano_1*") == names[1:]
    heads = [name.partition("/")[2] for name in names]
    assert list(fs.walk(request_id)) == [(request_id, [], heads)]
    assert fs.du(request_id) == sum(fs.sizes(names))


# -- reading


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, None), (0, None), (None, 10), (5, 10), (-10, None), (None, -10), (-10, -3),
        (5, -5), (0, 0), (10, 5), (-3, -10), (0, 10**9), (10**9, None), (10**9, 10**9 + 1),
        (-(10**9), 4), (None, 0), (-1, None), (0, 1),
    ],
)  # fmt: skip
def test_cat_file_is_slicing(fs, url, content, start, end):
    assert fs.cat_file(url, start, end) == content[slice(start, end)]


def test_cat(fs, url, content):
    assert fs.cat(url) == content


def test_get(fs, url, content, tmp_path):
    fs.get(url, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize("block_size", [64, 1000, None])
def test_any_block_size(fs, url, content, block_size):
    with fs.open(url, block_size=block_size) as file:
        assert file.size == len(content)
        for start, n in [(5, 10), (3, 0), (len(content) - 3, 10), (0, 2000), (900, 200)]:
            file.seek(start)
            assert file.read(n) == content[start : start + n]
        file.seek(0)
        assert file.read() == content


def test_a_small_file_is_one_request(fs, url, content, requests):
    with fs.open(url) as file:
        assert file.read(4) == content[:4]
        file.seek(-4, 2)
        assert file.read() == content[-4:]
        assert pickle.loads(pickle.dumps(file)).read() == b""
    assert [path.endswith(".root") for _, path in requests()].count(True) == 2


def test_a_large_file_is_read_in_blocks(fs, scripted):
    content = bytes(range(256)) * 1000
    server = scripted(serve_file(content))
    objects = Objects()
    url = objects.add("large", server.url, len(content))
    with fs.open(url, block_size=100_000) as file:
        assert file.read(10) == content[:10]
        assert len(server.asked) == 2
        file.seek(-8, 2)
        assert file.read() == content[-8:]
        copy = pickle.loads(pickle.dumps(file))
        copy.seek(0)
        assert copy.read() == content
    assert len(server.asked) < 10


@pytest.mark.sampled(4)
@pytest.mark.parametrize("claimed", [0, 3, 900, 5000, 10**8])
@pytest.mark.parametrize("block_size", [100, None])
def test_a_row_with_a_wrong_size_shortens_nothing(fs, scripted, tmp_path, claimed, block_size):
    content = bytes(range(250)) * 4
    objects = Objects()
    url = objects.add("o", scripted(serve_file(content)).url, claimed)
    with fs.open(url, block_size=block_size) as file:
        assert file.read() == content
        file.seek(-3, 2)
        assert file.read() == content[-3:]
    fs.get(url, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == content
    assert fs.cat_file(url, -5) == content[-5:]
    assert fs.cat_ranges([url] * 3, [0, 990, -5], [10, 999, None]) == [
        content[:10], content[990:999], content[-5:]
    ]  # fmt: skip
    assert fs.cat_ranges([url] * 2, [990, None], [10_000, 5]) == [content[990:], content[:5]]


def test_an_empty_object(fs, scripted):
    objects = Objects()
    url = objects.add("empty", scripted(serve_file(b"")).url, 0)
    with fs.open(url) as file:
        assert (file.size, file.read()) == (0, b"")
    assert fs.cat_ranges([url], [0], [10]) == [b""]


@pytest.mark.parametrize("replacement", [bytes(100_000), b"shorter"])
def test_an_object_that_is_replaced_while_it_is_read(fs, scripted, replacement):
    play = [serve_file(bytes(100_000))]
    objects = Objects()
    url = objects.add("o", scripted(lambda request: play[0](request)).url, 100_000)
    with fs.open(url, block_size=1000) as file:
        file.read(500)
        play[0] = serve_file(replacement, etag='"two"')
        file.seek(50_000)
        with pytest.raises(ObjectReplaced, match="'o' was replaced"):
            file.read()


class Progress(Callback):
    """Keeps the progress of each file."""

    def __init__(self):
        super().__init__()
        self.files = []

    def branched(self, path_1, path_2, **kwargs):
        self.files.append(Callback())
        return self.files[-1]


def test_get_reports_progress(fs, url, request_id, tmp_path):
    progress = Progress()
    fs.get([url, f"{request_id}/@1"], [str(tmp_path / "a"), str(tmp_path / "b")], callback=progress)
    sizes = [(tmp_path / name).stat().st_size for name in "ab"]
    assert sizes == fs.sizes(fs.ls(request_id, detail=False))
    assert (progress.size, progress.value) == (2, 2)
    assert [(file.size, file.value) for file in progress.files] == [(n, n) for n in sizes]


@pytest.mark.parametrize("which", ["", "/", "/*"])
def test_get_all(fs, request_id, tmp_path, which):
    fs.get(f"servicex://{request_id}{which}", str(tmp_path / "all"), recursive=True)
    copies = sorted((tmp_path / "all").iterdir())
    names = fs.ls(request_id, detail=False)
    assert [copy.name for copy in copies] == [name.partition("/")[2] for name in names]
    assert [copy.read_bytes() for copy in copies] == [fs.cat_file(name) for name in names]


def test_get_of_a_missing_object(fs, url, request_id, tmp_path):
    with pytest.raises(ObjectGone):
        fs.get(url + "x", str(tmp_path / "copy"))
    with pytest.raises(AccessError):
        fs.get("servicex://nobodys/a.root", str(tmp_path / "copy"))
    with pytest.raises(ReadError, match="is a request, and no file"):
        fs.open(f"servicex://{request_id}")


class TestOfFsspec(AbstractFixtures):
    """The one test of fsspec's own suite that needs neither writing nor nested directories."""

    test_get_with_source_and_destination_as_list = (
        AbstractGetTests.test_get_with_source_and_destination_as_list
    )

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, scripted):
        objects = Objects()
        names = []
        for i in range(10):
            content = str(i).encode()
            name = f"{hashlib.md5(content).hexdigest()}.txt"
            names.append(objects.add(name, scripted(serve_file(content)).url, 1))
        yield f"servicex://{objects.address.request_id}"  # noqa: PT022 - while they are held

    @pytest.fixture
    def fs(self):
        return fsspec.filesystem("servicex")


def test_cat_ranges(fs, url, content):
    starts, ends = [0, 100, 5, 7], [10, 300, 5, 8]
    found = fs.cat_ranges([url] * 4, starts, ends)
    assert found == [content[a:b] for a, b in zip(starts, ends, strict=True)]
    assert fs.cat_ranges([url, url], 0, 4) == [content[:4]] * 2
    assert fs.cat_ranges([], [], []) == []


def test_cat_ranges_raises_or_returns(fs, url, content):
    bad = url + "x"
    with pytest.raises(ReadError):
        fs.cat_ranges([url, bad], [0, 0], [4, 4], on_error="raise")
    first, second = fs.cat_ranges([url, bad], [0, 0], [4, 4], on_error="return")
    assert first == content[:4]
    assert isinstance(second, ReadError)


def test_more_ranges_than_connections(fs, url, content):
    n = 100
    found = fs.cat_ranges([url] * n, list(range(n)), list(range(1, n + 1)))
    assert b"".join(found) == content[:n]


def test_ranges_of_several_files_are_a_request_each(fs, request_id, requests):
    names = fs.ls(request_id, detail=False)
    contents = [fs.cat_file(name) for name in names]
    before = len(requests())
    paths, starts = [*names, *names, names[0]], [0, 10, 20_000, 4, 77]
    found = fs.cat_ranges(paths, starts, [start + 9 for start in starts])
    assert len(requests()) == before + 2
    for path, start, data in zip(paths, starts, found, strict=True):
        assert data == contents[names.index(path)][start : start + 9]


# -- input files by their index


def test_an_input_file_by_its_index(fs, request_id, nano_files):
    names = fs.ls(request_id, detail=False)
    for i, name in enumerate(names):
        by_index = f"servicex://{request_id}/@{i}"
        assert fs.info(by_index) == fs.info(name)
        assert fs.info(by_index)["input_file"] == nano_files[i]
        assert fs.cat_file(by_index) == fs.cat_file(name)
        assert fs.cat_ranges([by_index], 5, 9) == [fs.cat_file(name, 5, 9)]
        with fs.open(by_index) as file, fs.open(name) as same:
            assert file.read() == same.read()
    with pytest.raises(ObjectGone):
        fs.info(f"{request_id}/@-1")


def test_an_index_beyond_the_input_files_fails_at_once(fs, request_id):
    for index in (2, 10**20):
        with pytest.raises(ReadError, match=f"has 2 input files.* no file {index}"):
            fs.open(f"servicex://{request_id}/@{index}")
        assert not fs.exists(f"{request_id}/@{index}")


def test_opening_waits_until_there_is_a_result(fs, watching, selection, nano_files):
    released = threading.Event()

    async def before_report(path):
        while path != nano_files[1] and not released.is_set():
            await asyncio.sleep(0.01)

    with LocalServiceX(before_report=before_report) as server:
        poller = watching(server, selection, nano_files[:2])
        address = f"servicex://{poller.address.request_id}/@"
        assert fs.cat_file(address + "1", 0, 4) == b"root"
        impatient = fsspec.filesystem("servicex", patience_s=0.3)
        begin = time.monotonic()
        with pytest.raises(ReadError, match=r"Input file 0 .* has no result after 0\.3 s"):
            impatient.open(address + "0")
        assert 0.3 <= time.monotonic() - begin < 5
        assert not impatient.exists(address + "0")
        with pytest.raises(ReadError, match="no result after"):
            fsspec.open(address + "0", patience_s=0.1).open()
        threading.Timer(0.3, released.set).start()
        with fs.open(address + "0") as file:
            assert file.read(4) == b"root"
            assert released.is_set()
        poller.close()


@pytest.fixture
def one_bad(nano_files, tmp_path):
    bad = tmp_path / "bad.root"
    bad.write_bytes(b"root" + bytes(300))
    return [nano_files[0], str(bad)]


def test_an_input_file_that_failed(fs, servicex, watching, selection, one_bad):
    poller = watching(servicex, selection, one_bad)
    with pytest.raises(ObjectGone, match=r"no result of .*bad\.root: ServiceX could not") as caught:
        fs.open(f"servicex://{poller.address.request_id}/@1")
    assert caught.value.input_file == one_bad[1]
    assert not fs.exists(f"{poller.address.request_id}/@1")
    paths = [f"{poller.address.request_id}/@{i}" for i in (0, 1)]
    first, second = fs.cat_ranges(paths, 0, 4, on_error="return")
    assert first == b"root"
    assert isinstance(second, ObjectGone)


def test_a_failure_that_ends_all_hides_no_result(fs, watching, selection, one_bad):
    released = threading.Event()

    async def before_report(path):
        while path == one_bad[1] and not released.is_set():
            await asyncio.sleep(0.01)

    with LocalServiceX(before_report=before_report) as server:
        poller = watching(server, selection, one_bad)
        poller.wait(0)
        released.set()
        with pytest.raises(ObjectGone, match=r"bad\.root"):
            fs.open(f"servicex://{poller.address.request_id}/@1")
        assert fs.cat_file(f"{poller.address.request_id}/@0", 0, 4) == b"root"
        poller.close()


# -- with other packages


@pytest.fixture(scope="module")
def by_index(servicex, nano_files):
    """Addresses of two files of a format: ``by_index("parquet")``."""
    pollers = {}

    def submit(result_format):
        if result_format not in pollers:
            selection = select(
                columns("MET_pt", "Muon_pt"), codegen="uproot", result_format=result_format
            )
            client = ServiceXClient(find_endpoint(EndpointName(None, servicex.url, None)))
            request_id = client.submit(selection, did=None, files=nano_files[:2])
            where = TransformAddress(request_id, client.endpoint.name)
            pollers[result_format] = Poller(client, where, InputFiles(tuple(nano_files[:2])), FAST)
        return [f"servicex://{pollers[result_format].address.request_id}/@{i}" for i in range(2)]

    yield submit
    for poller in pollers.values():
        poller.close()


@pytest.fixture(scope="module")
def truth(nano_files):
    return uproot.concatenate([f"{path}:Events" for path in nano_files[:2]], ["MET_pt", "Muon_pt"])


def agrees(array, truth):
    return len(array) == len(truth) and all(
        ak.array_equal(ak.drop_none(array[name]), truth[name], check_parameters=False)
        for name in ("MET_pt", "Muon_pt")
    )


@pytest.mark.parametrize("result_format", ["root-file", "root-rntuple"])
def test_uproot(by_index, truth, result_format):
    paths = by_index(result_format)
    with uproot.open({paths[0]: "servicex"}) as tree:
        assert agrees(tree.arrays(["MET_pt", "Muon_pt"]), truth[:500])
    together = uproot.concatenate(dict.fromkeys(paths, "servicex"), ["MET_pt", "Muon_pt"])
    assert agrees(together, truth)
    events = uproot.dask([{path: "servicex"} for path in paths])
    assert agrees(events.compute(scheduler="threads"), truth)


def test_awkward(by_index, truth):
    paths = by_index("parquet")
    assert agrees(ak.from_parquet(paths[0]), truth[:500])
    assert agrees(ak.from_parquet(paths), truth)
    assert agrees(ak.from_parquet(paths[0].rpartition("/")[0]), truth)
    assert ak.from_parquet(paths, columns=["MET_pt"]).fields == ["MET_pt"]


def test_dask_awkward(by_index, truth):
    paths = by_index("parquet")
    assert agrees(dak.from_parquet(paths).compute(scheduler="threads"), truth)
    assert agrees(dak.from_parquet(paths[1]).compute(scheduler="synchronous"), truth[500:])


def test_pyarrow(fs, by_index, truth):
    path = by_index("parquet")[0].removeprefix("servicex://")
    with fs.open(path) as file:
        assert agrees(ak.from_arrow(pyarrow.parquet.ParquetFile(file).read()), truth[:500])
    arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    table = pyarrow.parquet.read_table(path, filesystem=arrow)
    assert agrees(ak.from_arrow(table), truth[:500])
    fs.info(path.replace("@0", "@1"))
    every = pyarrow.dataset.dataset(path.rpartition("/")[0], filesystem=arrow, format="parquet")
    assert every.count_rows() == 1000


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
@pytest.mark.parametrize("is_by_index", [True, False])
def test_caches(fs, request_id, tmp_path, requests, cache, is_by_index):
    name = fs.ls(request_id, detail=False)[1]
    path = f"{request_id}/@1" if is_by_index else name
    where = {cache: {"cache_storage": str(tmp_path)}}
    content = fs.cat_file(name)
    for _ in range(2):
        with fsspec.open(f"{cache}::servicex://{path}", **where) as file:
            assert file.read() == content
    before = len(requests())
    with fsspec.open(f"{cache}::servicex://{path}", **where) as file:
        assert file.read() == content
    assert len(requests()) == before
    with uproot.open({f"{cache}::servicex://{path}": "servicex"}, **where) as tree:
        assert tree.num_entries == 500


# fsspec leaves the file of its cache open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cache_of_blocks(fs, request_id, tmp_path, requests):
    content = fs.cat_file(f"{request_id}/@1")
    where = {"cache_storage": str(tmp_path)}
    for _ in range(3):
        with fsspec.open(f"blockcache::servicex://{request_id}/@1", blockcache=where) as file:
            assert file.read() == content
        assert len(requests()) == 3
    gc.collect()


def test_uproot_opens_it(url):
    with uproot.open({url: "servicex"}) as tree:
        assert tree.num_entries == 500
        assert len(ak.flatten(tree["Muon_pt"].array())) > 0
    events = uproot.dask({url: "servicex"}, open_files=False)
    assert len(events.MET_pt.compute(scheduler="synchronous")) == 500


def test_a_local_cache_in_front(url, content, tmp_path):
    with fsspec.open(f"simplecache::{url}", simplecache={"cache_storage": str(tmp_path)}) as file:
        assert file.read() == content
    assert [p.stat().st_size for p in tmp_path.iterdir() if p.is_file()] == [len(content)]


def test_names_with_odd_characters(servicex, watching, selection, nano_files, tmp_path):
    names = ["a b.root", "a%20b.root", "ä+&=.root", "x#y.root", "a;b@c.root", "q?r.root"]
    paths = [str(tmp_path / name) for name in names]
    for path in paths:
        shutil.copyfile(nano_files[0], path)
    poller = watching(servicex, selection, paths)
    for i, name in enumerate(names):
        outcome = poller.wait(i)
        url = address(poller.address.request_id, outcome.object_name)
        with uproot.open({url: "servicex"}) as tree:
            assert tree.num_entries == 500, name


def test_names_that_look_like_chains(scripted, nano_files, tmp_path):
    """Names of results of XRootD URLs have two colons in a row."""
    content = b"root of evil"
    objects = Objects()
    name = "root:::eospublic.cern.ch::eos:nano.root"
    url = objects.add(name, scripted(serve_file(content)).url, len(content))
    assert url.endswith("/root%3A%3A:eospublic.cern.ch%3A:eos:nano.root")
    with fsspec.open(url) as file:
        assert file.read() == content
    where = {"simplecache": {"cache_storage": str(tmp_path)}}
    with fsspec.open(f"simplecache::{url}", **where) as file:
        assert file.read() == content
    (listed,) = fsspec.filesystem("servicex").ls(objects.address.request_id, detail=False)
    assert f"servicex://{listed}" == url


@given(st.text(":%235Aaé@ ?*", min_size=1).filter(lambda name: not name.startswith("@")))
@example("%3A%253A::%25:::")
def test_any_name_comes_back_from_its_address(name):
    where = address("d857", name)
    assert "::" not in where.replace("://", "", 1)
    assert split_address(where) == ("d857", name)


def test_an_unknown_request():
    with pytest.raises(AccessError, match="does not know the ServiceX request nobodys"):
        fsspec.filesystem("servicex").cat_file("servicex://nobodys/:a.root")


def test_after_the_poller_is_closed(servicex, watching, selection, nano_files, fs):
    poller = watching(servicex, selection, nano_files[:1])
    url = address(poller.address.request_id, poller.wait(0).object_name)
    poller.close()
    with pytest.raises(ServiceXError):
        fs.cat_file(url)


def test_another_process_cannot_open_it(url):
    code = f"import fsspec; fsspec.filesystem('servicex').info({url!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "AccessError" in done.stderr


def test_an_unknown_object(fs, url):
    with pytest.raises(ReadError):
        fs.cat_file(url + "x")
    with pytest.raises(ObjectGone, match="404"):
        fs.info(url + "x")
    assert not fs.exists(url + "x")


@pytest.mark.parametrize("path", ["servicex://", "servicex://nobodys", "servicex:///a", ""])
def test_incomplete_addresses(fs, path):
    with pytest.raises(ReadError):
        fs.info(path)


def test_the_address_holds_no_secret(content_and_url):
    _, url, poller = content_and_url
    assert url.startswith(f"servicex://{poller.address.request_id}/:")
    assert "?" not in url


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda fs, url: fs.pipe_file(url, b"x"), id="pipe"),
        pytest.param(lambda fs, url: fs.open(url, "wb"), id="open"),
        pytest.param(lambda fs, url: fs.open(url, "a"), id="append"),
        pytest.param(lambda fs, url: fs.touch(url), id="touch"),
        pytest.param(lambda fs, url: fs.rm(url), id="rm"),
        pytest.param(lambda fs, url: fs.cp(url, url + "x"), id="cp"),
        pytest.param(lambda fs, url: fs.put(__file__, url), id="put"),
    ],
)
def test_writing_is_refused(fs, url, content, write):
    with pytest.raises((NotImplementedError, OSError, ValueError)):
        write(fs, url)
    assert fs.cat_file(url) == content


# -- conventions of fsspec


def test_there_is_one_file_system_for_the_same_options(fs):
    assert fsspec.filesystem("servicex", policy=ReadPolicy(missing_pauses_s=(0.01, 0.01))) is fs
    assert pickle.loads(pickle.dumps(fs)) is fs
    fs = fsspec.filesystem("servicex")
    assert fs is fsspec.filesystem("servicex")
    patient = fsspec.filesystem("servicex", patience_s=5)
    assert patient is not fs
    assert patient is fsspec.filesystem("servicex", patience_s=5)
    assert pickle.loads(pickle.dumps(patient)) is patient
    again = ServiceXFileSystem.from_json(patient.to_json())
    assert again.patience_s == 5


def test_from_a_url_to_a_file_system():
    fs = fsspec.filesystem("servicex")
    assert fsspec.core.url_to_fs("servicex://d857/@3") == (fs, "d857/@3")
    impatient, path = fsspec.core.url_to_fs("servicex://d857/:a:b.root", patience_s=2)
    assert (impatient.patience_s, path) == (2, "d857/:a:b.root")
    assert fs.unstrip_protocol(path) == "servicex://d857/:a:b.root"
