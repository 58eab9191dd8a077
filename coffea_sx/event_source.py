"""Source of events: input files, the transforms that deliver them, and outcomes so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .dataset import InputFiles
from .errors import BadInput
from .forms.output_form import OutputForm
from .graph import layers
from .graph.routing import Routing, TransformHandle
from .policy import FailurePolicy, PollPolicy
from .polling.outcomes import Outcome
from .polling.poller import Poller
from .polling.registry import TransformAddress, get_poller
from .query import Selection
from .servicex.client import ServiceXClient


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

    def __call__(self, form_mapping: Any) -> Any:
        """Build the graph of the events."""
        return layers.build(
            self.routing, self.output_form, form_mapping, len(self.files), self.steps_per_file
        )

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
