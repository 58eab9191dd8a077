"""Signatures of requests and of URLs to objects, as S3 defines them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from minio import signer
from minio.credentials import Credentials

REGION = "us-east-1"
MAX_EXPIRES_S = 7 * 24 * 3600
MAX_SKEW = timedelta(minutes=15)

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<key>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/s3/aws4_request,"
    r"\s*SignedHeaders=(?P<signed>[^,]+),\s*Signature=(?P<signature>[0-9a-f]+)"
)
_CREDENTIAL = re.compile(r"(?P<key>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/s3/aws4_request")


class SignatureError(Exception):
    """A request without a valid signature.

    Attributes
    ----------
    code, message : str
        Those of S3.
    status : int
        HTTP status of the response.
    """

    def __init__(self, code: str, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


_MISMATCH = (
    "SignatureDoesNotMatch",
    "The request signature we calculated does not match the signature you provided. "
    "Check your key and signing method.",
)


@dataclass(frozen=True)
class SignedRequest:
    """Parts of a request that signatures cover.

    Attributes
    ----------
    method : str
    path : str
        As sent, percent-encoded.
    query : str
        As sent.
    headers : mapping of str to str
        With names in lower case.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]

    @property
    def parameters(self) -> dict[str, str]:
        """The decoded query."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class Keys:
    """Key pair of an object store, which checks signatures and signs URLs."""

    access_key: str
    secret_key: str = field(repr=False)

    def check(self, request: SignedRequest) -> None:
        """Raise SignatureError unless the request is signed with these keys.

        Raises
        ------
        SignatureError
        """
        parameters = request.parameters
        if "X-Amz-Signature" in parameters:
            self._check_presigned_v4(request, parameters)
        elif "AWSAccessKeyId" in parameters:
            self._check_presigned_v2(request, parameters)
        elif request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256"):
            self._check_header_v4(request)
        else:
            raise SignatureError("AccessDenied", "Access Denied.")

    def presign(self, url: str, expires_s: int) -> tuple[str, int]:
        """Return a URL that anyone can GET, and when it expires (seconds since the epoch).

        The signature is of version 2, as on real servers, whose URLs are valid for a year: those
        of version 4 expire after a week at most.
        """
        parts = urlsplit(url)
        expires_at = int(time.time()) + expires_s
        query = urlencode(
            {
                "AWSAccessKeyId": self.access_key,
                "Signature": self._sign_v2("GET", parts.path, str(expires_at)),
                "Expires": expires_at,
            }
        )
        return urlunsplit(parts._replace(query=query)), expires_at

    def _sign_v2(self, method: str, path: str, expires_at: str) -> str:
        text = f"{method}\n\n\n{expires_at}\n{_canonical_path(path)}"
        digest = hmac.new(self.secret_key.encode(), text.encode(), hashlib.sha1).digest()
        return base64.b64encode(digest).decode()

    def _check_key(self, access_key: str) -> None:
        if not hmac.compare_digest(access_key.encode(), self.access_key.encode()):
            raise SignatureError(
                "InvalidAccessKeyId",
                "The Access Key Id you provided does not exist in our records.",
            )

    def _check_header_v4(self, request: SignedRequest) -> None:
        header = _AUTHORIZATION.fullmatch(request.headers["authorization"].strip())
        if header is None:
            raise SignatureError(
                "AuthorizationHeaderMalformed", "The authorization header is malformed.", 400
            )
        self._check_key(header["key"])
        date = _amz_date(request.headers.get("x-amz-date", ""), header["day"])
        if abs(datetime.now(timezone.utc) - date) > MAX_SKEW:
            raise SignatureError(
                "RequestTimeTooSkewed",
                "The difference between the request time and the server's time is too large.",
            )
        signed = header["signed"].split(";")
        if "host" not in signed or not set(signed) <= set(request.headers):
            raise SignatureError(*_MISMATCH)
        computed = signer.sign_v4_s3(
            method=request.method,
            url=_canonical_url(request, request.query),
            region=header["region"],
            headers={name: request.headers[name] for name in signed},
            credentials=Credentials(self.access_key, self.secret_key),
            content_sha256=request.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            date=date,
        )["Authorization"]
        _compare(header["signature"], computed.rpartition("=")[2])

    def _check_presigned_v4(self, request: SignedRequest, parameters: dict[str, str]) -> None:
        credential = _CREDENTIAL.fullmatch(parameters.get("X-Amz-Credential", ""))
        expires = parameters.get("X-Amz-Expires", "")
        if credential is None or not expires.isdigit() or int(expires) > MAX_EXPIRES_S:
            raise SignatureError(
                "AuthorizationQueryParametersError", "The signature's parameters are wrong.", 400
            )
        self._check_key(credential["key"])
        date = _amz_date(parameters.get("X-Amz-Date", ""), credential["day"])
        own = "&".join(pair for pair in request.query.split("&") if not pair.startswith("X-Amz-"))
        signed = signer.presign_v4(
            method=request.method,
            url=_canonical_url(request, own),
            region=credential["region"],
            credentials=Credentials(self.access_key, self.secret_key),
            date=date,
            expires=int(expires),
        )
        _compare(parameters["X-Amz-Signature"], signed.query.rpartition("=")[2])
        if date.timestamp() + int(expires) < time.time():
            raise SignatureError("AccessDenied", "Request has expired")

    def _check_presigned_v2(self, request: SignedRequest, parameters: dict[str, str]) -> None:
        self._check_key(parameters["AWSAccessKeyId"])
        expires = parameters.get("Expires", "")
        _compare(
            parameters.get("Signature", ""), self._sign_v2(request.method, request.path, expires)
        )
        if not expires.isdigit() or int(expires) < time.time():
            raise SignatureError("AccessDenied", "Request has expired")


def _compare(signature: str, computed: str) -> None:
    if not hmac.compare_digest(signature.encode(), computed.encode()):
        raise SignatureError(*_MISMATCH)


def _amz_date(text: str, day: str) -> datetime:
    try:
        date = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise SignatureError("AccessDenied", "X-Amz-Date is missing or malformed") from None
    if not text.startswith(day):
        raise SignatureError(*_MISMATCH)
    return date


def _canonical_path(path: str) -> str:
    # HTTP clients encode different characters of the same path; it is signed in one encoding.
    return quote(unquote(path), safe="/-_.~")


def _canonical_url(request: SignedRequest, query: str) -> SplitResult:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    canonical = "&".join(
        f"{quote(unquote(name), safe='-_.~')}={quote(unquote(value), safe='-_.~')}"
        for name, _, value in pairs
    )
    host = request.headers.get("host", "")
    return SplitResult("http", host, _canonical_path(request.path), canonical, "")
