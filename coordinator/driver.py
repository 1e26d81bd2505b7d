"""The driver: owns every lease table and the journal, on one event loop.

A call or a tick decides on the tables at once, hands the facts to the group commit, and answers when they are durable:
whatever leaves this process, also STALE, is in the ledger. Slow work (files of the output, planning) runs in threads
and comes back as decisions of this loop.

    exchange, register, tick ──▶ LeaseTable ──facts──▶ GroupCommit ──durable──▶ reply

Not here: what users ask for (`coordinator.job_desk`), the steps of publishing (`coordinator.finish`), the wire
(`coordinator.rpc`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from coordinator.core import hold, tail
from coordinator.core.facts import (
    CommitDecided,
    Ended,
    EpochEnded,
    Fact,
    Granted,
    JobChanged,
    TermRaised,
)
from coordinator.core.lease_values import AlreadyWon, Lease, Refused, Stale
from coordinator.core.ledger import Ledger
from coordinator.exchange import (
    ACCEPTED,
    DRAIN,
    HELD_OUTPUT,
    PUBLISHED,
    REFUSED,
    REGISTER,
    STALE,
    STOP,
    Answer,
    CommitAsked,
    Grant,
    Introduction,
    Released,
    Report,
    Seat,
    Verdict,
    Welcome,
)
from coordinator.finish import finish, publish_due
from coordinator.group_commit import GroupCommit
from coordinator.job_run import OUTPUT_COMMITTED, JobRun
from coordinator.jobs import FATAL_CLASSES, JobState, budget_fault, failure_reason, nothing_came_out
from coordinator.journal import CHECKPOINT_FACTS, Journal
from coordinator.metrics import Counters
from headrace.errors import BadJob, HeadraceError, SinkError
from headrace.publish import REJECTED, parse_part_name
from headrace.words import Epoch, Reason, ShardId, ShardState, WorkerName

log = structlog.get_logger()

LEASE_TTL_S = 10.0
"""A worker that is silent for so long has lost its leases; ten heartbeats."""
HEARTBEAT_S = 1.0
EXCHANGES_MAX = 300.0
"""Heartbeats per second that one coordinator takes on; with more workers, each comes less often."""
TICK_S = 0.2
LATE_S = 1.0
"""A tick that comes later by more than this means that we slept, not that workers are silent."""
WAIT_IDLE_S = 0.1
"""When a worker without work asks again: another's split or the end may be near."""
RETRY_AFTER_S = 0.1
RETRY_SUSPENDED_S = 1.0
FORGET_AFTER_S = 3600.0
"""A lost worker is listed for so long."""
PUBLISH_TRIES = 5
PUBLISH_BACKOFF_S = 0.5


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
        self.lease_ttl_s = lease_ttl_s
        self.path = journal.path
        self.ledger = Ledger()
        for number, fact in journal.replay():
            self.ledger.apply(fact, number)
        self.term = self.ledger.term + 1
        self.ledger.restart(clock(), lease_ttl_s)
        self.commits = GroupCommit(journal, self._note_numbers, self._break)
        self.counters = Counters()
        self.runs: dict[int, JobRun] = {}
        self.seats: dict[WorkerName, Seat] = {}
        self._journal = journal
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticked_at = clock()
        self.broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Done with the error after which this process must end."""

    async def start(self) -> None:
        """Raises the term and takes up all jobs where they were left."""
        self.record([TermRaised(self.term)])
        await self.commits.durable()
        for ledger in self.ledger.jobs.values():
            run = self.add_run(JobRun(ledger, ledger_path=self.path, now=self.now()))
            if ledger.changed is not None:
                run.changed(ledger.changed, self.now())
            if run.state in (JobState.PLANNED, JobState.RUNNING, JobState.SUSPENDED):
                await self._take_up(run)
        self.spawn(self._tick_on(), "tick")

    async def close(self) -> None:
        """Ends all work at a point from which a restart goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.commits.close()

    # ------------------------------------------------------------------ for the job desk

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
        if state in (JobState.FAILED, JobState.ABANDONED):
            # Nobody is waited for: workers hear STOP, and a continued job begins without a pause.
            for worker in {lease.worker for lease in run.table.leases()}:
                self.record(run.table.worker_lost(worker))

    def fail(self, run: JobRun, reason: str, message: str) -> None:
        """Ends a job that can't go on; the same submission continues it."""
        if run.state in (JobState.RUNNING, JobState.SUSPENDED):
            self.change(run, JobState.FAILED, reason=reason, message=message)

    def seats_of(self, run: JobRun) -> list[Seat]:
        """The job's workers that aren't lost."""
        return [seat for seat in self.seats.values() if seat.job_uid == run.uid and not seat.is_lost]

    def spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        """Runs a task of this driver; its error ends the process."""

        async def guarded() -> None:
            await work

        task = asyncio.create_task(guarded(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    # ------------------------------------------------------------------ workers

    async def register(self, intro: Introduction) -> Welcome:
        """A sidecar introduces itself. The first running job is its, unless it names one.

        Raises:
            WrongState: a newer incarnation of this worker has registered.
        """
        now = self.now()
        seat = self.seats.get(intro.worker)
        if seat is not None and intro.incarnation in seat.superseded:
            raise WrongState(f"A newer sidecar of {intro.worker} has registered; this one must end.")
        run = self._job_for(intro.job_uid)
        if run is not None and intro.ledger_seen > self.commits.last:
            self.fail(
                run,
                Reason.LEDGER_DAMAGED,
                f"{intro.worker} saw fact {intro.ledger_seen} of a ledger that ends at {self.commits.last}.",
            )
            run = None
        heartbeat_s = self.heartbeat_s()
        if run is None or not run.is_open:
            wait_s = RETRY_SUSPENDED_S if run is not None and run.state is JobState.SUSPENDED else RETRY_AFTER_S
            ledger = await self.commits.durable()
            return Welcome(self.term, ledger, self.lease_ttl_s, heartbeat_s, retry_after_s=wait_s)
        superseded = set() if seat is None else seat.superseded
        if seat is not None:
            before = self._by_uid(seat.job_uid)
            if before is not None:
                before.add_live(seat.forget_live())
            if seat.incarnation != intro.incarnation:
                superseded.add(seat.incarnation)
        for other in self.runs.values():
            if other is not run:
                self.record(other.table.worker_lost(intro.worker))
        facts, keep = run.table.register(intro.worker, intro.incarnation, intro.held, now, self.lease_ttl_s)
        self.record(facts)
        self.seats[intro.worker] = Seat(intro.worker, intro.incarnation, run.uid, seen_at=now, superseded=superseded)
        run.workers = len(self.seats_of(run))
        log.info("worker registered", worker=intro.worker, job=run.name, keeps=len(keep))
        self._settle(run)
        return Welcome(
            term=self.term,
            ledger=await self.commits.durable(),
            lease_ttl_s=self.lease_ttl_s,
            heartbeat_s=heartbeat_s,
            job_uid=run.uid,
            job_name=run.name,
            program=run.program_text,
            staging=str(run.output.staging),
            coordinator_timeout_s=run.options.coordinator_timeout_s,
            keep=tuple(keep),
        )

    async def exchange(self, report: Report) -> Answer:
        """Everything a worker says, decided in one turn of the loop.

        The same sequence number again gets the same answer. A lease that the worker holds but doesn't name is given
        back: it never got the grant, or dropped it.
        """
        seat = self.seats.get(report.worker)
        run = None if seat is None else self._by_uid(seat.job_uid)
        if seat is not None and report.incarnation in seat.superseded:
            return Answer(self.term, await self.commits.durable(), directive=STOP)
        if seat is None or run is None or seat.incarnation != report.incarnation or report.term != self.term:
            return Answer(self.term, await self.commits.durable(), directive=REGISTER)
        seat.seen_at, seat.is_lost = self.now(), False
        if report.sequence > seat.sequence or seat.answer is None:
            seat.sequence = report.sequence
            seat.answer = self._decide(run, seat, report)
        answer = seat.answer
        answer.ledger = await self.commits.durable()
        return answer

    def heartbeat_s(self) -> float:
        """How often workers come by, so that all of them together don't keep this process busy."""
        return max(HEARTBEAT_S, len(self.seats) / EXCHANGES_MAX)

    def _decide(self, run: JobRun, seat: Seat, report: Report) -> Answer:
        now, table = self.now(), run.table
        answer = Answer(self.term, wait_s=self.heartbeat_s())
        run.add_live(seat.note(report))
        for release in report.releases:
            self._release(run, seat, release)
        for shard, epoch in report.published:
            found = table.published(seat.name, shard, epoch, seat.incarnation)
            answer.published.append(self._verdict(found, shard, epoch))
        for asked in report.commits:
            answer.commits.append(self._commit(run, seat, asked, now))
        for offer in report.offers:
            self._split(run, seat, offer.shard, offer.epoch, offer.at, answer)
        settled = {(asked.shard, asked.epoch) for asked in report.commits}
        named = settled | {(held.shard, held.epoch) for held in report.held}
        for held in report.held:
            if (held.shard, held.epoch) not in settled:
                renewed = table.renew(seat.name, seat.incarnation, held, now, self.lease_ttl_s)
                if isinstance(renewed, Stale):
                    answer.stale.append(Verdict(held.shard, held.epoch, STALE))
        for lease in table.held_by(seat.name):
            if (lease.shard, lease.epoch) not in named:
                self._give_back(run, lease, "the worker doesn't hold it")
        seat.observe(now, sum(lease.position - table.range_of(lease.shard)[0] for lease in table.held_by(seat.name)))
        if report.fatal_reason:
            self.fail(run, report.fatal_reason, report.fatal_message)
        self._settle(run)
        if run.is_open and report.want and not report.is_draining:
            self._grant(run, seat, report.want, now, answer)
            if not answer.grants:
                answer.wait_s = WAIT_IDLE_S
        answer.asks = [(shard, epoch) for shard, epoch in run.asks if self._holder(run, shard, epoch) == seat.name]
        answer.directive = self._directive(run)
        if run.finishing is not None:
            answer.wait_s = WAIT_IDLE_S
        run.note_change()
        return answer

    def _directive(self, run: JobRun) -> str:
        if run.is_terminal or run.is_forgotten:
            return STOP
        return DRAIN if run.state is JobState.SUSPENDED else ""

    def _release(self, run: JobRun, seat: Seat, release: Released) -> None:
        found = run.table.release(
            seat.name, seat.incarnation, release.shard, release.epoch, charged=release.charged, error=release.error
        )
        if isinstance(found, Stale):
            return
        if release.exit_class:
            run.exit_classes[release.shard] = release.exit_class
            log.warning("shard failed", job=run.name, shard=release.shard, kind=release.exit_class, error=release.error)
        self.record(found)
        if release.exit_class in FATAL_CLASSES:
            self.fail(run, failure_reason(release.exit_class), release.error)

    def _give_back(self, run: JobRun, lease: Lease, error: str) -> None:
        found = run.table.release(lease.worker, lease.incarnation, lease.shard, lease.epoch, charged=False, error=error)
        if not isinstance(found, Stale):
            self.record(found)

    def _commit(self, run: JobRun, seat: Seat, asked: CommitAsked, now: float) -> Verdict:
        fault = _name_fault(run, asked)
        if fault:
            return Verdict(asked.shard, asked.epoch, REFUSED, fault)
        lease = next((x for x in run.table.held_by(seat.name) if x.shard == asked.shard), None)
        found = run.table.commit(
            seat.name,
            seat.incarnation,
            asked.shard,
            asked.epoch,
            begin=asked.begin,
            end=asked.end,
            counts=asked.counts,
            files=asked.files,
            now=now,
            publish_ttl_s=self.lease_ttl_s,
        )
        match found:
            case AlreadyWon():
                reason = HELD_OUTPUT if run.table.is_held else PUBLISHED if found.is_published else ""
                return Verdict(asked.shard, asked.epoch, ACCEPTED, reason)
            case Stale() | Refused():
                self.counters.fenced_commits += 1
                return self._verdict(found, asked.shard, asked.epoch)
        self.record(found)
        if lease is not None:
            self.counters.lease_duration.observe(now - lease.granted_at)
        seat.units_done += asked.end - asked.begin
        run.exit_classes.pop(asked.shard, None)
        return Verdict(asked.shard, asked.epoch, ACCEPTED, HELD_OUTPUT if run.table.is_held else "")

    def _verdict(self, found: list[Fact] | Stale | Refused, shard: ShardId, epoch: Epoch) -> Verdict:
        match found:
            case Stale():
                return Verdict(shard, epoch, STALE)
            case Refused():
                return Verdict(shard, epoch, REFUSED, found.reason)
        self.record(found)
        return Verdict(shard, epoch, ACCEPTED)

    def _split(self, run: JobRun, seat: Seat, shard: ShardId, epoch: Epoch, at: int, answer: Answer) -> None:
        # The holder doesn't know where its format may be cut; the next place at or past its offer will do.
        found: list[Fact] | Stale | Refused = Stale(shard, epoch)
        if self._holder(run, shard, epoch) == seat.name:
            found = run.table.split(
                seat.name, seat.incarnation, shard, epoch, min(run.table.next_cut(at), run.table.range_of(shard)[1])
            )
        run.asks.pop((shard, epoch), None)
        if isinstance(found, Stale):
            answer.stale.append(Verdict(shard, epoch, STALE))
            return
        if isinstance(found, list):
            self.record(found)
        if not found or isinstance(found, Refused):
            run.unwilling.add((shard, epoch))
        answer.ends.append((shard, epoch, run.table.range_of(shard)[1]))

    def _grant(self, run: JobRun, seat: Seat, want: int, now: float, answer: Answer) -> None:
        table = run.table
        if run.options.workers_max is not None and not table.held_by(seat.name):
            working = {lease.worker for lease in table.leases()} | {seat.name}
            if len(working) > run.options.workers_max:
                return
        for _ in range(want):
            unread = [
                left
                for lease in table.held_by(seat.name)
                if (left := table.range_of(lease.shard)[1] - lease.position) > 0
            ]
            grantable = hold.next_grant(
                rate=seat.units_per_second,
                units_held=sum(unread),
                leases_held=len(unread),
                units_pending=table.units_pending,
                units_min=table.units_min,
                workers=max(1, run.workers),
                interval_s=self.heartbeat_s(),
            )
            if grantable is None:
                return
            facts = table.grant(seat.name, seat.incarnation, now, self.lease_ttl_s, units_max=grantable.units_max)
            if not facts:
                if not table.held_by(seat.name):
                    self._help_at_the_tail(run, seat, now, answer)
                return
            self._granted(run, facts, answer)

    def _help_at_the_tail(self, run: JobRun, seat: Seat, now: float, answer: Answer) -> None:
        table = run.table
        live = {(lease.shard, lease.epoch) for lease in table.leases()}
        run.asks = {key: asker for key, asker in run.asks.items() if key in live}
        rates = {other.name: rate for other in self.seats_of(run) if (rate := other.units_per_second)}
        if seat.name not in run.asks.values():
            latest = tail.split_candidate(table, now, rates, asked=run.asks.keys() | run.unwilling)
            if latest is not None and latest.worker != seat.name:
                run.asks[latest.shard, latest.epoch] = seat.name
                return
        second = tail.twin_candidate(table, now, rates, seat.name)
        if second is not None:
            facts = table.twin(seat.name, seat.incarnation, second.shard, now, self.lease_ttl_s)
            if isinstance(facts, list):
                self._granted(run, facts, answer)

    def _granted(self, run: JobRun, facts: Sequence[Fact], answer: Answer) -> None:
        self.record(facts)
        granted = facts[-1]
        assert isinstance(granted, Granted), f"a grant ends with its fact, found {granted}"
        begin, end = run.table.range_of(granted.shard)
        slices = tuple(run.ledger.dataset.slices(begin, end))
        answer.grants.append(Grant(granted.shard, granted.epoch, begin, end, slices))

    def _holder(self, run: JobRun, shard: ShardId, epoch: Epoch) -> WorkerName | None:
        return next((x.worker for x in run.table.leases() if (x.shard, x.epoch) == (shard, epoch)), None)

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
        for seat in list(self.seats.values()):
            silent_s = now - seat.seen_at
            if silent_s > self.lease_ttl_s and not seat.is_lost:
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
            self._settle(run)

    def _lose(self, seat: Seat) -> None:
        seat.is_lost = True
        change = seat.forget_live()
        run = self._by_uid(seat.job_uid)
        if run is not None:
            run.add_live(change)
            run.note_change()
        log.warning("worker lost", worker=seat.name)

    def _settle(self, run: JobRun) -> None:
        """Follows up on what a turn decided: publishes that are due, budgets spent, the end."""
        for shard, epoch in run.table.publishes_due(self.now()):
            run.publishing.add(shard)
            self.spawn(self._publish(run, shard, epoch), f"publish {shard}")
        if run.state is not JobState.RUNNING or run.finishing is not None:
            return
        rows = run.table.rows
        fault = budget_fault(run.program.errors, rows.read + run.rows_read_live, rows.rejected + run.rows_rejected_live)
        if fault:
            self.fail(run, Reason.ERROR_BUDGET_EXCEEDED, fault)
        elif run.table.counts.quarantined and run.options.on_quarantine == "fail":
            self._fail_quarantined(run)
        elif run.table.is_finished and not run.publishing:
            run.finishing = self.spawn(self._finish(run), f"finish {run.name}")

    def _fail_quarantined(self, run: JobRun) -> None:
        view = run.table.shards(state=ShardState.QUARANTINED, limit=1)[0]
        reason = failure_reason(run.exit_classes.get(view.shard, ""))
        self.fail(run, reason, f"Shard {view.shard} failed {view.attempts} times, last: {view.error}")

    async def _publish(self, run: JobRun, shard: ShardId, epoch: Epoch) -> None:
        try:
            for attempt in range(PUBLISH_TRIES):
                try:
                    await publish_due(run, shard, epoch, self.commits, self)
                except SinkError as error:
                    log.warning("publish failed", job=run.name, shard=shard, attempt=attempt, error=str(error))
                    if attempt == PUBLISH_TRIES - 1:
                        self.fail(run, Reason.SINK_FAILED, str(error))
                        return
                    await asyncio.sleep(PUBLISH_BACKOFF_S * 2**attempt)
                else:
                    return
        finally:
            run.publishing.discard(shard)
            self._settle(run)
            run.note_change()

    async def _finish(self, run: JobRun) -> None:
        rows, table = run.table.rows, run.table
        try:
            fault = nothing_came_out(run.program.errors, rows.out, rows.rejected)
            if fault:
                self.fail(run, Reason.ERROR_BUDGET_EXCEEDED, fault)
                return
            await finish(run, self.commits, self)
            if table.counts.quarantined:
                message = f"{table.counts.quarantined} shards were given up; the manifest lists their ranges."
                self.change(run, JobState.FAILED, reason=Reason.BACKOFF_LIMIT_EXCEEDED, message=message)
            else:
                await self._succeed(run)
        except SinkError as error:
            self.fail(run, Reason.SINK_FAILED, str(error))
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
        try:
            is_new = run.state is JobState.PLANNED
            await asyncio.to_thread(run.output.claim if is_new else run.output.check_claim)
            if "staging" not in run.ledger.steps:
                await asyncio.to_thread(run.output.prepare)
        except (BadJob, SinkError) as error:
            if run.state is JobState.PLANNED:
                self.change(run, JobState.REFUSED, message=str(error))
            else:
                self.fail(run, Reason.SINK_FAILED, str(error))
            return
        if run.state is JobState.PLANNED:
            self.change(run, JobState.RUNNING)

    def _job_for(self, uid: str) -> JobRun | None:
        if uid:
            return self._by_uid(uid)
        suspended = None
        for run in self.runs.values():
            if run.is_open:
                return run
            if run.state is JobState.SUSPENDED:
                suspended = run
        return suspended

    def _by_uid(self, uid: str) -> JobRun | None:
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


def _name_fault(run: JobRun, asked: CommitAsked) -> str:
    """Why a commit's file names aren't those of its lease: nothing a worker says is trusted about another's."""
    for file in asked.files:
        folder, _, name = file.name.rpartition("/")
        if (folder, file.kind) not in (("", "data"), (REJECTED, "rejects")):
            return f"{file.name} isn't where {file.kind} files go"
        if parse_part_name(name) != (asked.shard, run.uid[:8], asked.epoch):
            return f"{file.name} isn't a name of shard {asked.shard}, epoch {asked.epoch} of this job"
    return ""
