"""Requests of clients, parsed and checked as on a real server.

A real server is lenient (a number is read as a text, a text as a list of letters), and it responds
to requests that it cannot parse in another way than to those that it refuses. Clients must get the
same responses here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from .error_pages import RefusalError

DID_SCHEMES = ("rucio", "cernopendata", "xrootd")
DESTINATIONS = ("object-store", "volume")
URL_SCHEMES = ("http", "xrootd")

_BAD_REQUEST = "400 Bad Request"
_MALFORMED = (
    f"The json request was malformed: {_BAD_REQUEST}: The browser (or proxy) sent a request "
    "that this server could not understand."
)
_NOT_JSON = (
    "415 Unsupported Media Type: Did not attempt to load JSON data because the request "
    "Content-Type was not 'application/json'."
)
# The formats of Python 3.10, on which real servers run.
_ISO_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(.\d\d(:\d\d(:\d\d(\.\d{3}(\d{3})?)?)?)?"
    r"([+-]\d\d:\d\d(:\d\d(\.\d{6})?)?)?)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Submission:
    """A request to transform either the dataset `did` or the files `paths`."""

    title: str | None
    did: str | None
    paths: list[str]
    selection: Any
    codegen: str | None
    result_format: str
    result_destination: str
    tree_name: str | None
    workers: int | None


async def read_submission(request: Request, result_formats: Sequence[str]) -> Submission:
    """Return the submission in the body of a request."""
    body = await _read_object(request)
    result_format = body.get("result-format", "parquet")
    destination = body.get("result-destination")
    if destination not in DESTINATIONS or result_format not in result_formats:
        raise RefusalError(400, _MALFORMED)
    did, paths = _text(body, "did"), _list(body.get("file-list"))
    workers = _whole_number(body.get("workers", 1))
    if bool(did) == bool(paths):
        raise RefusalError(400, f"{_BAD_REQUEST}: Must provide did or file-list but not both")
    for index, path in enumerate(paths):
        if not isinstance(path, str):
            kind = type(path).__name__
            raise _failed(f"sequence item {index}: expected str instance, {kind} found")
    return Submission(
        title=_text(body, "title"),
        did=did,
        paths=paths,
        selection=_text(body, "selection"),
        codegen=_text(body, "codegen"),
        result_format=result_format,
        result_destination=destination,
        tree_name=_text(body, "tree-name"),
        workers=workers,
    )


async def _read_object(request: Request) -> dict[str, Any]:
    if not _is_json(request):
        raise _failed(_NOT_JSON)
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    # A real server takes null and an empty list for no body.
    if body is None or body == []:
        raise RefusalError(400, _MALFORMED)
    if not isinstance(body, dict):
        raise _failed(f"'{type(body).__name__}' object has no names")
    return body


def _is_json(request: Request) -> bool:
    # Browsers send forms of other sites without a check, but no JSON.
    return request.headers.get("content-type", "").partition(";")[0] == "application/json"


def _failed(detail: str) -> RefusalError:
    """Return the response of a real server that fails itself."""
    return RefusalError(500, f"Something went wrong ({detail})")


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if isinstance(value, list):
        value = value[0] if value else None
    return None if value is None else str(value)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, Iterable):
        raise RefusalError(400, _MALFORMED)
    return list(value)


def _whole_number(value: Any) -> int | None:
    try:
        number = None if value is None else int(value)
    except (ValueError, TypeError, OverflowError):
        raise RefusalError(400, _MALFORMED) from None
    if number is not None and abs(number) >= 1 << 31:
        raise _failed("integer out of range")
    return number


def did_scheme(did: str) -> str:
    """Return the scheme of a DID, which names the DID finder."""
    scheme = did.partition("://")[0] if "://" in did else DID_SCHEMES[0]
    if scheme not in DID_SCHEMES:
        raise RefusalError(400, f"{_BAD_REQUEST}: DID scheme is not supported: {scheme}")
    return scheme


async def read_object_names(request: Request) -> tuple[str, list[str]]:
    """Return the request id, and the names of the objects for which a client requests URLs."""
    if not _is_json(request):
        raise HTTPException(415)
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or not {"request_id", "file_list"} <= set(body):
        raise HTTPException(400)
    names, request_id = body["file_list"], body["request_id"]
    if "scheme" in body and body["scheme"] not in URL_SCHEMES:
        raise HTTPException(400)
    if names is not None and not isinstance(names, Iterable):
        raise HTTPException(400)
    if names is None or not all(isinstance(name, str) for name in names):
        raise HTTPException(500)
    return str(request_id), list(names)


def read_later_than(request: Request) -> datetime | None:
    """Return the time after which a client requests results, None for all."""
    text = request.query_params.get("later_than")
    if not text:
        return None
    try:
        if not _ISO_TIME.fullmatch(text):
            raise ValueError(text)
        time = datetime.fromisoformat(text)
        return time if time.tzinfo is None else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise RefusalError(
            400, f"later_than value {text} is not an ISO 8601 compliant datetime"
        ) from None


def read_submitted_by(request: Request) -> int | None:
    """Return the user whose requests a client lists, None for all."""
    text = request.query_params.get("submitted_by")
    try:
        return None if text is None else int(text)
    except ValueError:
        raise HTTPException(400) from None
