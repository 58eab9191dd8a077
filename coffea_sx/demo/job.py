"""Job of the demo: write files, submit a query, analyse while results arrive, draw a plot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from time import time
from typing import Any

from ..factory import ServiceXEventsFactory
from ..graph.packages import check_installed
from ..local import LocalServiceX
from ..policy import PollPolicy
from ..progress import TransformProgress
from .analysis import DimuonProcessor, SelectionSchema, dimuon_query
from .pictures import check_picture, draw_histograms
from .samples import make_samples


@dataclass(frozen=True, slots=True)
class Job:
    """Results of the demo.

    Attributes
    ----------
    histograms : dict of str to hist.Hist
    reference : dict of str to hist.Hist
        Of the same processor on the input files, without ServiceX.
    timeline : dict of str to float
        Times of events, in seconds after the submission.
    """

    histograms: dict[str, Any]
    reference: dict[str, Any]
    timeline: dict[str, float]

    @property
    def agrees(self) -> bool:
        """True if the histograms with and without ServiceX are equal, bin by bin."""
        return self.histograms == self.reference


def run(n_files: int, n_workers: int, n_events: int, picture: str | None = None) -> Job:
    """Run the demo on this machine.

    Parameters
    ----------
    n_files : int
    n_workers : int
        Worker processes of ServiceX, and dask workers.
    n_events : int
        Events in each input file.
    picture : str, optional
        Path of the plot.

    Raises
    ------
    BadInput
        If no plot can be saved at `picture`.
    ConfigurationError
        If dask-awkward is not installed.
    """
    check_installed()
    if picture is not None:
        check_picture(picture)
    with tempfile.TemporaryDirectory(prefix="coffea_sx-demo-") as directory:
        files = make_samples(Path(directory) / "input", n_files, n_events)
        reference = _analyse_without_servicex(files)
        with LocalServiceX(workers=n_workers, tokens=True) as servicex, _cluster(n_workers):
            factory = ServiceXEventsFactory.from_servicex(
                dimuon_query(),
                files,
                schemaclass=SelectionSchema,
                url=servicex.url,
                config_path=servicex.config_path,
                metadata={"dataset": "demo"},
                title="coffea_sx demo",
                # The server has no other users, so that it may be polled often.
                pace=PollPolicy(busy_s=0.25),
            )
            histograms, timeline = _analyse(factory)
    if picture is not None:
        title = f"Dimuon events of {n_files} files, delivered by ServiceX"
        draw_histograms(histograms, title).savefig(picture, dpi=120)
    return Job(histograms, reference, timeline)


def _analyse(factory: ServiceXEventsFactory) -> tuple[dict[str, Any], dict[str, float]]:
    import dask

    histograms = DimuonProcessor().process(factory.events())
    built_at = time()
    with TransformProgress(factory):
        (histograms,) = dask.compute(histograms)
    done_at = time()
    delivered = [_seconds(file["created_at"]) for file in factory.files]
    times = {
        "submitted": _seconds(factory.status().submitted_at),
        "graph built": built_at,
        "first file delivered": min(delivered),
        "first partition read": min(read.finished_at for read in factory.reads),
        "last file delivered": max(delivered),
        "result": done_at,
    }
    return histograms, {name: at - times["submitted"] for name, at in times.items()}


def _analyse_without_servicex(files: list[str]) -> dict[str, Any]:
    import dask
    from coffea.nanoevents import NanoEventsFactory

    factory = NanoEventsFactory.from_root(
        dict.fromkeys(files, "Events"), mode="dask", schemaclass=SelectionSchema
    )
    events = factory.events()
    (histograms,) = dask.compute(DimuonProcessor().process(events))
    return dict(histograms)


@contextmanager
def _cluster(n_workers: int) -> Iterator[None]:
    from .cluster import local_cluster

    with local_cluster(n_workers) as client:
        client.run(import_module, DimuonProcessor.__module__)  # as on workers of a running analysis
        yield


def _seconds(text: str) -> float:
    """Parse a time of a server: ISO 8601, in UTC also without an offset."""
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
