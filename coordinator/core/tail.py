"""The end of a job: whose lease to cut in two, or to give to a second worker, when nothing is pending.

Both choose the lease with the latest expected end, from the position that its worker last reported and its rate.

Not here: how a split is agreed and journaled (`leases`).
"""

import math
from collections.abc import Collection, Mapping

from coordinator.core.lease_values import Lease
from coordinator.core.leases import LeaseTable
from headrace.words import Epoch, ShardId, WorkerName


def expected_left_s(
    table: LeaseTable, lease: Lease, now: float, rate: float | None, *, units_behind: float = 0.0
) -> float:
    """Seconds until the lease's range is read, at `rate` units/s of its worker; without one, at its own pace so far.

    Of a lease that hasn't moved yet nothing is known but for how long: it is taken to last as long again. What its
    worker has yet to compute before the lease can be committed, `units_behind`, counts if it is more.
    """
    begin, end = table.range_of(lease.shard)
    left = max(end - lease.position, units_behind)
    elapsed = now - lease.granted_at
    own = (lease.position - begin) / elapsed if elapsed > 0 else 0.0
    pace = rate or own
    if left <= 0:
        return 0.0
    return left / pace if pace > 0 else elapsed


def units_done(table: LeaseTable, lease: Lease, units_per_row: float) -> float:
    """Units of the lease that are through all stages; reading runs ahead of these by a block and what the arena holds.

    Args:
        table: of the job.
        lease: one of its live ones.
        units_per_row: turns the rows that workers report into units; infinite while nobody knows: then 0.
    """
    done = lease.rows_done * units_per_row if lease.rows_done and units_per_row < math.inf else 0.0
    return min(done, lease.position - table.range_of(lease.shard)[0])


def units_behind(table: LeaseTable, units_per_row: float) -> dict[tuple[ShardId, Epoch], float]:
    """For each lease, the units that its worker has yet to compute before it can be committed, in its order of grant.

    Arguments as `units_done`.
    """
    behind = {}
    for worker in {lease.worker for lease in table.leases()}:
        left = 0.0
        for lease in table.held_by(worker):
            begin, end = table.range_of(lease.shard)
            left += end - begin - units_done(table, lease, units_per_row)
            behind[lease.shard, lease.epoch] = left
    return behind


def split_candidate(
    table: LeaseTable,
    now: float,
    rates: Mapping[WorkerName, float],
    *,
    left_min_s: float = 1.0,
    asked: Collection[tuple[ShardId, Epoch]] = (),
    behind: Mapping[tuple[ShardId, Epoch], float],
) -> Lease | None:
    """The lease to ask a split of; None if none is worth it.

    Args:
        table: of the job.
        now: as in the table's decisions.
        rates: units/s of each worker over all it holds; those not yet known are missing.
        left_min_s: with less left, the holder is done before another has begun.
        asked: leases whose answer is awaited, or that had nothing to give.
        behind: see `units_behind`.
    """
    # How many bytes each part has doesn't matter: what is left takes long, and its parts half as long.
    leases = [x for x in _single(table, asked) if _has_inner_cut(table, x)]
    return _latest(table, now, rates, left_min_s, leases, behind)


def twin_candidate(
    table: LeaseTable,
    now: float,
    rates: Mapping[WorkerName, float],
    worker: WorkerName,
    *,
    left_min_s: float = 2.0,
    unwilling: Collection[tuple[ShardId, Epoch]] = (),
    behind: Mapping[tuple[ShardId, Epoch], float],
) -> Lease | None:
    """The lease of another worker, of a shard that can't be split, that `worker` should work on too; None for none.

    Nor can one be split that has been read to its end and waits for a slow model. A second copy starts from the shard's
    first unit, so `left_min_s` is higher than for a split. `behind`: see `units_behind`.
    """
    others = [x for x in _single(table, ()) if x.worker != worker and not _has_inner_cut(table, x)]
    rate = rates.get(worker)
    if rate:
        # A slow worker that comes first would keep a fast one from being the second. Twice, since rates are means of a
        # minute: the holder's may just have dropped.
        others = [x for x in others if _units(table, x) / rate < 2 * _left_s(table, x, now, rates, behind)]
    return _latest(table, now, rates, left_min_s, others, behind)


def _single(table: LeaseTable, asked: Collection[tuple[ShardId, Epoch]]) -> list[Lease]:
    return [x for x in table.leases() if table.live_epochs(x.shard) == 1 and (x.shard, x.epoch) not in asked]


def _has_inner_cut(table: LeaseTable, lease: Lease) -> bool:
    """Whether the unread part can be cut."""
    _, end = table.range_of(lease.shard)
    return table.next_cut(lease.position + 1) < end


def _latest(
    table: LeaseTable,
    now: float,
    rates: Mapping[WorkerName, float],
    left_min_s: float,
    leases: Collection[Lease],
    behind: Mapping[tuple[ShardId, Epoch], float],
) -> Lease | None:
    if not leases:
        return None
    left = {id(x): _left_s(table, x, now, rates, behind) for x in leases}
    latest = max(leases, key=lambda x: (left[id(x)], -x.shard))
    return latest if left[id(latest)] >= left_min_s else None


def _left_s(
    table: LeaseTable,
    lease: Lease,
    now: float,
    rates: Mapping[WorkerName, float],
    behind: Mapping[tuple[ShardId, Epoch], float],
) -> float:
    units = behind.get((lease.shard, lease.epoch), 0.0)
    return expected_left_s(table, lease, now, rates.get(lease.worker), units_behind=units)


def _units(table: LeaseTable, lease: Lease) -> int:
    begin, end = table.range_of(lease.shard)
    return end - begin
