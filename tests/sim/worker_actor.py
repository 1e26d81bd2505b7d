"""A worker in a simulated world: a sidecar's manners towards its coordinator and its store, without the predictors.

The lease clock (`sidecar.core.terms`), the cursor and publishing are the real ones; what the sidecar's driver does with
an answer is repeated here step by step, since that is part of an adapter full of arrays and threads.

    granted ──read──▶ staged ──commit asked──▶ accepted ──publish──▶ reported

Not here: the work on a lease (`lease_work`), lies about other workers' leases (`liar`).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Protocol, TypeVar

from coordinator.core.facts import RowCounts
from coordinator.exchange import Answer, CommitAsked, Introduction, Offer, Released, Report, Welcome
from headrace.errors import SinkError
from headrace.publish import REJECTED, part_name, publish
from headrace.words import ACCEPTED, DRAIN, HELD_OUTPUT, REGISTER, STOP, Incarnation, WorkerName
from sidecar.core.terms import Terms
from tests.sim.coordinator_actor import CoordinatorActor
from tests.sim.lease_work import Key, Run, State, write_staged
from tests.sim.network import CallFailed, Network
from tests.sim.processes import Process
from tests.sim.story import Story

BLOCK_UNITS = 3
READERS = 2
LEASES_AHEAD = READERS + 1
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 1.0

Reply = TypeVar("Reply")
T = TypeVar("T")


class Abandoned(Exception):
    """The coordinator has been away for too long, or doesn't want this worker: the process ends."""


class Environment(Protocol):
    """What a worker finds in its world."""

    now: float
    story: Story
    random: Random
    network: Network
    output: Path

    def note(self, who: str, what: str) -> None:
        """For the transcript."""


