"""The command `coffea-sx`, as a user runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from coffea_sx.cli import main

COMMAND = [sys.executable, "-m", "coffea_sx"]


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    picture = tmp_path / "plot.png"
    done = subprocess.run(
        [*COMMAND, "demo", "--files", "12", "--events", "5000", "--out", str(picture)],
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


def test_serve(tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            *(*COMMAND, "serve", "--directory", str(tmp_path / "state"), "--tokens"),
            *("--generation", "2025"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            lines: list[str] = []
            while not any("token" in line for line in lines):
                lines.append(server.stdout.readline())
                assert lines[-1], "the server ended"
            (endpoint,) = yaml.safe_load("".join(lines))["api_endpoints"]
            said = httpx.get(f"{endpoint['endpoint']}/servicex").json()
            assert "uproot" in said["code-gen-image"]
            assert "poll_local_transformation_results" in said["capabilities"]
            assert "generate_file_urls" not in said["capabilities"]
            refused = httpx.get(f"{endpoint['endpoint']}/servicex/transformation")
            assert refused.status_code == 401
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "70000"]) == 1
    assert capsys.readouterr().err.startswith("coffea-sx: Port 70000 cannot be used")
    with pytest.raises(SystemExit):
        main(["serve", "--generation", "2024"])
    assert "choose from '2026', '2025', '1.5'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "says"),
    [("nowhere/a.png", "no such folder"), ("a.xyz", "end in .png"), (".", "end in")],
)
def test_where_no_picture_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, says: str
) -> None:
    assert main(["demo", "--out", str(tmp_path / out)]) == 1
    assert says in capsys.readouterr().err


def test_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
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
    from coffea_sx.forms.sample import input_form

    saved = tmp_path / "form.json"
    assert main(["form", f"{nano_files[0]}:Events", "--save", str(saved)]) == 0
    assert "columns saved" in capsys.readouterr().out
    of_file = input_form({nano_files[0]: "Events"}, None)
    assert input_form(str(saved), None).type == of_file.type
    assert main(["form", f"{nano_files[0]}:Events"]) == 0
    assert re.search(r"^Muon_pt +var \* float32$", capsys.readouterr().out, re.MULTILINE)


def test_check_says_what_is_delivered_and_missed(
    nano_files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--input", f"{nano_files[0]}:Events"]
    assert main(["check", "coffea_sx.demo.analysis:dimuon_query", *options]) == 0
    said = capsys.readouterr().out
    assert "root-file with tree 'servicex'" in said
    assert "NanoAODSchema misses nothing." in said

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
    ("name", "said"),
    [
        ("minus", r'\(line 5 of written\): KeyError.*e\["x"\] in place of e\.x'),
        ("two", r"\(line 8 of written\).*Call the argument differently"),
        ("captured", r"\(line 12 of written\).*numbers, texts and bools only"),
        ("one_line", r"\(line 14 of written\).*lines of its own"),
        ("absent", "There is no query written:absent"),
    ],
)
def test_queries_that_cannot_be_written(
    name: str,
    said: str,
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
    assert re.search(said, capsys.readouterr().err, re.DOTALL)
    monkeypatch.delitem(sys.modules, "written", raising=False)


def test_what_names_no_query(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "query", "--input", "sample.root:Events"]) == 1
    assert "MODULE:NAME" in capsys.readouterr().err
