"""Deadlines of batches in virtual time: from history, with a floor and a first allowance, moved by our own sleep."""

import pytest

from sidecar.core.deadlines import (
    FACTOR,
    FIRST_ALLOWANCE_S,
    FLOOR_S,
    LATE_MARGIN_S,
    SEARCH_FLOOR_S,
    BatchDeadline,
    late_s,
)
from sidecar.core.starts import BACKOFF_MAX_S, BACKOFF_S, TRIES, Starts


def run(deadline: BatchDeadline, predictor: int, now: float, *seconds: float) -> float:
    """One batch after another, each of so many seconds; the time then."""
    for took_s in seconds:
        deadline.began(predictor, now)
        now += took_s
        deadline.answered(predictor, now)
    return now


def decides(predictor: int) -> bool:
    """No predictor has a batch that only says where to cut."""
    return False


def test_before_any_result_there_is_an_allowance() -> None:
    deadline = BatchDeadline(None)
    deadline.began(0, 100.0)
    assert deadline.overdue(100.0 + FIRST_ALLOWANCE_S, decides) == []
    assert deadline.overdue(100.1 + FIRST_ALLOWANCE_S, decides) == [(0, FIRST_ALLOWANCE_S)]


def test_fast_batches_leave_the_floor() -> None:
    deadline = BatchDeadline(None)
    now = run(deadline, 0, 0.0, 0.01, 0.02)
    deadline.began(0, now)
    assert deadline.overdue(now + FLOOR_S, decides) == []
    assert deadline.overdue(now + FLOOR_S + 0.1, decides) == [(0, FLOOR_S)]


def test_a_try_that_only_says_where_to_cut_is_ended_sooner() -> None:
    deadline = BatchDeadline(None)
    now = run(deadline, 0, 0.0, 0.01, 0.02)
    run(deadline, 1, 0.0, 0.01, 0.02)
    for predictor in range(2):
        deadline.began(predictor, now)
    assert deadline.overdue(now + SEARCH_FLOOR_S + 0.1, lambda predictor: predictor == 1) == [(1, SEARCH_FLOOR_S)]
    run(deadline, 1, now, 3.0)
    assert deadline.allowed_s(1, is_search=True) == FACTOR * 3.0, "slow batches have their multiple all the same"


def test_slow_batches_allow_a_multiple_of_the_longest() -> None:
    deadline = BatchDeadline(None)
    run(deadline, 0, 0.0, 3.0, 10.0, 4.0)
    assert deadline.allowed_s(0) == FACTOR * 10.0


def test_first_batches_are_compared_with_first_batches() -> None:
    deadline = BatchDeadline(None)
    run(deadline, 0, 0.0, 90.0, 0.1)
    assert deadline.allowed_s(0) == FLOOR_S, "warm: what its first batch took says nothing"
    assert deadline.allowed_s(1) == FACTOR * 90.0, "new: it compiles as the first one did"
    deadline.ended(0)
    assert deadline.allowed_s(0) == FACTOR * 90.0


def test_a_first_batch_stands_for_the_second_while_that_is_all_there_is() -> None:
    deadline = BatchDeadline(None)
    run(deadline, 0, 0.0, 5.0)
    assert deadline.allowed_s(0) == FACTOR * 5.0


@pytest.mark.parametrize("history", [(), (0.1,), (100.0, 100.0)])
def test_a_timeout_of_the_job_overrides_everything(history: tuple[float, ...]) -> None:
    deadline = BatchDeadline(2.0)
    now = run(deadline, 0, 0.0, *history)
    deadline.began(0, now)
    assert deadline.overdue(now + 2.0, decides) == []
    assert deadline.overdue(now + 2.1, decides) == [(0, 2.0)]


def test_waiting_for_space_and_having_ended_are_no_hanging() -> None:
    deadline = BatchDeadline(1.0)
    for predictor in range(3):
        deadline.began(predictor, 0.0)
    deadline.paused(0)
    deadline.ended(1)
    assert deadline.overdue(1000.0, decides) == [(2, 1.0)]


def test_a_late_turn_moves_every_deadline_by_its_delay() -> None:
    """A machine that sleeps for an hour hangs no predictor; one that hangs before it is found after it."""
    deadline = BatchDeadline(10.0)
    now, ended = 0.0, []
    deadline.began(0, now)
    for slept_s in (1.0, 1.2, 3600.0, *[1.0] * 20):
        now += slept_s
        deadline.move(late_s(slept_s, 1.0))
        ended += [now for _ in deadline.overdue(now, decides)][:1]
    assert ended[0] == pytest.approx(1.0 + 1.2 + 3600.0 + 7.0)


def test_a_turn_that_is_late_by_load_moves_nothing() -> None:
    assert late_s(1.0 + LATE_MARGIN_S, 1.0) == 0.0
    assert late_s(1.1 + LATE_MARGIN_S, 1.0) == pytest.approx(LATE_MARGIN_S + 0.1)


def test_starts_back_off_and_are_given_up() -> None:
    starts = Starts(wanted=1)
    delays = [starts.failed(ready=0, random=0.0) for _ in range(TRIES)]
    assert delays == [BACKOFF_S / 2, BACKOFF_S, None]


def test_each_of_many_predictors_has_its_tries() -> None:
    starts = Starts(wanted=4)
    assert sum(starts.failed(ready=0, random=0.5) is not None for _ in range(100)) == 4 * (TRIES - 1)
    starts.worked()
    assert starts.failed(ready=0, random=1.0) == BACKOFF_S


def test_a_stage_that_works_elsewhere_is_not_given_up() -> None:
    starts = Starts(wanted=2)
    delays = [starts.failed(ready=1, random=0.0) for _ in range(1000)]
    assert None not in delays
    assert delays[-1] == BACKOFF_MAX_S / 2
