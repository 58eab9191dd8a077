"""``servicex://``: delivered files for everything that opens fsspec URLs."""

from __future__ import annotations

import shutil
import subprocess
import sys

import awkward as ak
import fsspec
import httpx
import pytest
import uproot

from coffea_sx.dataset import InputFiles
from coffea_sx.errors import AccessError, ObjectGone, ReadError, ServiceXError
from coffea_sx.storage.filesystem import ServiceXFileSystem, address
from coffea_sx.transform.client import ServiceXClient
from coffea_sx.transform.endpoint import EndpointName, find_endpoint
from coffea_sx.transform.source import TransformAddress
from coffea_sx.transform.watch import Watch


@pytest.fixture(scope="module")
def content_and_url(servicex, nano_files, selection):
    """One delivered file: its bytes and its address, and the watch that must be held."""

    client = ServiceXClient(find_endpoint(EndpointName(None, servicex.url, None)))
    request_id = client.submit(selection, did=None, files=nano_files[:2])
    where = TransformAddress(request_id, client.endpoint.name, "raise")
    watch = Watch(client, where, InputFiles(tuple(nano_files[:2])))
    outcome = watch.wait(0)
    grant = watch.grant(outcome.object_name)
    content = httpx.get(grant.url, headers=grant.headers).content
    assert len(content) == outcome.nbytes
    yield content, address(request_id, outcome.object_name), watch
    watch.close()


@pytest.fixture
def content(content_and_url):
    return content_and_url[0]


@pytest.fixture
def url(content_and_url):
    return content_and_url[1]


@pytest.fixture
def fs():
    return fsspec.filesystem("servicex")


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
    watch = watching(servicex, selection, paths, "skip")
    for i, name in enumerate(names):
        outcome = watch.wait(i)
        url = address(watch.address.request_id, outcome.object_name)
        with uproot.open({url: "servicex"}) as tree:
            assert tree.num_entries == 500, name


def test_an_unknown_request():
    with pytest.raises(AccessError, match="does not know the ServiceX request nobodys"):
        fsspec.filesystem("servicex").cat_file("servicex://nobodys/:a.root")


def test_after_the_watch_is_closed(servicex, watching, selection, nano_files, fs):
    watch = watching(servicex, selection, nano_files[:1])
    url = address(watch.address.request_id, watch.wait(0).object_name)
    watch.close()
    with pytest.raises(ServiceXError):
        fs.cat_file(url)


def test_another_process_knows_nothing(url):
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
    _, url, watch = content_and_url
    assert url.startswith(f"servicex://{watch.address.request_id}/:")
    assert "?" not in url


def test_writing_is_refused(fs, url):
    with pytest.raises((NotImplementedError, OSError, ValueError)):
        fs.pipe_file(url, b"x")
