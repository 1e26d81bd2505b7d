"""How many workers may take part in a job, and what they report for the metrics, over real gRPC."""

from pathlib import Path

from coordinator.exchange import StageMeasures
from headrace import v1
from tests.contract.coordinator_fixture import FakeWorker, coordinator, one_lease, run, submit


def test_a_job_scaled_down_grants_to_those_who_came_first_only(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            first, second = FakeWorker(c.workers), FakeWorker(c.workers, "w2")
            grant = await one_lease(c, first)
            third = (grant.end - grant.begin) // 3
            await first.split(grant, grant.begin + third)
            rest = await one_lease(c, second)
            await second.split(rest, (rest.begin + rest.end) // 2)  # something is left to be granted
            await c.jobs.scale(v1.ScaleRequest("numbers", 1))
            assert (await second.exchange(want=1)).grants == []
            await first.exchange(commits=[first.stage(grant)])
            assert len((await first.exchange(want=1)).grants) == 1

    run(test)


def test_when_the_first_worker_drains_the_next_takes_its_place(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            await c.jobs.scale(v1.ScaleRequest("numbers", 1))
            first, second = FakeWorker(c.workers), FakeWorker(c.workers, "w2")
            await first.register()
            await second.register()
            assert (await second.exchange(want=1)).grants == []
            await first.exchange(draining=True)
            assert len((await second.exchange(want=1)).grants) == 1

    run(test)


def test_a_limit_of_0_lets_every_worker_take_part(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            await c.jobs.scale(v1.ScaleRequest("numbers", 1))
            first, second = FakeWorker(c.workers), FakeWorker(c.workers, "w2")
            await first.register()
            await second.register()
            await c.jobs.scale(v1.ScaleRequest("numbers", 0))
            assert len((await second.exchange(want=1)).grants) == 1

    run(test)


def test_what_a_worker_measures_reaches_the_counters_whole(tmp_path: Path) -> None:
    measures = v1.StageMeasures(
        stage="double",
        rows_in_progress=1,
        wait_output_s=2.0,
        last_done_ago_s=3.0,
        load_s=4.0,
        hangs=5,
        rows_after_exception=6,
        rows_after_crash=7,
        rows_after_hang=8,
        seconds_counts=[9, 10],
        rows_counts=[11, 12],
    )
    expected = StageMeasures("double", 1, 2.0, 3.0, 4.0, 5, {"exception": 6, "crash": 7, "hang": 8}, (9, 10), (11, 12))

    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            job = await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await worker.register()
            await worker.exchange(measures=[measures], arena_bytes=100, arena_used_bytes=50)
            assert [found for found, _ in c.driver.counters.measures(job.uid, "double")] == [expected]
            (seat,) = c.driver.seats.values()
            assert (seat.measures, seat.arena_bytes, seat.arena_used_bytes) == ((expected,), 100, 50)

    run(test)
