"""Responses of a ServiceX server as frozen dataclasses, parsed where they arrive.

No other module reads the JSON of a server: a key that is missing or wrong is a `ProtocolError` that
names the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import time
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import ProtocolError
from ..redact import Secret

# Statuses of a transform that has ended, and of one that has ended without its results.
DEAD = frozenset({"Canceled", "Fatal", "Bad Dataset"})
TERMINAL = DEAD | {"Complete"}
# Servers that list the rows of results and the files of datasets: those since 2025.
LISTS_RESULTS = "poll_local_transformation_results"

_TITLE_LIMIT = re.compile(r"long_sample_titles_(\d+)")
# Longest title that a server without such a limit accepts.
_SHORT_TITLE = 128
# A URL that expires sooner than this may not outlive a request that starts now, seconds.
_FRESH_S = 60.0

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Version, code generators and capabilities of a server.

    Attributes
    ----------
    version : str
    codegens : dict of str to str
        Image of each code generator.
    capabilities : frozenset of str
    """

    version: str
    codegens: dict[str, str]
    capabilities: frozenset[str]

    @classmethod
    def from_json(cls, response: Any) -> ServerInfo:
        """Parse ``GET /servicex``; servers of 2024 send no capabilities."""
        codegens = _value(response, "code-gen-image", dict)
        capabilities = _value({"capabilities": [], **response}, "capabilities", list)
        return cls(_value(response, "app-version", str), codegens, frozenset(capabilities))

    @property
    def lists_results(self) -> bool:
        """True if the server lists rows of results and files of datasets."""
        return LISTS_RESULTS in self.capabilities

    @property
    def generates_urls(self) -> bool:
        """True if the server makes the URLs of results."""
        return "generate_file_urls" in self.capabilities

    @property
    def gives_reasons(self) -> bool:
        """True if the server keeps why input files failed."""
        return "transformation_errors" in self.capabilities

    @property
    def cancels_by_post(self) -> bool:
        """True if a transform is canceled by POST."""
        return "post_cancel_transform" in self.capabilities

    @property
    def longest_title(self) -> int:
        """Characters of the longest title that the server accepts."""
        limits = filter(None, map(_TITLE_LIMIT.fullmatch, self.capabilities))
        return max((int(limit[1]) for limit in limits), default=_SHORT_TITLE)


@dataclass(frozen=True, slots=True)
class TransformStatus:
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
        Where the logs of the transform are.
    """

    request_id: str
    title: str
    status: str
    n_files: int
    n_completed: int
    n_failed: int
    submitted_at: str
    did: str = field(repr=False)
    did_id: int | None = field(repr=False)
    selection: str = field(repr=False)
    codegen_image: str = field(repr=False)
    result_format: str = field(repr=False)
    log_url: str | None = field(repr=False)

    @classmethod
    def from_json(cls, response: Any) -> TransformStatus:
        """Parse the status of a transform."""
        n_files = _count(response, "files")
        for key in ("minio-access-key", "minio-secret-key"):
            Secret(str(response.get(key)))  # hidden in all texts from now on
        n_failed = min(_count(response, "files-failed"), n_files)
        return cls(
            _text(response, "request_id"),
            _text(response, "title"),
            _value(response, "status", str),
            n_files,
            min(_count(response, "files-completed"), n_files - n_failed),
            n_failed,
            _text(response, "submit-time"),
            _text(response, "did"),
            response.get("did_id"),
            _text(response, "selection"),
            _text(response, "code-gen-image"),
            _text(response, "result-format"),
            response.get("log-url") or None,
        )

    @property
    def is_over(self) -> bool:
        """True if the transform has ended, with its results or without."""
        return self.status in TERMINAL

    @property
    def is_dead(self) -> bool:
        """True if the transform has ended without its results."""
        return self.status in DEAD

    @property
    def submitted(self) -> datetime | None:
        """Time of the submission in UTC."""
        return parse_time(self.submitted_at)


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """Address of the object store of a transform, and the keys for it.

    Attributes
    ----------
    endpoint : str
        Host and port.
    access_key, secret_key : Secret
    is_secure : bool
        True for https.
    """

    endpoint: str
    access_key: Secret
    secret_key: Secret
    is_secure: bool

    @classmethod
    def from_json(cls, response: Any) -> StoreKeys:
        """Parse the keys in the status of a transform."""
        return cls(
            _value(response, "minio-endpoint", str),
            Secret(_value(response, "minio-access-key", str)),
            Secret(_value(response, "minio-secret-key", str)),
            bool(_value(response, "minio-secured", object)),
        )


@dataclass(frozen=True, slots=True)
class ResultRow:
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

    id: int | str
    file_path: str
    object_name: str
    is_success: bool
    nbytes: int
    n_events: int | None
    created_at: str

    @classmethod
    def from_json(cls, row: Any) -> ResultRow:
        """Parse a row of ``GET .../results``."""
        n_events = _value(row, "total-events", object)
        return cls(
            _value(row, "id", int),
            _value(row, "file-path", str),
            _value(row, "s3-object-name", str),
            _value(row, "transform_status", str) == "success",
            _count(row, "total-bytes"),
            None if n_events is None else _count(row, "total-events"),
            str(_value(row, "created_at", object)),
        )

    @property
    def created(self) -> datetime | None:
        """Time at which the row was made, in UTC; None if it is no time."""
        return parse_time(self.created_at)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset and its look-up.

    Attributes
    ----------
    name : str
    lookup_status : str
        ``"complete"`` once all files are listed.
    files : tuple of str
        Paths in the order of the files' ids; replicas are separated by commas.
    """

    name: str
    lookup_status: str
    files: tuple[str, ...]

    @classmethod
    def from_json(cls, response: Any) -> DatasetInfo:
        """Parse ``GET /servicex/datasets/{id}``."""
        files = _value(response, "files", list)
        files.sort(key=lambda file: _value(file, "id", int))
        paths = tuple(_value(file, "paths", str) for file in files)
        return cls(_text(response, "name"), _text(response, "lookup_status"), paths)


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

    def is_fresh(self, margin_s: float = _FRESH_S) -> bool:
        """Return True if the URL outlives a request that starts now."""
        return time() < self.expires_at - margin_s


