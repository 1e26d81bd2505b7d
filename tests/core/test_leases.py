"""The lease table, decision by decision."""

import numpy as np
import pytest

from coordinator.core.facts import (
    ChargeReturned,
    CommitDecided,
    Ended,
    EpochEnded,
    Fact,
    Granted,
    Quarantined,
    RowCounts,
    SplitMade,
)
from coordinator.core.lease_values import AlreadyWon, Counts, Held, Refused, Renewed, ShardView, Stale
from coordinator.core.leases import LeaseTable
from coordinator.core.tail import expected_left_s, split_candidate, twin_candidate, units_behind
from headrace.words import Epoch, Incarnation, ShardId, ShardState, WorkerName

ADA, BOB = WorkerName("ada"), WorkerName("bob")
ONE, TWO = Incarnation("one"), Incarnation("two")
TTL_S = 10.0


def new_table(
    ends: tuple[int, ...] = (100, 200, 300),
    *,
    cuts: tuple[int, ...] = (),
    divisible: bool = True,
    attempts_max: int = 2,
    tries_max: int = 50,
    units_min: int = 1,
    held: bool = False,
) -> LeaseTable:
    return LeaseTable(
        1,
        np.array(ends, np.int64),
        cuts=np.array(cuts, np.int64),
        divisible=divisible,
        attempts_max=attempts_max,
        tries_max=tries_max,
        units_min=units_min,
        held=held,
    )


def shard(number: int) -> ShardId:
    return ShardId(number)


def epoch(number: int) -> Epoch:
    return Epoch(number)


def commit(
    table: LeaseTable, number: int, of_epoch: int, begin: int, end: int, worker: WorkerName = ADA, by: Incarnation = ONE
) -> list[Fact] | Stale | Refused | AlreadyWon:
    rows = max(end - begin, 0)
    return table.commit(
        worker,
        by,
        shard(number),
        epoch(of_epoch),
        begin=begin,
        end=end,
        counts=RowCounts(rows, 0, rows, 0),
        files=[],
        now=0.0,
        publish_ttl_s=30.0,
    )


def decided(number: int, of_epoch: int, begin: int, end: int) -> CommitDecided:
    rows = end - begin
    return CommitDecided(1, shard(number), epoch(of_epoch), begin, end, RowCounts(rows, 0, rows, 0), ADA, ONE, ())


def granted(table: LeaseTable, worker: WorkerName = ADA, now: float = 0.0, units_max: int | None = None) -> Granted:
    fact = table.grant(worker, ONE, now, TTL_S, units_max=units_max)[-1]
    assert isinstance(fact, Granted)
    return fact


def test_shards_are_granted_in_input_order_returned_ones_first() -> None:
    table = new_table()
    assert [granted(table).shard for _ in range(2)] == [0, 1]
    table.release(ADA, ONE, shard(0), epoch(1), charged=False)
    assert granted(table) == Granted(1, shard(0), epoch(2), ADA, ONE)
    assert granted(table).shard == 2
    assert table.grant(ADA, ONE, 0.0, TTL_S) == []
    assert table.shards_recomputed == 1


def test_a_shard_that_comes_back_often_was_recomputed_once() -> None:
    table = new_table()
    for number in range(1, 4):
        granted(table)
        table.release(ADA, ONE, shard(0), epoch(number), charged=False)
    granted(table)
    table.twin(BOB, ONE, shard(0), 0.0, TTL_S)
    assert table.shards_recomputed == 1
    granted(table)
    assert table.shards_recomputed == 1


@pytest.mark.parametrize(
    ("divisible", "cuts", "units_min", "units_max", "at"),
    [
        (True, (), 1, 10, 10),
        (True, (), 1, 80, None),  # what would be left isn't worth a shard
        (True, (), 60, 60, None),  # what would be left is below the smallest size
        (True, (), 60, 10, 10),  # who wants less than the smallest size knows why
        (True, (40, 60), 1, 30, 40),  # a free cut near by
        (True, (90,), 1, 30, 30),  # none near by
        (False, (90,), 1, 30, 90),
        (False, (100,), 1, 30, None),
        (True, (), 1, None, None),
    ],
)
def test_a_grant_may_take_the_front_only(
    divisible: bool, cuts: tuple[int, ...], units_min: int, units_max: int | None, at: int | None
) -> None:
    table = new_table((100,), cuts=cuts, divisible=divisible, units_min=units_min)
    facts = table.grant(ADA, ONE, 0.0, TTL_S, units_max=units_max)
    split = [SplitMade(1, shard(0), shard(1), at)] if at else []
    assert facts == [*split, Granted(1, shard(0), epoch(1), ADA, ONE)]
    assert table.range_of(shard(0)) == (0, at or 100)


