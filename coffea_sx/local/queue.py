"""Queue of input files: from a running request to its results."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs

from ..dataset import object_name
from .buckets import Buckets
from .records import Records
from .settings import ServerOptions
from .transformer import TransformResult, describe_error
from .worker import Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    request_id: str
    file_id: int
    paths: str


class TransformQueue:
    """Transforms the files of running requests in worker processes.

    It runs on the server's event loop. A file whose result has no space on the disk fails. While
    there is no space to record results, everything waits.

    Parameters
    ----------
    options : ServerOptions
    records : Records
        Source of requests, and destination of results.
    buckets : Buckets
        Destination of the delivered files.
    scratch : Path
        A directory for files that are being written. It is emptied.
    """

    def __init__(
        self, options: ServerOptions, records: Records, buckets: Buckets, scratch: Path
    ) -> None:
        self._options = options
        self._records = records
        self._buckets = buckets
        self._scratch = _emptied(scratch)
        self._workers = [Worker() for _ in range(options.workers)]
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the workers, with the files that an earlier server in the directory left undone."""
        for worker in self._workers:
            self._spawn(self._consume(worker))
        for request in self._records.requests():
            if self._records.is_running(request["request_id"]):
                self._spawn(self._resume(request))

    async def stop(self) -> None:
        """End at once; files in work stay undone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Without a thread: nothing else runs on the loop any more, and threads may have ended.
        for worker in self._workers:
            worker.close()

    async def _resume(self, request: sqlite3.Row) -> None:
        request_id = request["request_id"]
        dataset = self._records.dataset(request["did_id"])
        if dataset is not None and dataset["lookup_status"] == "looking":
            self.look_up(request["did_id"], request["did"])
            return
        if request["status"] == "Running":
            await self._records.persist(lambda: self._records.complete_if_done(request_id))
        else:
            await self._records.persist(lambda: self._records.start_request(request_id))
        self.add_files(request_id)

    def add_files(self, request_id: str) -> None:
        """Queue the files of a request that have no result yet."""
        if self._records.is_running(request_id):
            for file in self._records.unfinished(request_id):
                self._jobs.put_nowait(_Job(request_id, file["id"], file["paths"]))

    def look_up(self, dataset_id: int, did: str) -> None:
        """Find the files of a DID, then start the requests that wait for them."""
        self._spawn(self._look_up(dataset_id, did))

    async def _look_up(self, dataset_id: int, did: str) -> None:
        dataset = self._records.dataset(dataset_id)
        if dataset is None or dataset["lookup_status"] != "looking":
            return  # two requests waited for it
        paths = find_files(self._options.datasets, did)
        waiting = await self._records.persist(lambda: self._records.end_lookup(dataset_id, paths))
        for request_id in waiting:
            self.add_files(request_id)

    async def _consume(self, worker: Worker) -> None:
        while True:
            job = await self._jobs.get()
            await self._records.until_writable()
            request = self._records.request(job.request_id)
            if request is None or not self._records.is_running(job.request_id):
                continue
            written = self._scratch / uuid.uuid4().hex
            replicas, result_format = job.paths.split(","), request["result_format"]
            try:
                result = await worker.transform(
                    request["codegen"], request["source"], replicas, str(written), result_format
                )
            except RuntimeError:
                # The interpreter is ending: the next server transforms the remaining files.
                return
            except OSError as error:
                # No process could be started, for lack of memory or of open files.
                result = TransformResult(replicas[0], reason=describe_error(error))
            prefix = self._options.settings.cache_prefix
            result = replace(result, input_path=prefix + result.input_path)
            # In a task, as it may wait for long, and the next file does not.
            self._spawn(self._report(job, result, result_format, written))

    async def _report(
        self, job: _Job, result: TransformResult, result_format: str, written: Path
    ) -> None:
        suffix = ".parquet" if result_format == "parquet" else ""
        name = object_name(result.input_path + suffix)
        try:
            if self._options.before_report is not None:
                await self._options.before_report(result.input_path)
            # The object comes first: clients fetch it as soon as they see its row.
            if result.reason is None and self._records.is_running(job.request_id):
                await self._buckets.put(job.request_id, name, written, result.md5)
        except Exception as error:
            result = replace(result, reason=describe_error(error), n_events=0, nbytes=0, md5="")
        finally:
            written.unlink(missing_ok=True)
        recorded = result
        await self._records.persist(
            lambda: self._records.add_result(job.request_id, job.file_id, recorded, name)
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
    scratch.mkdir(mode=0o700, exist_ok=True)
    for leftover in scratch.iterdir():
        leftover.unlink()
    return scratch


def find_files(datasets: Mapping[str, Sequence[str]], did: str) -> list[str] | None:
    """Return the files of a DID, the first N with ``?files=N``; None for an unknown DID."""
    name, _, query = did.partition("?")
    if did in datasets:
        return list(datasets[did])
    if name not in datasets:
        return None
    limit = parse_qs(query).get("files", [""])[0]
    paths = list(datasets[name])
    return paths[: int(limit)] if limit.isdigit() else paths
