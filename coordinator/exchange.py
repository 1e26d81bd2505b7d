"""What workers say and hear, as values: the driver's side of the worker service.

Not here: the messages of the wire (`coordinator.rpc`), what is decided (`coordinator.driver`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from coordinator.core.estimate import Estimate
from coordinator.core.facts import OutputFile, RowCounts
from coordinator.core.lease_values import Held
from headrace.dataset import CorruptUnits, Slice
from headrace.words import Epoch, Incarnation, JobUid, ShardId, WorkerName


@dataclass(frozen=True, slots=True)
class CommitAsked:
    """A worker's wish that the output of one lease count."""

    shard: ShardId
    epoch: Epoch
    begin: int
    end: int
    counts: RowCounts
    files: tuple[OutputFile, ...]
    schema: str = ""  # of its data files (`coordinator.core.schema`)
    corrupt: tuple[CorruptUnits, ...] = ()


@dataclass(frozen=True, slots=True)
class Released:
    """A lease given back by its holder; `exit_class` is the failure table's word, empty when drained."""

    shard: ShardId
    epoch: Epoch
    charged: bool
    error: str
    exit_class: str


@dataclass(frozen=True, slots=True)
class Offer:
    """The holder of a lease will not pass unit `at` until it is answered."""

    shard: ShardId
    epoch: Epoch
    at: int


@dataclass(frozen=True, slots=True)
class StageLoad:
    """What one stage did since its worker started, summed over its predictors."""

    stage: str
    predictors: int = 0
    rows_in: int = 0
    rows_out: int = 0
    batches: int = 0
    busy_s: float = 0.0
    wait_input_s: float = 0.0
    queue_batches: int = 0
    restarts: int = 0
    predictor_s: float = 0.0
    batch_rows: int = 0

    def __add__(self, other: "StageLoad") -> "StageLoad":
        return StageLoad(
            self.stage,
            self.predictors + other.predictors,
            self.rows_in + other.rows_in,
            self.rows_out + other.rows_out,
            self.batches + other.batches,
            self.busy_s + other.busy_s,
            self.wait_input_s + other.wait_input_s,
            self.queue_batches + other.queue_batches,
            self.restarts + other.restarts,
            self.predictor_s + other.predictor_s,
            max(self.batch_rows, other.batch_rows),
        )


@dataclass(frozen=True, slots=True)
class StageMeasures:
    """What only metrics want to know of a stage on one worker, since that started."""

    stage: str
    rows_in_progress: int = 0
    wait_output_s: float = 0.0
    last_done_ago_s: float = -1.0  # < 0: no batch is done yet
    load_s: float = 0.0
    hangs: int = 0
    rows_tried_again: Mapping[str, int] = field(default_factory=dict)  # by reason: exception, crash, hang
    seconds_counts: tuple[int, ...] = ()  # batches by headrace.buckets.BATCH_SECONDS
    rows_counts: tuple[int, ...] = ()  # batches by headrace.buckets.BATCH_ROWS

    def __add__(self, other: "StageMeasures") -> "StageMeasures":
        return StageMeasures(
            self.stage,
            self.rows_in_progress + other.rows_in_progress,
            self.wait_output_s + other.wait_output_s,
            min((one for one in (self.last_done_ago_s, other.last_done_ago_s) if one >= 0), default=-1.0),
            max(self.load_s, other.load_s),
            self.hangs + other.hangs,
            Counter(self.rows_tried_again) + Counter(other.rows_tried_again),
            _added(self.seconds_counts, other.seconds_counts),
            _added(self.rows_counts, other.rows_counts),
        )


def _added(counts: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(counts, others, fillvalue=0)))


