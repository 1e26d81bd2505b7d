"""`headrace plan`: everything that planning can find wrong, then the plan; nothing is run or touched."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.errors import BadJob, Fault


def make_plan(
    path: Path, sets: Mapping[str, str], environ: Mapping[str, str], limit_rows: int | None
) -> dict[str, Any]:
    """The plan as plain values.

    Raises:
        BadJob: all faults of the job file, its input, its models and its output together.
    """
    from coordinator.planning import check_system
    from coordinator.probing import find_probes
    from coordinator.spec import load_job

    check_system(sys.platform)
    loaded = load_job(path, sets, environ)
    job = loaded.job.absolute(loaded.folder)
    probes, faults = asyncio.run(find_probes(loaded.job, loaded.folder))

    from coordinator.core import planner
    from coordinator.datasets import plan_source
    from coordinator.planning import find_faults, named_columns, resolve, source_columns
    from coordinator.planning.output_check import sink_faults

    source = None
    try:
        source = plan_source(
            job.spec.source, columns=source_columns(job), limit_rows=limit_rows, named=named_columns(job)
        )
    except BadJob as error:
        faults += error.faults
    faults += find_faults(job, source, probes)
    faults += sink_faults(job, source.dataset if source is not None else None)
    if faults or source is None:
        raise loaded.located(BadJob(_unique(faults)))
    workers = job.spec.workers.max or 1
    program = resolve(job, source, probes, limit_rows=limit_rows, workers=workers)
    dataset = source.dataset
    return {
        "job": program.job_name,
        "files": len(dataset.paths),
        "bytes": dataset.bytes_total,
        "rows": dataset.rows_total,
        "rows_estimated": dataset.rows_estimated,
        "unit": dataset.unit,
        "units": dataset.units_total,
        "shards": len(planner.cut(dataset, workers=workers)),
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "target": stage.target,
                "batch_rows": stage.batch_rows,
                "inputs": {item.name: [str(ref) for ref in item.refs] for item in stage.inputs},
                "outputs": _outputs(probes[stage.name].outputs),
            }
            for stage in program.stages
        ],
        "output": program.sink.uri,
        "columns": {column.name: str(column.ref) for column in program.sink.columns},
    }


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan as text."""
    rows = f"{plan['rows']:,} rows" if plan["rows"] is not None else "rows not known before reading"
    lines = [
        f"Job {plan['job']} can run: {plan['files']:,} files, {plan['bytes']:,} bytes, {rows}, "
        f"{plan['shards']:,} shards"
    ]
    for stage in plan["stages"]:
        inputs = ", ".join(f"{name} from {' + '.join(refs)}" for name, refs in stage["inputs"].items())
        outputs = ", ".join(stage["outputs"] or ["outputs known with the first batch"])
        lines.append(f"  stage   {stage['name']} ({stage['kind']} {stage['target']}): {inputs} → {outputs}")
    lines.append(
        f"  output  {plan['output']}: " + ", ".join(f"{name} from {ref}" for name, ref in plan["columns"].items())
    )
    return lines


def _outputs(outputs: Any) -> list[str] | None:
    if outputs is None:
        return None
    shapes = {name: "x".join("?" if n is None else str(n) for n in spec.shape or ()) for name, spec in outputs.items()}
    return [f"{name} {outputs[name].dtype}[{shape}]" for name, shape in shapes.items()]


def _unique(faults: list[Fault]) -> list[Fault]:
    return list(dict.fromkeys(faults))
