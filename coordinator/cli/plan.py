"""`headrace plan`: everything that planning can find wrong, then the plan; nothing is run or touched.

Of a job that a run would continue, or that is complete, it says that, with the words and the exit code of the run.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli.standing import find_standing
from coordinator.cli.state import AlreadyRunning, JobFolder, job_folder
from coordinator.cli.words import complete_text, continues_text
from headrace.errors import BadJob

if TYPE_CHECKING:
    from coordinator.core.ledger import JobLedger
    from coordinator.examination import Told
    from coordinator.planning import Probe
    from coordinator.spec import LoadedJob
    from headrace.program import Program


def make_plan(
    path: Path, sets: Mapping[str, str], environ: Mapping[str, str], limit_rows: int | None, state: Path
) -> dict[str, Any]:
    """The plan as plain values; `state` is where runs keep their ledgers.

    Raises:
        BadJob: all faults of the job file, its input, its models and its output together.
        HeadraceError: a run would refuse the job as it stands on this machine: it is being run, or has changed.
    """
    from coordinator.planning import check_system
    from coordinator.spec import examine_job

    check_system(sys.platform)
    loaded = examine_job(path, sets, environ)
    folder = job_folder(state, loaded.job.metadata.name)
    if loaded.faults:
        raise mistakes(loaded, folder, limit_rows)
    folder.check_free()
    standing = find_standing(folder, loaded.job.metadata.name)
    probes, told = asyncio.run(probe_all(loaded))
    if standing is None:
        return _new_plan(loaded, probes, told, limit_rows)
    if told.faults:
        raise loaded.located(BadJob(told.faults))
    return _standing_plan(loaded, standing, limit_rows)


def mistakes(loaded: "LoadedJob", folder: JobFolder, limit_rows: int | None) -> BadJob:
    """All that can be found wrong with a job whose file has faults already, as the error to raise.

    Raises:
        BadJob: nothing can be looked at here.
    """
    from coordinator.planning import check_system

    check_system(sys.platform)
    probes, told = asyncio.run(probe_all(loaded))
    found = all_faults(loaded, probes, told, limit_rows, with_output=_is_new(loaded, folder))
    return loaded.located(found)


def _is_new(loaded: "LoadedJob", folder: JobFolder) -> bool:
    """Whether the output can't hold what an earlier run of the job committed."""
    if "metadata" in loaded.blank:
        return False
    try:
        folder.check_free()
    except AlreadyRunning:
        return False
    return find_standing(folder, loaded.job.metadata.name) is None


async def probe_all(loaded: "LoadedJob") -> "tuple[dict[str, Probe], Told]":
    """Probes of the stages that can be loaded, and what is wrong with the job file and the others."""
    from coordinator.examination import Told, doubtful_stages
    from coordinator.probing import find_probes

    told = Told.of(loaded)
    skip = [i for i in range(len(loaded.job.spec.pipeline)) if f"spec.pipeline[{i}]" in loaded.blank]
    doubtful = doubtful_stages(loaded.job, told)
    probes, faults = await find_probes(loaded.job, loaded.folder, skip=skip, doubtful=doubtful)
    return probes, told.also(faults)


def all_faults(
    loaded: "LoadedJob", probes: "Mapping[str, Probe]", told: "Told", limit_rows: int | None, *, with_output: bool
) -> BadJob:
    """What is wrong with a job, `told` of which is known already; the fields aren't located."""
    from coordinator.examination import examine

    job = loaded.job.absolute(loaded.folder)
    _, told = examine(job, probes, limit_rows=limit_rows, with_output=with_output, told=told)
    return BadJob(told.faults)


