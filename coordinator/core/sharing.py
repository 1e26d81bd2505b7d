"""How a job's work is shared among its workers: grants while some is pending, then the tail.

    pending ──▶ a lease of the worker's size
    nothing is ──▶ the latest lease's holder is asked for a split ──offers──▶ the rest is pending
               └─▶ no lease can be split: a second epoch beside the latest

What is asked and who had nothing to give lives as long as the process: a restart asks again.

Not here: of what size a grant is (`hold`), whose lease is the latest (`tail`), what a decision does (`leases`).
"""

import math
from collections.abc import Callable, Mapping, Sequence

from coordinator.core import hold, tail
from coordinator.core.facts import Fact
from coordinator.core.lease_values import Lease, Refused, Stale
from coordinator.core.leases import LeaseTable
from headrace.words import Epoch, Incarnation, ShardId, WorkerName


class Sharing:
    """The sharing of one job's table."""

    def __init__(self, table: LeaseTable, unit: str) -> None:
        """`unit`: of the dataset; rows that workers report are as many units, unless it is a byte."""
        self._table = table
        self._unit = unit
        self._asks: dict[tuple[ShardId, Epoch], WorkerName] = {}  # splits asked for, and for whom
        self._unwilling: set[tuple[ShardId, Epoch]] = set()  # leases that had nothing to give

    def grant(
        self,
        worker: WorkerName,
        incarnation: Incarnation,
        now: float,
        ttl_s: float,
        *,
        rates: Callable[[], Mapping[WorkerName, float]],
        rate: float | None,
        workers: int,
        fleet_rate: float | None,
        interval_s: float,
    ) -> list[Fact]:
        """One more lease for a worker that wants one; the last fact is its grant. []: none for it now.

        Args:
            worker: who wants it.
            incarnation: of that worker.
            now, ttl_s: as in the table's decisions.
            rates: units/s of each worker over all it holds; those not yet known are missing. Called at the tail only.
            rate: of this worker, None while it isn't known.
            workers: that share what is pending, this one included.
            fleet_rate: units/s of the whole job, None while it isn't known.
            interval_s: between two exchanges of a worker.
        """
        table = self._table
        held = table.held_by(worker)
        if self._is_to_be_alone(held):
            return []
        undone = [left for left in map(self._units_undone, held) if left > 0]
        grantable = hold.next_grant(
            rate=rate,
            units_held=sum(undone),
            leases_held=len(undone),
            units_pending=table.units_pending,
            units_min=table.units_min,
            workers=max(1, workers),
            interval_s=interval_s,
            fleet_rate=fleet_rate,
        )
        if grantable is None:
            return []
        facts = table.grant(worker, incarnation, now, ttl_s, units_max=grantable.units_max)
        if facts or held:
            return facts
        return self._help_at_the_tail(worker, incarnation, now, ttl_s, rates())

    def _is_to_be_alone(self, held: Sequence[Lease]) -> bool:
        """Whether a worker with these leases waits until they are committed.

        Its death is charged to every shard that it holds. So a shard that was charged once is leased alone: a second
        death then is its own, and those that only lay beside it aren't quarantined with it.
        """
        table = self._table
        first = table.first_pending
        waits = first is not None and table.attempts(first) > 0
        return bool(held) and (waits or any(table.attempts(lease.shard) for lease in held))

    def split(
        self, worker: WorkerName, incarnation: Incarnation, shard: ShardId, epoch: Epoch, at: int
    ) -> list[Fact] | Stale | Refused:
        """The holder offers to stop at `at`; as the table's decision, whose `range_of` has the end in force."""
        table = self._table
        found: list[Fact] | Stale | Refused = Stale(shard, epoch)
        if self._holder(shard, epoch) == worker:
            # The holder doesn't know where its format may be cut; the next place at or past its offer will do.
            at = min(table.next_cut(at), table.range_of(shard)[1])
            found = table.split(worker, incarnation, shard, epoch, at)
        self._asks.pop((shard, epoch), None)
        if not found or isinstance(found, Refused):
            self._unwilling.add((shard, epoch))
        return found

    def asks_of(self, worker: WorkerName) -> list[tuple[ShardId, Epoch]]:
        """The leases of this worker that it is to offer a split of."""
        return [key for key in self._asks if self._holder(*key) == worker]

    def is_late_or_idle(self, worker: WorkerName) -> bool:
        """Whether it should come by soon: it is through with all it holds, or may be asked for a split."""
        table = self._table
        return not table.units_pending or all(self._units_undone(lease) <= 0 for lease in table.held_by(worker))

    def _help_at_the_tail(
        self,
        worker: WorkerName,
        incarnation: Incarnation,
        now: float,
        ttl_s: float,
        rates: Mapping[WorkerName, float],
    ) -> list[Fact]:
        table = self._table
        self._asks = {key: asker for key, asker in self._asks.items() if self._holder(*key) is not None}
        behind = tail.units_behind(table, self._units_per_row)
        if worker not in self._asks.values():
            latest = tail.split_candidate(table, now, rates, asked=self._asks.keys() | self._unwilling, behind=behind)
            if latest is not None and latest.worker != worker:
                self._asks[latest.shard, latest.epoch] = worker
                return []
        second = tail.twin_candidate(table, now, rates, worker, unwilling=self._unwilling, behind=behind)
        if second is None:
            return []
        facts = table.twin(worker, incarnation, second.shard, now, ttl_s)
        return facts if isinstance(facts, list) else []

    def units_live(self, worker: WorkerName) -> float:
        """Units of the worker's live leases that are through all stages."""
        units_per_row = self._units_per_row
        return sum(tail.units_done(self._table, lease, units_per_row) for lease in self._table.held_by(worker))

    def _units_undone(self, lease: Lease) -> float:
        begin, end = self._table.range_of(lease.shard)
        return end - begin - tail.units_done(self._table, lease, self._units_per_row)

    @property
    def _units_per_row(self) -> float:
        """What a row that a worker reports stands for; infinite while nobody knows."""
        if self._unit != "byte":
            return 1.0
        table = self._table
        return table.units_won / table.rows.read if table.rows.read else math.inf

    def _holder(self, shard: ShardId, epoch: Epoch) -> WorkerName | None:
        return next((lease.worker for lease in self._table.live_on(shard) if lease.epoch == epoch), None)
