"""Bars for look-ups, transforms and reading."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import pytest
from coffea.nanoevents import NanoEventsFactory
from rich.console import Console
from servicex import dataset
from support.paces import FAST
from support.spoiled import spoil, spoil_result
from support.strategies import submit_dimuons

from coffea_sx import from_spec
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.errors import BadInput
from coffea_sx.local import LocalServiceX
from coffea_sx.progress import TransformProgress
from coffea_sx.testing import Answer, Fault, FaultProxy, Request, When
from coffea_sx.testing.messages import Ask

DID = "user:nano"


@pytest.fixture(scope="module")
def server(nano_files: list[str]) -> Iterator[LocalServiceX]:
    with LocalServiceX(datasets={f"rucio://{DID}": nano_files}) as running:
        yield running


@pytest.fixture
def progress() -> TransformProgress:
    """Bars in a terminal, drawn only when a test says so."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    return TransformProgress(console=console, auto_refresh=False)


def drawn(progress: TransformProgress) -> str:
    """What has been drawn, without colours and the movements of the cursor."""
    progress.refresh()
    text = progress.console.file.getvalue()  # type: ignore[attr-defined]
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def last(progress: TransformProgress, n: int) -> list[str]:
    """Draw the last ``n`` bars, each a line of words and numbers."""
    lines = [line for line in re.split(r"[\r\n]+", drawn(progress)) if line.strip()]
    return [re.sub(r"[━╸╺ ]+", " ", line).strip() for line in lines[-n:]]


submit = partial(submit_dimuons, title="dimuons")


def test_one_sample_from_submission_to_reading(
    server: LocalServiceX, nano_files: list[str], progress: TransformProgress
) -> None:
    with progress:
        factory = submit(server, nano_files, progress=progress)
        before = last(progress, 2)
        factory.events().event.compute(scheduler="synchronous")
        after = last(progress, 2)
    assert [line.startswith("dimuons") for line in before + after] == [True] * 4
    assert "transformed" in before[0]
    assert "0/8" in before[0]
    assert "read" in before[1]
    assert "0/8" in before[1]
    assert "8/8" in after[0]
    assert "8/8" in after[1]
    assert "failed" not in drawn(progress)


def test_failed_files_are_counted(
    server: LocalServiceX,
    nano_files: list[str],
    tmp_path: Path,
    progress: TransformProgress,
) -> None:
    files = [str(shutil.copy(path, tmp_path)) for path in nano_files[:4]]
    spoil(files[1])
    factory = submit(server, files, on_failure="skip")
    events, rows = factory.events()
    events.event.compute(scheduler="synchronous")
    spoil_result(server, factory, 2)
    dask.compute(events.event, rows, scheduler="synchronous")
    with progress:
        progress.show("mine", factory)
        transformed, read = last(progress, 2)
    assert re.search(r"mine transformed 4/4 .*1 failed", transformed)
    assert re.search(r"mine read 3/4 .*1 failed", read)


def test_a_look_up_shows_the_number_of_files(
    server: LocalServiceX, nano_files: list[str], progress: TransformProgress
) -> None:
    seen: list[str] = []

    async def still_looking(request: Request, ask: Ask) -> Answer:
        answer = await ask()
        content = b"".join([block async for block in answer.body])
        changed = content.replace(b'"lookup_status":"complete"', b'"lookup_status":"looking"')
        assert changed != content

        async def body() -> Any:
            yield changed

        headers = [(k, v) for k, v in answer.headers if k.lower() != "content-length"]
        length = ("Content-Length", str(len(changed)))
        return Answer(answer.status, [*headers, length], body())

    class Noting(TransformProgress):
        def look_up(self, name: str, n_known: int) -> None:
            super().look_up(name, n_known)
            seen.append(last(self, 1)[0])

    noting = Noting(console=progress.console, auto_refresh=False)
    with (
        FaultProxy(server.url, [Fault(still_looking, When("/servicex/datasets/"), 2)]) as proxy,
        noting,
    ):
        factory = NanoEventsFactory.from_servicex(
            dimuon_query(),
            dataset.Rucio(DID),
            url=proxy.url,
            title="dimuons",
            input_form={nano_files[0]: "Events"},
            schemaclass=SelectionSchema,
            progress=noting,
            pace=FAST,
        )
        assert len(seen) == 2
        assert all(line.startswith("dimuons looking up, 8 files") for line in seen)
        assert "dimuons transformed 0/8" in last(noting, 2)[0]
        assert factory.npartitions == 8


