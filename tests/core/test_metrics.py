"""The metrics as a scraper reads them: valid text, one meaning per name, sums that outlive the workers."""

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.counters import Counters, Histogram
from coordinator.exchange import Report, Seat, StageLoad, StageMeasures
from coordinator.jobs import JobStatus
from coordinator.metrics import Scrape, render
from headrace.buckets import BATCH_ROWS, BATCH_SECONDS
from headrace.words import Incarnation, JobUid, WorkerName

WALL = 1_700_000_000.0
UID = JobUid("u1")
CONVENTIONS = {
    "headrace_rows": "counter",
    "headrace_row_retries": "counter",
    "headrace_shards": "gauge",
    "headrace_leases_expired": "counter",
    "headrace_fenced_commits": "counter",
    "headrace_lease_duration_seconds": "histogram",
    "headrace_stage_rows_in": "counter",
    "headrace_stage_rows_in_progress": "gauge",
    "headrace_stage_rows_out": "counter",
    "headrace_stage_last_progress_timestamp_seconds": "gauge",
    "headrace_stage_busy_seconds": "counter",
    "headrace_stage_wait_seconds": "counter",
    "headrace_batch_rows": "histogram",
    "headrace_batch_duration_seconds": "histogram",
    "headrace_batch_size_target_rows": "gauge",
    "headrace_predictor_restarts": "counter",
    "headrace_predictor_ready": "gauge",
    "headrace_model_load_duration_seconds": "gauge",
    "headrace_shm_size_bytes": "gauge",
    "headrace_shm_used_bytes": "gauge",
    "headrace_workers": "gauge",
    "headrace_job_start_timestamp_seconds": "gauge",
    "headrace_job_last_success_timestamp_seconds": "gauge",
    "headrace_job_estimated_completion_timestamp_seconds": "gauge",
    "headrace_build_info": "gauge",
}
"""Families of the conventions page; those of scaling and of prices come with what they measure."""


def status(**changes: Any) -> JobStatus:
    """A running job with one stage and 1,234,567 rows out."""
    zeros = dict.fromkeys(JobStatus.__slots__, 0)
    fields = zeros | {
        "name": "j",
        "uid": UID,
        "phase": "Running",
        "rows_out": 1_234_567,
        "eta_high_s": -1.0,
        "stages": (StageLoad("s", predictors=2, queue_batches=3, batch_rows=1024),),
        "started_ago_s": 100.0,
        "succeeded_ago_s": None,
    }
    return JobStatus(**(fields | changes))


def report(incarnation: str, rows: int) -> Report:
    """A worker's word after one batch of `rows` rows in 2 s, a crash and a hang."""
    counts = Histogram(BATCH_ROWS)
    counts.observe(rows)
    seconds = Histogram(BATCH_SECONDS)
    seconds.observe(2.0)
    measures = StageMeasures(
        "s",
        rows_in_progress=5,
        wait_output_s=0.5,
        last_done_ago_s=3.0,
        load_s=4.0,
        hangs=1,
        rows_tried_again={"exception": 0, "crash": 8, "hang": 9},
        seconds_counts=tuple(seconds.counts),
        rows_counts=tuple(counts.counts),
    )
    load = StageLoad("s", rows_in=rows, rows_out=rows, batches=1, busy_s=2.0, wait_input_s=1.5, restarts=2)
    return Report(
        WorkerName("w"), Incarnation(incarnation), term=1, sequence=1, stages=(load,), measures=(measures,),
        arena_bytes=1 << 20, arena_used_bytes=4096, read_busy_s=0.25,
    )  # fmt: skip


def scraped(*jobs: JobStatus, seats: tuple[Seat, ...] = (), counters: Counters | None = None) -> dict[str, Any]:
    """Samples by name and labels; fails if the text isn't what Prometheus reads."""
    text = render(Scrape(jobs, seats, counters or Counters(), now=50.0, wall=WALL), "1.0")
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert f"# TYPE {family.name}{'_total' if family.type == 'counter' else ''} {family.type}" in text
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_family_is_there_before_any_job() -> None:
    text = render(Scrape((), (), Counters(), now=0.0, wall=WALL), "1.0")
    found = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert CONVENTIONS.items() <= found.items()
    assert scraped()["headrace_row_retries_total reason=crash"] == 0


def test_large_numbers_keep_all_their_digits() -> None:
    assert scraped(status())["headrace_rows_total outcome=ok"] == 1_234_567


