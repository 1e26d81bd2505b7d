"""The coordinator's metrics as Prometheus text: every name from 0 on, labels of few values, base units.

Names follow Prometheus' rules: base units, `_total` for counters. Sums over workers and jobs are taken when they are
asked for, so the driver only counts what can't be seen later.

Not here: serving them (`coordinator.http`).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from coordinator.exchange import Seat
from coordinator.jobs import JobStatus

DURATION_BOUNDS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
WORKER_STATES = ("live", "draining", "lost")


@dataclass(slots=True)
class Histogram:
    """Counts of seconds by upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one duration."""
        self.counts[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class Counters:
    """What can't be seen later: counted from 0 at the start of the process."""

    leases_expired: int = 0
    fenced_commits: int = 0
    lease_duration: Histogram = field(default_factory=Histogram)  # grant to commit


def worker_state(seat: Seat) -> str:
    """The state of a worker, as listings and metrics name it."""
    return "lost" if seat.is_lost else "draining" if seat.is_draining else "live"


def render(jobs: Sequence[JobStatus], seats: Iterable[Seat], counters: Counters, version: str) -> str:
    """All metrics in the text format, version 0.0.4."""
    return "\n".join(_lines(jobs, Counter(map(worker_state, seats)), counters, version)) + "\n"


def _lines(jobs: Sequence[JobStatus], workers: Counter[str], counters: Counters, version: str) -> Iterator[str]:
    yield from _metric("headrace_build_info", "gauge", "Always 1.", [(f'version="{version}"', 1)])
    totals = [
        ('outcome="ok"', sum(job.rows_out for job in jobs)),
        ('outcome="rejected"', sum(job.rows_rejected for job in jobs)),
        ('outcome="filtered"', sum(job.rows_filtered for job in jobs)),
    ]
    yield from _metric("headrace_rows_total", "counter", "Rows of committed shards.", totals)
    shards = [
        ('state="pending"', sum(job.shards_pending for job in jobs)),
        ('state="leased"', sum(job.shards_leased for job in jobs)),
        ('state="committed"', sum(job.shards_committed for job in jobs)),
        ('state="failed"', sum(job.shards_quarantined for job in jobs)),
    ]
    yield from _metric("headrace_shards", "gauge", "Shards by state.", shards)
    yield from _metric(
        "headrace_leases_expired_total",
        "counter",
        "Leases past their deadline.",
        [("", counters.leases_expired)],
    )
    yield from _metric(
        "headrace_fenced_commits_total",
        "counter",
        "Commits refused because their lease had ended or didn't fit.",
        [("", counters.fenced_commits)],
    )
    yield from _histogram("headrace_lease_duration_seconds", "From grant to commit.", counters.lease_duration)
    states = [(f'state="{state}"', workers[state]) for state in WORKER_STATES]
    yield from _metric("headrace_workers", "gauge", "Workers by state.", states)
    phases = Counter(job.phase for job in jobs)
    yield from _metric(
        "headrace_jobs",
        "gauge",
        "Jobs by phase.",
        [(f'phase="{phase}"', phases[phase]) for phase in ("Pending", "Running", "Succeeded", "Failed")],
    )
    yield from _stages(jobs)


def _stages(jobs: Sequence[JobStatus]) -> Iterator[str]:
    loads = [(f'job="{job.name}",stage="{load.stage}"', load) for job in jobs for load in job.stages]
    for name, kind, text, attribute in (
        ("headrace_stage_rows_in_total", "counter", "Rows that entered a stage.", "rows_in"),
        ("headrace_stage_rows_out_total", "counter", "Rows that left a stage.", "rows_out"),
        ("headrace_stage_batches_total", "counter", "Batches that a stage executed.", "batches"),
        ("headrace_stage_busy_seconds_total", "counter", "Seconds its predictors computed.", "busy_s"),
        ("headrace_predictor_ready", "gauge", "Predictors that are ready.", "predictors"),
        ("headrace_predictor_restarts_total", "counter", "Predictors that were replaced.", "restarts"),
    ):
        yield from _metric(name, kind, text, [(labels, getattr(load, attribute)) for labels, load in loads])
    waits = [(f'{labels},on="input"', load.wait_input_s) for labels, load in loads]
    yield from _metric("headrace_stage_wait_seconds_total", "counter", "Seconds its predictors waited.", waits)


def _metric(name: str, kind: str, text: str, values: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values:
        yield f"{name}{{{labels}}} {value:g}" if labels else f"{name} {value:g}"


def _histogram(name: str, text: str, histogram: Histogram) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} histogram"
    total = 0
    for bound, count in zip((*DURATION_BOUNDS_S, "+Inf"), histogram.counts, strict=True):
        total += count
        yield f'{name}_bucket{{le="{bound}"}} {total}'
    yield f"{name}_sum {histogram.sum_s:g}"
    yield f"{name}_count {total}"
