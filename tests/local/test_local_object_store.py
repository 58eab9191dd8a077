"""Object store and signatures: ranges, conditions, listings, expiry."""

from __future__ import annotations

import hashlib
import re
import time
from datetime import datetime, timedelta, timezone
from urllib.parse import quote, urlsplit, urlunsplit

import boto3
import httpx
import pytest
from botocore.client import Config
from botocore.exceptions import ClientError
from minio.credentials import Credentials
from minio.signer import presign_v4

NOBODY = "0" * 20


@pytest.fixture(scope="module")
def bucket(client, inputs):
    request_id = client.submit(inputs)
    client.wait(request_id)
    return request_id


@pytest.fixture(scope="module")
def names(client, bucket):
    return sorted(row["s3-object-name"] for row in client.rows(bucket))


@pytest.fixture(scope="module")
def url(client, bucket, names):
    return client.urls(bucket, names[:1])[names[0]][0]


@pytest.fixture(scope="module")
def content(client, url):
    response = client.http.get(url)
    assert response.status_code == 200
    return response.content


@pytest.fixture(scope="module")
def boto(client, bucket):
    """Make a boto3 client of a signature version, with the keys of the status."""

    def make(version: str = "s3v4", **changes: str) -> object:
        status = client.status(bucket)
        keys = {
            "aws_access_key_id": status["minio-access-key"],
            "aws_secret_access_key": status["minio-secret-key"],
        }
        return boto3.client(
            "s3",
            endpoint_url=f"http://{status['minio-endpoint']}",
            region_name="us-east-1",
            config=Config(signature_version=version, retries={"max_attempts": 0}),
            **{**keys, **changes},
        )

    return make


def sign(client, bucket, name, *, ago_s=0, expires_s=60, method="GET", **changes):
    status = client.status("1")  # all requests have the same keys
    keys = {"access": status["minio-access-key"], "secret": status["minio-secret-key"], **changes}
    url = f"http://{status['minio-endpoint']}/{bucket}/{quote(name, safe='')}"
    signed = presign_v4(
        method=method,
        url=urlsplit(url),
        region="us-east-1",
        credentials=Credentials(keys["access"], keys["secret"]),
        date=datetime.now(timezone.utc) - timedelta(seconds=ago_s),
        expires=expires_s,
    )
    return urlunsplit(signed)


def code(response: httpx.Response) -> str:
    return response.text.partition("<Code>")[2].partition("</Code>")[0]


def test_whole_object(client, url, content):
    response = client.http.get(url)
    assert content.startswith(b"root")
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"] == f'"{hashlib.md5(content).hexdigest()}"'
    assert response.headers["last-modified"].endswith("GMT")
    assert client.server.exchanges[-1].nbytes_sent == len(content)


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=100-", 100, None),
        ("bytes=-10", -10, None),
        ("bytes=-99999999", 0, None),
        ("bytes=100-99999999", 100, None),
    ],
)
def test_ranges(client, url, content, header, start, stop):
    response = client.http.get(url, headers={"range": header})
    assert response.status_code == 206
    assert response.content == content[start:stop]
    first = start if start >= 0 else len(content) + start
    last = first + len(response.content) - 1
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=-0", "bytes=99999999-999999999"])
def test_ranges_outside(client, url, content, header):
    response = client.http.get(url, headers={"range": header})
    assert (response.status_code, code(response)) == (416, "InvalidRange")
    assert response.headers["content-range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=5-2", "lines=1-2", "bytes=-", "x"])
def test_other_ranges_return_the_whole_object(client, url, content, header):
    response = client.http.get(url, headers={"range": header})
    assert (response.status_code, response.content) == (200, content)


def test_if_match(client, url, content):
    etag = client.http.get(url).headers["etag"]
    for value in (etag, "*", f'"x", {etag}', etag.strip('"')):
        assert client.http.get(url, headers={"if-match": value}).status_code == 200
    response = client.http.get(url, headers={"if-match": '"other"', "range": "bytes=0-1"})
    assert (response.status_code, code(response)) == (412, "PreconditionFailed")


def test_head(client, bucket, names, content):
    response = client.http.head(sign(client, bucket, names[0], method="HEAD"))
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(content)
    assert response.content == b""


def test_expiry(client, bucket, names):
    response = client.http.get(sign(client, bucket, names[0], ago_s=61, expires_s=60))
    assert (response.status_code, code(response)) == (403, "AccessDenied")
    assert "Request has expired" in response.text
    response = client.http.get(sign(client, bucket, names[0], expires_s=8 * 24 * 3600))
    assert (response.status_code, code(response)) == (400, "AuthorizationQueryParametersError")


