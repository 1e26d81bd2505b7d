"""The lease table: who works on which shard, and whose commit counts.

Each decision returns the facts that it made; they are applied already (`table`), and the driver journals them before
any reply leaves. A lease is named for ever by (shard, epoch) and belongs to one incarnation of one worker; a message
that names an ended epoch, or another's, changes nothing and is `Stale`. A shard has at most two live epochs.

Not here: which lease to split or double at the tail (`tail`), how much a worker may hold (`hold`).
"""

import math
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np

from coordinator.core.columns import Ints
from coordinator.core.facts import (
    AllPublished,
    ChargeReturned,
    CommitDecided,
    Ended,
    EpochEnded,
    Fact,
    Granted,
    OutputFile,
    Published,
    Quarantined,
    Revoked,
    RowCounts,
    SchemaAgreed,
    SplitMade,
)
from coordinator.core.lease_values import AlreadyWon, Held, Lease, OtherSchema, Refused, Renewed, Stale
from coordinator.core.table import ShardTable, TableFact
from headrace.dataset import CorruptUnits
from headrace.words import Epoch, Incarnation, ShardId, ShardState, WorkerName

TRIES_MAX: Final = 50
"""Grants of a shard that ended without any progress, charged or not, before it is quarantined."""


F = TypeVar("F", bound=TableFact)


