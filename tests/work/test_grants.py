"""Permission to read one file, in the process that reads it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from support.runner import Submit

from coffea_sx.errors import (
    AccessError,
    LengthMismatch,
)
from coffea_sx.work.grants import Grant, run_granted


def test_a_grant_shows_no_secret(grant: Grant) -> None:
    assert grant.url is not None
    signature = grant.url.url.partition("?")[2]
    assert signature
    assert signature not in repr(grant)
    assert "?" not in repr(grant)


@pytest.mark.parametrize("skips", [False, True])
def test_a_url_that_expired_is_renewed(grant: Grant, submit: Submit, skips: bool) -> None:
    assert grant.url is not None
    item = submit().work_items()[0]
    late = replace(grant, url=replace(grant.url, expires_at=time.time() + 1))
    assert run_granted(len, item, (), late).refused
    # The store refuses it: the function may skip the error, the item comes back all the same.
    refused = replace(grant, url=replace(grant.url, url=grant.url.url + "0"))

    def read(item: Any) -> bytes | None:
        import fsspec

        try:
            with fsspec.open(item.filename) as file:
                return bytes(file.read(4))
        except AccessError:
            if skips:
                return None
            raise

    assert run_granted(read, item, (), refused).refused
    assert run_granted(read, item, (), grant).result == b"root"


def test_a_file_of_another_length(grant: Grant, submit: Submit) -> None:
    item = submit().work_items()[0]
    assert grant.n_events is not None
    wrong = replace(grant, n_events=grant.n_events + 1)
    with pytest.raises(LengthMismatch, match=f"has {grant.n_events} events"):
        run_granted(lambda item: item, item, (), wrong)
    found = run_granted(lambda item: item, item, (), grant)
    assert (found.result.entrystop, found.n_events) == (grant.n_events, grant.n_events)
