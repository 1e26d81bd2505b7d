"""Facts: what the coordinator has decided, as values.

A fact is applied when it is decided and is durable when the journal says so; replaying all facts in order makes the
same state again. Each names its job by a small number, given by its `JobPlanned`.

Not here: facts as bytes (`encoding`), where they are kept (`coordinator.journal`), what they do (`table`, `ledger`).
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from headrace.dataset import CorruptUnits
from headrace.words import Epoch, Incarnation, ShardId, WorkerName


class Ended(IntEnum):
    """Why an epoch ended without winning."""

    RELEASED = 1  # given back by its worker
    EXPIRED = 2  # its deadline passed
    LOST = 3  # its worker is gone
    SUPERSEDED = 4  # a new incarnation of its worker registered
    UNSEEN = 5  # its worker came back and knows nothing of it
    BEATEN = 6  # the other epoch of the shard committed first
    OUTAGE = 7  # given back for want of a store: not even a try of the shard


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Rows of one commit, or a sum of them: ``read == filtered + out + rejected``; `children` are made of rows.

    `corrupt` are beside them: rows in ranges that could not be read (`headrace.dataset.corrupt_rows`).
    """

    read: int = 0
    filtered: int = 0
    out: int = 0
    rejected: int = 0
    children: int = 0
    corrupt: int = 0

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(
            self.read + other.read,
            self.filtered + other.filtered,
            self.out + other.out,
            self.rejected + other.rejected,
            self.children + other.children,
            self.corrupt + other.corrupt,
        )

    def __sub__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(
            self.read - other.read,
            self.filtered - other.filtered,
            self.out - other.out,
            self.rejected - other.rejected,
            self.children - other.children,
            self.corrupt - other.corrupt,
        )

    @property
    def is_balanced(self) -> bool:
        """Each row read is out, filtered or rejected (law 1), and nothing is negative."""
        return self.read == self.filtered + self.out + self.rejected and (
            min(self.read, self.filtered, self.out, self.rejected, self.children, self.corrupt) >= 0
        )


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One staged file of a commit."""

    name: str  # final name, relative to the output
    kind: str  # data | rejects
    size: int  # bytes
    digest: str  # blake2b-128, hex
    rows: int
    staged: str = ""  # where it is staged, in its store's words (`headrace.stores`); "": its name says so


@dataclass(frozen=True, slots=True)
class TermRaised:
    """A coordinator started on this ledger."""

    term: int


@dataclass(frozen=True, slots=True)
class WorkerSeated:
    """An incarnation of a worker registered for the first time; those before it are over."""

    worker: WorkerName
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class JobPlanned:
    """A job was accepted; its dataset and shards follow in parts, in the same transaction."""

    job: int
    files: int
    cuts: int
    shards: int
    attempts_max: int
    units_min: int  # no cut of a grant's front makes a smaller shard
    bytes_total: int  # of the columns that are read
    rows_total: int  # -1: only reading tells
    held: bool  # output not empty at the start: nothing is published before the end
    divisible: bool
    rows_estimated: bool
    uid: str
    name: str
    digest: str  # of what decides the output
    unit: str
    manifest: str  # the InferenceJob as JSON
    program: str  # headrace.program.Program as JSON
    plan: str  # JSON of the driver: base manifest, old objects, summary for people


@dataclass(frozen=True, slots=True)
class FilesPart:
    """Consecutive files of the dataset (`ledger.pack_files`)."""

    job: int
    count: int
    packed: bytes


@dataclass(frozen=True, slots=True)
class CutsPart:
    """Consecutive cuts of the dataset (`columns.pack_column`)."""

    job: int
    count: int
    packed: bytes


@dataclass(frozen=True, slots=True)
class ShardsPart:
    """Ends of consecutive planned shards (`columns.pack_column`); each begins where the one before ends."""

    job: int
    count: int
    packed: bytes


@dataclass(frozen=True, slots=True)
class JobChanged:
    """The job's state as the driver keeps it; the last one counts."""

    job: int
    state: str
    reason: str = ""
    message: str = ""
    detail: str = ""  # JSON, the driver's


@dataclass(frozen=True, slots=True)
class OutputStep:
    """A step towards the finished output was done, or is about to be."""

    job: int
    step: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """A worker was given a shard; raises the shard's epoch."""

    job: int
    shard: ShardId
    epoch: Epoch
    worker: WorkerName
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """A live epoch ended for good. If it was the shard's last one, the shard is pending again."""

    job: int
    shard: ShardId
    epoch: Epoch
    why: Ended
    charged: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class ChargeReturned:
    """The charge of an expired epoch is taken back: its worker was only cut off."""

    job: int
    shard: ShardId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class SplitMade:
    """`shard` ends at `at` from now on; the rest is the pending shard `rest`."""

    job: int
    shard: ShardId
    rest: ShardId
    at: int


@dataclass(frozen=True, slots=True)
class SchemaAgreed:
    """All data files of the job's output have this schema (`coordinator.core.schema`)."""

    job: int
    schema: str


@dataclass(frozen=True, slots=True)
class CommitDecided:
    """This epoch's output counts. Its range is the shard's: a prefix comes with a `SplitMade` before it."""

    job: int
    shard: ShardId
    epoch: Epoch
    begin: int
    end: int
    counts: RowCounts
    worker: WorkerName
    incarnation: Incarnation
    files: tuple[OutputFile, ...]
    corrupt: tuple[CorruptUnits, ...] = ()  # by rising begin, disjoint


@dataclass(frozen=True, slots=True)
class Published:
    """The files of the commit have their final names."""

    job: int
    shard: ShardId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class AllPublished:
    """Held modes: the files of all commits have their final names."""

    job: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """The commit no longer counts: its staging is gone and was not published. The shard is pending again."""

    job: int
    shard: ShardId
    epoch: Epoch
    counts: RowCounts


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A shard used up its attempts."""

    job: int
    shard: ShardId
    error: str


@dataclass(frozen=True, slots=True)
class TablePage:
    """Columns of shards ``[first, first + count)`` at a checkpoint (`columns.ShardColumns.pack`)."""

    job: int
    first: int
    count: int
    packed: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The rest of a lease table's state (JSON); replay may begin here, with all pages up to here."""

    job: int
    packed: bytes


Fact = (
    TermRaised
    | WorkerSeated
    | JobPlanned
    | FilesPart
    | CutsPart
    | ShardsPart
    | JobChanged
    | OutputStep
    | Granted
    | EpochEnded
    | ChargeReturned
    | SplitMade
    | SchemaAgreed
    | CommitDecided
    | Published
    | AllPublished
    | Revoked
    | Quarantined
    | TablePage
    | Checkpoint
)

LASTING: Final = (
    TermRaised,
    WorkerSeated,
    JobPlanned,
    FilesPart,
    CutsPart,
    ShardsPart,
    JobChanged,
    OutputStep,
    TablePage,
    Checkpoint,
)
"""Facts that a replay needs even when a later checkpoint covers them; the others' effect is in the pages."""
