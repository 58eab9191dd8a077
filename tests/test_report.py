"""Reports: every input file is counted once, in every state."""

from __future__ import annotations

import io
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import pytest
from rich.console import Console
from support.spoiled import spoil, spoil_result
from support.strategies import submit_dimuons

from coffea_sx.errors import BadInput, TransformFailed
from coffea_sx.local import LocalServiceX
from coffea_sx.report import InputReport, Report

BAD, UNREADABLE = 1, 2
Submit = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServiceX]:
    with LocalServiceX() as running:
        yield running


@pytest.fixture
def files(nano_files: list[str], tmp_path: Path) -> list[str]:
    """Copies of four files, which a test may spoil."""
    return [str(shutil.copy(path, tmp_path)) for path in nano_files[:4]]


@pytest.fixture
def submit(server: LocalServiceX) -> Submit:
    return partial(submit_dimuons, server, on_failure="skip")


def computed(factory: Any) -> tuple[Any, Any]:
    events, rows = factory.events()
    result: tuple[Any, Any] = dask.compute(events.event, rows, scheduler="synchronous")
    return result


def wait_for_all(factory: Any) -> None:
    """Wait for the outcomes of all files, and read the first partition only."""
    events, _ = factory.events()
    (resolve,) = (layer for layer in events.dask.layers if layer.startswith("resolve-"))
    keys = [(resolve, i) for i in range(factory.npartitions)]
    dask.get(dict(events.dask.cull(set(keys))), keys)
    events.partitions[0].event.compute(scheduler="synchronous")


def assert_adds_up(report: Report) -> None:
    parts = (report.n_delivered, report.n_failed, report.n_waiting)
    assert sum(parts) == report.n_inputs == len(report.inputs)
    assert report.n_read <= report.n_delivered
    assert report.n_failed == len(report.failed)
    assert report.n_events == sum(entry.n_events for entry in report.inputs)
    assert report.fraction == pytest.approx(report.n_delivered / report.n_inputs)
    stages = {"failed": {"transform", "read"}}
    assert all(entry.failed_at in stages.get(entry.status, {None}) for entry in report.inputs)


def statuses(report: Report) -> list[str]:
    assert_adds_up(report)
    return [entry.status for entry in report.inputs]


# -- every state


def test_before_computing_every_file_waits(submit: Submit, files: list[str]) -> None:
    factory = submit(files)
    report = factory.report()
    assert statuses(report) == ["waiting"] * 4
    assert [entry.input_file for entry in report.inputs] == files
    assert {entry.request_id for entry in report.inputs} == {factory.request_id}
    assert (report.fraction, report.n_events, report.n_events_delivered) == (0.0, 0, 0)
    assert str(report) == ("0 of 4 input files delivered, 4 waiting; 0 events read from 0 files")


def test_files_may_be_delivered_and_not_read(submit: Submit, files: list[str]) -> None:
    factory = submit(files)
    wait_for_all(factory)
    report = factory.report()
    assert statuses(report) == ["read", *["delivered"] * 3]
    assert (report.fraction, report.n_read) == (1.0, 1)
    assert report.inputs[1].n_events == 0 < report.inputs[1].n_events_delivered
    assert 0 < report.n_events < report.n_events_delivered


@pytest.mark.sampled(4)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("has_rows", [True, False], ids=["with rows", "without rows"])
def test_after_computing_every_file_is_read(
    submit: Submit, files: list[str], steps: int, has_rows: bool
) -> None:
    factory = submit(files, steps_per_file=steps)
    numbers, rows = computed(factory)
    report = factory.report(rows if has_rows else None)
    assert statuses(report) == ["read"] * 4
    assert report.n_events == report.n_events_delivered == len(numbers) > 100
    assert [entry.n_events for entry in report.inputs] == [
        file["n_events"] for file in factory.files
    ]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("steps", [1, 3])
