"""For tests and benchmarks of what reads over HTTP: a proxy with faults, a real S3 server."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faults import (
        Answer,
        ChangeETag,
        Corrupt,
        Delay,
        Fault,
        Hang,
        Hangup,
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
    from .proxy import FaultProxy
    from .store import S3Store

__all__ = [
    "Answer",
    "ChangeETag",
    "Corrupt",
    "Delay",
    "Fault",
    "FaultProxy",
    "Hang",
    "Hangup",
    "Redirect",
    "Refuse",
    "ReplaceBody",
    "Request",
    "Reset",
    "S3Error",
    "S3Store",
    "Shorten",
    "Status",
    "Truncate",
    "When",
]

_MODULES = {"FaultProxy": "proxy", "S3Store": "store"}


def __getattr__(name: str) -> Any:
    # Lazily, because `python -m coffea_sx.testing.proxy` must not find its module imported.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES.get(name, 'faults')}", __name__), name)
