"""The worker service over real gRPC: leases, splits, commits, publishes and restarts as the proto promises them."""

import asyncio
import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from coordinator.submission import PlannedJob, plan_job
from coordinator.verify import verify
from headrace import v1
from headrace.errors import SinkError
from headrace.program import program_from_json
from tests.contract.coordinator_fixture import (
    Coordinator,
    FakeWorker,
    condition,
    coordinator,
    holding,
    one_lease,
    run,
    submit,
)

# ---------------------------------------------------------------------- leases


def test_an_expired_lease_is_stale_and_its_commit_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            commit = worker.stage(await one_lease(c, worker))
            c.pass_time(11)
            answer = await worker.exchange(commits=[commit])
            assert [v.outcome for v in answer.commits] == ["STALE"]
            job = await c.jobs.get(v1.JobRequest("numbers"))
            assert (job.rows_read, job.shards_pending, job.shards_committed) == (0, 1, 0)
            (grant,) = (await worker.exchange(want=1)).grants
            assert grant.epoch == commit.epoch + 1

    run(test)


def test_nobody_is_expired_because_the_coordinator_slept(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await one_lease(c, worker)
            c.clock.ahead_s += 600
            c.driver.tick()
            assert (await worker.exchange()).stale == []

    run(test)


def test_the_same_sequence_gets_the_same_grants(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await worker.register()
            first = await worker.exchange(want=1)
            worker.held.clear()
            second = await worker.exchange(repeat=True, want=1)
            assert second.grants == first.grants

    run(test)


def test_a_worker_whose_answers_are_lost_keeps_its_leases_by_asking_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await one_lease(c, worker)
            await worker.exchange()
            for _ in range(3):
                c.pass_time(c.driver.lease_ttl_s * 0.8)
                await worker.exchange(repeat=True)
            answer = await worker.exchange()
            assert (answer.stale, answer.directive) == ([], "")
            c.pass_time(c.driver.lease_ttl_s + 1)
            assert (await worker.exchange()).stale, "a worker that is silent loses them"

    run(test)


def test_a_lease_that_its_worker_does_not_name_is_granted_again_uncharged(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            lost = await one_lease(c, worker)
            worker.held.clear()
            (grant,) = (await worker.exchange(want=1)).grants
            assert (grant.shard, grant.epoch) == (lost.shard, lost.epoch + 1)
            (shard,) = (await c.jobs.list_shards(v1.ShardsRequest("numbers"))).shards
            assert (shard.state, shard.attempts) == ("leased", 0)

    run(test)


def test_a_new_incarnation_ends_the_leases_of_the_one_before(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            old = FakeWorker(c.workers)
            commit = old.stage(await one_lease(c, old))
            new = FakeWorker(c.workers)
            (grant,) = [await one_lease(c, new)]
            assert grant.epoch == commit.epoch + 1
            assert (await old.exchange(commits=[commit])).directive == "stop"
            with pytest.raises(GRPCError) as refused:
                await old.register()
            assert refused.value.status is Status.FAILED_PRECONDITION
            assert (await c.jobs.get(v1.JobRequest("numbers"))).rows_read == 0

    run(test)


def test_a_commit_may_not_name_files_of_another_lease(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            lease = await one_lease(c, worker)
            commit = worker.stage(lease)
            held = [v1.Held(lease.shard, lease.epoch, lease.begin, lease.end, lease.begin)]
            for name in ("../part-00000000-aaaaaaaa-1-bbbbbbbb.jsonl", "part-00000007-aaaaaaaa-1-bbbbbbbb.jsonl"):
                wrong = v1.Commit.from_dict(commit.to_dict())
                wrong.files[0].name = name
                (verdict,) = (await worker.exchange(held=held, commits=[wrong])).commits
                assert verdict.outcome == "REFUSED"
            assert (await c.jobs.get(v1.JobRequest("numbers"))).rows_read == 0

    run(test)


def test_an_offered_split_is_answered_and_the_rest_granted_to_another(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            first, second = FakeWorker(c.workers), FakeWorker(c.workers, "w2")
            grant = await one_lease(c, first)
            end, at = grant.end, grant.end - 10
            await first.split(grant, at)
            rest = await one_lease(c, second)
            assert (rest.begin, rest.end) == (at, end)
            await first.deliver(grant)
            await second.deliver(rest)
            await c.wait_phase("numbers", "Succeeded")
            assert verify(tmp_path / "out").is_proven

    run(test)


def test_an_idle_worker_makes_the_coordinator_ask_for_a_split(tmp_path: Path) -> None:
    def small_parts(*args: Any, **kwargs: Any) -> PlannedJob:
        plan = plan_job(*args, **kwargs)
        return replace(plan, planned=replace(plan.planned, units_min=1))

    async def test() -> None:
        async with coordinator(tmp_path / "state", small_parts) as c:
            await submit(c, tmp_path)
            busy, idle = FakeWorker(c.workers), FakeWorker(c.workers, "w2")
            await busy.register()
            await idle.register()
            while (await c.jobs.get(v1.JobRequest("numbers"))).shards_pending:
                if not (await busy.exchange(want=1)).grants:
                    smallest = busy.held[max(busy.held)]
                    await busy.exchange(commits=[busy.stage(smallest)])
                    c.pass_time(1)
            for _ in range(20):  # it gets stuck
                c.pass_time(5)
                await busy.exchange()
                await idle.exchange()
            assert (await idle.exchange(want=1)).grants == []
            (ask,) = (await busy.exchange()).asks
            lease = busy.held[ask.shard, ask.epoch]
            end, at = lease.end, (lease.begin + lease.end) // 2
            await busy.split(lease, at)
            (rest,) = (await idle.exchange(want=1)).grants
            assert rest.begin == at
            assert rest.end <= end

    run(test)


# ---------------------------------------------------------------------- publishing, restart


def test_a_lost_workers_commit_is_published_by_the_coordinator(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            commit = worker.stage(await one_lease(c, worker))
            await worker.exchange(commits=[commit])
            c.pass_time(11)
            await c.wait_phase("numbers", "Succeeded")
            assert verify(tmp_path / "out").is_proven
            with contextlib.suppress(SinkError):
                worker.publish(commit)  # it wakes up late
            assert verify(tmp_path / "out").is_proven

    run(test)


def test_a_commit_whose_staging_is_gone_is_revoked_and_granted_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            commit = worker.stage(await one_lease(c, worker))
            await worker.exchange(commits=[commit])
            shutil.rmtree(worker.welcome.staging)
            Path(worker.welcome.staging).mkdir()
            c.pass_time(11)
            await asyncio.wait_for(_until_pending(c), 10)
            other = FakeWorker(c.workers, "w2")
            grant = await one_lease(c, other)
            assert grant.epoch == commit.epoch + 1
            late = await worker.exchange(published=[v1.Held(commit.shard, commit.epoch)])
            assert [v.outcome for v in late.published] == ["STALE"]
            await other.work(lambda answer: answer.directive == "stop")
            assert verify(tmp_path / "out").is_proven

    run(test)


async def _until_pending(c: Coordinator) -> None:
    while not (await c.jobs.get(v1.JobRequest("numbers"))).shards_pending:
        await asyncio.wait([c.desk.next_change("numbers")])


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_held_output_appears_only_at_the_end(tmp_path: Path, mode: str) -> None:
    async def test() -> None:
        output = tmp_path / "out"
        output.mkdir()
        (output / "old.jsonl").write_text('{"n":-1}\n')
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path, mode=mode)
            worker = FakeWorker(c.workers)
            commit = worker.stage(await one_lease(c, worker))
            answer = await worker.exchange(commits=[commit])
            assert (answer.commits[0].outcome, answer.commits[0].reason) == ("ACCEPTED", "held")
            await c.wait_phase("numbers", "Succeeded")
            assert (output / "old.jsonl").exists() == (mode == "append")
            assert len(list(output.glob("part-*"))) == 1
            assert verify(output).is_proven

    run(test)


def test_a_restarted_coordinator_has_a_new_term_and_workers_keep_their_leases(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            term = worker.welcome.term
        async with coordinator(tmp_path / "state") as c:
            worker.stub = c.workers
            assert (await worker.exchange()).directive == "register"
            welcome = await worker.register()
            assert welcome.term == term + 1
            assert [(h.shard, h.epoch, h.end) for h in welcome.keep] == [(grant.shard, grant.epoch, grant.end)]
            await worker.work(lambda answer: answer.directive == "stop")
            job = await c.jobs.get(v1.JobRequest("numbers"))
            assert (job.phase, job.shards_recomputed) == ("Succeeded", 0)
            assert verify(tmp_path / "out").is_proven

    run(test)


def test_a_commit_answered_before_the_restart_is_published_after_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            commit = worker.stage(await one_lease(c, worker))
            await worker.exchange(commits=[commit])
        async with coordinator(tmp_path / "state") as c:
            assert (await FakeWorker(c.workers).register()).job_uid  # a new incarnation: publishes are due at once
            await c.wait_phase("numbers", "Succeeded")
            assert verify(tmp_path / "out").is_proven
        async with coordinator(tmp_path / "state") as c:
            assert (await submit(c, tmp_path)).phase == "Succeeded"

    run(test)


def test_a_restart_from_a_checkpoint_knows_the_same(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            await worker.split(grant, 100)
            await worker.deliver(grant)
            await c.driver.checkpoint()
            await worker.exchange(want=1)
        async with coordinator(tmp_path / "state") as c:
            worker.stub = c.workers
            await worker.register()
            assert [lease.begin for lease in worker.welcome.keep] == [100]
            await worker.work(lambda answer: answer.directive == "stop")
            assert (await c.jobs.get(v1.JobRequest("numbers"))).shards_recomputed == 0
            assert verify(tmp_path / "out").is_proven

    run(test)


def test_an_output_that_was_removed_meanwhile_stops_the_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
        shutil.rmtree(tmp_path / "out")
        async with coordinator(tmp_path / "state") as c:
            failed = condition(await c.jobs.get(v1.JobRequest("numbers")), "Failed")
            assert failed.reason == "SinkFailed"
            assert "--again" in failed.message
            assert not (tmp_path / "out").exists()
            assert (await submit(c, tmp_path, again=True)).phase == "Running"

    run(test)


def test_a_ledger_that_lost_its_tail_stops_the_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await worker.register(ledger_seen=10_000)
            assert worker.welcome.job_uid == ""
            failed = condition(await c.jobs.get(v1.JobRequest("numbers")), "Failed")
            assert failed.reason == "LedgerDamaged"

    run(test)


def test_rejects_are_listed_page_by_page(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path, errors={"maxRejected": 10})
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            commit = worker.stage(grant, rejected=2)
            uid = program_from_json(worker.welcome.program).job_uid
            name = f"_headrace/rejected/part-{grant.shard:08d}-{uid[:8]}-{grant.epoch}-00000000.parquet"
            commit.files.append(v1.StagedFile(name, "rejects", 1, "0" * 32, 2))
            await worker.exchange(commits=[commit])
            page = await c.jobs.list_rejects(v1.RejectsRequest("numbers"))
            assert [(f.shard, f.path, f.rows) for f in page.files] == [(0, str(tmp_path / "out" / name), 2)]
            assert (page.rows, page.next) == (2, 0)

    run(test)


def test_rejects_of_two_epochs_of_a_shard_are_counted_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            # A file of CSV that may have line breaks in its fields can't be split.
            whole = {"format": "csv", "uri": str(tmp_path / "in.csv")}
            await submit(c, tmp_path, errors={"maxRejected": 5}, source=whole)
            first, second = FakeWorker(c.workers, "w1"), FakeWorker(c.workers, "w2")
            grant = await one_lease(c, first)
            await first.exchange(held=[holding(grant, 50, 4)])
            await second.register()
            (twin,) = (await second.exchange(want=1)).grants
            assert (twin.shard, twin.epoch) == (grant.shard, grant.epoch + 1)
            commit = second.stage(twin)
            rejects = v1.StagedFile(f"_headrace/rejected/{commit.files[0].name}", "rejects", 0, "0" * 32, 4)
            commit.files.append(rejects)
            commit.rows_read, commit.rows_rejected = commit.rows_read + 4, 4
            await second.exchange(held=[holding(twin, 50, 4)])
            answer = await second.exchange(commits=[commit])
            assert [v.outcome for v in answer.commits] == ["ACCEPTED"]
            answer = await first.exchange(held=[holding(grant, 90, 4)])
            assert [v.outcome for v in answer.stale] == ["STALE"]
            job = await c.jobs.get(v1.JobRequest("numbers"))
            assert (job.phase, job.rows_rejected, job.rows_live) == ("Running", 4, 0)

    run(test)


def test_of_two_epochs_of_a_shard_the_one_with_more_rejects_spends_the_budget(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            whole = {"format": "csv", "uri": str(tmp_path / "in.csv")}
            await submit(c, tmp_path, errors={"maxRejected": 5}, source=whole)
            first, second = FakeWorker(c.workers, "w1"), FakeWorker(c.workers, "w2")
            grant = await one_lease(c, first)
            await second.register()
            (twin,) = (await second.exchange(want=1)).grants
            await first.exchange(held=[holding(grant, 30, 1)])
            assert (await second.exchange(held=[holding(twin, 40, 5)])).directive == ""
            assert (await c.jobs.get(v1.JobRequest("numbers"))).rows_live == 40
            assert (await second.exchange(held=[holding(twin, 41, 6)])).directive == "stop"
            failed = condition(await c.jobs.get(v1.JobRequest("numbers")), "Failed")
            assert failed.reason == "ErrorBudgetExceeded"

    run(test)


def test_a_corrupt_range_is_accounted_for_or_its_commit_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            source = {"format": "csv", "uri": str(tmp_path / "in.csv"), "onCorrupt": "reject"}
            await submit(c, tmp_path, errors={"maxRejected": 1}, source=source)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            for begin, end in ((0, grant.end + 1), (5, 5), (9, 3)):
                commit = worker.stage(grant)
                commit.corrupt = [v1.CorruptRange(begin, end, "torn")]
                answer = await worker.exchange(commits=[commit])
                assert [(v.outcome, "isn't one of its own" in v.reason) for v in answer.commits] == [("REFUSED", True)]
                worker.held[grant.shard, grant.epoch] = grant
            commit = worker.stage(grant)
            commit.corrupt = [v1.CorruptRange(10, 20, "torn")]
            assert [v.outcome for v in (await worker.exchange(commits=[commit])).commits] == ["ACCEPTED"]
            job = await c.jobs.get(v1.JobRequest("numbers"))
            assert (job.phase, job.rows_corrupt) == ("Running", 1)
            page = await c.jobs.list_rejects(v1.RejectsRequest("numbers"))
            told = [(part.path, part.begin, part.end, part.reason) for part in page.corrupt]
            assert (page.unit, told) == ("byte", [(str(tmp_path / "in.csv"), 10, 20, "torn")])

    run(test)


def test_a_corrupt_range_that_the_job_does_not_allow_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            commit = worker.stage(grant)
            commit.corrupt = [v1.CorruptRange(10, 20, "torn")]
            (verdict,) = (await worker.exchange(commits=[commit])).commits
            assert (verdict.outcome, "doesn't say that they may be" in verdict.reason) == ("REFUSED", True)

    run(test)
