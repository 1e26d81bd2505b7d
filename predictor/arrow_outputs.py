"""Outputs that come as Arrow arrays or as rows of any length, in the forms that columns have.

What a stage returns decides the column's type, never the values of one batch: a numpy array of rank > 1 is a tensor,
whose rows are fixed-size lists; Arrow arrays keep their type; a Python list (or object array) of lists or arrays is a
column of lists, also where all rows of a batch happen to be of one shape.

Not here: what becomes of a form (`outputs`).
"""

from math import prod
from typing import Any, Optional, Sequence, Tuple

import numpy as np
import pyarrow as pa

from .local import columns
from .mapping import DTYPE_INDEX
from .outputs import BadOutput, Nulls, Output, Stream, Tensor, Text

_INT32_MAX = np.iinfo(np.int32).max


def from_arrow(name: str, value: Any) -> Output:
    """An Arrow array or chunked array.

    Raises:
        BadOutput: its buffers contradict its type.
    """
    array = value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise BadOutput(f"output {name}: a damaged Arrow array: {error}") from error
    kind = array.type
    if pa.types.is_null(kind):
        return Nulls(len(array))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        return _text(columns.UTF8, array.cast(pa.large_string()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view():
        return _text(columns.BINARY, array.cast(pa.large_binary()))
    dims = []
    leaf = array
    while pa.types.is_fixed_size_list(leaf.type) and leaf.type.list_size and leaf.null_count == 0:
        dims.append(leaf.type.list_size)
        leaf = leaf.flatten()
    values = _numbers(leaf)
    if values is None or (dims and leaf.null_count):
        return _stream(array)
    is_null = leaf.is_null().to_numpy(zero_copy_only=False) if leaf.null_count else None
    return Tensor(values.reshape(len(array), *dims), is_null)


def from_rows(name: str, rows: Sequence[Any]) -> Output:
    """Rows that are lists or arrays, or None, of any lengths: a column of lists.

    Raises:
        BadOutput: rows of different ranks, or of items that no list holds.
    """
    arrays = [row for row in rows if isinstance(row, np.ndarray)]
    if len(arrays) == sum(row is not None for row in rows) and all(row.dtype in DTYPE_INDEX for row in arrays):
        return _stream(_lists(name, rows, arrays))
    try:
        return _stream(pa.array([row.tolist() if isinstance(row, np.ndarray) else row for row in rows]))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise BadOutput(f"output {name}: rows that are no lists of one type: {error}") from error


def _lists(name: str, rows: Sequence[Optional[np.ndarray]], arrays: Sequence[np.ndarray]) -> Any:
    """Nested lists of arrays of one rank, ``list<list<...>>`` with as many levels as a row has axes."""
    ranks = sorted({row.ndim for row in arrays})
    if len(ranks) > 1:
        raise BadOutput(f"output {name}: rows of rank {ranks[0]} and of rank {ranks[-1]}")
    # An empty array has a dtype only because every array has one: the others know better.
    dtype = np.result_type(*({row.dtype for row in arrays if row.size} or {row.dtype for row in arrays}))
    flat = np.concatenate([row.reshape(-1) for row in arrays]).astype(dtype, copy=False)
    if len(flat) > _INT32_MAX:
        raise BadOutput(f"output {name}: {len(flat)} values in one batch; at most {_INT32_MAX} fit lists")
    values = pa.array(flat)
    for axis in range(ranks[0] - 1, 0, -1):
        lengths = np.repeat([row.shape[axis] for row in arrays], [prod(row.shape[:axis]) for row in arrays])
        values = pa.ListArray.from_arrays(_ends(lengths), values)
    ends = _ends([0 if row is None else len(row) for row in rows])
    null = np.array([*(row is None for row in rows), False])
    return pa.ListArray.from_arrays(pa.array(ends, mask=null) if null.any() else ends, values)


def _ends(lengths: Any) -> Any:
    ends = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _numbers(array: Any) -> Optional[np.ndarray]:
    """The values of an array of a dtype that columns have, with anything at nulls; None for other types."""
    kind = array.type
    dtype: np.dtype
    if pa.types.is_boolean(kind):
        array, dtype = array.cast(pa.uint8()), np.dtype(bool)
    elif pa.types.is_date32(kind):
        dtype = np.dtype(np.int32)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_duration(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
    elif pa.types.is_timestamp(kind) and kind.tz is None:
        dtype = np.dtype(f"datetime64[{kind.unit}]")
    else:
        return None
    if dtype not in DTYPE_INDEX:
        return None
    data = array.buffers()[1]
    if data is None or not len(array):
        values = np.zeros(len(array), dtype)
    else:
        values = np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)
    return values.astype(np.int64).view("datetime64[D]") if pa.types.is_date32(kind) else values


def _text(kind: int, array: Any) -> Text:
    _, ends, data = array.buffers()
    if ends is None or not len(array):
        return Text(kind, np.zeros(len(array) + 1, np.int64), b"", None)
    offsets = np.frombuffer(ends, np.int64, len(array) + 1, array.offset * 8)
    first, last = int(offsets[0]), int(offsets[-1])
    is_null = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    return Text(kind, offsets - first, memoryview(data)[first:last] if data is not None else b"", is_null)


def _stream(array: Any) -> Stream:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([array], ["value"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    dtype, levels = _leaf(array.type)
    return Stream(len(array), np.frombuffer(sink.getvalue(), np.uint8), dtype, (None,) * (1 + levels))


def _leaf(kind: Any) -> Tuple[Optional[str], int]:
    """What lists of numbers are to a stage that reads them: the dtype, and the open axes of a row."""
    levels = 0
    while pa.types.is_list(kind):
        levels, kind = levels + 1, kind.value_type
    is_number = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not levels or not is_number:
        return None, 0
    return np.dtype(kind.to_pandas_dtype()).name, levels
