"""Workers by hand against a coordinator by hand: killed, told to stop, paused, slow, left alone."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.driver import LEASE_TTL_S
from headrace import v1
from headrace.words import ExitCode
from tests.integration.by_hand_fixture import BATCH_ROWS, ROWS, WIDTH, ByHand
from tests.integration.faults_fixture import wait_for

pytestmark = pytest.mark.slow

SEEN_BY_LEASE_S = 10.0
RELEASED_S = 1.0
FIRST_LEASE_S = 2.0
DRAINED_S = 15.0
SLOW_LEASE_MAX = 20
"""Batches of a lease where each takes half a second (`hold.SHARD_S`): an idle worker does the last one again."""
AHEAD_MAX = 8
"""Batches of a slow worker that it has begun: an idle one does them too rather than wait for it."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ByHand]:
    made = ByHand(tmp_path)
    yield made
    made.end()


# ---------------------------------------------------------------------- sidecars


def test_a_killed_workers_shards_are_leased_to_another_within_ten_seconds(site: ByHand) -> None:
    site.start_coordinator()
    site.submit()
    site.hold("left")
    site.start_worker("left")
    site.wait_given("left")
    assert site.leased_by("left")
    site.start_worker("right")
    site.wait_given("right")
    site.kill_worker("left")
    seconds = site.seconds_until("others have its shards", lambda: not site.leased_by("left"))
    assert seconds < SEEN_BY_LEASE_S
    site.wait_complete()
    site.assert_once(ROWS)
    assert not list((site.out / "_headrace").glob("staging*")), "what it had staged is swept"
    assert max(shard.attempts for shard in site.shards()) <= 1


def test_a_worker_ends_what_the_stages_of_its_killed_host_have_left(site: ByHand) -> None:
    (site.folder / "leave").touch()
    site.start_coordinator()
    site.submit()
    site.hold("left")
    worker = site.start_worker("left")
    site.wait_given("left")
    assert site.processes("sleep 7777")
    os.kill(site.the_process(" host --socket"), signal.SIGKILL)
    worker.wait(DRAINED_S)
    wait_for("nothing of it is left", lambda: not site.processes("sleep 7777"))


def test_a_worker_that_is_told_to_stop_hands_back_what_it_has_not_read_at_once_and_uncharged(site: ByHand) -> None:
    site.start_coordinator()
    site.submit(workers={"max": 1})
    site.hold("left", "right")
    site.start_worker("left")
    site.wait_given("left")
    site.start_worker("right")
    wait_for("the second waits for its turn", lambda: "right" in {w.name for w in workers(site)})
    assert not site.leased_by("right")
    site.signal_worker("left", signal.SIGTERM)
    assert site.seconds_until("the other has leases", lambda: site.leased_by("right")) < RELEASED_S
    site.let_go_of("left")
    assert site.workers["left"].wait(timeout=10) == ExitCode.DONE
    site.let_go_of("right")
    site.wait_complete()
    site.assert_once(ROWS)
    assert {shard.attempts for shard in site.shards()} == {0}
    given = site.given("left") + site.given("right")
    assert set(given.values()) == {1}, "what was read was finished, and only the rest done by the other"


def workers(site: ByHand) -> list[v1.Worker]:
    return list(site.ask(lambda jobs: jobs.list_workers(v1.JobRequest("job"))).workers)


def test_a_worker_that_slept_beyond_its_lease_changes_nothing_when_it_wakes(site: ByHand) -> None:
    site.start_coordinator()
    site.submit()
    site.hold("left")
    site.start_worker("left")
    site.wait_given("left")
    site.signal_worker("left", signal.SIGSTOP)
    site.let_go_of("left")  # its predictors compute on, and their results wait for the sidecar
    site.hold("right")
    site.start_worker("right")
    wait_for("its leases have expired", lambda: not site.leased_by("left"))
    published = {path.name for path in site.data_files()}
    slept = set(site.given("left"))
    site.signal_worker("left", signal.SIGCONT)
    wait_for("it is heard again", lambda: "live" in {w.state for w in workers(site) if w.name == "left"})
    assert {path.name for path in site.data_files()} >= published
    site.let_go_of("right")
    site.wait_complete()
    site.assert_once(ROWS)
    assert site.workers["left"].wait(timeout=10) == ExitCode.DONE
    assert slept <= set(site.given("left") + site.given("right"))
    assert sum((site.given("left") + site.given("right")).values()) > ROWS, "what it had read was done once more"


