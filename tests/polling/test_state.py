"""State of a transform: whatever a server reports, each file has one outcome, and it ends."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.strategies import later, parsed, row, status_json

from coffea_sx import report
from coffea_sx.dataset import InputFiles, object_name
from coffea_sx.errors import (
    BadDataset,
    BadInput,
    CountMismatch,
    DeadlineExceeded,
    NotAuthorized,
    RequestRefused,
    TransformCanceled,
    TransformFatal,
    TransformGone,
    TransformStalled,
    Unreachable,
)
from coffea_sx.policy import PollPolicy
from coffea_sx.polling import failures
from coffea_sx.polling.outcomes import Delivered, Failed, Outcome
from coffea_sx.polling.results import ResultStore
from coffea_sx.polling.state import (
    LONG_EVERY_S,
    LONG_OVERLAP_S,
    OVERLAP_S,
    ROWS_A_STATUS,
    Request,
    TransformState,
)
from coffea_sx.servicex.models import TERMINAL, ResultRow, TransformStatus

FAULTS = {
    "silent": Unreachable("nobody answers"),
    "restarting": RequestRefused("come back later", status=503),
    "busy": RequestRefused("too many requests", status=429),
    "closed": NotAuthorized("who are you?", status=401),
    "deleted": TransformGone("not found", status=404),
}
PASSING = ("silent", "restarting", "busy")
STATUSES = ["Submitted", "Lookup", "Running", "Reticulating", *sorted(TERMINAL)]
# What the server says when all is over without all results, by what it says of the transform.
FINAL = {
    "Canceled": TransformCanceled,
    "Fatal": TransformFatal,
    "Bad Dataset": BadDataset,
    "Complete": CountMismatch,
}
SECONDS = st.sampled_from([0.0, 0.01, 0.5, 3.0])
MIDNIGHT = datetime(2026, 11, 22, tzinfo=timezone.utc)


def at(seconds: float) -> str:
    """Write a moment as servers do."""
    moment = MIDNIGHT + timedelta(seconds=seconds)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds")


def stored(index: int) -> ResultRow:
    """Make a row of results of an object in the bucket."""
    name = object_name(f"/data/{index}.root")
    return ResultRow(name, "", name, True, 1001, None, at(index))


def reported(status: str = "Running", n_files: int = 6, **changes: Any) -> TransformStatus:
    """Make a status; ``log_url`` and the counters may be given."""
    return TransformStatus.from_json(status_json(status, n_files, **changes))


@st.composite
def paces(draw: st.DrawFn) -> PollPolicy:
    busy_s = draw(st.sampled_from([0.02, 0.1]))
    return PollPolicy(
        busy_s=busy_s,
        idle_s=busy_s * draw(st.sampled_from([1, 20])),
        stall_s=draw(st.sampled_from([0.5, 30.0])),
        deadline_s=draw(st.sampled_from([2.0, 100.0, math.inf])),
        settle_s=draw(st.sampled_from([0.0, 0.3, 10.0])),
        outage_s=draw(st.sampled_from([0.0, 5.0, 20.0])),
    )


class History(RuleBasedStateMachine):
    """A server on which anything may happen, and a poller that sends what the state plans."""

    @initialize(
        n_files=st.integers(1, 3),
        pace=paces(),
        has_rows=st.booleans(),
        is_mortal=st.booleans(),
        seed=st.integers(0, 3),
    )
    def begin(
        self, n_files: int, pace: PollPolicy, has_rows: bool, is_mortal: bool, seed: int
    ) -> None:
        self.is_mortal = is_mortal
        self.chance = random.Random(seed)
        self.files = InputFiles(tuple(f"/data/{i}.root" for i in range(n_files)))
        self.clock = 100.0
        self.pace, self.has_rows = pace, has_rows
        self.rows: list[dict[str, Any]] = []
        self.objects: list[ResultRow] = []
        self.status = reported("Running", n_files)
        self.faults: list[str] = []
        self.begin_again()

    def begin_again(self) -> None:
        results = ResultStore("d857", len(self.files))
        self.state = TransformState(
            results, self.files, self.pace, self.clock, self.chance.random, few_rows=2
        )
        self.has_server = self.stopped = False
        self.last_answer = self.listed_at = self.clock
        self.ended_at: float | None = None
        self.outcomes: dict[int, Outcome] = {}
        self.best = self.state.counts
        self.took_s = 0.0
        self.read: list[dict[str, Any]] = []

    # -- what happens on the server

    @rule(
        index=st.integers(0, 3),
        failed=st.sampled_from([False, False, True]),
        late_s=st.sampled_from([0.0, 0.0, 2.0, 200.0]),
    )
    def report(self, index: int, failed: bool, late_s: float) -> None:
        """A file is reported: for the first time, again, otherwise, or one that was not requested.

        A row may be seen long after the time at which it says it was made.
        """
        reported = row(len(self.rows) + 1, f"/data/{index}.root", failed=failed)
        self.rows.append({**reported, "created_at": at(self.clock - late_s)})
        if not failed:
            self.objects.append(stored(index))

    @precondition(lambda self: self.has_rows and self.rows)
    @rule(which=st.integers(0, 20), nbytes=st.integers(0, 3))
    def change(self, which: int, nbytes: int) -> None:
        """A file that is delivered again changes its row, as on servers of 2026."""
        old = self.rows[which % len(self.rows)]
        new = {**old, **row(old["id"], old["file-path"]), "total-bytes": nbytes}
        new["created_at"] = old["created_at"]
        self.rows[which % len(self.rows)] = new

    @rule(
        status=st.sampled_from(["Running", "Complete"]) | st.sampled_from(STATUSES),
        done=st.integers(-1, 4),
        failed=st.sampled_from([None, -1, 0, 0, 1, 5]),
        log_url=st.sampled_from([None, "https://logs.org"]),
    )
    def say(self, status: str, done: int, failed: int | None, log_url: str | None) -> None:
        """Ends are premature; counters lag, lead, are negative, start again."""
        self.status = reported(
            status,
            len(self.files),
            log_url=log_url,
            files_completed=done,
            files_failed=failed,
        )

    @rule(fault=st.sampled_from(PASSING), times=st.sampled_from([1, 3, 1000]))
    def break_down(self, fault: str, times: int) -> None:
        self.faults = [fault] * times

    @precondition(lambda self: self.is_mortal)
    @rule(fault=st.sampled_from(["closed", "deleted"]))
    def turn_away(self, fault: str) -> None:
        self.faults = [fault]

    # -- what the poller does

    @property
    def is_asking(self) -> bool:
        return not self.stopped and not self.state.is_over

    @precondition(lambda self: self.is_asking)
    @rule(
        times=st.sampled_from([1, 2, 8]),
        took_s=SECONDS,
        is_late=st.sampled_from([False] * 4 + [True]),
    )
    def ask(self, times: int, took_s: float, is_late: bool) -> None:
        if is_late:
            # After a while in which nobody waited.
            self.resume(1000.0)
        for _ in range(times):
            if self.is_asking:
                self.ask_once(took_s)

    def ask_once(self, took_s: float) -> None:
        state = self.state
        self.took_s = took_s
        self.clock += state.pause_s
        state.check_limits(self.clock)
        if state.is_over:
            assert isinstance(state.ending, (TransformStalled, DeadlineExceeded))
            return
        self.clock += took_s
        if self.faults:
            self.update_error(self.faults.pop())
            return
        if not self.has_server:
            state.update_server(self.has_rows)
            self.has_server = True
        if state.next_request is Request.ROWS:
            self.list_rows(took_s)
        elif state.next_request is Request.STATUS:
            self.update_status(took_s)
        else:
            assert not self.has_rows
            assert self.status.is_over or state.status in TERMINAL
            self.note(state.add_final_rows(self.objects, self.clock))
        self.last_answer = self.clock

    def list_rows(self, took_s: float) -> None:
        """Respond with the requested rows, in any order and some of them twice."""
        than = self.state.later_than
        if than is None:
            self.listed_at = self.clock - took_s
        requested = later(self.rows, than and than.isoformat())
        answer = requested + self.chance.sample(requested, min(2, len(requested)))
        self.chance.shuffle(answer)
        new = self.state.new_outcomes(parsed(answer))
        for outcome in new:
            rows = [r for r in answer if r["file-path"] == outcome.input_file]
            results = [r for r in rows if r["transform_status"] == "success"]
            assert isinstance(outcome, Delivered) == bool(results)
        self.state.add(new, self.clock, took_s)
        self.note(new)
        listed = {self.files.index_of(r["file-path"], r["s3-object-name"]) for r in answer}
        assert listed - {None} <= self.state.results.outcomes.keys()

    @property
    def most_s(self) -> float:
        """The longest time between requests."""
        return max(self.state.pace.idle_s, self.state.pace.busy_s)

    def update_status(self, took_s: float) -> None:
        if not self.status.is_over:
            self.ended_at = None
        elif self.ended_at is None:
            self.ended_at = self.clock
        self.note(self.state.update_status(self.status, self.clock, took_s))
        if isinstance(self.state.ending, CountMismatch):
            assert self.listed_at - self.ended_at >= self.state.pace.settle_s
        if not self.has_rows and not self.outcomes:
            n_counted = self.status.n_completed + self.status.n_failed
            assert len(self.files) - self.state.counts.waiting >= n_counted

    def update_error(self, fault: str) -> None:
        error = FAULTS[fault]
        was_about_times = self.state.next_request is Request.ROWS and bool(self.state.later_than)
        goes_on = self.state.update_error(error, self.clock)
        is_short = self.clock - self.last_answer < self.state.pace.outage_s
        if was_about_times and isinstance(error, RequestRefused):
            # It may be because of that: all rows are requested from now on.
            assert self.state.later_than is None
            is_short = True
        assert goes_on == (fault in PASSING and is_short)
        assert isinstance(self.state.ending, TransformGone) == (fault == "deleted")
        self.stopped = not goes_on and self.state.ending is None

    def note(self, new: list[Outcome]) -> None:
        assert not self.outcomes.keys() & {outcome.index for outcome in new}
        self.outcomes.update((outcome.index, outcome) for outcome in new)

    @precondition(lambda self: not self.is_asking)
    @rule(seconds=st.sampled_from([0.0, 5.0]))
    def wait_again(self, seconds: float) -> None:
        """Somebody waits again, or if that is of no use, takes it up in another process."""
        if self.stopped or isinstance(self.state.ending, failures.PASSING):
            self.resume(seconds)
        else:
            self.begin_again()

    def resume(self, seconds: float) -> None:
        self.clock += seconds
        self.state.resume(self.clock)
        assert self.state.ending is None
        self.last_answer = self.listed_at = self.clock
        self.stopped, self.ended_at = False, None

    @precondition(lambda self: self.outcomes)
    @rule(which=st.integers(0, 3), error=st.sampled_from([None, "Truncated"]))
    def read_one(self, which: int, error: str | None) -> None:
        """Read a partition, or fail to."""
        index = sorted(self.outcomes)[which % len(self.outcomes)]
        self.read.append(
            {
                "partition": index,
                "request_id": "d857",
                "n_events": 0 if error else 5,
                "failed_at": "read" if error else None,
                "exception": error,
                "message": error,
            }
        )

    # -- what always holds

    @invariant()
    def every_outcome_is_new_once_and_never_changes(self) -> None:
        assert self.state.results.outcomes == self.outcomes
        assert all(o.input_file == self.files.paths[i] for i, o in self.outcomes.items())

    @invariant()
    def outcomes_and_missing_are_the_files(self) -> None:
        known, missing = set(self.outcomes), set(self.state.results.missing)
        assert not known & missing
        assert known | missing == set(range(len(self.files)))

    @invariant()
    def counts_add_up_and_never_go_back(self) -> None:
        counts, best = self.state.counts, self.best
        assert min(counts.delivered, counts.failed, counts.waiting) >= 0
        assert counts.delivered + counts.failed + counts.waiting == counts.total == len(self.files)
        assert counts.waiting <= best.waiting
        # Counters may take a failure for a result; rows do not.
        if self.has_rows:
            assert counts.delivered >= best.delivered
            assert counts.failed >= best.failed
        self.best = counts

    @precondition(lambda self: self.is_asking)
    @invariant()
    def the_pause_is_what_the_pace_allows(self) -> None:
        assert 0 <= self.state.pause_s <= self.most_s

    @invariant()
    def a_final_ending_leaves_no_file_without_an_outcome(self) -> None:
        kind = type(self.state.ending)
        if kind in FINAL.values():
            assert not self.state.results.missing
            assert FINAL[str(self.state.status)] is kind
            lost = [o for o in self.outcomes.values() if isinstance(o, Failed)]
            assert any(o.kind == kind.__name__ for o in lost)

    @invariant()
    def the_report_adds_up(self) -> None:
        outcomes = [("d857", self.outcomes.get(i)) for i in range(len(self.files))]
        added = report.make_report(self.files.paths, outcomes, self.read, 1)
        assert added.n_inputs == added.n_delivered + added.n_failed + added.n_waiting
        assert added.n_inputs == len(self.files)
        assert added.n_waiting == len(self.files) - len(self.outcomes)
        assert added.n_read <= added.n_delivered

    def teardown(self) -> None:
        """Whatever has happened: polling comes to an end before long."""
        if not hasattr(self, "state"):
            return
        pace, start, n_requests = self.state.pace, self.clock + self.state.pause_s, 0
        took_s = 0.05
        round_s = took_s + self.most_s
        # The status is requested after some pauses only.
        limit_s = max(pace.stall_s, pace.settle_s, pace.outage_s)
        limit_s += (5 + ROWS_A_STATUS) * round_s + self.took_s
        while self.is_asking:
            self.ask_once(took_s)
            n_requests += 1
            assert self.clock - start <= limit_s
            assert n_requests < 10_000
        if not self.stopped:
            assert self.state.is_over
        self.every_outcome_is_new_once_and_never_changes()
        self.outcomes_and_missing_are_the_files()
        self.counts_add_up_and_never_go_back()
        self.a_final_ending_leaves_no_file_without_an_outcome()
        self.the_report_adds_up()


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)


# -- the pace


@pytest.mark.parametrize(
    ("part", "seconds"),
    [
        ("stall_s", None),
        ("deadline_s", "5"),
        ("outage_s", -1),
        ("busy_s", True),
        ("stall_s", math.nan),
        ("idle_s", math.inf),
        ("settle_s", math.inf),
    ],
)
def test_a_pace_that_would_never_end_or_is_none(part, seconds):
    with pytest.raises(BadInput, match=part):
        PollPolicy(**{part: seconds})


# -- what endings say


PACE = PollPolicy(
    busy_s=0.1, idle_s=2.0, stall_s=30.0, deadline_s=100.0, settle_s=10.0, outage_s=20.0
)
PATHS = tuple(f"/data/{letter}.root" for letter in "abcdef")
LOGS = "https://logs.org/d857"


def state_of(*paths: str, has_rows: bool = True, pace: PollPolicy = PACE) -> TransformState:
    files = InputFiles(paths or PATHS)
    results = ResultStore("d857", len(files))
    state = TransformState(results, files, pace, 0.0, lambda: 0.5, few_rows=2)
    state.update_server(has_rows)
    return state


def poll_until(state: TransformState, seconds: float, rows: Any = (), **status: Any) -> None:
    """Ask a server on which nothing changes any more, at most for some seconds."""
    now = 0.0
    while not state.is_over and now <= seconds:
        now += state.pause_s
        if state.next_request is Request.ROWS:
            state.add(state.new_outcomes(parsed(rows)), now)
        elif state.next_request is Request.STATUS:
            state.update_status(reported(**{"log_url": LOGS, **status}), now)
        else:
            state.add_final_rows(rows, now)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("Canceled", ["was canceled", "ignore_cache=True"]),
        ("Fatal", ["gave up", LOGS]),
        ("Bad Dataset", ["could not look up"]),
        ("Complete", ["is complete", "no result for every input file", "ignore_cache=True"]),
    ],
)
def test_a_final_ending_says_what_is_missing_and_what_to_do(status, says):
    state = state_of()
    poll_until(state, 30, [row(1, PATHS[0])], status=status)
    words, shown = str(state.ending), [repr(path) for path in PATHS[1:4]]
    for part in ["d857", "1 of 6", *shown, "2 more", *says]:
        assert part in words
    assert repr(PATHS[4]) not in words
    assert type(state.ending) is FINAL[status]
    facts = {"request_id": "d857", "done": 1, "total": 6, "log_url": LOGS}
    assert state.ending.facts == {**facts, "missing": list(PATHS[1:4])}
    lost = state.results.outcomes[5]
    assert lost == Failed(5, PATHS[5], f"no result: {status}", LOGS, FINAL[status].__name__)


@pytest.mark.parametrize(
    ("deadline_s", "kind", "says"),
    [
        (100.0, TransformStalled, ["Nothing happened", "for 30 s", "waits again", LOGS]),
        (20.0, DeadlineExceeded, ["not over after 20 s", "as long again"]),
    ],
)
def test_a_passing_ending_says_what_waiting_again_does(deadline_s, kind, says):
    state = state_of(pace=PollPolicy(stall_s=30.0, deadline_s=deadline_s))
    poll_until(state, 60, [row(1, PATHS[0])], status="Reticulating")
    assert type(state.ending) is kind
    for part in ["d857", "1 of 6", "'Reticulating'", repr(PATHS[1]), "cancel()", *says]:
        assert part in str(state.ending)
    assert state.results.missing == [1, 2, 3, 4, 5]


def test_a_transform_that_is_gone_says_how_far_it_was():
    state = state_of("/a.root", "/b.root")
    state.add(state.new_outcomes(parsed([row(1, "/b.root")])), 1.0)
    assert not state.update_error(TransformGone("not found", status=404), 2.0)
    assert isinstance(state.ending, TransformGone)
    for part in ["d857", "deleted", "1 of 2", "'/a.root' was not", "ignore_cache=True"]:
        assert part in str(state.ending)


def test_without_a_link_the_logs_are_those_of_the_server():
    state = state_of("/a.root")
    poll_until(state, 30, status="Fatal", log_url=None)
    assert "See the logs of the server" in str(state.ending)


def test_all_results_are_no_ending():
    state = state_of("/a.root", "/b.root")
    poll_until(state, 30, [row(2, "/b.root"), row(1, "/a.root")], status="Canceled")
    assert state.is_over
    assert state.ending is None


# -- when the last results come


def test_rows_are_listed_once_more_when_all_results_were_given_time():
    """A server that is restarted right after the end may commit its last row after that."""
    state = state_of("/a.root")
    state.update_status(reported("Complete"), 1.0)
    state.add([], 2.0)
    assert state.update_error(Unreachable("restarting"), 3.0)
    assert state.update_status(reported("Complete"), 19.0) == []
    assert state.next_request is Request.ROWS
    assert [o.index for o in state.new_outcomes(parsed([row(1, "/a.root")]))] == [0]


def test_a_complete_that_was_premature_is_forgotten():
    state = state_of("/a.root")
    state.update_status(reported("Complete"), 1.0)
    state.update_status(reported("Running"), 5.0)
    state.add([], 11.0)
    state.update_status(reported("Complete"), 12.0)
    assert not state.is_over


# -- servers without rows


def test_without_rows_nothing_is_listed_before_the_end():
    state = state_of(has_rows=False)
    for now in (1.0, 2.0):
        state.update_status(reported("Running", files_completed=2), now)
        assert state.next_request is Request.STATUS
    assert (state.counts.delivered, state.counts.waiting) == (2, 4)
    state.update_status(reported("Complete", files_completed=6), 3.0)
    assert state.next_request is Request.FINAL_ROWS


def test_an_object_may_come_later_than_the_status():
    state = state_of("/data/0.root", "/data/1.root", has_rows=False)
    state.update_status(reported("Complete", files_completed=2), 1.0)
    assert [o.index for o in state.add_final_rows([stored(1)], 2.0)] == [1]
    assert not state.is_over
    assert [o.index for o in state.add_final_rows([stored(0), stored(1)], 3.0)] == [0]
    assert state.is_over
    assert state.ending is None


def test_counts_do_not_go_back_when_an_object_comes_later():
    state = state_of("/data/0.root", "/data/1.root", has_rows=False)
    state.update_status(reported("Running", files_completed=1), 1.0)
    state.update_status(reported("Running", files_completed=2), 2.0)
    state.update_status(reported("Complete", files_completed=2), 3.0)
    assert state.counts.delivered == 2
    state.add_final_rows([stored(1)], 4.0)
    assert state.counts.delivered == 2


def test_a_failure_that_is_counted_with_the_end_is_a_failure():
    state = state_of("/data/0.root", "/data/1.root", has_rows=False)
    state.update_status(reported("Running", files_completed=1), 1.0)
    done = reported("Complete", files_completed=1, files_failed=1)
    state.update_status(done, 2.0)
    failed = state.add_final_rows([stored(1)], 3.0)[-1]
    assert failed == Failed(0, "/data/0.root", None)
    assert state.is_over
    assert state.ending is None


def test_a_bucket_that_was_listed_is_an_answer():
    state = state_of(has_rows=False, pace=PollPolicy(settle_s=100.0, outage_s=20.0))
    state.update_status(reported("Complete"), 1.0)
    state.add_final_rows([], 30.0)
    assert state.update_error(Unreachable("nobody answers"), 31.0)


def test_a_bucket_that_stays_incomplete_ends():
    state = state_of("/data/0.root", "/data/1.root", has_rows=False)
    poll_until(state, 30, [stored(1)], status="Complete")
    assert isinstance(state.ending, CountMismatch)
    assert "'/data/0.root' was not" in str(state.ending)


# -- pauses


def test_pauses_grow_with_silence_and_end_with_new_outcomes():
    state = state_of()
    pauses = []
    for now in (0.0, 5.0, 10.0, 25.0):
        state.update_status(reported("Running"), now)
        pauses.append(state.pause_s)
    # Spread by half of the tenth that is allowed; never longer than the longest pause.
    assert pauses == pytest.approx([0.105, 0.525, 1.05, 2.0])
    state.add(state.new_outcomes(parsed([row(1, PATHS[0])])), 26.0)
    assert state.pause_s == pytest.approx(0.105)


@pytest.mark.parametrize("took_s", [5.0, 15.0, 60.0])
def test_one_slow_response_does_not_lengthen_pauses_for_good(took_s):
    state = state_of()
    state.update_status(reported("Running"), 100.0, took_s)
    assert state.pause_s == PACE.idle_s
    state.add(state.new_outcomes(parsed([row(1, PATHS[0])])), 200.0, took_s)
    assert state.pause_s == PACE.idle_s


def test_a_slow_server_is_polled_no_more_than_half_of_the_time():
    state = state_of()
    state.add(state.new_outcomes(parsed([row(1, PATHS[0])])), 100.0, 1.0)
    assert state.pause_s >= 1.0


# -- the limits of waiting


def test_limits_are_looked_at_without_an_answer():
    state = state_of(pace=PollPolicy(stall_s=5.0, deadline_s=8.0))
    state.check_limits(5.0)
    assert state.ending is None
    state.check_limits(5.1)
    assert isinstance(state.ending, TransformStalled)
    state.resume(6.0)
    state.add(state.new_outcomes(parsed([row(1, PATHS[0])])), 10.0)
    state.check_limits(14.1)
    assert isinstance(state.ending, DeadlineExceeded)


def test_a_server_that_is_away_is_no_stall():
    state = state_of(pace=PollPolicy(stall_s=1.0, outage_s=30.0))
    assert state.update_error(FAULTS["silent"], 0.5)
    state.check_limits(20.0)
    assert state.ending is None
    assert state.silent_at == 30.0
    state.add(state.new_outcomes(parsed([row(1, PATHS[0])])), 21.0)
    state.check_limits(22.1)
    assert isinstance(state.ending, TransformStalled)


def test_a_transform_that_is_over_has_no_limit():
    state = state_of("/a.root", pace=PollPolicy(deadline_s=1.0))
    state.add(state.new_outcomes(parsed([row(1, "/a.root")])), 0.5)
    assert state.limit_at == math.inf
    state.check_limits(5.0)
    assert state.ending is None


def test_a_transform_that_has_ended_may_owe_rows_for_longer_than_a_stall():
    state = state_of("/a.root", pace=PollPolicy(stall_s=1.0, settle_s=10.0))
    state.update_status(reported("Complete"), 0.5)
    state.check_limits(5.0)
    assert state.ending is None


# -- requests for the status


def test_the_status_is_requested_now_and_then_while_nothing_comes():
    state, requests = state_of(), []
    for i in range(1, 15):
        requests.append(state.next_request)
        if state.next_request is Request.ROWS:
            state.add([], 0.1 * i)
        else:
            state.update_status(reported("Running"), 0.1 * i)
    assert set(requests) == {Request.ROWS, Request.STATUS}
    assert requests.count(Request.STATUS) <= len(requests) / ROWS_A_STATUS


def test_the_status_is_not_requested_while_rows_come():
    state = state_of()
    for i in range(5):
        state.add(state.new_outcomes(parsed([row(i + 1, PATHS[i])])), 10.0 * (i + 1))
        assert state.next_request is Request.ROWS


# -- requests for rows


def since(seconds: float) -> datetime:
    return datetime.fromisoformat(f"{at(seconds)}+00:00")


def test_of_many_rows_only_the_latest_are_requested():
    state = state_of()
    assert state.later_than is None
    state.add(state.new_outcomes(parsed([{**row(1, PATHS[0]), "created_at": at(100)}])), 1.0)
    assert state.later_than is None  # as few as that cost nothing
    state.add(state.new_outcomes(parsed([{**row(2, PATHS[1]), "created_at": at(200)}])), 2.0)
    assert state.later_than == since(200 - OVERLAP_S)
    state.add(state.new_outcomes(parsed([{**row(3, PATHS[2]), "created_at": at(170)}])), 3.0)
    assert state.later_than == since(200 - OVERLAP_S)


def test_rows_that_appear_late_are_looked_for_now_and_then():
    state = state_of()
    rows = [{**row(n, PATHS[n]), "created_at": at(100)} for n in range(2)]
    state.add(state.new_outcomes(parsed(rows)), 1.0)
    n_long = 0
    for i in range(100):
        assert state.later_than in (since(100 - OVERLAP_S), since(100 - LONG_OVERLAP_S))
        n_long += state.later_than == since(100 - LONG_OVERLAP_S)
        state.add(state.new_outcomes(parsed(rows)), 2.0 + i)
        if state.next_request is Request.STATUS:
            state.update_status(reported("Running"), 2.0 + i)
    assert n_long == 100 // LONG_EVERY_S


def test_all_rows_are_requested_when_the_server_counts_more_than_it_lists():
    state = state_of()
    state.add(state.new_outcomes(parsed([row(1, PATHS[0]), row(2, PATHS[1])])), 1.0)
    state.update_status(reported("Running", files_completed=3), 2.0)
    assert state.later_than is not None  # it may count it before it lists it
    state.update_status(reported("Running", files_completed=3), 1.0 + LONG_OVERLAP_S)
    assert state.later_than is None
    state.add(state.new_outcomes(parsed([row(3, PATHS[2])])), 62.0)
    assert state.later_than is not None


def test_all_rows_are_requested_before_it_ends():
    state = state_of()
    state.add(state.new_outcomes(parsed([row(1, PATHS[0]), row(2, PATHS[1])])), 1.0)
    assert state.later_than is not None
    state.update_status(reported("Complete"), 2.0)
    assert state.next_request is Request.ROWS
    assert state.later_than is None


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_server_that_does_not_read_times_is_requested_all(status):
    state = state_of()
    state.add(state.new_outcomes(parsed([row(1, PATHS[0]), row(2, PATHS[1])])), 1.0)
    assert state.later_than is not None
    assert state.update_error(RequestRefused("not a time", status=status), 100.0)
    assert state.later_than is None
    state.add(state.new_outcomes(parsed([row(3, PATHS[2])])), 101.0)
    assert state.later_than is None
    assert not state.update_error(RequestRefused("no", status=status), 200.0)


@pytest.mark.parametrize("made", [None, "", "yesterday", 5])
def test_rows_without_a_time(made):
    state = state_of()
    rows = [{**row(n, PATHS[n]), "created_at": made} for n in range(3)]
    state.add(state.new_outcomes(parsed(rows)), 1.0)
    assert len(state.results.outcomes) == 3
    assert state.later_than is None


@pytest.mark.parametrize("zone", ["", "Z", "+00:00"])
def test_times_are_those_of_utc(zone):
    state = state_of()
    rows = [{**row(n, PATHS[n]), "created_at": f"{at(100)}{zone}"} for n in range(2)]
    state.add(state.new_outcomes(parsed(rows)), 1.0)
    assert state.later_than == datetime.fromisoformat(f"{at(100 - OVERLAP_S)}+00:00")


def test_a_rest_is_no_part_of_the_waiting():
    state = state_of()
    state.add(state.new_outcomes(parsed([row(1, PATHS[0]), row(2, PATHS[1])])), 60.0)
    state.resume(1000.0)
    state.update_status(reported("Running"), 1030.0)
    state.add(state.new_outcomes(parsed([row(3, PATHS[2])])), 1030.0)
    assert state.ending is None
    state.update_status(reported("Running"), 1041.0)
    assert isinstance(state.ending, DeadlineExceeded)
    state.resume(1041.0)
    state.update_status(reported("Running"), 1042.0)
    assert state.ending is None


def test_a_short_rest_does_not_mean_a_request_for_all_rows():
    state = state_of()
    state.add(state.new_outcomes(parsed([row(1, PATHS[0]), row(2, PATHS[1])])), 1.0)
    state.resume(3.0)
    assert state.next_request is Request.ROWS
    assert state.later_than is not None
