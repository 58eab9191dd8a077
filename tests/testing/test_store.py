"""The S3 server for tests checks requests, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import minio
import psutil
import pytest
from minio.error import S3Error
from support.strategies import say

from coffea_sx.errors import ConfigurationError
from coffea_sx.testing.store import (
    PACKAGE,
    REGION,
    VERSION,
    S3Store,
    find_free_port,
    find_program,
)

pytestmark = pytest.mark.usefixtures("s3_store")  # skips where there is no such server

CONTENT = bytes(range(256)) * 40_000  # more than the part size of uploads

FORGETFUL = """
import sys
import time
from coffea_sx.testing.store import S3Store

store = S3Store(sys.argv[1]).start()
print(store.endpoint, store.pid, flush=True)
time.sleep(60)
"""


def put(store: S3Store, content: bytes = CONTENT) -> tuple[str, str]:
    """Store an object with a name like those of ServiceX."""
    bucket, name = str(uuid.uuid4()), ":data:a b+c.root"
    client = store.client()
    client.make_bucket(bucket)
    client.put_object(bucket, name, io.BytesIO(content), len(content))
    return bucket, name


def code(answer: httpx.Response) -> str:
    return answer.text.partition("<Code>")[2].partition("</Code>")[0]


def gateway_of(store: S3Store) -> psutil.Process:
    """Return the process that listens."""
    return psutil.Process(store.pid)


def guard_of(store: S3Store) -> psutil.Process:
    """Return the process that ends the gateway."""
    guard = gateway_of(store).parent()
    assert guard is not None
    return guard


def guards_in(directory: Path) -> list[psutil.Process]:
    """Return the processes that guard gateways with files in a directory.

    Gateways themselves cannot be found like this: juicefs overwrites its command line.
    """
    guards = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "guard.py" in command and str(directory) in command:
                guards.append(process)
    return guards


def is_free(endpoint: str) -> bool:
    host, _, port = endpoint.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_an_object_goes_in_and_comes_out(s3_store):
    bucket, name = put(s3_store)
    client = s3_store.client()
    assert [item.object_name for item in client.list_objects(bucket)] == [name]
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
        gateway = gateway_of(store)
        store.rotate_keys()
        assert not gateway.is_running()
        assert gateway_of(store).is_running()
        assert store.endpoint == before[0]
        assert store.access_key != before[1]
        assert store.secret_key != before[2]
        refused = httpx.get(url)
        assert (refused.status_code, code(refused)) == (403, "InvalidAccessKeyId")
        with pytest.raises(S3Error, match="InvalidAccessKeyId"):
            old.list_buckets()
        assert httpx.get(store.client().presigned_get_object(bucket, name)).content == CONTENT


def test_nothing_is_left(tmp_path):
    store = S3Store(tmp_path)
    for _ in range(2):
        with store:
            endpoint, gateway, guard = store.endpoint, gateway_of(store), guard_of(store)
            assert store.start() is store
            assert gateway_of(store) == gateway
            assert guards_in(tmp_path) == [guard]
            assert not is_free(endpoint)
        assert not gateway.is_running()
        assert not guard.is_running()
        assert is_free(endpoint)
        assert list(tmp_path.iterdir()) == []
        store.stop()
    with pytest.raises(ConfigurationError, match="not running"):
        store.client()


def test_a_gateway_that_ignores_the_signal_is_killed():
    with S3Store(stop_timeout_s=0.2) as store:
        gateway = gateway_of(store)
        gateway.suspend()  # a stopped process takes no SIGTERM
    assert not gateway.is_running()


def test_it_ends_with_the_process_that_started_it(tmp_path):
    command = [sys.executable, "-c", FORGETFUL, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        endpoint, pid = owner.stdout.readline().split()
        gateway = psutil.Process(int(pid))
        assert not is_free(endpoint)
        owner.kill()
    assert psutil.wait_procs([gateway], timeout=10)[1] == []
    assert is_free(endpoint)


def test_no_secret_is_shown(s3_store):
    assert s3_store.secret_key not in repr(s3_store)
    assert s3_store.endpoint in repr(s3_store)
    for process in (guard_of(s3_store), gateway_of(s3_store)):
        assert s3_store.secret_key not in " ".join(process.cmdline())


def test_no_secret_is_logged(tmp_path):
    with S3Store(tmp_path) as store:
        (log,) = tmp_path.glob("*/gateway.log")
        assert store.secret_key not in log.read_text()


def test_a_port_that_is_taken_is_left_alone():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = iter([port])
        with S3Store(find_port=lambda: next(ports, None) or find_free_port()) as store:
            assert store.endpoint != f"127.0.0.1:{port}"
            assert store.client().list_buckets() == []


def test_another_store_at_the_port_is_not_taken_for_this_one(s3_store, tmp_path):
    port = int(s3_store.endpoint.partition(":")[2])
    with pytest.raises(ConfigurationError, match=r"(?s)ended while it started.*already in use"):
        S3Store(tmp_path, find_port=lambda: port).start()
    assert guards_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_keys_at_the_port_is_not_taken_for_the_store(scripted, tmp_path):
    server = scripted(lambda request: say({}))
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match="ended while it started"):
        S3Store(tmp_path, find_port=lambda: port).start()
    assert server.asked  # it accepts all keys
    assert guards_in(tmp_path) == []


def test_a_gateway_that_does_not_start_in_time(tmp_path):
    store = S3Store(tmp_path, start_timeout_s=0.0)
    with pytest.raises(ConfigurationError, match="does not answer"):
        store.start()
    assert guards_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_missing_package():
    with pytest.raises(ConfigurationError, match=r'pip install "no-such-package==1\.4\.2"'):
        find_program("no-such-package")


def test_the_pin_is_that_of_the_test_extra():
    text = (Path(__file__).parents[2] / "setup.cfg").read_text()
    assert f"\n    {PACKAGE}=={VERSION};" in text
