"""From a lease to the arena: reads blocks, cuts them into batches, waits for room, converts, starts.

Reading and conversion run in threads; between them the loop admits batches. One feed works on one lease at a time;
several feeds run side by side, so that reading one shard overlaps with converting another.

Not here: who holds which lease (`sidecar.driver`), what happens to a started batch (`sidecar.flow`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from headrace.dataset import Slice
from headrace.words import SOURCE
from sidecar.arena import Arena
from sidecar.converter import Converted, Converter, ReadBlock
from sidecar.core.batches import Batch, Blame
from sidecar.core.pipeline import Admission
from sidecar.flow import Flow
from sidecar.reader import Block, Source
from sidecar.shard_run import ShardRun, SourceRows
from sidecar.timed_threads import TimedThreads

GROUP = 8
"""Batches converted in one call of a thread: a call costs about as much as converting a batch of narrow rows."""
UNWRITTEN_MAX = 256
"""Batches of one lease that may wait to be written; one slow batch must not let the others pile up in memory."""


@dataclass(slots=True)
class _Part:
    source: SourceRows
    admission: Admission


class _TooLarge:
    """A row doesn't fit an empty arena."""


class Feed:
    """Feeds leases to a flow."""

    def __init__(self, source: Source, converter: Converter, flow: Flow, arena: Arena, threads: TimedThreads) -> None:
        self._source = source
        self._converter = converter
        self._flow = flow
        self._arena = arena
        self._threads = threads

    async def read(self, run: ShardRun) -> None:
        """Reads a lease to its end, or to where it was split; returns when its last batch has started.

        Raises:
            InputError: a file isn't the one that was planned, or can't be read.
        """
        begin = run.lease.begin
        while True:
            await self._read_range(run, _clip(run.lease.slices, begin, run.end))
            await run.wait_end_agreed()
            if run.is_cancelled or run.position >= run.end:
                return
            begin = run.position  # the split was refused: the rest is still ours

    async def _read_range(self, run: ShardRun, slices: Sequence[Slice]) -> None:
        blocks = self._source.read(slices, run.cursor)
        try:
            while not run.is_cancelled:
                found = await self._threads.call(lambda: self._next_block(run, blocks))
                if found is None:
                    return
                await self._feed_block(run, *found)
        finally:
            await self._threads.call(blocks.close)

    def _next_block(self, run: ShardRun, blocks: Iterator[Block]) -> tuple[Block, ReadBlock] | None:
        block = next(blocks, None)
        if block is None:
            return None
        return block, self._converter.read(block.rows)

    async def _feed_block(self, run: ShardRun, block: Block, values: ReadBlock) -> None:
        """Feeds what the lease has of a block, which may be cut at any row that isn't admitted."""
        begin, total, bad = 0, block.rows.num_rows, 0
        row_bytes = values.measure(0, total) / max(total, 1)
        if block.units is None and run.limit > block.begin:
            run.take(block, total)
        while True:
            await run.wait_room(UNWRITTEN_MAX)
            stop = await self._rows_left(run, block, begin)
            if run.is_cancelled:
                return
            if begin >= stop:
                break
            source = SourceRows(block, begin, min(self._flow.fit_rows(row_bytes), stop - begin))
            first = await self._admit(run, source, values, 0, None)
            if first is None:
                return
            if block.rows_before(run.limit) < stop:  # it was cut meanwhile
                if isinstance(first, _Part):
                    self._flow.withdraw(first.admission)
                continue
            if isinstance(first, _TooLarge):
                begin += 1
                run.take(block, begin)
                await self._reject(run, source)
            else:
                group = self._more(run, values, first, stop)
                begin += sum(part.source.count for part in group)
                run.take(block, begin)
                await self._convert(run, values, block_begin=0, group=group, started=run.started)
            bad = await self._reject_bad(run, block, bad)
        if run.end > block.begin:
            front = block.front(min(run.end, block.end))
            run.count_block(front)
            await self._reject_bad(run, front, bad)

    async def _rows_left(self, run: ShardRun, block: Block, begin: int) -> int:
        """Where the lease's rows of a block end; once `begin` is there, not before an offer to cut it is answered."""
        stop = block.rows_before(run.limit)
        if begin >= stop and run.limit < block.end:
            await run.wait_end_agreed()
            stop = block.rows_before(run.limit)
        return stop

    def _more(self, run: ShardRun, values: ReadBlock, first: _Part, stop: int) -> list[_Part]:
        """The batches behind `first`, of as many rows, that there is room for at once; `first` is one of them."""
        group = [first]
        begin = first.source.begin + first.source.count
        while len(group) < GROUP and begin < stop:
            source = SourceRows(first.source.block, begin, min(first.source.count, stop - begin))
            nbytes = values.measure(begin, begin + source.count)
            more = self._flow.try_admit(run.order, run.key, source.count, nbytes)
            if not isinstance(more, Admission):
                break
            group.append(_Part(source, more))
            begin += source.count
        return group

    async def _reject_bad(self, run: ShardRun, block: Block, done: int) -> int:
        """Rejects the bad rows before the lease's position, of which `done` are; returns how many are."""
        end = done
        if done < len(block.bad):
            end = int(np.searchsorted(block.bad_units, run.position))
        if end > done:
            await self._threads.call(partial(run.reject_bad, block.bad[done:end]))
            run.rows_done += end - done
        return end

    async def _reject(self, run: ShardRun, source: SourceRows) -> None:
        """Rejects the first of `source`."""
        row = SourceRows(source.block, source.begin, 1)
        blame = Blame(SOURCE, "TooLarge", "the row's columns exceed the arena")
        await self._threads.call(partial(run.reject_row, row, blame))
        run.rows_done += 1

    async def feed_again(self, run: ShardRun, batch: Batch, rows_max: int) -> None:
        """Feeds the rows of a dropped batch again, at most `rows_max` together, to where they were in the order."""
        dropped, place = run.dropped(batch)
        values = await self._threads.call(lambda: self._converter.read(dropped.rows))
        begin, end = dropped.begin, dropped.begin + dropped.count
        while begin < end and not run.is_cancelled:
            source = SourceRows(dropped.block, begin, min(rows_max, end - begin))
            part = await self._admit(run, source, values, dropped.begin, batch.age)
            if part is None:
                return
            if isinstance(part, _TooLarge):
                begin += 1
                await self._reject(run, source)
                continue
            begin += part.source.count
            started = partial(run.started_again, place=place)
            await self._convert(run, values, block_begin=dropped.begin, group=[part], started=started)
        run.all_started_again(place)

    async def _admit(
        self, run: ShardRun, source: SourceRows, values: ReadBlock, block_begin: int, age: int | None
    ) -> "_Part | _TooLarge | None":
        """Room for as many of the first rows of `source` as can ever fit, or that not even one can.

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
            converted = await self._threads.call(lambda: [write(part) for part in group])
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


def _clip(slices: Sequence[Slice], begin: int, end: int) -> list[Slice]:
    """The parts of `slices` that lie in the dataset's units ``[begin, end)``."""
    parts = []
    for part in slices:
        low = max(part.begin, begin - part.origin)
        high = min(part.end, end - part.origin)
        if low < high:
            parts.append(Slice(part.path, part.size, part.version, low, high, part.units, part.origin))
    return parts
