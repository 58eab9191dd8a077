"""How often a server is polled, what is repeated, and how many input files may fail."""

from __future__ import annotations

import math
import pickle
import warnings
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from coffea_sx.errors import (
    AccessError,
    BadInput,
    ProtocolError,
    RequestRefused,
    TransformFailed,
    Unreachable,
)
from coffea_sx.policy import (
    LENIENT,
    STRICT,
    FailurePolicy,
    PollPolicy,
    RetryPolicy,
    is_transient,
    warn_of_outage,
)

# -- PollPolicy


@pytest.mark.parametrize("field", PollPolicy.__slots__)
@pytest.mark.parametrize("seconds", [-1, math.nan, True, "1", None])
def test_a_pace_is_in_seconds(field: str, seconds: Any) -> None:
    with pytest.raises(BadInput, match=f"{field}=...\\) is a number of seconds"):
        PollPolicy(**{field: seconds})


@pytest.mark.parametrize("field", PollPolicy.__slots__)
def test_only_limits_may_be_infinite(field: str) -> None:
    if field in {"busy_s", "idle_s", "settle_s"}:
        with pytest.raises(BadInput, match="must have a limit"):
            PollPolicy(**{field: math.inf})
    else:
        assert getattr(PollPolicy(**{field: math.inf}), field) == math.inf


def test_numbers_of_numpy_are_seconds() -> None:
    assert PollPolicy(busy_s=np.float32(0.5), stall_s=np.int64(3)) == PollPolicy(0.5, stall_s=3)


def test_the_defaults_ask_once_a_second() -> None:
    pace = PollPolicy()
    assert (pace.busy_s, pace.idle_s) == (1.0, 2.0)
    assert pace.stall_s == 1800
    assert pace.deadline_s == math.inf


@pytest.mark.parametrize("policy", [PollPolicy(), STRICT, RetryPolicy(1.0, 0.1)])
def test_policies_are_values(policy: Any) -> None:
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(pickle.loads(pickle.dumps(policy)))
    with pytest.raises(FrozenInstanceError):
        setattr(policy, next(iter(policy.__slots__)), 1)


# -- FailurePolicy


def test_without_a_limit() -> None:
    assert STRICT.allows(0)
    assert not STRICT.allows(1)
    assert LENIENT.allows(10**6)


@pytest.mark.parametrize(
    ("max_failed", "n_allowed"), [(0, 0), (3, 3), (0.0, 0), (0.05, 5), (0.059, 5), (1.0, 100)]
)
def test_a_number_or_a_fraction_of_files(max_failed: float, n_allowed: int) -> None:
    policy = FailurePolicy("skip", max_failed).among(100)
    assert policy.limit == n_allowed
    assert policy.allows(n_allowed)
    assert not policy.allows(n_allowed + 1)


@pytest.mark.parametrize("max_failed", [-1, 1.5, -0.1, True, "3", math.nan])
def test_other_limits_are_refused(max_failed: Any) -> None:
    with pytest.raises(BadInput, match="max_failed"):
        FailurePolicy("skip", max_failed)


def test_a_limit_needs_skip() -> None:
    with pytest.raises(BadInput, match='use on_failure="skip"'):
        FailurePolicy("raise", 3)
    with pytest.raises(BadInput, match='"raise" or "skip"'):
        FailurePolicy("ignore")


def test_numbers_of_numpy_become_plain() -> None:
    assert type(FailurePolicy("skip", np.int32(3)).max_failed) is int
    assert type(FailurePolicy("skip", np.float64(0.5)).max_failed) is float


def test_files_that_another_transform_delivers_are_added() -> None:
    policy = FailurePolicy("skip", 2).without([1]).without([3, 1])
    assert policy.elsewhere == {1, 3}
    assert policy.among(8).elsewhere == frozenset()
    assert policy.among(8).n_files == 8


# -- RetryPolicy


class Server:
    """Answers with errors, then with 7; records how long it was waited between requests."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.pauses: list[float] = []

    def __call__(self) -> int:
        if self.errors:
            raise self.errors.pop(0)
        return 7

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


BUSY = RequestRefused("busy", status=503)


@pytest.mark.parametrize(
    ("error", "is_repeated"),
    [
        (Unreachable("away"), True),
        (AccessError("no list"), True),
        (BUSY, True),
        (RequestRefused("too many", status=429), True),
        (RequestRefused("no", status=400), False),
        (ProtocolError("not JSON"), False),
        (TransformFailed("no tree"), False),
    ],
)
def test_transient_errors(error: Exception, is_repeated: bool) -> None:
    assert is_transient(error) is is_repeated


@pytest.mark.filterwarnings("ignore:busy")
def test_a_request_is_repeated_after_pauses() -> None:
    server = Server(BUSY, BUSY)
    assert RetryPolicy(60, 0.5).call(server, sleep=server.sleep) == 7
    assert server.pauses == [0.5, 0.5]


def test_it_is_said_once_that_a_server_is_away() -> None:
    server = Server(BUSY, BUSY, BUSY)
    with pytest.warns(UserWarning, match="busy It is asked again for up to 60 s") as caught:
        RetryPolicy(60, 0.5).call(server, sleep=server.sleep)
    assert len(caught) == 1


def test_warnings_that_are_errors_end_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_outage(BUSY, 60)


def test_other_errors_are_raised_at_once() -> None:
    for error in (RequestRefused("no", status=400), KeyError("x")):
        server = Server(error)
        with pytest.raises(type(error)):
            RetryPolicy(60, 0.5).call(server, sleep=server.sleep)
        assert server.pauses == []


def test_the_last_error_is_raised_at_the_limit() -> None:
    server = Server(BUSY, Unreachable("away"))
    with pytest.raises(RequestRefused, match="busy"):
        RetryPolicy(0, 0.5).call(server, sleep=server.sleep)


@pytest.mark.filterwarnings("ignore:no")
def test_what_is_repeated_is_an_argument() -> None:
    server = Server(RequestRefused("no", status=400))
    policy = RetryPolicy(60, 0.5, repeats=lambda error: True)
    assert policy.call(server, sleep=server.sleep) == 7


@pytest.mark.filterwarnings("ignore:busy")
def test_an_error_of_sleep_ends_the_attempts() -> None:
    def closed(seconds: float) -> None:
        raise InterruptedError

    server = Server(BUSY, BUSY)
    with pytest.raises(InterruptedError):
        RetryPolicy(60, 0.5).call(server, sleep=closed)
    assert len(server.errors) == 1
