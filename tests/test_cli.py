"""The command `coffea-sx`, as a user runs it."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from coffea_sx.cli import main
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.servicex.config import EndpointName, find_endpoint

COMMAND = [sys.executable, "-m", "coffea_sx"]


def test_demo(tmp_path: Path) -> None:
    picture = tmp_path / "plot.png"
    done = subprocess.run(
        [*COMMAND, "demo", "--files", "24", "--out", str(picture)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the same, bin by bin" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Traceback" not in done.stderr
    moments = re.findall(r"^ *([0-9.]+)  (.*)$", done.stdout, re.MULTILINE)
    order = [name for _, name in moments]
    assert order.index("graph built") < order.index("first file delivered")
    assert order.index("first partition read") < order.index("last file delivered")


@contextmanager
def serving(*options: str) -> Iterator[dict[str, Any]]:
    """Run `coffea-sx serve`; give its endpoint, what it printed and where the configuration is."""
    with subprocess.Popen(
        [*COMMAND, "serve", *options], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            lines = [server.stdout.readline() for _ in range(3)]
            assert lines[-1], "the server ended"
            path = Path(lines[1].rpartition(" is ")[2].strip())
            (endpoint,) = yaml.safe_load(path.read_text())["api_endpoints"]
            yield {**endpoint, "printed": "".join(lines), "path": path}
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_serve(tmp_path: Path) -> None:
    with serving("--directory", str(tmp_path / "state"), "--generation", "2025") as served:
        info = httpx.get(f"{served['endpoint']}/servicex").json()
        assert "uproot" in info["code-gen-image"]
        assert "poll_local_transformation_results" in info["capabilities"]
        assert "generate_file_urls" not in info["capabilities"]
        refused = httpx.get(f"{served['endpoint']}/servicex/transformation")
        assert refused.status_code == 401
        assert served["path"] == tmp_path / "state" / "servicex.yaml"
        assert stat.S_IMODE(served["path"].stat().st_mode) == 0o600


@pytest.mark.sampled(2)
@pytest.mark.parametrize("exists", [False, True])
def test_serve_shows_its_token_to_the_user_only(exists: bool, tmp_path: Path) -> None:
    written = tmp_path / "servicex.yaml"
    if exists:
        written.touch(0o600)
        written.write_text("of the last time")
    with serving("--write", str(written)) as served:
        assert served["path"] == written
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
        assert served["token"] not in served["printed"]
        client = ServiceXClient(find_endpoint(EndpointName("local", None, str(written))))
        assert client.transforms() == []
        client.close()


def test_serve_overwrites_no_file_that_others_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "servicex.yaml"
    written.write_text("shared")
    written.chmod(0o644)
    state = tmp_path / "state"
    assert main(["serve", "--directory", str(state), "--write", str(written)]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert written.read_text() == "shared"
    assert not state.exists()  # nothing was started


@pytest.mark.parametrize("port", [-1, 1, 22, 80, 1023, 65536, 70000])
def test_invalid_ports(port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    assert main(["serve", "--port", str(port), "--directory", str(state)]) == 1
    output = capsys.readouterr().err
    assert output.startswith(f"coffea-sx: Port {port} cannot be used: take one from 1024 to 65535")
    assert not state.exists()  # nothing was started


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--port", "many"])
    assert "invalid int value: 'many'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["serve", "--generation", "2024"])
    assert "choose from '2026', '2025', '1.5'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "says"),
    [("nowhere/a.png", "no such folder"), ("a.xyz", "end in .png"), (".", "end in")],
)
def test_the_plot_needs_an_existing_folder_and_a_picture_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, says: str
) -> None:
    assert main(["demo", "--out", str(tmp_path / out)]) == 1
    assert says in capsys.readouterr().err


def test_numbers_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("0", "-1", "many", "1.5"):
        with pytest.raises(SystemExit):
            main(["demo", f"--files={given}"])
        assert f"{given} is not a positive number" in capsys.readouterr().err


def test_a_form_that_cannot_be_saved(
    nano_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, saved = f"{nano_files[0]}:Events", tmp_path / "nowhere" / "form.json"
    assert main(["form", sample, "--save", str(saved)]) == 1
    assert f"{saved} cannot be written: No such file" in capsys.readouterr().err


def test_a_saved_form_is_an_input_form(
    nano_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from coffea_sx.forms.input_form import input_form

    saved = tmp_path / "form.json"
    assert main(["form", f"{nano_files[0]}:Events", "--save", str(saved)]) == 0
    assert "columns saved" in capsys.readouterr().out
    of_file = input_form({nano_files[0]: "Events"}, None)
    assert input_form(str(saved), None).type == of_file.type
    assert main(["form", f"{nano_files[0]}:Events"]) == 0
    assert re.search(r"^Muon_pt +var \* float32$", capsys.readouterr().out, re.MULTILINE)


def test_check_shows_the_form_and_missing_columns(
    nano_files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--input", f"{nano_files[0]}:Events"]
    assert main(["check", "coffea_sx.demo.analysis:dimuon_query", *options]) == 0
    output = capsys.readouterr().out
    assert "root-file with tree 'servicex'" in output
    assert "NanoAODSchema misses nothing." in output

    ids = "(subscript e 'run') (subscript e 'luminosityBlock') (subscript e 'event')"
    selection = tmp_path / "selection.txt"
    selection.write_text(
        "(call Select (call EventDataset 'bogus.root' 'Events') (lambda (list e) (dict (list 'run' "
        f"'luminosityBlock' 'event' 'Muon_pt') (list {ids} (subscript e 'Muon_pt')))))"
    )
    assert main(["check", str(selection), "--codegen", "uproot", *options]) == 1
    assert "events.Muon needs Muon_charge" in capsys.readouterr().out

    assert main(["check", "coffea_sx.demo.analysis:no_query", *options]) == 1
    assert "There is no query" in capsys.readouterr().err
    assert main(["check", str(selection), "--codegen", "uproot", "--schema", "X", *options]) == 1
    assert "has no X" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minus", r'\(line 5 of written\): KeyError.*e\["x"\] in place of e\.x'),
        ("two", r"\(line 8 of written\).*Call the argument differently"),
        ("captured", r"\(line 12 of written\).*numbers, texts and bools only"),
        ("one_line", r"\(line 14 of written\).*lines of its own"),
        ("absent", "There is no query written:absent"),
    ],
)
def test_queries_that_cannot_be_made(
    name: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "written.py").write_text(
        "from servicex.query import FuncADL_Uproot\n"
        "events = FuncADL_Uproot().FromTree('Events')\n"
        "\n"
        "def minus():\n"
        "    return events.Select(lambda e: {'a': -e.x})\n"
        "\n"
        "def two():\n"
        "    return events.Select(lambda e: {'a': e.x}).Select(lambda e: {'b': e.a})\n"
        "\n"
        "def captured():\n"
        "    cuts = [1]\n"
        "    return events.Where(lambda e: e.x > cuts[0])\n"
        "\n"
        "def one_line(): return events.Select(lambda e: {'a': e.x})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "written", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["check", f"written:{name}", "--input", "sample.root:Events"]) == 1
    assert re.search(message, capsys.readouterr().err, re.DOTALL)
    monkeypatch.delitem(sys.modules, "written", raising=False)


def test_a_query_needs_a_module_and_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "query", "--input", "sample.root:Events"]) == 1
    assert "MODULE:NAME" in capsys.readouterr().err
