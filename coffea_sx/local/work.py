"""The queue of input files: from a running request to its result rows."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs

from ..dataset import object_name
from .buckets import Buckets
from .pool import Slot
from .state import State
from .transformer import Outcome, describe_error

logger = logging.getLogger(__name__)

BeforeReport = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class _Job:
    request_id: str
    file_id: int
    paths: str


class Work:
    """Transforms the files of running requests, a few at a time, on the server's event loop.

    A file whose result has no space on the disk fails. While there is none to record what became
    of a file, everything waits.

    Parameters
    ----------
    state : State
        Where requests come from and results go to.
    buckets : Buckets
        Where the files of results go to.
    scratch : Path
        A directory for files that are being written. What is in it is removed.
    workers : int
        How many files are transformed at once.
    datasets : mapping of str to sequence of str
        The files of each DID that can be looked up.
    before_report : callable, optional
        Awaited with the input path before a result is recorded.
    """

    def __init__(
        self,
        state: State,
        buckets: Buckets,
        scratch: Path,
        workers: int,
        datasets: Mapping[str, Sequence[str]],
        before_report: BeforeReport | None,
    ) -> None:
        self._state = state
        self._buckets = buckets
        self._scratch = _emptied(scratch)
        self._datasets = datasets
        self._before_report = before_report
        self._slots = [Slot() for _ in range(workers)]
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin, with what an earlier server in the same directory left undone."""
        for slot in self._slots:
            self._spawn(self._consume(slot))
        for request in self._state.requests():
            if self._state.is_running(request["request_id"]):
                self._spawn(self._take_up(request))

    async def stop(self) -> None:
        """End at once; files in work stay undone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Nothing else runs on the loop any more, and threads may be over already.
        for slot in self._slots:
            slot.close()

    async def _take_up(self, request: sqlite3.Row) -> None:
        request_id = request["request_id"]
        dataset = self._state.dataset(request["did_id"])
        if dataset is not None and dataset["lookup_status"] == "looking":
            self.look_up(request["did_id"], request["did"])
            return
        if request["status"] == "Running":
            await self._state.persist(lambda: self._state.complete_if_done(request_id))
        else:
            await self._state.persist(lambda: self._state.start_request(request_id))
        self.add_files(request_id)

    def add_files(self, request_id: str) -> None:
        """Queue the files of a request that have no result yet."""
        if self._state.is_running(request_id):
            for file in self._state.unfinished(request_id):
                self._jobs.put_nowait(_Job(request_id, file["id"], file["paths"]))

    def look_up(self, dataset_id: int, did: str) -> None:
        """Find the files of a DID, then start the requests that wait for them."""
        self._spawn(self._look_up(dataset_id, did))

    async def _look_up(self, dataset_id: int, did: str) -> None:
        dataset = self._state.dataset(dataset_id)
        if dataset is None or dataset["lookup_status"] != "looking":
            return  # two requests waited for it
        paths = find_files(self._datasets, did)
        waited = await self._state.persist(lambda: self._state.end_lookup(dataset_id, paths))
        for request_id in waited:
            self.add_files(request_id)

    async def _consume(self, slot: Slot) -> None:
        while True:
            job = await self._jobs.get()
            await self._state.until_writable()
            request = self._state.request(job.request_id)
            if request is None or not self._state.is_running(job.request_id):
                continue
            written = self._scratch / uuid.uuid4().hex
            replicas = job.paths.split(",")
            try:
                outcome = await slot.run(
                    request["codegen"],
                    request["source"],
                    replicas,
                    str(written),
                    request["result_format"],
                )
            except RuntimeError:
                # The interpreter is ending: what is undone is taken up by the next server.
                return
            except OSError as error:
                # No process could be started: there was no memory, or no open file left for it.
                outcome = Outcome(replicas[0], reason=describe_error(error))
            # Reporting may wait for long: the next file does not.
            self._spawn(self._report(job, outcome, request["result_format"], written))

    async def _report(self, job: _Job, outcome: Outcome, result_format: str, written: Path) -> None:
        suffix = ".parquet" if result_format == "parquet" else ""
        name = object_name(outcome.input_path + suffix)
        try:
            if self._before_report is not None:
                await self._before_report(outcome.input_path)
            # Clients look for an object as soon as they see its row.
            if outcome.reason is None and self._state.is_running(job.request_id):
                await self._buckets.put(job.request_id, name, written, outcome.md5)
        except Exception as error:
            outcome = replace(outcome, reason=describe_error(error), n_events=0, nbytes=0, md5="")
        finally:
            written.unlink(missing_ok=True)
        reported = outcome
        await self._state.persist(
            lambda: self._state.add_result(job.request_id, job.file_id, reported, name)
        )

    def _spawn(self, coroutine: Awaitable[None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("A part of the LocalServiceX failed.", exc_info=task.exception())


def _emptied(scratch: Path) -> Path:
    """Make a directory, or remove what a server that was killed left in it."""
    scratch.mkdir(mode=0o700, exist_ok=True)
    for leftover in scratch.iterdir():
        leftover.unlink()
    return scratch


def find_files(datasets: Mapping[str, Sequence[str]], did: str) -> list[str] | None:
    """Return the files of a DID, ``?files=N`` of them when it says so, None for an unknown one."""
    name, _, query = did.partition("?")
    if did in datasets:
        return list(datasets[did])
    if name not in datasets:
        return None
    wanted = parse_qs(query).get("files", [""])[0]
    paths = list(datasets[name])
    return paths[: int(wanted)] if wanted.isdigit() else paths
