"""What metrics count that nothing else keeps: events of this process, and what workers said last.

A counter may never fall while its job is the same, so what a worker did still counts when that worker is gone: the last
word of each worker's incarnation is kept, of those that have a successor one sum for each job.

Not here: the text of the metrics (`coordinator.metrics`).
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from coordinator.exchange import Report, StageLoad, StageMeasures
from headrace.words import Incarnation, JobUid, WorkerName

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
    """The last word of one incarnation of a worker on one job, or the sum of several."""

    incarnation: Incarnation  # of a sum: the newest
    stages: dict[str, StageLoad]
    measures: dict[str, StageMeasures]
    read_busy_s: float
    write_busy_s: float
    heard_at: float

    def then(self, later: "WorkerCounts") -> "WorkerCounts":
        """The sum of this and what was heard later, as of then; nobody here has rows in progress any more."""
        stages, measures = dict(self.stages), dict(self.measures)
        for stage, load in later.stages.items():
            stages[stage] = stages.get(stage, StageLoad(stage)) + load
        passed_s = later.heard_at - self.heard_at
        for stage, one in measures.items():
            ago_s = one.last_done_ago_s + passed_s if one.last_done_ago_s >= 0 else -1.0
            measures[stage] = replace(one, last_done_ago_s=ago_s)
        for stage, one in later.measures.items():
            measures[stage] = replace(measures.get(stage, StageMeasures(stage)) + one, rows_in_progress=0)
        return WorkerCounts(
            later.incarnation,
            stages,
            measures,
            self.read_busy_s + later.read_busy_s,
            self.write_busy_s + later.write_busy_s,
            later.heard_at,
        )


@dataclass(slots=True)
class Counters:
    """Counted from 0 at the start of the process."""

    leases_expired: int = 0
    fenced_commits: int = 0
    lease_duration: Histogram = field(default_factory=lambda: Histogram(LEASE_SECONDS))  # grant to commit
    _words: defaultdict[JobUid, dict[WorkerName, WorkerCounts]] = field(default_factory=lambda: defaultdict(dict))
    _gone: dict[JobUid, WorkerCounts] = field(default_factory=dict)  # of incarnations that have a successor

    def note(self, job: JobUid, report: Report, now: float) -> None:
        """Notes what a worker says of its work on a job; its incarnation has no successor."""
        before = self._words[job].get(report.worker)
        if before is not None and before.incarnation != report.incarnation:
            gone = self._gone.get(job)
            self._gone[job] = before if gone is None else gone.then(before)
        self._words[job][report.worker] = WorkerCounts(
            report.incarnation,
            {load.stage: load for load in report.stages},
            {measures.stage: measures for measures in report.measures},
            report.read_busy_s,
            report.write_busy_s,
            now,
        )

    def forget(self, job: JobUid) -> None:
        """The job's name is another's now, and nobody asks for it any more."""
        self._words.pop(job, None)
        self._gone.pop(job, None)

    def words(self, job: str) -> list[WorkerCounts]:
        """The last words of all workers on a job, and the sum of what their incarnations before did."""
        gone = self._gone.get(JobUid(job))
        return [*self._words.get(JobUid(job), {}).values(), *([gone] if gone else [])]

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
