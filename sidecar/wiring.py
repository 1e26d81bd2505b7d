"""What the program says about who reads what, in the form the pipeline core wants."""

from dataclasses import dataclass

from headrace.local.columns import DTYPES, ITEMSIZES
from headrace.local.messages import ARROW_INPUT, Specs
from headrace.program import Program, StageProgram
from headrace.words import SOURCE
from sidecar.converter import SourceTensor, source_tensors, stage_parts
from sidecar.core.batches import StageWiring


@dataclass(frozen=True, slots=True)
class Wiring:
    """The graph of one program."""

    stages: tuple[StageWiring, ...]
    sink_reads: frozenset[str]
    columns_read: dict[str, frozenset[str]]  # by stage, its outputs that the sink or a later stage names
    tensors: tuple[SourceTensor, ...]


def wire(program: Program) -> Wiring:
    """Derives the wiring of a program."""
    stages = tuple(
        StageWiring(
            stage.name,
            tuple(
                (
                    feed or ARROW_INPUT,
                    tuple(
                        (SOURCE, part.key) if isinstance(part, SourceTensor) else (part.producer, part.column)
                        for part in parts
                    ),
                )
                for feed, parts in stage_parts(stage).items()
            ),
        )
        for stage in program.stages
    )
    sink_reads = frozenset(column.ref.producer for column in program.sink.columns) - {SOURCE}
    refs = [ref for stage in program.stages for each in stage.inputs for ref in each.refs]
    refs += [column.ref for column in program.sink.columns]
    columns_read = {
        stage.name: frozenset(ref.column for ref in refs if ref.producer == stage.name) for stage in program.stages
    }
    return Wiring(stages, sink_reads, columns_read, source_tensors(program))


def output_row_bytes(specs: Specs) -> float | None:
    """Bytes that a row of a stage's outputs takes, where its specs tell; None: only a first batch will."""
    if specs.outputs is None:
        return None
    total = 0
    for spec in specs.outputs.values():
        if spec.dtype not in DTYPES or spec.shape is None or any(size is None for size in spec.shape[1:]):
            return None
        nbytes = ITEMSIZES[DTYPES.index(spec.dtype)]
        for size in spec.shape[1:]:
            nbytes *= size or 0
        total += nbytes
    return float(total)


def batch_is_auto(program: Program) -> bool:
    """Whether no stage that decides the batch size insists on it."""
    rows = batch_rows_max(program)
    return all(stage.batch_auto and stage.rows_fixed is None for stage in program.stages if _rows(stage) == rows)


def batch_rows_max(program: Program) -> int:
    """Rows that go through the stages together: what the smallest stage takes."""
    return min(_rows(stage) for stage in program.stages)


def _rows(stage: StageProgram) -> int:
    return stage.rows_fixed or stage.batch_rows