def test_a_lease_expires_at_its_deadline_and_renewing_moves_it() -> None:
    table = new_table()
    granted(table)
    assert table.renew(ADA, ONE, Held(shard(0), epoch(1), 0, 100, 20), 6.0, TTL_S) == Renewed(100)
    assert table.expire(10.0) == []
    assert table.expire(16.0) == [EpochEnded(1, shard(0), epoch(1), Ended.EXPIRED, True, "the lease expired")]
    assert table.renew(ADA, ONE, Held(shard(0), epoch(1), 0, 100, 20), 16.0, TTL_S) == Stale(shard(0), epoch(1))


def test_a_grant_that_its_worker_never_saw_expires_without_a_charge() -> None:
    table = new_table()
    granted(table)
    assert table.expire(10.0) == [EpochEnded(1, shard(0), epoch(1), Ended.EXPIRED, False, "the lease expired")]


def test_a_worker_that_was_only_cut_off_gets_its_charge_back() -> None:
    table = new_table()
    granted(table)
    table.renew(ADA, ONE, Held(shard(0), epoch(1), 0, 100, 0), 0.0, TTL_S)
    table.expire(10.0)
    facts, keep = table.register(ADA, ONE, [Held(shard(0), epoch(1), 0, 100, 50)], 11.0, TTL_S)
    assert (facts, keep) == ([ChargeReturned(1, shard(0), epoch(1))], [])
    assert table.shards(state=None)[0].attempts == 0
    assert table.register(ADA, ONE, [], 12.0, TTL_S) == ([], [])


def test_a_loop_that_slept_expires_nobody() -> None:
    table = new_table()
    granted(table)
    table.shift_deadlines(3600.0)
    table.grant(BOB, ONE, 3600.0, 5.0)
    assert [fact.shard for fact in table.expire(3609.0) if isinstance(fact, EpochEnded)] == [1], "not ada's"
    assert len(table.expire(3610.0)) == 1


def test_a_new_incarnation_ends_what_the_old_one_held() -> None:
    table = new_table()
    granted(table)
    granted(table, BOB)
    facts, keep = table.register(ADA, TWO, [Held(shard(0), epoch(1), 0, 100, 0)], 1.0, TTL_S)
    assert facts == [EpochEnded(1, shard(0), epoch(1), Ended.SUPERSEDED, True, "the sidecar was restarted")]
    assert keep == []
    assert commit(table, 0, 1, 0, 100) == Stale(shard(0), epoch(1))
    assert [lease.worker for lease in table.leases()] == [BOB]


@pytest.mark.parametrize(
    ("held", "is_kept"),
    [
        (Held(shard(0), epoch(1), 0, 100, 30), True),
        (Held(shard(0), epoch(2), 0, 100, 30), False),
        (Held(shard(0), epoch(1), 10, 100, 30), False),
        (Held(shard(0), epoch(1), 0, 90, 30), False),
        (Held(shard(0), epoch(1), 0, 120, 30), True),  # the answer to a split was lost
        (Held(shard(0), epoch(1), 0, 120, 110), False),  # and the promise not to pass it wasn't kept
    ],
)
def test_the_same_incarnation_keeps_what_matches(held: Held, is_kept: bool) -> None:
    table = new_table()
    granted(table)
    facts, keep = table.register(ADA, ONE, [held], 1.0, TTL_S)
    assert keep == ([Held(shard(0), epoch(1), 0, 100, 30)] if is_kept else [])
    assert [fact.why for fact in facts if isinstance(fact, EpochEnded)] == ([] if is_kept else [Ended.UNSEEN])


