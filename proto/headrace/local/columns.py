"""Columns in the arena: where the rows of one named column lie and how to read them.

A column describes bytes, it does not hold them. Offsets count from the start of the arena. Kinds:

* TENSOR: C-contiguous, native little-endian, ``shape[0]`` is the number of rows.
* UTF8, BINARY: row i is ``data[offsets[i]:offsets[i + 1]]``; the offsets are rows + 1 int64 at `offset`, the bytes lie
  at `data_offset`. The offsets need not begin at 0, so a run of rows is again such a column.
* IPC: one Arrow IPC stream of one record batch, `nbytes` long: source columns for a stage that takes Arrow, or one
  output of a type that the kinds above can't hold (lists, decimals, ...), as its only column. Rows can't be cut out of
  it by arithmetic: the reader slices ``[row_begin, row_begin + rows)`` itself.
* NULL: every row is null, of a type that nobody has told; no bytes.

Nulls: `validity_offset` is -1 where every row has a value, else that of one byte per row, 0 for null.
"""

from dataclasses import dataclass, replace
from typing import Tuple

TENSOR, UTF8, BINARY, IPC, NULL = 0, 1, 2, 3, 4

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
    "datetime64[s]", "datetime64[ms]", "datetime64[us]", "datetime64[ns]", "datetime64[D]",
    "timedelta64[s]", "timedelta64[ms]", "timedelta64[us]", "timedelta64[ns]",
)  # fmt: skip
"""numpy's names; a frame carries the index, so the order never changes."""

ITEMSIZES = (1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8)
ALIGNMENT = 64
"""Bytes; every part of a column begins at a multiple (cache line, and what Arrow and ONNX Runtime like best)."""


def aligned(nbytes: int) -> int:
    """The smallest multiple of ALIGNMENT that holds `nbytes`."""
    return (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@dataclass(frozen=True)
class Column:
    """Where `rows` rows of one column lie in the arena."""

    kind: int
    rows: int
    offset: int  # of the tensor, the int64 offsets, or the IPC stream
    nbytes: int  # of what lies at `offset`
    dtype: int = 0  # index into DTYPES, for TENSOR
    shape: Tuple[int, ...] = ()  # whole shape, shape[0] == rows, for TENSOR
    data_offset: int = 0  # for UTF8 and BINARY
    data_nbytes: int = 0
    validity_offset: int = -1
    row_begin: int = 0  # for IPC

    def rows_slice(self, begin: int, end: int) -> "Column":
        """The column of rows ``[begin, end)``, over the same bytes."""
        if not 0 <= begin <= end <= self.rows:
            raise ValueError(f"rows [{begin}, {end}) of {self.rows}")
        rows = end - begin
        validity = self.validity_offset + begin if self.validity_offset >= 0 else -1
        if self.kind == TENSOR:
            row_bytes = self.nbytes // self.rows if self.rows else 0
            return replace(
                self, rows=rows, offset=self.offset + begin * row_bytes, nbytes=rows * row_bytes,
                shape=(rows, *self.shape[1:]), validity_offset=validity,
            )  # fmt: skip
        if self.kind == IPC:
            return replace(self, rows=rows, row_begin=self.row_begin + begin)
        if self.kind == NULL:
            return replace(self, rows=rows)
        return replace(self, rows=rows, offset=self.offset + 8 * begin, nbytes=8 * (rows + 1), validity_offset=validity)
