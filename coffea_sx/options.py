"""Options that `from_servicex`, `from_spec` and `from_request_id` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any, Protocol, runtime_checkable

from .errors import BadInput, ConfigurationError
from .graph.packages import check_installed
from .policy import FailurePolicy, PollPolicy
from .servicex.config import Endpoint, EndpointName, find_endpoint
from .virtual.events import MODES, ReadOptions

# Options of coffea for events that are one array.
_OF_ARRAYS = ("entry_start", "entry_stop", "preload", "access_log", "buffer_cache")


@runtime_checkable
class ProgressDisplay(Protocol):
    """Interface of `coffea_sx.progress.TransformProgress`."""

    def look_up(self, name: str, n_known: int) -> None:
        """Show the number of input files of a sample that were found so far."""

    def show(self, name: str, factory: Any) -> None:
        """Show the progress of the transform and of the reading of a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options for any query on any dataset; `from_servicex` documents each of them.

    Raises
    ------
    BadInput
        If an option has a wrong type or value.
    ConfigurationError
        If ``backend`` or ``url`` is not a text, or if dask-awkward is missing for ``mode="dask"``.
    """

    input_form: Any
    form: Any
    mode: str
    entry_start: int | None
    entry_stop: int | None
    preload: Any
    access_log: list[Any] | None
    buffer_cache: Any
    schemaclass: Any
    metadata: Mapping[str, Any] | None
    backend: str | None
    url: str | None
    config_path: str | Path | None
    on_failure: str
    max_failed: int | float | None
    steps_per_file: int
    ignore_cache: bool = False
    pace: PollPolicy | None
    progress: ProgressDisplay | None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Options:
        """Return the options among the arguments of a public function, which are its ``locals()``.

        This writes their names once; `tests/test_options.py` compares the signatures.
        """
        return cls(**{name: arguments[name] for name in cls.__slots__ if name in arguments})

    def __post_init__(self) -> None:
        self._check_mode()
        self._check("steps_per_file", Integral, "a number of partitions")
        if self.steps_per_file < 1:
            raise BadInput(f"steps_per_file must be at least 1, got {self.steps_per_file}.")
        object.__setattr__(self, "steps_per_file", int(self.steps_per_file))
        self._check("metadata", (Mapping, NoneType), "a dict")
        self._check("pace", (PollPolicy, NoneType), "a coffea_sx.PollPolicy")
        self._check("progress", (ProgressDisplay, NoneType), "a TransformProgress")
        if not isinstance(self.ignore_cache, bool):
            raise BadInput(f"ignore_cache= must be True or False, got {self.ignore_cache!r}.")
        for name in ("backend", "url"):
            if not isinstance(value := getattr(self, name), (str, NoneType)):
                raise ConfigurationError(f"{name}= must be a text, got {type(value).__name__}.")
        FailurePolicy(self.on_failure, self.max_failed)

    def _check_mode(self) -> None:
        if self.mode not in ("dask", *MODES):
            raise BadInput(f"mode= must be 'virtual', 'eager' or 'dask', got {self.mode!r}.")
        for name in ("entry_start", "entry_stop"):
            self._check(name, (Integral, NoneType), "the number of an event")
        self._check("access_log", (list, NoneType), "a list")
        given = [name for name in _OF_ARRAYS if getattr(self, name) is not None]
        if given and self.mode == "dask":
            raise BadInput(f"{given[0]}= is for mode='virtual' and 'eager', as in coffea.")
        if self.steps_per_file != 1 and self.mode != "dask":
            raise BadInput("steps_per_file= is for mode='dask': other modes have one array.")
        if self.mode == "dask":
            check_installed()

    def _check(self, name: str, types: type | tuple[type, ...], expected: str) -> None:
        value = getattr(self, name)
        # To Python, True and False are integers.
        if isinstance(value, bool) or not isinstance(value, types):
            raise BadInput(f"{name}= must be {expected}, got {value!r}.")

    def with_steps(self, steps: int | None) -> Options:
        """Return the options for a dataset whose files have steps, if they have any.

        Raises
        ------
        BadInput
            If another number of steps was given.
        """
        # In the other modes the events are one array, whatever the steps.
        if steps is None or steps == self.steps_per_file or self.mode != "dask":
            return self
        if self.steps_per_file != 1:
            raise BadInput(
                f"steps_per_file={self.steps_per_file}, but the files of the dataset have {steps} "
                "steps each: leave out one of them."
            )
        return replace(self, steps_per_file=steps)

    @property
    def read_options(self) -> ReadOptions:
        """How events are read outside of dask; `partition` has a mode of its own."""
        values = {name: getattr(self, name) for name in _OF_ARRAYS}
        return ReadOptions(mode=self.mode, **values)

    @property
    def failure_policy(self) -> FailurePolicy:
        """Policy for input files that fail."""
        return FailurePolicy(self.on_failure, self.max_failed)

    def endpoint(self) -> Endpoint:
        """Find the endpoint; ``url="local"`` starts a ServiceX in this process.

        Raises
        ------
        ConfigurationError
        """
        url, config_path = self.url, self.config_path
        if url == "local":
            from .local import default

            server = default()
            url, config_path = server.url, server.config_path
        path = None if config_path is None else str(config_path)
        return find_endpoint(EndpointName(self.backend, url, path))
