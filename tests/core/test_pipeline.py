"""The pipeline core against a simulated world: random graphs, failing rows, dying predictors, a tight arena."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.local.columns import TENSOR, Column
from headrace.words import SOURCE
from sidecar.core.batches import Action, Batch, Blame, FeedAgain, Finished, GiveSpace, Send, StageWiring
from sidecar.core.pipeline import CREDITS, Admission, Pipeline, TooLarge
from sidecar.core.space import Space

SHARD = (7, 1)
FLOAT64 = 11


def tensor(offset: int, rows: int) -> Column:
    return Column(TENSOR, rows, offset, rows * 8, dtype=FLOAT64, shape=(rows,))


def chain(*names: str) -> list[StageWiring]:
    producers = (SOURCE, *names)
    return [StageWiring(name, (("x", ((producers[i], "y"),)),)) for i, name in enumerate(names)]


@dataclass
class World:
    """Predictors that compute when told to, over a pipeline; remembers what came out."""

    stages: list[StageWiring]
    size: int
    soft: int
    predictors: int = 2
    poison: frozenset[int] = frozenset()  # values of rows on which the last stage raises
    killers: frozenset[int] = frozenset()  # values of rows on which the first stage's process dies
    row_bytes: int = 8  # what a row of output takes
    held: dict[tuple[str, int], list[Send]] = field(default_factory=dict)
    kept: dict[tuple[str, int], int] = field(default_factory=dict)  # predictor that waits for space -> bytes
    finished: list[Batch] = field(default_factory=list)
    first_row: dict[int, int] = field(default_factory=dict)  # batch -> value of its first row
    next_predictor: int = 0

    def __post_init__(self) -> None:
        self.space = Space(self.size, self.soft)
        self.pipeline = Pipeline(self.stages, frozenset({self.stages[-1].name}), self.space, window=64)
        for wiring in self.stages:
            for _ in range(self.predictors):
                self.start_predictor(wiring.name)

    def start_predictor(self, stage: str) -> None:
        self.next_predictor += 1
        self.held[stage, self.next_predictor] = []
        self.run(self.pipeline.predictor_ready(stage, self.next_predictor))

    def run(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    pieces = self.held[action.stage, action.predictor]
                    pieces.append(action)
                    assert len(pieces) <= CREDITS
                case GiveSpace():
                    del self.kept[action.stage, action.predictor]
                    if action.nbytes == 0:
                        send = self.held[action.stage, action.predictor].pop(0)
                        assert send.piece == action.piece
                    else:
                        self.complete(action.stage, action.predictor, action.offset)
                case Finished():
                    self.finished.append(action.batch)
                case FeedAgain():
                    first = self.first_row[action.batch.number]
                    parts = range(0, action.batch.rows, action.rows_max)
                    ends = [min(part + action.rows_max, action.batch.rows) for part in parts]
                    self.again += [(first + a, b - a, action.batch.age) for a, b in zip(parts, ends, strict=True)]
        assert self.space.used <= self.size

    def admit(self, first: int, rows: int, age: int | None = None) -> bool | None:
        """Admits rows whose values count up from `first`; None if they can never fit."""
        admission = self.pipeline.admit(SHARD, rows, rows * 8, age)
        if isinstance(admission, TooLarge):
            return None
        if admission is None:
            return False
        self.first_row[admission.batch.number] = first
        self.run(self.pipeline.start(admission, {"y": tensor(admission.offset, rows)}, {}))
        return True

    def step(self, random: Random) -> bool:
        """One predictor executes its first piece, or one finished batch is written; False if nothing can happen."""
        choices: list[tuple[str, int] | None] = [
            key for key, pieces in self.held.items() if pieces and key not in self.kept
        ]
        if self.finished:
            choices.append(None)
        if not choices:
            return False
        choice = random.choice(choices)
        if choice is None:
            batch = self.finished.pop(random.randrange(len(self.finished)))
            self.collect(batch)
            self.run(self.pipeline.written(batch))
        else:
            self.execute(*choice)
        return True

    def execute(self, stage: str, predictor: int) -> None:
        send = self.held[stage, predictor][0]
        piece = self.pipeline._flights[send.piece].piece
        values = range(self.first_row[piece.batch.number] + piece.begin, self.first_row[piece.batch.number] + piece.end)
        if stage == self.stages[0].name and self.killers.intersection(values):
            del self.held[stage, predictor]
            self.run(self.pipeline.predictor_ended(stage, predictor, "signal 11"))
            self.start_predictor(stage)
        elif stage == self.stages[-1].name and self.poison.intersection(values):
            self.held[stage, predictor].pop(0)
            self.run(self.pipeline.failed(stage, predictor, send.piece, "ValueError", "poison"))
        elif send.rows * self.row_bytes > send.nbytes:
            self.kept[stage, predictor] = send.piece
            self.run(self.pipeline.space_needed(stage, predictor, send.piece, send.rows * self.row_bytes))
        else:
            self.complete(stage, predictor, send.offset)

    def complete(self, stage: str, predictor: int, offset: int) -> None:
        send = self.held[stage, predictor].pop(0)
        column = Column(TENSOR, send.rows, offset, send.rows * self.row_bytes, dtype=FLOAT64, shape=(send.rows,))
        self.run(self.pipeline.done(stage, predictor, send.piece, {"y": column}, {}))

    def collect(self, batch: Batch) -> None:
        first = self.first_row[batch.number]
        done = [first + row for piece in batch.finished for row in range(piece.begin, piece.end)]
        self.out.extend(done)
        self.blamed.update({first + row: blame for row, blame in batch.blamed.items()})

    again: list[tuple[int, int, int]] = field(default_factory=list)
    out: list[int] = field(default_factory=list)
    blamed: dict[int, Blame] = field(default_factory=dict)


def drive(world: World, rows: int, batch_rows: int, random: Random) -> None:
    """Pushes all rows through, smaller batches where large ones can't fit, until nothing is in flight."""
    at, size, steps = 0, batch_rows, 0
    while at < rows or world.again or world.pipeline.live:
        steps += 1
        assert steps < 100_000, "no progress: a deadlock"
        if world.again and random.random() < 0.7:
            first, count, age = world.again[0]
            admitted = world.admit(first, count, age)
            if admitted is None:
                half = count // 2
                assert half, "the arena can't hold one row"
                world.again[:1] = [(first, half, age), (first + half, count - half, age)]
            elif admitted:
                world.again.pop(0)
                continue
        elif at < rows and random.random() < 0.7:
            count = min(size, rows - at)
            admitted = world.admit(at, count)
            if admitted is None:
                assert count > 1, "the arena can't hold one row"
                size = max(1, count // 2)
            elif admitted:
                at += count
                continue
        moved = world.step(random)
        assert moved or at < rows or world.again, "batches are in flight and nothing can move: a deadlock"


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
        deaths = world.pipeline._flights[waiting].piece.deaths
        world.run(world.pipeline.predictor_ended(stage, predictor, "signal 9"))
        assert world.pipeline._flights[waiting].piece.deaths == deaths
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
