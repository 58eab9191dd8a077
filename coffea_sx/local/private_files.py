"""Directories and files that no other user can read, replace or plant."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from ..errors import ConfigurationError

_IS_POSIX = os.name == "posix"
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_directory(directory: Path) -> None:
    """Create a directory, or check that no other user can change the contents of an existing one.

    Raises
    ------
    ConfigurationError
        If it cannot be created, belongs to another user, or can be written to by others.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        link, target = directory.lstat(), directory.stat()
    except OSError as error:
        raise ConfigurationError(
            f"The directory {directory} cannot be used: {error.strerror}."
        ) from error
    if not (_is_own(link) and _is_own(target)):
        raise ConfigurationError(
            f"The directory {directory} cannot be used: it belongs to another user (uid "
            f"{target.st_uid}), who could change what is in it. Take one of your own."
        )
    if _IS_POSIX and target.st_mode & _WRITTEN_BY_OTHERS:
        raise ConfigurationError(
            f"The directory {directory} cannot be used: other users can write to it. Take one of "
            f"your own, or call `chmod go-w {directory}` if only you have put files there."
        )


def make_file(path: Path) -> None:
    """Create an empty file, or check that the existing one is a file of this user.

    An existing file is not opened: closing it would end the locks that this process has on it.
    After `make_directory` for its directory no other user can replace it after the check.

    Raises
    ------
    ConfigurationError
        If it is a link, not a file, or belongs to another user.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return
    except FileExistsError:
        pass
    check_file(path)
    if _IS_POSIX:
        path.chmod(0o600)


def check_file(path: Path) -> None:
    """Check that a file is one of this user and no link, or that there is none.

    Raises
    ------
    ConfigurationError
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(
            f"{path} cannot be used: it is not a file of its own (a link, for example). Remove it."
        )
    if not _is_own(status):
        raise ConfigurationError(
            f"{path} cannot be used: it belongs to another user (uid {status.st_uid})."
        )


def check_replaceable(path: Path) -> None:
    """Check that a path is free, or a file of this user that others cannot read.

    Raises
    ------
    ConfigurationError
    """
    check_file(path)
    if _IS_POSIX and path.exists() and path.stat().st_mode & _FOR_OTHERS:
        raise ConfigurationError(
            f"{path} is not overwritten: others may read it, and it may be theirs. Remove it, or "
            f"call `chmod 600 {path}`."
        )


def write_file(path: Path, text: str) -> None:
    """Write a file that only this user can read, in one step.

    Raises
    ------
    ConfigurationError
        If it cannot be written, or `check_replaceable` refuses an existing one.
    """
    check_replaceable(path)
    try:
        # Readable by this user only, under a name that others cannot foresee.
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error


def is_private(path: Path) -> bool:
    """Return True if a path is a directory of this user, no link, and closed to all others."""
    try:
        status = path.lstat()
    except OSError:
        return False
    is_closed = not _IS_POSIX or not status.st_mode & _FOR_OTHERS
    return stat.S_ISDIR(status.st_mode) and _is_own(status) and is_closed


def _is_own(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