def parse_rows(response: Any) -> list[ResultRow]:
    """Parse ``GET .../results``."""
    return list(map(ResultRow.from_json, _value(response, "results", list)))


def parse_statuses(response: Any) -> list[TransformStatus]:
    """Parse ``GET /servicex/transformation``."""
    return list(map(TransformStatus.from_json, _value(response, "requests", list)))


def parse_reasons(response: Any) -> dict[str, str]:
    """Parse why input files failed, by path; rows that give no reason are left out."""
    rows = [row for row in _value(response, "errors", list) if isinstance(row, dict)]
    return {
        row["file-path"]: str(row["info"])
        for row in rows
        if isinstance(row.get("file-path"), str) and row.get("info") is not None
    }


def parse_urls(response: Any) -> dict[str, SignedUrl]:
    """Parse ``{name: [url, headers, expiry]}``; URLs that are not http(s) are left out."""
    urls = {name: _url(value) for name, value in _value(response, "uris", dict).items()}
    return {name: url for name, url in urls.items() if url is not None}


def parse_request_id(response: Any) -> str:
    """Parse the response to a submission."""
    return _value(response, "request_id", str)


def parse_access_token(response: Any) -> Secret:
    """Parse the response to a refresh token."""
    return Secret(_value(response, "access_token", str))


def parse_time(text: str) -> datetime | None:
    """Return a time that a server wrote: in UTC, if it names no zone. None if it is no time."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _url(value: Any) -> SignedUrl | None:
    try:
        url, headers, expires_at = value
        if urlsplit(url).scheme in ("http", "https"):
            return SignedUrl(url, dict(headers or {}), float(expires_at))
    except (TypeError, ValueError, AttributeError):
        pass
    return None


def _value(response: Any, key: str, kind: type[Value] | tuple[type[Value], ...]) -> Value:
    """Return the value of a key.

    Raises
    ------
    ProtocolError
        If there is none, or it is of another type.
    """
    if not isinstance(response, dict):
        raise ProtocolError(f"{key!r} is expected in an object, got {type(response).__name__}.")
    if key not in response:
        raise ProtocolError(f"There is no {key!r} in the response.")
    value = response[key]
    if not isinstance(value, kind):
        raise ProtocolError(f"The response has {key!r}: {str(value)[:40]!r}.")
    return value


def _count(response: Any, key: str) -> int:
    """Return a number that is not negative: 0 while the server does not count."""
    value: Any = _value(response, key, object)
    try:
        return max(0, int(value or 0))
    except (TypeError, ValueError, OverflowError):
        raise ProtocolError(f"The response has {key!r}: {str(value)[:40]!r}.") from None


def _text(response: Any, key: str) -> str:
    """Return a text that may be missing."""
    return str(response.get(key) or "")
