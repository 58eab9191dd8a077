"""Temporary directories of servers, and the removal of those that killed servers left."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Container
from pathlib import Path

from ..errors import ConfigurationError
from .database import Database
from .private_files import is_private

# Marks directories that may be removed.
MARKER = "temporary"
# A younger directory may belong to a server that has not locked its database yet.
MIN_AGE_S = 30.0


def new_directory(in_use: Container[Path]) -> Path:
    """Create a directory that no other user can reach; remove those of killed servers.

    Parameters
    ----------
    in_use : container of Path
        Directories of the servers of this process, which are not touched: opening and closing a
        database here would end its lock.
    """
    for directory in _directories():
        with contextlib.suppress(OSError, ConfigurationError):
            is_old = time.time() - (directory / MARKER).stat().st_mtime > MIN_AGE_S
            if is_old and directory not in in_use:
                _remove_unlocked(directory)
    directory = create_directory()
    (directory / MARKER).touch()
    return directory


def create_directory() -> Path:
    """Create a directory below that of this user.

    Where another user has taken the name of that one, the new one is beside it.
    """
    base = _base()
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    if is_private(base):
        return Path(tempfile.mkdtemp(dir=base))
    return Path(tempfile.mkdtemp(prefix=f"{base.name}-", dir=base.parent))


def _directories() -> list[Path]:
    """Return the temporary directories of this user, of all processes."""
    base = _base()
    inside = list(base.glob("*")) if is_private(base) else []
    return [path for path in (*inside, *base.parent.glob(f"{base.name}-*")) if is_private(path)]


def _remove_unlocked(directory: Path) -> None:
    Database(directory).close()  # raises while a server runs in it
    shutil.rmtree(directory, ignore_errors=True)


def _base() -> Path:
    user = str(os.geteuid()) if hasattr(os, "geteuid") else "user"
    return Path(tempfile.gettempdir()) / f"servicex-{user}"
