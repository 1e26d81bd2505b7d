"""How a job's work is shared: grants, and the tail."""

from collections.abc import Mapping

import numpy as np
import pytest

from coordinator.core.facts import Fact, Granted, RowCounts, SplitMade
from coordinator.core.lease_values import Held, Stale
from coordinator.core.leases import LeaseTable
from coordinator.core.sharing import Sharing
from headrace.words import Epoch, Incarnation, ShardId, WorkerName

ADA, BOB, EVE = WorkerName("ada"), WorkerName("bob"), WorkerName("eve")
ONE = Incarnation("one")
RATES = {ADA: 1.0, BOB: 10.0, EVE: 10.0}
FIRST = Epoch(1)


def new_sharing(*ends: int, unit: str = "row") -> tuple[LeaseTable, Sharing]:
    table = LeaseTable(1, np.array(ends, np.int64), units_min=5)
    return table, Sharing(table, unit)


def grant(sharing: Sharing, worker: WorkerName, rates: Mapping[WorkerName, float] = RATES) -> list[Fact]:
    return sharing.grant(
        worker,
        ONE,
        0.0,
        10.0,
        rates=lambda: rates,
        rate=rates.get(worker),
        workers=3,
        fleet_rate=sum(rates.values()) or None,
        interval_s=1.0,
    )


def lease(table: LeaseTable, worker: WorkerName) -> None:
    """Leases a whole shard."""
    assert table.grant(worker, ONE, 0.0, 10.0)


def say(table: LeaseTable, worker: WorkerName, *, position: int, rows_done: int = 0) -> None:
    (held_now,) = table.held_by(worker)
    begin, end = table.range_of(held_now.shard)
    held = Held(held_now.shard, held_now.epoch, begin, end, begin + position, rows_done=rows_done)
    table.renew(worker, ONE, held, 0.0, 10.0)


def test_a_worker_has_two_leases_whatever_it_has_read_of_them() -> None:
    table, sharing = new_sharing(10, 20, 30, 40)
    assert grant(sharing, ADA)
    say(table, ADA, position=10)
    assert grant(sharing, ADA)
    assert grant(sharing, ADA) == [], "what is read isn't done"


def test_a_shard_that_kills_its_workers_is_leased_alone_and_takes_no_neighbour_with_it() -> None:
    table, sharing = new_sharing(10, 20, 30, 40)
    poison = ShardId(1)
    while table.units_pending:
        while grant(sharing, ADA, {ADA: 1000.0}):
            pass
        held = table.held_by(ADA)
        if poison in [lease.shard for lease in held]:
            assert len(held) == 1 or not table.attempts(poison)
            table.worker_lost(ADA, charged=True, error="segfault")
            continue
        for item in held:
            begin, end = table.range_of(item.shard)
            counts = RowCounts(end - begin, 0, end - begin)
            assert table.commit(ADA, ONE, item.shard, item.epoch, begin=begin, end=end, counts=counts, files=[])
    assert table.counts.quarantined == 1
    assert table.attempts(poison) == 4
    assert max(view.attempts for view in table.shards(state=None) if view.shard != poison) == 1


def test_nothing_is_granted_beside_a_shard_that_was_charged() -> None:
    table, sharing = new_sharing(10, 20)
    lease(table, ADA)
    table.worker_lost(ADA, charged=True)
    assert grant(sharing, ADA)
    assert grant(sharing, ADA) == []
    assert grant(sharing, BOB), "another worker goes on"
    assert grant(sharing, BOB) == []


def test_who_comes_second_shares_a_small_slow_dataset_that_the_first_was_given_whole() -> None:
    """Its bytes are less than a shard's least, but its model takes long: it is cut, not computed twice."""
    table = LeaseTable(1, np.array([200], np.int64), units_min=1000)
    sharing = Sharing(table, "row")
    alone = sharing.grant(
        BOB, ONE, 0.0, 10.0, rates=dict, rate=None, workers=1, fleet_rate=None, interval_s=1.0
    )  # fmt: skip
    assert [type(fact) for fact in alone] == [Granted]
    say(table, BOB, position=20, rows_done=10)
    late = {"rates": lambda: {BOB: 10.0}, "rate": None, "workers": 2, "fleet_rate": 10.0, "interval_s": 1.0}
    assert sharing.grant(ADA, ONE, 1.5, 10.0, **late) == []
    (asked,) = sharing.asks_of(BOB)
    assert [type(fact) for fact in sharing.split(BOB, ONE, *asked, at=110)] == [SplitMade]
    assert [type(fact) for fact in sharing.grant(ADA, ONE, 1.6, 10.0, **late)][-1:] == [Granted]
    assert table.held_by(ADA)[0].shard != asked[0], "the rest, not the same rows once more"


