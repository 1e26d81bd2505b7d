"""The job, the planned source and the probes to one program, or to everything that is wrong with them together.

Each check says nothing where what it needs isn't known (a stage whose probe failed, a python stage's outputs), so that
`find_faults` can look at a job of which only parts could be examined.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from coordinator.planning.inputs import UNKNOWN, Given, check_input
from coordinator.planning.probes import Probe
from coordinator.planning.stages import draft_stage, stage_program
from coordinator.spec import (
    ALL_COLUMNS,
    CastSpec,
    InferenceJob,
    StageSpec,
    Use,
    graph_faults,
    running_order,
    sink_uses,
    stage_uses,
)
from coordinator.spec.document import nearest
from headrace.errors import BadJob, Fault
from headrace.local.messages import TensorSpec
from headrace.program import ErrorPolicy, Program, Ref, SinkColumn, SinkProgram, SourceProgram, StageProgram
from headrace.words import SOURCE

if TYPE_CHECKING:
    import pyarrow as pa

    from coordinator.datasets import PlannedSource
    from headrace.dataset import Dataset

_NAMES_MAX = 20
"""Names that a fault lists."""


class SourcePlan(Protocol):
    """What planning needs to know of the source (`coordinator.datasets.PlannedSource`)."""

    @property
    def dataset(self) -> "Dataset": ...
    @property
    def schema(self) -> "pa.Schema": ...


def source_columns(job: InferenceJob) -> list[str] | None:
    """Source columns that the job reads, as far as the job file tells; None for all of them."""
    if job.spec.source.columns is not None:
        return list(job.spec.source.columns)
    if ALL_COLUMNS in job.spec.sink.columns:
        return None
    return list(dict.fromkeys(use.column for use in _uses(job) if use.producer == SOURCE))


def named_columns(job: InferenceJob) -> list[str]:
    """Source columns that the job file names one by one."""
    used = [use.column for use in _uses(job) if use.producer == SOURCE]
    return list(dict.fromkeys([*(job.spec.source.columns or ()), *used]))


def resolve(
    job: InferenceJob, source: "PlannedSource", probes: Mapping[str, Probe], *, limit_rows: int | None, workers: int
) -> Program:
    """The program of a job whose local paths are absolute; its `job_uid` is left empty.

    Raises:
        BadJob: everything that `find_faults` finds.
    """
    faults = find_faults(job, source, probes)
    if faults:
        raise BadJob(faults)
    spec = job.spec
    return Program(
        job_name=job.metadata.name,
        job_uid="",
        source=_source_program(job, source, limit_rows),
        stages=tuple(_stage(job, stage, probes.get(stage.name)) for stage in running_order(spec.pipeline)),
        sink=SinkProgram(
            spec.sink.format,
            spec.sink.uri,
            tuple(_sink_columns(job, source.schema.names)),
            spec.sink.codec,
            spec.sink.mode,
            spec.sink.storage.options,
        ),
        errors=ErrorPolicy(
            max_rejected_rows=spec.errors.max_rejected.rows,
            max_rejected_share=spec.errors.max_rejected.share,
            keep_rows=spec.errors.on_reject == "keep",
            nan=spec.errors.nan,
        ),
        arena_bytes=spec.workers.arena,
        predictors_max=spec.workers.predictors_max,
        batch_timeout_s=spec.retries.batch_timeout,
        workers=workers,
    )


def find_faults(
    job: InferenceJob, source: SourcePlan | None, probes: Mapping[str, Probe], *, untyped: Collection[int] = ()
) -> list[Fault]:
    """All faults of the job against what is known: None or a missing probe is not known.

    What the stages at the indexes `untyped` get isn't compared with what they take.
    """
    faults = graph_faults(job)
    schema = source.schema if source else None
    if schema is not None:
        faults += _listed_columns(job, schema)
    for use in _uses(job):
        if use.producer == SOURCE:
            faults += [] if schema is None else _source_column(job, use, schema)
        else:
            faults += _stage_output(job, use, probes.get(use.producer))
    typed = _typed(source) if source else None
    for i, stage in enumerate(job.spec.pipeline):
        faults += _stage_faults(job, i, stage, typed, probes) if i not in untyped else []
    if schema is not None:
        faults += _sink_faults(job, schema)
    return faults


def _typed(source: SourcePlan) -> "pa.Schema":
    """The columns whose types are known: the null type of a column without rows says nothing."""
    import pyarrow as pa

    if source.dataset.rows_total != 0 or source.dataset.rows_estimated:
        return source.schema
    return pa.schema([field for field in source.schema if not pa.types.is_null(field.type)])


def _uses(job: InferenceJob) -> Iterator[Use]:
    for i, stage in enumerate(job.spec.pipeline):
        yield from stage_uses(stage, i)
    yield from sink_uses(job)


def _readable(job: InferenceJob, schema: "pa.Schema") -> list[str]:
    """Columns that may be named: all of the source's, or those that the job lists."""
    listed = job.spec.source.columns
    return list(schema.names) if listed is None else [name for name in schema.names if name in listed]


def _listed_columns(job: InferenceJob, schema: "pa.Schema") -> list[Fault]:
    faults = []
    for k, name in enumerate(job.spec.source.columns or ()):
        if name not in schema.names:
            faults.append(Fault(f"spec.source.columns[{k}]", f"no column '{name}'", _hint(name, list(schema.names))))
    return faults


def _source_column(job: InferenceJob, use: Use, schema: "pa.Schema") -> list[Fault]:
    if use.column in _readable(job, schema):
        return []
    if use.column in schema.names:
        return [
            Fault(use.field, f"'{use.column}' isn't in spec.source.columns", "add it there, or leave that list out")
        ]
    return [Fault(use.field, f"the source has no column '{use.column}'", _hint(use.column, _readable(job, schema)))]


