"""A simulated world for the pipeline core: predictors that compute when told to, and what came out of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from headrace.local.columns import TENSOR, Column
from headrace.words import SOURCE
from sidecar.core.batches import (
    Action,
    Batch,
    Blame,
    FeedAgain,
    Finished,
    GiveSpace,
    Replace,
    Send,
    StageFailed,
    StageWiring,
)
from sidecar.core.failures import Budget
from sidecar.core.pipeline import Pipeline, TooLarge
from sidecar.core.space import Space
from sidecar.core.stages import CREDITS

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
    budget: Budget = field(default_factory=Budget)
    broken: frozenset[int] = frozenset()  # predictors of the last stage that raise on everything
    wrong_rows: Callable[[range], bool] = lambda values: False  # the last stage gives a wrong number of rows
    row_bytes: int = 8  # what a row of output takes
    held: dict[tuple[str, int], list[Send]] = field(default_factory=dict)
    kept: dict[tuple[str, int], int] = field(default_factory=dict)  # predictor that waits for space -> bytes
    finished: list[Batch] = field(default_factory=list)
    first_row: dict[int, int] = field(default_factory=dict)  # batch -> value of its first row
    next_predictor: int = 0

    def __post_init__(self) -> None:
        self.space = Space(self.size, self.soft)
        self.pipeline = Pipeline(self.stages, frozenset({self.stages[-1].name}), self.space, 64, self.budget)
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
                case StageFailed():
                    self.told.append(action)
                    if action.is_certain:
                        return
                case Replace():
                    del self.held[action.stage, action.predictor]
                    self.replaced += 1
                    ended = self.pipeline.predictor_ended(action.stage, action.predictor, "PredictorDied", "replaced")
                    self.run(ended)
                    self.start_predictor(action.stage)
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
        self.executed += 1
        send = self.held[stage, predictor][0]
        piece = self.pipeline._flights[send.piece].piece
        values = range(self.first_row[piece.batch.number] + piece.begin, self.first_row[piece.batch.number] + piece.end)
        if stage == self.stages[0].name and self.killers.intersection(values):
            del self.held[stage, predictor]
            self.run(self.pipeline.predictor_ended(stage, predictor, "PredictorDied", "signal 11"))
            self.start_predictor(stage)
        elif stage == self.stages[-1].name and self.wrong_rows(values):
            self.held[stage, predictor].pop(0)
            self.run(self.pipeline.failed(stage, predictor, send.piece, "WrongRows", "output y has 1 rows"))
        elif stage == self.stages[-1].name and self.breaks_at is not None and self.breaks_at in values:
            self.breaks_at = None
            self.broken |= {predictor}
            self.held[stage, predictor].pop(0)
            self.run(self.pipeline.failed(stage, predictor, send.piece, "CudaError", "illegal access"))
        elif stage == self.stages[-1].name and (self.poison.intersection(values) or predictor in self.broken):
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

    executed: int = 0  # pieces
    replaced: int = 0  # predictors, since they may be broken
    breaks_at: int | None = None  # the value of a row after which the last stage's predictor raises on everything
    told: list[StageFailed] = field(default_factory=list)
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
