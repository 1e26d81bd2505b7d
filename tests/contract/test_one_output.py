"""One output has one schema and one writer: over workers, restarts, appends and jobs that are started anew."""

import json
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from coordinator.manifest import read_header
from coordinator.output import SUCCESS
from coordinator.submission import CheckedJob, PlannedJob, Submission, plan_job
from coordinator.verify import verify
from headrace import v1
from tests.contract.coordinator_fixture import (
    SCHEMA,
    Coordinator,
    FakeWorker,
    condition,
    coordinator,
    one_lease,
    run,
    submit,
)

FLOATS = '[["n","double"]]'
OF_STAGE = {"columns": {"n": "double.y"}}  # a type that planning doesn't know


async def shared(c: Coordinator) -> tuple[FakeWorker, v1.Grant, FakeWorker, v1.Grant]:
    """Two workers with a half each."""
    first, second = FakeWorker(c.workers), FakeWorker(c.workers, "w2")
    front = await one_lease(c, first)
    await first.split(front, 100)
    return first, front, second, await one_lease(c, second)


async def complete(c: Coordinator, name: str = "numbers", **fields: Any) -> None:
    """A worker of its own does all that there is."""
    worker = FakeWorker(c.workers, **fields)
    await worker.register()
    await worker.work(lambda answer: answer.directive == "stop")
    await c.wait_phase(name, "Succeeded")


async def job(c: Coordinator) -> v1.Job:
    return await c.jobs.get(v1.JobRequest("numbers"))


def faults(refused: pytest.ExceptionInfo[GRPCError]) -> list[list[str]]:
    found: list[list[str]] = json.loads(refused.value.message or "")["faults"]
    return found


# ---------------------------------------------------------------------- one schema


def test_a_commit_of_another_workers_schema_fails_the_job_and_counts_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            first, front, second, rest = await shared(c)
            await first.deliver(front)
            second.schema = FLOATS
            answer = await second.exchange(commits=[second.stage(rest)])
            assert [(v.outcome, answer.directive) for v in answer.commits] == [("REFUSED", "stop")]
            failed = await job(c)
            assert (failed.phase, failed.rows_out) == ("Failed", front.end - front.begin)
            told = condition(failed, "Failed")
            assert told.reason == "SchemaMismatch"
            assert "column 'n' is double instead of int64" in told.message
            assert "cast" in told.message.lower()

    run(test)


@pytest.mark.parametrize("is_checkpoint", [False, True])
def test_a_continued_job_keeps_to_its_schema(tmp_path: Path, is_checkpoint: bool) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            first, front, *_ = await shared(c)
            await first.deliver(front)
            if is_checkpoint:
                await c.driver.checkpoint()
        async with coordinator(tmp_path / "state") as c:
            later = FakeWorker(c.workers, "w2", schema=FLOATS)
            (verdict,) = (await later.exchange(commits=[later.stage(await one_lease(c, later))])).commits
            assert verdict.outcome == "REFUSED"
            assert condition(await job(c), "Failed").reason == "SchemaMismatch"
            await submit(c, tmp_path)
            await complete(c, name="numbers")
            report = verify(tmp_path / "out")
            assert report.is_proven
            header = read_header(tmp_path / "out" / "_headrace" / report.manifests[0])
            assert header.columns == (("n", "int64"),)

    run(test)


@pytest.mark.parametrize("schema", ["", "n: int64", '{"n": 1}'])
def test_data_files_without_a_schema_are_refused(tmp_path: Path, schema: str) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers, schema=schema)
            (verdict,) = (await worker.exchange(commits=[worker.stage(await one_lease(c, worker))])).commits
            assert (verdict.outcome, "schema" in verdict.reason) == ("REFUSED", True)
            assert (await job(c)).rows_out == 0

    run(test)


# ---------------------------------------------------------------------- append


def test_a_commit_that_does_not_fit_what_is_appended_to_fails_the_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            sink = {"format": "jsonl", "uri": str(tmp_path / "out"), **OF_STAGE}
            await submit(c, tmp_path, sink=sink)
            await complete(c)
            await submit(c, tmp_path, name="more", sink={**sink, "mode": "append"})
            worker = FakeWorker(c.workers, schema=FLOATS)
            (verdict,) = (await worker.exchange(commits=[worker.stage(await one_lease(c, worker))])).commits
            assert verdict.outcome == "REFUSED"
            told = condition(await c.jobs.get(v1.JobRequest("more")), "Failed")
            assert told.reason == "SchemaMismatch"
            assert "adds to" in told.message
            assert verify(tmp_path / "out").findings[0].kind == "Unfinished"
            await submit(c, tmp_path, name="more", sink={**sink, "mode": "append"})
            await complete(c, "more")
            report = verify(tmp_path / "out")
            assert (report.is_proven, len(report.manifests)) == (True, 2)

    run(test)


