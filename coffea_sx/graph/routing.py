"""What a graph knows of transforms: which of them delivers each input file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..policy import FailurePolicy
from ..polling import registry
from ..polling.poller import Poller
from ..polling.registry import ResultSource, TransformAddress
from .sources import connect


class TransformHandle:
    """A transform in a graph: holds the watch where it was made, travels as an address.

    Parameters
    ----------
    address : TransformAddress
    tolerance : FailurePolicy
    watch : Watch, optional
        Of this process, to be held as long as the graph is.
    """

    def __init__(
        self, address: TransformAddress, failure_policy: FailurePolicy, poller: Poller | None = None
    ) -> None:
        self.address = address
        self.failure_policy = failure_policy
        self._poller = poller

    @property
    def poller(self) -> Poller | None:
        """The watch, in the process that owns the transform."""
        return self._poller if self._poller is not None else registry.owned(self.address)

    @property
    def results(self) -> ResultSource:
        """What knows of the results in this process, which may not own the transform."""
        return self.poller or connect(self.address)

    def __repr__(self) -> str:
        return f"<transform {self.address.request_id}>"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        said = self.failure_policy
        counted = (said.on_failure, said.max_failed, sorted(said.elsewhere))
        # The same request may be known by lists of another order, or by parts of its list.
        return ("coffea_sx", self.address.key, *counted)

    def without(self, indices: Iterable[int]) -> TransformHandle:
        """Return a handle for the other files: another transform delivers these."""
        return TransformHandle(self.address, self.failure_policy.without(indices), self._poller)

    def __reduce__(self) -> tuple[Any, ...]:
        # A graph that leaves this process is on its way to workers, who will ask for outcomes.
        if self.poller is not None and "distributed" in sys.modules:
            from ..cluster.publisher import publish

            publish(self.poller)
        return TransformHandle, (self.address, self.failure_policy)


@dataclass(frozen=True, slots=True)
class Routing:
    """Which transform delivers each input file.

    Attributes
    ----------
    handles : tuple of TransformHandle
    routes : tuple of tuple of int, optional
        For each input file, which of the transforms and which file of it; without them the only
        transform delivers all files in their order.
    """

    handles: tuple[TransformHandle, ...]
    routes: tuple[tuple[int, int], ...] | None = None

    def of(self, index: int) -> tuple[TransformHandle, int]:
        """Return the transform of an input file, and the number of the file in it."""
        if self.routes is None:
            return self.handles[0], index
        which, number = self.routes[index]
        return self.handles[which], number

    def rerouted(
        self, n_files: int, numbers: Mapping[int, int], handle: TransformHandle
    ) -> Routing:
        """Return deliveries of which another transform does some.

        Parameters
        ----------
        n_files : int
            Of all.
        numbers : mapping of int to int
            Which file of the other transform is which of all.
        handle : TransformHandle
        """
        routes = self.routes or tuple((0, index) for index in range(n_files))
        others = [
            one.without(routes[i][1] for i in numbers if routes[i][0] == which)
            for which, one in enumerate(self.handles)
        ]
        new = len(others)
        return Routing(
            (*others, handle),
            tuple((new, numbers[i]) if i in numbers else routes[i] for i in range(n_files)),
        )
