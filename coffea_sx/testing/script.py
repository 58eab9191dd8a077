"""The script of a `FaultProxy`: which requests have faults, and how often."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .messages import Action, Request


@dataclass(frozen=True)
class When:
    r"""Condition for requests; None matches all.

    Parameters
    ----------
    path : str, optional
        Regular expression, searched in the path.
    method : str, optional
    is_range : bool, optional
        True for requests with a Range header, False for those without.

    Examples
    --------
    >>> part = Request("GET", "/bucket/a.root", "bytes=0-99")
    >>> When(r"\.root$", is_range=True)(part)
    True
    >>> When(method="POST")(part)
    False
    """

    path: str | None = None
    method: str | None = None
    is_range: bool | None = None

    def __call__(self, request: Request) -> bool:
        """Return True if a request matches."""
        return (
            (self.path is None or re.search(self.path, request.path) is not None)
            and self.method in (None, request.method)
            and self.is_range in (None, request.range is not None)
        )


@dataclass(frozen=True)
class Fault:
    """A rule of a script.

    Parameters
    ----------
    action : callable
        ``async def action(request, ask) -> Answer``, as the classes of `faults`.
    when : callable
        Takes a `Request`; returns True if it matches. All do by default.
    times : int, optional
        Number of times that the action is applied; None is no limit.
    skip : int
        Number of matching requests that pass unharmed before.
    """

    action: Action
    when: Callable[[Request], bool] = When()
    times: int | None = 1
    skip: int = 0


class Rule:
    """A fault, and the number of times that it was applied.

    Attributes
    ----------
    fault : Fault
    n_provoked : int
    """

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.n_provoked = 0
        self._n_skipped = 0

    def applies(self, request: Request) -> bool:
        """Return True, and count it, if the fault is to be applied to a request."""
        fault = self.fault
        if self.n_provoked == fault.times or not fault.when(request):
            return False
        if self._n_skipped < fault.skip:
            self._n_skipped += 1
            return False
        self.n_provoked += 1
        return True
