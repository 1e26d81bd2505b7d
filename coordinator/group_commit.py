"""Group commit: all facts of one loop turn, and of the turns during the write before, share one fsync.

    decisions ──add──▶ waiting ──(one thread)──▶ journal ──▶ everyone who waits for these facts goes on

The write runs in a thread of its own, so the loop goes on deciding while the disk works; replies wait with `durable`.
Reads of the journal take turns with the writes, a batch at a time.

Not here: the file itself (`coordinator.journal`), what facts mean (`coordinator.core`).
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from coordinator.core.columns import Ints
from coordinator.core.facts import CommitDecided, Fact
from coordinator.journal import Journal, JournalFailed

T = TypeVar("T")

READ_BATCH = 500
"""Commits read between two writes: a few milliseconds."""


class GroupCommit:
    """The one writer of a journal. Its methods are for the loop's thread, but for `commits`."""

    def __init__(
        self,
        journal: Journal,
        noted: Callable[[Sequence[Fact], int], None],
        failed: Callable[[JournalFailed], None],
    ) -> None:
        """On the loop, `noted` hears which facts were written and the last one's number, `failed` that no more are."""
        self._journal = journal
        self._noted = noted
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._waiting: list[Fact] = []
        self._added = 0  # facts, since the start of this process
        self._written = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []  # facts that must be written, rising
        self._writer: asyncio.Task[None] | None = None
        self.last = journal.last  # number of the last durable fact
        self.failure: JournalFailed | None = None

    def add(self, facts: Iterable[Fact]) -> None:
        """Takes facts that are applied already; they are written in this order."""
        before = len(self._waiting)
        self._waiting.extend(facts)
        self._added += len(self._waiting) - before
        if self._waiting and self._writer is None and self.failure is None:
            self._writer = asyncio.create_task(self._write(), name="group commit")
            self._writer.add_done_callback(self._write_ended)

    async def durable(self) -> int:
        """Waits until everything added so far is durable; gives the number of the last durable fact.

        Raises:
            JournalFailed: it never will be, and this process must end.
        """
        if self._written < self._added and self.failure is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((self._added, waiter))
            await waiter
        if self.failure is not None:
            raise self.failure
        return self.last

    async def stream(self, facts: Iterable[Fact]) -> int:
        """Writes a long run of facts in one transaction of their own, made while they are written.

        Nothing may be decided about what they mean before it returns. Gives the last one's number.
        """
        await self.durable()
        try:
            self.last = max(self.last, await self._call(lambda: self._journal.append(facts)))
        except JournalFailed as error:
            self._fail(error)
            raise
        return self.last

    async def checkpoint(self, facts: Callable[[], Iterable[Fact]]) -> None:
        """Writes a checkpoint of what is durable now, unless something is being decided: then another time will do."""
        await self.durable()
        if not self._waiting and self._writer is None:
            made = list(facts())
            self.last = max(self.last, await self._call(lambda: self._journal.checkpoint(made)))

    async def commit_at(self, number: int) -> CommitDecided:
        """Reads one commit back."""
        return await self._call(lambda: self._journal.commit_at(number))

    def commits(self, numbers: Ints) -> Iterator[CommitDecided]:
        """Reads commits back as a stream, between the writes. For other threads than the loop's."""
        for i in range(0, len(numbers), READ_BATCH):
            batch = numbers[i : i + READ_BATCH]
            yield from self._thread.submit(self._read, batch).result()

    def _read(self, numbers: Ints) -> list[CommitDecided]:
        return list(self._journal.commits(numbers))

    async def close(self) -> None:
        """Writes what waits and gives the journal back."""
        try:
            if self.failure is None:
                await self.durable()
        finally:
            self._thread.shutdown(wait=True)
            self._journal.close()

    async def _write(self) -> None:
        # The rest of this turn's decisions come before the next one begins.
        await asyncio.sleep(0)
        while self._waiting:
            facts, self._waiting = self._waiting, []
            try:
                last = await self._call(partial(self._journal.append, facts))
            except JournalFailed as error:
                self._fail(error)
                break
            self.last = max(self.last, last)
            self._written += len(facts)
            self._noted(facts, last)
            self._wake(self._written)
        self._writer = None

    def _write_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Facts that are applied and can't be written, for whatever reason: their waiters must not wait for ever.
            failure = JournalFailed(f"Decided facts can't be written: {error!r}")
            failure.__cause__ = error
            self._fail(failure)

    def _fail(self, error: JournalFailed) -> None:
        self.failure = error
        self._failed(error)
        self._wake(self._added)

    def _wake(self, written: int) -> None:
        waiters = self._waiters
        done = next((i for i, (goal, _) in enumerate(waiters) if goal > written), len(waiters))
        for _, waiter in waiters[:done]:
            if not waiter.done():
                waiter.set_result(None)
        del waiters[:done]

    async def _call(self, read_or_write: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, read_or_write)
