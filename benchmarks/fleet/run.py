"""One job of a simulated fleet: the events, and the coordinator as its workers see it.

Shards, leases, sizes of grants, splits, second epochs, rates and paces are the coordinator's own (`coordinator.core`);
what is copied here is the order in which its desk (`coordinator.worker_desk`) asks them.

Not here: faults; `tests/sim` has those.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np

from benchmarks.fleet.speeds import Crowd, draw, even_split_s, queue_s, rows_within
from benchmarks.fleet.worker import Costs, Worker
from coordinator.core import pace, planner
from coordinator.core.estimate import Estimate
from coordinator.core.facts import Granted
from coordinator.core.lease_values import Stale
from coordinator.core.leases import LeaseTable
from coordinator.core.sharing import Sharing
from coordinator.driver import LEASE_TTL_S
from coordinator.exchange import Answer, CommitAsked, Grant, Report, Seat, Verdict
from headrace.dataset import Dataset
from headrace.words import ACCEPTED, STALE, STOP, JobUid, ShardId, WorkerName

GROUP_ROWS = 131_072
FILE_GROUPS = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job took."""

    workers: int
    seed: int
    rows: int
    fluid_s: float  # if all workers were busy to the end with rows alone
    job_s: float  # until everything is published
    even_s: float  # with an equal part for each worker
    queue_s: float  # with eight equal parts per worker, from a queue
    tail_s: float  # since nothing was pending for the first time
    shards: int
    splits: int  # at the tail, asked of holders
    twins: int  # second epochs
    computed_twice: float  # share of the rows
    calls: int
    first_idle_s: float  # when the first worker was out of work for good

    @property
    def over_fluid(self) -> float:
        """Job time by the fluid bound; its inverse is the fleet's efficiency."""
        return self.job_s / self.fluid_s


