"""Options: the same in all public functions, with the same defaults."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from coffea_sx import ServiceXEventsFactory, from_spec
from coffea_sx.errors import BadInput, ConfigurationError
from coffea_sx.options import Options

NAMES = {field.name for field in fields(Options)}
FACTORY = ServiceXEventsFactory


def defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default for name in NAMES & parameters.keys()}


DEFAULTS = defaults(FACTORY.from_servicex)


def test_every_option_is_a_parameter() -> None:
    assert DEFAULTS.keys() == NAMES
    assert defaults(from_spec) == DEFAULTS
    # Nothing is submitted, so there is no cache.
    assert defaults(FACTORY.from_request_id) == {
        name: value for name, value in DEFAULTS.items() if name != "ignore_cache"
    }


def test_other_arguments_are_left_out() -> None:
    assert Options.of({**DEFAULTS, "query": "text", "cls": FACTORY}) == Options(**DEFAULTS)


def test_numbers_of_numpy_become_plain() -> None:
    steps = Options(**{**DEFAULTS, "steps_per_file": np.int64(3)}).steps_per_file
    assert (steps, type(steps)) == (3, int)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mode": "lazy"}, BadInput, "'virtual', 'eager' or 'dask', got 'lazy'"),
        ({"steps_per_file": True}, BadInput, "must be a number of partitions, got True"),
        ({"progress": print}, BadInput, "must be a TransformProgress"),
        ({"ignore_cache": 1}, BadInput, "must be True or False, got 1"),
        ({"max_failed": 1}, BadInput, "on_failure"),
        ({"backend": 5}, ConfigurationError, "backend= must be a text, got int"),
    ],
)
def test_wrong_values_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Options(**{**DEFAULTS, **changes})
