"""Input files: their order, their names in the store, and ambiguous lists."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from servicex import dataset as d
from servicex.minio_adapter import MinioAdapter
from support.strategies import input_files
from uproot._util import _regularize_files_inner
from uproot.behaviors.TBranch import HasBranches

from coffea_sx.dataset import (
    MAX_OBJECT_NAME,
    InputFiles,
    check_brackets,
    check_converted_names,
    checked_files,
    identify,
    object_name,
)
from coffea_sx.errors import DatasetError


@pytest.mark.parametrize(
    ("given_files", "message"),
    [
        (["/a.root", "/b.root", "/a.root"], "/a.root.*twice"),
        (["a.root", "./a.root"], "twice"),
        (["/d/a.root", "/d/../d/a.root"], "twice"),
        ("rucio://user.me:ttbar", r"dataset\.Rucio\('user\.me:ttbar'\)"),
        (["cernopendata://1507"], r"dataset\.CERNOpenData\('1507'\)"),
        (["/a.root", "/b,c.root"], "comma in '/b,c.root'"),
        (["/a.root", "none"], "what ServiceX writes for the result of a file that failed"),
        (["/data/a:b.root", "/data/a/b.root"], "same object name"),
        (["/d/a.root", ":d:a.root"], "same object name"),
        (["davs://se.org/a.root", "https://se.org/a.root"], "."),
        (["root://cache.org//root://se.org//a.root", "root://se.org//a.root"], "."),
        # In Parquet, and behind a cache.
        (["/d/a", "/d/a.parquet"], "same object name"),
        (["root://se.org//d/a.root", "d/a.root"], "same object name.*reads through a cache"),
        (["/d/a.root", "root://se.org///d/a.root"], "same object name.*reads through a cache"),
        (["/d/nano_*.root"], r"'/d/nano_\*\.root' is a pattern"),
        (["/d/nano_?.root"], "is a pattern"),
        (["file:///d/nano_?.root"], "is a pattern"),
        (["https://se.org/d/*.root"], r"is a pattern.*List the files\.$"),
        (["root://se.org//d/*.root"], r"dataset\.XRootD\('root://se\.org//d/\*\.root'\)"),
        ([], "empty"),
        ((), "empty"),
        ("", "empty"),
        (["/a.root", ""], "empty"),
        (d.FileList([]), "empty"),
        (d.FileList(["/a.root", "/a.root"]), "twice"),
        (None, "NoneType"),
        (3, "int"),
        ({"/a.root", "/b.root"}, "set"),
        ({"/a.root": 3}, "int"),
        (iter(["/a.root"]), "list_iterator"),
        (b"/a.root", "."),
        ([b"/a.root"], "."),
        ([None], "."),
        (["/a.root", 3], "."),
    ],
    ids=itertools.count(),
)
def test_refused(given_files, message):
    with pytest.raises(DatasetError, match=message):
        identify(given_files)


def test_the_error_names_the_file():
    with pytest.raises(DatasetError) as caught:
        identify(["/b.root", "/a.root", "/a.root"])
    assert caught.value.input_file == "/a.root"


def test_two_long_paths_with_one_tail_are_two_objects():
    tail = "x" * 300 + ".root"
    files = identify([f"/a/{tail}", f"/b/{tail}"]).files
    assert files.index_of("elsewhere", object_name(f"/b/{tail}")) == 1


def test_the_list_of_the_caller_is_neither_sorted_nor_kept():
    mine = ["/z.root", "/a.root", "/m.root"]
    found = identify(mine)
    assert mine == ["/z.root", "/a.root", "/m.root"]
    assert found.files.paths == ("/z.root", "/a.root", "/m.root")
    mine.append("/b.root")
    assert len(found.files) == 3


def test_a_file_list_of_servicex_keeps_its_order():
    mine = ["/z.root", "/a.root"]
    found = identify(d.FileList(mine))
    assert (found.did, found.files.paths) == (None, ("/z.root", "/a.root"))
    assert mine == ["/z.root", "/a.root"]


@pytest.mark.parametrize(
    "dataset", ["/data/a.root", Path("/data/a.root"), d.FileList("/data/a.root"), ["/data/a.root"]]
)
def test_one_file(dataset):
    assert identify(dataset).files.paths == ("/data/a.root",)


def test_paths_become_text():
    assert identify([Path("/a.root"), "/b.root"]).files.paths == ("/a.root", "/b.root")


@pytest.mark.parametrize(
    ("dataset", "did"),
    [
        (d.Rucio("user.me:ttbar"), "rucio://user.me:ttbar"),
        (d.Rucio("user.me:ttbar", num_files=3), "rucio://user.me:ttbar?files=3"),
        (d.CERNOpenData(6004), "cernopendata://6004"),
        (d.XRootD("root://se.org//store/*.root"), "xrootd://root://se.org//store/*.root"),
    ],
)
def test_dids_are_left_to_the_server(dataset, did):
    assert identify(dataset).did == did
    assert identify(dataset).files is None


def test_a_dataset_is_a_value():
    assert identify(["/a.root"]) == identify(["/a.root"])
    assert len({identify(["/a.root"]), identify(["/a.root"])}) == 1
    assert identify(["/a.root", "/b.root"]) != identify(["/b.root", "/a.root"])


@given(st.text("abc/:ä", min_size=1, max_size=12), st.integers(0, 300))
def test_object_name_is_what_the_servicex_client_expects(path, length):
    path += "x" * length
    assert object_name(path) == OfServers.hash_path(path.replace("/", ":"))


class OfServers(MinioAdapter):
    """The servicex client shortens the names of local files by the rule of servers, but to 60."""

    MAX_PATH_LEN = MAX_OBJECT_NAME


@pytest.mark.parametrize("length", [254, 255, 256, 257, 1000])
def test_object_names_are_never_too_long(length):
    name = object_name("x" * length)
    assert len(name) == min(length, MAX_OBJECT_NAME)


@pytest.mark.parametrize(
    ("submitted", "in_the_row"),
    [
        ("/data/a.root", "/data/a.root"),
        ("davs://se.org:2880/a.root", "https://se.org:2880/a.root"),
        ("root://se.org//a.root", "root://cache.org//root://se.org//a.root"),
        ("davs://se.org/a.root", "root://cache.org//https://se.org/a.root"),
        ("http://se.org/a.root", "root://cache.org//http://se.org/a.root"),
        ("root://cache.org//root://se.org//a.root", "root://se.org//a.root"),
        ("root://se.org//a.root,https://se.org/a.root", "https://se.org/a.root"),
        ("davs://one.org/a.root,root://two.org//a.root", "root://two.org//a.root"),
        ("davs://one.org/a.root,root://two.org//a.root", "https://one.org/a.root"),
        (
            "http://one.org/a.root,root://two.org//a.root",
            "root://cache.org//root://two.org//a.root",
        ),
    ],
)
def test_the_path_in_a_row_may_be_written_otherwise(submitted, in_the_row):
    files = InputFiles(("/first.root", submitted, "/last.root"))
    assert files.index_of(in_the_row, "none") == 1


@pytest.mark.parametrize(
    "path",
    [
        "https://se.org/a.root?version=2",
        "root://se.org//a.root?authz=x",
        *("/d/[a.root", "/d/[].root", "/d/[!].root", "/d/[a/b].root"),
    ],
)
def test_no_patterns(path):
    check_brackets(identify([path]).files)


@pytest.mark.parametrize(
    "path",
    [
        "/d/a[1].root",
        "/d/[]].root",
        "/d/[!a].root",
        "/d/{a}.root",
        "file:///d/a].root",
        "local:///{a",
    ],
)
def test_patterns_of_uproot(path):
    with pytest.raises(DatasetError, match="brackets") as caught:
        check_brackets(identify(["/d/b.root", path]).files)
    assert caught.value.input_file == path


@given(st.text("ab[]{}!-*?", min_size=1, max_size=8))
@example("[]")
@example("[!]")
@example("[!]]")
def test_what_is_refused_is_what_uproot_takes_for_a_pattern(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("files")
    path = str(folder / f"{name}.root")
    for neighbour in (name, name.replace("*", "x").replace("?", "x")):
        (folder / f"{neighbour}.root").touch()
    # What uproot.dask makes of the keys of a dict.
    opened = [found[0] for found in _regularize_files_inner(path, False, [0], HasBranches, False)]
    try:
        check_brackets(checked_files([path]))
    except DatasetError:
        assert opened != [path]
    else:
        assert opened == [path]


def test_names_that_conversion_makes_one():
    check_converted_names(identify(["/d/a.root", "/d/b.root", "/d.x/a"]).files)
    with pytest.raises(DatasetError, match=r"':d:a\.root\.parquet' in Parquet") as caught:
        check_converted_names(identify(["/d/a.root.1", "/d/b.root", "/d/a.root.2"]).files)
    assert caught.value.input_file == "/d/a.root.2"


@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_an_object_name_is_enough(suffix):
    files = InputFiles(("/a.root", "davs://se.org/b.root,/c.root"))
    assert files.index_of("?", ":a.root" + suffix) == 0
    assert files.index_of("?", object_name("https://se.org/b.root" + suffix)) == 1
    assert files.index_of("?", ":c.root" + suffix) == 1


def test_an_unknown_row_has_no_index():
    files = InputFiles(("/a.root", "none"))
    assert files.index_of("/b.root", ":b.root") is None
    assert files.index_of("/b.root", "none") is None
    assert files.index_of("", "") is None


@given(input_files())
def test_each_file_is_found_by_path_and_by_object(files):
    for i, path in enumerate(files.paths):
        assert files.index_of(path, object_name(path)) == i
        assert files.index_of(path, "none") == i
        assert files.index_of("unknown", object_name(as_read(path))) == i


@given(input_files(), st.sampled_from(["root://cache.org//", "root://cache.org:1094//"]))
def test_each_file_is_found_behind_a_cache(files, cache):
    for i, path in enumerate(files.paths):
        if "://" in path:
            assert files.index_of(cache + as_read(path), "none") == i


CACHES = st.sampled_from(
    ["xcache.host:1094", "192.170.240.18:1094", "//xcache-cms-local:", "[::1]:1094", "a" * 60]
)


def of_transformer(path: str, suffix: str) -> str:
    """Name what a transformer makes of a path that it reads, as it does."""
    if suffix == "converted":
        return Path(OfServers.hash_path(path.replace("/", ":"))).with_suffix(".parquet").name
    return OfServers.hash_path(path.replace("/", ":") + suffix)


@given(input_files(), CACHES, st.sampled_from(["", ".parquet", "converted"]))
def test_each_object_is_found_behind_a_cache(files, cache, suffix):
    """A server of 2024 lists names of objects only, others list the paths too."""
    read = [as_read(path) for path in files.paths]
    for before in ("", f"root://{cache}//"):
        names = [of_transformer(before + path, suffix) for path in read]
        for i, name in enumerate(names):
            if names.count(name) == 1:
                assert files.index_of("", name) == i
                assert files.owner_of(name) == i
                assert files.index_of(before + read[i], "none") == i
                assert files.index_of(before + read[i], name) == i


ENDS = [
    "/d/a.root",
    "d/a.root",
    "a.root",
    "c/d/a.root",
    "c//a.root",
    "https://b/d/a.root",
    "root://b//d/a.root",
    "root://b///d/a.root",
    "root://b//c/d/a.root",
    "root://x//a.root",
]


@given(
    st.lists(st.sampled_from(ENDS), min_size=2, max_size=4, unique=True),
    st.sampled_from(["", "root://b//", "root://x//", "root://c.org:1094//"]),
    st.sampled_from(["", ".parquet"]),
)
def test_paths_that_end_as_others_are_refused_or_told_apart(paths, cache, suffix):
    try:
        files = checked_files(paths)
    except DatasetError:
        return
    for i, path in enumerate(paths):
        assert files.index_of(cache + path, "none") == i
        assert files.owner_of(of_transformer(cache + path, suffix)) == i


def test_most_of_such_paths_are_told_apart():
    assert checked_files([*ENDS[:4], "https://b/d/a.root", "root://b//c/d/e.root"])


def test_a_name_that_may_be_of_two_files_has_no_owner():
    tail = "x" * 300 + ".root"
    files = identify([f"/a/{tail}", f"/b/{tail}", "/c.root.1", "/c.root.2"]).files
    cached = [of_transformer(f"root://x:1094/{path}", "") for path in files.paths[:2]]
    assert [files.owner_of(name) for name in cached] == [None, None]
    assert files.owner_of(":c.root.parquet") is None
    # The path of a row is enough.
    assert files.index_of(f"root://x:1094//{files.paths[1]}", cached[1]) == 1
    assert files.index_of("/c.root.2", ":c.root.parquet") == 3


def test_an_object_of_another_file():
    files = identify(["/a.root", "/b.root"]).files
    # By its path the row is about this file; its object is not.
    assert files.index_of("/b.root", ":a.root") == 1
    assert files.owner_of(":a.root") == 0
    assert files.owner_of("none") is None
    assert files.owner_of(":strange.root") is None


def as_read(path: str) -> str:
    """Write a path as transformers do."""
    return "https://" + path.removeprefix("davs://") if path.startswith("davs://") else path


TWINS = ["/a", ":a", "davs://h/a", "https://h/a", "root://h//a", "root://c//root://h//a", "none"]


@given(st.lists(st.sampled_from(TWINS), max_size=4, unique=True) | st.lists(st.text(max_size=6)))
def test_any_list_is_refused_or_unambiguous(paths):
    try:
        files = checked_files(paths)
    except DatasetError:
        return
    assert files.paths == tuple(paths)
    indices = list(range(len(paths)))
    assert [files.index_of(path, "none") for path in paths] == indices
    assert [files.index_of("?", object_name(as_read(path))) for path in paths] == indices
