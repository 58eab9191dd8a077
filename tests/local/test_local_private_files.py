"""Where a server keeps things: nobody else can read, replace or plant them."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from coffea_sx.errors import ConfigurationError
from coffea_sx.local import LocalServiceX, private_files
from coffea_sx.local.database import Database

pytestmark = pytest.mark.skipif(os.name != "posix", reason="users and modes are of POSIX")
is_root = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="only root can give files to another user")
SOMEBODY = 12345


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
        os.chown(directory, SOMEBODY, SOMEBODY, follow_symlinks=False)
        path = directory
    else:
        LocalServiceX(directory).start().stop()
        path = directory if what == "directory" else directory / "servicex.sqlite"
        os.chown(path, SOMEBODY, SOMEBODY)
    with pytest.raises(ConfigurationError, match=f"{path} cannot be used: it belongs to another"):
        LocalServiceX(directory).start()


def damage_header(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content) - 2048, 4096):
        content[start : start + 2048] = b"\xa5" * 2048
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [damage_header, damage_pages, cut])
def test_a_damaged_database_is_named(damage, tmp_path):
    LocalServiceX(tmp_path / "d").start().stop()
    path = tmp_path / "d" / "servicex.sqlite"
    damage(path)
    with pytest.raises(ConfigurationError, match=f"{path} is damaged.* move {path} away"):
        LocalServiceX(tmp_path / "d").start()
    path.rename(tmp_path / "away")
    with LocalServiceX(tmp_path / "d"):
        pass


def test_an_attempt_to_take_a_directory_leaves_its_lock(tmp_path, environment):
    """The lock of a process ends when it closes any file that it has opened on the database."""
    code = (
        "import sys; from pathlib import Path; from coffea_sx.local.database import Database\n"
        "try: Database(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)"
    )
    first = Database(tmp_path)
    with pytest.raises(ConfigurationError, match="one LocalServiceX at a time"):
        Database(tmp_path)
    other = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert other.stdout == "ConfigurationError\n"
    first.close()


def test_private_files_are_written_all_at_once(tmp_path):
    path = tmp_path / "servicex.yaml"
    private_files.write_file(path, "one")
    first = path.stat().st_ino
    private_files.write_file(path, "two")
    assert (path.read_text(), mode(path)) == ("two", 0o600)
    assert path.stat().st_ino != first
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_what_is_not_overwritten(tmp_path):
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
        os.chown(path, SOMEBODY, SOMEBODY)
        with pytest.raises(ConfigurationError, match="another user"):
            private_files.write_file(path, "token")