def test_a_shard_that_used_up_its_attempts_is_quarantined_and_counted() -> None:
    table = new_table((100,))
    for number in (1, 2):
        granted(table)
        facts = table.release(ADA, ONE, shard(0), epoch(number), charged=True, error="out of memory")
    assert facts == [
        EpochEnded(1, shard(0), epoch(2), Ended.RELEASED, True, "out of memory"),
        Quarantined(1, shard(0), "out of memory"),
    ]
    assert table.counts == Counts(0, 0, 0, 0, 1)
    assert table.is_finished
    assert table.grant(ADA, ONE, 0.0, TTL_S) == []
    assert table.shards(state=ShardState.QUARANTINED) == [
        ShardView(shard(0), ShardState.QUARANTINED, epoch(2), 0, 100, 2, "ada", "out of memory")
    ]


def test_tries_without_progress_have_a_bound_of_their_own() -> None:
    table = new_table((100,), tries_max=5)
    for _ in range(5):
        granted(table)
        facts = table.worker_lost(ADA)
    assert [type(fact) for fact in facts] == [EpochEnded, Quarantined]
    assert table.shards(state=None)[0].attempts == 0


def test_what_an_outage_ends_was_no_try() -> None:
    table = new_table((100,), tries_max=5, attempts_max=1)
    for _ in range(20):
        number = granted(table).epoch
        facts = table.release(ADA, ONE, shard(0), number, charged=False, error="down", is_outage=True)
        assert facts == [EpochEnded(1, shard(0), number, Ended.OUTAGE, False, "down")]
    assert table.counts == Counts(1, 0, 0, 0, 0)


def test_a_commit_is_answered_alike_when_said_again() -> None:
    table = new_table()
    granted(table)
    assert commit(table, 0, 1, 0, 100) == [decided(0, 1, 0, 100)]
    assert commit(table, 0, 1, 0, 100) == AlreadyWon(is_published=False)
    assert table.published(ADA, shard(0), epoch(1)) != []
    assert commit(table, 0, 1, 0, 100) == AlreadyWon(is_published=True)
    assert table.published(ADA, shard(0), epoch(1)) == []
    assert table.counts == Counts(2, 0, 0, 1, 0)
    assert (table.units_won, table.rows) == (100, RowCounts(100, 0, 100, 0))


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [
        (0, 101, "ends at 100"),
        (1, 100, "begins at 0"),
        (0, 0, "not inside"),
        (0, -5, "not inside"),
        (0, 50, "can't be cut at 50"),
    ],
)
def test_a_commit_that_does_not_fit_its_shard_is_refused(begin: int, end: int, reason: str) -> None:
    table = new_table((100, 200), cuts=(100, 200), divisible=False)
    granted(table)
    answer = commit(table, 0, 1, begin, end)
    assert isinstance(answer, Refused)
    assert reason in answer.reason
    assert table.counts == Counts(1, 1, 0, 0, 0)


def test_a_commit_whose_rows_do_not_add_up_is_refused() -> None:
    table = new_table()
    granted(table)
    answer = table.commit(ADA, ONE, shard(0), epoch(1), begin=0, end=100, counts=RowCounts(100, 0, 98, 1), files=[])
    assert isinstance(answer, Refused)


def test_a_commit_of_a_prefix_is_itself_the_split() -> None:
    table = new_table((100,))
    granted(table)
    assert commit(table, 0, 1, 0, 60) == [SplitMade(1, shard(0), shard(1), 60), decided(0, 1, 0, 60)]
    assert commit(table, 0, 1, 0, 60) == AlreadyWon(is_published=False)
    assert isinstance(commit(table, 0, 1, 0, 100), Refused)
    assert granted(table, BOB) == Granted(1, shard(1), epoch(1), BOB, ONE)


def test_a_stale_commit_changes_nothing() -> None:
    table = new_table((100,))
    granted(table)
    table.expire(TTL_S)
    granted(table, BOB)
    assert commit(table, 0, 1, 0, 100) == Stale(shard(0), epoch(1))
    assert commit(table, 0, 2, 0, 100) == Stale(shard(0), epoch(2)), "nobody commits another's lease"
    assert table.counts == Counts(0, 1, 0, 0, 0)


