"""From a lease to the arena: reads blocks, cuts them into batches, waits for room, converts, starts.

Reading and conversion run in threads; between them the loop admits batches. One feed works on one lease at a time;
several feeds run side by side, so that reading one shard overlaps with converting another.

Not here: who holds which lease (`sidecar.driver`), what happens to a started batch (`sidecar.flow`).
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from headrace.dataset import Slice
from headrace.words import SOURCE
from sidecar.arena import Arena
from sidecar.converter import Converted, Converter, ReadBlock
from sidecar.core.batches import Batch, Blame
from sidecar.core.pipeline import Admission
from sidecar.flow import Flow
from sidecar.reader import Block, Source
from sidecar.shard_run import ShardRun, SourceRows

GROUP = 8
"""Batches converted in one call of a thread: a call costs about as much as converting a batch of narrow rows."""
UNWRITTEN_MAX = 256
"""Batches of one lease that may wait to be written; one slow batch must not let the others pile up in memory."""

T = TypeVar("T")


@dataclass(slots=True)
class _Part:
    source: SourceRows
    admission: Admission


class _TooLarge:
    """A row was rejected since it doesn't fit an empty arena."""


class Feed:
    """Feeds leases to a flow."""

    def __init__(self, source: Source, converter: Converter, flow: Flow, arena: Arena, threads: Executor) -> None:
        self._source = source
        self._converter = converter
        self._flow = flow
        self._arena = arena
        self._threads = threads
        self.read_busy_s = 0.0

    async def read(self, run: ShardRun) -> None:
        """Reads a lease to its end, or to where it was split; returns when its last batch has started.

        Raises:
            InputError: a file isn't the one that was planned, or can't be read.
        """
        begin = run.lease.begin
        while True:
            await self._read_range(run, _clip(run.lease.slices, begin, run.end))
            await run.wait_end_agreed()
            if run.is_cancelled or run.cursor.position >= run.end:
                return
            begin = run.cursor.position  # the split was refused: the rest is still ours

    async def _read_range(self, run: ShardRun, slices: Sequence[Slice]) -> None:
        blocks = self._source.read(slices, run.cursor)
        try:
            while not run.is_cancelled:
                found = await self._in_thread(lambda: self._next_block(run, blocks))
                if found is None:
                    return
                block, values = found
                run.rows_read += block.rows_read
                run.rows_filtered += block.rows_filtered
                run.rows_done += block.rows_filtered + len(block.bad)
                await self._feed_block(run, block, values)
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                await self._in_thread(close)

    def _next_block(self, run: ShardRun, blocks: Iterator[Block]) -> tuple[Block, ReadBlock] | None:
        block = next(blocks, None)
        if block is None:
            return None
        assert not block.corrupt, "planning refuses onCorrupt: reject until such ranges are accounted for"
        run.reject_block(block)
        return block, self._converter.read(block.rows)

    async def _feed_block(self, run: ShardRun, block: Block, values: ReadBlock) -> None:
        begin, total = 0, block.rows.num_rows
        row_bytes = values.measure(0, total) / max(total, 1)
        while begin < total and not run.is_cancelled:
            await run.wait_room(UNWRITTEN_MAX)
            source = SourceRows(block, begin, min(self._flow.fit_rows(row_bytes), total - begin))
            first = await self._admit(run, source, values, 0, None)
            if first is None:
                return
            if isinstance(first, _TooLarge):
                begin += 1
                continue
            group = [first]
            begin += first.source.count
            while len(group) < GROUP and begin < total:
                source = SourceRows(block, begin, min(first.source.count, total - begin))
                nbytes = values.measure(begin, begin + source.count)
                more = self._flow.try_admit(run.order, run.key, source.count, nbytes)
                if not isinstance(more, Admission):
                    break
                group.append(_Part(source, more))
                begin += source.count
            await self._convert(run, values, block_begin=0, group=group, started=run.started)

    async def feed_again(self, run: ShardRun, batch: Batch, rows_max: int) -> None:
        """Feeds the rows of a dropped batch again, at most `rows_max` together, to where they were in the order."""
        dropped, place = run.dropped(batch)
        values = await self._in_thread(lambda: self._converter.read(dropped.rows))
        begin, end = dropped.begin, dropped.begin + dropped.count
        while begin < end and not run.is_cancelled:
            source = SourceRows(dropped.block, begin, min(rows_max, end - begin))
            part = await self._admit(run, source, values, dropped.begin, batch.age)
            if part is None:
                return
            if isinstance(part, _TooLarge):
                begin += 1
                continue
            begin += part.source.count
            started = partial(run.started_again, place=place)
            await self._convert(run, values, block_begin=dropped.begin, group=[part], started=started)
        run.all_started_again(place)

    async def _admit(
        self, run: ShardRun, source: SourceRows, values: ReadBlock, block_begin: int, age: int | None
    ) -> "_Part | _TooLarge | None":
        """Room for as many of the first rows of `source` as can ever fit; a row that can't alone is rejected.

        `values` begin at the block's row `block_begin`. None: the lease was cancelled.
        """
        count = source.count
        while True:
            begin = source.begin - block_begin
            nbytes = values.measure(begin, begin + count)
            admission = await self._flow.admit(run.order, run.key, count, nbytes, age)
            if isinstance(admission, Admission):
                return _Part(SourceRows(source.block, source.begin, count), admission)
            if admission is None:
                return None
            if count == 1:
                row = SourceRows(source.block, source.begin, 1)
                blame = Blame(SOURCE, "TooLarge", "the row's columns exceed the arena")
                await self._in_thread(partial(run.reject_row, row, blame))
                run.rows_done += 1
                return _TooLarge()
            count //= 2

    async def _convert(
        self,
        run: ShardRun,
        values: ReadBlock,
        *,
        block_begin: int,
        group: Sequence[_Part],
        started: Callable[[Batch, SourceRows], None],
    ) -> None:
        def write(part: _Part) -> Converted:
            begin = part.source.begin - block_begin
            return values.write(begin, begin + part.source.count, self._arena.view, part.admission.offset)

        try:
            converted = await self._in_thread(lambda: [write(part) for part in group])
        except BaseException:  # the thread has ended, so its regions are nobody's
            for part in group:
                self._flow.withdraw(part.admission)
            raise
        for part, result in zip(group, converted, strict=True):
            if run.is_cancelled:
                self._flow.withdraw(part.admission)
                continue
            blamed = {row: Blame(SOURCE, bad.kind, bad.message) for row, bad in result.bad.items()}
            started(part.admission.batch, part.source)
            self._flow.start(part.admission, result.columns, blamed)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        def timed() -> T:
            begun = time.perf_counter()
            try:
                return call()
            finally:
                self.read_busy_s += time.perf_counter() - begun

        future = asyncio.get_running_loop().run_in_executor(self._threads, timed)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A thread can't be interrupted, and what it reads and where it writes is in use until it ends.
            await asyncio.wait([future])
            raise


def _clip(slices: Sequence[Slice], begin: int, end: int) -> list[Slice]:
    """The parts of `slices` that lie in the dataset's units ``[begin, end)``."""
    parts = []
    for part in slices:
        low = max(part.begin, begin - part.origin)
        high = min(part.end, end - part.origin)
        if low < high:
            parts.append(Slice(part.path, part.size, part.version, low, high, part.units, part.origin))
    return parts