@dataclass(frozen=True, slots=True)
class Introduction:
    """A sidecar's first call, and its first after the term changed or its leases were lost."""

    worker: WorkerName
    incarnation: Incarnation
    held: tuple[Held, ...] = ()
    ledger_seen: int = 0
    job_uid: str = ""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to an introduction; without a `job_uid` there is nothing to do yet."""

    term: int
    ledger: int
    lease_ttl_s: float
    heartbeat_s: float
    retry_after_s: float = 0.0
    job_uid: str = ""
    job_name: str = ""
    program: str = ""
    staging: str = ""
    coordinator_timeout_s: float = 0.0
    keep: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All that a worker says in one exchange."""

    worker: WorkerName
    incarnation: Incarnation
    term: int
    sequence: int
    held: tuple[Held, ...] = ()
    want: int = 0
    commits: tuple[CommitAsked, ...] = ()
    published: tuple[tuple[ShardId, Epoch], ...] = ()
    releases: tuple[Released, ...] = ()
    offers: tuple[Offer, ...] = ()
    stages: tuple[StageLoad, ...] = ()
    rows_per_second: float = 0.0
    read_busy_s: float = 0.0
    write_busy_s: float = 0.0
    is_draining: bool = False
    fatal_reason: str = ""
    fatal_message: str = ""
    reject_example: str = ""
    arena_bytes: int = 0
    arena_used_bytes: int = 0
    measures: tuple[StageMeasures, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease given, with the files' parts that its range means."""

    shard: ShardId
    epoch: Epoch
    begin: int
    end: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word on a commit, a publish or a held lease."""

    shard: ShardId
    epoch: Epoch
    outcome: str  # ACCEPTED | STALE | REFUSED
    reason: str = ""


@dataclass(slots=True)
class Answer:
    """All that a worker hears in one exchange; `ledger` is filled in when the facts behind it are durable."""

    term: int
    ledger: int = 0
    grants: list[Grant] = field(default_factory=list)
    commits: list[Verdict] = field(default_factory=list)
    published: list[Verdict] = field(default_factory=list)
    stale: list[Verdict] = field(default_factory=list)
    asks: list[tuple[ShardId, Epoch]] = field(default_factory=list)
    ends: list[tuple[ShardId, Epoch, int]] = field(default_factory=list)
    directive: str = ""
    wait_s: float = 0.0
    lease_ttl_s: float = 0.0  # of the leases that this renews


@dataclass(slots=True)
class Seat:
    """A worker as the coordinator last saw it. It belongs to one job at a time."""

    name: WorkerName
    incarnation: Incarnation
    job_uid: JobUid
    seen_at: float
    sequence: int = -1
    answer: Answer | None = None  # to `sequence`, for a worker that asks the same again
    is_draining: bool = False
    is_lost: bool = False
    is_refused: bool = False  # something that it said couldn't be, and was logged
    rows_per_second: float = 0.0
    rows_read_live: int = 0
    rows_rejected_live: int = 0
    read_busy_s: float = 0.0
    write_busy_s: float = 0.0
    stages: tuple[StageLoad, ...] = ()
    measures: tuple[StageMeasures, ...] = ()
    arena_bytes: int = 0
    arena_used_bytes: int = 0
    units_done: int = 0  # committed since it registered
    estimate: Estimate = field(default_factory=Estimate)

    @property
    def units_per_second(self) -> float | None:
        """Its measured rate, None while it isn't known."""
        return self.estimate.units_per_second or None

    def observe(self, now: float, units_live: float) -> None:
        """Notes how far it is with what it holds."""
        self.estimate.observe(now, self.units_done + units_live, 0)

    def note(self, report: Report) -> None:
        """Notes what the worker says of itself."""
        self.is_draining = report.is_draining
        self.rows_per_second = report.rows_per_second
        self.read_busy_s = report.read_busy_s
        self.write_busy_s = report.write_busy_s
        self.stages = report.stages
        self.measures = report.measures
        self.arena_bytes = report.arena_bytes
        self.arena_used_bytes = report.arena_used_bytes

    def note_live(self, rows: tuple[int, int]) -> tuple[int, int]:
        """Notes how many rows of its live leases are done, and rejected; gives by how much that has changed."""
        change = (rows[0] - self.rows_read_live, rows[1] - self.rows_rejected_live)
        self.rows_read_live, self.rows_rejected_live = rows
        return change

    def forget_live(self) -> tuple[int, int]:
        """The worker is lost, and with it what it held; gives the change as `note_live` does."""
        self.rows_per_second = 0.0
        return self.note_live((0, 0))
