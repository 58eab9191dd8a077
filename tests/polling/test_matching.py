"""Matching of rows to input files: each file has one outcome, which never changes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from support.strategies import histories, parsed, row

from coffea_sx.dataset import InputFiles
from coffea_sx.polling.matching import RowMatcher
from coffea_sx.polling.outcomes import Delivered, Failed
from coffea_sx.polling.results import ResultStore


def matcher_of(files):
    return RowMatcher(files, ResultStore("d857", len(files)))


def enter(matcher, rows):
    """Enter the outcomes in rows, as the state of a transform does; return them."""
    new = matcher.new_outcomes(parsed(rows))
    matcher.results.enter(new, None)
    return new


@given(histories())
def test_each_file_has_exactly_one_outcome_which_never_changes(history):
    files, answers = history
    matcher = matcher_of(files)
    published: Counter[int] = Counter()
    for answer in answers:
        before = dict(matcher.results.outcomes)
        new = enter(matcher, answer)
        published.update(outcome.index for outcome in new)
        assert before.items() <= matcher.results.outcomes.items()
        missing = set(range(len(files))) - matcher.results.outcomes.keys()
        assert set(matcher.results.missing) == missing
    assert matcher.results.is_complete
    assert matcher.results.missing == []
    assert published == dict.fromkeys(range(len(files)), 1)
    for i, outcome in matcher.results.outcomes.items():
        assert (outcome.index, outcome.input_file) == (i, files.paths[i])
        assert matcher.new_outcomes(parsed(answers[-1])) == []


@given(histories())
def test_a_result_is_worth_more_than_a_failure_of_the_same_answer(history):
    files, answers = history
    matcher = matcher_of(files)
    enter(matcher, answers[-1])
    succeeded = {
        files.index_of(r["file-path"], "none")
        for r in answers[-1]
        if r["transform_status"] == "success"
    }
    delivered = {outcome.index for outcome in matcher.results.delivered()}
    assert delivered == succeeded - {None}


def test_an_empty_response_has_no_new_outcomes():
    matcher = matcher_of(InputFiles(("/a.root",)))
    assert matcher.new_outcomes(parsed([])) == []
    assert not matcher.results.is_complete


def test_a_row_tells_what_is_needed():
    matcher = matcher_of(InputFiles(("/a.root",)))
    (outcome,) = matcher.new_outcomes(parsed([row(7, "/a.root")]))
    assert outcome == Delivered(0, "/a.root", ":a.root", 1007, 70, "2026-11-22T14:43:43.000007")


def test_numbers_that_are_missing():
    matcher = matcher_of(InputFiles(("/a.root",)))
    (outcome,) = matcher.new_outcomes(
        parsed([{**row(1, "/a.root"), "total-events": None, "total-bytes": None}])
    )
    assert (outcome.n_events, outcome.nbytes) == (None, 0)


# -- an object is the result of one input file


def naming(number, path, of):
    """Make a row of results whose object is that of another path."""
    return {**row(number, path), "s3-object-name": row(0, of)["s3-object-name"]}


@pytest.mark.parametrize("is_together", [True, False])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_object_that_two_rows_name_is_read_once(order, is_together):
    rows = [row(1, "/a.root"), naming(2, "/b.root", "/a.root")]
    rows = [rows[i] for i in order]
    matcher = matcher_of(InputFiles(("/a.root", "/b.root")))
    for answer in [rows] if is_together else [[one] for one in rows]:
        enter(matcher, answer)
    assert matcher.results.is_complete
    assert isinstance(matcher.results.outcomes[0], Delivered)
    failed = matcher.results.outcomes[1]
    assert isinstance(failed, Failed)
    assert all(part in failed.reason for part in (":a.root", "/a.root"))


def test_of_two_rows_with_an_object_of_neither_the_first_has_it():
    rows = [naming(2, "/b.root.2", "/x"), naming(1, "/a.root.1", "/x")]
    matcher = matcher_of(InputFiles(("/a.root.1", "/b.root.2")))
    enter(matcher, rows)
    assert isinstance(matcher.results.outcomes[0], Delivered)
    assert isinstance(matcher.results.outcomes[1], Failed)


def test_an_object_of_another_file_is_that_file_s_result_even_before_its_own_row():
    matcher = matcher_of(InputFiles(("/a.root", "/b.root")))
    enter(matcher, [naming(2, "/b.root", "/a.root")])
    assert isinstance(matcher.results.outcomes[1], Failed)
    enter(matcher, [row(1, "/a.root")])
    assert isinstance(matcher.results.outcomes[0], Delivered)
