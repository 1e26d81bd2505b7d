"""A batch's columns as the arrays that the stage takes.

Inputs that come wholly from the source were stacked, filled and cast by the sidecar and are only looked at; those
from earlier stages are brought into form here: stacked, reshaped, cast where no value can change or the job says so.

Not here: Arrow record batches (`arrow_inputs`).
"""

from typing import Dict, Optional, Sequence

import numpy as np

from . import casting
from .casting import BadInput
from .local import casts, columns, messages
from .mapping import ArenaMap
from .stage import Stage, StageInput


class InputReader:
    """Makes the arrays of each batch."""

    def __init__(self, stage: Stage, arena: ArenaMap) -> None:
        self._arena = arena
        self._inputs = {each.name: each for each in stage.inputs}

    def read(self, batch: messages.Batch) -> Dict[str, np.ndarray]:
        """Arrays by input, ``[rows, ...]``: read-only views of the arena wherever the bytes are already right.

        Raises:
            BadInput: a null without a fill value, or a dtype or shape that doesn't fit.
        """
        return {name: self._input(self._inputs[name], parts) for name, parts in batch.inputs.items()}

    def _input(self, wanted: StageInput, parts: Sequence[columns.Column]) -> np.ndarray:
        if wanted.stacked and not wanted.is_from_source:
            array = _stacked(wanted, [self._array(wanted, part) for part in parts])
        else:
            (part,) = parts
            array = self._array(wanted, part)
        if wanted.cast_dtype is not None:
            array = casting.cast(wanted.name, array, wanted.cast_dtype)
        if wanted.dtype is not None and (array.dtype != object or wanted.dtype not in ("utf8", "binary")):
            array = casting.fit(wanted.name, array, wanted.dtype)
        return _shaped(wanted, array)

    def _array(self, wanted: StageInput, column: columns.Column) -> np.ndarray:
        if column.kind == columns.TENSOR:
            array = self._arena.tensor(column)
            null = self._arena.is_null(column)
            return array if null is None else _filled(wanted, array, null)
        if column.kind == columns.IPC:
            from .arrow_inputs import rows_of

            return rows_of(self._arena, column)
        if column.kind == columns.NULL:
            return _nothing(wanted, column.rows)
        if column.kind == columns.BINARY and wanted.cast_dtype is not None and not wanted.is_from_source:
            return self._from_bytes(wanted, column)
        array = self._arena.objects(column)
        null = self._arena.is_null(column)
        if null is not None and wanted.fill is not None:
            array[null] = wanted.fill
        return array

    def _from_bytes(self, wanted: StageInput, column: columns.Column) -> np.ndarray:
        """Rows of raw bytes as numbers, in place where they lie end to end."""
        if self._arena.is_null(column) is not None:
            raise BadInput(f"input {wanted.name}: null at row {_first(self._arena.is_null(column))} of the batch")
        dtype = np.dtype(wanted.cast_dtype)
        ends = self._arena.offsets(column)
        lengths = np.diff(ends)
        if wanted.cast_shape is not None:
            row_bytes = dtype.itemsize * int(np.prod(wanted.cast_shape, dtype=np.int64))
        else:
            row_bytes = int(lengths[0]) if column.rows else dtype.itemsize
        wrong = lengths != row_bytes
        if wrong.any() or row_bytes % dtype.itemsize:
            row = _first(wrong) if wrong.any() else 0
            raise BadInput(
                f"input {wanted.name}: {int(lengths[row])} bytes at row {row} of the batch, {row_bytes} expected"
            )
        shape = (column.rows, row_bytes // dtype.itemsize)
        begin = column.data_offset + int(ends[0])
        if begin % dtype.itemsize:
            data = self._arena.inputs[begin : begin + column.rows * row_bytes]
            return np.frombuffer(data, dtype).reshape(shape)
        return np.ndarray(shape, dtype, self._arena.inputs, begin)


def _stacked(wanted: StageInput, parts: Sequence[np.ndarray]) -> np.ndarray:
    for part, producer in zip(parts, wanted.producers):
        if part.ndim != 1 or part.dtype == object:
            raise BadInput(f"input {wanted.name}: only columns of single numbers can be stacked, not {producer}'s")
    dtypes = sorted({part.dtype.name for part in parts})
    dtype = wanted.cast_dtype or casts.common_dtype(dtypes) or wanted.dtype
    if dtype is None:
        raise BadInput(f"input {wanted.name}: no dtype holds {', '.join(dtypes)} without loss; say which by cast:")
    fit = casting.fit if wanted.cast_dtype is None else casting.cast
    return np.stack([fit(wanted.name, part, dtype) for part in parts], axis=1)


def _nothing(wanted: StageInput, rows: int) -> np.ndarray:
    """A column of nothing but nulls: as text would be, None, unless the job or the model wants numbers."""
    dtype = wanted.cast_dtype or wanted.dtype
    if dtype in (None, "utf8", "binary"):
        return np.full(rows, wanted.fill, object)
    return _filled(wanted, np.zeros(rows, dtype), np.ones(rows, bool))


def _filled(wanted: StageInput, array: np.ndarray, null: np.ndarray) -> np.ndarray:
    if wanted.fill is None:
        raise BadInput(
            f"input {wanted.name}: null at row {_first(null)} of the batch; say cast: {{{wanted.name}: {{fill: ...}}}}"
        )
    array = array.copy()
    array[null] = wanted.fill
    return array


def _shaped(wanted: StageInput, array: np.ndarray) -> np.ndarray:
    if wanted.cast_shape is None or array.dtype == object or array.shape[1:] == wanted.cast_shape:
        return array
    try:
        return array.reshape((array.shape[0], *wanted.cast_shape))
    except ValueError as error:
        raise BadInput(
            f"input {wanted.name}: rows of shape {array.shape[1:]} can't become {wanted.cast_shape}"
        ) from error


def _first(which: Optional[np.ndarray]) -> int:
    return int(np.argmax(which)) if which is not None else 0
