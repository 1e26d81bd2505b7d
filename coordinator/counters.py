"""What metrics count that nothing else keeps: events of this process, and what workers said last.

A counter may never fall while its job is the same, so what a worker did still counts when that worker is gone: the last
word of every incarnation is kept, and sums are taken over all of them.

Not here: the text of the metrics (`coordinator.metrics`).
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coordinator.exchange import Report, StageLoad, StageMeasures
from headrace.words import Incarnation, JobUid

LEASE_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class Histogram:
    """Counts of values by upper bound, the last count being of what is above all bounds; and their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, counts: Sequence[int], total: float) -> None:
        """Counts what somebody else counted by the same bounds."""
        for i, count in enumerate(counts[: len(self.counts)]):
            self.counts[i] += count
        self.sum += total


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """The last word of one incarnation of a worker on one job."""

    stages: dict[str, StageLoad]
    measures: dict[str, StageMeasures]
    read_busy_s: float
    write_busy_s: float
    heard_at: float


@dataclass(slots=True)
class Counters:
    """Counted from 0 at the start of the process."""

    leases_expired: int = 0
    fenced_commits: int = 0
    lease_duration: Histogram = field(default_factory=lambda: Histogram(LEASE_SECONDS))  # grant to commit
    _words: defaultdict[JobUid, dict[Incarnation, WorkerCounts]] = field(default_factory=lambda: defaultdict(dict))

    def note(self, job: JobUid, report: Report, now: float) -> None:
        """Notes what a worker says of its work on a job."""
        self._words[job][report.incarnation] = WorkerCounts(
            {load.stage: load for load in report.stages},
            {measures.stage: measures for measures in report.measures},
            report.read_busy_s,
            report.write_busy_s,
            now,
        )

    def words(self, job: str) -> Iterable[WorkerCounts]:
        """The last words of all incarnations that worked on a job, also of those that are gone."""
        return self._words.get(JobUid(job), {}).values()

    def loads(self, job: str, stage: str) -> StageLoad:
        """All that was done in a stage."""
        return sum((word.stages[stage] for word in self.words(job) if stage in word.stages), StageLoad(stage))

    def measures(self, job: str, stage: str) -> list[tuple[StageMeasures, float]]:
        """All measures of a stage, each with the time at which it was heard."""
        return [(word.measures[stage], word.heard_at) for word in self.words(job) if stage in word.measures]

    def last_done_at(self, job: str, stage: str) -> float | None:
        """When a batch of a stage was last done, by the clock of `note`."""
        found = [at - one.last_done_ago_s for one, at in self.measures(job, stage) if one.last_done_ago_s >= 0]
        return max(found, default=None)

    def rows_tried_again(self, jobs: Iterable[str]) -> Counter[str]:
        """Rows that were given to predictors again, by reason."""
        total: Counter[str] = Counter()
        for job in jobs:
            for word in self.words(job):
                for measures in word.measures.values():
                    total.update(measures.rows_tried_again)
        return total
