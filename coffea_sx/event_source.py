"""Source of events: input files, the transforms that deliver them, and outcomes so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coffea.processor.executor import WorkItem

from .dataset import InputFiles
from .errors import BadInput, ReadError, TransformFailed
from .forms.output_form import OutputForm
from .forms.uproot_raw import input_trees
from .graph.resolve import allow_failure
from .graph.routing import Routing, TransformHandle
from .policy import FailurePolicy, PollPolicy
from .polling.arrivals import Awaited
from .polling.failures import not_transformed
from .polling.outcomes import Delivered, Failed, Outcome
from .polling.poller import Poller
from .polling.registry import TransformAddress, get_poller
from .polling.state import Counts
from .query import Selection
from .readers.partition import step_limits
from .servicex.client import ServiceXClient
from .virtual.events import ReadOptions, make_events
from .virtual.parts import Part
from .work.items import work_items
from .work.pool import Delivery
from .work.schema import packed


@dataclass(frozen=True, slots=True)
class EventSource:
    """Input files and the transforms that deliver them.

    coffea's factory calls it with the mapping of a schema, and gets dask events.

    Attributes
    ----------
    selection : Selection
    files : InputFiles
    routing : Routing
    output_form : OutputForm
    steps_per_file : int
    """

    selection: Selection
    files: InputFiles
    routing: Routing
    output_form: OutputForm
    steps_per_file: int
    read_options: ReadOptions

    def __call__(self, form_mapping: Any) -> Any:
        """Build the graph of the events."""
        from .graph import layers  # with dask-awkward, which only the graph needs

        return layers.build(
            self.routing,
            self.output_form,
            form_mapping,
            len(self.files),
            self.steps_per_file,
            self.lengths(),
            is_exact=self.trusts_counts,
        )

    # -- events of delivered files

    def events(self, form_mapping: Any) -> Any:
        """Wait for all files; return their events in one array, read as the options demand."""
        parts: list[Part] = []
        for partition in range(self.npartitions):
            try:
                parts.append(self.part(partition))
            except TransformFailed as error:
                self.allow(partition, error)
        skips = self.failure_policy.skips
        return self._make_events(parts, form_mapping, self.read_options, skips=skips)

    def partition_events(self, form_mapping: Any, partition: int, mode: str) -> Any:
        """Wait for the input file of a partition; return its events.

        Raises
        ------
        TransformFailed, ReadError
            If its file failed, whatever the failure policy.
        TransformError, ServerError
            If the transform ended, or the server cannot be reached.
        """
        part = self.part(partition)
        where = {"input_file": part.delivered.input_file, "partition": partition}
        metadata = {**(form_mapping.metadata or {}), **where}
        options = replace(self.read_options, mode=mode, entry_start=None, entry_stop=None)
        return self._make_events([part], form_mapping, options, skips=False, metadata=metadata)

    def allow(self, partition: int, error: TransformFailed | ReadError) -> None:
        """Let a partition be left out, unless its file may not fail, or too many have failed.

        Raises
        ------
        TransformFailed, ReadError
            The error.
        """
        handle, _ = self.routing.of(partition // self.steps_per_file)
        allow_failure(handle, error)

    # -- work items

    def deliveries(self) -> dict[str, Delivery]:
        """Return the facts that a pool needs of each transform, by request id."""
        partitions: dict[str, dict[int, int]] = {}
        for partition in range(len(self.files)):
            handle, number = self.routing.of(partition)
            partitions.setdefault(handle.address.request_id, {})[number] = partition
        form = packed(self.output_form)
        return {
            request_id: Delivery(
                handle, partitions[request_id], len(self.files), form, self.counts_events
            )
            for handle in self.routing.handles
            if (request_id := handle.address.request_id) in partitions
        }

    def work_items(self, chunksize: int | None, metadata: Mapping[str, Any]) -> list[WorkItem]:
        """Return the work items of all files; with a size of chunks, wait until all are there."""
        files = {}
        for partition, path in enumerate(self.files.paths):
            handle, number = self.routing.of(partition)
            files[partition] = handle.address.request_id, number, path
            if chunksize is not None and self.counts_events:
                poller_of(handle).wait(number, failure_policy=handle.failure_policy)
        counts = {} if chunksize is None else self.n_events()
        about = {name: value for name, value in metadata.items() if name != "dataset"}
        dataset = str(metadata.get("dataset") or self.selection.title)
        form = self.output_form
        items = work_items(dataset, form.tree, form.result_format, files, counts, chunksize, about)
        return list(items)

    # -- files and transforms

    def awaited(self, number: int) -> list[Awaited[tuple[int, int]]]:
        """Return the input file of each partition, to be waited for; labels begin with a number."""
        files = []
        for partition in range(self.npartitions):
            handle, index = self.routing.of(partition // self.steps_per_file)
            where = number, partition
            files.append(Awaited(where, poller_of(handle), index, handle.failure_policy))
        return files

    def n_events(self) -> dict[int, int]:
        """Return the numbers of events that the server has reported so far, by input file."""
        if not self.counts_events:
            return {}
        outcomes = enumerate(outcome for _, outcome in self.outcomes())
        return {
            index: outcome.n_events
            for index, outcome in outcomes
            if isinstance(outcome, Delivered) and outcome.n_events is not None
        }

    def lengths(self) -> list[int] | None:
        """Return the numbers of events of all partitions, or None if they are not known yet."""
        is_owner = all(handle.poller is not None for handle in self.routing.handles)
        counts = self.n_events() if self.trusts_counts and is_owner else {}
        if len(counts) < len(self.files):
            return None
        steps = self.steps_per_file
        limits = (
            step_limits(counts[index], step, steps)
            for index in range(len(self.files))
            for step in range(steps)
        )
        return [stop - start for start, stop in limits]

    @property
    def counts(self) -> Counts:
        """Numbers of input files: in total, delivered and failed, so far."""
        if self.routing.routes is None:
            return self.poller.counts
        outcomes = [outcome for _, outcome in self.outcomes()]
        n_failed = sum(isinstance(outcome, Failed) for outcome in outcomes)
        n_delivered = sum(isinstance(outcome, Delivered) for outcome in outcomes)
        return Counts(len(outcomes), n_delivered, n_failed)

    def part(self, partition: int) -> Part:
        """Wait for the input file of a partition. Errors are those of `partition_events`."""
        index, step = divmod(partition, self.steps_per_file)
        handle, number = self.routing.of(index)
        outcome = poller_of(handle).wait(number, failure_policy=handle.failure_policy)
        if isinstance(outcome, Failed):
            raise not_transformed(handle.address.request_id, [outcome])
        return Part(partition, self.npartitions, handle, outcome, step, self.steps_per_file)

    def _make_events(
        self,
        parts: Sequence[Part],
        form_mapping: Any,
        options: ReadOptions,
        *,
        skips: bool,
        metadata: dict[str, Any] | None = None,
    ) -> Any:
        return make_events(
            parts,
            self.output_form,
            form_mapping,
            options,
            skips=skips,
            trusts_counts=self.trusts_counts,
            metadata=metadata,
        )

    @property
    def failure_policy(self) -> FailurePolicy:
        """Policy for input files that fail."""
        return self.routing.handles[0].failure_policy

    @property
    def npartitions(self) -> int:
        """Number of partitions of all files."""
        return len(self.files) * self.steps_per_file

    @property
    def counts_events(self) -> bool:
        """True if the numbers of events in rows of results are those of the delivered tree.

        Those of xAOD are numbers of events that were read; of several trees, the server adds them.
        """
        if self.selection.codegen == "uproot-raw":
            return len(input_trees(self.selection.text)) == 1
        return self.selection.is_func_adl_uproot

    @property
    def trusts_counts(self) -> bool:
        """True if the server counts the events of each file, and no file may be left out."""
        return self.counts_events and not self.failure_policy.skips

    @property
    def request_ids(self) -> set[str]:
        """Ids of all transforms."""
        return {handle.address.request_id for handle in self.routing.handles}

    @property
    def poller(self) -> Poller:
        """Poller of the last transform."""
        return poller_of(self.routing.handles[-1])

    def outcomes(self) -> Iterator[tuple[str, Outcome | None]]:
        """Yield, for each input file, the id of its transform and its outcome so far."""
        for index in range(len(self.files)):
            handle, number = self.routing.of(index)
            yield handle.address.request_id, poller_of(handle).outcomes.get(number)


def make_handle(
    client: ServiceXClient,
    request_id: str,
    files: InputFiles,
    selection: Selection,
    failure_policy: FailurePolicy,
    pace: PollPolicy | None,
) -> TransformHandle:
    """Return a handle with the poller that this process has of a transform, or with a new one."""
    address = TransformAddress(request_id, client.endpoint.name, files.order)
    poller = get_poller(address) or Poller(client, address, files, pace, selection.result_format)
    if pace is not None:
        poller.set_policy(pace)
    return TransformHandle(address, failure_policy, poller)


def poller_of(handle: TransformHandle) -> Poller:
    """Return the poller of a transform that this process has submitted.

    Raises
    ------
    BadInput
        In any other process.
    """
    if handle.poller is None:
        raise BadInput(
            "This factory was pickled and is now in a process that did not submit the query; "
            "use the factory of the process that did."
        )
    return handle.poller
