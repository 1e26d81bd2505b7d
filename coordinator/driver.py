"""The driver: owns every lease table and the journal, on one event loop.

A call or a tick decides on the tables at once, hands the facts to the group commit, and answers when they are durable.
Slow work (files of the output, planning) runs in threads and comes back as decisions of this loop.

    worker_desk, job_desk, tick ──▶ LeaseTable ──facts──▶ GroupCommit ──durable──▶ reply

Not here: what workers say (`coordinator.worker_desk`), what users ask for (`coordinator.job_desk`), the steps of
publishing (`coordinator.finish`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import structlog

from coordinator.core import pace
from coordinator.core.facts import CommitDecided, Ended, EpochEnded, Fact, JobChanged, OutputStep, TermRaised
from coordinator.core.ledger import Ledger
from coordinator.counters import Counters
from coordinator.exchange import Seat
from coordinator.finish import finish, publish_due
from coordinator.group_commit import GroupCommit
from coordinator.job_run import OUTPUT_COMMITTED, JobRun
from coordinator.jobs import JobState, budget_fault, failure_reason, nothing_came_out
from coordinator.journal import CHECKPOINT_FACTS, Journal, JournalDamaged
from coordinator.manifest import ManifestDamaged
from headrace.errors import BadJob, HeadraceError, SinkError, SinkUnavailable
from headrace.words import Epoch, Reason, ShardId, ShardState, WorkerName

log = structlog.get_logger()

LEASE_TTL_S = 8.0
"""A worker that is silent for so long has lost its leases; others have them within ten seconds of its last word."""
TICK_S = 0.2
LATE_S = 1.0
"""A tick that comes later by more than this means that we slept, not that workers are silent."""
FORGET_AFTER_S = 3600.0
"""A lost worker is listed for so long."""
CLEARED = "cleared"
"""The output step after which nothing of a forgotten job is left in its output."""
PUBLISH_TRIES = 5
PUBLISH_BACKOFF_S = 0.5
OF_THE_FINISH = ShardId(-1)
"""Stands for the finish where outages are told apart by shard."""


class NoSuchJob(HeadraceError):
    """No job of that name is known here."""


class WrongState(HeadraceError):
    """The job is in a state in which this can't be done; the text says what can."""


