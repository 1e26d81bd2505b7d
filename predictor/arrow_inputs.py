"""A batch as one Arrow record batch, for stages that ask for it.

The source's part is an Arrow IPC stream in the arena, read in place; columns of earlier stages are put beside it over
the arena's bytes. Only booleans (Arrow packs their bits) and days (32 bits in Arrow) are copied.
"""

from typing import Any, List, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
            if name == messages.ARROW_INPUT:
                found = read_stream(self._arena, part)
                names += found.schema.names
                arrays += found.columns
            else:
                names.append(name)
                arrays.append(self._array(name, part))
        order = {name: place for place, name in enumerate(self._names)}
        pairs: List[Tuple[str, Any]] = sorted(zip(names, arrays), key=lambda pair: order.get(pair[0], len(order)))
        return pa.RecordBatch.from_arrays([array for _, array in pairs], names=[name for name, _ in pairs])

    def _array(self, name: str, column: columns.Column) -> Any:
        if column.kind == columns.IPC:
            return read_stream(self._arena, column).column(0)
        if column.kind == columns.NULL:
            return pa.nulls(column.rows)
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


def read_stream(arena: ArenaMap, column: columns.Column) -> "pa.RecordBatch":
    """The rows of an IPC column, over the arena's bytes."""
    buffer = pa.py_buffer(memoryview(arena.inputs)[column.offset : column.offset + column.nbytes])
    return pa.ipc.open_stream(buffer).read_next_batch().slice(column.row_begin, column.rows)


def rows_of(arena: ArenaMap, column: columns.Column) -> np.ndarray:
    """An output of another stage that lies in the arena as an Arrow stream, for a stage that takes arrays.

    Lists of numbers whose rows are all of one shape are a tensor; everything else is an object array, in which lists
    are arrays and null is None.
    """
    array = read_stream(arena, column).column(0)
    leaf, dims = array, [len(array)]
    while _is_list(leaf.type) and leaf.null_count == 0 and len(leaf):
        lengths = pc.list_value_length(leaf).to_numpy()
        if (lengths != lengths[0]).any():
            break
        dims.append(int(lengths[0]))
        leaf = leaf.flatten()
    is_number = pa.types.is_boolean(leaf.type) or pa.types.is_integer(leaf.type) or pa.types.is_floating(leaf.type)
    if len(dims) > 1 and is_number and leaf.null_count == 0:
        found: np.ndarray = leaf.to_numpy(zero_copy_only=False).reshape(dims)
        return found
    objects = np.empty(len(array), object)
    objects[:] = list(array.to_numpy(zero_copy_only=False)) if _is_list(array.type) else array.to_pylist()
    return objects


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
