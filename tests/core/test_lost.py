"""What can't be counted of the input counts against the budget by its bytes, and lives as long as the commit."""

import numpy as np
import pytest

from coordinator.core.facts import Fact, RowCounts
from coordinator.core.leases import LeaseTable
from coordinator.core.lost import NOTHING_LOST, Losses, Lost
from coordinator.jobs import corrupt_fault
from headrace.dataset import CorruptUnits, Dataset
from headrace.program import ErrorPolicy
from headrace.words import Epoch, Incarnation, ShardId, WorkerName

ADA, ONE = WorkerName("ada"), Incarnation("one")


def dataset(unit: str, files: list[tuple[int, int]]) -> Dataset:
    """Of files with so many units and bytes."""
    origins = np.concatenate([[0], np.cumsum([units for units, _ in files])]).astype(np.int64)
    return Dataset(
        unit=unit,
        paths=tuple(f"f{i}" for i in range(len(files))),
        sizes=np.array([size for _, size in files], np.int64),
        versions=("",) * len(files),
        origins=origins,
        cuts=origins[1:],
        divisible=True,
        bytes_total=0,
        rows_total=None,
    )


def corrupt(*ranges: tuple[int, int]) -> tuple[CorruptUnits, ...]:
    return tuple(CorruptUnits(begin, end, "torn") for begin, end in ranges)


@pytest.mark.parametrize(
    ("unit", "may_end_early", "files", "ranges", "lost", "rows"),
    [
        ("row", False, [(100, 1000), (1, 500), (300, 3000)], [(100, 101)], Lost(1, 500), 50),  # a mean of 0.1
        ("row", False, [(100, 1000), (1, 500), (1, 250)], [(100, 102)], Lost(2, 750), 75),
        ("row", False, [(100, 1000), (1, 0)], [(100, 101)], Lost(1, 0), 1),
        ("row", False, [(1, 900), (1, 500)], [(1, 2)], Lost(1, 500), 1),  # nothing tells a mean
        ("row", False, [(100, 1000), (100, 1000)], [(99, 120)], NOTHING_LOST, 0),  # known to the row
        ("row", True, [(100, 1000), (11, 900)], [(110, 111)], Lost(1, 729), 43),
        ("row", True, [(100, 1000), (100, 1000)], [(120, 140)], NOTHING_LOST, 0),
        ("byte", False, [(1000, 1000), (500, 500)], [(0, 10), (1000, 1500)], Lost(2, 510), 2),
        ("file", False, [(1, 1000), (1, 500)], [(0, 2)], NOTHING_LOST, 0),
    ],
)
def test_what_is_lost_is_told_by_the_plan(
    unit: str, may_end_early: bool, files: list[tuple[int, int]], ranges: list[tuple[int, int]], lost: Lost, rows: int
) -> None:
    losses = Losses(dataset(unit, files), may_end_early=may_end_early)
    assert losses.of(corrupt(*ranges)) == lost
    assert lost.rows(losses.planned_rows_per_byte) == rows


def table() -> LeaseTable:
    losses = Losses(dataset("byte", [(100, 100), (100, 100)]), may_end_early=False)
    return LeaseTable(1, np.array([100, 200]), lost_of=losses.of)


def test_what_is_lost_is_of_the_commits_that_count_also_after_a_replay() -> None:
    facts: list[Fact] = []
    first = table()
    for shard in (0, 1):
        facts += first.grant(ADA, ONE, 0, 30)
        begin, end = first.range_of(ShardId(shard))
        found = first.commit(
            ADA, ONE, ShardId(shard), Epoch(1), begin=begin, end=end,
            counts=RowCounts(corrupt=1), files=[], corrupt=corrupt((begin, begin + 40 + shard)),
        )  # fmt: skip
        assert isinstance(found, list)
        facts += found
    assert first.lost == Lost(2, 81)

    again = table()
    for fact in facts:
        again.apply(fact)  # type: ignore[arg-type]
    restored = table()
    for fact in first.checkpoint():
        restored.apply(fact)  # type: ignore[arg-type]
    commit = facts[-1]
    for one in (first, again, restored):
        assert one.lost == Lost(2, 81)
        one.revoke(commit)  # type: ignore[arg-type]
        assert one.lost == Lost(1, 40)


def test_a_share_is_spent_by_corrupt_rows_once_the_rest_can_not_make_up_for_them() -> None:
    share = ErrorPolicy(max_rejected_share=0.5)
    assert corrupt_fault(share, total=2000, rejected=1000, lost=990, parts=3, unit="row") == ""
    assert corrupt_fault(share, total=2000, rejected=1001, lost=991, parts=3, unit="row") == (
        "1,001 of 2,000 rows were rejected, errors.maxRejected allows 50.0000%; "
        "about 991 of them were in 3 files that can't be read"
    )
    known = corrupt_fault(share, total=2000, rejected=1001, lost=0, parts=0, unit="row")
    assert known == "1,001 of 2,000 rows were rejected, errors.maxRejected allows 50.0000%"
    rows = ErrorPolicy(max_rejected_rows=10, max_rejected_share=None)
    assert corrupt_fault(rows, total=2000, rejected=11, lost=11, parts=1, unit="byte") == (
        "11 rows were rejected, errors.maxRejected allows 10; about 11 of them were in 1 range that can't be read"
    )
