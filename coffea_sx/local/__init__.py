"""The embedded ServiceX: its REST interface on this machine, transforms in local processes."""

from __future__ import annotations

from .server import LocalServiceX, default

__all__ = ["LocalServiceX", "default"]
