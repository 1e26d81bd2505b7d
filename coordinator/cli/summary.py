"""What `headrace run` says before and after: the plan, and what became of it."""

import json
from typing import Any

import betterproto

from coordinator.cli.words import continues_text, corrupt_text, duration, size
from headrace import v1
from headrace.cores import core_share, machine_cores, within

READERS = "reading and converting"
WRITER = "writing"


def plan_text(job: v1.Job, workers: int) -> str:
    """The plan in a few lines: files, rows if known, shards, stages, predictors of each of `workers` workers here."""
    shards = job.shards_pending + job.shards_leased + job.shards_committed + job.shards_quarantined
    rows = f"{job.rows_total:,} rows" if not job.rows_estimated else "rows not known before reading"
    plan: dict[str, Any] = json.loads(job.plan) if job.plan else {}
    planned = plan.get("stages", ())
    share = core_share(machine_cores(), len(planned), workers)
    stages = []
    batch_rows = min((stage["batch_rows"] for stage in planned), default=0)  # the same rows go through all stages
    for stage in planned:
        count = within(share, stage["predictors_min"], stage["predictors_max"])
        stages.append(
            f"{stage['name']} ({stage['kind']}, {count} predictor{'s' * (count > 1)}, {batch_rows:,} rows a batch)"
        )
    lines = [
        f"Job {job.name}: {job.files:,} files, {size(job.bytes_total)}, {rows}, {shards:,} shards",
        f"  stages  {' → '.join(stages)}" + (f", in each of {workers} workers" if workers > 1 else ""),
        f"  output  {job.output}",
    ]
    if job.shards_committed:
        lines.append(f"  {continues_text(job.shards_committed, shards)}")
    return "\n".join(lines)


def busy_shares(job: v1.Job) -> dict[str, float]:
    """For each stage the share of its predictors' time that they were busy, and the same for reading and writing."""
    shares = {stage.stage: stage.busy_s / stage.predictor_s if stage.predictor_s > 0 else 0.0 for stage in job.stages}
    if job.elapsed_s > 0:
        workers = max(1, job.workers)
        shares[READERS] = min(1.0, job.read_busy_s / (2 * workers * job.elapsed_s))
        shares[WRITER] = min(1.0, job.write_busy_s / (workers * job.elapsed_s))
    return shares


def bound_by(job: v1.Job) -> str:
    """What was busiest: adding to anything else would not make the job faster."""
    shares = busy_shares(job)
    if not shares:
        return ""
    name = max(shares, key=lambda key: shares[key])
    if shares[name] < 0.5:
        return f"nothing for long: the busiest is {name} with {shares[name]:.0%}; starting up takes its part"
    return f"{name}, busy {shares[name]:.0%} of the time"


def rows_in(job: v1.Job) -> int:
    """Rows of committed shards."""
    return job.rows_out + job.rows_filtered + job.rows_rejected


def summary_text(job: v1.Job, seconds: float, rows_before: int) -> str:
    """What became of the job, in a few lines; `rows_before` were committed before these `seconds`."""
    rows = rows_in(job)
    lines = [f"Job {job.name}: {job.phase} after {duration(seconds)}"]
    lines += [
        f"  {condition.reason}: {condition.message}"
        for condition in job.conditions
        if condition.status and condition.type in ("Failed", "Degraded")
    ]
    lines.append(
        f"  rows    {rows:,} in = {job.rows_out:,} out + {job.rows_filtered:,} filtered "
        f"+ {job.rows_rejected:,} rejected"
    )
    if job.rows_corrupt:
        lines.append(
            f"  corrupt {corrupt_text(job.unit, job.rows_corrupt, job.parts_lost, job.rows_lost)} can't be read; "
            f"`headrace rejects {job.output}` says why"
        )
    if rows > rows_before:
        since = f", {rows_before:,} rows were there before" if rows_before else ""
        lines.append(f"  rate    {(rows - rows_before) / seconds:,.0f} rows/s over all{since}")
    else:
        return "\n".join([*lines, f"  output  {job.output}"])
    shares = busy_shares(job)
    for stage in job.stages:
        lines.append(
            f"  stage   {stage.stage}: busy {shares[stage.stage]:.0%}, {stage.rows_out:,} rows in "
            f"{stage.batches:,} batches"
            + (f", {stage.rows_in - stage.rows_out:,} rows in failed tries" if stage.rows_in > stage.rows_out else "")
            + (f", {stage.restarts} predictors replaced" if stage.restarts else "")
        )
    lines += [f"  {name}: busy {shares[name]:.0%}" for name in (READERS, WRITER) if name in shares]
    if bound := bound_by(job):
        lines.append(f"  bound   {bound}")
    lines.append(f"  output  {job.output}")
    return "\n".join(lines)


def message_plain(message: betterproto.Message) -> dict[str, Any]:
    """A message as plain values, snake-case names, 64-bit integers as numbers."""
    plain: dict[str, Any] = message.to_pydict(casing=betterproto.Casing.SNAKE, include_default_values=True)  # type: ignore[arg-type]
    return plain


def job_json(job: v1.Job, seconds: float | None = None) -> dict[str, Any]:
    """A job as plain values for `-o json`; snake-case names, all of them present."""
    plain = message_plain(job)
    plain["plan"] = json.loads(job.plan) if job.plan else None
    plain["busy_shares"] = busy_shares(job)
    plain["bound_by"] = bound_by(job)
    if seconds is not None:
        plain["seconds"] = round(seconds, 3)
        plain["rows_in"] = rows_in(job)
    return plain