class Driver:
    """All jobs, workers and leases of one ledger. Its methods belong to the loop's thread."""

    def __init__(self, journal: Journal, *, clock: Callable[[], float], lease_ttl_s: float = LEASE_TTL_S) -> None:
        """`clock` gives seconds that never go back. Reads the whole journal: blocking.

        Raises:
            JournalDamaged: the ledger isn't what was written.
        """
        self.now = clock
        self._lease_ttl_s = lease_ttl_s
        self.path = journal.path
        self.ledger = Ledger()
        try:
            for number, fact in journal.replay():
                self.ledger.apply(fact, number)
            # Its seats are empty, but these workers will be back, as rarely as a fleet of their number may call.
            self._returning = len({lease.worker for job in self.ledger.jobs.values() for lease in job.table.leases()})
            self._returned_by = clock() + pace.lease_ttl_s(self._returning, lease_ttl_s)
            self.ledger.restart(clock(), pace.lease_ttl_s(self._returning, lease_ttl_s))
        except (ValueError, KeyError) as error:
            raise JournalDamaged(f"{journal.path} holds facts that don't follow from one another: {error}") from error
        self.term = self.ledger.term + 1
        self.commits = GroupCommit(journal, self._note_numbers, self._break)
        self.counters = Counters()
        self.runs: dict[int, JobRun] = {}
        self.seats: dict[WorkerName, Seat] = {}
        self._journal = journal
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticked_at = clock()
        self._is_closing = False
        self.broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Done with the error after which this process must end."""

    async def start(self, *, awaits_submission: bool = False) -> None:
        """Raises the term and takes up all jobs where they were left.

        With `awaits_submission` each of them waits until it is submitted again: whoever runs this coordinator has yet
        to say whether the job's model and code are still what they were.
        """
        self.record([TermRaised(self.term)])
        await self.commits.durable()
        for ledger in self.ledger.jobs.values():
            run = self.add_run(JobRun(ledger, ledger_path=self.path, now=self.now()))
            run.is_awaited = awaits_submission
            if ledger.changed is not None:
                run.changed(ledger.changed, self.now())
            if run.state in (JobState.PLANNED, JobState.RUNNING, JobState.SUSPENDED):
                await self._take_up(run)
            elif run.is_forgotten:
                await self.clear(run)
        self.spawn(self._tick_on(), "tick")

    async def close(self) -> None:
        """Ends all work at a point from which a restart goes on."""
        self._is_closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.commits.close()

    # ------------------------------------------------------------------ for the desks

    @property
    def fleet(self) -> int:
        """How many workers call, or are about to."""
        return max(len(self.seats), self._returning)

    @property
    def lease_ttl_s(self) -> float:
        """How long a lease lasts without a call of its worker."""
        return pace.lease_ttl_s(self.fleet, self._lease_ttl_s)

    def record(self, facts: Iterable[Fact]) -> None:
        """Takes facts that are applied already; counts what metrics want to know."""
        facts = list(facts)
        for fact in facts:
            if isinstance(fact, EpochEnded) and fact.why is Ended.EXPIRED:
                self.counters.leases_expired += 1
                log.info("lease expired", job=fact.job, shard=fact.shard, epoch=fact.epoch)
        self.commits.add(facts)

    def add_run(self, run: JobRun) -> JobRun:
        """Takes a job in."""
        self.runs[run.number] = run
        return run

    def change(self, run: JobRun, state: JobState, *, reason: str = "", message: str = "") -> None:
        """Changes a job's state, and what that means for its workers."""
        fact: JobChanged = run.changed(run.change(state, reason=reason, message=message), self.now())
        self.record([fact])
        if state is not JobState.RUNNING:
            log.info("job", job=run.name, state=str(state), reason=reason, message=message)
        if run.is_forgotten:
            self.counters.forget(run.uid)
        if state in (JobState.FAILED, JobState.ABANDONED):
            # Nobody is waited for: workers hear STOP, and a continued job begins without a pause.
            for worker in {lease.worker for lease in run.table.leases()}:
                self.record(run.table.worker_lost(worker))

    def fail(self, run: JobRun, reason: str, message: str) -> None:
        """Ends a job that can't go on; the same submission continues it. Nothing if its output is being finished."""
        if run.finishing is None:
            self._fail(run, reason, message)

    def _fail(self, run: JobRun, reason: str, message: str) -> None:
        if run.state in (JobState.RUNNING, JobState.SUSPENDED):
            self.change(run, JobState.FAILED, reason=reason, message=message)

    def note_step(self, run: JobRun, step: str) -> None:
        """Journals that a step of the output is done."""
        fact = OutputStep(run.number, step)
        run.ledger.apply(fact)
        self.record([fact])

    async def open_output(self, run: JobRun) -> None:
        """Makes the output of a planned job its own, and ready for workers.

        Raises:
            BadJob, SinkError: it can't be had; nothing of this job is left there.
        """
        try:
            await asyncio.to_thread(run.output.claim)
            if (await asyncio.to_thread(run.output.last_manifest))[0] != run.plan.sink.number - 1:
                raise SinkError(f"Another job finished in {run.output.place} meanwhile; submit this one again.")
            await asyncio.to_thread(run.output.prepare)
            self.record(run.table.agree(run.plan.sink.schema))
        except (BadJob, SinkError) as error:
            self.change(run, JobState.REFUSED, message=str(error))
            await self.clear(run)
            raise

    async def clear(self, run: JobRun) -> None:
        """Takes what a forgotten job left out of its output; a restart tries again where this failed."""
        if CLEARED in run.ledger.steps:
            return
        await self.commits.durable()  # a job that isn't known to be forgotten keeps its output
        try:
            await asyncio.to_thread(run.output.abandon)
        except SinkError as error:
            log.warning("output not cleared", job=run.name, error=str(error))
        else:
            self.note_step(run, CLEARED)

    def seats_of(self, run: JobRun) -> list[Seat]:
        """The job's workers that aren't lost."""
        return [seat for seat in self.seats.values() if seat.job_uid == run.uid and not seat.is_lost]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs a task of this driver; its error ends the process."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    # ------------------------------------------------------------------ time

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()
            if self._journal_is_long():
                await self.checkpoint()
                self._ticked_at = self.now()

    async def checkpoint(self) -> None:
        """Lets the next restart begin here."""
        await self.commits.checkpoint(lambda: [fact for run in self.runs.values() for fact in run.table.checkpoint()])

    def tick(self) -> None:
        """What time alone decides: leases expire, publishes fall due, deadlines pass."""
        now = self.now()
        late_s = now - self._ticked_at - TICK_S
        self._ticked_at = now
        if late_s > LATE_S:
            log.warning("the coordinator slept", seconds=round(late_s, 1))
            for seat in self.seats.values():
                seat.seen_at += late_s
            for run in self.runs.values():
                run.table.shift_deadlines(late_s)
        if now > self._returned_by:
            self._returning = 0
        lease_ttl_s = self.lease_ttl_s
        for seat in list(self.seats.values()):
            silent_s = now - seat.seen_at
            if silent_s > lease_ttl_s and not seat.is_lost:
                self._lose(seat)
            if silent_s > FORGET_AFTER_S:
                del self.seats[seat.name]
        for run in list(self.runs.values()):
            if run.is_forgotten or run.state is JobState.SUCCEEDED:
                continue
            self.record(run.table.expire(now))
            run.note_progress(now)
            run.workers = len(self.seats_of(run))
            deadline_s = run.options.active_deadline_s
            if deadline_s is not None and run.is_open and run.elapsed_s(now) > deadline_s:
                self.fail(
                    run, Reason.DEADLINE_EXCEEDED, f"The job ran for longer than activeDeadline, {deadline_s:g} s."
                )
            self.settle(run)

    def _lose(self, seat: Seat) -> None:
        seat.is_lost = True
        change = seat.forget_live()
        run = self.by_uid(seat.job_uid)
        if run is not None:
            run.add_live(change)
            run.note_change()
        log.warning("worker lost", worker=seat.name)

    def settle(self, run: JobRun) -> None:
        """Follows up on what a turn decided: publishes that are due, budgets spent, the end."""
        if self._is_closing or run.is_forgotten:
            return
        for shard, epoch in run.table.publishes_due(self.now()):
            run.publishing.add(shard)
            self.spawn(self._publish(run, shard, epoch), f"publish {shard}")
        if run.state is not JobState.RUNNING or run.finishing is not None or run.is_unchecked:
            return
        rows = run.table.rows
        fault = budget_fault(
            run.program.errors,
            read=rows.read + rows.corrupt + run.rows_read_live,
            rejected=rows.rejected + rows.corrupt + run.rows_rejected_live,
        )
        if fault:
            self._fail_of_rejects(run, fault)
        elif run.table.counts.quarantined and run.options.on_quarantine == "fail":
            self._fail_quarantined(run)
        elif run.table.is_finished and not run.publishing and run.output_breaker.allows(self.now()):
            run.finishing = self.spawn(self._finish(run), f"finish {run.name}")

    def _fail_of_rejects(self, run: JobRun, fault: str) -> None:
        example = f"; such as {run.reject_example}" if run.reject_example else ""
        self._fail(run, Reason.ERROR_BUDGET_EXCEEDED, fault + example)

    def _fail_quarantined(self, run: JobRun) -> None:
        view = run.table.shards(state=ShardState.QUARANTINED, limit=1)[0]
        reason = failure_reason(run.exit_classes.get(view.shard, ""))
        self.fail(run, reason, f"Shard {view.shard} failed {view.attempts} times, last: {view.error}")

    async def _publish(self, run: JobRun, shard: ShardId, epoch: Epoch) -> None:
        failures = 0
        try:
            while True:
                began = self.now()
                try:
                    await publish_due(run, shard, epoch, self.commits, self)
                except SinkUnavailable as error:
                    pause_s = self._note_outage(run, shard, began, error)
                    if run.state is not JobState.RUNNING:
                        return  # what is due is due again when the job goes on
                except SinkError as error:
                    failures += 1
                    log.warning("publish failed", job=run.name, shard=shard, failures=failures, error=str(error))
                    if failures == PUBLISH_TRIES:
                        self.fail(run, Reason.SINK_FAILED, str(error))
                        return
                    pause_s = PUBLISH_BACKOFF_S * 2 ** (failures - 1)
                else:
                    run.output_breaker.worked(began, self.now())
                    return
                await asyncio.sleep(pause_s)
        finally:
            run.publishing.discard(shard)
            self.settle(run)
            run.note_change()

    def _note_outage(self, run: JobRun, shard: ShardId, began: float, error: SinkUnavailable) -> float:
        """Pauses the job for its output's store; gives the seconds until that is to be tried again."""
        log.warning("the output's store fails", job=run.name, error=str(error))
        run.output_breaker.failed(shard, began, self.now(), str(error))
        return max(run.output_breaker.retry_at - self.now(), TICK_S)

    async def _finish(self, run: JobRun) -> None:
        rows, table = run.table.rows, run.table
        began = self.now()
        try:
            fault = nothing_came_out(run.program.errors, rows.out, rows.rejected + rows.corrupt)
            if fault:
                self._fail_of_rejects(run, fault)
                return
            if not await finish(run, self.commits, self):
                return
            if table.counts.quarantined:
                message = f"{table.counts.quarantined} shards were given up; the manifest lists their ranges."
                self._fail(run, Reason.BACKOFF_LIMIT_EXCEEDED, message)
            else:
                await self._succeed(run)
        except SinkUnavailable as error:
            self._note_outage(run, OF_THE_FINISH, began, error)  # the steps done so far stay done
        except (SinkError, ManifestDamaged) as error:
            self._fail(run, Reason.SINK_FAILED, str(error))
        finally:
            run.finishing = None

    async def _succeed(self, run: JobRun) -> None:
        # People hear of success only when the ledger has it.
        fact = run.change(JobState.SUCCEEDED)
        self.record([fact])
        await self.commits.durable()
        run.changed(fact, self.now())
        log.info("job complete", job=run.name, rows=run.table.rows.out)

    # ------------------------------------------------------------------ inside

    async def _take_up(self, run: JobRun) -> None:
        """Makes sure, after a restart, that an unfinished job's output is its own and ready."""
        if OUTPUT_COMMITTED in run.ledger.steps:
            return
        began = self.now()
        run.is_unchecked = True
        try:
            if run.state is JobState.PLANNED:
                await self.open_output(run)
                self.change(run, JobState.RUNNING)
            else:
                await self.reopen_output(run)
                await asyncio.to_thread(self._check_ledger, run)
        except SinkUnavailable as error:
            pause_s = self._note_outage(run, OF_THE_FINISH, began, error)
            self.spawn(self._take_up_later(run, pause_s), f"take up {run.name}")
            return
        except (BadJob, SinkError) as error:
            self.fail(run, Reason.SINK_FAILED, str(error))
        except JournalDamaged as error:
            self.fail(run, Reason.LEDGER_DAMAGED, str(error))
        run.is_unchecked = False

    async def _take_up_later(self, run: JobRun, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        if run.state in (JobState.RUNNING, JobState.SUSPENDED):
            await self._take_up(run)

    def _check_ledger(self, run: JobRun) -> None:
        """A lost end of the ledger looks like a torn one, which is lawful, but then the output knows more than it.

        Raises:
            JournalDamaged: facts are missing that were answered as durable.
        """
        for shard, epoch, is_published in run.output.leases_seen():
            if not run.table.explains(shard, epoch, is_published=is_published):
                raise JournalDamaged(
                    f"{run.output.place} has files of shard {shard}, epoch {epoch}: {self.path} hasn't."
                )

    async def reopen_output(self, run: JobRun) -> None:
        """Makes sure that the output is still as this job left it, and ready for workers.

        Raises:
            SinkError: it isn't, or the ledger is behind it.
        """
        await asyncio.to_thread(run.output.check_claim)
        if "staging" not in run.ledger.steps:
            await asyncio.to_thread(run.output.prepare)

    def by_uid(self, uid: str) -> JobRun | None:
        return next((run for run in self.runs.values() if run.uid == uid), None)

    def _note_numbers(self, facts: Sequence[Fact], last: int) -> None:
        for job in {fact.job for fact in facts if isinstance(fact, CommitDecided)}:
            self.runs[job].table.note_numbers(facts, last)

    def _journal_is_long(self) -> bool:
        return self._journal.facts_since_checkpoint > CHECKPOINT_FACTS

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        if not self.broken.done():
            self.broken.set_result(error)
