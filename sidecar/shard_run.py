"""One lease from its first block to its staged files: what was read, what is in flight, what waits to be written.

Batches finish in any order and are copied out of the arena as they do; rows are written in input order. The event loop
owns everything here but the part headed "in threads": one writer thread and one reader thread at a time per lease.

Not here: reading and admission (`sidecar.feed`), the lease itself (`sidecar.driver`).
"""

import asyncio
import secrets
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.dataset import CorruptUnits, corrupt_rows
from headrace.program import Program
from headrace.publish import part_name
from headrace.stores.port import WorkerStore
from headrace.words import SOURCE
from sidecar.assemble import assemble
from sidecar.converter import nan_rows
from sidecar.coordinator_client import Lease
from sidecar.core.batches import Batch, Blame, Piece, ShardKey
from sidecar.core.order import OutputOrder, Place
from sidecar.late_types import LateTypes
from sidecar.picking import rows_at
from sidecar.reader import BadRow, Block, Cursor
from sidecar.writer import AgreedSchema, RejectsWriter, ShardWriter, Staged, column_to_arrow

MESSAGE_CHARS_MAX = 300
"""Of the reject that stands for the others in a job's message, and of the reason of a corrupt range."""


class RunState(Enum):
    """Where a lease is on its way."""

    READING = auto()
    COMMITTING = auto()  # its files are staged, the commit is asked for
    PUBLISHING = auto()  # the commit is journaled, the files are being renamed
    PUBLISHED = auto()  # ... and that is to be reported


@dataclass(frozen=True, slots=True)
class SourceRows:
    """The source's side of one batch: its rows, and where each came from."""

    block: Block
    begin: int  # of the batch's rows in the block
    count: int

    @property
    def rows(self) -> pa.RecordBatch:
        """The rows, all columns that the program names."""
        return self.block.rows.slice(self.begin, self.count)

    def places(self, rows: Sequence[int]) -> tuple[list[str], npt.NDArray[np.int64]]:
        """File and address of each of the batch's `rows`."""
        return (
            [self.block.path_of(self.begin + row) for row in rows],
            self.block.address[self.begin + np.array(rows, dtype=np.int64)],
        )