def test_what_is_done_of_live_leases_is_counted_in_units() -> None:
    table, sharing = new_sharing(100)
    lease(table, BOB)
    say(table, BOB, position=60, rows_done=40)
    assert sharing.units_live(BOB) == 40
    say(table, BOB, position=60, rows_done=80)
    assert sharing.units_live(BOB) == 60, "no more than it has read"


def test_bytes_of_rows_are_known_from_commits() -> None:
    table, sharing = new_sharing(100, 200, unit="byte")
    lease(table, BOB)
    say(table, BOB, position=60, rows_done=4)
    assert sharing.units_live(BOB) == 0
    table.commit(BOB, ONE, ShardId(0), FIRST, begin=0, end=100, counts=RowCounts(10, 0, 10), files=[])
    lease(table, BOB)
    say(table, BOB, position=60, rows_done=4)
    assert sharing.units_live(BOB) == 40


def test_the_holder_of_the_latest_lease_is_asked_and_its_rest_is_granted() -> None:
    table, sharing = new_sharing(100)
    lease(table, ADA)
    say(table, ADA, position=10, rows_done=10)
    assert grant(sharing, BOB) == []
    assert (sharing.asks_of(ADA), sharing.asks_of(BOB)) == ([(0, 1)], [])
    assert sharing.split(ADA, ONE, ShardId(0), FIRST, 50) == [SplitMade(1, ShardId(0), ShardId(1), 50)]
    assert sharing.asks_of(ADA) == []
    facts = grant(sharing, BOB)
    assert isinstance(facts[-1], Granted)
    assert table.range_of(ShardId(1))[0] == 50


def test_one_lease_is_asked_for_one_worker_and_another_for_the_next() -> None:
    table, sharing = new_sharing(100, 200)
    lease(table, ADA)
    lease(table, EVE)
    for _ in range(2):
        assert grant(sharing, BOB) == []
        assert (sharing.asks_of(ADA), sharing.asks_of(EVE)) == ([(0, 1)], [])


def test_who_had_nothing_to_give_is_not_asked_again() -> None:
    table, sharing = new_sharing(100)
    lease(table, ADA)
    grant(sharing, BOB)
    assert sharing.split(ADA, ONE, ShardId(0), FIRST, 100) == []
    grant(sharing, BOB)
    assert sharing.asks_of(ADA) == []


def test_an_offer_of_anothers_lease_is_stale_and_answers_no_ask() -> None:
    table, sharing = new_sharing(100)
    lease(table, ADA)
    assert sharing.split(BOB, ONE, ShardId(0), FIRST, 50) == Stale(ShardId(0), FIRST)
    assert sharing.split(ADA, ONE, ShardId(7), FIRST, 50) == Stale(ShardId(7), FIRST)
    assert table.range_of(ShardId(0)) == (0, 100)


@pytest.mark.parametrize(
    ("helper_rate", "is_doubled"), [(10.0, True), (0.6, True), (0.4, False)], ids=["faster", "perhaps", "hopeless"]
)
def test_what_is_read_and_not_computed_is_computed_by_a_second_worker_that_may_be_first(
    helper_rate: float, is_doubled: bool
) -> None:
    table, sharing = new_sharing(100)
    lease(table, ADA)
    say(table, ADA, position=100, rows_done=0)
    facts = grant(sharing, BOB, {ADA: 1.0, BOB: helper_rate})
    assert bool(facts) == is_doubled
    assert table.live_epochs(ShardId(0)) == 1 + is_doubled


def test_who_is_through_or_may_be_asked_comes_by_soon() -> None:
    table, sharing = new_sharing(100, 200)
    assert sharing.is_late_or_idle(ADA), "it holds nothing"
    lease(table, ADA)
    assert not sharing.is_late_or_idle(ADA)
    say(table, ADA, position=100, rows_done=50)
    assert not sharing.is_late_or_idle(ADA), "what is read isn't done"
    say(table, ADA, position=100, rows_done=100)
    assert sharing.is_late_or_idle(ADA)
    lease(table, BOB)
    say(table, ADA, position=100, rows_done=50)
    assert sharing.is_late_or_idle(ADA), "nothing is pending"
