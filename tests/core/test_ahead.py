"""How many batches are admitted ahead of the predictors."""

import pytest

from sidecar.core.ahead import AHEAD_S, Ahead

MOST = 40


def test_few_batches_are_ahead_until_every_stage_has_given_a_result() -> None:
    ahead = Ahead({"a": 1, "b": 2}, MOST)
    few = ahead.batches
    assert 2 * 3 < few < MOST
    ahead.done("a", 0.001)
    assert ahead.batches == few
    ahead.done("b", 0.001)
    assert ahead.batches == MOST


@pytest.mark.parametrize(("seconds", "predictors"), [(0.2, 1), (0.4, 2), (0.1, 1)])
def test_what_is_ahead_takes_about_as_long_as_it_may(seconds: float, predictors: int) -> None:
    ahead = Ahead({"a": predictors}, MOST)
    ahead.done("a", seconds)
    assert ahead.batches * seconds / predictors == pytest.approx(AHEAD_S, abs=seconds)


def test_slow_predictors_still_have_a_batch_each_to_go_on_with() -> None:
    ahead = Ahead({"a": 3}, MOST)
    ahead.done("a", 1000.0)
    assert 2 * 3 < ahead.batches <= 2 * 3 + 2


def test_a_stage_that_becomes_quick_has_more_ahead() -> None:
    ahead = Ahead({"a": 1}, MOST)
    for _ in range(50):
        ahead.done("a", 5.0)
    slow = ahead.batches
    for _ in range(50):
        ahead.done("a", 0.001)
    assert slow < ahead.batches == MOST


def test_the_arena_s_limit_stays() -> None:
    ahead = Ahead({"a": 4}, 3)
    assert ahead.batches == 3
    ahead.done("a", 0.0)
    assert ahead.batches == 3