class Fleet:
    """One job."""

    def __init__(
        self,
        workers: int,
        seed: int,
        *,
        fluid_s: float = 2_700.0,
        row_bytes: int = 1_000,
        crowd: Crowd = Crowd(),  # noqa: B008  frozen
        costs: Costs = Costs(),  # noqa: B008  frozen
    ) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0
        self._random = Random(f"messages {seed}")
        self._costs = costs
        self._speeds = draw(workers, seed, crowd)
        self._seed = seed
        self._fluid_s = fluid_s
        self._rows = rows_within(self._speeds, fluid_s)
        self.dataset = make_dataset(self._rows, row_bytes)
        sizes = planner.sizes(self.dataset, workers=workers)
        ends = planner.cut(self.dataset, workers=workers)
        self.table = LeaseTable(1, ends, cuts=self.dataset.cuts, units_min=sizes.units_min)
        self._sharing = Sharing(self.table, self.dataset.unit)
        self.workers = [
            Worker(WorkerName(f"w{i}"), speed, costs, self, self._random, heartbeat_s=pace.heartbeat_s(workers))
            for i, speed in enumerate(self._speeds)
        ]
        self._seats = {
            worker.name: Seat(worker.name, worker.incarnation, JobUid("fleet"), seen_at=0.0) for worker in self.workers
        }
        self._free_at = 0.0  # when the coordinator's core has done what it was asked
        self._calls = self._splits = self._twins = 0
        self._tail_at = 0.0
        self._estimate = Estimate()  # of the whole job
        self._live: dict[WorkerName, float] = {}  # units done of what each holds
        self._live_sum = 0.0
        self._served_at: dict[WorkerName, float] = {}  # when it last got a lease or committed one

    def run(self) -> Outcome:
        """Works the job off."""
        for worker in self.workers:
            self.call_at(self._random.uniform(0.0, 0.2), worker.exchange)
        while not self.table.is_finished:
            self.now, _, callback = heapq.heappop(self._events)
            callback()
        computed = sum(worker.rows_computed for worker in self.workers)
        return Outcome(
            workers=len(self.workers),
            seed=self._seed,
            rows=self._rows,
            fluid_s=self._fluid_s,
            job_s=self.now,
            even_s=even_split_s(self._speeds, self._rows),
            queue_s=queue_s(self._speeds, self._rows),
            tail_s=self.now - self._tail_at,
            shards=self.table.counts.total,
            splits=self._splits,
            twins=self._twins,
            computed_twice=max(0.0, computed - self._rows) / self._rows,
            calls=self._calls,
            first_idle_s=self.now - min(self._served_at.values()),
        )

    # ------------------------------------------------------------------ for the workers

    def call_at(self, at: float, callback: Callable[[], None]) -> None:
        """Calls back at that time; of two at one time the first said comes first."""
        self._made += 1
        heapq.heappush(self._events, (at, self._made, callback))

    def send(self, worker: Worker, report: Report) -> None:
        """A call: to the coordinator, its turn, its decision made durable, and back."""
        self.call_at(self.now + self._one_way_s(), lambda: self._arrived(worker, report))

    def _arrived(self, worker: Worker, report: Report) -> None:
        self._free_at = max(self._free_at, self.now) + self._costs.decide_s
        self.call_at(self._free_at, lambda: self._answer(worker, report))

    def _answer(self, worker: Worker, report: Report) -> None:
        answer = self._decide(report)
        back = self.now + self._costs.fsync_s + self._one_way_s()
        self.call_at(back, lambda: worker.answered(answer))

    def _one_way_s(self) -> float:
        return self._random.uniform(*self._costs.one_way_s)

    # ------------------------------------------------------------------ the coordinator

    def _decide(self, report: Report) -> Answer:
        """The steps of `WorkerDesk.exchange`, in its order."""
        table, now, seat = self.table, self.now, self._seats[report.worker]
        self._calls += 1
        answer = Answer(1, wait_s=pace.heartbeat_s(len(self._seats)), lease_ttl_s=self._lease_ttl_s)
        for shard, epoch in report.published:
            found = table.published(seat.name, shard, epoch, seat.incarnation)
            answer.published.append(Verdict(shard, epoch, STALE if isinstance(found, Stale) else ACCEPTED))
        for asked in report.commits:
            answer.commits.append(self._commit(seat, asked))
        for offer in report.offers:
            cut = self._sharing.split(seat.name, seat.incarnation, offer.shard, offer.epoch, offer.at)
            if isinstance(cut, Stale):
                answer.stale.append(Verdict(offer.shard, offer.epoch, STALE))
                continue
            self._splits += bool(cut)
            answer.ends.append((offer.shard, offer.epoch, table.range_of(offer.shard)[1]))
        settled = {(asked.shard, asked.epoch) for asked in report.commits}
        for held in report.held:
            if (held.shard, held.epoch) not in settled:
                renewed = table.renew(seat.name, seat.incarnation, held, now, self._lease_ttl_s)
                if isinstance(renewed, Stale):
                    answer.stale.append(Verdict(held.shard, held.epoch, STALE))
        named = settled | {(held.shard, held.epoch) for held in report.held}
        assert all((lease.shard, lease.epoch) in named for lease in table.held_by(seat.name)), "no answer is lost here"
        live = self._sharing.units_live(seat.name)
        seat.observe(now, live)
        self._live_sum += live - self._live.get(seat.name, 0.0)
        self._live[seat.name] = live
        self._estimate.observe(now, table.units_won + self._live_sum, 0)
        if report.want:
            self._grant(seat, report.want, answer)
            if not answer.grants and self._sharing.is_late_or_idle(seat.name):
                answer.wait_s = pace.idle_s(len(self._seats))
        answer.asks = self._sharing.asks_of(seat.name)
        if table.is_finished:
            answer.directive = STOP
        if not self._tail_at and not table.units_pending:
            self._tail_at = now
        return answer

    def _commit(self, seat: Seat, asked: CommitAsked) -> Verdict:
        found = self.table.commit(
            seat.name,
            seat.incarnation,
            asked.shard,
            asked.epoch,
            begin=asked.begin,
            end=asked.end,
            counts=asked.counts,
            files=asked.files,
            now=self.now,
            publish_ttl_s=self._lease_ttl_s,
        )
        if isinstance(found, Stale):
            return Verdict(asked.shard, asked.epoch, STALE)
        assert isinstance(found, list), f"a commit that keeps the protocol: {found}"
        seat.units_done += asked.end - asked.begin
        self._served_at[seat.name] = self.now
        return Verdict(asked.shard, asked.epoch, ACCEPTED)

    def _grant(self, seat: Seat, want: int, answer: Answer) -> None:
        for _ in range(want):
            facts = self._sharing.grant(
                seat.name,
                seat.incarnation,
                self.now,
                self._lease_ttl_s,
                rates=self._rates,
                rate=seat.units_per_second,
                workers=len(self._seats),
                fleet_rate=self._estimate.units_per_second or None,
                interval_s=pace.heartbeat_s(len(self._seats)),
            )
            if not facts:
                return
            granted = facts[-1]
            assert isinstance(granted, Granted), f"a grant ends with its fact: {granted}"
            self._twins += self.table.live_epochs(granted.shard) > 1
            self._served_at[seat.name] = self.now
            begin, end = self.table.range_of(ShardId(granted.shard))
            answer.grants.append(Grant(granted.shard, granted.epoch, begin, end, ()))

    def _rates(self) -> dict[WorkerName, float]:
        return {seat.name: rate for seat in self._seats.values() if (rate := seat.units_per_second)}

    @property
    def _lease_ttl_s(self) -> float:
        return pace.lease_ttl_s(len(self._seats), LEASE_TTL_S)


def make_dataset(rows: int, row_bytes: int) -> Dataset:
    """Parquet files of eight row groups each."""
    groups = np.append(np.arange(0, rows, GROUP_ROWS), rows)
    files = np.append(groups[:-1:FILE_GROUPS], rows)
    return Dataset(
        unit="row",
        paths=tuple(f"in/{i}.parquet" for i in range(len(files) - 1)),
        sizes=np.diff(files) * row_bytes,
        versions=("1",) * (len(files) - 1),
        origins=files,
        cuts=groups[1:],
        divisible=True,
        bytes_total=rows * row_bytes,
        rows_total=rows,
    )
