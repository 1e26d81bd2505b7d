"""A submission: from the job's text to a plan that can be journaled. Blocking; the driver calls it in a thread.

    manifest ─▶ InferenceJob ─▶ examine ─▶ resolve ─▶ cut

Only metadata of the input is read and nothing is written. What other modules of planning need to import (pydantic,
pyarrow) is imported here, late, so that the process answers before they are loaded.

Not here: whether a job of this name runs already (`coordinator.driver`), the claim (`coordinator.output`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.appending import check_append
from coordinator.core import planner
from coordinator.core.columns import Ints
from coordinator.core.facts import JobPlanned
from coordinator.examination import examined_program
from coordinator.job_run import plan_summary
from coordinator.jobs import Options, Plan, SinkPlan
from coordinator.manifest import RETRY
from coordinator.output import Output
from coordinator.rejected import Rejected, rejected_job, rejected_program
from headrace.dataset import Dataset
from headrace.errors import BadJob
from headrace.program import ErrorPolicy, Program
from headrace.rejects import JOB_SUFFIX
from headrace.stores import open_store
from headrace.words import JobUid

if TYPE_CHECKING:
    from coordinator.datasets import PlannedSource
    from coordinator.planning import Probe
    from coordinator.spec import InferenceJob


@dataclass(frozen=True, slots=True)
class Submission:
    """What `Submit` says. `digest` is of what decides the output; the submitter, who sees code and models, makes it."""

    manifest: str
    probes: str = ""
    limit_rows: int | None = None
    again: bool = False
    digest: str = ""
    rejected: bool = False  # the job runs the rejects of its output again


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """What a good submission means, but for its output."""

    job: "InferenceJob"
    probes: "Mapping[str, Probe]"
    dataset: Dataset
    program: Program
    rejected: Rejected | None  # what is run again


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


def read_job(submission: Submission) -> "InferenceJob":
    """The job of a submission; one that runs rejects again has a name of its own.

    Raises:
        BadJob: it isn't one that can run.
    """
    from coordinator.spec import InferenceJob

    job = InferenceJob.from_manifest(submission.manifest)
    if not submission.rejected:
        return job
    name = job.metadata.name + JOB_SUFFIX
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"name": name})})


def plan_job(
    submission: Submission, *, number: int, uid: str, ledger_path: Path, checked: CheckedJob | None = None
) -> PlannedJob:
    """Plans a new job; one that `check_job` has found good is asked for its output only.

    Raises:
        BadJob: all that planning finds wrong.
    """
    if checked is None:
        checked = _checked(submission, with_output=True)
    elif checked.rejected is None:
        from coordinator.planning import sink_faults

        if faults := sink_faults(checked.job, checked.dataset):
            raise BadJob(faults)
    job, dataset, rejected = checked.job, checked.dataset, checked.rejected
    program = replace(checked.program, job_uid=uid)
    sizes = planner.sizes(dataset, workers=program.workers)
    ends = planner.cut(dataset, workers=program.workers)
    sink, is_held = _sink_plan(job, program, checked.probes, ledger_path)
    if rejected is not None:
        sink = replace(
            sink,
            mode=RETRY,
            number=rejected.number + 1,
            base=rejected.base,
            old=tuple(file.name for file in rejected.files),
            old_digests=tuple(file.digest for file in rejected.files),
        )
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


def check_job(submission: Submission) -> CheckedJob:
    """Finds what planning finds wrong, but for what lies in the output's folder.

    Raises:
        BadJob: as `plan_job`.
    """
    checked = _checked(submission, with_output=False)
    check_append(checked.program, checked.probes)
    return checked


def _checked(submission: Submission, *, with_output: bool) -> CheckedJob:
    from coordinator.planning import probes_from_json

    job = read_job(submission)
    given: PlannedSource | None = None
    rejected: Rejected | None = None
    if submission.rejected:
        job, given, rejected = rejected_job(job)
        with_output = False  # which must be there, and not be empty
    probes = probes_from_json(submission.probes)
    source, program, _ = examined_program(
        job, probes, limit_rows=submission.limit_rows, with_output=with_output, source=given
    )
    if rejected is not None:
        program = rejected_program(program, job, source)
    return CheckedJob(job, probes, source.dataset, program, rejected)


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
            max_rejected_rows=None if program.source.rejected else spec.errors.max_rejected.rows,
            max_rejected_share=None if program.source.rejected else spec.errors.max_rejected.share,
            min_rows=program.errors.min_rows,
            keep_rows=program.errors.keep_rows,
            nan=program.errors.nan,
        ),
        arena_bytes=spec.workers.arena,
        predictors_max=spec.workers.predictors_max,
        batch_timeout_s=spec.retries.batch_timeout,
        workers=spec.workers.max or program.workers,
    )


def _sink_plan(
    job: "InferenceJob", program: Program, probes: "Mapping[str, Probe]", ledger_path: Path
) -> tuple[SinkPlan, bool]:
    """What becomes of the output, and whether it has readers already, who must see nothing before the end."""
    sink = job.spec.sink
    output = Output(
        open_store(sink.uri, program.job_uid, program.sink.storage),
        job=job.metadata.name,
        uid=JobUid(program.job_uid),
        ledger=str(ledger_path),
    )
    number, last = output.last_manifest()
    old = output.existing() if sink.mode == "replace" else []
    plan = SinkPlan(
        uri=sink.uri,
        mode=sink.mode,
        format=sink.format,
        number=number + 1,
        base=last if sink.mode == "append" else None,
        old=tuple(old),
        # After the number of the manifest: whoever writes the next one meanwhile has the claim fail.
        schema=check_append(program, probes),
    )
    return plan, bool(old) or (sink.mode == "append" and output.has_files())
