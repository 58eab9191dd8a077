"""Plots of histograms, and of the layers of a graph."""

from __future__ import annotations

import os
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ..errors import BadInput


def check_picture(path: str) -> None:
    """Check early that a picture can be saved.

    Raises
    ------
    BadInput
        If the folder does not exist or cannot be written to, or the format is unknown.
    """
    from matplotlib.figure import Figure

    target, formats = Path(path), Figure().canvas.get_supported_filetypes()
    if target.suffix[1:].lower() not in formats:
        raise BadInput(f"{path} is not the name of a picture: let it end in .png or .pdf.")
    if not os.access(target.parent, os.W_OK):
        raise BadInput(f"{path} cannot be written: there is no such folder, or it is not yours.")


def draw_histograms(histograms: dict[str, Any], title: str) -> Any:
    """Draw histograms side by side.

    Parameters
    ----------
    histograms : dict of str to hist.Hist
        Histograms of one axis.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    import mplhep
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, histogram in zip(figure.subplots(1, 2), histograms.values(), strict=True):
        mplhep.histplot(histogram, ax=axes, histtype="fill", alpha=0.5, flow="none")
        mplhep.histplot(
            histogram, ax=axes, color="black", histtype="errorbar", markersize=4, flow="none"
        )
        axes.set_xlabel(histogram.axes[0].label)
        axes.set_ylabel("events")
        axes.set_ylim(bottom=0)
    figure.suptitle(title)
    return figure


def draw_layers(events: Any) -> Any:
    """Draw the layers of a graph as rows of tasks, with a column for each partition.

    Parameters
    ----------
    events : dask collection

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    layers = events.dask.layers
    names = list(TopologicalSorter(events.dask.dependencies).static_order())
    figure = Figure(figsize=(9, 1.2 + 0.9 * len(names)), layout="constrained")
    axes = figure.subplots()
    row = {name: len(names) - 1 - i for i, name in enumerate(names)}
    for name in names:
        n_tasks = len(layers[name])
        for parent in events.dask.dependencies[name]:
            for i in range(n_tasks):
                axes.annotate(
                    "",
                    xy=(i, row[name] + 0.22),
                    xytext=(i, row[parent] - 0.22),
                    arrowprops={"arrowstyle": "->", "color": "gray"},
                )
        axes.scatter(range(n_tasks), [row[name]] * n_tasks, s=420, marker="s", alpha=0.6)
        for i in range(n_tasks):
            axes.text(i, row[name], str(i), ha="center", va="center")
    axes.set_yticks(list(row.values()), [name.rpartition("-")[0] for name in names])
    axes.set_xlabel("partition")
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    return figure
