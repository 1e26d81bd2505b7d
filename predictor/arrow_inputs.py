"""A batch as one Arrow record batch, for stages that ask for it.

The source's part is an Arrow IPC stream in the arena, read in place; columns of earlier stages are put beside it over
the arena's bytes. Only booleans (Arrow packs their bits) and days (32 bits in Arrow) are copied.
"""

from typing import Any, List, Tuple

import numpy as np
import pyarrow as pa

from .casting import BadInput
from .local import columns, messages
from .mapping import ArenaMap
from .stage import Stage


class ArrowReader:
    """Makes the record batch of each batch; its columns are the stage's inputs, in the order of the job file."""

    def __init__(self, stage: Stage, arena: ArenaMap) -> None:
        self._arena = arena
        self._memory = memoryview(arena.inputs)
        self._names = [each.name for each in stage.inputs]

    def read(self, batch: messages.Batch) -> "pa.RecordBatch":
        """The record batch: valid until the batch is answered.

        Raises:
            BadInput: a tensor with nulls of a kind that Arrow can't hold in place.
        """
        names: List[str] = []
        arrays: List[Any] = []
        for name, parts in batch.inputs.items():
            (part,) = parts
            if part.kind == columns.IPC:
                found = self._stream(part)
                names += found.schema.names
                arrays += found.columns
            else:
                names.append(name)
                arrays.append(self._array(name, part))
        order = {name: place for place, name in enumerate(self._names)}
        pairs: List[Tuple[str, Any]] = sorted(zip(names, arrays), key=lambda pair: order.get(pair[0], len(order)))
        return pa.RecordBatch.from_arrays([array for _, array in pairs], names=[name for name, _ in pairs])

    def _stream(self, column: columns.Column) -> "pa.RecordBatch":
        buffer = pa.py_buffer(self._memory[column.offset : column.offset + column.nbytes])
        return pa.ipc.open_stream(buffer).read_next_batch().slice(column.row_begin, column.rows)

    def _array(self, name: str, column: columns.Column) -> Any:
        null = self._arena.is_null(column)
        valid = None if null is None else pa.array(~null).buffers()[1]
        if column.kind != columns.TENSOR:
            data = self._buffer(column.data_offset, column.data_nbytes)
            kind: Any = pa.large_string() if column.kind == columns.UTF8 else pa.large_binary()
            return pa.Array.from_buffers(
                kind, column.rows, [valid, self._buffer(column.offset, column.nbytes), data], -1
            )
        array = self._arena.tensor(column)
        flat = array.reshape(-1)
        if array.dtype.kind == "b" or array.dtype == np.dtype("datetime64[D]"):
            values = pa.array(flat)
        else:
            kind = pa.from_numpy_dtype(array.dtype)
            values = pa.Array.from_buffers(kind, len(flat), [None, self._buffer(column.offset, column.nbytes)], 0)
        if valid is not None:
            if array.ndim > 1:
                raise BadInput(f"input {name}: nulls among rows of rank {array.ndim}")
            return pa.Array.from_buffers(values.type, column.rows, [valid, values.buffers()[1]], -1)
        for length in reversed(array.shape[1:]):
            values = pa.FixedSizeListArray.from_arrays(values, length)
        return values

    def _buffer(self, offset: int, nbytes: int) -> Any:
        return pa.py_buffer(self._memory[offset : offset + nbytes])
