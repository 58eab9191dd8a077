"""JSON of the REST interface: requests, results and datasets, key by key."""

from __future__ import annotations

import sqlite3
import statistics
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .buckets import StoreAddress
from .generations import Generation

_NEVER = "1970-01-01T00:00:00.000000Z"


def describe_request(row: sqlite3.Row, generation: Generation) -> dict[str, Any]:
    """Describe a request as servers of a generation do, without the keys of the object store."""
    is_bad = row["status"] == "Bad Dataset" and not generation.has_bad_datasets
    status = "Complete" if is_bad else row["status"]
    is_empty = status == "Complete" and not row["files"]
    has_time = row["finish_time"] and (generation.times_empty_requests or not is_empty)
    return {
        "request_id": row["request_id"],
        "title": row["title"],
        "did": row["did"],
        "did_id": row["did_id"],
        "selection": row["selection"],
        "tree-name": row["tree_name"],
        "image": image(),
        "workers": row["workers"],
        "result-destination": row["result_destination"],
        "result-format": row["result_format"],
        "generated-code-cm": f"{row['request_id']}-generated-source",
        "status": status,
        "failure-info": None,
        "app-version": app_version(),
        "code-gen-image": image(),
        "files": row["files"],
        "files-completed": row["done"] - row["failed"],
        "files-failed": row["failed"],
        "files-remaining": row["files"] - row["done"] if row["files"] else None,
        "submit-time": f"{row['submit_time']}Z",
        "finish-time": f"{row['finish_time']}Z" if has_time else "None",
    }


def describe_store(address: StoreAddress) -> dict[str, Any]:
    """Describe the object store of the results, with its keys."""
    return {
        "minio-endpoint": address.endpoint,
        "minio-secured": address.is_secured,
        "minio-access-key": address.keys.access_key,
        "minio-secret-key": address.keys.secret_key,
    }


def describe_statistics(
    row: sqlite3.Row, results: list[sqlite3.Row], generation: Generation
) -> dict[str, Any]:
    """Describe counts and rates of a request."""
    described = describe_request(row, generation)
    return {
        "files-completed": described["files-completed"],
        "files-failed": described["files-failed"],
        "files-processed": described["files-completed"],
        "files-remaining": described["files-remaining"],
        "files-skipped": described["files-failed"],
        "finish-time": described["finish-time"],
        "request-id": row["request_id"],
        "stats": _rates(results),
        "status": described["status"],
        "submit-time": described["submit-time"],
    }


def describe_result(row: sqlite3.Row) -> dict[str, Any]:
    """Describe the result or failure of one input file."""
    return {
        "id": row["id"],
        "request-id": row["request_id"],
        "file-id": row["id"],
        "file-path": row["file_path"],
        "s3-object-name": row["object_name"],
        "transform_status": row["status"],
        "transform_time": int(row["seconds"]),
        "total-events": row["n_events"],
        "total-bytes": row["nbytes"],
        "avg-rate": _rate(row),
        "created_at": row["created_at"],
    }


def describe_dataset(row: sqlite3.Row) -> dict[str, Any]:
    """Describe a dataset, without its files."""
    return {
        "id": row["id"],
        "name": row["name"],
        "did_finder": row["did_finder"],
        "n_files": row["n_files"],
        "size": 0,
        "events": 0,
        "last_used": f"{row['last_used']}Z",
        "last_updated": _NEVER,
        "lookup_status": row["lookup_status"],
        "is_stale": bool(row["is_stale"]),
    }


def describe_file(row: sqlite3.Row) -> dict[str, Any]:
    """Describe one file of a dataset."""
    return {
        "id": row["id"],
        "adler32": "xxx",
        "file_size": 0,
        "file_events": 0,
        "paths": row["paths"],
    }


def image() -> str:
    """Return the name in place of a real server's container image."""
    return f"coffea_sx.local:{app_version()}"


def app_version() -> str:
    """Return the version of the server."""
    try:
        return version("coffea_sx")
    except PackageNotFoundError:
        return "develop"


def _rate(row: sqlite3.Row) -> float:
    return row["n_events"] / row["seconds"] if row["seconds"] > 0 else 0.0


def _rates(rows: list[sqlite3.Row]) -> dict[str, Any] | None:
    if not rows:
        return None
    times = [int(row["seconds"]) for row in rows]
    return {
        "avg-rate": statistics.fmean(_rate(row) for row in rows),
        "avg-time": statistics.fmean(times),
        "max-time": max(times),
        "min-time": min(times),
        "total-bytes": sum(row["nbytes"] for row in rows),
        "total-events": sum(row["n_events"] for row in rows),
        "total-time": sum(times),
    }
