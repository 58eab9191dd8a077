"""Ask a server again that does not answer now."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import TypeVar

from ..errors import AccessError, ConfigurationError, ServiceXError

Answer = TypeVar("Answer")


def is_passing(error: Exception) -> bool:
    """Whether it may be answered later what was not answered now."""
    # A store that does not list a bucket, or a file that holds a token, may be there again.
    if isinstance(error, (ConnectionError, AccessError, ConfigurationError)):
        return True
    return (getattr(error, "status", 0) or 0) >= 429


def tell_of_outage(error: Exception, patience_s: float) -> None:
    """Warn that a server does not answer: else whoever waits would see nothing for long."""
    # Where warnings are errors, this one must not end what may go on.
    with suppress(UserWarning):
        warnings.warn(f"{error} It is asked again for up to {patience_s:g} s.", stacklevel=2)


def patiently(
    ask: Callable[[], Answer],
    patience_s: float,
    pause_s: float,
    *,
    is_passing: Callable[[Exception], bool] = is_passing,
    rest: Callable[[float], object] = sleep,
) -> Answer:
    """Ask, and ask again after a pause, while a server does not answer.

    Parameters
    ----------
    ask : callable
    patience_s, pause_s : float
        For how long, and how long to rest in between; seconds.
    is_passing : callable
        After which errors to ask again.
    rest : callable
        Rests for so many seconds; what it raises ends the asking.
    """
    deadline = monotonic() + patience_s
    is_told = False
    while True:
        try:
            return ask()
        except ServiceXError as error:
            if not is_passing(error) or monotonic() > deadline:
                raise
            if not is_told:
                tell_of_outage(error, patience_s)
                is_told = True
        rest(pause_s)
