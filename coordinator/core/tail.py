"""The end of a job: whose lease to cut in two, or to give to a second worker, when nothing is pending.

Both choose the lease with the latest expected end, from the position that its worker last reported and its rate.

Not here: how a split is agreed and journaled (`leases`).
"""

import math
from collections.abc import Collection, Mapping

from coordinator.core.lease_values import Lease
from coordinator.core.leases import LeaseTable
from headrace.words import Epoch, ShardId, WorkerName


def expected_left_s(table: LeaseTable, lease: Lease, now: float, rate: float | None) -> float:
    """Seconds until the lease's range is read, at `rate` units/s of its worker; without one, at its own pace so far."""
    begin, end = table.range_of(lease.shard)
    left = end - lease.position
    elapsed = now - lease.granted_at
    own = (lease.position - begin) / elapsed if elapsed > 0 else 0.0
    pace = rate or own
    if left <= 0:
        return 0.0
    return left / pace if pace > 0 else math.inf


def split_candidate(
    table: LeaseTable,
    now: float,
    rates: Mapping[WorkerName, float],
    *,
    left_min_s: float = 1.0,
    asked: Collection[tuple[ShardId, Epoch]] = (),
) -> Lease | None:
    """The lease to ask a split of; None if none is worth it.

    Args:
        table: of the job.
        now: as in the table's decisions.
        rates: units/s of each worker over all it holds; those not yet known are missing.
        left_min_s: with less left, the holder is done before another has begun.
        asked: leases whose answer is awaited, or that had nothing to give.
    """
    return _latest(table, now, rates, left_min_s, [x for x in _single(table, asked) if _has_inner_cut(table, x)])


def twin_candidate(
    table: LeaseTable, now: float, rates: Mapping[WorkerName, float], worker: WorkerName, *, left_min_s: float = 5.0
) -> Lease | None:
    """The lease of another worker, of a shard that can't be split, that `worker` should work on too; None for none.

    A second copy starts from the shard's first unit, so `left_min_s` is higher than for a split.
    """
    others = [x for x in _single(table, ()) if x.worker != worker and not _has_inner_cut(table, x)]
    return _latest(table, now, rates, left_min_s, others)


def _single(table: LeaseTable, asked: Collection[tuple[ShardId, Epoch]]) -> list[Lease]:
    return [x for x in table.leases() if table.live_epochs(x.shard) == 1 and (x.shard, x.epoch) not in asked]


def _has_inner_cut(table: LeaseTable, lease: Lease) -> bool:
    """Whether the unread part can be cut so that neither side is below the smallest size."""
    _, end = table.range_of(lease.shard)
    return table.next_cut(lease.position + table.units_min) <= end - table.units_min


def _latest(
    table: LeaseTable, now: float, rates: Mapping[WorkerName, float], left_min_s: float, leases: Collection[Lease]
) -> Lease | None:
    if not leases:
        return None
    left = {id(x): expected_left_s(table, x, now, rates.get(x.worker)) for x in leases}
    latest = max(leases, key=lambda x: (left[id(x)], -x.shard))
    return latest if left[id(latest)] >= left_min_s else None
