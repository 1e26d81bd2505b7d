"""The sidecar's driver: its loop under load, a small arena, what a coordinator may say, and how it ends."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from headrace.words import ExitCode
from sidecar.coordinator_client import Abandoned, Answer, Report
from sidecar.predictors import LAUNCHER
from tests.integration.loop_fixture import PERIOD_S, Stalls
from tests.integration.sidecar_fixture import Bench

STALL_MAX_S = 0.05


# ---------------------------------------------------------------------- under load


@pytest.mark.slow
def test_the_loop_never_stalls_under_load_and_the_arena_holds_all_bytes_in_flight(tmp_path: Path) -> None:
    rows = 400_000
    bench = Bench(tmp_path, rows, "Row", width=32, shards=8, outputs=("y", "sum"), arena_bytes=8 << 20, batch_rows=4096)
    used: list[int] = []

    async def main() -> Stalls:
        driver, stalls = bench.driver(), Stalls()
        bench.coordinator.answer = lambda report, answer: used.append(driver._flow.arena_used)
        watching = asyncio.create_task(stalls.watch())
        assert await bench.run(driver) is ExitCode.DONE
        watching.cancel()
        assert driver._flow.arena_used == 0
        return stalls

    stalls = asyncio.run(main())
    assert bench.out_ids() == list(range(rows))
    assert 0 < max(used) <= bench.arena_bytes
    assert stalls.longest_s <= STALL_MAX_S


def _compute() -> None:
    until = time.thread_time() + 4 * STALL_MAX_S
    while time.thread_time() < until:
        pass


def _block() -> None:
    time.sleep(4 * STALL_MAX_S)


@pytest.mark.parametrize("stall", [_compute, _block])
def test_a_stall_of_the_loop_s_own_is_seen(stall: Callable[[], None]) -> None:
    async def main() -> float:
        stalls = Stalls()
        watching = asyncio.create_task(stalls.watch())
        await asyncio.sleep(0)
        stall()
        await asyncio.sleep(2 * PERIOD_S)
        watching.cancel()
        return stalls.longest_s

    assert asyncio.run(main()) > STALL_MAX_S


# ---------------------------------------------------------------------- a small arena


def test_results_that_outgrow_the_arena_come_in_smaller_batches_and_keep_their_order(tmp_path: Path) -> None:
    large = 100_000
    config = {"large": large, "many": list(range(0, 2000, 7)), "huge": [500, 1501]}
    bench = Bench(tmp_path, 2000, "Bulky", config, outputs=("y", "text"), arena_bytes=1 << 20)
    assert asyncio.run(bench.run_new()) is ExitCode.DONE
    assert bench.rejected() == {500: "TooLarge", 1501: "TooLarge"}
    assert bench.out_ids() == [i for i in range(2000) if i not in (500, 1501)]
    for file in bench.out.glob("part-*"):
        ids = pq.read_table(file)["id"].to_pylist()
        assert ids == sorted(ids)
    assert bench.staged() == []


# ---------------------------------------------------------------------- what is wrong with a job


def test_lists_of_nothing_before_numbers_contradict_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 512, "Late", shards=1)
    assert asyncio.run(bench.run_new(is_cut_short=True)) is ExitCode.BAD_JOB
    last = bench.coordinator.reports[-1]
    assert last.fatal_reason == "SchemaMismatch"
    assert last.fatal_message.startswith(
        "Output column 'y' comes as double; it was list<item: null> in the rows before."
    )
    assert bench.staged() == []


# ---------------------------------------------------------------------- what is measured


def test_a_row_is_counted_as_tried_again_for_each_death_but_the_last_which_rejects_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1, "Fatal", {"fatal": 0}, shards=1)
    assert asyncio.run(bench.run_new()) is ExitCode.DONE
    assert bench.rejected() == {0: "PredictorDied"}
    (measures,) = bench.coordinator.reports[-1].measures
    assert measures.rows_tried_again == {"exception": 0, "crash": 1, "hang": 0}


# ---------------------------------------------------------------------- what a coordinator may say


def test_files_whose_commit_may_be_in_the_ledger_outlive_the_order_to_stop(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2000, "Twice", shards=1)

    def stop_without_a_verdict(report: Report, answer: Answer) -> None:
        if answer.commits:
            answer.commits.clear()
            answer.directive = "stop"

    bench.coordinator.answer = stop_without_a_verdict
    assert asyncio.run(bench.run_new()) is ExitCode.DONE
    (commit,) = bench.coordinator.commits.values()
    assert bench.staged() == [file.name for file in commit.files]
    assert bench.out_ids() == []


def test_commits_that_a_restarted_coordinator_did_not_hear_are_said_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2000, "Twice")
    coordinator = bench.coordinator

    def forget_the_first_term(report: Report, answer: Answer) -> None:
        if coordinator.term == 1 and report.commits:
            coordinator.term = 2
            coordinator.granted -= len(answer.leases)
            answer.directive = "register"
            for said in (answer.leases, answer.commits, answer.published):
                said.clear()

    coordinator.answer = forget_the_first_term
    assert asyncio.run(bench.run_new()) is ExitCode.DONE
    assert bench.out_ids() == list(range(2000))
    assert len(coordinator.registered) == 1
    assert len(coordinator.commits) == 4


def test_nothing_is_published_while_the_lease_is_not_trusted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 500, "Twice", shards=1)
    coordinator = bench.coordinator
    seen: list[list[int]] = []

    def renewing() -> bool:
        accepted = sum(bool(report.commits) for report in coordinator.reports)
        if accepted == 3:
            seen.append(bench.out_ids())
        return accepted >= 3

    coordinator.is_renewing = renewing
    assert asyncio.run(bench.run_new()) is ExitCode.DONE
    assert seen[0] == [], "two accepted commits were not published"
    assert bench.out_ids() == list(range(500))


def test_a_stale_lease_is_dropped_with_its_files_and_the_others_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 4000, "Gate", {"folder": str(tmp_path), "hold": 1000}, shards=4)
    coordinator = bench.coordinator

    def take_the_second_away(report: Report, answer: Answer) -> None:
        if (tmp_path / "held").exists() and any(lease.shard == 1 for lease in report.held):
            answer.stale.append((1, 1))
            coordinator.published.add((1, 1))
            (tmp_path / "go").touch()

    coordinator.answer = take_the_second_away
    assert asyncio.run(bench.run_new()) is ExitCode.DONE
    assert bench.out_ids() == [i for i in range(4000) if not 1000 <= i < 2000]
    assert (1, 1) not in coordinator.commits
    assert bench.staged() == []


def test_a_drain_keeps_what_was_read_although_a_split_is_offered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 200_000, "Gate", {"folder": str(tmp_path), "hold": 5000}, shards=1)
    coordinator = bench.coordinator

    async def main() -> ExitCode:
        driver = bench.driver()
        is_asked = False

        def ask_then_drain(report: Report, answer: Answer) -> None:
            nonlocal is_asked
            if report.offers:
                driver.drain()
                ((key, _),) = report.offers
                answer.ends[key] = 200_000  # the split is refused: the rest is still the worker's
                (tmp_path / "go").touch()
            elif (tmp_path / "held").exists() and not is_asked:
                is_asked = True
                answer.asks.append((0, 1))

        coordinator.answer = ask_then_drain
        return await bench.run(driver)

    assert asyncio.run(main()) is ExitCode.DONE
    (commit,) = coordinator.commits.values()
    assert 5000 < commit.end < 200_000, "the front, no further than it had been read"
    assert bench.out_ids() == list(range(commit.end))
    # Until it commits, the worker holds what was agreed: a smaller claim would be fenced off.
    assert {lease.end for report in coordinator.reports for lease in report.held} == {200_000}


# ---------------------------------------------------------------------- ends


@pytest.mark.parametrize("stop", [True, False])
def test_a_worker_ends_as_it_should_with_feeds_waiting_and_a_predictor_busy(tmp_path: Path, stop: bool) -> None:
    config = {"folder": str(tmp_path), "hold": 0}
    bench = Bench(tmp_path, 100_000, "Gate", config, width=64, arena_bytes=1 << 20)

    def end_it(report: Report, answer: Answer) -> None:
        if (tmp_path / "held").exists():
            if not stop:
                raise Abandoned("away for too long")
            answer.directive = "stop"

    bench.coordinator.answer = end_it
    code = asyncio.run(bench.run_new(is_cut_short=True))
    assert code is (ExitCode.DONE if stop else ExitCode.TEMPORARY)
    assert bench.out_ids() == []
    assert bench.staged() == []


def test_a_worker_whose_predictor_host_dies_ends_as_failed_and_leaves_nothing(tmp_path: Path) -> None:
    config = {"folder": str(tmp_path), "hold": 0}
    bench = Bench(tmp_path, 100_000, "Gate", config, width=64, arena_bytes=1 << 20)

    killed: list[int] = []

    def kill_the_host(report: Report, answer: Answer) -> None:
        if not killed and (tmp_path / "held").exists():
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):  # another child that has just ended
                    if str(LAUNCHER) in child.cmdline():
                        child.kill()
                        killed.append(child.pid)

    bench.coordinator.answer = kill_the_host
    assert asyncio.run(bench.run_new(is_cut_short=True)) is ExitCode.FAILED
    assert len(killed) == 1
    assert bench.staged() == []


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_worker_that_an_error_ends_shows_it_alone_and_leaves_nothing(tmp_path: Path, is_cancelled: bool) -> None:
    config = {"folder": str(tmp_path), "hold": 5000}
    bench = Bench(tmp_path, 100_000, "Gate", config, shards=1)
    staged: list[str] = []

    async def main() -> None:
        running = asyncio.ensure_future(bench.run_new(is_cut_short=True))

        def end_it(report: Report, answer: Answer) -> None:
            if (tmp_path / "held").exists() and bench.staged():
                staged.extend(bench.staged())
                if not is_cancelled:
                    raise ZeroDivisionError("a fault of ours")
                running.cancel()

        bench.coordinator.answer = end_it
        await running

    with pytest.raises(asyncio.CancelledError if is_cancelled else ExceptionGroup) as raised:
        asyncio.run(main())
    if not is_cancelled:
        assert isinstance(raised.value, ExceptionGroup)
        assert [str(error) for error in raised.value.exceptions] == ["a fault of ours"]
    assert len(staged) == 1
    assert bench.staged() == []