def test_a_worker_that_wakes_after_the_job_is_over_ends_and_changes_nothing(site: ByHand) -> None:
    site.start_coordinator()
    site.submit()
    site.hold("left")
    site.start_worker("left")
    site.wait_given("left")
    site.signal_worker("left", signal.SIGSTOP)
    site.let_go_of("left")
    site.start_worker("right")
    site.wait_complete()
    before = {path: path.stat().st_mtime_ns for path in site.out.rglob("*")}
    site.signal_worker("left", signal.SIGCONT)
    assert site.workers["left"].wait(timeout=10) == ExitCode.DONE
    assert {path: path.stat().st_mtime_ns for path in site.out.rglob("*")} == before
    site.assert_once(ROWS)


def test_a_slow_workers_shards_are_split_behind_its_position(site: ByHand) -> None:
    rows = 4 * ROWS
    site.start_coordinator()
    site.submit(rows=rows, pauses={"slow": 0.2, "fast": 0.002})
    planned = len(site.shards())
    site.start_worker("slow")
    site.wait_given("slow")
    site.start_worker("fast")
    site.wait_complete()
    site.assert_once(rows)
    assert 0 < sum(site.given("slow").values()) < rows / 4, "rows follow the workers' speeds"
    assert len(site.shards()) > planned


def test_of_a_lease_that_is_one_block_a_slow_worker_keeps_what_it_has_begun(site: ByHand) -> None:
    rows = 120_000
    site.ids("data.parquet", 0, rows, width=WIDTH, group=rows)
    site.start_coordinator()
    site.submit(pauses={"slow": 0.5, "fast": 0.01})
    site.start_worker("slow")
    site.wait_given("slow")
    site.start_worker("fast")
    site.wait_complete()
    site.assert_once(rows)
    slow, fast = site.given("slow"), site.given("fast")
    assert 0 < sum(slow.values()) < rows / 4
    assert len(slow.keys() & fast.keys()) <= SLOW_LEASE_MAX * BATCH_ROWS


def test_a_drain_hands_back_what_is_read_and_not_begun(site: ByHand) -> None:
    rows = 100_000
    site.ids("data.parquet", 0, rows, width=WIDTH, group=rows)
    site.start_coordinator()
    site.submit(pauses={"left": 1.0}, workers={"max": 1})
    site.start_worker("left")
    site.wait_given("left")
    site.start_worker("right")
    wait_for("the second waits for its turn", lambda: "right" in {w.name for w in workers(site)})
    site.signal_worker("left", signal.SIGTERM)

    def units_left_with_it() -> int:
        return sum(shard.end - shard.begin for shard in site.leased_by("left"))

    few = AHEAD_MAX * BATCH_ROWS
    assert site.seconds_until("others can have the rest", lambda: units_left_with_it() <= few) < RELEASED_S
    assert site.workers["left"].wait(timeout=DRAINED_S) == ExitCode.DONE
    site.wait_complete()
    site.assert_once(rows)
    left, right = site.given("left"), site.given("right")
    assert 0 < sum(left.values()) <= few
    assert len(left.keys() & right.keys()) <= few, "what it had begun an idle one may do too"
    assert {shard.attempts for shard in site.shards()} == {0}


