"""Workers' side of the driver: registrations and exchanges, each decided in one turn of the loop.

Everything that an answer says is in the ledger before it leaves, also STALE and REGISTER. What a worker says is
believed about itself and about nothing else: a lease is looked up by worker, incarnation, shard and epoch together.

Not here: what time decides (`coordinator.driver`), what users ask for (`coordinator.job_desk`), the messages
(`coordinator.wire`).
"""

from collections.abc import Sequence

import structlog

from coordinator.core import hold, tail
from coordinator.core.facts import Fact, Granted
from coordinator.core.lease_values import AlreadyWon, Held, Lease, Refused, Stale
from coordinator.driver import Driver, WrongState
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
from coordinator.job_run import JobRun
from coordinator.jobs import FATAL_CLASSES, JobState, failure_reason
from headrace.publish import REJECTED, parse_part_name
from headrace.words import Epoch, Reason, ShardId, WorkerName

log = structlog.get_logger()

HEARTBEAT_S = 1.0
EXCHANGES_MAX = 300.0
"""Heartbeats per second that one coordinator takes on; with more workers, each comes less often."""
WAIT_IDLE_S = 0.1
"""When a worker without work asks again: another's split or the end may be near."""
RETRY_AFTER_S = 0.1
RETRY_SUSPENDED_S = 1.0


