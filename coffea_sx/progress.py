"""Bars for what ServiceX has transformed and what has been read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .factory import ServiceXEventsFactory


class TransformProgress(Progress):
    """Show how far a transform and its reading are; use it around a computation.

    Parameters
    ----------
    factory : ServiceXEventsFactory
    **options
        Those of ``rich.progress.Progress``.

    Notes
    -----
    No request is made: the bars show what the watch has learned for the computation.
    """

    def __init__(self, factory: ServiceXEventsFactory, **options: Any) -> None:
        self._factory = factory
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[red]{task.fields[failed]}"),
            **options,
        )
        n_files = len(factory.files)
        self._transformed = self.add_task("transformed", total=n_files, failed="")
        self._read = self.add_task("read", total=factory.npartitions, failed="")

    def get_renderables(self) -> Iterable[Any]:
        """Look at the watch each time the bars are drawn."""
        if hasattr(self, "_read"):
            states = [file["status"] for file in self._factory.files]
            failed = states.count("failed")
            self.update(
                self._transformed,
                completed=states.count("delivered") + failed,
                failed=f"{failed} failed" if failed else "",
            )
            self.update(self._read, completed=len(self._factory.reads))
        yield from super().get_renderables()
