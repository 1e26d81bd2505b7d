"""What a commit must be that is to count: its rows add up, its files are its lease's, its schema is one.

Not here: whether its lease lives and its range is the shard's (`coordinator.core.leases`), what any report must be
(`coordinator.report_check`).
"""

from coordinator.core.lease_values import OtherSchema
from coordinator.core.schema import columns_of, differences
from coordinator.exchange import CommitAsked
from coordinator.job_run import JobRun
from headrace.dataset import corrupt_fault, corrupt_rows
from headrace.publish import REJECTED, parse_part_name


def commit_fault(run: JobRun, asked: CommitAsked) -> str:
    """Why the commit can't be one of this job's; empty if it may be."""
    return _name_fault(run, asked) or _rows_fault(run, asked) or _schema_fault(asked) or _corrupt_fault(run, asked)


def schemas_differ(run: JobRun, found: OtherSchema) -> str:
    """What the user reads when an output would hold files of two schemas."""
    where = "the files that this job adds to" if run.plan.sink.schema else "the files before"
    return (
        f"Output rows came with other columns than {where}: {differences(found.agreed, found.found)}. "
        "All files of an output have the same columns and types: cast the column in its stage, whatever the data, "
        "then start anew with --again."
    )


def _name_fault(run: JobRun, asked: CommitAsked) -> str:
    """Why a commit's file names aren't those of its lease: nothing a worker says is trusted about another's."""
    if len({file.name for file in asked.files}) != len(asked.files):
        return "a file is named twice"
    for file in asked.files:
        folder, _, name = file.name.rpartition("/")
        if (folder, file.kind) not in (("", "data"), (REJECTED, "rejects")):
            return f"{file.name} isn't where {file.kind} files go"
        if parse_part_name(name) != (asked.shard, run.uid[:8], asked.epoch):
            return f"{file.name} isn't a name of shard {asked.shard}, epoch {asked.epoch} of this job"
    return ""


def _rows_fault(run: JobRun, asked: CommitAsked) -> str:
    """Why a commit's rows don't add up to what a manifest must say (law 1)."""
    counts, unit = asked.counts, run.ledger.planned.unit
    readable = asked.end - asked.begin - corrupt_rows(unit, asked.corrupt)
    if unit != "byte" and counts.read != readable:
        return f"{counts.read} rows were read of {readable}"
    for kind, rows in (("data", counts.out + counts.children), ("rejects", counts.rejected)):
        listed = sum(file.rows for file in asked.files if file.kind == kind)
        if listed != rows:
            return f"the files of {kind} have {listed} rows, the counts say {rows}"
    return ""


def _schema_fault(asked: CommitAsked) -> str:
    """Why a commit's schema isn't one of its data files."""
    if bool(asked.schema) != any(file.kind == "data" for file in asked.files):
        return "data files come with their schema, and no schema without them"
    try:
        columns_of(asked.schema)
    except (ValueError, TypeError):
        return f"{asked.schema[:100]!r} is no schema"
    return ""


def _corrupt_fault(run: JobRun, asked: CommitAsked) -> str:
    """Why a commit's corrupt ranges aren't what the job says may be left out."""
    if asked.corrupt and run.program.source.on_corrupt != "reject":
        return "corrupt ranges are listed, and the job doesn't say that they may be"
    return corrupt_fault(asked.begin, asked.end, asked.corrupt)