class LeaseTable(ShardTable):
    """Shards and leases of one job. Times are seconds of one clock of the caller's, which never goes back."""

    def __init__(
        self,
        job: int,
        ends: Ints,
        *,
        cuts: Ints | None = None,
        divisible: bool = True,
        attempts_max: int = 4,
        tries_max: int = TRIES_MAX,
        units_min: int = 1,
        held: bool = False,
    ) -> None:
        """As `ShardTable`, with defaults for tests and small jobs."""
        super().__init__(
            job,
            ends,
            cuts=cuts,
            divisible=divisible,
            attempts_max=attempts_max,
            tries_max=tries_max,
            units_min=units_min,
            held=held,
        )
        self._deadline_min = math.inf  # no lease's deadline is earlier

    # ------------------------------------------------------------ grants and their ends

    def grant(
        self,
        worker: WorkerName,
        incarnation: Incarnation,
        now: float,
        ttl_s: float,
        *,
        units_max: int | None = None,
    ) -> list[Fact]:
        """Leases the first pending shard, or about `units_max` units of its front; [] if nothing is pending."""
        shard = self.first_pending
        if shard is None:
            return []
        facts: list[Fact] = []
        at = self._front(shard, units_max)
        if at is not None:
            facts.append(self._do(SplitMade(self.job, shard, ShardId(self._columns.count), at)))
        return [*facts, self._grant(worker, incarnation, shard, now, ttl_s)]

    def twin(
        self, worker: WorkerName, incarnation: Incarnation, shard: ShardId, now: float, ttl_s: float
    ) -> list[Fact] | Refused:
        """Leases a leased shard once more, to another worker; the first of the two to commit ends the other."""
        live = self._live.get(shard, [])
        if len(live) != 1:
            return Refused("only a shard with one live epoch can have a second")
        if live[0].worker == worker:
            return Refused("the worker holds it already")
        return [self._grant(worker, incarnation, shard, now, ttl_s)]

    def renew(
        self, worker: WorkerName, incarnation: Incarnation, held: Held, now: float, ttl_s: float
    ) -> Renewed | Stale:
        """Extends a lease and notes the holder's position. Not a fact.

        A `held.end` above the ledger's is a split whose answer was lost; it goes on as long as the holder kept its
        promise not to pass it.
        """
        lease = self._own(worker, incarnation, held.shard, held.epoch)
        if lease is None or not self._matches(held):
            return Stale(held.shard, held.epoch)
        lease.deadline = max(lease.deadline, now + ttl_s)
        lease.position = max(lease.position, held.position)
        lease.rows_done, lease.rows_rejected = held.rows_done, held.rows_rejected
        lease.is_seen = True
        return Renewed(self._columns.ends[held.shard])

    def register(
        self, worker: WorkerName, incarnation: Incarnation, held: Sequence[Held], now: float, ttl_s: float
    ) -> tuple[list[Fact], list[Held]]:
        """A sidecar introduces itself with what it holds in memory; returns what it keeps, with the ledger's ranges.

        All epochs of the worker's other incarnations end, and those of this one that it doesn't name. Commits of other
        incarnations that were not reported as published are due at once. If this incarnation's leases had expired, it
        was only cut off, and the charges are taken back.
        """
        facts: list[Fact] = []
        keep: list[Held] = []
        named = {(item.shard, item.epoch): item for item in held}
        for lease in self.held_by(worker):
            item = named.get((lease.shard, lease.epoch))
            if lease.incarnation != incarnation:
                facts += self._end(lease, Ended.SUPERSEDED, charged=True, error="the sidecar was restarted")
            elif item is not None and isinstance(self.renew(worker, incarnation, item, now, ttl_s), Renewed):
                begin, end = self.range_of(lease.shard)
                keep.append(Held(lease.shard, lease.epoch, begin, end, lease.position))
            else:
                facts += self._end(lease, Ended.UNSEEN, charged=False, error="the worker doesn't hold it")
        for (shard, epoch), holder in list(self._cut_off.items()):
            if holder == (worker, incarnation):
                facts += self._return_charge(ShardId(shard), Epoch(epoch))
        self._publish_now(worker, except_incarnation=incarnation)
        return facts, keep

    def release(
        self,
        worker: WorkerName,
        incarnation: Incarnation,
        shard: ShardId,
        epoch: Epoch,
        *,
        charged: bool,
        error: str = "",
        is_outage: bool = False,
    ) -> list[Fact] | Stale:
        """The holder gives the shard back; `charged` as the failure table says. What an outage ends was no try."""
        lease = self._own(worker, incarnation, shard, epoch)
        if lease is None:
            return Stale(shard, epoch)
        why = Ended.OUTAGE if is_outage and not charged else Ended.RELEASED
        return self._end(lease, why, charged=charged, error=error)

    def expire(self, now: float) -> list[Fact]:
        """Ends the epochs whose deadline has passed; charged only if the worker had shown that it got the grant."""
        if now < self._deadline_min:
            return []
        facts: list[Fact] = []
        for lease in [lease for lease in self.leases() if lease.deadline <= now]:
            facts += self._end(lease, Ended.EXPIRED, charged=lease.is_seen, error="the lease expired")
        self._deadline_min = min((lease.deadline for lease in self.leases()), default=math.inf)
        return facts

    def worker_lost(
        self, worker: WorkerName, incarnation: Incarnation | None = None, *, charged: bool = False, error: str = ""
    ) -> list[Fact]:
        """The worker (only this incarnation, if given) is gone: its epochs end, its unpublished commits are due."""
        facts: list[Fact] = []
        for lease in self.held_by(worker):
            if incarnation in (None, lease.incarnation):
                facts += self._end(lease, Ended.LOST, charged=charged, error=error or "the worker was lost")
        self._publish_now(worker, only_incarnation=incarnation)
        return facts

    def shift_deadlines(self, delay_s: float) -> None:
        """Moves every deadline held over others by `delay_s`: the caller's loop slept, they may not have."""
        for lease in self.leases():
            lease.deadline += delay_s
        for publishing in self._publishing.values():
            publishing.deadline += delay_s
        self._deadline_min += delay_s

    def restart(self, now: float, ttl_s: float) -> None:
        """After a replay: gives every live epoch, and every publish to be reported, one fresh lease time."""
        for lease in self.leases():
            lease.deadline = now + ttl_s
            lease.granted_at = now
            lease.position = self._columns.begins[lease.shard]
            lease.is_seen = False
        for publishing in self._publishing.values():
            publishing.deadline, publishing.is_taken = now + ttl_s, False
        self._deadline_min = now + ttl_s if self._live else math.inf
        self._pending.rebuild()

    # ------------------------------------------------------------ splits and commits

    def split(
        self, worker: WorkerName, incarnation: Incarnation, shard: ShardId, epoch: Epoch, at: int
    ) -> list[Fact] | Stale | Refused:
        """Cuts a lease at the unit that its holder offered and will not pass; the rest is pending.

        An offer of the shard's end is nothing to give, or an offer said twice: no facts, and `range_of` has the answer.
        """
        if self._own(worker, incarnation, shard, epoch) is None:
            return Stale(shard, epoch)
        begin, end = self.range_of(shard)
        if at == end:
            return []
        if self.live_epochs(shard) > 1:
            return Refused("a second epoch is live")
        fault = self._cut_fault(begin, at, end)
        if fault:
            return Refused(fault)
        return [self._do(SplitMade(self.job, shard, ShardId(self._columns.count), at))]

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
        corrupt: Sequence[CorruptUnits] = (),
        schema: str = "",
        now: float = 0.0,
        publish_ttl_s: float = math.inf,
    ) -> list[Fact] | Stale | Refused | OtherSchema | AlreadyWon:
        """Decides that this epoch's output counts; a prefix of the shard's range is itself the split.

        The first `schema` of data files that comes is that of the whole output; empty: there are no data files. The
        publish is expected to be reported within `publish_ttl_s`, see `publishes_due`.
        """
        if self._has_won(worker, incarnation, shard, epoch):
            if (begin, end) != self.range_of(shard):
                return Refused(f"its commit was of {self.range_of(shard)}")
            return AlreadyWon(self._columns.states[shard] == ShardState.COMMITTED)
        if self._own(worker, incarnation, shard, epoch) is None:
            return Stale(shard, epoch)
        first, last = self.range_of(shard)
        if begin != first:
            return Refused(f"the shard begins at {first}, not {begin}")
        if end > last:
            return Refused(f"the shard ends at {last}, before {end}")
        if not counts.is_balanced:
            return Refused(f"rows read are not filtered + out + rejected: {counts}")
        fault = self._cut_fault(first, end, last) if end != last else ""
        if fault:
            return Refused(fault)
        if schema and self.schema not in ("", schema):
            return OtherSchema(self.schema, schema)
        facts = self.agree(schema)
        if end != last:
            facts.append(self._do(SplitMade(self.job, shard, ShardId(self._columns.count), end)))
        facts.append(
            self._do(
                CommitDecided(
                    self.job, shard, epoch, begin, end, counts, worker, incarnation, tuple(files), tuple(corrupt)
                ),
            )
        )
        if not self.is_held:
            self._publishing[shard].deadline = now + publish_ttl_s
        for loser in list(self._live.get(shard, ())):
            facts.append(self._do(EpochEnded(self.job, shard, loser.epoch, Ended.BEATEN, charged=False)))
        return facts

    def agree(self, schema: str) -> list[Fact]:
        """The output's data files have this schema; [] if none is said or one is agreed already."""
        if not schema or self.schema:
            return []
        return [self._do(SchemaAgreed(self.job, schema))]

    def published(
        self, worker: WorkerName | None, shard: ShardId, epoch: Epoch, incarnation: Incarnation | None = None
    ) -> list[Fact] | Stale:
        """The commit's files have their final names; said by the winner, or (None) done by the coordinator.

        Said again, it is no news and no error: no facts.
        """
        if not self._is_shard(shard) or not epoch or self._columns.won[shard] != epoch:
            return Stale(shard, epoch)
        owner, of_incarnation = self._holders[self._columns.owners[shard]]
        if worker not in (None, owner) or incarnation not in (None, of_incarnation):
            return Stale(shard, epoch)
        if self._columns.states[shard] == ShardState.COMMITTED:
            return []
        return [self._do(Published(self.job, shard, epoch))]

    def publish_all(self) -> list[Fact]:
        """Held modes: the coordinator has published every commit."""
        assert self.is_held
        return [self._do(AllPublished(self.job))] if self._shards[ShardState.COMMITTING] else []

    def publishes_due(self, now: float) -> list[tuple[ShardId, Epoch]]:
        """Commits whose publish was not reported in time; each is given once, the caller's to publish or revoke."""
        due = [
            (ShardId(shard), publishing.epoch)
            for shard, publishing in self._publishing.items()
            if publishing.deadline <= now and not publishing.is_taken
        ]
        for shard, _ in due:
            self._publishing[shard].is_taken = True
        return due

    def revoke(self, commit: CommitDecided) -> list[Fact]:
        """The commit's staging is gone and was not published: the shard is pending again, for a higher epoch."""
        assert self._columns.won[commit.shard] == commit.epoch, f"{commit} doesn't count"
        assert self._columns.states[commit.shard] == ShardState.COMMITTING, f"{commit} is published"
        return [self._do(Revoked(self.job, commit.shard, commit.epoch, commit.counts))]

    # ------------------------------------------------------------ inside

    def _do(self, fact: F) -> F:
        self.apply(fact)
        return fact

    def _is_shard(self, shard: int) -> bool:
        return 0 <= shard < self._columns.count

    def _own(self, worker: WorkerName, incarnation: Incarnation, shard: ShardId, epoch: Epoch) -> Lease | None:
        """The live epoch that this incarnation of the worker holds under that name."""
        lease = self._by_worker.get(worker, {}).get(shard)
        return lease if lease and lease.epoch == epoch and lease.incarnation == incarnation else None

    def _matches(self, held: Held) -> bool:
        begin, end = self.range_of(held.shard)
        return held.begin == begin and held.end >= end and begin <= held.position <= end

    def _has_won(self, worker: WorkerName, incarnation: Incarnation, shard: ShardId, epoch: Epoch) -> bool:
        columns = self._columns
        return (
            self._is_shard(shard)
            and epoch > 0
            and columns.won[shard] == epoch
            and self._holders[columns.owners[shard]] == (worker, incarnation)
        )

    def _grant(self, worker: WorkerName, incarnation: Incarnation, shard: ShardId, now: float, ttl_s: float) -> Granted:
        epoch = Epoch(self._columns.epochs[shard] + 1)
        granted = self._do(Granted(self.job, shard, epoch, worker, incarnation))
        lease = self._by_worker[worker][shard]
        lease.granted_at, lease.deadline = now, now + ttl_s
        self._deadline_min = min(self._deadline_min, lease.deadline)
        return granted

    def _front(self, shard: ShardId, units_max: int | None) -> int | None:
        """Where to cut the shard so that its front has about `units_max` units; None: not at all."""
        begin, end = self.range_of(shard)
        if units_max is None:
            return None
        aim = max(units_max, 1)
        least = min(aim, self.units_min)
        if end - begin < aim + max(aim // 2, least):
            return None
        at = begin + aim
        # A cut that costs nothing is worth half as much, or twice as much, work.
        i = int(np.searchsorted(self._cuts, at))
        near = [int(cut) for cut in self._cuts[max(i - 1, 0) : i + 1] if begin + aim // 2 <= cut <= begin + 2 * aim]
        if near:
            at = min(near, key=lambda cut: abs(cut - at))
        elif not self.is_divisible:
            at = self.next_cut(at)
        return at if begin < at <= end - least else None

    def _cut_fault(self, begin: int, at: int, end: int) -> str:
        """Why ``[begin, end)`` can't be cut at `at`; empty if it can."""
        if not begin < at < end:
            return f"{at} is not inside [{begin}, {end})"
        if self.next_cut(at) != at:
            return f"the input can't be cut at {at}"
        return ""

    def _end(self, lease: Lease, why: Ended, *, charged: bool, error: str) -> list[Fact]:
        """Ends a live epoch, and quarantines the shard if that was its last try."""
        shard = lease.shard
        facts: list[Fact] = [self._do(EpochEnded(self.job, shard, lease.epoch, why, charged, error))]
        columns = self._columns
        is_used_up = columns.attempts[shard] >= self._attempts_max or columns.tries[shard] >= self._tries_max
        if is_used_up and columns.states[shard] == ShardState.PENDING:
            facts.append(self._do(Quarantined(self.job, shard, error)))
        return facts

    def _return_charge(self, shard: ShardId, epoch: Epoch) -> list[Fact]:
        if self._columns.states[shard] == ShardState.QUARANTINED:
            return []
        return [self._do(ChargeReturned(self.job, shard, epoch))]

    def _publish_now(
        self,
        worker: WorkerName,
        *,
        only_incarnation: Incarnation | None = None,
        except_incarnation: Incarnation | None = None,
    ) -> None:
        """The worker won't report these publishes any more."""
        for publishing in self._publishing.values():
            if (
                publishing.worker == worker
                and only_incarnation in (None, publishing.incarnation)
                and publishing.incarnation != except_incarnation
            ):
                publishing.deadline = -math.inf
