"""Every fault of servers and networks, end to end: right values, an error, or a row of the report.

The numbers are those of docs/faults.md.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import fsspec
import numpy as np
import pytest
import trustme
import uproot
import urllib3
from bokeh.core.templates import get_env
from distributed import Client, LocalCluster, performance_report
from support.faulty import (
    ASKING,
    HASTY,
    IMPATIENT_READS,
    OBJECTS,
    OF_VICTIM,
    RESULTS,
    VICTIM,
    Analysis,
    Kind,
    Rewrite,
    log_of_worker,
    make_impatient,
    of_rows,
    prepare_worker,
    read_with,
    requests_for,
)
from support.leaks import Canaries, SecretsProxy, watched
from support.paces import FAST
from support.strategies import say

from coffea_sx.errors import (
    AccessError,
    CorruptFile,
    FormMismatch,
    LengthMismatch,
    NotAuthorized,
    ObjectGone,
    ProtocolError,
    ReadError,
    RequestRefused,
    ServiceXError,
    Truncated,
    Unreachable,
)
from coffea_sx.forms.writers import write
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import PollPolicy
from coffea_sx.query import RESULT_FORMATS
from coffea_sx.storage.filesystem import address
from coffea_sx.storage.policy import ReadPolicy
from coffea_sx.testing import (
    Answer,
    ChangeETag,
    Corrupt,
    Fault,
    FaultProxy,
    Hang,
    Redirect,
    Refuse,
    ReplaceBody,
    Request,
    Reset,
    S3Error,
    Shorten,
    Status,
    Truncate,
    When,
)
from coffea_sx.testing.messages import Ask
from coffea_sx.wire.clock import Limits

TOKENS = When("^/token/refresh$")
URLS = When("/file-urls$")
# Of reading events: dask's threads, virtual mode, and coffea's Runner with a pool.
WAYS = ("threads", "virtual", "runner")
SLOW_DOWN = S3Error(503, "SlowDown")
EXPIRED = S3Error(403, "AccessDenied", "Request has expired")
XML = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServiceX]:
    with LocalServiceX(tokens=True) as running:
        yield running


@pytest.fixture(scope="module")
def secrets(server: LocalServiceX) -> Iterator[SecretsProxy]:
    with SecretsProxy(server) as running:
        yield running


@pytest.fixture(scope="module")
def shared_proxy(secrets: SecretsProxy) -> Iterator[FaultProxy]:
    with FaultProxy(secrets.url) as running:
        yield running


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """A proxy without faults; always the same, so that transforms are made once."""
    shared_proxy.requests.clear()
    yield shared_proxy
    shared_proxy.script = ()


@pytest.fixture
def canaries(secrets: SecretsProxy) -> Iterator[Canaries]:
    with watched(secrets) as found:
        yield found


@pytest.fixture
def behind(
    server: LocalServiceX,
    canaries: Canaries,
    nano_files: list[str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Callable[[str], Analysis]:
    """Make the analysis of a server that is found at a URL."""
    pace = HASTY if "impatient" in request.fixturenames else FAST

    def make(url: str) -> Analysis:
        return Analysis(server, url, nano_files[:3], tmp_path, canaries, pace)

    return make


@pytest.fixture
def analysis(behind: Callable[[str], Analysis], proxy: FaultProxy) -> Analysis:
    return behind(proxy.url)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, analysis: Analysis) -> None:
    make_impatient(monkeypatch)
    analysis.hurry()


# -- what passes: 1 to 3 on the way to ServiceX


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "action",
    [
        *(pytest.param(Status(n), id=f"1-{n}") for n in (500, 502, 503, 504, 429)),
        pytest.param(Refuse(), id="2-no answer"),
        pytest.param(Reset(), id="2-reset"),
        pytest.param(Truncate(3), id="2-half an answer"),
        pytest.param(Hang(), id="3-hang"),
        pytest.param(Hang(after=3), id="3-hang within the answer"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("impatient")
def test_servicex_fails_for_a_while(
    analysis: Analysis, proxy: FaultProxy, action: Any, way: str
) -> None:
    analysis.connect(limits=Limits(total_s=1.0))
    proxy.script = [Fault(action, RESULTS, times=1), Fault(action, ASKING, times=1)]
    pace = PollPolicy(busy_s=0.02, idle_s=0.1, outage_s=10.0)
    analysis.assert_right(way, ignore_cache=True, pace=pace)
    assert proxy.provoked == [1, 1]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("action", [Status(429), Refuse()], ids=["1-429", "2-no answer"])
def test_file_urls_are_asked_for_again(analysis: Analysis, proxy: FaultProxy, action: Any) -> None:
    proxy.script = [Fault(action, URLS, times=2)]
    analysis.assert_right(ignore_cache=True)
    assert proxy.provoked == [2]


class Clock:
    """Takes the times of the requests that its rule is applied to."""

    def __init__(self, when: When) -> None:
        self.when = when
        self.times: list[float] = []

    def __call__(self, request: Request) -> bool:
        if self.when(request):
            self.times.append(time.monotonic())
            return True
        return False


async def unharmed(request: Request, ask: Ask) -> Answer:
    """Pass a request on, as an action of a rule that only notes it."""
    return await ask()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("status", [429, 503])
def test_1_retry_after(analysis: Analysis, proxy: FaultProxy, status: int) -> None:
    clock = Clock(When("^/servicex$"))
    busy = Status(status, {"Retry-After": "1"})
    proxy.script = [Fault(busy, clock), Fault(unharmed, clock, times=None)]
    analysis.assert_right()
    assert proxy.provoked == [1, 1]
    assert clock.times[1] - clock.times[0] >= 1


def test_2_refused_connections(analysis: Analysis, proxy: FaultProxy) -> None:
    """The server is away for a moment: before anything is delivered, and before files are read."""
    for ignore_cache in (True, False):
        proxy.stop()
        back = threading.Timer(0.5, proxy.start)
        start = time.monotonic()
        back.start()
        analysis.assert_right(ignore_cache=ignore_cache)
        back.join()
        assert time.monotonic() - start > 0.5


def test_2_refused_connections_to_the_store(analysis: Analysis, proxy: FaultProxy) -> None:
    factory = analysis.factory()
    events = factory.events()
    events.event.compute(scheduler="synchronous")
    factory._source.poller.signed_urls([file["object_name"] for file in factory.files])
    proxy.stop()
    back = threading.Timer(0.5, proxy.start)
    back.start()
    start = time.monotonic()
    met = events.MET_pt.compute(scheduler="threads")
    back.join()
    assert time.monotonic() - start > 0.5
    assert met.to_list() == analysis.truth["MET_pt"].to_list()
    analysis.assert_silent()


# -- what passes: 21 to 29 on the way to the store


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("action", "times"),
    [
        pytest.param(Refuse(), 2, id="2-no answer"),
        pytest.param(Hang(), 1, id="3-hang"),
        pytest.param(Hang(after=9000), 1, id="3-hang within the body"),
        pytest.param(Reset(9000), 2, id="22-reset"),
        pytest.param(Truncate(9000), 2, id="23-truncated"),
        pytest.param(Truncate(0), 2, id="23-nothing"),
        pytest.param(EXPIRED, 1, id="26-Request has expired"),
        pytest.param(S3Error(400, "ExpiredToken"), 1, id="26-ExpiredToken"),
        pytest.param(S3Error(403, "InvalidAccessKeyId"), 1, id="27-InvalidAccessKeyId"),
        pytest.param(S3Error(403, "SignatureDoesNotMatch"), 1, id="27-SignatureDoesNotMatch"),
        pytest.param(S3Error(404, "NoSuchKey"), 2, id="28-NoSuchKey"),
        pytest.param(Status(429), 2, id="29-429"),
        pytest.param(SLOW_DOWN, 2, id="29-SlowDown"),
        pytest.param(Status(503), 2, id="29-503"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("impatient")
def test_the_store_fails_for_a_while(
    analysis: Analysis,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    action: Any,
    times: int,
    way: str,
) -> None:
    # The faults pass; how fast the repetitions are depends on the machine.
    read_with(monkeypatch, replace(IMPATIENT_READS, retry_s=20.0))
    proxy.script = [Fault(action, OF_VICTIM, times)]
    analysis.assert_right(way)
    assert proxy.provoked == [times]
    if way == "virtual":  # a request for each column that is touched
        return
    assert len(requests_for(proxy, OF_VICTIM)) == times + 1
    assert len(requests_for(proxy, OBJECTS)) == times + 3


@pytest.mark.sampled(3)
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("wrong", [10**9])
def test_21_another_size_than_in_the_row(
    analysis: Analysis, proxy: FaultProxy, wrong: int, result_format: str
) -> None:
    proxy.script = [Fault(of_rows(total_bytes=wrong), RESULTS, times=None)]
    analysis.assert_right(result_format=result_format)
    assert proxy.provoked[0] > 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "action",
    [
        pytest.param(Reset(9000), id="22-reset"),
        pytest.param(Truncate(9000), id="23-truncated"),
    ],
)
def test_only_the_rest_is_asked_for_again(
    analysis: Analysis, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, action: Any
) -> None:
    read_with(monkeypatch, ReadPolicy(block_bytes=1000))
    proxy.script = [Fault(action, OF_VICTIM)]
    analysis.assert_right()
    first, second = requests_for(proxy, OF_VICTIM)
    assert first.range is None
    assert second.range == "bytes=9000-"
    assert second.status == 206
    (intact, _) = (r for r in requests_for(proxy, OBJECTS) if r not in (first, second))
    assert abs(first.nbytes_sent + second.nbytes_sent - intact.nbytes_sent) < 2000


def test_24_another_object_after_a_break(
    analysis: Analysis, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_with(monkeypatch, ReadPolicy(block_bytes=1000))
    proxy.script = [Fault(Truncate(9000), OF_VICTIM), Fault(ChangeETag('"other"'), OF_VICTIM)]
    analysis.assert_right()
    assert proxy.provoked == [1, 1]
    assert [r.range for r in requests_for(proxy, OF_VICTIM)] == [None, "bytes=9000-", None]


class Busy:
    """An action: keep requests for a moment, and count how many there are at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.05)
            return await ask()
        finally:
            self.now -= 1