def test_what_a_slow_worker_has_read_and_not_computed_is_done_by_an_idle_one_too(site: ByHand) -> None:
    site.start_coordinator()
    site.submit()
    site.hold("slow")
    site.start_worker("slow")
    site.wait_given("slow")
    site.start_worker("fast")
    site.wait_complete()  # although the other still holds
    site.assert_once(ROWS)
    assert set(site.given("fast").values()) == {1}
    assert len(site.given("fast")) == ROWS
    assert {shard.attempts for shard in site.shards()} == {0}
    site.let_go_of("slow")
    assert site.workers["slow"].wait(timeout=20) == ExitCode.DONE
    site.assert_once(ROWS)


def test_of_two_attempts_of_one_file_one_wins_and_the_others_output_is_never_read(site: ByHand) -> None:
    tail = "," + ",".join("0.25" for _ in range(32)) + "\n"
    head = "id," + ",".join(f"f{i}" for i in range(32)) + "\n"
    site.write("in/a.csv", head + "".join(f"{i}{tail}" for i in range(20_480)))
    site.start_coordinator()
    # A line break may be in a field, so the file is one shard.
    site.submit(source={"format": "csv", "uri": "in/*.csv"}, pauses={"slow": 0.8}, workers={"arena": "4Mi"})
    site.start_worker("slow")
    site.wait_given("slow")
    site.start_worker("fast")
    site.wait_complete()
    site.assert_once(20_480)
    assert [shard.worker for shard in site.shards()] == ["fast"]
    assert site.workers["slow"].wait(timeout=20) == ExitCode.DONE
    site.assert_once(20_480)


# ---------------------------------------------------------------------- the coordinator


def test_workers_compute_on_while_the_coordinator_is_away_and_lease_soon_after_it_is_back(site: ByHand) -> None:
    site.start_coordinator()
    site.submit(pauses={"only": 0.05})
    site.start_worker("only")
    site.wait_published()
    committed = site.ids_in(site.data_files())
    site.kill_coordinator()
    before = sum(site.given("only").values())
    wait_for("it computes on", lambda: sum(site.given("only").values()) > before + 4096)
    site.start_coordinator()
    assert site.seconds_until("it holds leases again", lambda: site.leased_by("only")) < FIRST_LEASE_S
    site.wait_complete()
    site.assert_once(ROWS)
    assert set(site.given("only").values()) == {1}, "nothing was computed twice"
    assert committed


def test_a_coordinator_that_is_away_for_good_leaves_no_worker_waiting(site: ByHand) -> None:
    site.start_coordinator()
    site.submit(retries={"coordinatorTimeout": "2s"}, pauses={"only": 0.02})
    worker = site.start_worker("only")
    site.wait_given("only")
    site.kill_coordinator()
    assert worker.wait(timeout=15) == ExitCode.TEMPORARY
    site.wait_no_process(5.0)
    site.start_coordinator()  # it does come back, and so does a worker
    site.start_worker("another")
    site.wait_complete()
    site.assert_once(ROWS)


def test_a_ledger_that_cannot_be_written_ends_the_coordinator_and_costs_nothing(site: ByHand) -> None:
    import resource

    site.start_coordinator()
    site.submit(pauses={"only": 0.05})
    site.start_worker("only")
    site.wait_published()
    committed = site.ids_in(site.data_files())
    resource.prlimit(site.coordinator.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # a full disk
    assert site.coordinator.wait(timeout=20) == ExitCode.TEMPORARY
    site.start_coordinator()
    site.wait_complete()
    site.assert_once(ROWS)
    given = site.given("only")
    assert {given[i] for i in committed} == {1}


def test_leases_last_less_than_what_was_promised_for_them() -> None:
    assert LEASE_TTL_S + 1.0 < SEEN_BY_LEASE_S


def test_a_state_folder_that_cannot_be_written_is_said(site: ByHand) -> None:
    site.ledger = Path("/proc/self/ledger")  # a file system that nobody can write, not even root
    with pytest.raises(AssertionError, match="can't be made"):
        site.start_coordinator()
    assert site.coordinator.wait(timeout=10) == ExitCode.BAD_CONFIG
    assert os.path.isdir(site.folder)
