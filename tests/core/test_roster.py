"""Of the incarnations of a worker the last counts, also for a coordinator that saw none of the others."""

from coordinator.core.facts import WorkerSeated
from coordinator.core.ledger import Ledger
from coordinator.core.roster import Roster
from headrace.words import Incarnation, WorkerName

ADA, BOB = WorkerName("ada"), WorkerName("bob")
ONE, TWO, THREE = Incarnation("one"), Incarnation("two"), Incarnation("three")


def test_a_new_incarnation_takes_the_seat_and_the_one_before_is_over() -> None:
    roster = Roster()
    assert roster.seat(ADA, ONE) == [WorkerSeated(ADA, ONE)]
    assert roster.seat(ADA, ONE) == []
    assert not roster.has_successor(ADA, ONE)
    assert roster.seat(ADA, TWO) == [WorkerSeated(ADA, TWO)]
    assert roster.has_successor(ADA, ONE)
    assert not roster.has_successor(ADA, TWO)


def test_an_unknown_incarnation_has_no_successor() -> None:
    roster = Roster()
    roster.seat(ADA, ONE)
    assert not roster.has_successor(ADA, TWO)
    assert not roster.has_successor(BOB, ONE)


def test_after_a_restart_the_newer_wins_whoever_comes_first() -> None:
    ledger = Ledger()
    for incarnation in (ONE, TWO):
        ledger.apply(WorkerSeated(ADA, incarnation))
    assert ledger.roster.has_successor(ADA, ONE)
    assert ledger.roster.seat(ADA, TWO) == []
    assert ledger.roster.seat(ADA, THREE) == [WorkerSeated(ADA, THREE)]
    assert ledger.roster.has_successor(ADA, TWO)
