"""Batches in flight: rows that go through the stages together, and the pieces that a failing batch is cut into.

A batch is admitted whole. As long as nothing fails it is one piece. When a stage fails on a piece, the piece is
replaced by smaller ones over the same regions, each of which goes on by itself through the remaining stages, until
single rows are left to blame: no rows are copied, and no stage that has succeeded runs again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.local.columns import Column
from sidecar.core.failures import Trial
from sidecar.core.space import Region

ShardKey = tuple[int, int]
"""(shard, epoch): names a lease for ever."""


@dataclass(frozen=True, slots=True)
class Blame:
    """Why a row is rejected: in which stage, what class of error, which message."""

    stage: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class StageWiring:
    """What a stage reads: for each of its inputs the columns (producer, column) that make it up."""

    name: str
    feeds: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    @property
    def producers(self) -> frozenset[str]:
        """The source and the stages that this stage reads."""
        return frozenset(producer for _, columns in self.feeds for producer, _ in columns)


@dataclass(slots=True, eq=False)
class Slot:
    """Where a stage's output of one piece will go: a part of a region.

    `regions` are held for it: the one that holds it and before that, until the result is there, one that it outgrew.
    """

    regions: list[Region]
    offset: int
    nbytes: int


@dataclass(slots=True, eq=False)
class Batch:
    """Rows of one shard admitted together."""

    number: int
    age: int  # smaller is older; a batch that is fed again keeps its age
    shard: ShardKey
    rows: int
    blamed: dict[int, Blame] = field(default_factory=dict)  # row in the batch -> why
    open_pieces: int = 0
    finished: list["Piece"] = field(default_factory=list)
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class Piece:
    """Rows ``[begin, end)`` of a batch, somewhere between admission and the sink."""

    number: int
    batch: Batch
    begin: int
    end: int
    columns: dict[str, Mapping[str, Column]]  # producer -> its columns, of exactly these rows
    regions: dict[str, list[Region]]  # producer -> what holds its columns
    slots: dict[str, Slot]  # stage not yet run -> where its output goes
    readers: dict[str, int]  # producer -> stages (and the sink) that have yet to read it
    failed: dict[str, list[int | None]] = field(default_factory=dict)  # stage -> predictors it failed on, None: gone
    trial: Trial | None = None  # of the piece that this is a part of

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.end - self.begin

    def failed_on(self, stage: str) -> int | None:
        """The predictor of `stage` that failed on it last, if that lives."""
        return self.failed[stage][-1] if stage in self.failed else None

    @property
    def is_whole(self) -> bool:
        """It is the batch as it was admitted."""
        return self.rows == self.batch.rows

    @property
    def age(self) -> tuple[int, int]:
        """Sorts pieces oldest first."""
        return (self.batch.age, self.begin)


@dataclass(frozen=True, slots=True)
class Send:
    """Give a piece to a predictor."""

    stage: str
    predictor: int
    piece: int
    rows: int
    inputs: Mapping[str, tuple[Column, ...]]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GiveSpace:
    """Answer a predictor that keeps a result too large for its slot; `nbytes` 0: forget the result."""

    stage: str
    predictor: int
    piece: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    """All pieces of a batch have ended: it can be written, then `Pipeline.written` frees its regions."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class FeedAgain:
    """A batch was dropped to make room: its rows come again, at most `rows_max` together, with its age."""

    batch: Batch
    rows_max: int


@dataclass(frozen=True, slots=True)
class StageFailed:
    """No row is to blame for what a stage does.

    Where that is certain, what the stage gave so far is of no use either: no action behind this one may be carried out.
    Else another worker may know better; it is told once, and the pipeline goes on.
    """

    blame: Blame
    why: str
    is_certain: bool


@dataclass(frozen=True, slots=True)
class Replace:
    """End a predictor that fails on everything, though its stage has worked: it may be the one that is broken."""

    stage: str
    predictor: int


Action = Send | GiveSpace | Finished | FeedAgain | StageFailed | Replace