def test_what_a_lost_worker_did_still_counts() -> None:
    counters = Counters()
    counters.note(UID, report("first", 100), now=20.0)
    counters.note(UID, report("first", 300), now=30.0)  # says its sums again
    counters.note(UID, report("second", 2000), now=40.0)
    found = scraped(status(), counters=counters)
    labels = " job_name=j stage=s"
    assert found["headrace_stage_rows_out_total" + labels] == 2300
    assert found["headrace_stage_wait_seconds_total job_name=j on=input stage=s"] == 3.0
    assert found["headrace_stage_wait_seconds_total job_name=j on=output stage=s"] == 1.0
    assert found["headrace_predictor_restarts_total job_name=j reason=crash stage=s"] == 2
    assert found["headrace_predictor_restarts_total job_name=j reason=hang stage=s"] == 2
    assert found["headrace_row_retries_total reason=hang"] == 18
    assert found["headrace_read_busy_seconds_total job_name=j"] == 0.5
    assert found["headrace_batch_rows_count" + labels] == 2
    assert found["headrace_batch_rows_sum" + labels] == 2300
    assert found["headrace_batch_rows_bucket job_name=j le=1024 stage=s"] == 1
    assert found["headrace_batch_duration_seconds_bucket job_name=j le=1.0 stage=s"] == 0
    assert found["headrace_batch_duration_seconds_bucket job_name=j le=2.5 stage=s"] == 2
    assert found["headrace_stage_last_progress_timestamp_seconds" + labels] == WALL - (50 - (40 - 3))
    assert found["headrace_model_load_duration_seconds" + labels] == 4.0


def test_only_the_last_incarnation_of_a_worker_is_kept_by_itself() -> None:
    counters = Counters()
    for number in range(100):
        counters.note(UID, report(f"i{number}", 100), now=20.0 + number)
    counters.note(UID, replace(report("idle", 0), stages=(), measures=()), now=200.0)
    found = scraped(status(), counters=counters)
    labels = " job_name=j stage=s"
    assert len(counters.words(UID)) == 2
    assert found["headrace_stage_rows_out_total" + labels] == 10_000
    assert found["headrace_stage_wait_seconds_total job_name=j on=output stage=s"] == 50.0
    assert found["headrace_predictor_restarts_total job_name=j reason=hang stage=s"] == 100
    assert found["headrace_row_retries_total reason=crash"] == 800
    assert found["headrace_read_busy_seconds_total job_name=j"] == 25.25
    assert found["headrace_batch_rows_count" + labels] == 100
    assert found["headrace_batch_rows_sum" + labels] == 10_000
    assert found["headrace_batch_duration_seconds_bucket job_name=j le=2.5 stage=s"] == 100
    assert found["headrace_stage_last_progress_timestamp_seconds" + labels] == WALL - (50 - (119 - 3))
    assert found["headrace_model_load_duration_seconds" + labels] == 4.0
    counters.forget(UID)
    assert counters.words(UID) == []


def test_what_is_so_now_is_asked_of_live_workers_only() -> None:
    seats = []
    for name, is_lost in (("a", False), ("b", True)):
        seat = Seat(WorkerName(name), Incarnation(name), UID, seen_at=0.0)
        seat.note(report(name, 10))
        seats.append(replace(seat, is_lost=is_lost))
    found = scraped(status(), seats=tuple(seats))
    assert found["headrace_stage_rows_in_progress job_name=j stage=s"] == 5
    assert found["headrace_shm_size_bytes"] == 1 << 20
    assert found["headrace_shm_used_bytes"] == 4096
    assert (found["headrace_workers state=live"], found["headrace_workers state=lost"]) == (1, 1)


@pytest.mark.parametrize(
    ("job", "name", "value"),
    [
        (status(), "start", WALL - 100),
        (status(), "last_success", None),
        (status(phase="Succeeded", succeeded_ago_s=7.0), "last_success", WALL - 7),
        (status(), "estimated_completion", None),
        (status(eta_high_s=60.0), "estimated_completion", WALL + 60),
        (status(phase="Succeeded", eta_high_s=0.0), "estimated_completion", None),
    ],
)
def test_times_of_a_job_are_unix_times_and_missing_while_unknown(job: JobStatus, name: str, value: float) -> None:
    assert scraped(job).get(f"headrace_job_{name}_timestamp_seconds job_name=j") == value
