"""What happens to a world: its job, its machines and every fault, decided from the seed before it begins.

Faults are data, so that a failing story can be told again with fewer of them (`shrink`).

Not here: what a fault does (`world`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

HORIZON_S = 10.0
"""Faults begin before; what the job's work takes without any is about as long."""
FAULTS_MAX = 16


WRITES_MAX = 12
"""Of a process that is about to be killed at a write; a commit makes fewer, a finish some more."""


class Kind(StrEnum):
    """What can go wrong."""

    KILLED = "is killed"
    KILLED_WRITING = "is killed at one of its next writes"
    KILLED_FINISHING = "is killed at a write of the job's finish"
    PAUSED = "is paused"
    REPLACED = "sleeps while another takes its name"
    DRAINED = "is told to drain"
    FAILING = "fails a shard"
    UP_CUT = "isn't heard"
    DOWN_CUT = "hears nothing"
    CUT = "is cut off"
    LOSSY = "has a lossy link"
    SLOW_LINK = "has a slow link"
    DOUBLING = "has a link that doubles"
    STORE_FAILS = "can't write to the store"
    SLOW_DISK = "has a slow disk"
    LEDGER_FULL = "can't write its ledger"
    STAGING_LOST = "loses what it staged"
    SUSPENDED = "is suspended"


COORDINATOR = "coordinator"
JOB = "job"

_WORKER_KINDS = (
    Kind.KILLED,
    Kind.KILLED_WRITING,
    Kind.PAUSED,
    Kind.PAUSED,
    Kind.REPLACED,
    Kind.DRAINED,
    Kind.FAILING,
    Kind.UP_CUT,
    Kind.DOWN_CUT,
    Kind.CUT,
    Kind.LOSSY,
    Kind.SLOW_LINK,
    Kind.DOUBLING,
    Kind.STORE_FAILS,
    Kind.SLOW_DISK,
    Kind.STAGING_LOST,
)
_COORDINATOR_KINDS = (
    Kind.KILLED,
    Kind.KILLED_WRITING,
    Kind.KILLED_WRITING,
    Kind.KILLED_FINISHING,
    Kind.PAUSED,
    Kind.STORE_FAILS,
    Kind.SLOW_DISK,
    Kind.LEDGER_FULL,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong for a while, or for a moment after which it takes so long to come back."""

    at: float
    kind: Kind
    who: str
    for_s: float

    @property
    def until(self) -> float:
        """From then on all is well again."""
        return self.at + self.for_s

    @property
    def writes(self) -> int:
        """How many writes a process makes before it is killed at one."""
        return int(self.for_s * 1000) % WRITES_MAX

    def __str__(self) -> str:
        return f"t={self.at:.2f}: {self.who} {self.kind}, for {self.for_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Story:
    """A world's beginning, and its faults in order."""

    seed: int
    units: int
    shards: int
    files: int
    is_divisible: bool
    mode: str  # fail | append | replace
    attempts_max: int
    speeds: tuple[float, ...]  # units/s of each worker
    has_liar: bool  # the last worker says things about the others' leases
    coordinator_timeout_s: float  # after which workers give it up
    poison: int  # every so many rows are rejected; 0: none
    faults: tuple[Fault, ...]

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the workers."""
        return tuple(f"worker-{i}" for i in range(1, len(self.speeds) + 1))

    @property
    def calm_at(self) -> float:
        """When the last fault is over."""
        return max((fault.until for fault in self.faults), default=0.0)

    def with_faults(self, faults: tuple[Fault, ...]) -> "Story":
        """The same world with other faults."""
        return replace(self, faults=faults)

    def __str__(self) -> str:
        kind = "rows" if self.is_divisible else "rows that can't be cut"
        told = f"seed {self.seed}: {self.units} {kind} in {self.shards} shards, mode {self.mode}"
        told += f", {len(self.speeds)} workers"
        return "\n".join([told + (", the last of which lies" if self.has_liar else ""), *map(str, self.faults)])


def tell(seed: int) -> Story:
    """The story of a seed."""
    random = Random(f"story {seed}")
    workers = random.randint(2, 4)
    shards = random.randint(3, 9)
    story = Story(
        seed=seed,
        units=shards * random.randint(5, 14),
        shards=shards,
        files=random.randint(1, 3),
        is_divisible=random.random() < 0.7,
        mode=random.choice(("fail", "fail", "fail", "append", "replace")),
        attempts_max=2 if random.random() < 0.25 else 200,
        speeds=tuple(random.choice((1.0, 2.0, 4.0)) * random.uniform(0.8, 1.2) for _ in range(workers)),
        has_liar=random.random() < 0.25,
        coordinator_timeout_s=random.choice((3600.0, 3600.0, 4.0)),
        poison=random.choice((0, 0, 5, 11)),
        faults=(),
    )
    faults = [_fault(random, story) for _ in range(random.randint(3, FAULTS_MAX))]
    return story.with_faults(tuple(sorted(faults, key=lambda fault: (fault.at, fault.who, fault.kind))))


def _fault(random: Random, story: Story) -> Fault:
    at = random.uniform(0.2, HORIZON_S)
    who, kinds = random.choice(
        (
            (COORDINATOR, _COORDINATOR_KINDS),
            (random.choice(story.workers), _WORKER_KINDS),
            (random.choice(story.workers), _WORKER_KINDS),
        )
    )
    kind = random.choice(kinds)
    if random.random() < 0.04:
        who, kind = JOB, Kind.SUSPENDED
    # Short ones end within a lease, long ones after it.
    return Fault(at, kind, who, random.choice((random.uniform(0.05, 1.0), random.uniform(1.0, 8.0))))
