"""Blocks: what the Reader hands out, and how small ones become one."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidecar.reader.cursor import Cursor

BLOCK_ROWS = 131_072
"""Rows; a block is never longer. Row groups of common writers (100,000 to 131,072 rows) stay whole."""
BLOCK_BYTES = 16 << 20
"""Bytes of decoded columns that a block aims at; one row may be larger."""
SMALL_ROWS, SMALL_BYTES = 4_096, 4 << 20
"""Below both, a block waits for the next one: 100,000 tiny files must not become 100,000 blocks."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that can't be decoded; it becomes a reject."""

    address: int  # as `Block.address`
    kind: str  # class word of the reject
    message: str
    path: str


@dataclass(frozen=True, slots=True)
class CorruptRange:
    """Units ``[begin, end)`` of a file that could not be read, listed because the job says `onCorrupt: reject`."""

    path: str
    begin: int
    end: int
    message: str


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of consecutive dataset units ``[begin, end)``, after the filter, in input order.

    Shapes: `address` is int64 ``[rows.num_rows]``: the row's number in its file (Parquet, Arrow), the byte at which
    its record begins (CSV, JSONL; of the decompressed text in compressed files), or 0 (file listings).
    ``rows_read == rows.num_rows + rows_filtered + len(bad)``; rows of `corrupt` ranges are in none of these.
    """

    rows: pa.RecordBatch
    path: str  # of the first row; `path_of` knows the others
    address: npt.NDArray[np.int64]
    begin: int
    end: int
    rows_read: int
    rows_filtered: int
    bad: tuple[BadRow, ...] = ()
    corrupt: tuple[CorruptRange, ...] = ()
    runs: tuple[tuple[int, str], ...] = ()  # (first row, path) where rows of several files are in one block

    def path_of(self, row: int) -> str:
        """The file that row `row` of `rows` came from."""
        if not self.runs:
            return self.path
        return self.runs[bisect_right(self.runs, row, key=lambda run: run[0]) - 1][1]


def merge_small(blocks: Iterable[Block], cursor: Cursor) -> Iterator[Block]:
    """Joins runs of small neighbours and moves the cursor's position past each block as it leaves."""
    waiting: list[Block] = []
    rows = nbytes = 0
    for block in blocks:
        block_bytes = block.rows.get_total_buffer_size() if block.rows.num_rows < SMALL_ROWS else SMALL_BYTES
        fits = rows + block.rows.num_rows < SMALL_ROWS and nbytes + block_bytes < SMALL_BYTES
        if waiting and not fits:
            yield _leave(waiting, cursor)
            waiting, rows, nbytes = [], 0, 0
        waiting.append(block)
        rows += block.rows.num_rows
        nbytes += block_bytes
        if not fits and nbytes >= SMALL_BYTES:
            yield _leave(waiting, cursor)
            waiting, rows, nbytes = [], 0, 0
    if waiting:
        yield _leave(waiting, cursor)


def _leave(waiting: Sequence[Block], cursor: Cursor) -> Block:
    block = waiting[0] if len(waiting) == 1 else _merged(waiting)
    cursor.hand_out(block.end)
    return block


def _merged(blocks: Sequence[Block]) -> Block:
    filled = [block for block in blocks if block.rows.num_rows]
    if len(filled) <= 1:
        rows = filled[0].rows if filled else blocks[0].rows
    else:
        table = pa.Table.from_batches([block.rows for block in filled]).combine_chunks()
        rows = table.to_batches()[0] if table.num_columns else without_columns(table.num_rows)
    runs: list[tuple[int, str]] = []
    at = 0
    for block in filled:
        for first, path in block.runs or ((0, block.path),):
            if not runs or runs[-1][1] != path:
                runs.append((at + first, path))
        at += block.rows.num_rows
    return Block(
        rows=rows,
        path=runs[0][1] if runs else blocks[0].path,
        address=np.concatenate([block.address for block in blocks]),
        begin=blocks[0].begin,
        end=blocks[-1].end,
        rows_read=sum(block.rows_read for block in blocks),
        rows_filtered=sum(block.rows_filtered for block in blocks),
        bad=tuple(bad for block in blocks for bad in block.bad),
        corrupt=tuple(corrupt for block in blocks for corrupt in block.corrupt),
        runs=tuple(runs) if len(runs) > 1 else (),
    )


def without_columns(rows: int) -> pa.RecordBatch:
    """A record batch of no columns that still knows its length."""
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
