"""Private files: no other user can read, replace or plant the files of a server."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from coffea_sx.errors import ConfigurationError
from coffea_sx.local import LocalServiceX, private_files

pytestmark = pytest.mark.skipif(os.name != "posix", reason="users and modes are of POSIX")
is_root = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="only root can give files to another user")
OTHER_USER = 12345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def make_link(base: Path) -> None:
    target = base.parent / "target"
    target.mkdir(mode=0o700)
    base.symlink_to(target)


def test_a_linked_database_is_not_written_through(tmp_path):
    victim = tmp_path / "victim.sqlite"
    with sqlite3.connect(victim) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = victim.read_bytes()
    directory = tmp_path / "d"
    directory.mkdir(mode=0o700)
    (directory / "servicex.sqlite").symlink_to(victim)
    with pytest.raises(ConfigurationError, match=r"servicex\.sqlite cannot be used: it is not a "):
        LocalServiceX(directory).start()
    assert victim.read_bytes() == before
    (directory / "servicex.sqlite").unlink()
    victim.rename(directory / "servicex.sqlite")
    with pytest.raises(ConfigurationError, match="tables of another program"):
        LocalServiceX(directory).start()
    assert (directory / "servicex.sqlite").read_bytes() == before


@pytest.mark.parametrize("name", ["servicex.sqlite-wal", "servicex.sqlite-journal"])
def test_a_linked_log_is_not_written_through(name, tmp_path):
    LocalServiceX(tmp_path / "d").start().stop()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "d" / name).symlink_to(victim)
    with pytest.raises(ConfigurationError, match=f"{name} cannot be used"):
        LocalServiceX(tmp_path / "d").start()
    assert victim.read_text() == "mine"


def test_directories_that_others_can_write_to_are_refused(tmp_path):
    directory = tmp_path / "d"
    directory.mkdir()
    for open_mode in (0o777, 0o775, 0o702):
        directory.chmod(open_mode)
        with pytest.raises(ConfigurationError, match=f"chmod go-w {directory}"):
            LocalServiceX(directory).start()
    assert list(directory.iterdir()) == []
    directory.chmod(0o755)
    with LocalServiceX(directory):
        assert mode(directory / "servicex.sqlite") == 0o600


@needs_root
@pytest.mark.parametrize("what", ["directory", "link", "database"])
def test_directories_and_files_of_others_are_refused(what, tmp_path):
    directory = tmp_path / "d"
    if what == "link":
        make_link(directory)
        os.chown(directory, OTHER_USER, OTHER_USER, follow_symlinks=False)
        path = directory
    else:
        LocalServiceX(directory).start().stop()
        path = directory if what == "directory" else directory / "servicex.sqlite"
        os.chown(path, OTHER_USER, OTHER_USER)
    with pytest.raises(ConfigurationError, match=f"{path} cannot be used: it belongs to another"):
        LocalServiceX(directory).start()


def test_private_files_are_replaced_in_one_step(tmp_path):
    path = tmp_path / "servicex.yaml"
    private_files.write_file(path, "one")
    first = path.stat().st_ino
    private_files.write_file(path, "two")
    assert (path.read_text(), mode(path)) == ("two", 0o600)
    assert path.stat().st_ino != first
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_files_that_are_not_overwritten(tmp_path):
    path = tmp_path / "servicex.yaml"
    path.write_text("theirs")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        private_files.write_file(path, "token")
    assert path.read_text() == "theirs"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="a link, for example"):
        private_files.write_file(path, "token")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(ConfigurationError, match="No such file"):
        private_files.write_file(tmp_path / "nowhere" / "servicex.yaml", "token")
    with pytest.raises(ConfigurationError, match="not a file of its own"):
        private_files.write_file(tmp_path, "token")
    if is_root:
        path.unlink()
        path.touch(0o600)
        os.chown(path, OTHER_USER, OTHER_USER)
        with pytest.raises(ConfigurationError, match="another user"):
            private_files.write_file(path, "token")
