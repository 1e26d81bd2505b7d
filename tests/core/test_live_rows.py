"""Rows of live leases as the budget of rejects counts them, and what corrupt ranges count for."""

import numpy as np
import pytest

from coordinator.core.facts import RowCounts
from coordinator.core.lease_values import Held
from coordinator.core.leases import LeaseTable
from coordinator.jobs import budget_fault
from headrace.dataset import CorruptUnits, corrupt_fault, corrupt_rows
from headrace.program import ErrorPolicy
from headrace.words import Epoch, Incarnation, ShardId, WorkerName

ADA, BEN, ONE = WorkerName("ada"), WorkerName("ben"), Incarnation("one")
TTL_S = 10.0


def table(*ends: int) -> LeaseTable:
    return LeaseTable(1, np.array(ends, np.int64), divisible=False, cuts=np.array(ends, np.int64))


def says(
    of: LeaseTable, worker: WorkerName, shard: int, epoch: int, done: int, rejected: int, now: float = 0.0
) -> None:
    begin, end = of.range_of(ShardId(shard))
    of.renew(worker, ONE, Held(ShardId(shard), Epoch(epoch), begin, end, begin, done, rejected), now, TTL_S)


def live(of: LeaseTable) -> tuple[int, int]:
    """Rows of all live epochs, done and rejected."""
    counted = [of.rows_live(worker) for worker in (ADA, BEN)]
    return sum(done for done, _ in counted), sum(rejected for _, rejected in counted)


def test_rows_of_two_leases_of_a_worker_add_up() -> None:
    leases = table(100, 200)
    leases.grant(ADA, ONE, 0.0, TTL_S)
    leases.grant(ADA, ONE, 0.0, TTL_S)
    says(leases, ADA, 0, 1, 30, 2)
    says(leases, ADA, 1, 1, 40, 3)
    assert live(leases) == (70, 5)


def test_of_a_shard_with_two_epochs_the_larger_number_counts() -> None:
    leases = table(100, 200)
    leases.grant(ADA, ONE, 0.0, TTL_S)
    leases.twin(BEN, ONE, ShardId(0), 0.0, TTL_S)
    leases.grant(BEN, ONE, 0.0, TTL_S)
    says(leases, ADA, 0, 1, 30, 2)
    says(leases, BEN, 1, 1, 10, 1)
    assert live(leases) == (40, 3)
    says(leases, BEN, 0, 2, 20, 7)
    assert live(leases) == (40, 8)
    says(leases, BEN, 0, 2, 90, 9)
    assert live(leases) == (100, 10)
    leases.worker_lost(ADA)
    assert live(leases) == (100, 10)
    leases.worker_lost(BEN)
    assert live(leases) == (0, 0)


def test_rows_of_a_commit_count_once_and_those_of_an_ended_epoch_not_at_all() -> None:
    leases = table(100, 200)
    leases.grant(ADA, ONE, 0.0, TTL_S)
    leases.twin(BEN, ONE, ShardId(0), 0.0, TTL_S)
    says(leases, ADA, 0, 1, 99, 4)
    says(leases, BEN, 0, 2, 100, 5)
    counts = RowCounts(100, 0, 95, 5)
    leases.commit(BEN, ONE, ShardId(0), Epoch(2), begin=0, end=100, counts=counts, files=())
    assert (live(leases), leases.rows.rejected) == ((0, 0), 5)
    leases.grant(ADA, ONE, 0.0, TTL_S)
    says(leases, ADA, 1, 1, 50, 6)
    assert live(leases) == (50, 6)
    leases.expire(TTL_S + 1.0)
    assert live(leases) == (0, 0)


def test_the_budget_is_spent_with_the_reject_that_is_too_many() -> None:
    """Told row by row, in virtual time: a number at once, a share from its first thousand rows on."""
    spent: dict[str, int] = {}
    policies = {
        "number": ErrorPolicy(max_rejected_rows=3, max_rejected_share=None),
        "share": ErrorPolicy(max_rejected_rows=None, max_rejected_share=0.01),
    }
    leases = table(5000)
    leases.grant(ADA, ONE, 0.0, TTL_S)
    for second in range(1, 5000):
        says(leases, ADA, 0, 1, second, second // 50, now=float(second))
        done, rejected = live(leases)
        for name, policy in policies.items():
            if budget_fault(policy, read=done, rejected=rejected):
                spent.setdefault(name, second)
    assert spent == {"number": 200, "share": 1000}


@pytest.mark.parametrize(
    ("unit", "ranges", "rows"),
    [("row", [(0, 10), (20, 25)], 15), ("file", [(3, 4)], 1), ("byte", [(0, 10), (20, 25)], 2), ("row", [], 0)],
)
def test_a_corrupt_range_counts_by_its_rows_or_as_one(unit: str, ranges: list[tuple[int, int]], rows: int) -> None:
    assert corrupt_rows(unit, [CorruptUnits(begin, end, "torn") for begin, end in ranges]) == rows


@pytest.mark.parametrize(
    ("ranges", "is_right"),
    [
        ([], True),
        ([(10, 20)], True),
        ([(10, 12), (12, 20)], True),
        ([(9, 12)], False),
        ([(15, 21)], False),
        ([(12, 14), (13, 15)], False),
        ([(14, 15), (12, 13)], False),
        ([(12, 12)], False),
    ],
)
def test_corrupt_ranges_lie_in_their_shard_apart_and_in_order(ranges: list[tuple[int, int]], is_right: bool) -> None:
    fault = corrupt_fault(10, 20, [CorruptUnits(begin, end, "torn") for begin, end in ranges])
    assert (fault == "") is is_right
