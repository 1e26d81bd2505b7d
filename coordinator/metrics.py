"""The coordinator's metrics as Prometheus text: every family from the start on, labels of few values, base units.

Names are those of the conventions page: `_total` for counters, seconds and bytes, timestamps instead of ages. A job's
name is the label `job_name`, since Prometheus itself gives every sample a label `job`.

Not here: serving them (`coordinator.http`), what is counted (`coordinator.counters`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from coordinator.counters import Counters, Histogram
from coordinator.exchange import Seat, StageLoad
from coordinator.jobs import PHASES, JobStatus
from headrace.buckets import BATCH_ROWS, BATCH_SECONDS

WORKER_STATES = ("live", "draining", "lost")
RETRY_REASONS = ("exception", "crash", "hang")


def worker_state(seat: Seat) -> str:
    """The state of a worker, as listings and metrics name it."""
    return "lost" if seat.is_lost else "draining" if seat.is_draining else "live"


@dataclass(frozen=True, slots=True)
class Scrape:
    """What the metrics are made of: the same moment as `now`, the clock of the driver, and as `wall`, Unix time."""

    jobs: Sequence[JobStatus]
    seats: Sequence[Seat]
    counters: Counters
    now: float
    wall: float


Samples = Sequence[tuple[str, float]]
"""Labels, without braces, and the value."""


def render(scrape: Scrape, version: str) -> str:
    """All metrics in the text format, version 0.0.4."""
    lines = [
        *_metric("headrace_build_info", "gauge", "Always 1.", [(f'version="{version}"', 1)]),
        *_rows(scrape),
        *_leases(scrape),
        *_workers(scrape),
        *_jobs(scrape),
        *_stages(scrape),
        *_batches(scrape),
        *_predictors(scrape),
    ]
    return "\n".join(lines) + "\n"


def _rows(scrape: Scrape) -> Iterator[str]:
    jobs = scrape.jobs
    totals = [
        ('outcome="ok"', sum(job.rows_out for job in jobs)),
        ('outcome="rejected"', sum(job.rows_rejected for job in jobs)),
        ('outcome="filtered"', sum(job.rows_filtered for job in jobs)),
    ]
    yield from _metric("headrace_rows_total", "counter", "Rows of committed shards.", totals)
    again = scrape.counters.rows_tried_again(job.uid for job in jobs)
    yield from _metric(
        "headrace_row_retries_total",
        "counter",
        "Rows that predictors were given again, by why they came back.",
        [(f'reason="{reason}"', again[reason]) for reason in RETRY_REASONS],
    )


def _leases(scrape: Scrape) -> Iterator[str]:
    jobs, counters = scrape.jobs, scrape.counters
    shards = [
        ('state="pending"', sum(job.shards_pending for job in jobs)),
        ('state="leased"', sum(job.shards_leased for job in jobs)),
        ('state="committed"', sum(job.shards_committed for job in jobs)),
        ('state="failed"', sum(job.shards_quarantined for job in jobs)),
    ]
    yield from _metric("headrace_shards", "gauge", "Shards by state.", shards)
    expired = [("", counters.leases_expired)]
    yield from _metric("headrace_leases_expired_total", "counter", "Leases past their deadline.", expired)
    fenced = [("", counters.fenced_commits)]
    text = "Commits refused because their lease had ended or didn't fit."
    yield from _metric("headrace_fenced_commits_total", "counter", text, fenced)
    leases = [("", counters.lease_duration)]
    yield from _histogram("headrace_lease_duration_seconds", "Time from grant to commit.", leases)


def _workers(scrape: Scrape) -> Iterator[str]:
    states = Counter(map(worker_state, scrape.seats))
    samples = [(f'state="{state}"', states[state]) for state in WORKER_STATES]
    yield from _metric("headrace_workers", "gauge", "Workers by state.", samples)
    live = [seat for seat in scrape.seats if not seat.is_lost]
    for name, text, nbytes in (
        ("headrace_shm_size_bytes", "Most that the arenas of workers can hold.", sum(s.arena_bytes for s in live)),
        ("headrace_shm_used_bytes", "Regions in use in the arenas.", sum(s.arena_used_bytes for s in live)),
    ):
        yield from _metric(name, "gauge", text, [("", nbytes)])


def _jobs(scrape: Scrape) -> Iterator[str]:
    jobs, wall = scrape.jobs, scrape.wall
    phases = Counter(job.phase for job in jobs)
    names = dict.fromkeys(PHASES.values())
    yield from _metric(
        "headrace_jobs", "gauge", "Jobs by phase.", [(f'phase="{phase}"', phases[phase]) for phase in names]
    )
    started = [(_job(job), round(wall - job.started_ago_s, 3)) for job in jobs if job.started_ago_s is not None]
    text = "When this coordinator began to run the job."
    yield from _metric("headrace_job_start_timestamp_seconds", "gauge", text, started)
    succeeded = [(_job(job), round(wall - job.succeeded_ago_s, 3)) for job in jobs if job.succeeded_ago_s is not None]
    text = "When this coordinator saw the job complete."
    yield from _metric("headrace_job_last_success_timestamp_seconds", "gauge", text, succeeded)
    ends = [
        (_job(job), round(wall + job.eta_high_s, 3)) for job in jobs if job.phase == "Running" and job.eta_high_s >= 0
    ]
    text = "The late end of the range in which the job is expected to complete; missing while nothing is known."
    yield from _metric("headrace_job_estimated_completion_timestamp_seconds", "gauge", text, ends)
    for name, text, attribute in (
        ("headrace_read_busy_seconds_total", "Time of reading and converting, over all threads.", "read_busy_s"),
        ("headrace_write_busy_seconds_total", "Time of writing and publishing, over all threads.", "write_busy_s"),
    ):
        sums = [(_job(job), sum(getattr(w, attribute) for w in scrape.counters.words(job.uid))) for job in jobs]
        yield from _metric(name, "counter", text, sums)


def _stages(scrape: Scrape) -> Iterator[str]:
    counters = scrape.counters
    stages = _all_stages(scrape)
    loads = [(labels, counters.loads(job.uid, live.stage)) for labels, job, live in stages]
    for name, text, attribute in (
        ("headrace_stage_rows_in_total", "Rows that its predictors gave back, in failed batches too.", "rows_in"),
        ("headrace_stage_rows_out_total", "Rows that a stage computed.", "rows_out"),
        ("headrace_stage_batches_total", "Batches that a stage executed, failed ones too.", "batches"),
        ("headrace_stage_busy_seconds_total", "Time that its predictors computed.", "busy_s"),
    ):
        yield from _metric(name, "counter", text, [(labels, getattr(load, attribute)) for labels, load in loads])
    waits: list[tuple[str, float]] = []
    for labels, job, live in stages:
        waits.append((f'{labels},on="input"', counters.loads(job.uid, live.stage).wait_input_s))
        blocked = sum(one.wait_output_s for one, _ in counters.measures(job.uid, live.stage))
        waits.append((f'{labels},on="output"', blocked))
    text = "Time that ready predictors had no batch (input), or a result without space for it (output)."
    yield from _metric("headrace_stage_wait_seconds_total", "counter", text, waits)
    held = [
        (
            labels,
            sum(
                one.rows_in_progress
                for seat in scrape.seats
                if seat.job_uid == job.uid and not seat.is_lost
                for one in seat.measures
                if one.stage == live.stage
            ),
        )
        for labels, job, live in stages
    ]
    yield from _metric("headrace_stage_rows_in_progress", "gauge", "Rows that a stage's predictors hold.", held)
    queued = [(labels, live.queue_batches) for labels, _, live in stages]
    yield from _metric("headrace_stage_batches_queued", "gauge", "Batches that wait for a predictor.", queued)
    done = [(labels, counters.last_done_at(job.uid, live.stage)) for labels, job, live in stages]
    last = [(labels, 0.0 if at is None else round(scrape.wall - (scrape.now - at), 3)) for labels, at in done]
    text = "When a batch of the stage was last done; 0: none yet."
    yield from _metric("headrace_stage_last_progress_timestamp_seconds", "gauge", text, last)


def _batches(scrape: Scrape) -> Iterator[str]:
    rows: list[tuple[str, Histogram]] = []
    seconds: list[tuple[str, Histogram]] = []
    for labels, job, live in _all_stages(scrape):
        load = scrape.counters.loads(job.uid, live.stage)
        by_rows, by_seconds = Histogram(BATCH_ROWS), Histogram(BATCH_SECONDS)
        for one, _ in scrape.counters.measures(job.uid, live.stage):
            by_rows.add(one.rows_counts, 0)
            by_seconds.add(one.seconds_counts, 0)
        by_rows.sum, by_seconds.sum = load.rows_out, load.busy_s
        rows.append((labels, by_rows))
        seconds.append((labels, by_seconds))
    yield from _histogram("headrace_batch_rows", "Rows of the batches that a stage computed.", rows)
    yield from _histogram("headrace_batch_duration_seconds", "Time in the stage's own code for each batch.", seconds)
    target = [(labels, live.batch_rows) for labels, _, live in _all_stages(scrape)]
    yield from _metric("headrace_batch_size_target_rows", "gauge", "Most rows of a batch.", target)


def _predictors(scrape: Scrape) -> Iterator[str]:
    counters = scrape.counters
    stages = _all_stages(scrape)
    ready = [(labels, live.predictors) for labels, _, live in stages]
    yield from _metric("headrace_predictor_ready", "gauge", "Predictors that are ready.", ready)
    restarts: list[tuple[str, float]] = []
    loads: list[tuple[str, float]] = []
    for labels, job, live in stages:
        measures = counters.measures(job.uid, live.stage)
        hangs = sum(one.hangs for one, _ in measures)
        restarts.append((f'{labels},reason="crash"', counters.loads(job.uid, live.stage).restarts - hangs))
        restarts.append((f'{labels},reason="hang"', hangs))
        loads.append((labels, max((one.load_s for one, _ in measures), default=0.0)))
    text = "Predictors that were replaced: they died (crash), or took too long for a batch (hang)."
    yield from _metric("headrace_predictor_restarts_total", "counter", text, restarts)
    text = "Longest time from the start of a predictor to its being ready."
    yield from _metric("headrace_model_load_duration_seconds", "gauge", text, loads)


def _all_stages(scrape: Scrape) -> list[tuple[str, JobStatus, StageLoad]]:
    """Labels, job, and what the stage's live workers say of it."""
    return [(f'{_job(job)},stage="{live.stage}"', job, live) for job in scrape.jobs for live in job.stages]


def _job(job: JobStatus) -> str:
    return f'job_name="{job.name}"'  # names of jobs and stages have no character that would need escaping


def _metric(name: str, kind: str, text: str, samples: Samples) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _histogram(name: str, text: str, histograms: Iterable[tuple[str, Histogram]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} histogram"
    for labels, histogram in histograms:
        before = f"{labels}," if labels else ""
        total = 0
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{before}le="{bound}"}} {total}'
        around = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{around} {histogram.sum}"
        yield f"{name}_count{around} {total}"
