"""The pipeline core when stages fail: exactly the guilty rows are found, and a model that can't work is given up."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.words import SOURCE
from sidecar.core.batches import StageWiring
from sidecar.core.failures import DOUBT_AFTER, Budget
from tests.core.pipeline_world import World, chain, drive

TINY = Budget(share=0.001, min_rows=1000)


def world(**more: object) -> World:
    return World(chain("a", "b"), size=8 << 20, soft=4 << 20, **more)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    predictors=st.integers(2, 3),
    poison=st.frozensets(st.integers(0, 199), max_size=10),
    batch_rows=st.integers(1, 64),
)
def test_a_broken_predictor_rejects_no_row_that_another_can_predict(
    seed: int, predictors: int, poison: frozenset[int], batch_rows: int
) -> None:
    broken = world(predictors=predictors, poison=poison)
    broken.broken = frozenset([broken.next_predictor])  # the last of stage b
    drive(broken, 200, batch_rows, Random(seed))
    assert set(broken.blamed) == poison
    assert sorted(broken.out) == sorted(set(range(200)) - poison)
    assert broken.space.used == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), predictors=st.integers(1, 3), batch_rows=st.integers(100, 1024))
def test_a_model_that_fails_on_everything_is_given_up_after_a_few_tries(
    seed: int, predictors: int, batch_rows: int
) -> None:
    hopeless = world(predictors=predictors, budget=TINY, poison=frozenset(range(20_000)))
    for first in range(0, 10 * batch_rows, batch_rows):
        assert hopeless.admit(first, batch_rows)
    random = Random(seed)
    while not hopeless.told and hopeless.step(random):
        pass
    (told,) = hopeless.told
    assert (told.blame.stage, told.blame.kind, told.blame.message) == ("b", "ValueError", "poison")
    assert not told.is_certain
    assert hopeless.executed < 10 + 40 + 100  # the first stage's batches, three of the second and samples of them


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    predictors=st.integers(1, 3),
    rows=st.integers(1, 300),
    bad=st.floats(0, 0.6),
    kind=st.sampled_from(["raise", "die"]),
)
def test_a_model_is_not_given_up_while_there_are_good_rows_among_few(
    seed: int, predictors: int, rows: int, bad: float, kind: str
) -> None:
    random = Random(seed)
    guilty = frozenset(i for i in range(rows) if random.random() < bad)
    mixed = world(predictors=predictors, budget=TINY, **{"poison" if kind == "raise" else "killers": guilty})
    drive(mixed, rows, 64, random)
    if guilty != frozenset(range(rows)):
        assert mixed.told == []
    assert set(mixed.blamed) == guilty


def test_bad_batches_before_good_ones_are_rejected_row_by_row() -> None:
    """As many as the budget allows: the good batches are tried before the bad ones are gone through."""
    bad = frozenset(range(2048))
    mixed = world(predictors=1, budget=Budget(rows=2048), poison=bad)
    drive(mixed, 10_240, 1024, Random(1))
    assert mixed.told == []
    assert set(mixed.blamed) == bad


def test_one_bad_row_in_every_batch_costs_a_few_tries_each() -> None:
    bad = frozenset(range(7, 10_240, 1024))
    mixed = world(predictors=2, budget=Budget(share=0.01), poison=bad)
    drive(mixed, 10_240, 1024, Random(1))
    assert mixed.told == []
    assert set(mixed.blamed) == bad
    # Ten batches of stage a; of b two tries each for batch and row, ten cuts with two pieces.
    assert mixed.executed <= 10 + 10 * (2 + 2 + 2 * 10)


def aggregates(values: range) -> bool:
    return len(values) > 1


@pytest.mark.parametrize("predictors", [1, 2])
@pytest.mark.parametrize("rows", [2, 3, 100, 1024])
def test_a_stage_that_aggregates_a_batch_is_not_run_row_by_row(rows: int, predictors: int) -> None:
    aggregating = world(predictors=predictors, wrong_rows=aggregates)
    assert aggregating.admit(0, rows)
    random = Random(0)
    while not aggregating.told and aggregating.step(random):
        pass
    (told,) = aggregating.told
    assert (told.blame.kind, told.blame.message) == ("WrongRows", "output y has 1 rows")
    assert "for each part of a batch, but not for the batch" in told.why
    assert told.is_certain
    assert aggregating.finished == [], "no row goes on before that is known"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), dropped=st.frozensets(st.integers(0, 99), max_size=20))
def test_rows_that_a_stage_drops_are_rejected_and_the_others_are_not(seed: int, dropped: frozenset[int]) -> None:
    dropping = world(wrong_rows=lambda values: not dropped.isdisjoint(values))
    drive(dropping, 100, 32, Random(seed))
    assert dropping.told == []
    assert {row: blame.kind for row, blame in dropping.blamed.items()} == dict.fromkeys(dropped, "WrongRows")
    assert sorted(dropping.out) == sorted(set(range(100)) - dropped)


@pytest.mark.parametrize(("predictors", "again"), [(1, [False]), (2, [True, False])])
def test_a_row_that_fails_alone_is_tried_again_where_another_predictor_can_try(
    predictors: int, again: list[bool]
) -> None:
    alone = World(chain("b"), size=8 << 20, soft=4 << 20, predictors=predictors, poison=frozenset([0]))
    assert alone.admit(0, 1)
    seen = []
    while not alone.finished:
        ((key, (send,)),) = [(key, held) for key, held in alone.held.items() if held]
        alone.execute(*key)
        seen.append(alone.pipeline.is_tried_again(send.piece, send.rows))
    assert seen == again


@pytest.mark.parametrize("predictors", [1, 2])
def test_of_a_row_that_hangs_two_tries_are_waited_for_and_the_others_only_say_where_to_cut(predictors: int) -> None:
    hanging = World(chain("a"), size=8 << 20, soft=4 << 20, predictors=predictors, killers=frozenset([700]))
    assert hanging.admit(0, 1024)
    waited, searched = [], 0
    while not hanging.finished:
        key = next(key for key, held in hanging.held.items() if held)
        is_search = hanging.pipeline.is_searching(*key)
        send, known = hanging.held[key][0], set(hanging.held)
        hanging.execute(*key)
        if key in known - set(hanging.held):
            searched += is_search
            waited += [] if is_search else [send.rows]
    hanging.collect(hanging.finished[0])
    assert set(hanging.blamed) == {700}
    assert waited == [1024, 1]
    assert searched == 11, "the batch's second try, its nine smaller parts, the row's first try"


def test_a_batch_of_one_row_is_waited_for_twice() -> None:
    hanging = World(chain("a"), size=8 << 20, soft=4 << 20, killers=frozenset([0]))
    assert hanging.admit(0, 1)
    while not hanging.finished:
        key = next(key for key, held in hanging.held.items() if held)
        assert not hanging.pipeline.is_searching(*key)
        hanging.execute(*key)


def test_a_predictor_that_was_told_to_end_gets_no_more_pieces() -> None:
    two = world(predictors=2)
    ((_, ending), *_) = [key for key in two.held if key[0] == "a"]
    two.pipeline.predictor_ending("a", ending)
    for first in (0, 10, 20):
        assert two.admit(first, 10)
    assert two.held["a", ending] == []
    drive(two, 0, 1, Random(0))
    assert sorted(two.out) == list(range(30))


def test_stages_side_by_side_are_judged_apart() -> None:
    """Both read the source; one aggregates. What the other gives for the parts says nothing of it."""
    stages = [StageWiring(name, (("x", ((SOURCE, "y"),)),)) for name in ("fine", "whole")]
    both = World(stages, size=8 << 20, soft=4 << 20, wrong_rows=aggregates)
    assert both.admit(0, 64)
    random = Random(5)
    while not both.told and both.step(random):
        pass
    assert [(told.blame.stage, told.is_certain) for told in both.told] == [("whole", True)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    breaks_at=st.integers(64, 899),
    poison=st.frozensets(st.integers(0, 999), max_size=5),
    batch_rows=st.integers(16, 256),
)
def test_the_only_predictor_that_breaks_is_replaced_and_costs_few_rows(
    seed: int, breaks_at: int, poison: frozenset[int], batch_rows: int
) -> None:
    alone = world(predictors=1, breaks_at=breaks_at, poison=poison)
    drive(alone, 64, 8, Random(seed))  # it works at first
    alone.out.clear()
    innocent = set(range(1000)) - poison
    drive(alone, 1000, batch_rows, Random(seed))
    # A few rows may have failed before a run of failures was long enough to be noticed.
    assert len(set(alone.blamed) & innocent) <= DOUBT_AFTER
    assert poison <= set(alone.blamed)
    assert sorted([*alone.out, *set(alone.blamed)]) == list(range(1000))


def test_a_predictor_that_rightly_fails_on_everything_is_replaced_seldom() -> None:
    bad = frozenset(range(64, 4000))
    alone = world(predictors=1, poison=bad)
    drive(alone, 4000, 64, Random(1))
    assert set(alone.blamed) == bad
    assert 1 <= alone.replaced <= 10