def test_29_many_threads(
    analysis: Analysis, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_slowly(**options: Any) -> urllib3.PoolManager:
        time.sleep(0.02)
        return urllib3.poolmanager.PoolManager(**options)

    # No other test uses a pool of so many connections: all threads are the first.
    policy = ReadPolicy(connections=7)
    read_with(monkeypatch, policy)
    monkeypatch.setattr(urllib3, "PoolManager", made_slowly)
    busy, clock, n_threads = Busy(), Clock(OBJECTS), 24
    slow_down = S3Error(503, "SlowDown", headers={"Retry-After": "1"})
    proxy.script = [Fault(slow_down, clock, times=5), Fault(busy, clock, times=None)]
    events = analysis.factory(steps_per_file=n_threads // 3).events()
    met = events.MET_pt.compute(scheduler="threads", num_workers=n_threads)
    assert met.to_list() == analysis.truth["MET_pt"].to_list()
    analysis.assert_silent()
    assert proxy.provoked == [5, n_threads] == [5, len(clock.times) - 5]
    assert policy.connections // 2 < busy.most <= policy.connections
    first = clock.times[0]
    assert sum(t >= first + 1 for t in clock.times) >= 5


# -- what does not pass: an error that names the file, or a row of the report


class Restless:
    """An action: break off, each time with another ETag."""

    def __init__(self) -> None:
        self.n = 0

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        self.n += 1
        return await ChangeETag(f'"{self.n}"')(request, partial(Truncate(9000), request, ask))


LASTING = [
    pytest.param(Refuse(), ReadError, "does not send .*ProtocolError", id="2-no answer"),
    pytest.param(Hang(), ReadError, "in time: it sent", id="3-hang"),
    pytest.param(Hang(after=9000), ReadError, "in time: it sent", id="3-hang within the body"),
    pytest.param(Reset(), ReadError, "does not send .*ProtocolError", id="22-reset"),
    pytest.param(Truncate(0), Truncated, "breaks off", id="23-truncated"),
    pytest.param(Restless(), (ReadError, Truncated), "was replaced|breaks off", id="24-changing"),
    pytest.param(EXPIRED, AccessError, "403 AccessDenied", id="26-Request has expired"),
    pytest.param(S3Error(400, "ExpiredToken"), AccessError, "400 ExpiredToken", id="26-token"),
    pytest.param(S3Error(403, "InvalidAccessKeyId"), AccessError, "InvalidAccessKeyId", id="27"),
    pytest.param(S3Error(404, "NoSuchKey"), ObjectGone, "404 NoSuchKey.*submit", id="28-key"),
    pytest.param(S3Error(404, "NoSuchBucket"), ObjectGone, "404 NoSuchBucket", id="28-bucket"),
    pytest.param(Status(429), ReadError, r"fails to send .*\[429\]", id="29-429"),
    pytest.param(SLOW_DOWN, ReadError, "503 SlowDown", id="29-SlowDown"),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("action", "kind", "says"), LASTING)
@pytest.mark.usefixtures("impatient")
def test_the_store_fails_for_ever(
    analysis: Analysis,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    action: Any,
    kind: Kind,
    says: str,
) -> None:
    read_with(monkeypatch, replace(IMPATIENT_READS, block_bytes=1000))
    proxy.script = [Fault(action, OF_VICTIM, times=None)]
    start = time.monotonic()
    analysis.assert_raises_for_victim(kind, says)
    analysis.assert_skips_victim(kind, says, "threads")
    assert time.monotonic() - start < 10
    assert proxy.provoked == [len(requests_for(proxy, OF_VICTIM))]
    is_final = isinstance(action, S3Error) and action.code == "NoSuchBucket"
    # Each computation refreshes what was refused once, and tries again what may pass.
    assert proxy.provoked[0] == 4 if kind is AccessError else is_final or proxy.provoked[0] >= 4


@pytest.mark.sampled(5)
@pytest.mark.parametrize("way", ["virtual", "runner"])
@pytest.mark.parametrize(("action", "kind", "says"), LASTING)
@pytest.mark.usefixtures("impatient")
def test_the_store_fails_for_ever_in_other_modes(
    analysis: Analysis,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    action: Any,
    kind: Kind,
    says: str,
    way: str,
) -> None:
    read_with(monkeypatch, replace(IMPATIENT_READS, block_bytes=1000))
    proxy.script = [Fault(action, OF_VICTIM, times=None)]
    analysis.assert_raises_for_victim(kind, says, way)
    if way == "runner":
        analysis.assert_runner_skips_victim(kind)


def other_content(n_events: int, result_format: str, **columns: Any) -> bytes:
    """Write a file as a server does, with other columns."""

    class Unclosed(io.BytesIO):
        def close(self) -> None:
            pass

    numbers = np.arange(n_events)
    lists = ak.values_astype(ak.unflatten(numbers, np.ones(n_events, int)), np.float32)
    events = {
        "event": numbers.astype(np.uint64),
        "MET_pt": numbers.astype(np.float32),
        "Muon_pt": lists,
        **columns,
    }
    file = Unclosed()
    kept = {name: column for name, column in events.items() if column is not None}
    write(ak.zip(kept, depth_limit=1), file, result_format)
    return file.getvalue()


SPOILT = [
    pytest.param(Shorten(5000), (CorruptFile, Truncated), ".", id="21-shorter"),
    pytest.param(Corrupt(0, b"XXXX"), (CorruptFile,), "begins with b'XXXX", id="25-magic"),
    pytest.param(
        Corrupt(4, bytes(10**6)), (CorruptFile, Truncated, FormMismatch), ".", id="25-zeros"
    ),
    pytest.param(ReplaceBody(b""), (CorruptFile,), "it is empty", id="25-zero bytes"),
    pytest.param(ReplaceBody(XML), (CorruptFile,), "begins with .*xml", id="25-error page"),
]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("way", ["virtual", "runner"])
@pytest.mark.parametrize(("action", "kinds", "says"), SPOILT)
def test_the_store_sends_something_else_in_other_modes(
    analysis: Analysis,
    proxy: FaultProxy,
    action: Any,
    kinds: tuple[type[ServiceXError], ...],
    says: str,
    way: str,
    result_format: str,
) -> None:
    if way == "virtual" and isinstance(action, Shorten) and result_format == "root-file":
        pytest.skip("no response is longer: columns are read one by one")
    proxy.script = [Fault(action, OF_VICTIM, times=None)]
    analysis.assert_raises_for_victim(kinds, says, way, result_format=result_format)
    if way == "runner":
        analysis.assert_runner_skips_victim(kinds, result_format=result_format)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize(("action", "kinds", "says"), SPOILT)
def test_the_store_sends_something_else(
    analysis: Analysis,
    proxy: FaultProxy,
    action: Any,
    kinds: tuple[type[ServiceXError], ...],
    says: str,
    result_format: str,
) -> None:
    proxy.script = [Fault(action, OF_VICTIM, times=None)]
    error = analysis.assert_raises_for_victim(kinds, says, result_format=result_format)
    analysis.assert_skips_victim(type(error), says, "threads", result_format=result_format)
    assert proxy.provoked[0] >= 2


@pytest.mark.sampled(4)
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("change", ["another type", "no such column"])
def test_35_another_form(
    analysis: Analysis, proxy: FaultProxy, change: str, result_format: str
) -> None:
    other = np.arange(500.0) if change == "another type" else None
    body = ReplaceBody(other_content(500, result_format, MET_pt=other))
    proxy.script = [Fault(body, OF_VICTIM, times=None)]
    found = "float64" if change == "another type" else "no such column"
    says = f"'MET_pt' should be float32, found {found}"
    error = analysis.assert_raises_for_victim(FormMismatch, says, result_format=result_format)
    assert (error.column, error.expected) == ("MET_pt", "float32")
    analysis.assert_skips_victim(FormMismatch, says, "threads", result_format=result_format)
    assert proxy.provoked == [2]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("wrong", [0, 10**6])
def test_36_another_number_of_events_in_the_row(
    analysis: Analysis, proxy: FaultProxy, wrong: int, result_format: str
) -> None:
    proxy.script = [Fault(of_rows(total_events=wrong), RESULTS, times=None)]
    factory = analysis.factory(result_format=result_format, on_failure="skip")
    events, report = factory.events()
    met, rows = dask.compute(events.MET_pt, report, scheduler="synchronous")
    assert met.to_list() == analysis.truth["MET_pt"].to_list()
    assert rows.n_events.to_list() == [500, 500, 500]
    assert [file["n_events"] for file in factory.files] == [wrong] * 3
    assert proxy.provoked[0] > 0


@pytest.mark.sampled(5)
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("way", ["virtual", "runner"])
def test_36_where_the_number_is_relied_on(
    analysis: Analysis, proxy: FaultProxy, way: str, result_format: str
) -> None:
    """Numbers of events are fixed before files are read: another one would lose events."""
    proxy.script = [Fault(of_rows(total_events=499), RESULTS, times=None)]
    says = r"nano_\d\.root has 500 events, where ServiceX reported 499"
    error = analysis.assert_raises(LengthMismatch, says, way, result_format=result_format)
    assert (error.expected, error.found) == (499, 500)


def test_25_and_36_zeros_and_no_events_in_the_row(analysis: Analysis, proxy: FaultProxy) -> None:
    proxy.script = [
        Fault(of_rows(total_events=0), RESULTS, times=None),
        Fault(Corrupt(4, bytes(10**6)), OF_VICTIM, times=None),
    ]
    # With "raise" the number of the rows would be relied on.
    analysis.assert_skips_victim(CorruptFile, "nano_1")


# -- what does not pass on the way to ServiceX


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("action", "kind", "says"),
    [
        *(
            pytest.param(
                Status(n), RequestRefused, rf"127\.0\.0\.1.*/results: .*\[{n}\]", id=f"1-{n}"
            )
            for n in (500, 429)
        ),
        pytest.param(Refuse(), Unreachable, "does not answer GET", id="2-no answer"),
        pytest.param(Reset(), Unreachable, "does not answer GET", id="2-reset"),
        pytest.param(Hang(), Unreachable, "in time: it sent", id="3-hang"),
        pytest.param(Hang(after=3), Unreachable, "in time: it sent", id="3-hang within the answer"),
        pytest.param(ReplaceBody(XML), ProtocolError, "not JSON", id="25-error page"),
        pytest.param(ReplaceBody(b""), ProtocolError, "not JSON", id="25-zero bytes"),
        pytest.param(
            Status(200, {"Content-Encoding": "gzip"}, b"no gzip"),
            Unreachable,
            "DecodeError",
            id="25-corrupt",
        ),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_servicex_fails_for_ever(
    analysis: Analysis, proxy: FaultProxy, action: Any, kind: type[ServiceXError], says: str
) -> None:
    proxy.script = [Fault(action, RESULTS, times=None)]
    start = time.monotonic()
    analysis.assert_raises(kind, says, "threads")
    assert time.monotonic() - start < 10
    assert proxy.provoked[0] > 1 or isinstance(action, Hang) or kind is ProtocolError


@pytest.mark.usefixtures("impatient")
def test_1_is_no_failure_of_files(analysis: Analysis, proxy: FaultProxy) -> None:
    """The files have not failed: an outage is an error, not a row of the report."""
    proxy.script = [Fault(Status(503), RESULTS, times=None)]
    events, _ = analysis.factory(on_failure="skip").events()
    with pytest.raises(RequestRefused, match="503"):
        events.MET_pt.compute(scheduler="synchronous")


@pytest.mark.usefixtures("impatient")
def test_2_nobody_listens(behind: Callable[[str], Analysis], closed_port: int) -> None:
    analysis = behind(f"http://127.0.0.1:{closed_port}")
    analysis.hurry()
    analysis.expect_no_token()
    analysis.assert_raises(Unreachable, f"127.0.0.1:{closed_port} does not answer")


# -- 2: certificates


class Encrypted:
    """A proxy with a certificate, and the authority that clients must trust."""

    def __init__(self, target: str, directory: Path) -> None:
        authority = trustme.CA()
        self.authority = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        certificate = directory / "certificate.pem"
        made = authority.issue_cert("127.0.0.1")
        made.private_key_and_cert_chain_pem.write_to_path(str(certificate))
        self.proxy = FaultProxy(target, certificate=certificate)
        # The embedded server writes http into its URLs.
        self.proxy.script = [Fault(Rewrite(_secured), URLS, times=None)]


def _secured(answer: Any) -> Any:
    return {
        "uris": {
            name: [url.replace("http://", "https://"), *more]
            for name, (url, *more) in answer["uris"].items()
        }
    }


@pytest.fixture
def encrypted(secrets: SecretsProxy, tmp_path: Path) -> Iterator[Encrypted]:
    found = Encrypted(secrets.url, tmp_path)
    with found.proxy:
        yield found


def test_2_an_authority_of_ones_own(
    encrypted: Encrypted, behind: Callable[[str], Analysis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(encrypted.authority))
    behind(encrypted.proxy.url).assert_right()
    assert len(requests_for(encrypted.proxy, OBJECTS)) == 3


def test_2_an_unknown_authority_of_servicex(
    encrypted: Encrypted, behind: Callable[[str], Analysis]
) -> None:
    analysis = behind(encrypted.proxy.url)
    analysis.expect_no_token()
    error = analysis.assert_raises(Unreachable, "CERTIFICATE_VERIFY_FAILED")
    assert "Tries" not in str(error)
    assert encrypted.proxy.requests == []


def test_2_an_unknown_authority_of_the_store(
    encrypted: Encrypted, behind: Callable[[str], Analysis], monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = behind(encrypted.proxy.url)
    with monkeypatch.context() as trusting:
        trusting.setenv("SSL_CERT_FILE", str(encrypted.authority))
        _, report = analysis.factory(on_failure="skip").events()
    start = time.monotonic()
    rows = report.compute(scheduler="synchronous")
    assert time.monotonic() - start < 10
    assert rows.exception.to_list() == ["AccessError"] * 3
    assert rows.input_file.to_list() == analysis.files
    assert all("SSL_CERT_FILE" in message for message in rows.message)
    assert requests_for(encrypted.proxy, OBJECTS) == []
    analysis.assert_silent(str(rows.to_list()))


# -- 30, 31: tokens


@pytest.fixture
def short_lived(server: LocalServiceX, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Access tokens live for a second or two."""
    tokens = server._running.tokens
    monkeypatch.setattr(tokens, "_access_token_s", 2)
    return tokens


def nothing_until_refused(proxy: FaultProxy) -> Fault:
    """Hold back all results until a request was refused for its token."""

    def when(request: Request) -> bool:
        was_refused = any(asked.status == 401 for asked in proxy.requests)
        return RESULTS(request) and not was_refused

    return Fault(Rewrite(lambda said: {"results": []}), when, times=None)


def n_refused(proxy: FaultProxy) -> int:
    return sum(request.status == 401 for request in proxy.requests)


def test_30_an_access_token_expires_while_files_are_waited_for(
    analysis: Analysis, proxy: FaultProxy, short_lived: Any
) -> None:
    proxy.script = [nothing_until_refused(proxy)]
    analysis.assert_right()
    assert n_refused(proxy) >= 1
    assert len(requests_for(proxy, TOKENS)) == 1 + n_refused(proxy)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("status", [401, 500])
def test_30_the_refresh_token_is_no_longer_accepted(
    analysis: Analysis, proxy: FaultProxy, short_lived: Any, status: int
) -> None:
    refused = Status(status, body=b'{"message": "Invalid or outdated refresh token"}')
    proxy.script = [nothing_until_refused(proxy), Fault(refused, TOKENS, times=None, skip=1)]
    analysis.assert_raises(NotAuthorized, "outdated refresh token.*Get a new one from the web page")
    assert proxy.provoked[1] == 1


def test_31_the_file_with_the_token_is_rotated(
    analysis: Analysis,
    proxy: FaultProxy,
    short_lived: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "token"

    def rotate() -> None:
        token = short_lived.access_token()
        analysis.canaries.secrets.add(token)
        file.write_text(f"{token}\n")

    async def rotate_when_refused(request: Request, ask: Ask) -> Answer:
        answer = await ask()
        if answer.status == 401:
            rotate()
        return answer

    hold_back = nothing_until_refused(proxy)

    async def hold_back_and_rotate(request: Request, ask: Ask) -> Answer:
        return await hold_back.action(request, partial(rotate_when_refused, request, ask))

    rotate()
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(file))
    proxy.script = [
        Fault(hold_back_and_rotate, hold_back.when, times=None),
        Fault(rotate_when_refused, times=None),
    ]
    analysis.assert_right()
    assert n_refused(proxy) >= 1
    assert requests_for(proxy, TOKENS) == []


@pytest.mark.slow
def test_30_the_file_with_the_token_is_not_rotated(
    analysis: Analysis,
    proxy: FaultProxy,
    short_lived: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "token"
    file.write_text(short_lived.access_token())
    analysis.canaries.secrets.add(file.read_text())
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(file))
    proxy.script = [nothing_until_refused(proxy)]
    analysis.assert_raises(NotAuthorized, "Token has expired.*BEARER_TOKEN_FILE")
    assert n_refused(proxy) == 2  # the file may have been written anew meanwhile


# -- 40: redirects


@pytest.mark.parametrize("status", [307])
@pytest.mark.parametrize("when", ["servicex", "tokens", "store"])
def test_40_redirects_are_not_followed(
    analysis: Analysis, proxy: FaultProxy, scripted: Any, when: str, status: int
) -> None:
    other = scripted(lambda asked: say({}))
    rules = {"servicex": When("^/servicex$"), "tokens": TOKENS, "store": OF_VICTIM}
    proxy.script = [Fault(Redirect(f"{other.url}/elsewhere", status), rules[when], times=None)]
    if when == "store":
        analysis.assert_raises_for_victim(AccessError, rf"refuses .*\[{status}\]")
    elif when == "tokens":
        analysis.expect_no_token()
        analysis.assert_raises(NotAuthorized, rf"\[{status}\]")
    else:
        analysis.assert_raises(RequestRefused, rf"\[{status}\]")
    assert proxy.provoked == [1]
    assert other.asked == []


# -- 37: errors, logs and reports of a cluster


def rename_template(directory: Path, patch: pytest.MonkeyPatch) -> None:
    """Let distributed 2025.3 find a template that has another name since bokeh 3.9."""
    (directory / "file.html").write_text('{% extends "file.html.jinja" %}')
    loader = get_env().loader
    patch.setattr(loader, "searchpath", [*loader.searchpath, str(directory)])


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning")
def test_37_a_cluster(
    analysis: Analysis, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename_template(tmp_path, monkeypatch)
    page = tmp_path / "performance.html"
    other = ReplaceBody(other_content(500, "root-file", MET_pt=None))
    faults = [
        (Truncate(0), Truncated, "breaks off"),
        (EXPIRED, AccessError, "403 AccessDenied"),
        (S3Error(404, "NoSuchKey"), ObjectGone, "404 NoSuchKey"),
        (SLOW_DOWN, ReadError, "503 SlowDown"),
        (ReplaceBody(XML), CorruptFile, "begins with"),
        (other, FormMismatch, "'MET_pt' should be float32, found no such column"),
    ]
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.run(prepare_worker)
        with performance_report(filename=str(page)):
            for action, kind, says in faults:
                proxy.script = [Fault(action, OF_VICTIM, times=None)]
                analysis.assert_raises_for_victim(kind, says, "distributed")
                assert proxy.provoked[0] > 0
            analysis.assert_skips_victim(FormMismatch, "no such column", "distributed")
        logs = f"{client.get_worker_logs()} {client.get_scheduler_logs()}"
        (logged,) = client.run(log_of_worker).values()
    assert "Compute Failed" in logs
    assert "nano_1.root?..." in logged  # requests are logged
    assert "load" in page.read_text()
    for text in (logs, logged, page.read_text()):
        analysis.assert_silent(text)


# -- what others make of our errors


@pytest.mark.slow
def test_the_report_of_uproot(analysis: Analysis, proxy: FaultProxy) -> None:
    factory = analysis.factory()
    factory.events().event.compute(scheduler="synchronous")
    files = {address(factory.request_id, file["object_name"]): "servicex" for file in factory.files}
    events, report = uproot.dask(files, allow_read_errors_with_report=True)
    proxy.script = [Fault(EXPIRED, OF_VICTIM, times=None)]
    met, rows = dask.compute(events.MET_pt, report, scheduler="synchronous")
    assert len(met) == 1000
    assert rows.exception.to_list() == [None, "AccessError", None]
    assert "403 AccessDenied" in rows.message[VICTIM]
    assert proxy.provoked[0] > 1
    analysis.assert_silent(str(rows.to_list()))


@contextmanager
def full_disk(nbytes: int) -> Iterator[None]:
    """Let no file grow beyond a size."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_38_the_disk_of_a_cache_is_full(analysis: Analysis, tmp_path: Path) -> None:
    """coffea_sx keeps no files; a cache of fsspec in front of it fails with its own error."""
    factory = analysis.factory()
    factory.events().event.compute(scheduler="synchronous")
    where = address(factory.request_id, factory.files[VICTIM]["object_name"])
    cached = fsspec.open(f"simplecache::{where}", simplecache={"cache_storage": str(tmp_path)})
    with full_disk(1 << 12), pytest.raises(OSError, match="File too large") as caught, cached:
        pass
    assert not isinstance(caught.value, ServiceXError)
    analysis.assert_silent("".join(traceback.format_exception(caught.value)))
    with full_disk(1 << 12):
        analysis.assert_right()


@pytest.mark.slow
def test_38_what_a_full_cache_leaves_is_not_read(analysis: Analysis, tmp_path: Path) -> None:
    factory = analysis.factory()
    factory.events().event.compute(scheduler="synchronous")
    wanted = factory.files[VICTIM]
    where = address(factory.request_id, wanted["object_name"])
    cached = fsspec.open(f"simplecache::{where}", simplecache={"cache_storage": str(tmp_path)})
    with full_disk(1 << 12), pytest.raises(OSError, match="File too large"), cached:
        pass
    with cached as file:
        assert len(file.read()) == wanted["nbytes"]
