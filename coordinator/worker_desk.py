"""Workers' side of the driver: registrations and exchanges, each decided in one turn of the loop.

Everything that an answer says is in the ledger before it leaves, also STALE and REGISTER. What a worker says is
believed about itself and about nothing else: a lease is looked up by worker, incarnation, shard and epoch together.

Not here: what time decides (`coordinator.driver`), what users ask for (`coordinator.job_desk`), the messages
(`coordinator.wire`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import structlog

from coordinator.commit_check import commit_fault, schemas_differ
from coordinator.core import pace
from coordinator.core.facts import Fact, Granted
from coordinator.core.lease_values import AlreadyWon, Lease, OtherSchema, Refused, Stale
from coordinator.driver import Driver, WrongState
from coordinator.exchange import Answer, CommitAsked, Grant, Introduction, Released, Report, Seat, Verdict, Welcome
from coordinator.job_run import JobRun
from coordinator.jobs import FATAL_CLASSES, JobState, failure_reason
from coordinator.report_check import report_fault
from headrace.dataset import corrupt_rows
from headrace.errors import HeadraceError
from headrace.words import (
    ACCEPTED,
    DRAIN,
    HELD_OUTPUT,
    MODEL_SUSPECT,
    PUBLISHED,
    REFUSED,
    REGISTER,
    STALE,
    STOP,
    Epoch,
    Reason,
    ShardId,
    WorkerName,
)

log = structlog.get_logger()

RETRY_AFTER_S = 0.1
RETRY_SUSPENDED_S = 1.0


class BadReport(HeadraceError):
    """A worker said what can't be; nothing of it was taken."""


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
        seat, roster = self._driver.seats.get(intro.worker), self._driver.ledger.roster
        if roster.has_successor(intro.worker, intro.incarnation):
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
        self._driver.record(roster.seat(intro.worker, intro.incarnation))
        if seat is not None:
            before = self._driver.by_uid(seat.job_uid)
            if before is not None:
                before.add_live(seat.forget_live())
        for other in self._driver.runs.values():
            if other is not run:
                self._driver.record(other.table.worker_lost(intro.worker))
        facts, keep = run.table.register(intro.worker, intro.incarnation, intro.held, now, self._driver.lease_ttl_s)
        self._driver.record(facts)
        self._driver.seats[intro.worker] = Seat(intro.worker, intro.incarnation, run.uid, seen_at=now)
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
            staging=run.output.store.staging,
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
        if self._driver.ledger.roster.has_successor(report.worker, report.incarnation):
            return Answer(self._driver.term, await self._driver.commits.durable(), directive=STOP)
        if seat is None or run is None or seat.incarnation != report.incarnation or report.term != self._driver.term:
            return Answer(self._driver.term, await self._driver.commits.durable(), directive=REGISTER)
        names = [stage.name for stage in run.program.stages]
        fault = report_fault(report, units_total=run.table.units_total, stages=names)
        if fault:
            self._note_refusal(seat, fault)
            raise BadReport(f"What {report.worker} says can't be: {fault}.")
        seat.seen_at, seat.is_lost = self._driver.now(), False
        if report.sequence > seat.sequence or seat.answer is None:
            seat.sequence = report.sequence
            seat.answer = self._decide(run, seat, report)
        elif report.sequence == seat.sequence:
            self._renew(run, seat, report)  # asked again, since the answer is lost or late: it is alive all the same
        answer = seat.answer
        answer.ledger = await self._driver.commits.durable()
        return answer

    def _note_refusal(self, seat: Seat, reason: str) -> None:
        """Logs the first refusal of a sidecar; one that keeps asking must not fill the log."""
        if not seat.is_refused:
            seat.is_refused = True
            log.warning("worker refused", worker=seat.name, reason=reason)

    def heartbeat_s(self) -> float:
        """How often workers come by, so that all of them together don't keep this process busy."""
        return pace.heartbeat_s(self._driver.fleet)

    def _decide(self, run: JobRun, seat: Seat, report: Report) -> Answer:
        now, table = self._driver.now(), run.table
        answer = Answer(self._driver.term, wait_s=self.heartbeat_s(), lease_ttl_s=self._driver.lease_ttl_s)
        seat.note(report)
        if not run.is_forgotten:
            self._driver.counters.note(run.uid, report, now)
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
        for stale in self._renew(run, seat, report):
            if (stale.shard, stale.epoch) not in settled:
                answer.stale.append(Verdict(stale.shard, stale.epoch, STALE))
        for lease in table.held_by(seat.name):
            if (lease.shard, lease.epoch) not in named:
                self._give_back(run, lease, "the worker doesn't hold it")
        self._count_live(run, seat)
        seat.observe(now, run.sharing.units_live(seat.name))
        if run.input_breaker.is_open:
            for lease in table.held_by(seat.name):
                if lease.position > table.range_of(lease.shard)[0]:
                    run.input_breaker.worked(lease.granted_at, now)
        run.reject_example = run.reject_example or report.reject_example
        if report.fatal_reason == MODEL_SUSPECT:
            if not self._has_worked(run, seat):
                self._driver.fail(run, Reason.MODEL_FAILED, report.fatal_message)
        elif report.fatal_reason:
            self._driver.fail(run, report.fatal_reason, report.fatal_message)
        self._driver.settle(run)
        if run.is_open and report.want and not report.is_draining:
            self._grant(run, seat, report.want, now, answer)
            if not answer.grants and run.sharing.is_late_or_idle(seat.name) and not run.is_pausing:
                answer.wait_s = pace.idle_s(self._driver.fleet)
        answer.asks = run.sharing.asks_of(seat.name)
        answer.directive = self._directive(run)
        if run.finishing is not None:
            answer.wait_s = pace.idle_s(self._driver.fleet)
        run.note_change()
        return answer

    def _renew(self, run: JobRun, seat: Seat, report: Report) -> list[Stale]:
        """Extends the leases that it says it holds; returns those that it doesn't."""
        now, ttl_s = self._driver.now(), self._driver.lease_ttl_s
        found = [run.table.renew(seat.name, seat.incarnation, held, now, ttl_s) for held in report.held]
        return [answer for answer in found if isinstance(answer, Stale)]

    def _has_worked(self, run: JobRun, but: Seat) -> bool:
        """Whether rows have come through every stage before, or on another worker.

        Of rejects that are run again it is no news that none comes through.
        """
        if run.program.source.rejected:
            return True
        others = [seat for seat in self._driver.seats_of(run) if seat is not but and seat.stages]
        return run.table.rows.out > 0 or any(all(stage.rows_out for stage in seat.stages) for seat in others)

    def _count_live(self, run: JobRun, seat: Seat) -> None:
        """Counts rows of live leases: the budget of rejects is spent as soon as they are known, and once a row."""
        table = run.table
        self._recount(run, {table.live_on(lease.shard)[0].worker for lease in table.held_by(seat.name)} | {seat.name})

    def _recount(self, run: JobRun, names: Iterable[WorkerName]) -> None:
        for name in names:
            seat = self._driver.seats.get(name)
            if seat is not None:
                run.add_live(seat.note_live(run.table.rows_live(name)))

    def _directive(self, run: JobRun) -> str:
        if run.is_terminal or run.is_forgotten:
            return STOP
        return DRAIN if run.state is JobState.SUSPENDED else ""

    def _release(self, run: JobRun, seat: Seat, release: Released) -> None:
        live = run.table.live_on(release.shard)
        lease = next((x for x in live if (x.worker, x.epoch) == (seat.name, release.epoch)), None)
        charged = release.charged
        breaker = run.breakers.get(release.exit_class)
        if breaker is not None and lease is not None:
            charged = breaker.failed(release.shard, lease.granted_at, self._driver.now(), release.error)
        found = run.table.release(
            seat.name,
            seat.incarnation,
            release.shard,
            release.epoch,
            charged=charged,
            error=release.error,
            is_outage=breaker is not None,
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
        fault = commit_fault(run, asked)
        if fault:
            self._note_refusal(seat, fault)
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
            counts=replace(asked.counts, corrupt=corrupt_rows(run.ledger.planned.unit, asked.corrupt)),
            files=asked.files,
            corrupt=asked.corrupt,
            schema=asked.schema,
            now=now,
            publish_ttl_s=self._driver.lease_ttl_s,
        )
        match found:
            case AlreadyWon():
                reason = HELD_OUTPUT if run.table.is_held else PUBLISHED if found.is_published else ""
                return Verdict(asked.shard, asked.epoch, ACCEPTED, reason)
            case Stale() | Refused():
                self._driver.counters.fenced_commits += 1
                if isinstance(found, Refused):
                    self._note_refusal(seat, found.reason)
                return self._verdict(found, asked.shard, asked.epoch)
            case OtherSchema():
                message = schemas_differ(run, found)
                self._driver.fail(run, Reason.SCHEMA_MISMATCH, message)
                return Verdict(asked.shard, asked.epoch, REFUSED, message)
        self._driver.record(found)
        self._recount(run, [beaten.worker for beaten in live if beaten.worker != seat.name])
        if lease is not None:
            self._driver.counters.lease_duration.observe(now - lease.granted_at)
            for breaker in run.breakers.values():
                breaker.worked(lease.granted_at, now)
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
        found = run.sharing.split(seat.name, seat.incarnation, shard, epoch, at)
        if isinstance(found, Stale):
            answer.stale.append(Verdict(shard, epoch, STALE))
            return
        if isinstance(found, list):
            self._driver.record(found)
        answer.ends.append((shard, epoch, run.table.range_of(shard)[1]))

    def _grant(self, run: JobRun, seat: Seat, want: int, now: float, answer: Answer) -> None:
        if not self._has_place(run, seat):
            return
        for _ in range(want):
            if not all(breaker.allows(now) for breaker in run.breakers.values()):
                return
            facts = run.sharing.grant(
                seat.name,
                seat.incarnation,
                now,
                self._driver.lease_ttl_s,
                rates=partial(self._rates, run),
                rate=seat.units_per_second,
                workers=run.workers,
                fleet_rate=run.estimate.units_per_second or None,
                interval_s=self.heartbeat_s(),
            )
            if not facts:
                return
            self._granted(run, facts, answer)
            for breaker in run.breakers.values():
                breaker.granted(now)

    def _rates(self, run: JobRun) -> dict[WorkerName, float]:
        """Units/s of the job's workers, as far as they are known."""
        return {seat.name: rate for seat in self._driver.seats_of(run) if (rate := seat.units_per_second)}

    def _has_place(self, run: JobRun, seat: Seat) -> bool:
        """Whether the worker is one of the `workers_max` that may take part: of those that are there, who came first.

        Workers lease ahead, so whoever is beyond the limit would else never run out of leases and stop.
        """
        most = run.options.workers_max
        if most is None or len(self._driver.seats) <= most:
            return True
        there = (other.name for other in self._driver.seats_of(run) if not other.is_draining)
        return seat.name in islice(there, most)

    def _granted(self, run: JobRun, facts: Sequence[Fact], answer: Answer) -> None:
        self._driver.record(facts)
        granted = facts[-1]
        assert isinstance(granted, Granted), f"a grant ends with its fact, found {granted}"
        begin, end = run.table.range_of(granted.shard)
        slices = tuple(run.ledger.dataset.slices(begin, end))
        answer.grants.append(Grant(granted.shard, granted.epoch, begin, end, slices))

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