def _stage_output(job: InferenceJob, use: Use, probe: Probe | None) -> list[Fault]:
    if probe is None or probe.outputs is None or use.column in probe.outputs:
        return []
    return [
        Fault(use.field, f"stage '{use.producer}' has no output '{use.column}'", _hint(use.column, list(probe.outputs)))
    ]


def _hint(wrong: str, names: list[str]) -> str:
    close = nearest(wrong, names)
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    there = f"there are: {', '.join(names[:_NAMES_MAX])}{more}"
    return f"did you mean '{close}'? {there}" if close else there


def _stage_faults(
    job: InferenceJob, index: int, stage: StageSpec, schema: "pa.Schema | None", probes: Mapping[str, Probe]
) -> list[Fault]:
    field = f"spec.pipeline[{index}]"
    probe = probes.get(stage.name)
    faults: list[Fault] = []
    wanted = probe.inputs if probe and stage.onnx is not None else {}
    if probe and stage.onnx is not None:
        faults += _model_inputs(field, stage, probe)
        faults += _batch_dimension(field, probe)
    uses = list(stage_uses(stage, index))
    for name in stage.inputs:
        at = f"{field}.inputs.{name}"
        stacked = isinstance(stage.inputs[name], list)
        if stage.batch.as_ == "arrow":
            faults += _arrow_input(at, f"{field}.cast.{name}", stage.cast.get(name), stacked=stacked)
            continue
        given = [_given(use, schema, probes) for use in uses if use.name == name]
        known = [part for part in given if part is not None]
        if known and len(known) == len(given):
            want = wanted.get(name, UNKNOWN)
            if want.shape == ():  # also how ONNX Runtime reports a shape that the model leaves open
                want = TensorSpec(want.dtype, None)
            cast = stage.cast.get(name)
            faults += check_input(at, f"{field}.cast.{name}", known, stacked=stacked, cast=cast, wanted=want)
    return faults


def _given(use: Use, schema: "pa.Schema | None", probes: Mapping[str, Probe]) -> Given | None:
    """What a reference stands for; None where it stands for nothing, which is another check's fault, or isn't known."""
    reference = f"{use.producer}.{use.column}"
    if use.producer == SOURCE:
        if schema is None or use.column not in schema.names:
            return None
        return Given(use.field, reference, arrow=schema.field(use.column).type)
    probe = probes.get(use.producer)
    if probe is None or probe.outputs is None:
        return Given(use.field, reference)
    spec = probe.outputs.get(use.column)
    return None if spec is None else Given(use.field, reference, spec=spec)


def _model_inputs(field: str, stage: StageSpec, probe: Probe) -> list[Fault]:
    faults = []
    missing = [name for name in probe.inputs if name not in stage.inputs]
    for name in stage.inputs:
        if name not in probe.inputs:
            hint = _hint(name, list(probe.inputs))
            faults.append(Fault(f"{field}.inputs.{name}", f"the model has no input '{name}'", hint))
    if missing:
        found = f"nothing for the model's {', '.join(missing)}"
        faults.append(Fault(f"{field}.inputs", found, "a reference for each, such as source.COLUMN"))
    return faults


def rows_fixed(probe: Probe) -> set[int]:
    """Constant first dimensions of the model's inputs: rows that every call must have."""
    return {spec.shape[0] for spec in probe.inputs.values() if spec.shape and spec.shape[0] is not None}


def _batch_dimension(field: str, probe: Probe) -> list[Fault]:
    fixed = sorted(rows_fixed(probe))
    if len(fixed) < 2:
        return []
    found = f"the model's inputs have first dimensions of {' and '.join(map(str, fixed))}"
    return [Fault(f"{field}.onnx", found, "one number of rows, or a free dimension")]


def _arrow_input(field: str, cast_field: str, cast: CastSpec | None, *, stacked: bool) -> list[Fault]:
    faults = []
    if stacked:
        faults.append(Fault(field, "a list of columns", "one column for each input: batch.as is arrow"))
    if cast is not None:
        faults.append(Fault(cast_field, "a cast", "none: a stage that takes Arrow gets columns as they are"))
    return faults


def _sink_columns(job: InferenceJob, source_names: list[str]) -> Iterator[SinkColumn]:
    listed = job.spec.source.columns
    for name, reference in job.spec.sink.columns.items():
        if name == ALL_COLUMNS:
            for column in source_names if listed is None else listed:
                yield SinkColumn(column, Ref(SOURCE, column))
        else:
            yield SinkColumn(name, Ref(*reference.split(".", 1)))


def _sink_faults(job: InferenceJob, schema: "pa.Schema") -> list[Fault]:
    faults = []
    names = _readable(job, schema)
    seen: set[str] = set()
    for column in _sink_columns(job, names):
        field = f"spec.sink.columns.{column.name}"
        if column.name in seen:
            faults.append(Fault(field, f"'*' brings a column '{column.name}' already", "another name, or no '*'"))
        seen.add(column.name)
    return faults


def _stage(job: InferenceJob, stage: StageSpec, probe: Probe | None) -> StageProgram:
    drafted = draft_stage(job, job.spec.pipeline.index(stage))
    if isinstance(drafted, Fault):
        raise BadJob([drafted])
    if stage.onnx is None or probe is None:
        return drafted
    fixed = rows_fixed(probe)
    return stage_program(stage, drafted.target, job.folder, dict(probe.inputs), min(fixed) if fixed else None)


def _source_program(job: InferenceJob, source: "PlannedSource", limit_rows: int | None) -> SourceProgram:
    from coordinator.datasets import source_program

    wanted = source_columns(job)
    names = [name for name in source.schema.names if wanted is None or name in wanted]
    return source_program(job.spec.source, source, names, limit_rows)
