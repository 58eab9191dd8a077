"""What clients send, read and checked; what cannot be read is refused as a real server does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request

from .web import RefusalError

DID_SCHEMES = ("rucio", "cernopendata", "xrootd")

_BAD_REQUEST = "400 Bad Request"
_MALFORMED = (
    f"The json request was malformed: {_BAD_REQUEST}: The browser (or proxy) sent a request "
    "that this server could not understand."
)


async def json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object that a client sent."""
    # Browsers send other sites' forms without asking, but not as JSON.
    is_json = request.headers.get("content-type", "").partition(";")[0] == "application/json"
    try:
        body = await request.json() if is_json else None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RefusalError(400, _MALFORMED)
    return body


async def submission(request: Request, result_formats: Sequence[str]) -> dict[str, Any]:
    """Return a submission that has what it needs, and a DID or a list of files."""
    body = await json_body(request)
    paths = body.get("file-list")
    is_good = (
        body.get("result-destination") == "object-store"
        and body.get("result-format") in result_formats
        and (paths is None or _is_strings(paths))
        and all(isinstance(body.get(name), str | None) for name in ("title", "did", "codegen"))
    )
    if not is_good:
        raise RefusalError(400, _MALFORMED)
    if bool(body.get("did")) == bool(paths):
        raise RefusalError(400, f"{_BAD_REQUEST}: Must provide did or file-list but not both")
    return body


def did_scheme(did: str) -> str:
    """Return which finder looks a DID up."""
    scheme = did.partition("://")[0] if "://" in did else DID_SCHEMES[0]
    if scheme not in DID_SCHEMES:
        raise RefusalError(400, f"{_BAD_REQUEST}: DID scheme is not supported: {scheme}")
    return scheme


async def wanted_objects(request: Request) -> tuple[str, list[str]]:
    """Return of which request, and of which objects a client wants URLs."""
    body = await json_body(request)
    request_id, names = body.get("request_id"), body.get("file_list")
    if not isinstance(request_id, str) or not isinstance(names, list) or not _is_strings(names):
        raise RefusalError(400, _MALFORMED)
    return request_id, names


def later_than(request: Request) -> datetime | None:
    """Return after which time a client wants results."""
    text = request.query_params.get("later_than")
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return time if time.tzinfo is None else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise RefusalError(
            400, f"later_than value {text} is not an ISO 8601 compliant datetime"
        ) from None


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
