"""A job that this coordinator has: the ledger's part of it, its output, and what only lives as long as the process.

Not here: what is decided about it (`coordinator.driver`), its words and sums (`coordinator.jobs`).
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from coordinator.core.breaker import Breaker
from coordinator.core.estimate import Estimate, Eta
from coordinator.core.facts import JobChanged
from coordinator.core.ledger import JobLedger
from coordinator.core.sharing import Sharing
from coordinator.exchange import Seat
from coordinator.jobs import (
    FORGOTTEN,
    PAUSING_CLASSES,
    PHASES,
    STALLED_AFTER_S,
    JobState,
    JobStatus,
    Options,
    budget_fault,
    conditions,
    corrupt_fault,
    given_up_text,
    options_json,
    plan_from_json,
    read_options,
    sum_stages,
)
from coordinator.output import Output, manifest_name
from headrace.program import Program, program_from_json
from headrace.stores import open_store
from headrace.words import JobUid, Reason, ShardState

OUTPUT_COMMITTED = "committed"
"""The output step after which readers find everything: the manifest is there."""


class JobRun:
    """One job. Changed only by the driver, on its loop."""

    def __init__(self, ledger: JobLedger, *, ledger_path: Path, now: float) -> None:
        planned = ledger.planned
        self.number = planned.job
        self.name = planned.name
        self.uid = JobUid(planned.uid)
        self.digest = planned.digest
        self.ledger = ledger
        self.table = ledger.table
        self.plan = plan_from_json(planned.plan)
        self.options = self.plan.options
        self.program_text = planned.program
        self.program = program_from_json(planned.program)
        store = open_store(self.program.sink.uri, self.uid, self.program.sink.storage)
        self.output = Output(store, job=self.name, uid=self.uid, ledger=str(ledger_path))
        self.state = JobState.PLANNED
        self.is_unchecked = False  # after a restart its output couldn't be looked at yet, and nothing is granted
        self.is_awaited = False  # taken up from the ledger, and nothing is granted before it is submitted again
        self.reason = ""
        self.message = ""
        self.rows_read_live = 0  # sums over its workers
        self.rows_rejected_live = 0
        self.reject_example = ""  # one rejected row, for the message of a job that fails of them
        self.workers = 0  # that aren't lost, as of the last tick
        self.estimate = Estimate()
        self.running_since: float | None = None
        self.started_at: float | None = None  # when this process first had it running
        self.succeeded_at: float | None = None  # when this process saw it succeed
        self.elapsed_before_s = 0.0  # of earlier times that this process ran it
        self.progress_at = now  # when units were last committed or read
        self.progress_seen = -1
        self.exit_classes: dict[int, str] = {}  # last class word of shards whose release was charged
        self.sharing = Sharing(ledger.table, planned.unit)
        self.breakers: dict[str, Breaker] = {reason: Breaker() for reason in PAUSING_CLASSES}  # of input and output
        self.publishing: set[int] = set()  # shards that the coordinator publishes now
        self.finishing: asyncio.Task[None] | None = None
        self.ended = asyncio.get_running_loop().create_future()  # done while the state is terminal
        self._change = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        """Whether its shards may be granted."""
        return self.state is JobState.RUNNING and self.finishing is None and not (self.is_awaited or self.is_unchecked)

    @property
    def is_terminal(self) -> bool:
        """Whether it is complete or failed."""
        return self.state in (JobState.SUCCEEDED, JobState.FAILED)

    @property
    def is_forgotten(self) -> bool:
        """Whether its name is free for another job."""
        return self.state in FORGOTTEN

    def next_change(self) -> asyncio.Future[None]:
        """Done with the next change of anything that people see."""
        return self._change

    def note_change(self) -> None:
        """Tells those who watch."""
        self._change.set_result(None)
        self._change = asyncio.get_running_loop().create_future()

    def changed(self, fact: JobChanged, now: float) -> JobChanged:
        """Applies a change of state."""
        before = self.state
        self.ledger.apply(fact)
        self.state = JobState(fact.state)
        self.reason, self.message = fact.reason, fact.message
        found = read_options(fact.detail)
        if found is not None:
            self.set_options(*found)
        if self.state is JobState.RUNNING and before is not JobState.RUNNING:
            self.running_since = now
            self.started_at = now if self.started_at is None else self.started_at
            self.progress_at = now
            self.estimate.pause()
        elif self.state is not JobState.RUNNING and self.running_since is not None:
            self.elapsed_before_s += now - self.running_since
            self.running_since = None
            self.succeeded_at = now if self.state is JobState.SUCCEEDED else None
        if self.is_terminal != self.ended.done():
            if self.is_terminal:
                self.ended.set_result(None)
            else:
                self.ended = asyncio.get_running_loop().create_future()
        self.note_change()
        return fact

    def change(self, state: JobState, *, reason: str = "", message: str = "") -> JobChanged:
        """The fact of a change of state, which keeps the options in force."""
        return JobChanged(self.number, state, reason, message, options_json(self.options, self.program_text))

    def set_options(self, options: Options, program: str) -> None:
        """What doesn't decide the output may change while the job runs."""
        self.options = options
        if program != self.program_text:
            self.program_text = program
            self.program = program_from_json(program)

    def elapsed_s(self, now: float) -> float:
        """Seconds that this process has had the job running."""
        return self.elapsed_before_s + (now - self.running_since if self.running_since is not None else 0.0)

    def add_live(self, change: tuple[int, int]) -> None:
        """A worker's live rows, read and rejected, have changed by so much."""
        self.rows_read_live += change[0]
        self.rows_rejected_live += change[1]

    @property
    def rows_lost(self) -> int:
        """About how many rows were in what can't be read and can't be counted (`coordinator.core.lost`)."""
        lost = self.table.lost
        return lost.rows(self.ledger.rows_per_byte) if lost.parts else 0

    @property
    def rows_rejected(self) -> int:
        """Rows of commits that the budget of rejects counts."""
        rows = self.table.rows
        return rows.rejected + rows.corrupt - self.table.lost.parts + self.rows_lost

    def budget_fault(self) -> str:
        """Why the budget of rejects is spent; "" while it isn't."""
        rows, lost, policy = self.table.rows, self.table.lost, self.program.errors
        read = rows.read + self.rows_read_live
        fault = budget_fault(policy, read, rows.rejected + self.rows_rejected_live)
        if fault or not rows.corrupt:
            return fault
        rows_lost, units, unit = self.rows_lost, self.table.units_total, self.ledger.planned.unit
        total = round(units * self.ledger.rows_per_byte) if unit == "byte" else units + rows_lost - lost.parts
        return corrupt_fault(
            policy,
            total=max(total, read + rows.corrupt + rows_lost - lost.parts),
            rejected=self.rows_rejected + self.rows_rejected_live,
            lost=rows_lost,
            parts=lost.parts,
            unit=unit,
        )

    def units_live(self) -> int:
        """Units done of leases that live; bytes count when they are read, since rows say nothing of them."""
        if self.ledger.planned.unit != "byte":
            return self.rows_read_live
        return sum(lease.position - self.table.range_of(lease.shard)[0] for lease in self.table.leases())

    def note_progress(self, now: float) -> None:
        """Notes how far the job is; called with every tick."""
        done = self.table.units_won + self.units_live()
        if done != self.progress_seen:
            self.progress_seen = done
            self.progress_at = now
        self.estimate.observe(now, done, self.table.rows.read)

    def status(self, now: float, seats: Sequence[Seat], term: int) -> JobStatus:
        """What people see; `seats` are the job's workers that aren't lost."""
        table, planned, rows = self.table, self.ledger.planned, self.table.rows
        counts = table.counts
        units_total = table.units_total
        rows_total, estimated = planned.rows_total, planned.rows_estimated
        # A range of bytes that can't be read is no row of the total.
        rows_done = rows.read + (rows.corrupt if planned.unit != "byte" else 0)
        if rows_total < 0:
            estimated = not table.is_finished
            rows_total = round(rows.read * units_total / table.units_won) if table.units_won else 0
        total = f"{'~' if estimated else ''}{rows_total}" if rows_total or not estimated else "?"
        elapsed_s = self.elapsed_s(now)
        done = max(self.progress_seen, table.units_won)
        eta = Eta(0.0, 0.0) if self.is_terminal else None
        if self.state is JobState.RUNNING:
            eta = self.estimate.eta(units_total - done)
        return JobStatus(
            name=self.name,
            uid=self.uid,
            phase=PHASES[self.state],
            conditions=conditions(
                self.state,
                self.reason,
                self.message,
                given_up=self._given_up(),
                is_committed=OUTPUT_COMMITTED in self.ledger.steps,
                is_stalled=now - self.progress_at > STALLED_AFTER_S,
                waits_for=self._waits_for(now),
            ),
            progress=f"{rows_done}/{total}",
            rows_total=max(0, rows_total),
            rows_estimated=estimated,
            rows_read=rows.read,
            rows_filtered=rows.filtered,
            rows_out=rows.out,
            rows_rejected=rows.rejected,
            rows_corrupt=rows.corrupt,
            parts_lost=table.lost.parts,
            rows_lost=self.rows_lost,
            rows_live=self.rows_read_live,
            rows_per_second=sum(seat.rows_per_second for seat in seats),
            eta_low_s=eta.low_s if eta else -1.0,
            eta_high_s=eta.high_s if eta else -1.0,
            shards_pending=counts.pending,
            shards_leased=counts.leased,
            shards_committed=counts.committed,
            shards_quarantined=counts.quarantined,
            shards_recomputed=table.shards_recomputed,
            workers=len(seats),
            workers_max=self.options.workers_max or 0,
            stages=sum_stages([stage.name for stage in self.program.stages], seats),
            read_busy_s=sum(seat.read_busy_s for seat in seats),
            write_busy_s=sum(seat.write_busy_s for seat in seats),
            output=self.output.place,
            manifest_path=self._manifest_path(),
            elapsed_s=elapsed_s,
            unit=planned.unit,
            units_total=units_total,
            units_committed=table.units_won,
            files=planned.files,
            bytes_total=planned.bytes_total,
            term=term,
            plan=self.plan.summary,
            started_ago_s=None if self.started_at is None else now - self.started_at,
            succeeded_ago_s=None if self.succeeded_at is None else now - self.succeeded_at,
        )

    @property
    def input_breaker(self) -> Breaker:
        """Of the store that holds the input."""
        return self.breakers[Reason.SOURCE_UNAVAILABLE]

    @property
    def output_breaker(self) -> Breaker:
        """Of the store that the output lies in."""
        return self.breakers[Reason.SINK_UNAVAILABLE]

    @property
    def is_pausing(self) -> bool:
        """Whether the job waits for a store."""
        return any(breaker.is_open for breaker in self.breakers.values())

    def _given_up(self) -> str:
        count = self.table.counts.quarantined
        return given_up_text(count, self.table.shards(state=ShardState.QUARANTINED, limit=1)[0]) if count else ""

    def _waits_for(self, now: float) -> tuple[str, str]:
        for reason, breaker in self.breakers.items():
            if breaker.is_open:
                again_s = max(0.0, breaker.retry_at - now)
                when = f"in {again_s:.0f} s" if again_s >= 1 else "now"
                return reason, f"{breaker.text}; tried again {when}"
        return "", ""

    def _manifest_path(self) -> str:
        if OUTPUT_COMMITTED not in self.ledger.steps:
            return ""
        return str(self.output.manifest(manifest_name(self.plan.sink.number)))


def plan_summary(program: Program, *, shards: int, files: int, rows: int | None, bytes_total: int, unit: str) -> str:
    """JSON that `headrace run` prints as the plan."""
    stages = [
        {
            "name": stage.name,
            "kind": stage.kind,
            "target": stage.target,
            "batch_rows": stage.batch_rows,
            "predictors_min": stage.predictors_min,
            "predictors_max": min(
                (limit for limit in (stage.predictors_max, program.predictors_max) if limit is not None), default=None
            ),
        }
        for stage in program.stages
    ]
    return json.dumps(
        {"files": files, "rows": rows, "bytes": bytes_total, "unit": unit, "shards": shards, "stages": stages}
    )