@dataclass
class WorkerActor:
    """One life of a worker's sidecar."""

    process: Process
    environment: Environment
    incarnation: Incarnation
    units_per_s: float
    terms: Terms = field(default_factory=lambda: Terms(0.0, 3600.0))
    runs: dict[Key, Run] = field(default_factory=dict)
    fails_next: bool = False  # the next shard that is read raises
    _welcome: Welcome | None = None
    _sequence: int = 0
    _ledger_seen: int = 0
    _handbacks: list[Released] = field(default_factory=list)
    _is_draining: bool = False

    @property
    def name(self) -> WorkerName:
        """The worker's, over all of its lives."""
        return WorkerName(self.process.name)

    # ------------------------------------------------------------------ life

    async def main(self) -> None:
        """Works until the job is over for this worker, or it has drained."""
        self._news, self._ended = asyncio.Event(), asyncio.Event()
        self._unread: asyncio.Queue[Run] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._publishes: set[asyncio.Task[None]] = set()
        self.terms.heard(self.environment.now)
        try:
            while not await self._register():
                assert self._welcome is not None
                await asyncio.sleep(self._welcome.retry_after_s)
                if self._is_draining:
                    return
        except Abandoned:
            return
        assert self._welcome is not None
        self.terms.coordinator_timeout_s = self._welcome.coordinator_timeout_s
        tasks = [self._spawn(work) for work in (self._exchange_on(), self._read_on(), self._read_on())]
        await self._ended.wait()
        for task in tasks:
            task.cancel()
        while self._publishes:  # the sidecar waits for publishes under way
            await asyncio.wait(set(self._publishes))

    def drain(self) -> None:
        """SIGTERM: what has been read is committed, the rest goes back at once."""
        if self._is_draining:
            return
        self._is_draining = True
        if self._welcome is None:
            return
        for run in list(self.runs.values()):
            if run.state is State.READING and not run.is_read:
                run.end = run.cursor.lower_end(run.cursor.position)
                run.offered = run.end if run.end < run.agreed_end else None
                run.changed.set()
                if run.end == run.grant.begin:
                    self._hand_back(run, "", is_charged=False)
        if not self.runs and not self._handbacks:
            self._ended.set()
        self._news.set()

    def staged_paths(self) -> list[Path]:
        """All files that it has staged and not handed on."""
        return [staged for run in self.runs.values() for staged, _ in run.staged]

    # ------------------------------------------------------------------ calls

    async def _persist(self, ask: Callable[[CoordinatorActor], Awaitable[Reply]]) -> tuple[Reply, float]:
        """Asks until there is an answer; gives it, and when it was asked for first."""
        world, backoff_s = self.environment, BACKOFF_FIRST_S
        asked_at = world.now
        while True:
            try:
                return await world.network.call(self.process, ask), asked_at
            except CallFailed:
                if self.terms.is_abandoned(world.now):
                    raise Abandoned from None
                await asyncio.sleep(world.random.uniform(0, backoff_s))
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _register(self) -> bool:
        """Says who this is and what it holds; whether there is work."""
        held = tuple(run.held() for run in self.runs.values() if run.state is not State.PUBLISHED)
        before = self._welcome.job_uid if self._welcome else ""
        intro = Introduction(self.name, self.incarnation, held, self._ledger_seen, before)
        welcome, asked_at = await self._persist(lambda coordinator: coordinator.register(intro))
        if welcome is None:
            raise Abandoned  # a newer sidecar has registered
        self._ledger_seen = max(self._ledger_seen, welcome.ledger)
        self.terms.lease_ttl_s = welcome.lease_ttl_s
        self.terms.renewed(asked_at, self.environment.now)
        if before and welcome.job_uid != before:
            self._ended.set()
            kept: set[Key] = set()
        else:
            self._welcome = welcome
            kept = {(held.shard, held.epoch) for held in welcome.keep}
        for key, run in list(self.runs.items()):
            # A commit or publish that is on its way gets its own verdict.
            if key not in kept and run.state is State.READING:
                self._drop(key)
        return bool(welcome.job_uid)

    async def _exchange_on(self) -> None:
        try:
            await self._exchange_for_ever()
        except Abandoned:
            self._note("gives its coordinator up")
            self._ended.set()

    async def _exchange_for_ever(self) -> None:
        world = self.environment
        while True:
            self._news.clear()
            self._sequence += 1
            report = self.report()
            answer, asked_at = await self._persist(partial(_exchange, report))
            self._ledger_seen = max(self._ledger_seen, answer.ledger)
            if answer.directive == REGISTER:  # nothing of the report was taken
                self.terms.heard(world.now)
            else:
                self.terms.renewed(asked_at, world.now)
                self._handbacks = [handback for handback in self._handbacks if handback not in report.releases]
            await self._apply(answer)
            if (self._is_draining or answer.directive == DRAIN) and not self.runs and not self._handbacks:
                self._ended.set()
            assert self._welcome is not None
            wait_s = min(answer.wait_s or self._welcome.heartbeat_s, self._welcome.heartbeat_s)
            try:
                async with asyncio.timeout_at(world.now + wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass

    def report(self) -> Report:
        """All that is new, and all that isn't settled."""
        assert self._welcome is not None
        runs = list(self.runs.values())
        live = [run for run in runs if run.state in (State.READING, State.COMMITTING)]
        reading = sum(run.state is State.READING and not run.is_read for run in runs)
        return Report(
            self.name,
            self.incarnation,
            self._welcome.term,
            self._sequence,
            held=tuple(run.held() for run in live),
            want=0 if self._is_draining else max(0, LEASES_AHEAD - reading),
            commits=tuple(self._wish(run) for run in runs if run.state is State.COMMITTING),
            published=tuple(run.key for run in runs if run.state is State.PUBLISHED),
            releases=tuple(self._handbacks),
            offers=tuple(Offer(*run.key, run.offered) for run in runs if run.offered is not None),
            is_draining=self._is_draining,
        )

    def _wish(self, run: Run) -> CommitAsked:
        files = tuple(file for _, file in run.staged)
        rows = {kind: sum(file.rows for file in files if file.kind == kind) for kind in ("data", "rejects")}
        read = run.end - run.grant.begin
        counts = RowCounts(read, 0, rows["data"], rows["rejects"])
        schema = '[["n","int64"]]' if rows["data"] else ""
        return CommitAsked(*run.key, run.grant.begin, run.end, counts, files, schema)

    async def _apply(self, answer: Answer) -> None:
        for stale in answer.stale:
            self._drop((stale.shard, stale.epoch))
        for verdict in answer.commits:
            self._decided((verdict.shard, verdict.epoch), verdict.outcome, verdict.reason)
        for published in answer.published:
            self.runs.pop((published.shard, published.epoch), None)
        for shard, epoch, end in answer.ends:
            self._split_answered((shard, epoch), end)
        for key in answer.asks:
            self._offer_split(key)
        for grant in answer.grants:
            if self._is_draining:
                self._handbacks.append(Released(grant.shard, grant.epoch, False, "", ""))
                continue
            run = Run(grant)
            self.runs[run.key] = run
            self._unread.put_nowait(run)
        if answer.directive == REGISTER:
            await self._register()
        elif answer.directive == STOP:
            for key, run in list(self.runs.items()):
                if run.state is State.READING:
                    self._drop(key)
            self._ended.set()
        elif answer.directive == DRAIN:
            self.drain()

    # ------------------------------------------------------------------ leases

    async def _read_on(self) -> None:
        while True:
            run = await self._unread.get()
            if run.is_cancelled or run.state is not State.READING:
                continue
            await self._read(run)
            if run.is_cancelled:
                continue
            if self.fails_next:
                self.fails_next = False
                self._hand_back(run, "ModelFailed", is_charged=True)
                continue
            run.is_read = True
            self._news.set()
            self._settle(run)

    async def _read(self, run: Run) -> None:
        while not run.is_cancelled:
            begin = run.cursor.position
            to = run.cursor.claim(min(begin + BLOCK_UNITS, run.end))
            if to > begin:
                await asyncio.sleep((to - begin) / self.units_per_s)
                run.cursor.hand_out(to)
            elif run.offered is None:
                if run.cursor.position >= run.end:
                    return
            else:
                run.changed.clear()
                await run.changed.wait()

    def _settle(self, run: Run) -> None:
        if run.is_read and run.offered is None and run.state is State.READING and not run.is_cancelled:
            self._spawn(self._stage(run))

    async def _stage(self, run: Run) -> None:
        assert self._welcome is not None
        staging, uid = Path(self._welcome.staging), self._welcome.job_uid
        units = range(run.grant.begin, run.end)
        poison = self.environment.story.poison
        rejected = [unit for unit in units if poison and unit % poison == poison - 1]
        parts = {"data": [unit for unit in units if unit not in rejected], "rejects": rejected}
        random = f"{self.environment.random.getrandbits(32):08x}"
        name = part_name(run.key[0], uid, run.key[1], random, ".jsonl")
        try:
            for kind, rows in parts.items():
                if rows:
                    final = name if kind == "data" else f"{REJECTED}/{name}"
                    run.staged.append(await self._in_thread(partial(write_staged, staging, final, kind, rows)))
        except OSError as error:
            self.environment.note(
                self.name, f"can't stage shard {run.key[0]} epoch {run.key[1]}: {type(error).__name__}"
            )
            self._hand_back(run, "", is_charged=False)
            return
        if run.is_cancelled:
            await self._discard(run)
            return
        run.state = State.COMMITTING
        self._news.set()

    def _decided(self, key: Key, outcome: str, reason: str) -> None:
        run = self.runs.get(key)
        if run is None or run.state is not State.COMMITTING:
            return
        if outcome != ACCEPTED:
            self._drop(key)
        elif reason == HELD_OUTPUT:
            del self.runs[key]
        else:
            run.state = State.PUBLISHING
            self._publishes.add(self._spawn(self._publish(run)))

    async def _publish(self, run: Run) -> None:
        if not self.terms.is_trusted(self.environment.now):
            run.state = State.COMMITTING  # asked again with the next exchange, which renews the trust
            return
        try:
            for staged, file in run.staged:
                final = self.environment.output / file.name
                await self._in_thread(partial(publish, staged, final, file.size, file.digest))
        except SinkError as error:
            # The coordinator publishes what isn't reported in time.
            self.environment.note(
                self.name, f"can't publish shard {run.key[0]} epoch {run.key[1]}: {type(error).__name__}"
            )
            self.runs.pop(run.key, None)
        else:
            run.state = State.PUBLISHED
        self._news.set()

    def _offer_split(self, key: Key) -> None:
        run = self.runs.get(key)
        if self._is_draining or run is None or run.state is not State.READING or run.offered is not None:
            return
        position = run.cursor.position
        run.offered = run.cursor.lower_end(position + (run.end - position + 1) // 2) if not run.is_read else run.end
        self._news.set()

    def _split_answered(self, key: Key, end: int) -> None:
        run = self.runs.get(key)
        if run is None:
            return
        run.agreed_end = end
        if run.offered is None:
            return
        if not self._is_draining:
            run.end = end
            run.cursor.end = end
        run.offered = None
        run.changed.set()
        self._settle(run)

    def _hand_back(self, run: Run, kind: str, *, is_charged: bool) -> None:
        if run.key in self.runs and not run.is_cancelled:
            self._handbacks.append(Released(*run.key, is_charged, kind, kind))
            self._drop(run.key)
            self._news.set()

    def _drop(self, key: Key) -> None:
        run = self.runs.pop(key, None)
        if run is None:
            return
        run.is_cancelled = True
        run.cursor.lower_end(run.cursor.position)
        run.changed.set()
        self._spawn(self._discard(run))

    async def _discard(self, run: Run) -> None:
        for staged, _ in run.staged:
            with contextlib.suppress(OSError):  # the finish sweeps what nobody named
                await self._in_thread(partial(staged.unlink, missing_ok=True))

    # ------------------------------------------------------------------ threads and tasks

    def _note(self, what: str) -> None:
        self.environment.note(self.name, what)

    def _spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._publishes.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.process.is_dead:
            self.process.fail(error)

    def _in_thread(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(None, call)


async def _exchange(report: Report, coordinator: CoordinatorActor) -> Answer:
    return await coordinator.exchange(report)