class WorkerDesk:
    """What workers say, on the driver's loop."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def register(self, intro: Introduction) -> Welcome:
        """A sidecar introduces itself. The first running job is its, unless it names one.

        Raises:
            WrongState: a newer incarnation of this worker has registered.
        """
        now = self._driver.now()
        seat = self._driver.seats.get(intro.worker)
        if seat is not None and intro.incarnation in seat.superseded:
            raise WrongState(f"A newer sidecar of {intro.worker} has registered; this one must end.")
        run = self._job_for(intro.job_uid)
        if run is not None and intro.ledger_seen > self._driver.commits.last:
            self._driver.fail(
                run,
                Reason.LEDGER_DAMAGED,
                f"{intro.worker} saw fact {intro.ledger_seen} of a ledger that ends at {self._driver.commits.last}.",
            )
            run = None
        heartbeat_s = self.heartbeat_s()
        if run is None or not run.is_open:
            wait_s = RETRY_SUSPENDED_S if run is not None and run.state is JobState.SUSPENDED else RETRY_AFTER_S
            ledger = await self._driver.commits.durable()
            return Welcome(self._driver.term, ledger, self._driver.lease_ttl_s, heartbeat_s, retry_after_s=wait_s)
        superseded = set() if seat is None else seat.superseded
        if seat is not None:
            before = self._driver.by_uid(seat.job_uid)
            if before is not None:
                before.add_live(seat.forget_live())
            if seat.incarnation != intro.incarnation:
                superseded.add(seat.incarnation)
        for other in self._driver.runs.values():
            if other is not run:
                self._driver.record(other.table.worker_lost(intro.worker))
        facts, keep = run.table.register(intro.worker, intro.incarnation, intro.held, now, self._driver.lease_ttl_s)
        self._driver.record(facts)
        self._driver.seats[intro.worker] = Seat(
            intro.worker, intro.incarnation, run.uid, seen_at=now, superseded=superseded
        )
        run.workers = len(self._driver.seats_of(run))
        log.info("worker registered", worker=intro.worker, job=run.name, keeps=len(keep))
        self._driver.settle(run)
        return Welcome(
            term=self._driver.term,
            ledger=await self._driver.commits.durable(),
            lease_ttl_s=self._driver.lease_ttl_s,
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
        seat = self._driver.seats.get(report.worker)
        run = None if seat is None else self._driver.by_uid(seat.job_uid)
        if seat is not None and report.incarnation in seat.superseded:
            return Answer(self._driver.term, await self._driver.commits.durable(), directive=STOP)
        if seat is None or run is None or seat.incarnation != report.incarnation or report.term != self._driver.term:
            return Answer(self._driver.term, await self._driver.commits.durable(), directive=REGISTER)
        seat.seen_at, seat.is_lost = self._driver.now(), False
        if report.sequence > seat.sequence or seat.answer is None:
            seat.sequence = report.sequence
            seat.answer = self._decide(run, seat, report)
        answer = seat.answer
        answer.ledger = await self._driver.commits.durable()
        return answer

    def heartbeat_s(self) -> float:
        """How often workers come by, so that all of them together don't keep this process busy."""
        return max(HEARTBEAT_S, len(self._driver.seats) / EXCHANGES_MAX)

    def _decide(self, run: JobRun, seat: Seat, report: Report) -> Answer:
        now, table = self._driver.now(), run.table
        answer = Answer(self._driver.term, wait_s=self.heartbeat_s())
        run.add_live(seat.note(report))
        if not all(self._is_first(run, seat, held) for held in report.held):
            # Rows of an ended epoch, or of a second one, are counted with the other's: a budget is spent once.
            run.add_live(seat.forget_live())
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
                renewed = table.renew(seat.name, seat.incarnation, held, now, self._driver.lease_ttl_s)
                if isinstance(renewed, Stale):
                    answer.stale.append(Verdict(held.shard, held.epoch, STALE))
        for lease in table.held_by(seat.name):
            if (lease.shard, lease.epoch) not in named:
                self._give_back(run, lease, "the worker doesn't hold it")
        seat.observe(now, sum(lease.position - table.range_of(lease.shard)[0] for lease in table.held_by(seat.name)))
        run.reject_example = run.reject_example or report.reject_example
        if report.fatal_reason:
            self._driver.fail(run, report.fatal_reason, report.fatal_message)
        self._driver.settle(run)
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

    def _is_first(self, run: JobRun, seat: Seat, held: Held) -> bool:
        live = run.table.live_on(held.shard)
        return bool(live) and (live[0].worker, live[0].epoch) == (seat.name, held.epoch)

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
        self._driver.record(found)
        if release.exit_class in FATAL_CLASSES:
            self._driver.fail(run, failure_reason(release.exit_class), release.error)

    def _give_back(self, run: JobRun, lease: Lease, error: str) -> None:
        found = run.table.release(lease.worker, lease.incarnation, lease.shard, lease.epoch, charged=False, error=error)
        if not isinstance(found, Stale):
            self._driver.record(found)

    def _commit(self, run: JobRun, seat: Seat, asked: CommitAsked, now: float) -> Verdict:
        fault = _name_fault(run, asked) or _rows_fault(run, asked)
        if fault:
            return Verdict(asked.shard, asked.epoch, REFUSED, fault)
        live = run.table.live_on(asked.shard)
        lease = next((x for x in live if x.worker == seat.name), None)
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
            publish_ttl_s=self._driver.lease_ttl_s,
        )
        match found:
            case AlreadyWon():
                reason = HELD_OUTPUT if run.table.is_held else PUBLISHED if found.is_published else ""
                return Verdict(asked.shard, asked.epoch, ACCEPTED, reason)
            case Stale() | Refused():
                self._driver.counters.fenced_commits += 1
                return self._verdict(found, asked.shard, asked.epoch)
        self._driver.record(found)
        for beaten in live:
            other = self._driver.seats.get(beaten.worker)
            if other is not None and other is not seat:
                run.add_live(other.forget_live())
        if lease is not None:
            self._driver.counters.lease_duration.observe(now - lease.granted_at)
        seat.units_done += asked.end - asked.begin
        run.exit_classes.pop(asked.shard, None)
        return Verdict(asked.shard, asked.epoch, ACCEPTED, HELD_OUTPUT if run.table.is_held else "")

    def _verdict(self, found: list[Fact] | Stale | Refused, shard: ShardId, epoch: Epoch) -> Verdict:
        match found:
            case Stale():
                return Verdict(shard, epoch, STALE)
            case Refused():
                return Verdict(shard, epoch, REFUSED, found.reason)
        self._driver.record(found)
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
            self._driver.record(found)
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
            facts = table.grant(
                seat.name, seat.incarnation, now, self._driver.lease_ttl_s, units_max=grantable.units_max
            )
            if not facts:
                if not table.held_by(seat.name):
                    self._help_at_the_tail(run, seat, now, answer)
                return
            self._granted(run, facts, answer)

    def _help_at_the_tail(self, run: JobRun, seat: Seat, now: float, answer: Answer) -> None:
        table = run.table
        live = {(lease.shard, lease.epoch) for lease in table.leases()}
        run.asks = {key: asker for key, asker in run.asks.items() if key in live}
        rates = {other.name: rate for other in self._driver.seats_of(run) if (rate := other.units_per_second)}
        if seat.name not in run.asks.values():
            latest = tail.split_candidate(table, now, rates, asked=run.asks.keys() | run.unwilling)
            if latest is not None and latest.worker != seat.name:
                run.asks[latest.shard, latest.epoch] = seat.name
                return
        second = tail.twin_candidate(table, now, rates, seat.name)
        if second is not None:
            facts = table.twin(seat.name, seat.incarnation, second.shard, now, self._driver.lease_ttl_s)
            if isinstance(facts, list):
                self._granted(run, facts, answer)

    def _granted(self, run: JobRun, facts: Sequence[Fact], answer: Answer) -> None:
        self._driver.record(facts)
        granted = facts[-1]
        assert isinstance(granted, Granted), f"a grant ends with its fact, found {granted}"
        begin, end = run.table.range_of(granted.shard)
        slices = tuple(run.ledger.dataset.slices(begin, end))
        answer.grants.append(Grant(granted.shard, granted.epoch, begin, end, slices))

    def _holder(self, run: JobRun, shard: ShardId, epoch: Epoch) -> WorkerName | None:
        return next((x.worker for x in run.table.leases() if (x.shard, x.epoch) == (shard, epoch)), None)

    # ------------------------------------------------------------------ inside

    def _job_for(self, uid: str) -> JobRun | None:
        if uid:
            return self._driver.by_uid(uid)
        suspended = None
        for run in self._driver.runs.values():
            if run.is_open:
                return run
            if run.state is JobState.SUSPENDED:
                suspended = run
        return suspended


def _rows_fault(run: JobRun, asked: CommitAsked) -> str:
    """Why a commit's rows don't add up to what a manifest must say (law 1)."""
    counts, units = asked.counts, asked.end - asked.begin
    if run.ledger.planned.unit != "byte" and counts.read != units:
        return f"{counts.read} rows were read of {units}"
    for kind, rows in (("data", counts.out + counts.children), ("rejects", counts.rejected)):
        listed = sum(file.rows for file in asked.files if file.kind == kind)
        if listed != rows:
            return f"the files of {kind} have {listed} rows, the counts say {rows}"
    return ""


def _name_fault(run: JobRun, asked: CommitAsked) -> str:
    """Why a commit's file names aren't those of its lease: nothing a worker says is trusted about another's."""
    if len({file.name for file in asked.files}) != len(asked.files):
        return "a file is named twice"
    for file in asked.files:
        folder, _, name = file.name.rpartition("/")
        if (folder, file.kind) not in (("", "data"), (REJECTED, "rejects")):
            return f"{file.name} isn't where {file.kind} files go"
        if parse_part_name(name) != (asked.shard, run.uid[:8], asked.epoch):
            return f"{file.name} isn't a name of shard {asked.shard}, epoch {asked.epoch} of this job"
    return ""