def test_an_empty_dataset_is_one_shard_that_is_committed_empty() -> None:
    table = new_table((0,))
    granted(table, units_max=10)
    assert commit(table, 0, 1, 0, 0) == [decided(0, 1, 0, 0)]
    table.published(None, shard(0), epoch(1))
    assert table.is_finished


def test_the_first_of_two_epochs_to_commit_ends_the_other() -> None:
    table = new_table((100,), divisible=False)
    granted(table)
    assert isinstance(table.twin(ADA, ONE, shard(0), 0.0, TTL_S), Refused)
    assert table.twin(BOB, ONE, shard(0), 0.0, TTL_S) == [Granted(1, shard(0), epoch(2), BOB, ONE)]
    assert isinstance(table.twin(WorkerName("cyd"), ONE, shard(0), 0.0, TTL_S), Refused)
    assert commit(table, 0, 1, 0, 100) == [
        decided(0, 1, 0, 100),
        EpochEnded(1, shard(0), epoch(2), Ended.BEATEN, False),
    ]
    assert commit(table, 0, 2, 0, 100, BOB) == Stale(shard(0), epoch(2))
    assert table.live_epochs(shard(0)) == 0


def test_the_loss_of_one_of_two_epochs_leaves_the_other() -> None:
    table = new_table((100,), attempts_max=1)
    granted(table)
    table.twin(BOB, ONE, shard(0), 0.0, TTL_S)
    assert len(table.worker_lost(ADA, charged=True)) == 1, "no quarantine while the other works on it"
    assert table.counts == Counts(0, 1, 0, 0, 0)
    assert isinstance(commit(table, 0, 2, 0, 100, BOB), list)


def test_a_late_publish_is_the_coordinators_once() -> None:
    table = new_table()
    granted(table)
    commit(table, 0, 1, 0, 100)
    assert table.publishes_due(29.0) == []
    assert table.publishes_due(30.0) == [(shard(0), epoch(1))]
    assert table.publishes_due(31.0) == []
    assert table.published(BOB, shard(0), epoch(1)) == Stale(shard(0), epoch(1))
    assert table.published(None, shard(0), epoch(1)) != []


def test_publishes_of_a_lost_worker_are_due_at_once() -> None:
    table = new_table()
    granted(table)
    commit(table, 0, 1, 0, 100)
    table.worker_lost(ADA, TWO)
    assert table.publishes_due(1.0) == []
    table.register(ADA, ONE, [], 1.0, TTL_S)
    assert table.publishes_due(1.0) == [], "the same incarnation will report it"
    table.register(ADA, TWO, [], 1.0, TTL_S)
    assert table.publishes_due(1.0) == [(shard(0), epoch(1))]


def test_a_revoked_commit_is_stale_and_its_shard_goes_to_a_higher_epoch() -> None:
    table = new_table((100,))
    granted(table)
    commit(table, 0, 1, 0, 100)
    table.revoke(decided(0, 1, 0, 100))
    assert table.published(ADA, shard(0), epoch(1)) == Stale(shard(0), epoch(1))
    assert commit(table, 0, 1, 0, 100) == Stale(shard(0), epoch(1))
    assert (table.units_won, table.rows) == (0, RowCounts())
    assert granted(table).epoch == 2


def test_in_held_modes_commits_count_and_wait_for_the_end() -> None:
    table = new_table((100,), held=True)
    granted(table)
    commit(table, 0, 1, 0, 100)
    assert table.counts == Counts(0, 0, 1, 1, 0)
    assert table.is_finished
    assert table.publishes_due(1e9) == []
    table.publish_all()
    assert table.counts == Counts(0, 0, 0, 1, 0)
    assert table.publish_all() == []


@pytest.mark.parametrize(("at", "is_refused"), [(0, True), (40, False), (45, True), (101, True)])
def test_a_split_is_made_at_a_cut_inside_the_lease(at: int, is_refused: bool) -> None:
    table = new_table((100,), cuts=(40, 100), divisible=False)
    granted(table)
    answer = table.split(ADA, ONE, shard(0), epoch(1), at)
    assert isinstance(answer, Refused) == is_refused
    if not is_refused:
        assert answer == [SplitMade(1, shard(0), shard(1), at)]
        assert table.split(ADA, ONE, shard(0), epoch(1), at) == [], "said again, it is agreed already"
        assert isinstance(commit(table, 0, 1, 0, 100), Refused)


