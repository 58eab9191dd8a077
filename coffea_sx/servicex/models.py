"""Responses of a ServiceX server as frozen dataclasses, parsed where they arrive.

Only this module and the client have keys of the JSON: a key that is missing or wrong is a
`ProtocolError` that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from functools import cache, partial
from time import time
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import ProtocolError
from ..redact import Secret, hide_secret

# Statuses of a transform that has ended, and of one that has ended without its results.
DEAD = frozenset({"Canceled", "Fatal", "Bad Dataset"})
TERMINAL = DEAD | {"Complete"}
# Capability of servers that list rows of results and files of datasets: those since 2025.
LISTS_RESULTS = "poll_local_transformation_results"

_TITLE_LIMIT = re.compile(r"long_sample_titles_(\d+)")
# Longest title that a server without such a limit accepts.
_SHORT_TITLE = 128
# Characters of a wrong value that an error shows.
_SHOWN = 40
_REQUIRED = object()

Value = TypeVar("Value")
Self = TypeVar("Self", bound="Model")
Convert = Callable[[Any], Value]


def read(key: str, convert: Convert[Value], response: Any, default: Any = _REQUIRED) -> Value:
    """Return the value of a key in a response.

    Parameters
    ----------
    key : str
    convert : callable
        Takes the value; raises a TypeError, ValueError or OverflowError if it is a wrong one.
    response : object
        The parsed JSON.
    default : object, optional
        Value to convert if there is no such key.

    Raises
    ------
    ProtocolError
    """
    if not isinstance(response, dict):
        raise ProtocolError(f"There is no {key!r} in a {type(response).__name__}.")
    value = response.get(key, default)
    if value is _REQUIRED:
        raise ProtocolError(f"There is no {key!r} in the response.")
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        shown = repr(value)[:_SHOWN] if isinstance(value, (str, float)) else type(value).__name__
        raise ProtocolError(f"The response has {key!r}: {shown}.") from None


def exactly(kind: type[Value]) -> Convert[Value]:
    """Return a converter for values of one type."""

    def convert(value: Any) -> Value:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return convert


def count(value: Any) -> int:
    """Convert a number that is not negative; servers that do not count yet send null."""
    return max(0, int(value or 0))


def _text(value: Any) -> str:
    return str(value or "")


def _count_if_any(value: Any) -> int | None:
    return None if value is None else count(value)


def _secret(value: Any) -> Secret:
    return Secret(exactly(str)(value))


def _key(key: str, convert: Convert[Any], default: Any = _REQUIRED) -> dict[str, Convert[Any]]:
    """Return the metadata of a field that is parsed from a key."""
    return {"parse": partial(read, key, convert, default=default)}


class Model:
    """Base of dataclasses that are parsed from JSON."""

    __slots__ = ()

    @classmethod
    def from_json(cls: type[Self], response: Any) -> Self:
        """Parse a response.

        Raises
        ------
        ProtocolError
            If a key is missing, or its value is wrong.
        """
        model: Any = cls
        return model(*[parse(response) for parse in _parsers(model)])

    @classmethod
    def all_from_json(cls: type[Self], responses: Any) -> list[Self]:
        """Parse a list."""
        return list(map(cls.from_json, exactly(list)(responses)))


@cache
def _parsers(model: Any) -> list[Convert[Any]]:
    return [attribute.metadata["parse"] for attribute in fields(model)]


def _capability(name: str, doc: str) -> Any:
    return property(lambda info: name in info.capabilities, doc=doc)


@dataclass(frozen=True, slots=True)
class ServerInfo(Model):
    """Version, code generators and capabilities of a server.

    Attributes
    ----------
    version : str
    codegens : dict of str to str
        Image of each code generator.
    capabilities : frozenset of str
        Servers of 2024 have none.
    """

    version: str = field(metadata=_key("app-version", exactly(str)))
    codegens: dict[str, str] = field(metadata=_key("code-gen-image", exactly(dict)))
    capabilities: frozenset[str] = field(metadata=_key("capabilities", frozenset, default=()))

    lists_results = _capability(LISTS_RESULTS, "True if it lists results and files of datasets.")
    generates_urls = _capability("generate_file_urls", "True if it makes the URLs of results.")
    gives_reasons = _capability("transformation_errors", "True if it keeps why input files failed.")
    cancels_by_post = _capability("post_cancel_transform", "True if POST cancels, not GET.")

    @property
    def longest_title(self) -> int:
        """Characters of the longest title that the server accepts."""
        limits = filter(None, map(_TITLE_LIMIT.fullmatch, self.capabilities))
        return max((int(limit[1]) for limit in limits), default=_SHORT_TITLE)


@dataclass(frozen=True, slots=True)
class TransformStatus(Model):
    """Status of a transform, as its server reports it.

    Attributes
    ----------
    request_id, title, status : str
    n_files, n_completed, n_failed : int
        Numbers of input files. Counters are clipped so that ``n_completed + n_failed <= n_files``.
    submitted_at : str
        Time of the submission as the server writes it (ISO 8601); empty if it gives none.
    did, selection, codegen_image, result_format : str
        The dataset, the query, and how it is run; empty if the server does not send them.
    did_id : int or None
        Number of the dataset.
    log_url : str or None
        Address of the logs of the transform.
    """

    request_id: str = field(metadata=_key("request_id", _text, ""))
    title: str = field(metadata=_key("title", _text, ""))
    status: str = field(metadata=_key("status", exactly(str)))
    n_files: int = field(metadata=_key("files", count))
    n_completed: int = field(metadata=_key("files-completed", count))
    n_failed: int = field(metadata=_key("files-failed", count))
    submitted_at: str = field(metadata=_key("submit-time", _text, ""))
    did: str = field(repr=False, metadata=_key("did", _text, ""))
    selection: str = field(repr=False, metadata=_key("selection", _text, ""))
    codegen_image: str = field(repr=False, metadata=_key("code-gen-image", _text, ""))
    result_format: str = field(repr=False, metadata=_key("result-format", _text, ""))
    did_id: int | None = field(repr=False, metadata=_key("did_id", lambda number: number, None))
    log_url: str | None = field(repr=False, metadata=_key("log-url", lambda url: url or None, None))

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_failed", min(self.n_failed, self.n_files))
        n_completed = min(self.n_completed, self.n_files - self.n_failed)
        object.__setattr__(self, "n_completed", n_completed)

    @property
    def is_over(self) -> bool:
        """True if the transform has ended, with its results or without."""
        return self.status in TERMINAL

    @property
    def is_dead(self) -> bool:
        """True if the transform has ended without its results."""
        return self.status in DEAD


def parse_status(response: Any) -> TransformStatus:
    """Parse the status of a transform; the keys of the store in it are hidden in all texts."""
    for key in ("minio-access-key", "minio-secret-key"):
        read(key, lambda value: hide_secret(str(value)), response, None)
    return TransformStatus.from_json(response)


@dataclass(frozen=True, slots=True)
class StoreKeys(Model):
    """Address of the object store of a transform, and the keys for it.

    Attributes
    ----------
    endpoint : str
        Host and port.
    access_key, secret_key : Secret
    is_secure : bool
        True for https.
    """

    endpoint: str = field(metadata=_key("minio-endpoint", exactly(str)))
    access_key: Secret = field(metadata=_key("minio-access-key", _secret))
    secret_key: Secret = field(metadata=_key("minio-secret-key", _secret))
    is_secure: bool = field(metadata=_key("minio-secured", bool))


@dataclass(frozen=True, slots=True)
class ResultRow(Model):
    """One row of results: an input file that was transformed, or that failed.

    Attributes
    ----------
    id : int or str
        Identifies the row; rows come in any order and any number of times.
    file_path : str
        Replica of the input file that was read.
    object_name : str
        Name of the result in the store.
    is_success : bool
    nbytes : int
        Size of the result, bytes; 0 if the server does not count it.
    n_events : int or None
    created_at : str
        Time at which the row was made, as the server writes it.
    """

    id: int | str = field(metadata=_key("id", exactly(int)))
    file_path: str = field(metadata=_key("file-path", exactly(str)))
    object_name: str = field(metadata=_key("s3-object-name", exactly(str)))
    is_success: bool = field(metadata=_key("transform_status", lambda status: status == "success"))
    nbytes: int = field(metadata=_key("total-bytes", count))
    n_events: int | None = field(metadata=_key("total-events", _count_if_any))
    created_at: str = field(metadata=_key("created_at", str))

    @property
    def created(self) -> datetime | None:
        """Time at which the row was made, in UTC; None if the server writes no time."""
        return parse_time(self.created_at)


@dataclass(frozen=True, slots=True)
class DatasetInfo(Model):
    """A dataset and its look-up.

    Attributes
    ----------
    name : str
    lookup_status : str
        ``"complete"`` once all files are listed.
    files : tuple of str
        Paths in the order of the files' ids; replicas are separated by commas.
    """

    name: str = field(metadata=_key("name", _text, ""))
    lookup_status: str = field(metadata=_key("lookup_status", _text, ""))
    files: tuple[str, ...] = field(metadata=_key("files", lambda files: _paths(files)))


def _paths(files: list[Any]) -> tuple[str, ...]:
    in_order = sorted(files, key=partial(read, "id", exactly(int)))
    return tuple(map(partial(read, "paths", exactly(str)), in_order))


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """URL by which one object can be read for a while.

    Attributes
    ----------
    url : str
        With a signature; shown in no message.
    headers : dict
        To be sent along.
    expires_at : float
        Seconds since the epoch.
    """

    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    expires_at: float

    def is_fresh(self, margin_s: float = 60.0) -> bool:
        """Return True if the URL outlives a request that starts now."""
        return time() < self.expires_at - margin_s


def signed_urls(uris: Any) -> dict[str, SignedUrl]:
    """Parse ``{name: [url, headers, expiry]}``; what is no http(s) URL is left out."""
    urls = {}
    for name, value in exactly(dict)(uris).items():
        with suppress(TypeError, ValueError, AttributeError):
            url, headers, expires_at = value
            if urlsplit(url).scheme in ("http", "https"):
                urls[name] = SignedUrl(url, dict(headers or {}), float(expires_at))
    return urls


def failure_reasons(errors: Any) -> dict[str, str]:
    """Parse why input files failed, by path; rows that give no reason are left out."""
    rows = [row for row in exactly(list)(errors) if isinstance(row, dict)]
    return {
        row["file-path"]: str(row["info"])
        for row in rows
        if isinstance(row.get("file-path"), str) and row.get("info") is not None
    }


def parse_access_token(response: Any) -> Secret:
    """Parse the response to a refresh token."""
    return read("access_token", _secret, response)


def parse_time(text: str) -> datetime | None:
    """Return a time that a server wrote, in UTC if it names no zone; None if it is no time."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
