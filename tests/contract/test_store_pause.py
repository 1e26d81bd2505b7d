"""A worker that can't get its input costs nobody an attempt: the job pauses, says so, and tries again."""

from pathlib import Path

from headrace import v1
from tests.contract.coordinator_fixture import Coordinator, FakeWorker, condition, coordinator, one_lease, run, submit

AWAY = "s3://lake can't be read: the server answers 503 SlowDown (after 6 tries for s3://lake/x.csv)"


async def fail(worker: FakeWorker, grant: v1.Grant, kind: str = "SourceUnavailable", error: str = AWAY) -> None:
    worker.held.pop((grant.shard, grant.epoch))
    release = v1.Release(grant.shard, grant.epoch, "failed", error, charged=True, exit_class=kind)
    await worker.exchange(releases=[release])


async def stalled(c: Coordinator) -> v1.Condition:
    return condition(await c.jobs.get(v1.JobRequest("numbers")), "Stalled")


def test_an_outage_pauses_the_job_and_spends_no_attempt(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path, retries={"attempts": 1})
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            for pause_s in (1, 2, 4, 8):
                await fail(worker, grant)
                told = await stalled(c)
                assert told.status
                assert told.reason == "SourceUnavailable"
                assert AWAY in told.message
                assert not (await worker.exchange(want=1)).grants
                c.pass_time(pause_s - 0.5)
                assert not (await worker.exchange(want=1)).grants
                c.pass_time(1.0)
                (grant,) = (await worker.exchange(want=1)).grants
            job = await c.jobs.get(v1.JobRequest("numbers"))
            assert (job.phase, job.shards_quarantined) == ("Running", 0)
            await worker.deliver(grant)
            assert (await c.wait_phase("numbers", "Succeeded")).rows_read > 0
            assert not (await stalled(c)).status

    run(test)


def test_a_shard_that_is_read_on_ends_the_pause(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await fail(worker, await one_lease(c, worker))
            c.pass_time(1.5)
            (grant,) = (await worker.exchange(want=1)).grants
            assert (await stalled(c)).status
            held = v1.Held(grant.shard, grant.epoch, grant.begin, grant.end, grant.begin + 1)
            await worker.exchange(held=[held])
            assert not (await stalled(c)).status

    run(test)


def test_a_store_that_refuses_ends_the_job_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            denied = "s3://lake/x.csv: the server answers 403 AccessDenied"
            await fail(worker, await one_lease(c, worker), "SourceRefused", denied)
            failed = condition(await c.wait_phase("numbers", "Failed"), "Failed")
            assert (failed.reason, failed.message) == ("SourceRefused", denied)

    run(test)
