"""Progress bars of look-ups, transforms and reading, for each sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .errors import BadInput
from .factory import ServiceXEventsFactory


class TransformProgress(Progress):
    """Progress bars of transforms and of reading; use it around a computation.

    In a terminal these are text, in a notebook HTML.

    Parameters
    ----------
    factories : ServiceXEventsFactory or mapping of str to ServiceXEventsFactory, optional
        Factories by the names of their samples. `from_servicex` and `from_spec` with
        ``progress=`` add theirs.
    **options
        Options of ``rich.progress.Progress``; ``disable=True`` shows nothing.

    Raises
    ------
    BadInput
        If several factories are given without names.

    Notes
    -----
    No request is made: the bars show what the pollers have learned for the computation.
    """

    def __init__(
        self,
        factories: ServiceXEventsFactory | Mapping[str, ServiceXEventsFactory] | None = None,
        **options: Any,
    ) -> None:
        self._shown: dict[str, _Bars] = {}
        super().__init__(
            TextColumn("{task.fields[sample]}"),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[red]{task.fields[failed]}"),
            **options,
        )
        if isinstance(factories, ServiceXEventsFactory):
            factories = {"": factories}
        if factories is not None and not isinstance(factories, Mapping):
            raise BadInput("Give one factory, or several by name: {name: factory, ...}.")
        for name, factory in (factories or {}).items():
            self.show(name, factory)

    def look_up(self, name: str, n_known: int) -> None:
        """Show the number of input files of a sample that were found so far."""
        bars = self._bars(name)
        self.update(bars.transformed, description=f"looking up, {n_known} files")

    def show(self, name: str, factory: ServiceXEventsFactory) -> None:
        """Show the progress of the transform and of the reading of a sample."""
        bars = self._bars(name)
        bars.factory = factory
        self.update(bars.transformed, description="transformed", total=factory.counts.total)
        self.update(bars.read, total=factory.npartitions, visible=True)

    def get_renderables(self) -> Iterable[Any]:
        """Update the bars each time they are drawn."""
        for bars in list(self._shown.values()):
            if bars.factory is not None:
                counts, reads = bars.factory.counts, bars.factory.reads
                self._set(bars.transformed, counts.delivered + counts.failed, counts.failed)
                self._set(bars.read, len(reads), sum(read.error is not None for read in reads))
        yield from super().get_renderables()

    def _set(self, bar: Any, completed: int, n_failed: int) -> None:
        self.update(bar, completed=completed, failed=f"{n_failed} failed" if n_failed else "")

    def _bars(self, name: str) -> _Bars:
        if name not in self._shown:
            add = {"total": None, "failed": "", "sample": escape(name)}
            self._shown[name] = _Bars(
                self.add_task("looking up", **add),  # type: ignore[arg-type]
                self.add_task("read", visible=False, **add),  # type: ignore[arg-type]
            )
        return self._shown[name]


class _Bars:
    """The two bars of a sample."""

    def __init__(self, transformed: Any, read: Any) -> None:
        self.transformed = transformed
        self.read = read
        self.factory: ServiceXEventsFactory | None = None
