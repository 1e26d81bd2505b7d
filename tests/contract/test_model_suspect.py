"""A worker on which nothing comes through a stage: the model has failed, unless it works for other rows of the job."""

from pathlib import Path

import pytest

from headrace import v1
from headrace.words import MODEL_SUSPECT
from tests.contract.coordinator_fixture import FakeWorker, condition, coordinator, one_lease, run, submit

WORDS = "stage 'double': RuntimeError: no weights"


def stats(rows_out: int) -> list[v1.StageStats]:
    return [v1.StageStats(stage="double", rows_in=10, rows_out=rows_out, batches=1)]


@pytest.mark.parametrize(("rows_elsewhere", "phase", "directive"), [(0, "Failed", "stop"), (10, "Running", "")])
def test_a_model_has_failed_if_it_works_on_no_other_worker(
    tmp_path: Path, rows_elsewhere: int, phase: str, directive: str
) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            suspicious, other = FakeWorker(c.workers, "w1"), FakeWorker(c.workers, "w2")
            await one_lease(c, suspicious)
            await other.register()
            await other.exchange(stages=stats(rows_elsewhere))
            answer = await suspicious.exchange(stages=stats(0), fatal_reason=MODEL_SUSPECT, fatal_message=WORDS)
            job = await c.jobs.get(v1.JobRequest("numbers"))
            assert (job.phase, answer.directive) == (phase, directive)
            if phase == "Failed":
                assert (condition(job, "Failed").reason, condition(job, "Failed").message) == ("ModelFailed", WORDS)

    run(test)


def test_a_model_that_worked_for_committed_rows_has_not_failed(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            await worker.split(grant, grant.begin + 10)
            await worker.deliver(grant)
            answer = await worker.exchange(stages=stats(0), fatal_reason=MODEL_SUSPECT, fatal_message=WORDS)
            assert answer.directive == ""
            assert (await c.jobs.get(v1.JobRequest("numbers"))).phase == "Running"

    run(test)
