"""Conversion of one tensor in an arena that is just large enough."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.local.columns import ALIGNMENT, TENSOR, Column
from headrace.program import Cast
from sidecar.converter import Converted, Converter, SourceTensor, column_array

OFFSET = 3 * ALIGNMENT
Shape = tuple[int | None, ...]


def tensor_of(
    *columns: str,
    cast: Cast | None = None,
    dtype: str | None = None,
    shape: Shape | None = None,
    stacked: bool = False,
) -> SourceTensor:
    return SourceTensor(
        key="x", columns=columns, cast=cast or Cast(), dtype=dtype, shape=shape, stacked=stacked or len(columns) > 1
    )


def convert(rows: pa.RecordBatch, tensor: SourceTensor) -> tuple[Converted, memoryview]:
    """Converts in an arena that is just large enough and full of rubbish."""
    converter = Converter(rows.schema, [tensor])
    arena = memoryview(bytearray(b"\xa5" * (OFFSET + converter.measure(rows))))
    return converter.convert(rows, arena, OFFSET), arena


def array_of(values: pa.Array, tensor: SourceTensor | None = None) -> npt.NDArray[Any]:
    """Converts one column without bad rows to an array."""
    converted, arena = convert(pa.record_batch([values], ["a"]), tensor or tensor_of("a"))
    assert converted.bad == {}
    assert converted.columns["x"].kind == TENSOR
    return column_array(converted.columns["x"], arena)


def texts_of(column: Column, arena: memoryview) -> list[bytes]:
    offsets = np.frombuffer(arena, np.int64, column.rows + 1, column.offset)
    data = bytes(arena[column.data_offset : column.data_offset + column.data_nbytes])
    return [data[offsets[i] : offsets[i + 1]] for i in range(column.rows)]


def assert_same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
