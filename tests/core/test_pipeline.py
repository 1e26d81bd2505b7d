"""The pipeline core against a simulated world: random graphs, failing rows, dying predictors, a tight arena."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.words import SOURCE
from sidecar.core.batches import Blame, StageWiring
from sidecar.core.pipeline import Admission, TooLarge
from tests.core.pipeline_world import SHARD, World, chain, drive, tensor


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    stages=st.integers(1, 4),
    rows=st.integers(1, 200),
    batch_rows=st.integers(1, 40),
    poison=st.frozensets(st.integers(0, 199), max_size=8),
    killers=st.frozensets(st.integers(0, 199), max_size=4),
)
def test_every_row_comes_out_once_or_is_blamed(
    seed: int, stages: int, rows: int, batch_rows: int, poison: frozenset[int], killers: frozenset[int]
) -> None:
    world = World(chain(*"abcd"[:stages]), size=1 << 20, soft=1 << 19, poison=poison, killers=killers)
    drive(world, rows, batch_rows, Random(seed))
    guilty = {row for row in poison | killers if row < rows}
    assert set(world.blamed) == guilty
    assert sorted(world.out) == sorted(set(range(rows)) - guilty)
    assert world.space.used == 0


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    stages=st.integers(1, 4),
    rows=st.integers(1, 120),
    row_bytes=st.sampled_from([600, 2000, 9000]),
)
def test_outputs_far_larger_than_expected_never_deadlock_a_small_arena(
    seed: int, stages: int, rows: int, row_bytes: int
) -> None:
    world = World(chain(*"abcd"[:stages]), size=96 << 10, soft=64 << 10, row_bytes=row_bytes)
    drive(world, rows, 16, Random(seed))
    too_large = {row for row, blame in world.blamed.items() if blame.kind == "TooLarge"}
    assert sorted([*world.out, *too_large]) == list(range(rows))
    assert too_large == set(), "every row fits the arena alone"
    assert world.space.used == 0


def test_a_row_whose_result_exceeds_the_arena_is_rejected_alone() -> None:
    world = World(chain("a"), size=32 << 10, soft=16 << 10, row_bytes=40 << 10)
    drive(world, 3, 3, Random(1))
    assert {row: blame.kind for row, blame in world.blamed.items()} == {0: "TooLarge", 1: "TooLarge", 2: "TooLarge"}
    assert world.out == []
    assert world.space.used == 0


def test_a_stage_that_reads_two_others_waits_for_both() -> None:
    join = StageWiring("join", (("left", (("a", "y"),)), ("right", (("b", "y"), (SOURCE, "y")))))
    world = World([*chain("a"), StageWiring("b", (("x", ((SOURCE, "y"),)),)), join], size=1 << 20, soft=1 << 20)
    drive(world, 50, 7, Random(3))
    assert sorted(world.out) == list(range(50))
    assert world.space.used == 0


def test_a_cancelled_lease_frees_everything_once_its_predictors_answer() -> None:
    world = World(chain("a", "b"), size=1 << 20, soft=1 << 20)
    for first in range(0, 60, 10):
        assert world.admit(first, 10)
    world.run(world.pipeline.cancel(SHARD))
    while world.step(Random(0)):
        pass
    assert world.pipeline.live == 0
    assert world.space.used == 0
    assert world.out == []


def test_a_withdrawn_admission_leaves_no_trace() -> None:
    world = World(chain("a"), size=1 << 20, soft=1 << 20)
    admission = world.pipeline.admit(SHARD, 10, 80)
    assert isinstance(admission, Admission)
    world.pipeline.withdraw(admission)
    assert (world.pipeline.live, world.space.used) == (0, 0)


def test_a_batch_larger_than_the_arena_is_too_large() -> None:
    world = World(chain("a"), size=64 << 10, soft=64 << 10)
    assert isinstance(world.pipeline.admit(SHARD, 100_000, 800_000), TooLarge)
    assert world.space.used == 0


def test_pieces_that_a_dead_predictor_had_not_begun_are_not_suspect() -> None:
    world = World(chain("a"), size=1 << 20, soft=1 << 20, predictors=1)
    for first in (0, 10):
        world.admit(first, 10)
    ((stage, predictor),) = list(world.held)
    for _ in range(2):
        executing, waiting = (send.piece for send in world.held.pop((stage, predictor)))
        tries = dict(world.pipeline._flights[waiting].piece.failed)
        world.run(world.pipeline.predictor_ended(stage, predictor, "PredictorDied", "signal 9"))
        assert world.pipeline._flights[waiting].piece.failed == tries
        world.start_predictor(stage)
        predictor = world.next_predictor
        if executing not in world.pipeline._flights:
            break
    drive(world, 0, 1, Random(0))
    assert sorted([*world.out, *world.blamed]) == list(range(20))


@pytest.mark.parametrize("rows", [1, 2, 3, 64])
def test_rows_that_a_stage_blames_itself_are_left_to_the_sink(rows: int) -> None:
    world = World(chain("a"), size=1 << 20, soft=1 << 20, predictors=1)
    world.admit(0, rows)
    ((stage, predictor),) = list(world.held)
    send = world.held[stage, predictor].pop(0)
    blame = Blame("a", "RowError", "odd")
    world.run(world.pipeline.done(stage, predictor, send.piece, {"y": tensor(send.offset, rows)}, {rows - 1: blame}))
    (batch,) = world.finished
    assert batch.blamed == {rows - 1: blame}
    world.run(world.pipeline.written(batch))
    assert world.space.used == 0


def test_rows_that_are_a_wish_shrink_until_every_predictor_has_its_credits() -> None:
    world = World(chain("a"), size=1 << 20, soft=64 << 10)
    wished = world.pipeline.fit_rows(1024, 1000, predictors=2, is_wish=True)
    assert 1 < wished < 1024
    assert all(world.admit(first, wished) for first in range(0, 4 * wished, wished))
    assert world.pipeline.fit_rows(8, 10, predictors=2, is_wish=True) == 8
    assert world.pipeline.fit_rows(1024, 1e9, predictors=2, is_wish=True) == 1


def test_rows_that_the_job_insists_on_get_more_of_the_arena_instead() -> None:
    world = World(chain("a"), size=8 << 20, soft=64 << 10)
    assert world.pipeline.fit_rows(1024, 8, predictors=2, is_wish=False) == 1024
    assert all(world.admit(first, 1024) for first in range(0, 4096, 1024))
