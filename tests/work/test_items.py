"""Work items: known before files exist, cut by numbers of events."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.runner import Submit, numbers_of, run

from coffea_sx.errors import (
    BadInput,
)
from coffea_sx.work.items import OPEN_END


def test_items_are_made_before_files_exist(submit: Submit, nano_files: list[str]) -> None:
    factory = submit(ignore_cache=True)
    items = factory.work_items()
    assert [item.dataset for item in items] == ["dy"] * 8
    assert [item.usermeta["input_file"] for item in items] == nano_files
    assert {(item.entrystart, item.entrystop) for item in items} == {(0, OPEN_END)}
    assert len({item.fileuuid for item in items}) == 8
    assert [str(uuid.UUID(bytes=item.fileuuid)) for item in items]
    assert factory.work_items() == items


@pytest.mark.parametrize("chunksize", [100, 10**6])
def test_chunks(submit: Submit, threads: ThreadPoolExecutor, chunksize: int) -> None:
    factory = submit()
    items = factory.work_items(chunksize=chunksize)
    out = run(factory, threads, numbers_of, items)["out"]
    counts = [file["n_events"] for file in factory.files]
    assert len(out["events"]) == sum(counts)
    assert sorted(out["where"]) == [
        ("dy", i, start, min(start + chunksize, count))
        for i, count in enumerate(counts)
        for start in range(0, count, chunksize)
    ]
    # The last chunk ends where the file does.
    assert {item.entrystop for item in items if item.entrystart + chunksize >= 1} >= {OPEN_END}


def test_wrong_arguments(submit: Submit, threads: ThreadPoolExecutor) -> None:
    factory = submit()
    with pytest.raises(BadInput, match="chunksize= must be at least 1, got 0"):
        factory.work_items(chunksize=0)
    with pytest.raises(BadInput, match="must be an Executor, made already"):
        factory.pool(ThreadPoolExecutor)
    with pytest.raises(BadInput, match="in_flight= must be at least 1"):
        factory.pool(threads, in_flight=0)


def test_what_is_counted_is_what_is_read(submit: Submit, threads: ThreadPoolExecutor) -> None:
    factory = submit()
    out = run(factory, threads, numbers_of)["out"]
    assert len(out["events"]) == len(factory) == factory.report().n_events
    assert np.all(np.diff(sorted(out["events"])) > 0)
