"""An executor that hands each work item on when its file is delivered, so that no slot waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from coffea.processor.executor import WorkItem

from .._upstream.python import number_of_workers
from ..errors import AccessError, BadInput, ReadError, ServiceXError
from ..graph.resolve import allow_failure
from ..graph.routing import TransformHandle
from ..policy import LENIENT
from ..polling.failures import not_transformed
from ..polling.outcomes import Delivered, Failed, Outcome
from ..polling.results import SLICE_S
from ..storage.filesystem import index_of
from ..virtual.parts import Part
from .grants import Grant, Granted, run_granted

# Times that an item is submitted again because its URL expired in the queue of the executor.
N_RENEWALS = 3
# Items that wait in the queue of an executor of unknown size.
IN_FLIGHT = 64


@dataclass(frozen=True, slots=True)
class Delivery:
    """Facts about a transform that a pool needs.

    Attributes
    ----------
    handle : TransformHandle
    partitions : mapping of int to int
        Partition of each input file, by its position in the transform.
    npartitions : int
    form : bytes
        Packed form of the files.
    trusts_counts : bool
        True if the server counts the events of the delivered tree.
    """

    handle: TransformHandle
    partitions: Mapping[int, int]
    npartitions: int
    form: bytes
    trusts_counts: bool

    def partition(self, index: int) -> int:
        """Return the partition of an input file, by its position in the transform.

        Raises
        ------
        BadInput
            If the transform delivers no such file of the sample.
        """
        if index not in self.partitions:
            raise BadInput(
                f"Request {self.handle.address.request_id} delivers {len(self.partitions)} input "
                f"files of the sample, and none at position {index}: make the "
                "work items anew, with factory.work_items()."
            )
        return self.partitions[index]


@dataclass(slots=True, eq=False)
class _Task:
    """A work item on its way through a pool."""

    delivery: Delivery
    index: int
    function: Callable[..., Any]
    item: Any
    arguments: tuple[Any, ...]
    future: Future[Any]
    n_renewals: int = 0
    wake: Callable[[], object] = bool


class DeliveryPool(Executor):
    """A ``concurrent.futures.Executor`` for the work items of files that ServiceX delivers.

    An item is submitted to another executor when its file is delivered, with the permission to
    read that file. Anything else is passed on at once.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        It may be of threads, processes, dask.distributed or Parsl. It is not shut down.
    deliveries : mapping of str to Delivery
        By the id of the request.
    in_flight : int, optional
        Largest number of items in the queue of the executor; by default twice its workers, or 64.
    """

    def __init__(
        self,
        executor: Executor,
        deliveries: Mapping[str, Delivery],
        in_flight: int | None = None,
    ) -> None:
        if not callable(getattr(executor, "submit", None)) or isinstance(executor, type):
            raise BadInput(f"executor= must be an Executor, made already; got {executor!r}.")
        if in_flight is None:
            in_flight = 2 * (number_of_workers(executor) or IN_FLIGHT // 2)
        if in_flight < 1:
            raise BadInput(f"in_flight= must be at least 1, got {in_flight}.")
        self._executor = executor
        self._deliveries = deliveries
        self._slots = threading.Semaphore(in_flight)
        self._ready: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._tasks: set[_Task] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call, to be begun when the file of its work item is delivered.

        Raises
        ------
        RuntimeError
            If the pool was shut down.
        BadInput
            If a work item names no input file of its request.
        """
        where = index_of(args[0].filename) if args and isinstance(args[0], WorkItem) else None
        delivery = self._deliveries.get(where[0]) if where else None
        if where is not None and delivery is not None:
            delivery.partition(where[1])  # or it would wait for ever
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("The pool was shut down.")
            if where is None or delivery is None:
                return self._executor.submit(fn, *args, **kwargs)
            function = partial(fn, **kwargs) if kwargs else fn
            task = _Task(delivery, where[1], function, args[0], args[1:], Future())
            self._tasks.add(task)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="coffea_sx-pool", daemon=True
                )
                self._thread.start()
        self._await(task)
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept nothing more. The executor behind the pool goes on, and so does the transform."""
        with self._lock:
            self._is_shut_down = True
            tasks, thread = list(self._tasks), self._thread
        if cancel_futures:
            for task in tasks:
                if task.future.cancel():
                    self._forget(task)
        if wait and thread is not None:
            thread.join()

    # -- from delivery to the executor

    def _await(self, task: _Task) -> None:
        task.wake = partial(self._ready.put, task)
        task.delivery.handle.results.when_ready(task.index, task.wake)

    def _run(self) -> None:
        """Hand on items whose files are delivered, until there are none left."""
        while True:
            try:
                task = self._ready.get(timeout=SLICE_S)
            except queue.Empty:
                if self._is_over():
                    return
                continue
            try:
                self._start(task)
            except BaseException as error:
                self._finish(task, error=error)

    def _is_over(self) -> bool:
        """Poll on for items that wait; return True, and let the thread end, if there are none."""
        with self._lock:
            tasks = list(self._tasks)
        for task in tasks:
            if task.future.cancelled():
                self._forget(task)
        for handle in {task.delivery.handle for task in tasks}:
            try:
                handle.results.keep_polling()
            except ServiceXError as error:
                for task in tasks:
                    if task.delivery.handle is handle:
                        self._finish(task, error=error)
        with self._lock:
            if not self._tasks:
                self._thread = None
            return not self._tasks

    def _start(self, task: _Task) -> None:
        handle = task.delivery.handle
        if task.future.cancelled():
            self._forget(task)
            return
        # Whether a failure ends the run is decided for each item: coffea may skip its error.
        outcome = handle.results.results.outcome(task.index, LENIENT)
        if outcome is None:  # its poller was closed, or has begun anew
            self._await(task)
            return
        if isinstance(outcome, Failed) and handle.failure_policy.skips:
            allow_failure(handle, not_transformed(handle.address.request_id, [outcome]))
            self._finish(task, None)
            return
        grant = self._grant(task, outcome)
        while not self._slots.acquire(timeout=SLICE_S):
            if task.future.cancelled():
                self._forget(task)
                return
        # From here on it cannot be cancelled: executors differ in what they can cancel.
        if task.future.running() or task.future.set_running_or_notify_cancel():
            arguments = task.function, task.item, task.arguments, grant
            try:
                inner = self._executor.submit(run_granted, *arguments)
            except BaseException:
                self._slots.release()
                raise
            inner.add_done_callback(partial(self._done, task, outcome))
        else:
            self._slots.release()
            self._forget(task)

    def _grant(self, task: _Task, outcome: Outcome) -> Grant:
        delivery = task.delivery
        request_id = delivery.handle.address.request_id
        if isinstance(outcome, Failed):
            return Grant(request_id, outcome, None, delivery.form, None)
        name = outcome.object_name
        url = delivery.handle.results.signed_url(name, refresh=task.n_renewals > 0)
        n_events = outcome.n_events if delivery.trusts_counts else None
        return Grant(request_id, outcome, url, delivery.form, n_events)

    # -- from the executor

    def _done(self, task: _Task, outcome: Outcome, inner: Future[Granted]) -> None:
        self._slots.release()
        try:
            granted = inner.result()
            if granted.refused is not None:
                self._renew(task, outcome.input_file, granted.refused)
                return
            if isinstance(outcome, Delivered):
                self._part(task, outcome).note(granted.n_events, granted.skipped)
            self._finish(task, granted.result)
        except CancelledError as error:
            self._finish(task, error=error)
        except Exception as error:
            self._fail(task, outcome, error)

    def _renew(self, task: _Task, input_file: str, refused: AccessError) -> None:
        """Submit an item again, with another URL.

        Raises
        ------
        AccessError
            If it was submitted often enough.
        """
        task.n_renewals += 1
        if task.n_renewals > N_RENEWALS:
            raise AccessError(
                f"The URL of the file made of {input_file} was refused {task.n_renewals} times, or "
                "had expired when its work item was begun. Let fewer items wait, with in_flight=. "
                f"The last reason: {refused}",
                **{**refused.facts, "input_file": input_file},
            )
        self._ready.put(task)

    def _fail(self, task: _Task, outcome: Outcome, error: Exception) -> None:
        """Note an error of reading; leave the item out if its file may fail."""
        problem = next((e for e in _chain(error) if isinstance(e, ReadError)), None)
        handle = task.delivery.handle
        try:
            if isinstance(outcome, Failed):
                error = not_transformed(handle.address.request_id, [outcome])
            elif problem is not None:
                read = self._part(task, outcome).note(0, problem)
                if handle.failure_policy.skips:
                    allow_failure(handle, problem, read)
                    self._finish(task, None)
                    return
        except ServiceXError as too_many:
            error = too_many
        self._finish(task, error=error)

    def _part(self, task: _Task, delivered: Delivered) -> Part:
        delivery = task.delivery
        partition = delivery.partition(task.index)
        return Part(partition, delivery.npartitions, delivery.handle, delivered)

    def _finish(
        self, task: _Task, result: Any = None, *, error: BaseException | None = None
    ) -> None:
        self._forget(task)
        if task.future.done():
            return
        if error is None:
            task.future.set_result(result)
        else:
            task.future.set_exception(error)

    def _forget(self, task: _Task) -> None:
        task.delivery.handle.results.results.remove_waker(task.index, task.wake)
        with self._lock:
            self._tasks.discard(task)


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and what caused it."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
