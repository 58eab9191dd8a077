"""Rows of results that real servers sent: object names, and one outcome for each input file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.strategies import parsed

from coffea_sx.dataset import MAX_OBJECT_NAME, InputFiles, object_name
from coffea_sx.polling.matching import RowMatcher
from coffea_sx.polling.outcomes import Failed
from coffea_sx.polling.results import ResultStore


def responses(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a recording."""
    content = json.loads(path.read_text())
    exchanges = content.get("exchanges", []) if isinstance(content, dict) else content
    return [e["response"] for e in exchanges if isinstance(e.get("response"), dict)]


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    for response in responses(path):
        yield from response.get("results", [])


def test_the_object_name_of_a_long_path(recordings: Path) -> None:
    rows = list(rows_of(recordings / "exchanges/long_name.json"))
    assert rows
    for row in rows:
        # The recording writes /data/ for the folder of the input, so its digest is another one.
        ours, theirs = object_name(row["file-path"]), row["s3-object-name"]
        assert len(ours) == len(theirs) == MAX_OBJECT_NAME
        assert (ours[0], ours[41:]) == (theirs[0], theirs[41:])


def test_every_object_name(recordings: Path) -> None:
    n = 0
    for path in sorted((recordings / "exchanges").glob("*.json")):
        for row in rows_of(path):
            if row["transform_status"] == "success" and len(row["file-path"]) < MAX_OBJECT_NAME:
                name = object_name(row["file-path"])
                assert row["s3-object-name"] in (name, name + ".parquet"), path
                n += 1
    assert n > 100


def test_every_row_has_one_outcome(recordings: Path) -> None:
    """Match all responses of real servers, in the order in which they were sent."""
    n_outcomes = 0
    for path in sorted((recordings / "exchanges").glob("*.json")):
        sent = responses(path)
        for request_id in {row["request-id"] for a in sent for row in a.get("results", ())}:
            n_outcomes += replay(request_id, sent)
    assert n_outcomes > 100


def replay(request_id: str, sent: list[dict[str, Any]]) -> int:
    answers = [
        rows
        for response in sent
        if (rows := [r for r in response.get("results", ()) if r["request-id"] == request_id])
    ]
    paths = dict.fromkeys(r["file-path"] for r in max(answers, key=len))
    files = InputFiles(tuple(paths))
    matcher = RowMatcher(files, ResultStore("d857", len(files)))
    seen: dict[int, object] = {}
    for answer in answers:
        new = matcher.new_outcomes(parsed(answer))
        assert not seen.keys() & {o.index for o in new}
        matcher.results.enter(new, None)
        seen.update((o.index, o) for o in new)
        assert matcher.results.outcomes == seen
    assert matcher.results.is_complete
    names = Counter(r["s3-object-name"] for r in answers[-1])
    # The object of two files, which dataset.listed() refuses, is the result of one of them.
    failed = {
        r["file-path"]
        for r in answers[-1]
        if r["transform_status"] != "success" or names[r["s3-object-name"]] > 1
    }
    assert {o.input_file for o in seen.values() if isinstance(o, Failed)} <= failed
    return len(seen)
