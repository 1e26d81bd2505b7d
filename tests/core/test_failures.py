"""The failure policy of a stage: another try, smaller pieces, a rejected row, the end of the job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.failures import SAMPLES_MIN, Budget, StageFailures, Trial

TINY = Budget(share=0.001, min_rows=1000)


@pytest.mark.parametrize(
    ("rows", "tries", "is_whole", "can_move", "again"),
    [
        (1024, 1, True, True, True),
        (1024, 2, True, True, False),
        (1024, 1, True, False, False),
        (512, 1, False, True, False),
        (1, 1, False, True, True),
        (1, 2, False, True, False),
        (1, 1, False, False, False),
        (1, 1, True, True, True),
        (1, 2, True, True, False),
    ],
)
def test_batches_and_single_rows_are_tried_on_a_second_predictor(
    rows: int, tries: int, is_whole: bool, can_move: bool, again: bool
) -> None:
    assert StageFailures(Budget()).tries_again(rows, tries, is_whole=is_whole, can_move=can_move) is again


@given(rows=st.integers(2, 5000), is_proven=st.booleans(), has_failed=st.booleans())
def test_parts_tile_a_piece_and_each_is_smaller(rows: int, is_proven: bool, has_failed: bool) -> None:
    failures = StageFailures(Budget())
    if is_proven:
        failures.came_through()
    parts = failures.cuts(rows)
    assert [low for low, _ in parts] == [0, *(high for _, high in parts[:-1])]
    assert parts[-1][1] == rows
    assert all(0 < high - low < rows for low, high in parts)
    assert is_proven or any(high - low == 1 for low, high in parts)


def fail(failures: StageFailures, *, batches: int, samples: int, rows: int = 1024) -> int | None:
    """Fails whole batches, then single rows; how many of these it took to give the model up."""
    for _ in range(batches):
        failures.tries_again(rows, 2, is_whole=True, can_move=True)
    for number in range(1, samples + 1):
        failures.tries_again(1, 2, is_whole=False, can_move=True)
        if failures.give_up():
            return number
    return None


@pytest.mark.parametrize(
    ("budget", "batches", "samples"),
    [
        (TINY, 3, SAMPLES_MIN),
        (Budget(share=0.0), 1, SAMPLES_MIN),
        (Budget(rows=0), 1, SAMPLES_MIN),
        (Budget(share=0.09), 3, 6),
        (Budget(share=0.5), 3, 20),
        (Budget(rows=100), 1, 6),
        (TINY, 0, 20),  # too few rows for the share to count
        (Budget(share=0.9, min_rows=1000), 3, 132),
        (Budget(share=1.0), 100, None),
        (Budget(), 100, None),
        (Budget(rows=5000), 3, None),
    ],
)
def test_a_model_is_given_up_when_bad_rows_within_the_budget_hardly_explain_it(
    budget: Budget, batches: int, samples: int | None
) -> None:
    assert fail(StageFailures(budget), batches=batches, samples=500) == samples


def test_one_result_proves_that_a_model_works() -> None:
    failures = StageFailures(TINY)
    assert fail(failures, batches=3, samples=2) is None
    failures.came_through()
    assert not failures.is_suspect
    assert fail(failures, batches=100, samples=1000) is None


def test_a_model_is_given_up_once() -> None:
    failures = StageFailures(TINY)
    assert fail(failures, batches=3, samples=3) == 3
    assert fail(failures, batches=3, samples=3) is None


def test_a_suspect_stage_gets_single_rows_then_three_batches_then_the_largest_parts() -> None:
    failures = StageFailures(TINY)
    waiting = [(1024, True), (1, False), (255, False), (511, False)]

    def order() -> list[int]:
        return [rows for rows, whole in sorted(waiting, key=lambda item: failures.rank(item[0], is_whole=item[1]))]

    assert order() == [1, 1024, 511, 255]
    fail(failures, batches=3, samples=0)
    assert order() == [1, 511, 255, 1024]


def test_a_trial_is_over_when_every_part_came_through() -> None:
    trial = Trial("a", "output y has 1 rows", parts=3)
    assert [trial.part_passed() for _ in range(3)] == [False, False, True]
