"""Which columns of the source the stages want in the arena, and in what form.

Equal wishes of several stages are one `SourceTensor`, converted once and read by all of them.
"""

from dataclasses import dataclass, field

from headrace.local.messages import ARROW_INPUT
from headrace.program import Cast, Program, Ref, StageInput, StageProgram
from headrace.words import SOURCE


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One thing to convert: one column, several stacked ones, or the columns of one Arrow stream."""

    key: str  # equal for equal wishes
    columns: tuple[str, ...]  # of the source
    stacked: bool = False
    cast: Cast = field(default_factory=Cast)
    dtype: str | None = None  # what the model wants, a numpy name; None: as it comes
    shape: tuple[int | None, ...] | None = None  # of the whole batch, as the model declares it
    names: tuple[str, ...] = ()  # ipc: field names of the record batch, parallel to `columns`
    ipc: bool = False


Part = SourceTensor | Ref
"""A piece of a stage's input: of the source (look it up by its key) or a column of an earlier stage."""


def source_tensors(program: Program) -> tuple[SourceTensor, ...]:
    """All things that a flow batch's source rows are converted to, each once, in order of first use."""
    tensors: dict[str, SourceTensor] = {}
    for stage in program.stages:
        for parts in stage_parts(stage).values():
            for part in parts:
                if isinstance(part, SourceTensor):
                    tensors.setdefault(part.key, part)
    return tuple(tensors.values())


def stage_parts(stage: StageProgram) -> dict[str, tuple[Part, ...]]:
    """The pieces of each of the stage's inputs, in the order of its references.

    An input wholly from the source is one piece, stacked and cast already. A mixed one has a piece per reference and is
    stacked and cast where the stage runs. Of an `as_arrow` stage, plain source columns (neither stacked nor cast)
    travel together as one piece under ARROW_INPUT.
    """
    parts: dict[str, tuple[Part, ...]] = {}
    arrow: list[StageInput] = []
    for stage_input in stage.inputs:
        if any(ref.producer != SOURCE for ref in stage_input.refs):
            parts[stage_input.name] = tuple(_piece(stage_input, ref) for ref in stage_input.refs)
        elif stage.as_arrow and not stage_input.stacked and stage_input.cast == Cast():
            arrow.append(stage_input)
        else:
            parts[stage_input.name] = (_tensor(stage_input),)
    if arrow:
        parts[ARROW_INPUT] = (_stream(arrow),)
    return parts


def _piece(stage_input: StageInput, ref: Ref) -> Part:
    if ref.producer != SOURCE:
        return ref
    # Only the null rule is the column's own; dtype and shape are those of the stacked whole.
    cast = Cast(fill=stage_input.cast.fill)
    return SourceTensor(key=f"{ref} fill {cast.fill!r}", columns=(ref.column,), cast=cast)


def _tensor(stage_input: StageInput) -> SourceTensor:
    columns = tuple(ref.column for ref in stage_input.refs)
    form = (stage_input.stacked, stage_input.cast, stage_input.dtype, stage_input.shape)
    return SourceTensor(
        key=f"{columns!r} {form!r}",
        columns=columns,
        stacked=stage_input.stacked,
        cast=stage_input.cast,
        dtype=stage_input.dtype,
        shape=stage_input.shape,
    )


def _stream(inputs: list[StageInput]) -> SourceTensor:
    columns = tuple(stage_input.refs[0].column for stage_input in inputs)
    names = tuple(stage_input.name for stage_input in inputs)
    return SourceTensor(key=f"arrow {columns!r} as {names!r}", columns=columns, names=names, ipc=True)
