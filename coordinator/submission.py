"""A submission: from the job's text to a plan that can be journaled. Blocking; the driver calls it in a thread.

    manifest ─▶ InferenceJob ─▶ plan_source ─▶ resolve ─▶ check_sink ─▶ cut

Only metadata of the input is read and nothing is written. What other modules of planning need to import (pydantic,
pyarrow) is imported here, late, so that the process answers before they are loaded.

Not here: whether a job of this name runs already (`coordinator.driver`), the claim (`coordinator.output`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.core import planner
from coordinator.core.columns import Ints
from coordinator.core.facts import JobPlanned
from coordinator.job_run import plan_summary
from coordinator.jobs import Options, Plan, SinkPlan
from coordinator.output import LocalOutput
from headrace.dataset import Dataset
from headrace.program import ErrorPolicy, Program
from headrace.words import JobUid

if TYPE_CHECKING:
    from coordinator.spec import InferenceJob


@dataclass(frozen=True, slots=True)
class Submission:
    """What `Submit` says. `digest` is of what decides the output; the submitter, who sees code and models, makes it."""

    manifest: str
    probes: str = ""
    limit_rows: int | None = None
    again: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job that can be journaled: its plan, its dataset and the ends of its shards."""

    planned: JobPlanned
    dataset: Dataset
    ends: Ints


def warm_up() -> None:
    """Imports what planning needs, so that the first submission doesn't wait for it."""
    import coordinator.datasets
    import coordinator.planning
    import coordinator.spec  # noqa: F401


def read_job(manifest: str) -> "InferenceJob":
    """The job of a submission.

    Raises:
        BadJob: it isn't one that can run.
    """
    from coordinator.spec import InferenceJob

    return InferenceJob.from_manifest(manifest)


def plan_job(submission: Submission, *, number: int, uid: str, ledger_path: Path) -> PlannedJob:
    """Plans a new job.

    Raises:
        BadJob: all that planning finds wrong.
    """
    from coordinator.datasets import plan_source
    from coordinator.planning import check_sink, named_columns, probes_from_json, resolve, source_columns

    job = read_job(submission.manifest)
    source = plan_source(
        job.spec.source, columns=source_columns(job), limit_rows=submission.limit_rows, named=named_columns(job)
    )
    workers = job.spec.workers.max or 1
    probes = probes_from_json(submission.probes)
    program = resolve(job, source, probes, limit_rows=submission.limit_rows, workers=workers)
    program = replace(program, job_uid=uid)
    dataset = source.dataset
    check_sink(job, dataset)
    sizes = planner.sizes(dataset, workers=workers)
    ends = planner.cut(dataset, workers=workers)
    sink, is_held = _sink_plan(job, uid, ledger_path)
    summary = plan_summary(
        program,
        shards=len(ends),
        files=len(dataset.paths),
        rows=dataset.rows_total,
        bytes_total=dataset.bytes_total,
        unit=dataset.unit,
    )
    planned = JobPlanned(
        job=number,
        files=len(dataset.paths),
        cuts=len(dataset.cuts),
        shards=len(ends),
        attempts_max=job.spec.retries.attempts,
        units_min=sizes.units_min,
        bytes_total=dataset.bytes_total,
        rows_total=-1 if dataset.rows_total is None else dataset.rows_total,
        held=is_held,
        divisible=dataset.divisible,
        rows_estimated=dataset.rows_estimated,
        uid=uid,
        name=job.metadata.name,
        digest=submission.digest,
        unit=dataset.unit,
        manifest=submission.manifest,
        program=program.to_json(),
        plan=Plan(sink, read_options(job), summary).to_json(),
    )
    return PlannedJob(planned, dataset, ends)


def read_options(job: "InferenceJob") -> Options:
    """What the job says about how to run it."""
    spec = job.spec
    return Options(
        on_quarantine=spec.errors.on_quarantine,
        coordinator_timeout_s=spec.retries.coordinator_timeout,
        active_deadline_s=spec.active_deadline,
        workers_max=spec.workers.max,
    )


def changed_program(program: Program, job: "InferenceJob") -> Program:
    """The program of a job that goes on, with what the job now says wherever that doesn't decide the output."""
    from coordinator.planning.stages import batch_rows

    spec = job.spec
    stages = {stage.name: stage for stage in spec.pipeline}
    return replace(
        program,
        stages=tuple(
            replace(
                stage,
                batch_rows=batch_rows(stages[stage.name].batch, stage.rows_fixed),
                predictors_min=stages[stage.name].predictors.min,
                predictors_max=stages[stage.name].predictors.max,
            )
            if stage.name in stages
            else stage
            for stage in program.stages
        ),
        errors=ErrorPolicy(
            max_rejected_rows=spec.errors.max_rejected.rows,
            max_rejected_share=spec.errors.max_rejected.share,
            min_rows=program.errors.min_rows,
            keep_rows=program.errors.keep_rows,
            nan=program.errors.nan,
        ),
        arena_bytes=spec.workers.arena,
        predictors_max=spec.workers.predictors_max,
        batch_timeout_s=spec.retries.batch_timeout,
        workers=spec.workers.max or program.workers,
    )


def _sink_plan(job: "InferenceJob", uid: str, ledger_path: Path) -> tuple[SinkPlan, bool]:
    """What becomes of the output, and whether it has readers already, who must see nothing before the end."""
    sink = job.spec.sink
    output = LocalOutput(Path(sink.uri), job=job.metadata.name, uid=JobUid(uid), ledger=str(ledger_path))
    number, last = output.last_manifest()
    existing = output.existing() if sink.mode != "fail" else []
    plan = SinkPlan(
        uri=sink.uri,
        mode=sink.mode,
        format=sink.format,
        number=number + 1,
        base=last if sink.mode == "append" else None,
        old=tuple(existing) if sink.mode == "replace" else (),
    )
    return plan, bool(existing)
