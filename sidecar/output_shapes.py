"""Whether the rows of a stage's tensors keep their shape: it is a part of the output column's type.

Outputs that only later stages read may have another shape in each batch.

Not here: outputs of other types in other batches (`sidecar.writer`).
"""

from collections.abc import Callable, Collection, Mapping

from headrace.local.columns import TENSOR, Column
from headrace.program import SinkProgram


class OutputShapes:
    """The shapes of one stage's outputs that the sink takes."""

    def __init__(self, sink: SinkProgram, stage: str) -> None:
        self._stage = stage
        self._outputs = sorted({column.ref.column for column in sink.columns if column.ref.producer == stage})
        self._first: dict[str, tuple[int, ...]] = {}

    def changed(self, columns: Mapping[str, Column], free_axes: Callable[[str], Collection[int]]) -> str:
        """Says which output of a batch has rows of another shape than those before; "" if none has.

        `free_axes` names the axes of an output, 1 the first within a row, that are lists anyway.
        """
        for output in self._outputs:
            column = columns[output]
            if column.kind != TENSOR or len(column.shape) < 2:
                continue
            shape = column.shape[1:]
            first = self._first.setdefault(output, shape)
            if shape == first:
                continue
            free = free_axes(output)
            fixed = [axis for axis in range(1, len(shape) + 1) if axis not in free]
            if len(shape) != len(first) or any(shape[axis - 1] != first[axis - 1] for axis in fixed):
                return (
                    f"stage {self._stage!r}: output {output!r} has rows of shape {list(shape)}, in the batches before "
                    f"they were {list(first)}. Return a list of arrays, one for each row, always: then the column "
                    "holds lists, of any lengths"
                )
        return ""
