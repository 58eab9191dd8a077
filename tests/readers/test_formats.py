"""All formats and stores give the same events, or the same error."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import awkward as ak
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import uproot
from support.schemas import EVENT_IDS, MUON, Quiet
from support.strategies import columns

from coffea_sx.errors import CorruptFile, FormMismatch, ReadError, Truncated
from coffea_sx.forms import OutputForm
from coffea_sx.forms.derivation import form_of_selection
from coffea_sx.forms.input_form import input_form
from coffea_sx.forms.mapping import form_mapping
from coffea_sx.forms.writers import write
from coffea_sx.local import LocalServiceX
from coffea_sx.polling.outcomes import Delivered
from coffea_sx.query import RESULT_FORMATS, select
from coffea_sx.readers.partition import blockwise_reader, read
from coffea_sx.servicex.models import SignedUrl
from coffea_sx.storage.stored import StoredObject, stored_object
from coffea_sx.storage.transfer import ObjectPart
from coffea_sx.testing import S3Store

NAMES = [*EVENT_IDS, "MET_pt", "MET_phi", *MUON]
Put = Callable[[bytes], StoredObject]


# -- stores


class LocalFiles:
    """Objects that are files of this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, content: bytes) -> StoredObject:
        path = self._directory / uuid4().hex
        path.write_bytes(content)

        def fetch(start: int, stop: int | None, wanted: Any = None) -> ObjectPart:
            whole = path.read_bytes()
            ranges = [(start, stop)] if wanted is None else wanted
            pieces = [bytearray(whole[begin:end]) for begin, end in ranges]
            return ObjectPart(pieces, len(content), path.name)

        return StoredObject(path.name, fetch, len(content))


class FileURLs:
    """Objects of the embedded ServiceX, read by URLs."""

    def __init__(self, servicex: LocalServiceX, poller: Any, directory: Path) -> None:
        self._poller = poller
        self._directory = directory
        self._buckets = servicex._running._buckets

    def put(self, content: bytes) -> StoredObject:
        written = self._directory / uuid4().hex
        written.write_bytes(content)
        request_id = self._poller.address.request_id
        md5 = hashlib.md5(content).hexdigest()
        asyncio.run(self._buckets.put(request_id, written.name, written, md5))
        return stored_object(self._poller, written.name, len(content))


class S3Objects:
    """Objects of a real S3 server, with URLs that its client signs."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._bucket = f"reading-{uuid4().hex[:8]}"
        store.client().make_bucket(self._bucket)

    def put(self, content: bytes) -> StoredObject:
        name = uuid4().hex
        self._store.client().put_object(self._bucket, name, io.BytesIO(content), len(content))
        return stored_object(self, name, len(content))

    def held(self, object_name: str) -> None:
        return None

    def signed_url(self, object_name: str, *, refresh: bool = False) -> SignedUrl:
        expires = timedelta(seconds=60)
        url = self._store.client().presigned_get_object(self._bucket, object_name, expires=expires)
        return SignedUrl(url, {}, time.time() + 60)


@pytest.fixture(params=["file-urls", "S3", "local file"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Put:
    """Put content into a store of each kind."""
    store: Any
    if request.param == "local file":
        store = LocalFiles(tmp_path)
    elif request.param == "S3":
        store = S3Objects(request.getfixturevalue("s3_store"))
    else:
        servicex, watching, files = map(
            request.getfixturevalue, ("servicex", "watching", "nano_files")
        )
        poller = watching(servicex, select(columns("MET_pt"), codegen="uproot"), files[:1])
        poller.wait(0)
        store = FileURLs(servicex, poller, tmp_path)
    put: Put = store.put
    return put


# -- files


@pytest.fixture(scope="module")
def truth(nano_files: list[str]) -> Any:
    with uproot.open({nano_files[0]: "Events"}) as tree:
        return tree.arrays(NAMES)


@pytest.fixture(scope="module", params=RESULT_FORMATS)
def delivered(request: pytest.FixtureRequest, nano_files: list[str]) -> OutputForm:
    selection = select(columns(*NAMES), codegen="uproot", result_format=request.param)
    return form_of_selection(selection, input_form({nano_files[0]: "Events"}, None))


def written(events: Any, delivered: OutputForm) -> bytes:
    """Write events as a server does."""
    file = Unclosed()
    write(events, file, delivered.result_format)
    return file.getvalue()


class Unclosed(io.BytesIO):
    """Memory that outlives the writer."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def content(truth: Any, delivered: OutputForm) -> bytes:
    return written(truth, delivered)


def events_of(
    stored: StoredObject,
    delivered: OutputForm,
    only: list[str] | None = None,
    step: int = 0,
    steps: int = 1,
    **facts: Any,
) -> Any:
    """Read a partition, as a task of the graph does."""
    reader = blockwise_reader(delivered, form_mapping(delivered, Quiet))
    if only is not None:
        reader = reader.project_manually(frozenset(only))
    outcome = Delivered(0, "/data/in.root", stored.name, stored.size, 500, "today")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read(stored, replace(outcome, **facts), delivered, reader, step, steps)


# -- the suite


