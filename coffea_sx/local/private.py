"""Directories and files that nobody else can read, replace or plant."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from ..errors import ConfigurationError

# Begins the names of what is made in the folder for temporary files, which all users share.
TEMPORARY = "servicex-"

_IS_POSIX = os.name == "posix"
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_directory(directory: Path) -> None:
    """Make a directory, or check that nobody else can change what is in the one that is there.

    Raises
    ------
    ConfigurationError
        If it cannot be made, belongs to another user, or can be written to by others.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        link, found = directory.lstat(), directory.stat()
    except OSError as error:
        raise ConfigurationError(
            f"The directory {directory} cannot be used: {error.strerror}."
        ) from error
    if not (_is_ours(link) and _is_ours(found)):
        raise ConfigurationError(
            f"The directory {directory} cannot be used: it belongs to another user (uid "
            f"{found.st_uid}), who could change what is in it. Take one of your own."
        )
    if _IS_POSIX and found.st_mode & _WRITTEN_BY_OTHERS:
        raise ConfigurationError(
            f"The directory {directory} cannot be used: other users can write to it. Take one of "
            f"your own, or call `chmod go-w {directory}` if only you have put files there."
        )


def make_file(path: Path) -> None:
    """Make an empty file, or check that the one that is there is a file of this user.

    The file is not opened if it is there: to close it would end the locks that this process has
    on it. Nobody can replace it after the check where `make_directory` has been called before.

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
    """Check that a file, if there is one, is a file of this user and no link.

    Raises
    ------
    ConfigurationError
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(
            f"{path} cannot be used: it is not a file of its own (a link, for example). Remove it."
        )
    if not _is_ours(found):
        raise ConfigurationError(
            f"{path} cannot be used: it belongs to another user (uid {found.st_uid})."
        )


def check_replaceable(path: Path) -> None:
    """Check that there is nothing at a place, or a file of this user that others cannot read.

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


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, all at once.

    Raises
    ------
    ConfigurationError
        If it cannot be written, or `check_replaceable` refuses what is at its place.
    """
    check_replaceable(path)
    try:
        # Made for nobody else, under a name that nobody can foresee.
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


def temporary_directory() -> Path:
    """Make a directory for temporary files that nobody else can reach.

    It is below one of this user, or beside it where somebody else has taken that name.
    """
    base = _base()
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    if is_private(base):
        return Path(tempfile.mkdtemp(dir=base))
    return Path(tempfile.mkdtemp(prefix=f"{base.name}-", dir=base.parent))


def temporary_directories() -> list[Path]:
    """Return the directories that `temporary_directory` made for this user, in all processes."""
    base = _base()
    inside = list(base.glob("*")) if is_private(base) else []
    return [path for path in (*inside, *base.parent.glob(f"{base.name}-*")) if is_private(path)]


def is_private(path: Path) -> bool:
    """Whether a path is a directory of this user, no link, that is closed to all others."""
    try:
        found = path.lstat()
    except OSError:
        return False
    is_closed = not _IS_POSIX or not found.st_mode & _FOR_OTHERS
    return stat.S_ISDIR(found.st_mode) and _is_ours(found) and is_closed


def _base() -> Path:
    user = str(os.geteuid()) if hasattr(os, "geteuid") else "user"
    return Path(tempfile.gettempdir()) / f"{TEMPORARY}{user}"


def _is_ours(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
