"""Group commit: facts of one turn share one write, in order, and nobody goes on before theirs is durable."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, cast

import pytest

from coordinator.core.facts import Fact, TermRaised
from coordinator.group_commit import GroupCommit
from coordinator.journal import Journal, JournalFailed


class SlowJournal:
    """A journal whose writes wait until the test lets them go."""

    def __init__(self) -> None:
        self.last = 0
        self.loop = asyncio.get_running_loop()
        self.is_writing = asyncio.Event()
        self.writes: list[list[Fact]] = []
        self.gate = threading.Event()
        self.is_broken = False

    def append(self, facts: Iterable[Fact]) -> int:
        self.loop.call_soon_threadsafe(self.is_writing.set)
        assert self.gate.wait(10)
        if self.is_broken:
            raise JournalFailed("disk full")
        self.writes.append(list(facts))
        self.last += len(self.writes[-1])
        return self.last

    def close(self) -> None:
        """Nothing to give back."""


def run(test: Callable[[SlowJournal, GroupCommit, list[int]], Coroutine[Any, Any, None]]) -> None:
    async def with_journal() -> None:
        journal, noted = SlowJournal(), list[int]()

        def note(facts: Sequence[Fact], last: int) -> None:
            noted.extend(range(last - len(facts) + 1, last + 1))

        commits = GroupCommit(cast(Journal, journal), note, lambda _: noted.append(-1))
        try:
            await test(journal, commits, noted)
        finally:
            journal.gate.set()
            await asyncio.gather(commits.close(), return_exceptions=True)

    asyncio.run(asyncio.wait_for(with_journal(), 20))


def terms(*numbers: int) -> list[Fact]:
    return [TermRaised(n) for n in numbers]


def test_one_turn_is_one_write_and_what_comes_meanwhile_is_the_next() -> None:
    async def test(journal: SlowJournal, commits: GroupCommit, noted: list[int]) -> None:
        commits.add(terms(1))
        commits.add(terms(2, 3))
        first = asyncio.create_task(commits.durable())
        await journal.is_writing.wait()
        commits.add(terms(4))
        second = asyncio.create_task(commits.durable())
        await asyncio.sleep(0)
        assert not first.done()
        journal.gate.set()
        assert (await first) >= 3
        assert await second == 4
        assert journal.writes == [terms(1, 2, 3), terms(4)]
        assert noted == [1, 2, 3, 4]

    run(test)


def test_nothing_to_wait_for_is_no_wait() -> None:
    async def test(journal: SlowJournal, commits: GroupCommit, noted: list[int]) -> None:
        assert await commits.durable() == 0
        assert journal.writes == []

    run(test)


def test_a_failed_write_is_told_to_everyone_for_ever() -> None:
    async def test(journal: SlowJournal, commits: GroupCommit, noted: list[int]) -> None:
        journal.is_broken = True
        commits.add(terms(1))
        waiting = [asyncio.create_task(commits.durable()) for _ in range(3)]
        await asyncio.sleep(0)
        journal.gate.set()
        for task in waiting:
            with pytest.raises(JournalFailed):
                await task
        journal.is_broken = False
        commits.add(terms(2))
        with pytest.raises(JournalFailed):
            await commits.durable()
        assert (journal.writes, noted) == ([], [-1])

    run(test)


def test_facts_that_cant_be_encoded_end_it_as_a_failed_write_does() -> None:
    async def test(journal: SlowJournal, commits: GroupCommit, noted: list[int]) -> None:
        journal.gate.set()
        journal.last = cast(int, "not a number")
        commits.add(terms(1))
        with pytest.raises(JournalFailed, match="TypeError"):
            await commits.durable()
        assert noted == [-1]

    run(test)
