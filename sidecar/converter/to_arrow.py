"""Columns in the arena as Arrow arrays: copies, so that the arena's memory is free again when they return.

A tensor of rank 1 is a column of its dtype; one of higher rank is nested fixed-size lists, whose shape pyarrow, pandas
and polars all keep. Axes that a model leaves free may have another length in the next batch; they become plain lists
where the caller says so, since the columns of one dataset must have one type. An axis of length 0 is a plain list too:
pyarrow can't read fixed-size lists of 0 back from Parquet. `headrace.arrow_types.tensor_type` says the same of types.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.local.columns import BINARY, DTYPES, IPC, NULL, TENSOR, UTF8, Column
from sidecar.converter.dtypes import AnyArray
from sidecar.converter.nested import is_list

_INT32_MAX = np.iinfo(np.int32).max


def column_array(column: Column, view: memoryview) -> AnyArray:
    """A tensor as an array over the arena's own memory, of the column's shape and dtype."""
    assert column.kind == TENSOR, "only tensors are arrays"
    count = column.nbytes // np.dtype(DTYPES[column.dtype]).itemsize
    flat: AnyArray = np.frombuffer(view, DTYPES[column.dtype], count, column.offset)
    return flat.reshape(column.shape)


def column_to_arrow(column: Column, view: memoryview, free_axes: Collection[int] = ()) -> pa.Array:
    """Copies a column out of the arena.

    Args:
        column: a tensor, or text; nulls by its validity.
        view: the whole arena.
        free_axes: axes (1 is the first within a row) that become plain lists.

    Raises:
        ValueError: more than 2 GiB of text in one batch, or a stream that is none.
    """
    if column.kind == IPC:
        return _stream_to_arrow(column, view)
    if column.kind == NULL:
        return pa.nulls(column.rows)
    nulls = _nulls(column, view)
    if column.kind in (UTF8, BINARY):
        return _text_to_arrow(column, view, nulls)
    values = column_array(column, view)
    array = _flat_to_arrow(values, nulls if values.ndim == 1 else None)
    for axis in range(values.ndim - 1, 0, -1):
        rows = int(np.prod(values.shape[:axis]))
        outermost = nulls if axis == 1 else None
        array = _lists(array, rows, values.shape[axis], outermost, is_free=axis in free_axes or values.shape[axis] == 0)
    return array


def nan_rows(column: Column, view: memoryview) -> npt.NDArray[np.int64]:
    """Numbers of the rows that hold a NaN (or NaT, a time that is none), sorted; empty for other dtypes and text."""
    if column.kind == IPC:
        return _nan_lists(_stream_to_arrow(column, view))
    if column.kind != TENSOR or column.nbytes == 0:
        return np.zeros(0, np.int64)
    values = column_array(column, view)
    if values.dtype.kind not in "fmM":
        return np.zeros(0, np.int64)
    # The smallest of values is NaN if any is: one fast pass that allocates nothing, for the usual answer.
    find = np.isnan if values.dtype.kind == "f" else np.isnat
    if not find(values.min()):
        return np.zeros(0, np.int64)
    return np.flatnonzero(find(values).reshape(column.rows, -1).any(axis=1)).astype(np.int64, copy=False)


def _nulls(column: Column, view: memoryview) -> npt.NDArray[np.bool_] | None:
    if column.validity_offset < 0:
        return None
    nulls = np.frombuffer(view, np.uint8, column.rows, column.validity_offset) == 0
    return nulls if nulls.any() else None


def _flat_to_arrow(values: AnyArray, nulls: npt.NDArray[np.bool_] | None) -> pa.Array:
    flat = values.reshape(-1)
    if flat.dtype.kind == "b":
        # A byte other than 0 and 1 is no numpy boolean, but a predictor may have written one.
        bits = np.packbits(flat.view(np.uint8) != 0, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(flat), [_bitmap(nulls), pa.py_buffer(bits)])
    is_days = flat.dtype == np.dtype("datetime64[D]")
    kind = pa.date32() if is_days else pa.from_numpy_dtype(flat.dtype)
    copied = flat.view(np.int64).astype(np.int32) if is_days else flat.copy()
    return pa.Array.from_buffers(kind, len(flat), [_bitmap(nulls), pa.py_buffer(copied.view(np.uint8))])


def _lists(values: pa.Array, rows: int, length: int, nulls: npt.NDArray[np.bool_] | None, *, is_free: bool) -> pa.Array:
    if not is_free:
        return pa.Array.from_buffers(pa.list_(values.type, length), rows, [_bitmap(nulls)], children=[values])
    offsets = pa.py_buffer(np.arange(rows + 1, dtype=np.int32) * np.int32(length))
    return pa.Array.from_buffers(pa.list_(values.type), rows, [_bitmap(nulls), offsets], children=[values])


def _text_to_arrow(column: Column, view: memoryview, nulls: npt.NDArray[np.bool_] | None) -> pa.Array:
    offsets = np.frombuffer(view, np.int64, column.rows + 1, column.offset)
    first, last = int(offsets[0]), int(offsets[-1])
    if last - first > _INT32_MAX:
        raise ValueError(f"{last - first} bytes of text in one batch; at most {_INT32_MAX} fit a column")
    data = bytes(view[column.data_offset + first : column.data_offset + last])
    narrow = (offsets - first).astype(np.int32)
    kind = pa.string() if column.kind == UTF8 else pa.binary()
    buffers = [_bitmap(nulls), pa.py_buffer(narrow), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, column.rows, buffers)


def _stream_to_arrow(column: Column, view: memoryview) -> pa.Array:
    data = pa.py_buffer(bytes(view[column.offset : column.offset + column.nbytes]))
    batch = pa.ipc.open_stream(data).read_next_batch()
    array = batch.column(0).slice(column.row_begin, column.rows)
    array.validate()
    return array


def _nan_lists(array: pa.Array) -> npt.NDArray[np.int64]:
    rows = np.arange(len(array))
    while is_list(array.type):
        rows = rows[pc.list_parent_indices(array).to_numpy()]
        array = pc.list_flatten(array)
    if not pa.types.is_floating(array.type):
        return np.zeros(0, np.int64)
    is_nan = pc.is_nan(array).fill_null(False).to_numpy(zero_copy_only=False)
    return np.unique(rows[is_nan]).astype(np.int64, copy=False)


def _bitmap(nulls: npt.NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little"))
