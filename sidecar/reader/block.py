"""Blocks: what the Reader hands out, how small ones become one, and what is left of one that is cut."""

from bisect import bisect_right
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace

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

Units = npt.NDArray[np.int64]


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
    origin: int  # the dataset unit at which the file begins


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of consecutive dataset units ``[begin, end)``, after the filter, in input order.

    Shapes: `address` is int64 ``[rows.num_rows]``: the row's number in its file (Parquet, Arrow), the byte at which
    its record begins (CSV, JSONL; of the decompressed text in compressed files), or 0 (file listings). `units` (int64
    ``[rows.num_rows]``) and `bad_units` (int64 ``[len(bad)]``) are the dataset units of the rows and of `bad`, rising;
    without `units` the block can't be cut. `filtered_units` (int64 ``[rows_filtered]``) are those of the rows that the
    filter dropped; None where each unit is one row, and counting tells.
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
    units: Units | None = None
    bad_units: Units = field(default_factory=lambda: np.empty(0, np.int64))
    filtered_units: Units | None = None

    def path_of(self, row: int) -> str:
        """The file that row `row` of `rows` came from."""
        if not self.runs:
            return self.path
        return self.runs[bisect_right(self.runs, row, key=lambda run: run[0]) - 1][1]

    def rows_before(self, at: int) -> int:
        """How many of `rows` lie before dataset unit `at`; all or none of a block that can't be cut."""
        if at >= self.end:
            total: int = self.rows.num_rows
            return total
        if at <= self.begin:
            return 0
        assert self.units is not None, f"[{self.begin}, {self.end}) can't be cut at {at}"
        return int(np.searchsorted(self.units, at))

    def unit_after(self, rows: int) -> int:
        """The unit at which the block may be cut behind its first `rows` rows."""
        if self.units is None or rows >= self.rows.num_rows:
            return self.end
        return int(self.units[rows]) if rows else self.begin

    def front(self, at: int) -> "Block":
        """What the block is of the units before `at`, which is in ``[begin, end]``; rows are shared, not copied."""
        if at == self.end:
            return self
        rows = self.rows_before(at)
        bad = int(np.searchsorted(self.bad_units, at))
        corrupt = tuple(
            replace(found, end=min(found.end, at - found.origin))
            for found in self.corrupt
            if found.origin + found.begin < at
        )
        if self.filtered_units is None:
            filtered = at - self.begin - rows - bad - sum(found.end - found.begin for found in corrupt)
            filtered_units = None
        else:
            filtered = int(np.searchsorted(self.filtered_units, at))
            filtered_units = self.filtered_units[:filtered]
        return replace(
            self,
            rows=self.rows.slice(0, rows),
            address=self.address[:rows],
            end=at,
            rows_read=rows + filtered + bad,
            rows_filtered=filtered,
            bad=self.bad[:bad],
            corrupt=corrupt,
            runs=tuple(run for run in self.runs if run[0] < rows),
            units=None if self.units is None else self.units[:rows],
            bad_units=self.bad_units[:bad],
            filtered_units=filtered_units,
        )


def merge_small(blocks: Iterable[Block], cursor: Cursor) -> Generator[Block, None, None]:
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
        units=_joined([block.units for block in blocks]),
        bad_units=np.concatenate([block.bad_units for block in blocks]),
        filtered_units=_joined([block.filtered_units for block in blocks]),
    )


def _joined(parts: Sequence[Units | None]) -> Units | None:
    """All of them in order; None if one is missing."""
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if len(found) == len(parts) else None


def without_columns(rows: int) -> pa.RecordBatch:
    """A record batch of no columns that still knows its length."""
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
