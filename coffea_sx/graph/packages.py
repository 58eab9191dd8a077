"""Packages that only the graph needs."""

from __future__ import annotations

from ..errors import ConfigurationError


def check_installed() -> None:
    """Import dask-awkward, which only ``mode="dask"`` needs.

    Raises
    ------
    ConfigurationError
        If it is not installed, or does not fit the dask that is installed.
    """
    try:
        from . import layers  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f'mode="dask" needs dask-awkward, and a dask that it fits: {error}. Install them with '
            'pip install "coffea_sx[dask-awkward]", or take mode="virtual", which needs neither, '
            "as do factory.work_items() and factory.pool() for coffea's Runner."
        ) from error