def test_plain(put: Put, content: bytes, delivered: OutputForm, truth: Any) -> None:
    stored = put(content)
    events = events_of(stored, delivered)
    assert len(events) == len(truth) == 500
    assert set(events.fields) == {"run", "luminosityBlock", "event", "MET", "Muon"}
    assert ak.array_equal(ak.without_parameters(events.Muon.pt), truth.Muon_pt)
    assert ak.array_equal(ak.without_parameters(events.Muon.charge), truth.Muon_charge)
    assert ak.array_equal(ak.without_parameters(events.MET.pt), truth.MET_pt)
    assert ak.array_equal(ak.without_parameters(events.event), truth.event)
    assert stored.n_requests <= 2


@pytest.mark.sampled(7)
@pytest.mark.parametrize("only", [["MET_pt"], ["Muon_pt"], ["Muon_pt", "Muon_charge", "run"], []])
def test_projected(
    put: Put, content: bytes, delivered: OutputForm, truth: Any, only: list[str]
) -> None:
    events = events_of(put(content), delivered, only)
    assert len(events) == 500
    for name in only:
        collection, _, field = name.partition("_")
        column = events[collection][field] if field else events[collection]
        assert ak.array_equal(ak.without_parameters(column), truth[name])


@pytest.mark.sampled(7)
@pytest.mark.parametrize("steps", [2, 3, 7])
def test_in_steps(put: Put, content: bytes, delivered: OutputForm, truth: Any, steps: int) -> None:
    parts = [events_of(put(content), delivered, None, i, steps) for i in range(steps)]
    assert ak.array_equal(ak.without_parameters(ak.concatenate(parts).Muon.pt), truth.Muon_pt)
    assert [event for part in parts for event in part.event] == truth.event.to_list()


def test_no_events(put: Put, delivered: OutputForm, truth: Any) -> None:
    events = events_of(put(written(truth[:0], delivered)), delivered)
    assert len(events) == 0
    assert set(events.Muon.fields) == {"pt", "eta", "phi", "mass", "charge"}


def nothing_in(delivered: OutputForm) -> bytes:
    file = Unclosed()
    if delivered.result_format == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({}), file)
    else:
        with uproot.recreate(file):
            pass
    return file.getvalue()


def test_nothing_at_all(put: Put, delivered: OutputForm) -> None:
    """Servers write such a file for an input file without the tree."""
    stored = put(nothing_in(delivered))
    assert len(events_of(stored, delivered, n_events=0)) == 0
    with pytest.raises(FormMismatch, match=r"holds nothing.*/data/in\.root"):
        events_of(stored, delivered)


def noise(n: int) -> bytes:
    return np.random.default_rng(1).bytes(n)


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda content: b"", id="no bytes"),
        pytest.param(lambda content: b"<?xml version='1.0'?><Error/>", id="an error page"),
        pytest.param(lambda content: noise(len(content)), id="noise"),
        pytest.param(lambda content: content[:4] + noise(len(content) - 4), id="noise with magic"),
        pytest.param(lambda content: content[:100], id="a beginning"),
        pytest.param(lambda content: content[: len(content) // 2], id="half"),
        pytest.param(lambda content: content[: -len(content) // 20], id="most"),
        pytest.param(
            lambda content: content[: len(content) // 3] + bytes(len(content) * 2 // 3), id="zeros"
        ),
    ],
)
def test_corrupt_files(
    put: Put, content: bytes, delivered: OutputForm, change: Callable[[bytes], bytes]
) -> None:
    stored = put(change(content))
    with pytest.raises((CorruptFile, Truncated), match=r"/data/in\.root") as caught:
        events_of(stored, delivered)
    assert isinstance(caught.value, ReadError)
    assert caught.value.input_file == "/data/in.root"
    assert caught.value.object_name == stored.name


def test_a_missing_column(put: Put, delivered: OutputForm, truth: Any) -> None:
    stored = put(written(truth[[name for name in NAMES if name != "Muon_pt"]], delivered))
    with pytest.raises(FormMismatch, match=r"'Muon_pt' should be var \* float32, found no such"):
        events_of(stored, delivered)
    assert len(events_of(stored, delivered, ["MET_pt", "Muon_charge"])) == 500


def test_another_dtype(put: Put, delivered: OutputForm, truth: Any) -> None:
    """Doubles are never read as floats."""
    doubles = ak.with_field(truth, ak.values_astype(truth.Muon_pt, np.float64), "Muon_pt")
    stored = put(written(doubles, delivered))
    with pytest.raises(FormMismatch) as caught:
        events_of(stored, delivered)
    error = caught.value
    assert (error.column, error.expected, error.found) == (
        "Muon_pt",
        "var * float32",
        "var * float64",
    )


def test_a_narrower_dtype_is_widened(put: Put, delivered: OutputForm, truth: Any) -> None:
    narrow = ak.with_field(truth, ak.values_astype(truth.Muon_charge, np.int16), "Muon_charge")
    events = events_of(put(written(narrow, delivered)), delivered)
    assert "int32" in str(events.Muon.charge.type)
    assert ak.array_equal(ak.without_parameters(events.Muon.charge), truth.Muon_charge)


@pytest.mark.sampled(4)
def test_a_wrong_size_from_the_server(
    put: Put, content: bytes, delivered: OutputForm, truth: Any
) -> None:
    for wrong in (0, 10, len(content) - 100, len(content) + 1000, 100 * len(content)):
        stored = put(content)
        stored.size = wrong
        events = events_of(stored, delivered, ["Muon_pt"])
        assert ak.array_equal(ak.without_parameters(events.Muon.pt), truth.Muon_pt)