def test_every_sample_has_its_bars(
    server: LocalServiceX, nano_files: list[str], progress: TransformProgress
) -> None:
    spec = {
        "Sample": [
            {"Name": name, "Dataset": dataset.FileList(files), "Query": dimuon_query()}
            for name, files in (("dy", nano_files[:3]), ("ttbar", nano_files[3:5]))
        ]
    }
    with progress:
        samples = from_spec(
            spec, url=server.url, schemaclass=SelectionSchema, progress=progress, pace=FAST
        )
        samples["ttbar"].events().event.compute(scheduler="synchronous")
        lines = last(progress, 4)
    assert len(lines) == 4
    assert {line.split()[0] for line in lines} == {"dy", "ttbar"}
    (read,) = (line for line in lines if line.startswith("ttbar read"))
    assert "2/2" in read
    (unread,) = (line for line in lines if line.startswith("dy read"))
    assert "0/3" in unread


@pytest.mark.parametrize("by_name", [True, False])
def test_bars_for_existing_factories(
    server: LocalServiceX, nano_files: list[str], by_name: bool
) -> None:
    factory = submit(server, nano_files[:2])
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = TransformProgress(
        {"mine": factory} if by_name else factory, console=console, auto_refresh=False
    )
    with progress:
        factory.events().event.compute(scheduler="synchronous")
        lines = last(progress, 2)
    assert all("2/2" in line for line in lines)
    assert all(line.startswith("mine ") == by_name for line in lines)


def test_a_part_that_was_read_shows_as_a_part(
    server: LocalServiceX, nano_files: list[str], progress: TransformProgress
) -> None:
    factory = submit(server, nano_files, steps_per_file=2, ignore_cache=True)
    with progress:
        progress.show("mine", factory)
        factory.events().partitions[:3].event.compute(scheduler="synchronous")
        assert "3/16" in last(progress, 1)[0]


def test_a_name_with_brackets_is_no_markup(
    server: LocalServiceX, nano_files: list[str], progress: TransformProgress
) -> None:
    factory = submit(server, nano_files[:1])
    with progress:
        progress.show("ttbar[/2018]", factory)
        assert "ttbar[/2018]" in drawn(progress)


def test_drawing_makes_no_request(
    server: LocalServiceX, nano_files: list[str], progress: TransformProgress
) -> None:
    factory = submit(server, nano_files[:1], ignore_cache=True)
    with progress:
        progress.show("mine", factory)
        drawn(progress)
    # Transforms of other tests may still be asked about.
    assert not [each.path for each in server.exchanges if factory.request_id in each.path]


def test_bars_move_while_files_arrive(nano_files: list[str]) -> None:
    """Without a test that draws: rich does it, in a thread of its own."""

    async def slowly(path: str) -> None:
        await asyncio.sleep(0.1 * nano_files.index(path))

    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with LocalServiceX(before_report=slowly) as server:
        progress = TransformProgress(console=console, refresh_per_second=50)
        with progress:
            factory = submit(server, nano_files, progress=progress)
            factory.events().event.compute(scheduler="synchronous")
    counts = {int(n) for n in re.findall(r"(\d)/8", drawn(progress))}
    assert {0, 8} < counts


def test_disabled_bars_print_nothing(server: LocalServiceX, nano_files: list[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with TransformProgress(console=console, disable=True) as progress:
        factory = submit(server, nano_files[:2], progress=progress)
        factory.events().event.compute(scheduler="synchronous")
        progress.refresh()
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_importing_prints_nothing() -> None:
    code = "import coffea_sx, coffea_sx.progress, coffea_sx.samples"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_several_factories_need_names():
    with pytest.raises(BadInput, match="name: factory"):
        TransformProgress([])
