"""Recorded responses of real servers, sent again: every transform ends as it should."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.strategies import Answer, row, say, status_json

from coffea_sx.dataset import InputFiles, checked_files, object_name
from coffea_sx.errors import (
    CountMismatch,
    DatasetError,
    EmptyDataset,
    TransformCanceled,
    TransformError,
    TransformFailed,
    TransformStalled,
)
from coffea_sx.policy import LENIENT, PollPolicy
from coffea_sx.polling.lookup import files_of
from coffea_sx.polling.outcomes import Delivered, Failed
from coffea_sx.polling.poller import Poller
from coffea_sx.polling.registry import TransformAddress
from coffea_sx.servicex import submit
from coffea_sx.servicex.config import EndpointName
from coffea_sx.servicex.models import LISTS_RESULTS

FAST = PollPolicy(busy_s=0.01, idle_s=0.02, stall_s=30.0, settle_s=0.3, outage_s=1.0)
IMPATIENT = replace(FAST, stall_s=1.0)
Timelines = tuple[list[tuple[int, Any]], list[tuple[int, Any]]]
TRANSFORM = re.compile(r"/servicex/transformation/([0-9a-f-]{36})(/results)?")

# How many input files were delivered and how many failed, by what is recorded.
RESOLVED = {
    "bucket_gone.json": (5, 1),
    "client_all_failed.json": (0, 2),
    "client_raw_root.json": (5, 1),
    "client_uproot_parquet.json": (3, 0),
    "client_uproot_root_signed.json": (5, 1),
    "dup_comma_replicas.json": (2, 0),
    # Two rows name one object, which is the result of one input file.
    "dup_name_collision.json": (1, 1),
    "fatal_and_late_report_after_cancel.json": (1, 1),
    "full_funcadl_nocount_parquet.json": (2, 0),
    "full_funcadl_nocount_root.json": (2, 0),
    "full_funcadl_parquet.json": (2, 0),
    "full_funcadl_rntuple.json": (2, 0),
    "full_funcadl_root.json": (2, 0),
    "full_raw_parquet.json": (2, 0),
    "full_raw_root.json": (2, 0),
    "legacy_v153_client_root.json": (4, 0),
    "long_name.json": (1, 0),
    "rest_all_failed.json": (0, 6),
    "rest_funcadl_cut_parquet.json": (4, 0),
    "rest_funcadl_cut_root.json": (4, 0),
    "rest_funcadl_parquet.json": (5, 1),
    "rest_funcadl_rntuple_new.json": (2, 0),
    "rest_funcadl_root.json": (5, 1),
    "rest_funcadl_root_new.json": (2, 0),
    "rest_funcadl_single_parquet.json": (4, 0),
    "rest_funcadl_single_root.json": (4, 0),
    "rest_funcadl_single_root_new.json": (0, 2),
    "rest_funcadl_tuple_parquet.json": (4, 0),
    "rest_funcadl_tuple_root.json": (4, 0),
    "rest_raw_missing_tree_parquet.json": (2, 0),
    "rest_raw_missing_tree_root.json": (2, 0),
    "rest_raw_parquet.json": (0, 6),
    "rest_raw_parquet_new.json": (3, 0),
    "rest_raw_rntuple_new.json": (2, 0),
    "rest_raw_root.json": (5, 1),
    "rest_raw_root_new.json": (2, 0),
    "rest_raw_two_parquet.json": (0, 2),
    "rest_raw_two_parquet_new.json": (0, 2),
    "rest_raw_two_root.json": (2, 0),
    "rntuple_funcadl.json": (2, 0),
    "smoke.json": (5, 1),
}
# How else transforms end: with which error, and after how many of how many input files.
ENDED = {
    "cancel_running.json": (TransformCanceled, 1, 12),
    # Its list names files twice, which cannot be told apart in the rows: seven are different.
    "dup_same_path.json": (CountMismatch, 1, 2),
    "duplicate_report.json": (TransformStalled, 2, 5),
    "lookup_premature_complete.json": (CountMismatch, 2, 4),
    "worker_killed.json": (TransformStalled, 2, 5),
}
# Tests of their own.
OTHERS = {
    "lookup_empty.json",
    "race_later_than_1500_12.json",
    "race_later_than_1500_6.json",
    "worker_killed_two_pods.json",
}
# Lists that are not submitted, for why not.
REFUSED = {
    "cancel_running.json": "twice",
    "dup_comma_replicas.json": "comma",
    "dup_name_collision.json": "same object name",
    "dup_same_path.json": "twice",
    "worker_killed_two_pods.json": "twice",
}


@pytest.fixture(scope="module")
def folder(recordings: Path) -> Path:
    return recordings / "exchanges"


class Recording:
    """Requests about a transform and the responses of a server.

    Parameters
    ----------
    which : int
        Of several transforms in one recording.
    """

    def __init__(self, path: Path, which: int = 0) -> None:
        content = json.loads(path.read_text())
        self.exchanges = content if isinstance(content, list) else content.get("exchanges", [])
        self.request_id = list(self._by_request())[which]
        self.statuses, self.answers = self._by_request()[self.request_id]

    def _by_request(self) -> dict[str, Timelines]:
        """Return numbered responses about each transform: its status, and its rows."""
        found: dict[str, Timelines] = {}
        for number, exchange in enumerate(self.exchanges):
            request = exchange.get("request") or {}
            path = urlsplit(request.get("path") or request.get("url") or "").path
            about = TRANSFORM.fullmatch(path)
            if about and (request["method"], exchange["status"]) == ("GET", 200):
                lists = found.setdefault(about[1], ([], []))
                lists[bool(about[2])].append((number, exchange["response"]))
        return found

    def sent(self, method: str, ending: str) -> list[Any]:
        """Return the bodies of requests."""
        return [
            exchange["request"]["json"]
            for exchange in self.exchanges
            if (exchange.get("request") or {}).get("method") == method
            and (exchange["request"].get("path") or exchange["request"]["url"]).endswith(ending)
            and exchange["status"] == 200
        ]

    @property
    def paths(self) -> list[str]:
        """The list that was submitted, or the files of the dataset, or those in the rows."""
        for body in self.sent("POST", "/servicex/transformation"):
            if "file-list" in body:
                return list(body["file-list"])
        dataset = self.dataset
        files = sorted(dataset["files"], key=lambda file: file["id"])
        return [file["paths"] for file in files] or self.reported

    @property
    def dataset(self) -> dict[str, Any]:
        """The dataset when its look-up was over."""
        found = [response for response in self.responses if "lookup_status" in response]
        return found[-1] if found else {"lookup_status": "complete", "files": []}

    @property
    def reported(self) -> list[str]:
        return [r["file-path"] for r in self.answers[-1][1]["results"]]

    @property
    def info(self) -> dict[str, Any]:
        """Description of the server; most recordings are of a server of 2025."""
        of_2025 = {"app-version": "develop", "code-gen-image": {}, "capabilities": [LISTS_RESULTS]}
        found = [r for r in self.responses if "app-version" in r and "status" not in r]
        return found[0] if found else of_2025

    @property
    def responses(self) -> list[dict[str, Any]]:
        answers = [exchange.get("response") for exchange in self.exchanges]
        return [answer for answer in answers if isinstance(answer, dict)]

    def rows(self) -> list[tuple[int, Any]]:
        """Return responses with rows; where none was requested, they are made of the reports."""
        if self.answers:
            return self.answers
        reports = self.sent("PUT", "/file-complete")
        made = [
            {**row(n, r["file-path"]), "s3-object-name": r["s3-object-name"]}
            for n, r in enumerate(reports, 1)
        ]
        if not made and self.statuses[-1][1]["files-failed"] == len(self.paths):
            made = [row(n, path, failed=True) for n, path in enumerate(self.paths, 1)]
        return [(len(self.exchanges), {"results": made})]


class Replay:
    """Plays a recording: the responses in their order, and the last of them again and again."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.statuses, self.rows = list(recording.statuses), recording.rows()
        self.objects: list[str] = []
        self.store = ""

    def __call__(self, asked: Any) -> Answer:
        path, request_id = urlsplit(asked.path).path, self.recording.request_id
        if path == "/servicex":
            return say(self.recording.info)
        if path == "/servicex/transformation":
            return say({"request_id": request_id})
        if path == f"/servicex/transformation/{request_id}":
            number, status = _next(self.statuses)
            # Rows may be ahead of the status, but not behind it, which they were not.
            while len(self.rows) > 1 and self.rows[0][0] < number:
                self.rows.pop(0)
            return say({**status, "minio-endpoint": self.store})
        if path == f"/servicex/transformation/{request_id}/results":
            return say({"results": asked.later(_next(self.rows)[1]["results"])})
        if path.startswith("/servicex/datasets/"):
            return say(self.dataset())
        if path.rstrip("/") == f"/{request_id}":
            return Answer(200, _listing(request_id, self.objects).encode())
        return self.read(path)

    def dataset(self) -> dict[str, Any]:
        """Return the dataset: half of its files, until the status is the last."""
        dataset = self.recording.dataset
        if len(self.statuses) == 1:
            return dataset
        half = dataset["files"][: len(dataset["files"]) // 2]
        return {**dataset, "lookup_status": "looking", "files": half}

    def read(self, path: str) -> Answer:
        return say({"message": "not found"}, 404)


def _next(answers: list[Any]) -> Any:
    return answers.pop(0) if len(answers) > 1 else answers[0]


def _listing(bucket: str, names: list[str]) -> str:
    """Answer ListObjectsV2 as a store does."""
    contents = "".join(
        f"<Contents><Key>{name}</Key><LastModified>2026-11-22T14:53:35.000Z</LastModified>"
        f'<ETag>"1"</ETag><Size>100</Size><StorageClass>STANDARD</StorageClass></Contents>'
        for name in names
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{bucket}</Name><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    )


@pytest.fixture
def poller_of(scripted, client_of):
    """Poll a transform that is played: ``poller_of(play, paths, request_id)``."""
    pollers = []

    def make(play, paths, request_id, pace=FAST):
        server = scripted(play)
        play.store = server.address
        client = client_of(server.url, 0.3)
        address = TransformAddress(request_id, EndpointName(None, client.endpoint.url, None))
        pollers.append(Poller(client, address, InputFiles(tuple(paths)), pace))
        return pollers[-1]

    yield make
    for poller in pollers:
        poller.close()


def ended(poller):
    """Wait for every input file; return the outcomes, and the error that ended the transform."""
    outcomes, failures = [], []
    for index in range(poller.n_files):
        try:
            outcomes.append(poller.wait(index, 20, LENIENT))
        except TransformError as ending:
            failures.append(ending)
    return outcomes, poller.ending or (failures[-1] if failures else None)


def counted(outcomes):
    n_delivered = sum(isinstance(outcome, Delivered) for outcome in outcomes)
    return n_delivered, len(outcomes) - n_delivered


def test_every_recording_of_a_transform_is_in_a_table(folder):
    tables = [set(RESOLVED), set(ENDED), OTHERS]
    # Recordings of single requests, without a transform.
    single = {"auth.json", "errors.json"}
    assert {path.name for path in folder.glob("*.json")} - single == set().union(*tables)
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert REFUSED.keys() <= set().union(*tables)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", RESOLVED)
def test_a_transform_whose_files_are_all_resolved(name, folder, poller_of):
    recording = Recording(folder / name)
    play = Replay(recording)
    if LISTS_RESULTS not in recording.info.get("capabilities", []):
        play.objects = [object_name(path) for path in recording.paths]
    poller = poller_of(play, recording.paths, recording.request_id)
    outcomes, ending = ended(poller)
    assert counted(outcomes) == RESOLVED[name]
    assert ending is None
    assert poller.results.is_complete
    for path, outcome in zip(recording.paths, outcomes, strict=True):
        assert outcome.input_file == path
    failed = [o for o in outcomes if isinstance(o, Failed)]
    assert {o.kind for o in failed} <= {"TransformFailed"}
    if failed:
        with pytest.raises(TransformFailed, match=re.escape(failed[0].input_file)):
            poller.wait(0)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", ENDED)
def test_a_transform_that_ends_without_all_results(name, folder, poller_of):
    recording = Recording(folder / name)
    kind, n_done, n_files = ENDED[name]
    paths = recording.paths
    if name == "duplicate_report.json":
        paths = Recording(folder / "worker_killed.json").paths
    pace = IMPATIENT if kind is TransformStalled else FAST
    outcomes, ending = ended(poller_of(Replay(recording), paths, recording.request_id, pace))
    assert type(ending) is kind
    assert (ending.done, ending.total) == (n_done, n_files)
    assert f"{n_done} of {n_files}" in str(ending)
    assert recording.request_id in str(ending)
    assert counted(outcomes)[0] == n_done


def test_a_pod_that_was_killed_beside_another_loses_nothing(folder, poller_of):
    recording = Recording(folder / "worker_killed_two_pods.json")
    assert len(recording.answers[-1][1]["results"]) == 15
    paths = list(dict.fromkeys(recording.paths))
    outcomes, ending = ended(poller_of(Replay(recording), paths, recording.request_id))
    assert [o.input_file for o in outcomes] == paths
    assert counted(outcomes) == (7, 0)
    assert ending is None


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_is_refused_before_it_is_submitted(name, folder):
    with pytest.raises(DatasetError, match=REFUSED[name]):
        checked_files(Recording(folder / name).paths)


# -- look-ups


def test_the_second_request_of_a_look_up_gets_all_files(folder, poller_of):
    recording = Recording(folder / "lookup_premature_complete.json", which=1)
    play = Replay(recording)
    poller = poller_of(play, recording.paths, recording.request_id)
    files = files_of(poller.client, recording.request_id, PollPolicy(busy_s=0.0))
    assert files.paths == tuple(f"/data/nano_{i}.root" for i in (0, 1, 2, 5))
    outcomes, ending = ended(poller)
    assert counted(outcomes) == (4, 0)
    assert ending is None


def test_a_premature_complete_does_not_tell_the_number_of_files(folder, scripted, client_of):
    recording = Recording(folder / "lookup_premature_complete.json", which=0)
    assert recording.statuses[-1][1]["files"] == 2
    client = client_of(scripted(Replay(recording)).url)
    assert len(files_of(client, recording.request_id, PollPolicy(busy_s=0.0))) == 4


def test_a_look_up_of_nothing(folder, scripted, client_of):
    recording = Recording(folder / "lookup_empty.json")
    with pytest.raises(EmptyDataset, match=recording.request_id):
        files_of(
            client_of(scripted(Replay(recording)).url), recording.request_id, PollPolicy(busy_s=0.0)
        )


# -- races


@pytest.mark.parametrize("name", sorted(one for one in OTHERS if one.startswith("race")))
def test_rows_that_are_committed_late_are_not_missed(name, folder, poller_of):
    """The rows that a poller by time missed: written before others, and visible after them."""
    recorded = json.loads((folder / name).read_text())
    late = recorded["missed"]
    request_id = late[0]["request-id"]
    chance = random.Random(name)
    n = recorded["N"]
    numbers = {int(Path(one["file-path"]).stem): one for one in late}
    made = datetime.fromisoformat(late[0]["created_at"]) - timedelta(seconds=5)
    rows = [
        numbers.get(i)
        or {
            **row(10_000 + i, f"/nope/{i}.root"),
            "created_at": (made + timedelta(seconds=i / 100)).isoformat(timespec="microseconds"),
        }
        for i in range(n)
    ]
    paths = [one["file-path"] for one in rows]
    seen = [one for one in rows if one not in late]
    answers = [[], *(seen[: n * part // 4] for part in (1, 2, 3)), seen, seen, rows]
    for answer in answers:
        chance.shuffle(answer)

    def play(asked):
        if asked.path == "/servicex":
            return say({"app-version": "1", "code-gen-image": {}, "capabilities": [LISTS_RESULTS]})
        if asked.path.partition("?")[0].endswith("/results"):
            return say({"results": asked.later(_next(answers))})
        status = "Complete" if len(answers) <= 3 else "Running"
        return say(status_json(status, n, files_completed=n))

    poller = poller_of(play, paths, request_id)
    assert {one["s3-object-name"] for one in late} == {
        poller.wait(paths.index(one["file-path"]), 20).object_name for one in late
    }
    outcomes, ending = ended(poller)
    assert counted(outcomes) == (1500, 0)
    assert [o.input_file for o in outcomes] == paths
    assert ending is None


# -- a bucket that is gone


@pytest.mark.parametrize("is_there", [True, False])
def test_a_transform_whose_bucket_is_gone_is_not_used_again(folder, scripted, client_of, is_there):
    recording = Recording(folder / "bucket_gone.json")
    gone = next(one for one in recording.exchanges if "presigned_get" in one)

    class Store(Replay):
        def read(self, path):
            body = gone["body"].encode()
            return Answer(206, b"r") if is_there else Answer(gone["presigned_get"], body)

    play = Store(recording)
    # Else it would not be used again for its failed file.
    play.statuses = [(0, {**recording.statuses[-1][1], "files-failed": 0})]
    server = scripted(play)
    play.store = server.address
    client, request_id = client_of(server.url), recording.request_id
    status = client.status(request_id)
    assert submit.has_results(client, request_id, status, None) is is_there
    assert submit.has_results(client, request_id, status, ":data:nano_0.root") is is_there
