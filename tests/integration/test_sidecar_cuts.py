"""A lease is cut at the first row that isn't admitted, however much of it has been read."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.dataset import Slice
from headrace.filters import filter_to_json, parse_filter
from headrace.program import SourceProgram
from headrace.words import ExitCode
from sidecar.coordinator_client import Answer, Lease, Report
from sidecar.driver import Driver
from tests.integration.sidecar_fixture import Bench

ROWS = 100_000
"""One block: the whole lease is read before the first batch is through."""
ROW_S = 0.002
AHEAD_MAX = 5_000
"""Rows that may be admitted and not computed: some seconds' work."""
DRAIN_MAX_S = 10.0


def slow_bench(folder: Path, rows: int = ROWS, row_s: float = ROW_S) -> Bench:
    return Bench(folder, rows, "Slow", {"row_s": row_s}, shards=1, arena_bytes=256 << 20, group=rows)


def is_reading(report: Report) -> bool:
    """Something has come through, and more is to come."""
    return any(lease.rows_done for lease in report.held) and not report.commits


def run_with(bench: Bench, answer: Callable[[Driver, Report, Answer], None]) -> None:
    async def main() -> ExitCode:
        driver = bench.driver()
        bench.coordinator.answer = lambda report, to: answer(driver, report, to)
        return await bench.run(driver)

    assert asyncio.run(main()) is ExitCode.DONE


def test_a_drain_finishes_what_is_admitted_and_gives_the_rest_of_the_block_back(tmp_path: Path) -> None:
    bench = slow_bench(tmp_path)
    drained_at: list[float] = []
    done: list[int] = []

    def drain(driver: Driver, report: Report, answer: Answer) -> None:
        if is_reading(report) and not drained_at:
            drained_at.append(time.monotonic())
            done.append(report.held[0].rows_done)
            driver.drain()

    run_with(bench, drain)
    assert time.monotonic() - drained_at[0] < DRAIN_MAX_S
    (commit,) = bench.coordinator.commits.values()
    (offer,) = {at for report in bench.coordinator.reports for _, at in report.offers}
    assert offer == commit.end, "the rest was given away before the front was done"
    assert done[0] <= commit.end < done[0] + AHEAD_MAX
    assert commit.rows_read == commit.rows_out == commit.end
    assert bench.out_ids() == list(range(commit.end))
    assert bench.staged() == []


@pytest.mark.parametrize("is_agreed", [True, False])
def test_a_split_is_offered_inside_of_the_block_that_is_read(tmp_path: Path, is_agreed: bool) -> None:
    rows = 20_000
    bench = slow_bench(tmp_path, rows, ROW_S / 20)
    offers: list[int] = []
    positions: list[int] = []

    def ask(driver: Driver, report: Report, answer: Answer) -> None:
        if is_reading(report) and not positions:
            positions.append(report.held[0].position)
            answer.asks.append((0, 1))
        for key, at in report.offers:
            offers.append(at)
            answer.ends[key] = at if is_agreed else rows

    run_with(bench, ask)
    assert 0 < positions[0] < AHEAD_MAX
    assert offers
    assert abs(offers[0] - (positions[0] + rows) // 2) < AHEAD_MAX
    (commit,) = bench.coordinator.commits.values()
    end = offers[0] if is_agreed else rows
    assert (commit.end, commit.rows_read, commit.rows_out) == (end, end, end)
    assert bench.out_ids() == list(range(end))


def test_an_offer_is_not_passed_before_it_is_answered(tmp_path: Path) -> None:
    rows = 4_000
    bench = slow_bench(tmp_path, rows, ROW_S / 20)
    offers: list[int] = []
    waited: list[int] = []

    def answer_late(driver: Driver, report: Report, answer: Answer) -> None:
        if not offers and is_reading(report):
            answer.asks.append((0, 1))
        for key, at in report.offers:
            offers.append(at)
            if report.held[0].rows_done >= at:  # all that it may do is done
                waited.append(report.held[0].position)
            if len(waited) > 3:
                answer.ends[key] = rows
            else:
                del answer.ends[key]

    run_with(bench, answer_late)
    assert set(waited) == {offers[0]}
    assert bench.out_ids() == list(range(rows))


@pytest.mark.parametrize("filtered", [False, True])
def test_bad_and_filtered_rows_behind_the_cut_are_another_leases(tmp_path: Path, filtered: bool) -> None:
    """JSONL: every tenth record is bad; with the filter, every id but a multiple of three is dropped."""
    rows = 20_000
    bench = slow_bench(tmp_path, rows, ROW_S / 4)
    path = tmp_path / "data.jsonl"
    lines = ["bad" if i % 10 == 9 else json.dumps({"id": i, "drop": i % 3}) for i in range(rows)]
    begins = [0, *accumulate(len(line) + 1 for line in lines)]
    path.write_text("".join(line + "\n" for line in lines))
    schema = pa.schema([("id", pa.int64()), ("drop", pa.int64())])
    source = SourceProgram(
        "jsonl",
        ("id", "drop"),
        base64.b64encode(schema.serialize().to_pybytes()).decode(),
        units=path.stat().st_size,
        filter=filter_to_json(parse_filter("drop == 0")) if filtered else "",
    )
    bench.program = replace(bench.program, source=source)
    found = path.stat()
    part = Slice(str(path), found.st_size, str(found.st_mtime_ns), 0, found.st_size, found.st_size, 0)
    bench.coordinator.shards = [(0, found.st_size)]
    bench.coordinator.lease = lambda shard: Lease(shard, 1, 0, found.st_size, (part,))  # type: ignore[method-assign]

    def drain(driver: Driver, report: Report, answer: Answer) -> None:
        if is_reading(report):
            driver.drain()

    run_with(bench, drain)
    (commit,) = bench.coordinator.commits.values()
    assert commit.end in begins
    ours = begins.index(commit.end)
    assert 0 < ours < rows
    kept = [i for i in range(ours) if i % 10 != 9 and not (filtered and i % 3)]
    assert bench.out_ids() == kept
    bad = sum(i % 10 == 9 for i in range(ours))
    assert (commit.rows_read, commit.rows_filtered, commit.rows_out, commit.rows_rejected) == (
        ours,
        ours - len(kept) - bad,
        len(kept),
        bad,
    )