class ShardRun:
    """The work on one lease."""

    def __init__(
        self,
        lease: Lease,
        order: int,
        program: Program,
        store: WorkerStore,
        arena: memoryview,
        schema: AgreedSchema,
        free_axes: Callable[[str, str], Collection[int]],
    ) -> None:
        """Makes the work on one lease.

        Args:
            order: the age of the lease in this worker.
            store: of the job's output.
            arena: the whole arena's bytes.
            schema: shared by the leases of this worker.
            free_axes: axes of a stage's output, by stage and column, whose size may change from batch to batch.
        """
        self.lease = lease
        self.order = order
        self.position = lease.begin  # units before it are this lease's, whatever happens: it is never cut there
        self.end = lease.end  # where the work stops
        self.agreed_end = lease.end  # the ledger's, as last heard
        self.cursor = Cursor(lease.begin, lease.end)
        self.state = RunState.READING
        self.is_cancelled = False
        self.is_read = False
        self.is_settling = False
        self.offered: int | None = None  # a split offered and not yet answered
        self._changed = asyncio.Event()
        self.staged: tuple[Staged, ...] = ()
        self.schema = ""  # of the staged data file, as the coordinator compares it; empty without one
        self.finished: list[Batch] = []  # by the pipeline, not yet copied out
        self.rows_read = 0
        self.rows_filtered = 0
        self.rows_done = 0  # of those read: filtered, rejected or through all stages
        self.rows_out = 0
        self.rows_rejected = 0
        self.corrupt: list[CorruptUnits] = []  # what could not be read, by rising begin
        self.first_reject = ""  # where and why
        self._program = program
        self._unit = "byte" if program.source.is_text else "row"
        self._store = store
        self._arena = arena
        self._free_axes = free_axes
        self._schema = schema
        self._late_types = LateTypes(schema.known)
        self._sources: dict[int, SourceRows] = {}
        self._order = OutputOrder()
        self._ordering = threading.Lock()  # the loop starts batches while a writer thread takes those that are ready
        self._ready: dict[int, list[pa.RecordBatch]] = {}
        self._random = secrets.token_hex(4)
        self._writer: ShardWriter | None = None
        self._rejects: RejectsWriter | None = None
        self._files_lock = threading.Lock()  # a reader thread and a writer thread may both reject, a third discards
        self._is_discarded = False
        self._stage_columns = [column for column in program.sink.columns if column.ref.producer != SOURCE]

    @property
    def key(self) -> ShardKey:
        """Names the lease for ever."""
        return self.lease.key

    @property
    def rows_corrupt(self) -> int:
        """Rows in what could not be read, as the budget of rejects counts them."""
        return corrupt_rows(self._unit, self.corrupt)

    @property
    def is_settled(self) -> bool:
        """Everything that was read has been written."""
        return self.is_read and not self._order and not self.finished and not self.is_settling

    @property
    def has_writable(self) -> bool:
        """There are finished batches to copy out, or rows whose turn to be written it is."""
        if self.finished or self.is_cancelled:
            return bool(self.finished)
        return self._order.is_next_ready(self._ready)

    def changed(self) -> None:
        """Wakes whoever waits for this lease: something was written, agreed or cancelled."""
        self._changed.set()

    async def wait_room(self, unwritten_max: int) -> None:
        """Waits until fewer than `unwritten_max` batches are unwritten, or the lease is cancelled."""
        await self._wait(lambda: self.is_cancelled or len(self._order) < unwritten_max)

    async def wait_written(self) -> None:
        """Waits until everything that was started is written, or the lease is cancelled."""
        await self._wait(lambda: self.is_cancelled or not (self._order or self.finished or self.is_settling))

    async def wait_end_agreed(self) -> None:
        """Waits until no split is open, or the lease is cancelled."""
        await self._wait(lambda: self.is_cancelled or self.offered is None)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    @property
    def limit(self) -> int:
        """Units from it on may be another lease's: they are given away, or offered."""
        return self.end if self.offered is None else min(self.end, self.offered)

    def cut(self, at: int) -> int:
        """Gives units from `at` on away, but none that has been taken; returns the limit from now on."""
        at = max(at, self.position)
        stops = self.cursor.lower_end(at)
        return min(self.limit, at if self._program.source.divisible else stops)

    def take(self, block: Block, rows: int) -> None:
        """The first `rows` rows of a block are on their way, or rejected: they are this lease's."""
        self.position = max(self.position, min(block.unit_after(rows), self.limit))

    def count_block(self, block: Block) -> None:
        """Takes all that the lease has of a block: counts what was read, and lists what could not be."""
        self.position = max(self.position, block.end)
        self.rows_read += block.rows_read
        self.rows_filtered += block.rows_filtered
        self.rows_done += block.rows_filtered
        for found in block.corrupt:
            reason = _shortened(found.message)
            self.corrupt.append(CorruptUnits(found.origin + found.begin, found.origin + found.end, reason))
            told = f"{self._unit}s {found.begin} to {found.end} of {found.path}: {reason}"
            self.first_reject = self.first_reject or told

    def started(self, batch: Batch, source: SourceRows) -> None:
        """A batch is on its way; batches are started in input order."""
        self._sources[batch.number] = source
        with self._ordering:
            self._order.append(batch.number)

    def dropped(self, batch: Batch) -> tuple[SourceRows, Place]:
        """A batch on its way was dropped: its rows come again, in the place where it was."""
        with self._ordering:
            return self._sources.pop(batch.number), self._order.reopen(batch.number)

    def started_again(self, batch: Batch, source: SourceRows, place: Place) -> None:
        """A batch of dropped rows is on its way; those of one place are started in input order."""
        self._sources[batch.number] = source
        with self._ordering:
            self._order.append_to(place, batch.number)

    def all_started_again(self, place: Place) -> None:
        """All rows of a dropped batch are on their way again, or rejected."""
        with self._ordering:
            self._order.close(place)

    # ------------------------------------------------------------------ in threads

    def reject_bad(self, bad: Sequence[BadRow]) -> None:
        """Writes rows that the reader couldn't decode."""
        self._reject(
            [row.path for row in bad],
            np.array([row.address for row in bad], dtype=np.int64),
            [Blame(SOURCE, row.kind, row.message) for row in bad],
            None,
        )

    def reject_row(self, source: SourceRows, blame: Blame) -> None:
        """Writes a row that can't even enter the arena."""
        self._reject(*source.places([0]), [blame], source.rows)

    def collect(self, batches: Sequence[Batch]) -> None:
        """Copies finished batches out of the arena, then writes those whose turn it is.

        Raises:
            SinkError: the output's store can't be written to.
        """
        for batch in batches:
            self._ready[batch.number] = self._rows_of(batch)
        with self._ordering:
            turn = self._order.take_ready(self._ready)
        for number in turn:
            for rows in self._ready.pop(number):
                self._write(rows)

    def _write(self, rows: pa.RecordBatch) -> None:
        if rows.num_rows:
            self.rows_out += rows.num_rows
            self._write_typed(self._late_types.take(rows))

    def _write_typed(self, parts: Sequence[pa.RecordBatch]) -> None:
        for rows in parts:
            if self._writer is None:
                self._writer = self._open_writer(rows.schema)
            self._writer.write(rows)

    def _open_writer(self, schema: pa.Schema) -> ShardWriter:
        self._schema.agree(schema)
        return ShardWriter(self._program.sink, self._store, self._stem())

    def _rows_of(self, batch: Batch) -> list[pa.RecordBatch]:
        source = self._sources.pop(batch.number)
        if self._program.errors.nan == "reject":
            self._blame_nan(batch)
        parts = [self._piece_rows(piece, source, batch.blamed) for piece in batch.finished]
        if batch.blamed:
            guilty = sorted(batch.blamed)
            blames = [batch.blamed[row] for row in guilty]
            self._reject(*source.places(guilty), blames, rows_at(source.rows, np.array(guilty)))
        return parts

    def _piece_rows(self, piece: Piece, source: SourceRows, blamed: dict[int, Blame]) -> pa.RecordBatch:
        columns = {
            (column.ref.producer, column.ref.column): column_to_arrow(
                piece.columns[column.ref.producer][column.ref.column],
                self._arena,
                self._free_axes(column.ref.producer, column.ref.column),
            )
            for column in self._stage_columns
        }
        keep = None
        guilty = [row - piece.begin for row in blamed if piece.begin <= row < piece.end]
        if guilty:
            keep = np.ones(piece.rows, dtype=bool)
            keep[guilty] = False
        return assemble(self._program.sink, source.rows.slice(piece.begin, piece.rows), columns, keep)

    def _blame_nan(self, batch: Batch) -> None:
        for piece in batch.finished:
            for column in self._stage_columns:
                for row in nan_rows(piece.columns[column.ref.producer][column.ref.column], self._arena).tolist():
                    blame = Blame(column.ref.producer, "NaN", f"output {column.ref.column!r} holds NaN")
                    batch.blamed.setdefault(piece.begin + row, blame)

    def close_files(self) -> tuple[Staged, ...]:
        """Finishes and syncs the files of this lease.

        Raises:
            SinkError: they can't be written.
            SchemaChanged: rows held back until now have other columns than this worker's other files.
        """
        staged: tuple[Staged, ...] = ()
        self._write_typed(self._late_types.rest())
        if self._writer is not None:
            staged += self._writer.close()
            self.schema = self._schema.text
        if self._rejects is not None:
            staged += self._rejects.close()
        self.staged = staged
        return staged

    def write_empty(self, rows: pa.RecordBatch) -> None:
        """Writes a file without rows, so that an empty dataset has a valid output.

        Raises:
            SinkError: the output's store can't be written to.
            SchemaChanged: the columns aren't those of this worker's other files.
        """
        with self._files_lock:
            if not self._is_discarded:
                self._writer = self._open_writer(rows.schema)
                self._writer.write(rows)

    def discard(self) -> None:
        """Removes what was staged; what is still rejected goes nowhere."""
        with self._files_lock:
            self._is_discarded = True
            for writer in (self._writer, self._rejects):
                if writer is not None:
                    writer.abort()

    def _reject(
        self, paths: list[str], addresses: npt.NDArray[np.int64], blames: list[Blame], rows: pa.RecordBatch | None
    ) -> None:
        with self._files_lock:
            if self._is_discarded:
                return
            self.rows_rejected += len(blames)
            self.first_reject = self.first_reject or _told(paths[0], int(addresses[0]), blames[0])
            if self._rejects is None:
                self._rejects = RejectsWriter(self._store, self._stem(), keep_rows=self._program.errors.keep_rows)
            for path, group in groupby(range(len(blames)), key=paths.__getitem__):
                first, *others = group
                end = first + len(others) + 1
                part = None if rows is None else rows.slice(first, end - first)
                self._rejects.write(path, addresses[first:end], blames[first:end], part)

    def _stem(self) -> str:
        return part_name(self.lease.shard, self._program.job_uid, self.lease.epoch, self._random, "")


def _told(path: str, address: int, blame: Blame) -> str:
    """One reject in one line for people."""
    return f"the row at {address} of {path}: {blame.stage}: {blame.kind}: {_shortened(blame.message)}"


def _shortened(message: str) -> str:
    one_line = " ".join(message.split())
    return one_line if len(one_line) <= MESSAGE_CHARS_MAX else f"{one_line[:MESSAGE_CHARS_MAX]} …"