def test_a_lease_with_a_second_epoch_is_not_split() -> None:
    table = new_table((100,))
    granted(table)
    table.twin(BOB, ONE, shard(0), 0.0, TTL_S)
    assert isinstance(table.split(ADA, ONE, shard(0), epoch(1), 50), Refused)


def test_a_restart_gives_live_epochs_one_fresh_lease_time() -> None:
    table = new_table()
    granted(table)
    commit(table, 0, 1, 0, 100)
    granted(table)
    table.restart(100.0, TTL_S)
    assert table.expire(109.0) == []
    assert table.publishes_due(109.0) == []
    assert len(table.expire(110.0)) == 1
    assert len(table.publishes_due(110.0)) == 1


def test_the_tail_splits_the_lease_with_the_latest_expected_end() -> None:
    table = new_table((100, 1000), units_min=5)
    granted(table, ADA)
    granted(table, BOB)
    rates = {ADA: 1.0, BOB: 100.0}
    slow = split_candidate(table, 0.0, rates, behind={})
    assert slow
    assert (slow.worker, expected_left_s(table, slow, 0.0, 1.0)) == (ADA, 100.0)
    assert split_candidate(table, 0.0, rates, asked={(slow.shard, slow.epoch)}, behind={}) in table.held_by(BOB)
    table.renew(ADA, ONE, Held(shard(0), epoch(1), 0, 100, 93), 0.0, TTL_S)
    assert split_candidate(table, 0.0, rates, behind={}) in table.held_by(BOB), "too little is left to cut"
    assert split_candidate(table, 0.0, rates, left_min_s=60.0, behind={}) is None


def test_without_a_rate_a_lease_is_judged_by_its_own_pace() -> None:
    table = new_table((100,))
    granted(table)
    (lease,) = table.leases()
    table.renew(ADA, ONE, Held(shard(0), epoch(1), 0, 100, 20), 0.0, TTL_S)
    assert expected_left_s(table, lease, 4.0, None) == 16.0
    assert expected_left_s(table, lease, 0.0, None) == 0.0


def test_a_lease_that_has_not_moved_is_taken_to_last_as_long_again() -> None:
    table = new_table((100,))
    granted(table)
    (lease,) = table.leases()
    assert [expected_left_s(table, lease, now, None) for now in (0.5, 60.0)] == [0.5, 60.0]


def test_only_what_cannot_be_split_gets_a_twin() -> None:
    table = new_table((100, 200), cuts=(50, 100, 200), divisible=False)
    granted(table, ADA)
    assert twin_candidate(table, 0.0, {ADA: 1.0}, BOB, behind={}) is None
    granted(table, ADA)
    found = twin_candidate(table, 0.0, {ADA: 1.0}, BOB, behind={})
    assert found
    assert found.shard == 1
    assert twin_candidate(table, 0.0, {ADA: 1.0}, ADA, behind={}) is None
    assert twin_candidate(table, 0.0, {ADA: 1000.0}, BOB, behind={}) is None, "done before a copy would be"


def test_what_is_read_and_not_computed_gets_a_twin_too() -> None:
    table = new_table((100, 200))
    granted(table, ADA)
    granted(table, ADA)
    for number in range(2):
        held = Held(shard(number), epoch(1), 100 * number, 100 * number + 100, 100 * number + 100, rows_done=40)
        table.renew(ADA, ONE, held, 0.0, TTL_S)
    assert twin_candidate(table, 0.0, {ADA: 1.0}, BOB, behind={}) is None
    behind = units_behind(table, 1.0)
    assert behind == {(0, 1): 60.0, (1, 1): 120.0}
    found = twin_candidate(table, 0.0, {ADA: 1.0}, BOB, behind=behind)
    assert found
    assert found.shard == 1
    assert twin_candidate(table, 0.0, {ADA: 100.0}, BOB, behind=behind) is None, "done before a copy would be"
