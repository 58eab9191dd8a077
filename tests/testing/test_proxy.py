"""Each fault of the proxy as plain clients see it, and all else passed on unharmed."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote
from xml.etree import ElementTree

import minio
import pytest
import urllib3
from support import strategies
from support.strategies import Answer, serve_file

from coffea_sx.testing import (
    ChangeETag,
    Corrupt,
    Delay,
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

CONTENT = random.Random(1).randbytes(300_000)
PART = {"Range": "bytes=100-299"}


@pytest.fixture
def server(scripted):
    return scripted(serve_file(CONTENT))


@pytest.fixture
def proxies():
    """Start proxies: ``proxies(target, script, **options)``."""
    with contextlib.ExitStack() as started:
        yield lambda *args, **options: started.enter_context(FaultProxy(*args, **options))


@pytest.fixture
def proxy(proxies, server):
    return proxies(server.url)


@pytest.fixture
def raw():
    """Start servers that answer each connection with given bytes, and close it."""
    with contextlib.ExitStack() as started:
        yield lambda *answers: started.enter_context(RawServer(answers))


class RawServer:
    """Sends bytes after a request, whatever they are."""

    def __init__(self, answers):
        self.heads: list[bytes] = []
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *error):
        self._thread.join(5)
        self._listener.close()

    def _run(self):
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection:
                while not connection.recv(65536).endswith(b"\r\n\r\n"):
                    pass
                connection.sendall(answer)


@contextlib.contextmanager
def clients(**options):
    with urllib3.PoolManager(retries=False, timeout=5, **options) as pool:
        yield lambda url, method="GET", **more: pool.request(method, url, redirect=False, **more)


def get(proxy, path="/b/o", method="GET", **options):
    with clients() as client:
        return client(proxy.url + path, method, **options)


@contextlib.contextmanager
def connected(proxy):
    host, port = proxy.url.rpartition("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        yield connection


def ask(connection, head="GET /b/o HTTP/1.1\r\nHost: x\r\n\r\n"):
    connection.sendall(head.encode())


def read_all(connection):
    """Read to the end of a connection: what came, and how it ended."""
    said = b""
    try:
        while block := connection.recv(1 << 20):
            said += block
    except OSError as error:
        return said, type(error)
    return said, None


def split(said):
    head, _, body = said.partition(b"\r\n\r\n")
    return head.decode(), body


# -- what is passed on


def test_a_whole_object_and_a_part(proxy):
    answer = get(proxy)
    assert (answer.status, answer.data) == (200, CONTENT)
    part = get(proxy, headers=PART)
    assert (part.status, part.data) == (206, CONTENT[100:300])
    assert part.headers["Content-Range"] == f"bytes 100-299/{len(CONTENT)}"


def test_a_head(proxy):
    answer = get(proxy, method="HEAD")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(CONTENT)))
    assert answer.data == b""


def test_requests_pass_as_they_are(proxies, scripted):
    server = scripted(lambda asked: Answer(200, asked.body))
    proxy = proxies(server.url)
    answer = get(proxy, "/b/%3Adata%3Ao.root?a=%2F&b", "POST", body=b"x" * 70_000)
    (asked,) = server.asked
    assert asked.path == "/b/%3Adata%3Ao.root?a=%2F&b"
    assert asked.headers["Host"] == proxy.url.removeprefix("http://")
    assert answer.data == asked.body == b"x" * 70_000


def test_an_upload_in_chunks_that_expects(proxies, scripted):
    server = scripted(lambda asked: Answer(200, asked.body))
    with connected(proxies(server.url)) as connection:
        ask(
            connection,
            "POST /b/o HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n"
            "Connection: close\r\n\r\n",
        )
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n")
        said, ended = read_all(connection)
    assert ended is None
    assert split(said)[1] == server.asked[0].body == b"abc0123456789"
    assert server.asked[0].headers["Content-Length"] == "13"


CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
    b"%x\r\n%b\r\n" % (len(part), part) for part in (b"abcde", b"fghij", b"klmno", b"")
)


def test_a_response_in_chunks(proxies, raw):
    assert get(proxies(raw(CHUNKS))).data == b"abcdefghijklmno"


def test_a_response_without_length_ends_with_its_connection(proxies, raw):
    with connected(proxies(raw(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT))) as connection:
        ask(connection)
        said, ended = read_all(connection)
    assert (split(said)[1], ended) == (CONTENT, None)


def test_a_response_after_an_interim_one(proxies, raw):
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    proxy = proxies(raw(hints + b"HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\nok"))
    answer = get(proxy)
    assert (answer.status, answer.data) == (299, b"ok")


def test_a_server_that_breaks_off(proxies, raw):
    with connected(proxies(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"))) as connection:
        ask(connection)
        said, ended = read_all(connection)
    assert (split(said)[1], ended) == (b"abc", ConnectionResetError)


def test_a_server_that_says_nothing(proxies, raw):
    answer = get(proxies(raw(b"")))
    assert answer.status == 502
    assert b"EOFError" in answer.data


def test_a_server_that_nobody_runs(proxies, closed_port):
    proxy = proxies(f"http://127.0.0.1:{closed_port}")
    with clients() as client:
        assert [client(proxy.url).status for _ in range(2)] == [502, 502]
    assert {request.connection for request in proxy.requests} == {0}


def test_connections_are_kept_alive_on_both_sides(proxies, server):
    behind = proxies(server.url)
    proxy = proxies(behind.url)
    with clients() as client:
        for _ in range(3):
            assert client(proxy.url + "/b/o", headers=PART).status == 206
    get(proxy)
    assert [request.connection for request in proxy.requests] == [0, 0, 0, 1]
    assert [request.connection for request in behind.requests] == [0, 0, 0, 1]


def test_a_server_that_closes_an_idle_connection(proxies, raw):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    proxy = proxies(raw(answer, answer))
    with clients() as client:
        assert client(proxy.url).data == b"ok"
        time.sleep(0.1)
        assert client(proxy.url).data == b"ok"
    assert {request.connection for request in proxy.requests} == {0}


def test_a_client_may_close(proxy):
    with connected(proxy) as connection:
        ask(connection, "GET /b/o HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said, ended = read_all(connection)
    assert (split(said)[1], ended) == (CONTENT, None)


def test_many_at_once(proxy):
    def read(start):
        wanted = {"Range": f"bytes={start}-{start + 999}"}
        return get(proxy, headers=wanted).data == CONTENT[start : start + 1000]

    with ThreadPoolExecutor(16) as readers:
        assert all(readers.map(read, range(0, 100_000, 1000)))
    assert len({request.connection for request in proxy.requests}) == 100


def test_a_large_body_is_unharmed(proxies, scripted):
    content = random.Random(2).randbytes(100_000_000)
    proxy = proxies(scripted(serve_file(content)).url)
    found, nbytes = hashlib.sha256(), 0
    with clients() as client:
        answer = client(proxy.url, preload_content=False)
        for block in answer.stream(1 << 20):
            found.update(block)
            nbytes += len(block)
    assert nbytes == proxy.requests[0].nbytes_sent == len(content)
    assert found.digest() == hashlib.sha256(content).digest()


# -- what is recorded


def test_requests_are_recorded_without_secrets(proxy):
    get(proxy, "/b/%3Ao.root?X-Amz-Signature=CANARY", headers={**PART, "Authorization": "CANARY"})
    get(proxy, method="HEAD")
    assert [(r.method, r.path, r.range, r.status, r.nbytes_sent) for r in proxy.requests] == [
        ("GET", "/b/:o.root", "bytes=100-299", 206, 200),
        ("HEAD", "/b/o", None, 200, 0),
    ]
    assert proxy.requests[0].query == "X-Amz-Signature=CANARY"
    assert "CANARY" not in repr(proxy.requests)


# -- scripts


@pytest.mark.parametrize(
    ("when", "is_meant"),
    [
        (When(), True),
        (When(r"\.root$"), True),
        (When(r"^o"), False),
        (When(method="GET"), True),
        (When(method="POST"), False),
        (When(is_range=True), True),
        (When(is_range=False), False),
        (When(":o", "GET", True), True),
        (When(":o", "GET", False), False),
    ],
)
def test_matching(when, is_meant):
    assert when(Request("GET", "/b/:o.root", "bytes=0-1")) is is_meant


def statuses(proxy, *paths):
    return [get(proxy, path).status for path in paths]


def test_rules_are_spent_in_order(proxy):
    proxy.script = [
        Fault(Status(500), When("^/a"), times=2),
        Fault(Status(502)),
        Fault(Status(504), When("^/a"), times=None),
    ]
    assert proxy.provoked == [0, 0, 0]
    asked = statuses(proxy, "/a", "/b", "/a", "/b", "/a", "/a", "/b")
    assert asked == [500, 502, 500, 200, 504, 504, 200]
    assert proxy.provoked == [2, 1, 2]


def test_some_pass_before(proxy):
    proxy.script = [Fault(Status(500), When("^/a"), skip=2)]
    assert statuses(proxy, "/a", "/b", "/a", "/a", "/a") == [200, 200, 200, 500, 200]
    assert proxy.provoked == [1]


def test_a_new_script_begins_anew(proxies, server):
    fault = Fault(Status(500))
    proxy = proxies(server.url, [fault])
    assert statuses(proxy, "/a", "/a") == [500, 200]
    proxy.script = [fault]
    assert proxy.script == (fault,)
    assert proxy.provoked == [0]
    assert statuses(proxy, "/a", "/a") == [500, 200]


def test_any_function_matches(proxy):
    proxy.script = [Fault(Status(401), lambda request: "secret" in request.query, times=None)]
    assert statuses(proxy, "/a?secret", "/a", "/b?secret") == [401, 200, 401]


def test_any_async_function_is_an_action(proxy):
    async def teapot(request, ask):
        answer = await ask()
        answer.status = 418
        return answer

    proxy.script = [Fault(teapot)]
    answer = get(proxy)
    assert (answer.status, answer.data) == (418, CONTENT)


def test_an_action_that_fails_is_raised_at_the_end(server):
    async def broken(request, ask):
        raise ZeroDivisionError

    proxy = FaultProxy(server.url, [Fault(broken)]).start()
    with connected(proxy) as connection:
        ask(connection)
        assert read_all(connection) == (b"", ConnectionResetError)
    assert get(proxy).status == 200
    with pytest.raises(ZeroDivisionError):
        proxy.stop()


# -- answers that the server is not asked for


def test_a_status(proxy, server):
    proxy.script = [Fault(Status(503, {"Retry-After": "1"}, b"busy"), times=2)]
    with clients() as client:
        for _ in range(2):
            answer = client(proxy.url)
            assert (answer.status, answer.data) == (503, b"busy")
            assert answer.headers["Retry-After"] == "1"
        assert server.asked == []
        assert client(proxy.url).status == 200
    assert {request.connection for request in proxy.requests} == {0}
    assert proxy.provoked == [2]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "Request has expired"),
        (400, "ExpiredToken", None),
        (403, "InvalidAccessKeyId", None),
        (403, "SignatureDoesNotMatch", None),
        (404, "NoSuchKey", None),
        (503, "SlowDown", None),
        (418, "Other<Code>", None),
    ],
)
def test_an_error_of_a_store(proxy, server, status, code, message):
    proxy.script = [Fault(S3Error(status, code, message, {"Retry-After": "2"}))]
    answer = get(proxy, "/b/folder/%3Ao.root")
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/xml"
    assert answer.headers["Retry-After"] == "2"
    error = ElementTree.fromstring(answer.data)
    assert error.tag == "Error"
    assert error.findtext("Code") == code
    assert error.findtext("Message") == message or message is None
    assert (error.findtext("BucketName"), error.findtext("Key")) == ("b", "folder/:o.root")
    assert server.asked == []


def test_an_error_of_a_store_without_body(proxy):
    proxy.script = [Fault(S3Error(404, "NoSuchKey"))]
    with connected(proxy) as connection:
        ask(connection, "HEAD /b/o HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, body = split(read_all(connection)[0])
    assert head.startswith("HTTP/1.1 404 Not Found\r\n")
    assert body == b""


def test_a_redirect(proxy, server):
    proxy.script = [Fault(Redirect("https://elsewhere.org/o"))]
    answer = get(proxy)
    assert (answer.status, answer.headers["Location"]) == (307, "https://elsewhere.org/o")
    assert server.asked == []


def test_a_refused_request(proxy, server):
    proxy.script = [Fault(Refuse())]
    with connected(proxy) as connection:
        ask(connection)
        assert read_all(connection) == (b"", None)
    assert server.asked == []
    assert proxy.requests[0].status is None


# -- answers that come late, or not to their end


def test_a_delay(proxy):
    proxy.script = [Fault(Delay(0.3))]
    start = time.monotonic()
    assert get(proxy).data == CONTENT
    assert time.monotonic() - start >= 0.3


def test_silence(proxy, server):
    proxy.script = [Fault(Hang())]
    with connected(proxy) as connection:
        connection.settimeout(0.3)
        ask(connection)
        assert read_all(connection) == (b"", TimeoutError)
    assert server.asked == []
    assert proxy.provoked == [1]


def test_silence_for_a_while(proxy):
    proxy.script = [Fault(Hang(0.3))]
    start = time.monotonic()
    with connected(proxy) as connection:
        ask(connection)
        assert read_all(connection) == (b"", None)
    assert time.monotonic() - start >= 0.3


def test_silence_within_the_body(proxy):
    proxy.script = [Fault(Hang(after=1000))]
    with connected(proxy) as connection:
        connection.settimeout(0.3)
        ask(connection)
        said, ended = read_all(connection)
    assert (split(said)[1], ended) == (CONTENT[:1000], TimeoutError)


@pytest.mark.parametrize("after", [0, 1, 100_000, len(CONTENT) - 1])
@pytest.mark.parametrize(("action", "end"), [(Truncate, None), (Reset, ConnectionResetError)])
def test_a_body_without_its_end(proxy, action, end, after):
    proxy.script = [Fault(action(after))]
    with connected(proxy) as connection:
        ask(connection)
        said, ended = read_all(connection)
    head, body = split(said)
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(CONTENT)}" in head
    assert (body, ended) == (CONTENT[:after], end)
    assert proxy.requests[0].nbytes_sent == after
    assert get(proxy).data == CONTENT


@pytest.mark.parametrize("action", [Truncate(100), Reset(100)])
def test_a_client_notices_that_the_end_is_missing(proxy, action):
    proxy.script = [Fault(action)]
    with pytest.raises(urllib3.exceptions.ProtocolError):
        get(proxy, headers=PART)


def test_chunks_without_their_end(proxies, raw):
    with connected(proxies(raw(CHUNKS), [Fault(Truncate(7))])) as connection:
        ask(connection)
        said, ended = read_all(connection)
    assert (split(said)[1], ended) == (b"5\r\nabcde\r\n2\r\nfg\r\n", None)


# -- answers that are wrong


def test_a_part_that_is_shorter_and_says_so(proxy):
    proxy.script = [Fault(Shorten(150))]
    with clients() as client:
        part = client(proxy.url, headers=PART)
        assert (part.status, part.data) == (206, CONTENT[100:250])
        assert part.headers["Content-Length"] == "150"
        assert part.headers["Content-Range"] == f"bytes 100-249/{len(CONTENT)}"
        assert client(proxy.url, headers=PART).data == CONTENT[100:300]


def test_a_part_that_is_shorter_than_it_says(proxy):
    proxy.script = [Fault(Shorten(0, fix_range=False))]
    part = get(proxy, headers=PART)
    assert (part.status, part.data) == (206, b"")
    assert part.headers["Content-Length"] == "0"
    assert part.headers["Content-Range"] == f"bytes 100-299/{len(CONTENT)}"


def test_a_shorter_object(proxy):
    proxy.script = [Fault(Shorten(1000), times=2)]
    assert get(proxy).data == CONTENT[:1000]
    assert get(proxy, method="HEAD").headers["Content-Length"] == "1000"


def test_a_shorter_answer_in_chunks(proxies, raw):
    answer = get(proxies(raw(CHUNKS), [Fault(Shorten(7))]))
    assert (answer.data, answer.headers["Content-Length"]) == (b"abcdefg", "7")


def test_a_corrupt_body(proxy):
    proxy.script = [Fault(Corrupt(200_000, b"CORRUPT"))]
    changed = CONTENT[:200_000] + b"CORRUPT" + CONTENT[200_007:]
    with clients() as client:
        assert client(proxy.url).data == changed
        assert client(proxy.url).data == CONTENT


@pytest.mark.parametrize(
    ("at", "patch", "expected"),
    [
        (0, b"X", b"Xbcdefghijklmno"),
        (4, b"XY", b"abcdXYghijklmno"),
        (5, b"X", b"abcdeXghijklmno"),
        (3, b"0123456789", b"abc0123456789no"),
        (14, b"XYZ", b"abcdefghijklmnX"),
        (15, b"X", b"abcdefghijklmno"),
    ],
)
def test_a_corrupt_body_in_chunks(proxies, raw, at, patch, expected):
    assert get(proxies(raw(CHUNKS), [Fault(Corrupt(at, patch))])).data == expected


@pytest.mark.parametrize("data", [b"", b"<html>Bad gateway</html>"])
def test_another_body(proxy, data):
    proxy.script = [Fault(ReplaceBody(data)), Fault(ReplaceBody(data, status=None))]
    where = f"bytes 100-299/{len(CONTENT)}"
    with clients() as client:
        for status, content_range in ((200, None), (206, where)):
            answer = client(proxy.url, headers=PART)
            assert (answer.status, answer.data) == (status, data)
            assert answer.headers["Content-Length"] == str(len(data))
            assert answer.headers.get("Content-Range") == content_range
        assert client(proxy.url).data == CONTENT


def test_another_etag(proxies, scripted):
    server = scripted(lambda asked: Answer(200, CONTENT, {"etag": '"one"'}))
    proxy = proxies(server.url, [Fault(ChangeETag('"other"'), skip=1)])
    with clients() as client:
        answers = [client(proxy.url) for _ in range(3)]
    assert [a.headers.getlist("ETag") for a in answers] == [['"one"'], ['"other"'], ['"one"']]
    assert {a.data for a in answers} == {CONTENT}


# -- latency


def test_latency_of_requests_and_connections(proxies, server):
    proxy = proxies(server.url, latency_s=0.1)

    def time_request():
        start = time.monotonic()
        client(proxy.url, headers=PART)
        return time.monotonic() - start

    with clients() as client:
        first = time_request()
        later = min(time_request() for _ in range(3))
        proxy.latency_s = 0.0
        without = min(time_request() for _ in range(3))
    assert first >= 0.2
    assert 0.1 <= later < 0.2
    assert without < 0.1


# -- TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A certificate for this machine, and the authority that vouches for it."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return {"certificate": folder / "server.pem"}, {"ca_certs": str(folder / "ca.pem")}


def test_a_certificate_that_nobody_knows(proxies, server, tls):
    proxy = proxies(server.url, **tls[0])
    assert proxy.url.startswith("https://127.0.0.1:")
    with pytest.raises(urllib3.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(proxy)
    assert proxy.requests == []


def test_a_certificate_of_a_known_authority(proxies, server, tls):
    proxy = proxies(server.url, **tls[0])
    with clients(**tls[1]) as client:
        for _ in range(2):
            assert client(proxy.url, headers=PART).data == CONTENT[100:300]
        assert client(proxy.url, "HEAD").status == 200
    assert {request.connection for request in proxy.requests} == {0}


def test_a_large_body_with_tls(proxies, scripted, tls):
    content = random.Random(3).randbytes(5_000_000)
    proxy = proxies(scripted(serve_file(content)).url, **tls[0])
    with clients(**tls[1]) as client:
        assert client(proxy.url).data == content


# Depending on OpenSSL a reset is seen as such, or as an end that was not announced.
@pytest.mark.parametrize(
    ("action", "ends"), [(Truncate, {None}), (Reset, {ConnectionResetError, ssl.SSLEOFError})]
)
def test_a_body_without_its_end_with_tls(proxies, server, tls, action, ends):
    proxy = proxies(server.url, [Fault(action(1000))], **tls[0])
    context = ssl.create_default_context(cafile=tls[1]["ca_certs"])
    with (
        connected(proxy) as plain,
        context.wrap_socket(
            plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as connection,
    ):
        ask(connection)
        said, ended = read_all(connection)
    assert split(said)[1] == CONTENT[:1000]
    assert ended in ends


def test_a_client_without_tls(proxies, server, tls):
    proxy = proxies(server.url, **tls[0])
    with connected(proxy) as connection:
        ask(connection)
        assert not read_all(connection)[0].startswith(b"HTTP")
    assert proxy.requests == []


def test_latency_with_tls(proxies, server, tls):
    proxy = proxies(server.url, latency_s=0.1, **tls[0])
    with clients(**tls[1]) as client:
        start = time.monotonic()
        client(proxy.url, headers=PART)
    assert time.monotonic() - start >= 0.3


# -- in front of a ServiceX and of a store


@pytest.fixture(scope="module")
def delivered(servicex, nano_files, selection):
    """A request with one delivered object: its id, name and keys of the store."""
    client = strategies.connected(servicex.url)
    with contextlib.closing(client):
        request_id = client.submit(selection, did=None, files=nano_files[:1])
        end = time.monotonic() + 60
        while not (rows := client.results(request_id)):
            assert time.monotonic() < end
            time.sleep(0.02)
        return request_id, rows[0].object_name, client.store_keys(request_id)


def test_the_rest_of_a_servicex(servicex, proxies, client_of):
    proxy = proxies(servicex.url, [Fault(Status(503), When("^/servicex$"), times=2)])
    assert client_of(proxy.url).info().capabilities == client_of(servicex.url).info().capabilities
    assert [request.status for request in proxy.requests] == [503, 503, 200]


def test_a_url_that_is_signed_for_the_proxy(servicex, proxies, delivered):
    request_id, name, store = delivered
    proxy = proxies(servicex.url)

    def sign(endpoint):
        keys = store.access_key.reveal(), store.secret_key.reveal()
        signer = minio.Minio(endpoint, *keys, secure=False, region="us-east-1")
        return signer.presigned_get_object(request_id, name).partition("?")[2]

    here, there = proxy.url.removeprefix("http://"), servicex.url.removeprefix("http://")
    path = f"/{request_id}/{quote(name, safe='')}"
    whole = get(proxy, f"{path}?{sign(here)}")
    assert whole.status == 200
    assert whole.data.startswith(b"root")
    part = get(proxy, f"{path}?{sign(here)}", headers={"Range": "bytes=1-9"})
    assert (part.status, part.data) == (206, whole.data[1:10])
    refused = get(proxy, f"{path}?{sign(there)}")
    assert refused.status == 403
    assert b"SignatureDoesNotMatch" in refused.data
    assert [request.path for request in proxy.requests] == [f"/{request_id}/{name}"] * 3


def test_a_url_that_an_s3_store_made_for_the_proxy(s3_store, proxies):
    store = s3_store.client()
    store.make_bucket("proxied")
    store.put_object("proxied", ":o.root", io.BytesIO(CONTENT), len(CONTENT))
    proxy = proxies(f"http://{s3_store.endpoint}")
    keys = s3_store.access_key, s3_store.secret_key
    signer = minio.Minio(proxy.url.removeprefix("http://"), *keys, secure=False, region="us-east-1")
    path = signer.presigned_get_object("proxied", ":o.root").removeprefix(proxy.url)
    assert get(proxy, path).data == CONTENT
    assert get(proxy, path, headers=PART).data == CONTENT[100:300]
    wrong = store.presigned_get_object("proxied", ":o.root").partition("?")[2]
    assert get(proxy, f"{path.partition('?')[0]}?{wrong}").status == 403


# -- life


def threads_of_proxies():
    return [thread for thread in threading.enumerate() if thread.name.startswith("FaultProxy")]


def test_nothing_is_left(server):
    n_threads = len(threads_of_proxies())
    with FaultProxy(server.url, [Fault(Hang(), When("hang"))]) as proxy, connected(proxy) as idle:
        with connected(proxy) as busy:
            ask(busy, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            assert get(proxy).status == 200
            assert len(threads_of_proxies()) == n_threads + 1
            start = time.monotonic()
            proxy.stop()
            assert time.monotonic() - start < 2
            assert read_all(busy) == (b"", ConnectionResetError)
        assert read_all(idle)[0] == b""
        assert len(threads_of_proxies()) == n_threads
        with pytest.raises(ConnectionRefusedError), connected(proxy):
            pass
        proxy.stop()
    gc.collect()
    assert [request.path for request in proxy.requests] == ["/hang", "/b/o"]


def test_connections_that_have_just_begun(server):
    for _ in range(30):
        with FaultProxy(server.url) as proxy:
            port = int(proxy.url.rpartition(":")[2])
            opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for connection in opened:
            connection.close()
    gc.collect()


def test_it_starts_again_at_its_address(server):
    proxy = FaultProxy(server.url)
    with pytest.raises(RuntimeError, match="not running"):
        _ = proxy.url
    urls = set()
    for _ in range(2):
        with proxy:
            proxy.start()
            assert get(proxy).status == 200
            urls.add(proxy.url)
    assert len(urls) == 1
    assert len(proxy.requests) == 2


@pytest.mark.parametrize("target", ["https://store.org", "store.org:9000", "http://", ""])
def test_targets_that_are_none(target):
    with pytest.raises(ValueError, match="http://host:port"):
        FaultProxy(target)


def test_a_certificate_that_is_none(server, tmp_path):
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ssl.SSLError):
        FaultProxy(server.url, certificate=tmp_path / "empty.pem")


def test_as_a_process(server):
    command = [sys.executable, "-m", "coffea_sx.testing.proxy", "--latency", "0.1", "--target"]
    with subprocess.Popen(
        [*command, server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            url = process.stdout.readline().strip()
            with clients() as client:
                start = time.monotonic()
                assert client(url).data == CONTENT
                assert time.monotonic() - start >= 0.2
        finally:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, ("", ""))