def _new_plan(
    loaded: "LoadedJob", probes: "Mapping[str, Probe]", told: "Told", limit_rows: int | None
) -> dict[str, Any]:
    from coordinator.appending import check_append
    from coordinator.core import planner
    from coordinator.examination import examined_program

    job = loaded.job.absolute(loaded.folder)
    try:
        source, program, unseen = examined_program(job, probes, limit_rows=limit_rows, told=told)
        check_append(program, probes)
    except BadJob as error:
        raise loaded.located(error) from error
    dataset = source.dataset
    outputs = {name: _outputs(probe.outputs) for name, probe in probes.items()}
    return {
        "job": program.job_name,
        "standing": "new",
        "files": len(dataset.paths),
        "bytes": dataset.bytes_total,
        "rows": dataset.rows_total,
        "rows_estimated": dataset.rows_estimated,
        "unit": dataset.unit,
        "units": dataset.units_total,
        "shards": len(planner.cut(dataset, workers=program.workers)),
        "shards_committed": 0,
        **_program_plan(program, outputs),
        "warnings": [f"the output couldn't be looked at, and no run begins before it can: {unseen}"] if unseen else [],
    }


def _standing_plan(loaded: "LoadedJob", standing: "JobLedger", limit_rows: int | None) -> dict[str, Any]:
    """The plan of a job that goes on, or is complete, as its ledger has it."""
    from coordinator.cli.client import Rejected
    from coordinator.continuing import is_complete, refusal
    from coordinator.identity import job_digest
    from headrace.program import program_from_json

    digest = job_digest(loaded.job, loaded.folder, limit_rows)
    if text := refusal(standing, digest, loaded.job.absolute(loaded.folder)):
        raise Rejected(text)
    planned, counts = standing.planned, standing.table.counts
    return {
        "job": planned.name,
        "standing": "complete" if is_complete(standing) else "continues",
        "files": planned.files,
        "bytes": planned.bytes_total,
        "rows": None if planned.rows_total < 0 else planned.rows_total,
        "rows_estimated": planned.rows_estimated,
        "unit": planned.unit,
        "units": standing.dataset.units_total,
        "shards": counts.total,
        "shards_committed": counts.committed,
        **_program_plan(program_from_json(planned.program), {}),
        "warnings": [],
    }


def _program_plan(program: "Program", outputs: Mapping[str, Sequence[str] | None]) -> dict[str, Any]:
    return {
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "target": stage.target,
                "batch_rows": stage.batch_rows,
                "inputs": {item.name: [str(ref) for ref in item.refs] for item in stage.inputs},
                "outputs": outputs.get(stage.name),
            }
            for stage in program.stages
        ],
        "output": program.sink.uri,
        "columns": {column.name: str(column.ref) for column in program.sink.columns},
    }


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan as text."""
    if plan["standing"] == "complete":
        return [complete_text(plan["job"]), f"  output  {plan['output']}"]
    rows = f"{plan['rows']:,} rows" if plan["rows"] is not None else "rows not known before reading"
    sizes = f"{plan['files']:,} files, {plan['bytes']:,} bytes, {rows}, {plan['shards']:,} shards"
    if plan["standing"] == "continues":
        lines = [f"Job {plan['job']} {continues_text(plan['shards_committed'], plan['shards'])}", f"  input   {sizes}"]
    else:
        lines = [f"Job {plan['job']} can run: {sizes}"]
    for stage in plan["stages"]:
        inputs = ", ".join(f"{name} from {' + '.join(refs)}" for name, refs in stage["inputs"].items())
        outputs = ", ".join(stage["outputs"] or ["outputs known with the first batch"])
        lines.append(f"  stage   {stage['name']} ({stage['kind']} {stage['target']}): {inputs} → {outputs}")
    lines.append(
        f"  output  {plan['output']}: " + ", ".join(f"{name} from {ref}" for name, ref in plan["columns"].items())
    )
    return lines + [f"  warning {text}" for text in plan["warnings"]]


def _outputs(outputs: Any) -> list[str] | None:
    if outputs is None:
        return None
    shapes = {name: "x".join("?" if n is None else str(n) for n in spec.shape or ()) for name, spec in outputs.items()}
    return [f"{name} {outputs[name].dtype}[{shape}]" for name, shape in shapes.items()]
