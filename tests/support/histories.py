"""Histories of transforms, as servers of each generation tell them, and a server that plays them.

They hold what was observed of real servers: counters that lag behind rows or are wrong, rows in no
order and committed late, endings that are none, and names that collide.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from coffea_sx.dataset import object_name
from coffea_sx.errors import CountMismatch, TransformCanceled, TransformError, TransformStalled
from coffea_sx.servicex.models import LISTS_RESULTS
from support.strategies import Answer, Asked, row, say

REQUEST_ID = "0b3f1a52-7a35-4f0e-9a51-6f2a3c4d5e6f"
Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """Responses of a server at one time.

    Attributes
    ----------
    status : str
    rows : sequence of dict
        All that are committed.
    files, completed, failed : int
        Counters of the status, which need not agree with the rows.
    objects : sequence of str
        Names in the bucket.
    """

    status: str
    rows: Sequence[Row] = ()
    files: int = 0
    completed: int = 0
    failed: int = 0
    objects: Sequence[str] = ()


@dataclass(frozen=True)
class History:
    """A transform from its submission to its end, and what is to be made of it.

    Attributes
    ----------
    paths : tuple of str
        Input files.
    steps : tuple of Step
        The last one is repeated.
    delivered, failed : set of int
        Input files by their outcome; the others have none.
    ending : type, optional
        Error with which waits for the others end.
    lists_rows : bool
        False for servers of 2024, whose bucket must be listed.
    """

    paths: tuple[str, ...]
    steps: tuple[Step, ...]
    delivered: set[int]
    failed: set[int] = field(default_factory=set)
    ending: type[TransformError] | None = None
    lists_rows: bool = True


class Player:
    """Plays a history: each list of rows (or of the bucket) is that of the next step."""

    def __init__(self, history: History) -> None:
        self.steps = list(history.steps)
        self.now = self.steps[0]
        self.lists_rows = history.lists_rows
        self.store = ""

    def __call__(self, asked: Asked) -> Answer:
        path = urlsplit(asked.path).path
        if path == "/servicex":
            capabilities = {"capabilities": [LISTS_RESULTS]} if self.lists_rows else {}
            return say({"app-version": "develop", "code-gen-image": {}, **capabilities})
        if path.endswith("/results") and self.lists_rows:
            self._go_on()
            return say({"results": asked.later(list(self.now.rows))})
        if path == f"/servicex/transformation/{REQUEST_ID}":
            if not self.lists_rows:
                self._go_on()
            return say(self._status())
        if path.rstrip("/") == f"/{REQUEST_ID}":
            return Answer(200, listing(self.now.objects).encode())
        return say({"message": "not found"}, 404)

    def _go_on(self) -> None:
        self.now = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]

    def _status(self) -> dict[str, Any]:
        now = self.now
        return {
            "request_id": REQUEST_ID,
            "status": now.status,
            "files": now.files,
            "files-completed": now.completed,
            "files-failed": now.failed,
            # Null while the number of files is zero; negative after a second report.
            "files-remaining": now.files - now.completed - now.failed if now.files else None,
            "finish-time": "None",
            "minio-endpoint": self.store,
            "minio-secured": False,
            "minio-access-key": "user",
            "minio-secret-key": "password",
        }


def listing(names: Sequence[str]) -> str:
    """Answer ListObjectsV2 as a store does."""
    contents = "".join(
        f"<Contents><Key>{name}</Key><LastModified>2026-11-22T14:53:35.000Z</LastModified>"
        f'<ETag>"1"</ETag><Size>100</Size><StorageClass>STANDARD</StorageClass></Contents>'
        for name in names
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{REQUEST_ID}</Name><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    )


def _rows(paths: Sequence[str], failed: Sequence[int] = (), suffix: str = "") -> list[Row]:
    """Return a row for each path; the latest first, as databases list them."""
    made = [row(13 + i, path, failed=i in failed) for i, path in enumerate(paths)]
    for result in made:
        if result["transform_status"] == "success":
            result["s3-object-name"] += suffix
    return made[::-1]


def _renamed(number: int, path: str, name: str) -> Row:
    return {**row(number, path), "s3-object-name": name}


FILES = tuple(f"/store/user/me/nano_{i}.root" for i in range(6))
LONG = f"/store/{'long' * 80}/nano.root"
TWINS = ("/a/b.root", "/a:b.root")
CACHE = "root://cache.org//"
REMOTE = tuple(f"root://site.org//store/nano_{i}.root" for i in range(3))
REPLICAS = "/store/bad.root,/store/good.root"
ALL, LAST = _rows(FILES), _rows(FILES, failed=[5])

HISTORIES = {
    "all are delivered": History(
        FILES,
        (Step("Running", ALL[4:], 6), Step("Running", ALL[2:], 6, 3), Step("Complete", ALL, 6, 6)),
        set(range(6)),
    ),
    "one fails": History(
        FILES,
        (Step("Running", [], 6), Step("Complete", LAST, 6, 5, 1)),
        set(range(5)),
        {5},
    ),
    "all fail and the transform is complete": History(
        FILES,
        (Step("Complete", _rows(FILES, failed=range(6)), 6, 0, 6),),
        set(),
        set(range(6)),
    ),
    "no events, as Parquet": History(
        FILES[:2],
        (
            Step(
                "Complete",
                [{**result, "total-events": 0} for result in _rows(FILES[:2], suffix=".parquet")],
                2,
                2,
            ),
        ),
        {0, 1},
    ),
    "counters lag behind rows": History(
        FILES[:3],
        (Step("Running", ALL[3:], 3), Step("Running", ALL[3:], 3, 1), Step("Complete", ALL[3:], 3)),
        {0, 1, 2},
    ),
    "counters are wrong": History(
        FILES[:3],
        (Step("Running", ALL[5:], 3, 7, -2), Step("Complete", ALL[3:], 3, 9, -1)),
        {0, 1, 2},
    ),
    "reported again": History(
        FILES[:2],
        (
            Step("Running", ALL[5:] * 2, 2, 2),
            Step("Complete", [*ALL[4:], row(99, FILES[0])], 2, 3),
        ),
        {0, 1},
    ),
    "file-id is the id of the row": History(
        FILES[:3],
        (Step("Complete", [{**result, "file-id": result["id"]} for result in ALL[3:]], 3, 3),),
        {0, 1, 2},
    ),
    "a long name": History((LONG,), (Step("Complete", _rows([LONG]), 1, 1),), {0}),
    "two files have a single object": History(
        TWINS,
        (
            Step(
                "Complete",
                [_renamed(n, path, ":store:a:b.root") for n, path in enumerate(TWINS)],
                2,
                2,
            ),
        ),
        {0},
        {1},
    ),
    "a list of replicas in a path": History(
        (REPLICAS, FILES[0]),
        # Rows name the replica that could be read.
        (Step("Complete", _rows(["/store/good.root", FILES[0]]), 2, 2),),
        {0, 1},
    ),
    "files are read through a cache": History(
        REMOTE,
        (Step("Complete", _rows([CACHE + path for path in REMOTE]), 3, 3),),
        {0, 1, 2},
    ),
    "the look-up goes on": History(
        FILES[:4],
        (
            Step("Lookup", ALL[4:], 2, 2),
            Step("Running", ALL[3:], 4, 3),
            Step("Complete", ALL[2:], 4, 4),
        ),
        {0, 1, 2, 3},
    ),
    "complete before the look-up ends": History(
        FILES[:4],
        (Step("Complete", ALL[4:], 2, 2),),
        {0, 1},
        ending=CountMismatch,
    ),
    "complete while reports are missing": History(
        FILES[:3],
        (Step("Complete", ALL[4:], 3, 3),),
        {0, 1},
        ending=CountMismatch,
    ),
    "canceled": History(
        FILES,
        (Step("Running", ALL[5:], 6, 1), Step("Canceled", ALL[5:], 6, 1)),
        {0},
        ending=TransformCanceled,
    ),
    "canceled, and complete after late reports": History(
        FILES[:2],
        (
            Step("Running", ALL[5:], 2, 1),
            Step("Canceled", ALL[5:], 2, 1),
            Step("Complete", [row(7, FILES[1], failed=True), *ALL[5:]], 2, 1, 1),
        ),
        {0},
        {1},
    ),
    "the queue died with its worker": History(
        FILES[:5],
        (Step("Running", ALL[4:], 5, 2),),
        {0, 1},
        ending=TransformStalled,
    ),
    "a worker died beside another": History(
        FILES,
        (
            Step("Running", ALL[3:], 6, 3),
            Step("Running", ALL[3:], 6, 3),
            Step("Complete", ALL, 6, 6),
        ),
        set(range(6)),
    ),
    "a bucket of 2024": History(
        FILES[:4],
        (
            Step("Running", (), 4, 2, objects=[object_name(path) for path in FILES[:2]]),
            Step("Complete", (), 4, 4, objects=[object_name(path) for path in FILES[:4]]),
        ),
        {0, 1, 2, 3},
        lists_rows=False,
    ),
    "a bucket of 2024 without one file": History(
        FILES[:3],
        (Step("Complete", (), 3, 2, 1, objects=[object_name(path) for path in FILES[:2]]),),
        {0, 1},
        {2},
        lists_rows=False,
    ),
}


def late_commits(n_files: int = 300, n_late: int = 3, seed: int = 1) -> History:
    """Return a transform some of whose rows become visible after younger ones, and in no order."""
    chance = random.Random(seed)
    paths = tuple(f"/store/{i}.root" for i in range(n_files))
    rows = [
        {**row(i, path), "created_at": f"2026-11-22T14:43:{i * 40 // n_files:02d}.{i:06d}"}
        for i, path in enumerate(paths, 1)
    ]
    late = chance.sample(range(n_files // 2), n_late)
    early = [result for i, result in enumerate(rows) if i not in late]
    lists = [early[: len(early) * part // 4] for part in range(5)]
    steps = [*lists, early, rows]
    for part in steps:
        chance.shuffle(part)
    return History(
        paths,
        tuple(
            Step("Complete" if part is rows else "Running", part, n_files, len(part))
            for part in steps
        ),
        set(range(n_files)),
    )
