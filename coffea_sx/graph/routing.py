"""Routing of a graph: the transform that delivers each input file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..policy import FailurePolicy
from ..polling import registry
from ..polling.poller import Poller
from ..polling.registry import TransformAddress
from ..polling.results import ResultSource
from .sources import connect


class TransformHandle:
    """A transform in a graph: holds the poller where it was made, travels as an address.

    Parameters
    ----------
    address : TransformAddress
    failure_policy : FailurePolicy
    poller : Poller, optional
        Of this process, held as long as the graph is.
    """

    def __init__(
        self, address: TransformAddress, failure_policy: FailurePolicy, poller: Poller | None = None
    ) -> None:
        self.address = address
        self.failure_policy = failure_policy
        self._poller = poller

    @property
    def poller(self) -> Poller | None:
        """The poller, in the process that owns the transform."""
        return self._poller if self._poller is not None else registry.get_poller(self.address)

    @property
    def results(self) -> ResultSource:
        """Source of results in this process, which may not own the transform."""
        return self.poller or connect(self.address)

    def __repr__(self) -> str:
        return f"<transform {self.address.request_id}>"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        policy = self.failure_policy
        # The same request may have lists of another order, or parts of its list.
        counted = (policy.on_failure, policy.max_failed, sorted(policy.elsewhere))
        return ("coffea_sx", self.address.key, *counted)

    def without(self, indices: Iterable[int]) -> TransformHandle:
        """Return a handle for the other files: another transform delivers these."""
        return TransformHandle(self.address, self.failure_policy.without(indices), self._poller)

    def __reduce__(self) -> tuple[Any, ...]:
        # A graph that leaves this process is on its way to workers, which will wait for outcomes.
        publish_to_workers(self.poller)
        return TransformHandle, (self.address, self.failure_policy)


def publish_to_workers(poller: Poller | None) -> None:
    """Publish the outcomes of a transform to the clusters of which this process is a client."""
    if poller is not None and "distributed" in sys.modules:
        from ..cluster.publisher import publish

        publish(poller)


@dataclass(frozen=True, slots=True)
class Routing:
    """Transforms of the events, and the input files that each delivers.

    Attributes
    ----------
    handles : tuple of TransformHandle
    routes : tuple of tuple of int, optional
        For each input file, the position of its transform and of the file in that; without them
        the only transform delivers all files in their order.
    """

    handles: tuple[TransformHandle, ...]
    routes: tuple[tuple[int, int], ...] | None = None

    def of(self, index: int) -> tuple[TransformHandle, int]:
        """Return the transform of an input file, and the position of the file in it."""
        if self.routes is None:
            return self.handles[0], index
        position, number = self.routes[index]
        return self.handles[position], number

    def rerouted(
        self, n_files: int, numbers: Mapping[int, int], handle: TransformHandle
    ) -> Routing:
        """Return the routing in which another transform delivers some of the input files.

        Parameters
        ----------
        n_files : int
            Number of all input files.
        numbers : mapping of int to int
            Position in the other transform, by the position among all input files.
        handle : TransformHandle
            Of the other transform.
        """
        routes = self.routes or tuple((0, index) for index in range(n_files))
        others = [
            other.without(routes[i][1] for i in numbers if routes[i][0] == position)
            for position, other in enumerate(self.handles)
        ]
        new = len(others)
        return Routing(
            (*others, handle),
            tuple((new, numbers[i]) if i in numbers else routes[i] for i in range(n_files)),
        )
