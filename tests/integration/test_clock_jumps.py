"""Clocks that jump under real processes: no lease, no commit, no name and no order hangs on the time of day.

A monotonic clock never jumps; on a machine that was suspended it has stood still. Its leases have expired meanwhile,
and it can't know.
"""

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from coordinator.cli.chaos_victims import below
from headrace import v1
from tests.integration.by_hand_fixture import ROWS, ByHand
from tests.integration.clock_fixture import Clock
from tests.integration.faults_fixture import wait_for

pytestmark = pytest.mark.slow

HOUR_S = 3600.0
AWAY = "coordinator away"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ByHand]:
    made = ByHand(tmp_path)
    yield made
    made.end()


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.mark.parametrize("hours", [5, -5])
@pytest.mark.parametrize("who", ["worker", "coordinator"])
def test_a_time_of_day_that_jumps_by_hours_changes_nothing(
    site: ByHand, clock: Clock, monkeypatch: pytest.MonkeyPatch, who: str, hours: int
) -> None:
    with monkeypatch.context() as patch:
        if who == "coordinator":
            clock.put_on(patch)
        site.start_coordinator()
    site.submit()
    site.hold("only")
    with monkeypatch.context() as patch:
        if who == "worker":
            clock.put_on(patch)
        site.start_worker("only")
    site.wait_given("only")
    assert clock.is_on(site.workers["only"].pid if who == "worker" else site.coordinator.pid)
    before = site.leased_by("only")
    if who == "worker":  # it jumps while nobody renews anything, for longer than the job lets a coordinator be away
        site.kill_coordinator()
        clock.move(wall_s=hours * HOUR_S)
        tries = site.log("only").count(AWAY)
        worker = site.workers["only"]
        wait_for("it asks in vain", lambda: site.log("only").count(AWAY) >= tries + 2 or worker.poll() is not None)
        assert worker.poll() is None
        site.start_coordinator()
    else:
        clock.move(wall_s=hours * HOUR_S)
    wait_exchanges(site, 2)
    assert [(x.shard, x.epoch) for x in site.leased_by("only")] == [(x.shard, x.epoch) for x in before]
    site.let_go_of("only")
    site.wait_published()
    clock.move(wall_s=-hours * HOUR_S)
    job = site.wait_complete()
    site.assert_once(ROWS)
    assert set(site.given("only").values()) == {1}, "no lease was lost"
    assert {shard.attempts for shard in site.shards()} == {0}
    assert 0 < job.elapsed_s < HOUR_S


def wait_exchanges(site: ByHand, count: int) -> None:
    """Waits until the only worker has come to the coordinator so often."""
    agos = [0.0]

    def came() -> bool:
        workers = site.ask(lambda jobs: jobs.list_workers(v1.JobRequest("job"))).workers
        agos.extend(worker.seen_ago_s for worker in workers)
        return sum(later < earlier for earlier, later in pairwise(agos)) >= count

    wait_for(f"{count} exchanges", came)


def test_a_machine_that_was_suspended_trusts_leases_that_are_gone_and_changes_nothing(
    site: ByHand, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.start_coordinator()
    site.submit()
    site.hold("left", "right")
    with monkeypatch.context() as patch:
        clock.put_on(patch)
        left = site.start_worker("left")
    site.wait_given("left")
    assert clock.is_on(left.pid)
    machine = [left.pid, *below(left.pid)]
    assert len(machine) >= 3
    for pid in machine:
        os.kill(pid, signal.SIGSTOP)
    slept = set(site.given("left"))
    site.start_worker("right")
    seconds = site.seconds_until("its leases have expired", lambda: not site.leased_by("left"))
    site.wait_given("right")
    clock.move(wall_s=seconds, monotonic_s=-seconds)
    site.let_go_of("left")
    for pid in machine:
        os.kill(pid, signal.SIGCONT)
    wait_for("it computes on", lambda: set(site.given("left")) > slept or left.poll() is not None)
    site.let_go_of("right")
    site.wait_complete()
    site.assert_once(ROWS)
    assert left.wait(timeout=10) == 0
