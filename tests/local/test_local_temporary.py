"""Temporary directories, in a folder where every user can write."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from coffea_sx.local import LocalServiceX, temporary

pytestmark = pytest.mark.skipif(os.name != "posix", reason="users and modes are of POSIX")
is_root = hasattr(os, "geteuid") and os.geteuid() == 0
OTHER_USER = 12345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def shared_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that every user can write to."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def planted(base: Path) -> Path:
    """Make a directory with a database that is garbage, as another user might."""
    left = base / "x"
    left.mkdir(parents=True)
    (left / "servicex.sqlite").write_bytes(b"garbage" * 1000)
    (left / "temporary").touch()
    os.utime(left / "temporary", (0, 0))
    return left


def test_temporary_directories_are_in_a_private_one(shared_tmp):
    with LocalServiceX() as server:
        base = shared_tmp / f"servicex-{os.geteuid()}"
        assert server.directory.parent == base
        assert mode(base) == mode(server.directory) == 0o700


def test_directories_of_others_are_ignored(shared_tmp):
    left = planted(shared_tmp / "servicex-x")
    (shared_tmp / "servicex-x" / "servicex.sqlite").write_bytes(b"garbage")
    (shared_tmp / "servicex-x" / "temporary").touch()
    os.utime(shared_tmp / "servicex-x" / "temporary", (0, 0))
    with LocalServiceX() as server:
        assert server.url
    assert left.exists()


def test_a_damaged_database_is_ignored(shared_tmp):
    (shared_tmp / f"servicex-{os.geteuid()}").mkdir(mode=0o700)
    planted(shared_tmp / f"servicex-{os.geteuid()}")
    with LocalServiceX() as server:
        assert server.url


def make_link(base: Path) -> None:
    target = base.parent / "target"
    target.mkdir(mode=0o700)
    base.symlink_to(target)


def make_open(base: Path) -> None:
    base.mkdir()
    base.chmod(0o777)


def make_file(base: Path) -> None:
    base.touch()


def make_of_another(base: Path) -> None:
    if not is_root:
        pytest.skip("only root can give files to another user")
    base.mkdir(mode=0o700)
    os.chown(base, OTHER_USER, OTHER_USER)


@pytest.mark.parametrize("taken", [make_link, make_open, make_file, make_of_another])
def test_a_base_of_another_user_is_not_used(taken, shared_tmp):
    base = shared_tmp / f"servicex-{os.geteuid()}"
    taken(base)
    with LocalServiceX() as server:
        assert server.directory.parent == shared_tmp
        assert mode(server.directory) == 0o700
        beside = server.directory
    assert not beside.exists()
    assert list((shared_tmp / "target").glob("*")) == []


def test_a_directory_beside_a_taken_base_is_removed_by_the_next_server(shared_tmp):
    make_open(shared_tmp / f"servicex-{os.geteuid()}")
    killed = temporary.create_directory()
    LocalServiceX(killed).start().stop()
    (killed / "temporary").touch()
    os.utime(killed / "temporary", (0, 0))
    with LocalServiceX():
        assert not killed.exists()