def test_urls_expire_when_the_server_states(serve, inputs):
    client = serve(url_expiry_s=1)
    request_id = client.submit(inputs[:1])
    client.wait(request_id)
    name = client.rows(request_id)[0]["s3-object-name"]
    url, headers, expiry = client.urls(request_id, [name])[name]
    assert headers == {}
    assert time.time() - 1 < expiry <= time.time() + 1
    assert client.http.get(url).status_code == 200
    time.sleep(2.1)
    assert client.http.get(url).status_code == 403


def test_refused_signatures(client, bucket, names, url):
    cases = {
        "SignatureDoesNotMatch": [
            sign(client, bucket, names[0], secret="wrong"),
            url.replace(names[0].replace(":", "%3A"), names[1].replace(":", "%3A")),
            re.sub(r"Expires=(\d+)", lambda match: f"Expires={int(match[1]) + 1}", url),
        ],
        "InvalidAccessKeyId": [sign(client, bucket, names[0], access=NOBODY)],
        "AccessDenied": [url.partition("?")[0], f"/{bucket}", f"/{bucket}?list-type=2"],
    }
    for expected, urls in cases.items():
        for refused in urls:
            response = client.http.get(refused)
            assert (response.status_code, code(response)) == (403, expected), refused
            assert response.headers["content-type"] == "application/xml"
    assert client.http.head(url).status_code == 403
    assert client.http.put(url, content=b"x").status_code == 403


def test_other_encodings_of_the_same_path(client, url, content):
    assert "%3A" in url
    path, _, query = url.partition("?")
    assert client.http.get(f"{path.replace('%3A', ':')}?{query}").content == content


def test_missing_objects(client, bucket):
    response = client.http.get(sign(client, bucket, "nope"))
    assert (response.status_code, code(response)) == (404, "NoSuchKey")
    for name in ("../../servicex.sqlite", "..%2F..%2Fservicex.sqlite", "../../../etc/passwd"):
        assert client.http.get(sign(client, bucket, name)).status_code in (403, 404)
    other = "00000000-0000-4000-8000-000000000000"
    response = client.http.get(sign(client, other, "nope"))
    assert (response.status_code, code(response)) == (404, "NoSuchBucket")


def test_boto_with_headers(boto, bucket, names, content):
    s3 = boto()
    listed = s3.list_objects_v2(Bucket=bucket)
    assert [entry["Key"] for entry in listed["Contents"]] == names
    assert listed["Contents"][0]["Size"] == len(content)
    first = s3.list_objects_v2(Bucket=bucket, MaxKeys=3)
    rest = s3.list_objects_v2(Bucket=bucket, ContinuationToken=first["NextContinuationToken"])
    assert [e["Key"] for e in first["Contents"] + rest["Contents"]] == names
    assert s3.list_objects_v2(Bucket=bucket, Prefix="nope")["KeyCount"] == 0
    assert s3.head_object(Bucket=bucket, Key=names[0])["ContentLength"] == len(content)
    part = s3.get_object(Bucket=bucket, Key=names[0], Range="bytes=0-3")
    assert part["Body"].read() == content[:4]
    for changes, expected in [
        ({"aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": NOBODY}, "InvalidAccessKeyId"),
    ]:
        with pytest.raises(ClientError) as caught:
            boto(**changes).get_object(Bucket=bucket, Key=names[0])
        assert caught.value.response["Error"]["Code"] == expected
    with pytest.raises(ClientError) as caught:
        s3.delete_object(Bucket=bucket, Key=names[0])
    assert caught.value.response["Error"]["Code"] == "MethodNotAllowed"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_boto_presigned(client, boto, bucket, names, content, version):
    s3 = boto(version)

    def presigned(expires_s: int) -> str:
        return s3.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": names[0]}, ExpiresIn=expires_s
        )

    url = presigned(60)
    assert ("AWSAccessKeyId" in url) == (version == "s3")
    assert client.http.get(url).content == content
    assert client.http.get(url, headers={"range": "bytes=1-2"}).content == content[1:3]
    key = "Signature="
    broken = url.replace(key, f"{key}A" if version == "s3" else f"{key}0")
    assert code(client.http.get(broken)) == "SignatureDoesNotMatch"
    if version == "s3":
        assert "Request has expired" in client.http.get(presigned(-5)).text


def test_old_requests_are_refused(client, bucket, names):
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={client.status(bucket)['minio-access-key']}/20200101/"
        f"us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    )
    response = client.http.get(
        f"/{bucket}/x",
        headers={"authorization": authorization, "x-amz-date": "20200101T000000Z"},
    )
    assert code(response) == "RequestTimeTooSkewed"
    response = client.http.get(f"/{bucket}/x", headers={"authorization": "AWS4-HMAC-SHA256 x"})
    assert code(response) == "AuthorizationHeaderMalformed"