def test_files_fail_at_transform_and_at_read(
    server: LocalServiceX, submit: Submit, files: list[str], steps: int
) -> None:
    spoil(files[BAD])
    factory = submit(files, steps_per_file=steps)
    wait_for_all(factory)
    spoil_result(server, factory, UNREADABLE)
    numbers, rows = computed(factory)
    report = factory.report(rows)
    assert statuses(report) == ["read", "failed", "failed", "read"]
    assert (report.n_read, report.n_failed, report.fraction) == (2, 2, 0.5)
    assert report.n_events == len(numbers)
    not_transformed, not_read = report.failed
    assert not_transformed.input_file == files[BAD]
    assert (not_transformed.failed_at, not_transformed.exception) == (
        "transform",
        "TransformFailed",
    )
    assert not_transformed.reason
    assert (not_read.failed_at, not_read.exception) == ("read", "CorruptFile")
    assert files[UNREADABLE] in str(not_read.reason)
    # What the server counted is not what could be read.
    assert not_read.n_events == 0 < not_read.n_events_delivered

    without_rows = factory.report()
    assert statuses(without_rows) == statuses(report)
    assert without_rows.n_events == report.n_events


def test_a_file_is_read_when_all_its_steps_are(submit: Submit, files: list[str]) -> None:
    factory = submit(files, steps_per_file=3)
    wait_for_all(factory)
    events, _ = factory.events()
    report = factory.report()
    assert statuses(report) == ["delivered"] * 4
    assert 0 < report.n_events < report.inputs[0].n_events_delivered
    for step in (1, 2):
        events.partitions[step].event.compute(scheduler="synchronous")
    assert statuses(factory.report()) == ["read", *["delivered"] * 3]


def test_after_retry_failed_rows_of_the_first_transform_are_ignored(
    server: LocalServiceX, submit: Submit, files: list[str]
) -> None:
    good = Path(files[BAD]).read_bytes()
    spoil(files[BAD])
    factory = submit(files)
    wait_for_all(factory)
    spoil_result(server, factory, UNREADABLE)
    _, rows = computed(factory)
    Path(files[BAD]).write_bytes(good)

    retried = factory.retry_failed(rows)
    # Rows of the first request are ignored for files of the second.
    waiting = retried.report(rows)
    assert statuses(waiting) == ["read", "waiting", "waiting", "read"]
    numbers, new_rows = computed(retried)
    report = retried.report(new_rows)
    assert statuses(report) == ["read"] * 4
    assert report.n_events == report.n_events_delivered == len(numbers)
    requests = [entry.request_id for entry in report.inputs]
    assert requests == [
        {BAD: retried.request_id, UNREADABLE: retried.request_id}.get(i, factory.request_id)
        for i in range(4)
    ]
    assert statuses(factory.report(rows)) == ["read", "failed", "failed", "read"]


@pytest.mark.parametrize(
    "options", [{"on_failure": "raise"}, {"on_failure": "skip", "max_failed": 0}], ids=str
)
def test_retried_files_are_no_failures(
    submit: Submit, files: list[str], options: dict[str, Any]
) -> None:
    good = Path(files[BAD]).read_bytes()
    spoil(files[BAD])
    factory = submit(files, **options)
    with pytest.raises(TransformFailed, match=re.escape(files[BAD])):
        dask.compute(factory.events(), scheduler="synchronous")
    Path(files[BAD]).write_bytes(good)
    retried = factory.retry_failed()
    assert retried.request_id != factory.request_id
    dask.compute(retried.events(), scheduler="synchronous")
    assert retried.report().n_events == retried.report().n_events_delivered > 100
    assert statuses(retried.report()) == ["read"] * 4


def test_files_that_can_be_read_again_are_no_failures(
    server: LocalServiceX, submit: Submit, files: list[str]
) -> None:
    factory = submit(files, max_failed=1)
    wait_for_all(factory)
    mended = spoil_result(server, factory, 1)
    _, rows = computed(factory)
    assert rows.failed_at.to_list() == [None, "read", None, None]
    mended()
    computed(factory)
    spoil_result(server, factory, 2)
    _, rows = computed(factory)
    assert rows.failed_at.to_list() == [None, None, "read", None]


def test_a_failed_read_is_forgotten_when_its_file_is_transformed_again(
    server: LocalServiceX, submit: Submit, files: list[str]
) -> None:
    factory = submit(files)
    wait_for_all(factory)
    spoil_result(server, factory, UNREADABLE)
    _, rows = computed(factory)
    retried = factory.retry_failed(rows)
    assert statuses(retried.report()) == ["read", "read", "waiting", "read"]


