"""Values of the lease table: what workers say they hold, what they are answered, what others see of it."""

from dataclasses import dataclass

from headrace.words import Epoch, Incarnation, ShardId, ShardState, WorkerName


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as its worker knows it: units ``[begin, end)``, and the first unit that it hasn't read."""

    shard: ShardId
    epoch: Epoch
    begin: int
    end: int
    position: int
    rows_done: int = 0  # through all stages, filtered, rejected or in a corrupt range
    rows_rejected: int = 0  # of these: rejected, or in a corrupt range


@dataclass(slots=True)
class Lease:
    """A live epoch. Its range is the shard's (`ShardTable.range_of`)."""

    shard: ShardId
    epoch: Epoch
    worker: WorkerName
    incarnation: Incarnation
    granted_at: float
    deadline: float
    position: int  # first unit not yet read, as the worker last said
    is_seen: bool  # the worker has named it: it got the grant
    rows_done: int = 0  # as `Held`, as the worker last said
    rows_rejected: int = 0


@dataclass(slots=True)
class Publishing:
    """A commit whose publish is to be reported by its worker until the deadline."""

    epoch: Epoch
    worker: WorkerName
    incarnation: Incarnation
    deadline: float
    is_taken: bool  # handed out by publishes_due


@dataclass(frozen=True, slots=True)
class Stale:
    """The epoch isn't live, or not this worker's: nothing changed."""

    shard: ShardId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Refused:
    """The lease is live, but this can't be done with it: nothing changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class OtherSchema:
    """The commit's data files have another schema than the output's: nothing changed."""

    agreed: str
    found: str


@dataclass(frozen=True, slots=True)
class AlreadyWon:
    """This epoch's commit counts already; the first answer is given again."""

    is_published: bool


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease goes on; `end` may be lower than the worker's, if the answer to its split was lost."""

    end: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Shards by state: ``pending + leased + committed + quarantined == total``.

    `committing` is part of `leased`; in held modes, where publishing waits for the end, of `committed`.
    """

    pending: int
    leased: int
    committing: int
    committed: int
    quarantined: int

    @property
    def total(self) -> int:
        """All shards, those made by splits too."""
        return self.pending + self.leased + self.committed + self.quarantined


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard, for listings."""

    shard: ShardId
    state: ShardState
    epoch: Epoch
    begin: int
    end: int
    attempts: int
    worker: str  # of the last grant, or the winner; empty if never granted
    error: str  # last one
