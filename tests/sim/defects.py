"""Defects, put into a world by handing it other decisions: the simulation must find each.

Not here: the right decisions, which these take and spoil (`coordinator.core.leases`, `disk`, `worker_actor`).
"""

from collections.abc import Sequence
from typing import Any

from coordinator.core.facts import OutputFile, RowCounts, SplitMade
from coordinator.core.leases import LeaseTable
from headrace.words import Epoch, Incarnation, ShardId, ShardState, WorkerName
from tests.sim.coordinator_actor import UnthreadedCommit
from tests.sim.disk import SimJournal
from tests.sim.lease_work import Run, State
from tests.sim.worker_actor import WorkerActor
from tests.sim.world import Defect


class NoEpochCheck(LeaseTable):
    """Takes a commit for the lease that lives now, whichever lease made it."""

    def commit(self, worker: WorkerName, incarnation: Incarnation, shard: ShardId, epoch: Epoch, **asked: Any) -> Any:
        for lease in self.live_on(shard):
            worker, incarnation, epoch = lease.worker, lease.incarnation, lease.epoch
        return super().commit(worker, incarnation, shard, epoch, **asked)


class ExpiredMayCommit(LeaseTable):
    """Takes a commit of an epoch that has ended, as long as nobody else was granted the shard."""

    def commit(
        self,
        worker: WorkerName,
        incarnation: Incarnation,
        shard: ShardId,
        epoch: Epoch,
        *,
        begin: int,
        end: int,
        counts: RowCounts,
        files: Sequence[OutputFile],
        **terms: Any,
    ) -> Any:
        columns = self._columns
        is_last = (
            self._is_shard(shard) and columns.epochs[shard] == epoch and columns.states[shard] == ShardState.PENDING
        )
        if is_last and self._holders[columns.owners[shard]] == (worker, incarnation):
            self._add_lease(shard, epoch, worker, incarnation)
            self._set_state(shard, ShardState.LEASED)
        return super().commit(
            worker, incarnation, shard, epoch, begin=begin, end=end, counts=counts, files=files, **terms
        )


class SplitOffByOne(LeaseTable):
    """The rest of a split begins one unit late."""

    def _apply_split(self, fact: SplitMade) -> None:
        super()._apply_split(fact)
        self._columns.begins[fact.rest] += 1


class AnswerBeforeSync(UnthreadedCommit):
    """Lets answers go while their facts are on their way to the disk."""

    async def durable(self) -> int:
        if self.failure is not None:
            raise self.failure
        return self.last


class LyingSync(SimJournal):
    """Says that facts are on the disk when they are in its cache."""

    def _sync(self) -> None:
        pass


class PublishBeforeCommit(WorkerActor):
    """Makes its files visible, then asks whether they count."""

    async def _stage(self, run: Run) -> None:
        await super()._stage(run)
        if run.state is State.COMMITTING:
            await self._publish(run)
            run.state = State.COMMITTING


DEFECTS = {
    defect.name: defect
    for defect in (
        Defect("no epoch check", table=NoEpochCheck),
        Defect("ack before fsync", commits=AnswerBeforeSync),
        Defect("an fsync that lies", journal=LyingSync),
        Defect("split off by one", table=SplitOffByOne),
        Defect("an expired epoch may commit", table=ExpiredMayCommit),
        Defect("publish before commit", worker=PublishBeforeCommit),
    )
}