@pytest.mark.parametrize(
    ("sink", "field", "told"),
    [
        ({"columns": {"m": "source.n"}}, "spec.sink.columns.m", "no such column"),
        ({"columns": {"m": "source.n"}}, "spec.sink.columns", "'n' (int64)"),
        ({"columns": {"n": "source.n"}}, "spec.sink.columns.n", "double here, int64 in"),
        ({"format": "csv"}, "spec.sink.format", "csv"),
    ],
)
def test_what_planning_knows_not_to_fit_is_refused_before_anything_runs(
    tmp_path: Path, sink: dict[str, Any], field: str, told: str
) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            await complete(c)
            (tmp_path / "in.csv").write_text("n\n1.5\n" if told.startswith("double") else "n\n1\n")
            place = {"format": "jsonl", "uri": str(tmp_path / "out"), "columns": {"n": "source.n"}, "mode": "append"}
            with pytest.raises(GRPCError) as refused:
                await submit(c, tmp_path, name="more", sink={**place, **sink})
            assert refused.value.status is Status.INVALID_ARGUMENT
            assert any(found == field and told in why for found, why, _ in faults(refused))
            assert verify(tmp_path / "out").is_proven

    run(test)


def test_an_append_of_the_same_columns_adds_to_the_output(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            await complete(c)
            await submit(c, tmp_path, name="more", mode="append")
            await complete(c, "more")
            assert verify(tmp_path / "out").is_proven

    run(test)


# ---------------------------------------------------------------------- one incarnation


@pytest.mark.parametrize("is_zombie_first", [False, True])
def test_after_a_restart_a_superseded_sidecar_stays_out(tmp_path: Path, is_zombie_first: bool) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            zombie, successor = FakeWorker(c.workers), FakeWorker(c.workers)
            await zombie.register()
            commit = zombie.stage(await one_lease(c, zombie))
            await successor.register()
            await c.driver.checkpoint()
        async with coordinator(tmp_path / "state") as c:
            zombie.stub = successor.stub = c.workers
            if not is_zombie_first:
                await one_lease(c, successor)
            with pytest.raises(GRPCError) as refused:
                await zombie.register()
            assert refused.value.status is Status.FAILED_PRECONDITION
            assert (await zombie.exchange(commits=[commit])).directive == "stop"
            await complete(c, incarnation=successor.incarnation, held=dict(successor.held))
            assert verify(tmp_path / "out").is_proven

    run(test)


# ---------------------------------------------------------------------- --again


def test_a_bad_job_started_anew_costs_an_unfinished_one_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            before = await submit(c, tmp_path)
            first, front, *_ = await shared(c)
            await first.deliver(front)
            await c.jobs.cancel(v1.JobRequest("numbers"))
            bad = {"format": "jsonl", "uri": str(tmp_path / "out"), "columns": {"n": "source.nope"}}
            with pytest.raises(GRPCError, match="nope"):
                await submit(c, tmp_path, again=True, sink=bad)
            found = await job(c)
            assert (found.uid, found.rows_out) == (before.uid, front.end - front.begin)
            await submit(c, tmp_path)
            await complete(c)

    run(test)


def test_an_unfinished_job_is_planned_anew_once_and_its_output_looked_at_when_it_is_cleared(tmp_path: Path) -> None:
    plans: list[tuple[CheckedJob | None, PlannedJob]] = []

    def noted(submission: Submission, *, checked: CheckedJob | None, **fields: Any) -> PlannedJob:
        plans.append((checked, plan_job(submission, checked=checked, **fields)))
        return plans[-1][1]

    async def test() -> None:
        async with coordinator(tmp_path / "state", noted) as c:
            first = await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            await worker.split(grant, 100)
            await worker.deliver(grant)
            assert len(c.driver.counters.words(first.uid)) == 1
            await submit(c, tmp_path, again=True)
            assert c.driver.counters.words(first.uid) == []
            (nothing, _), (checked, planned) = plans
            assert nothing is None
            assert checked is not None
            assert planned.dataset is checked.dataset
            assert len(planned.ends) == 1
            (tmp_path / "out/theirs.parquet").touch()
            with pytest.raises(GRPCError, match="it has theirs"):
                await submit(c, tmp_path, again=True)

    run(test)


def test_a_complete_output_stays_complete_until_the_job_that_replaces_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        success = tmp_path / "out" / SUCCESS
        async with coordinator(tmp_path / "state") as c:
            first = await submit(c, tmp_path)
            await complete(c)
            for _ in range(2):  # anew after a complete job, and after one that was stopped half way
                await submit(c, tmp_path, again=True, mode="replace")
                worker = FakeWorker(c.workers)
                grant = await one_lease(c, worker)
                await worker.split(grant, 100)
                await worker.exchange(commits=[worker.stage(grant)])
                await c.jobs.cancel(v1.JobRequest("numbers"))
                assert json.loads(success.read_text())["uid"] == first.uid
            last = await submit(c, tmp_path, mode="replace")
            await complete(c)
            assert json.loads(success.read_text())["uid"] == last.uid != first.uid
            assert verify(tmp_path / "out").is_proven

    run(test)


def test_started_anew_a_complete_job_of_mode_fail_is_told_the_way_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            await complete(c, schema=SCHEMA)
            with pytest.raises(GRPCError) as refused:
                await submit(c, tmp_path, again=True)
            ((field, found, expected),) = faults(refused)
            assert field == "spec.sink.uri"
            assert "isn't empty" in found
            assert "'numbers', which is complete" in found
            assert "mode: replace" in expected
            with pytest.raises(GRPCError, match=r"--again and sink\.mode: replace"):
                await submit(c, tmp_path, digest="d2")
            assert verify(tmp_path / "out").is_proven

    run(test)
