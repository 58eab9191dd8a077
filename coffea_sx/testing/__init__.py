"""Servers for tests and benchmarks of clients: a proxy with faults, and a real S3 server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .faults import ChangeETag as ChangeETag
from .faults import Corrupt as Corrupt
from .faults import Delay as Delay
from .faults import Hang as Hang
from .faults import Redirect as Redirect
from .faults import Refuse as Refuse
from .faults import ReplaceBody as ReplaceBody
from .faults import Reset as Reset
from .faults import S3Error as S3Error
from .faults import Shorten as Shorten
from .faults import Status as Status
from .faults import Truncate as Truncate
from .messages import Answer as Answer
from .messages import Hangup as Hangup
from .messages import Request as Request
from .script import Fault as Fault
from .script import When as When
from .store import S3Store as S3Store

if TYPE_CHECKING:
    from .proxy import FaultProxy as FaultProxy


def __getattr__(name: str) -> Any:
    # Lazily, because `python -m coffea_sx.testing.proxy` must not find its module imported.
    if name != "FaultProxy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .proxy import FaultProxy

    return FaultProxy