def test_factories_of_one_transform_count_their_own_partitions(
    submit: Submit, files: list[str]
) -> None:
    whole = submit(files)
    computed(whole)
    in_steps = submit(files, steps_per_file=3)
    assert in_steps.request_id == whole.request_id
    assert in_steps.report().n_events == 0
    assert statuses(in_steps.report()) == ["delivered"] * 4
    numbers, _ = computed(in_steps)
    assert in_steps.report().n_events == len(numbers)


# -- which rows


def test_rows_of_other_events_are_refused(submit: Submit, files: list[str]) -> None:
    factory, other = submit(files[:2]), submit(files[2:])
    rows, strange = computed(factory)[1], computed(other)[1]
    for refused in (strange, ak.concatenate([rows, strange])):
        with pytest.raises(BadInput, match=f"of request {other.request_id}, and not of"):
            factory.report(refused)
        with pytest.raises(BadInput, match="another sample"):
            factory.retry_failed(refused)
    with pytest.raises(BadInput, match="another sample"):
        factory.retry_failed(other.report(strange))
    assert factory.report(rows).n_read == 2


def test_rows_that_are_not_computed_are_refused(submit: Submit, files: list[str]) -> None:
    factory = submit(files[:1])
    _, rows = factory.events()
    for refused in (rows, (rows,), [], "rows"):
        with pytest.raises(BadInput, match=r"dask\.compute"):
            factory.report(refused)


# -- how it looks


def made(
    path: str = "/a.root", reason: str | None = "broken", log_url: str | None = None
) -> Report:
    failed = InputReport(path, "failed", "transform", "E", reason, "d857", log_url, 0, 0)
    return Report((failed, InputReport("/b.root", "read", None, None, None, "d857", None, 7, 7)))


def test_a_report_without_files_is_empty() -> None:
    empty = Report(())
    assert (empty.fraction, empty.n_inputs, empty.failed) == (0.0, 0, [])
    assert "0 of 0" in empty._repr_html_()


def test_a_report_can_be_pickled(submit: Submit, files: list[str]) -> None:
    spoil(files[BAD])
    factory = submit(files)
    _, rows = computed(factory)
    report = factory.report(rows)
    assert pickle.loads(pickle.dumps(report)) == report


def test_html_is_escaped() -> None:
    report = made("/<b>.root", "a < b & c", "https://logs.org/?a='<x>'&b=1")
    shown = report._repr_html_()
    assert "/&lt;b&gt;.root" in shown
    assert "a &lt; b &amp; c" in shown
    assert "href='https://logs.org/?a=&#x27;&lt;x&gt;&#x27;&amp;b=1'" in shown
    assert "<b>" not in shown
    assert "<x>" not in shown


def test_only_links_of_the_web_become_links() -> None:
    assert "href" not in made(log_url="javascript:alert(1)")._repr_html_()


def test_html_of_many_failures_is_short() -> None:
    failed = made().failed[0]
    shown = Report((failed,) * 1000)._repr_html_()
    assert shown.count("<tr>") == 1 + 20 + 1
    assert "and 980 more" in shown


def printed(table: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_has_a_row_for_each_failed_file() -> None:
    report = made()
    table = report.table()
    assert table.row_count == report.n_failed == 1
    shown = " ".join(printed(table).split())
    assert re.search(r"/a\.root . transform . broken", shown)
    assert str(report) in shown
    assert "/b.root" not in shown


def test_the_table_shows_brackets_as_they_are() -> None:
    """Reasons of servers may have brackets, which are no markup."""
    shown = printed(made("/data[red].root", "cannot open [/data/x.root]").table())
    assert "/data[red].root" in shown
    assert "cannot open [/data/x.root]" in shown


def test_the_table_shows_a_failure_without_a_reason() -> None:
    assert "/a.root" in printed(made(reason=None).table())


def test_to_awkward_has_a_record_for_each_file(submit: Submit, files: list[str]) -> None:
    spoil(files[BAD])
    factory = submit(files)
    _, rows = computed(factory)
    report = factory.report(rows)
    array = report.to_awkward()
    assert array.fields == list(InputReport.__slots__)
    assert array.input_file.to_list() == files
    assert ak.sum(array.n_events) == report.n_events
    (failed,) = array[array.status == "failed"].to_list()
    assert failed["input_file"] == files[BAD]
