"""When a request is tried again: in virtual time."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.datasets.remote import PATIENCE
from headrace.errors import InputChanged, SourceUnavailable
from headrace.httpfile import HttpFiles, Pacing, PlainUrls
from headrace.retries import RETRY_COST, Patience, RetryBudget


@dataclass
class Clock:
    """Time that passes only when somebody sleeps."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def pacing(self, patience: Patience, draw: float = 0.5) -> Pacing:
        return Pacing(patience, now=lambda: self.now, sleep=self.sleep, draw=lambda: draw)


NOWHERE = "http://127.0.0.1:9/x.csv"
"""The port of the discard service, where nobody listens."""


@given(failures=st.integers(1, 50), elapsed=st.floats(0, 100), draw=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_drawn_below_a_top_that_doubles(failures: int, elapsed: float, draw: float) -> None:
    patience = Patience(tries=10, first_s=0.2, max_s=5.0, budget_s=60.0)
    wait = patience.wait(failures, elapsed, draw)
    top = min(5.0, 0.2 * 2 ** (failures - 1))
    if failures >= 10 or elapsed + draw * top > 60.0:
        assert wait is None
    else:
        assert wait == pytest.approx(draw * top)


def test_a_server_that_names_a_wait_gets_it_unless_the_budget_ends_before() -> None:
    patience = Patience(budget_s=60.0)
    assert patience.wait(1, 0.0, 0.0, asked_s=7.0) == 7.0
    assert patience.wait(1, 55.0, 0.0, asked_s=7.0) is None


def test_a_dead_server_is_tried_a_few_times_and_then_given_up() -> None:
    clock = Clock()
    files = HttpFiles(PlainUrls(), clock.pacing(Patience(tries=4, first_s=1.0, max_s=100.0)), RetryBudget())
    with pytest.raises(SourceUnavailable, match=r"http://127.0.0.1:9 can't be read: .*\(after 4 tries for http"):
        files.stat(NOWHERE)
    assert clock.slept == [1.0, 2.0]  # the first try may have met a connection that was closed meanwhile


def test_no_more_time_is_spent_than_the_budget() -> None:
    clock = Clock()
    files = HttpFiles(PlainUrls(), clock.pacing(Patience(tries=1000, max_s=5.0, budget_s=60.0), 0.99), RetryBudget())
    with pytest.raises(SourceUnavailable):
        files.stat(NOWHERE)
    assert 50.0 < clock.now <= 60.0


def test_when_every_request_fails_there_are_soon_no_retries_left() -> None:
    clock = Clock()
    files = HttpFiles(PlainUrls(), clock.pacing(Patience(tries=6)), RetryBudget(tokens=10 * RETRY_COST))
    for _ in range(20):
        with pytest.raises(SourceUnavailable):
            files.stat(NOWHERE)
    assert len(clock.slept) <= 10


def test_answers_earn_retries() -> None:
    budget = RetryBudget(tokens=RETRY_COST)
    assert budget.take()
    assert not budget.take()
    for _ in range(int(RETRY_COST) - 1):
        budget.answered(0)
    assert not budget.take()
    budget.answered(0)
    assert budget.take()
    budget.answered(2)  # a retry that helped gives its cost back
    assert budget.take()


def test_nothing_is_asked_of_an_empty_range() -> None:
    files = HttpFiles(PlainUrls(), Clock().pacing(Patience()), RetryBudget())
    assert files.range(NOWHERE, 5, 5, size=10, version="") == b""
    with pytest.raises((SourceUnavailable, InputChanged)):
        files.range(NOWHERE, 5, 6, size=10, version="")


def test_planning_waits_for_a_store_that_is_away_for_some_seconds() -> None:
    waits = [PATIENCE.wait(failures, 0.0, 0.5) for failures in range(1, PATIENCE.tries)]
    assert sum(wait or 0.0 for wait in waits) > 8.0
