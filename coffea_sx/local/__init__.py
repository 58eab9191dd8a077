"""A ServiceX for one machine: the same REST interface, transforms in local processes."""

from __future__ import annotations

from .server import LocalServiceX, default

__all__ = ["LocalServiceX", "default"]
