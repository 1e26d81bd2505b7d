"""The simulation keeps every law on some seeds, finds planted defects, and tells the same story twice.

Thousands of seeds: `tox -e sim`.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import structlog

from coordinator.core.facts import TermRaised
from tests.sim.defects import DEFECTS
from tests.sim.disk import SimDisk, SimJournal
from tests.sim.run import first_broken, quiet, transcript
from tests.sim.shrink import fewest, shrink
from tests.sim.story import COORDINATOR, Fault, Kind, tell
from tests.sim.world import Outcome, World

SEEDS = 80
SEEDS_MAX = 1000
"""Within which a planted defect must be found."""


LAWS = {
    "no epoch check": {2, 10},
    "ack before fsync": {4},
    "an fsync that lies": {4},
    "split off by one": {1},
    "an expired epoch may commit": {2},
    "publish before commit": {4},
}
"""Which laws each defect breaks: it is found for what it is, not for the ruins it leaves."""

# Coroutines that a killed process never began.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def silence() -> Iterator[None]:
    """Nothing is logged while worlds run."""
    quiet()
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """How the worlds of some seeds end."""
    return [World(tell(seed)).run() for seed in range(SEEDS)]


def test_every_law_is_kept(outcomes: list[Outcome]) -> None:
    broken = {seed: outcome.broken for seed, outcome in enumerate(outcomes) if outcome.broken is not None}
    assert not broken, "\n".join(transcript(tell(seed), outcomes[seed]) for seed in broken)


def test_everything_that_can_go_wrong_does(outcomes: list[Outcome]) -> None:
    seen = frozenset[str]().union(*(outcome.seen for outcome in outcomes))
    expected = {kind.name for kind in Kind}
    expected |= {"Granted", "SplitMade", "CommitDecided", "Published", "AllPublished", "Revoked", "Quarantined"}
    expected |= {"ChargeReturned", "Checkpoint"}
    expected |= {f"Ended.{why}" for why in ("RELEASED", "EXPIRED", "SUPERSEDED", "BEATEN")}
    assert expected <= seen, expected - seen


def test_a_seed_tells_the_same_story_again(outcomes: list[Outcome]) -> None:
    for seed in (3, 7):
        assert World(tell(seed)).run().transcript == outcomes[seed].transcript


def test_a_seed_tells_the_same_story_in_another_process(outcomes: list[Outcome]) -> None:
    environ = os.environ | {"PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-m", "tests.sim.run", "--seed", "5"]
    root = Path(__file__).parents[2]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environ, cwd=root).stdout
    assert told.startswith("seed 5\n")
    assert told.splitlines()[-1] == f"digest {outcomes[5].digest}"


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str, record_property: Callable[[str, object], None]) -> None:
    found = first_broken(range(SEEDS_MAX), DEFECTS[name])
    assert found is not None, f"{name} isn't found within {SEEDS_MAX} seeds"
    story, outcome = found
    print(f"{name}: found at seed {story.seed}: {outcome.broken}")
    record_property("seed", story.seed)
    assert outcome.broken is not None
    assert outcome.broken.law in LAWS[name]


def test_a_failure_is_told_with_the_fewest_faults() -> None:
    defect = DEFECTS["an fsync that lies"]
    found = first_broken(range(SEEDS_MAX), defect)
    assert found is not None
    story, outcome = shrink(*found, defect)
    assert outcome.broken is not None
    assert len(story.faults) < len(found[0].faults)
    assert COORDINATOR in [fault.who for fault in story.faults]
    for left_out in story.faults:
        fewer = World(story.with_faults(tuple(fault for fault in story.faults if fault != left_out)), defect).run()
        assert fewer.broken is None or fewer.broken.law != outcome.broken.law
    told = transcript(story, outcome).splitlines()
    assert told[0].startswith(f"seed {story.seed}: ")
    assert "BROKEN: law 4: fact" in told[-1]


def test_the_fewest_faults_are_those_that_matter() -> None:
    faults = tuple(Fault(float(at), Kind.KILLED, COORDINATOR, 1.0) for at in range(13))
    needed = {faults[4], faults[11]}
    assert fewest(faults, lambda some: needed <= set(some)) == (faults[4], faults[11])


class Listener:
    """What a ledger's disk was heard to hold."""

    def __init__(self) -> None:
        self.found = -1

    def durable(self, facts: object) -> None:
        """Not asked for here."""

    def replayed(self, last: int) -> None:
        """Notes it."""
        self.found = last


@pytest.mark.parametrize("seed", range(30))
def test_a_torn_ledger_has_what_was_synced_and_whole_transactions_only(seed: int) -> None:
    disk, listener = SimDisk(bytearray()), Listener()
    journal = SimJournal(disk, lambda: None, listener)
    journal.append([TermRaised(1), TermRaised(2)])
    synced = disk.synced
    journal.append([TermRaised(3), TermRaised(4)])
    disk.synced = synced
    disk.tear(Random(seed))
    after = SimJournal(disk, lambda: None, listener)
    found = [fact for _, fact in after.replay()]
    assert found in ([TermRaised(n) for n in range(1, 3)], [TermRaised(n) for n in range(1, 5)])
    assert listener.found == len(found) == after.last
