"""Rejects that are run again, whoever is killed wherever: each row is out or rejected, once, and a restart goes on.

The base holds 29 rejects in several files. Of its shards the retry revokes one, whose staging is gone, and commits a
prefix of another; half of the rows come out, the others are rejected again.
"""

import collections
import hashlib
import io
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.core.facts import OutputFile, RowCounts
from coordinator.driver import Driver, WrongState
from coordinator.exchange import CommitAsked, Grant
from coordinator.job_desk import JobDesk
from coordinator.submission import PlannedJob, Submission, plan_job
from coordinator.verify import verify
from coordinator.worker_desk import WorkerDesk
from headrace.errors import BadJob, HeadraceError
from headrace.publish import REJECTED, part_name
from headrace.rejects import JOB_SUFFIX
from headrace.words import REGISTER, STOP, Incarnation
from tests.object_store.bucket_fixture import TestBucket
from tests.scenarios.crash_points import KillableJournal, Killed, Part
from tests.scenarios.test_commit_crashes import (
    NAME,
    TTL_S,
    TURNS_MAX,
    UNITS,
    JobOver,
    Lying,
    Story,
    Worker,
    quiet,
)

BASE_ENDS = (50, 100, 150, 200, 250, UNITS)
REJECTS = [unit for unit in range(UNITS) if unit % 10 == 7]
STILL_REJECTED = [unit for unit in REJECTS if unit // 10 % 2]
ENDS = (5, 10, 15, 20, 25, len(REJECTS))
GONE, PREFIX = 10, 20
"""What becomes of the first commit of the retry's shard that begins at this row."""


class RetryWorker(Worker):
    """Works on the base, whose every tenth row it rejects, and on the rejects, of which it rejects every second."""

    def stage(self, grant: Grant) -> None:
        is_retry = REJECTED in grant.slices[0].path
        end = grant.begin + 2 if is_retry and (grant.begin, grant.epoch) == (PREFIX, 1) else grant.end
        units = self._rejects(grant)[: end - grant.begin] if is_retry else list(range(grant.begin, end))
        bad = set(STILL_REJECTED if is_retry else REJECTS)
        rows, rejected = [unit for unit in units if unit not in bad], [unit for unit in units if unit in bad]
        files = [
            self._staged(grant, name, kind, columns)
            for name, kind, columns in (("", "data", {"n": rows}), (f"{REJECTED}/", "rejects", described(rejected)))
            if columns["n"]
        ]
        self.wishes[grant.shard, grant.epoch] = CommitAsked(
            grant.shard,
            grant.epoch,
            grant.begin,
            end,
            RowCounts(len(units), 0, len(rows), len(rejected)),
            tuple(files),
            '[["n","int64"]]' if rows else "",
        )

    def publish(self, wish: CommitAsked, *, is_held: bool) -> None:
        if is_held and (wish.begin, wish.epoch) == (GONE, 1):
            self.discard(wish)
        elif not is_held:
            assert self.store is not None
            for file in wish.files:
                self.store.publish(file)
            self.published.append((wish.shard, wish.epoch))

    def _rejects(self, grant: Grant) -> list[int]:
        assert self.store is not None
        found = []
        for part in grant.slices:
            name = part.path.rpartition("/")[2]
            with self.store.open(f"{REJECTED}/{name}") as body:
                units = pq.read_table(pa.BufferReader(body.read()))["n"].to_pylist()
            found += units[part.begin : part.end]
        return found

    def _staged(self, grant: Grant, folder: str, kind: str, columns: dict[str, list[object]]) -> OutputFile:
        sink = io.BytesIO()
        pq.write_table(pa.table({name: pa.array(values, TYPES[name]) for name, values in columns.items()}), sink)
        body = sink.getvalue()
        name = folder + part_name(grant.shard, self.uid, grant.epoch, self.incarnation, ".parquet")
        assert self.store is not None
        self.staged[name] = self.store.stage(name)
        self.staged[name].append(memoryview(body))
        staged = self.staged[name].finish()
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        return OutputFile(name, kind, len(body), digest, len(columns["n"]), staged)


TYPES = {
    "_file": pa.string(),
    "_address": pa.int64(),
    "_stage": pa.string(),
    "_class": pa.string(),
    "_message": pa.string(),
    "n": pa.int64(),
}


def described(units: list[int]) -> dict[str, list[object]]:
    """Columns of a rejects file."""
    count = len(units)
    return {
        "_file": ["in.csv"] * count,
        "_address": list(units),
        "_stage": ["double"] * count,
        "_class": ["ValueError"] * count,
        "_message": ["no"] * count,
        "n": list(units),
    }


class RetryStory(Story):
    """The base's job, or, with `is_retry`, its rejects run again."""

    def __init__(self, folder: Path, output: Lying, *, is_retry: bool) -> None:
        super().__init__(folder, output, "fail")
        job = json.loads(self.manifest)
        job["spec"]["sink"]["format"] = "parquet"
        self.manifest = json.dumps(job)
        self.is_retry = is_retry

    async def _work(self, journal: KillableJournal, worker: Part, again: bool) -> str:
        driver = Driver(journal, clock=self.clock, lease_ttl_s=TTL_S)
        await driver.start()
        jobs = JobDesk(driver, self._plan)
        name = NAME + (JOB_SUFFIX if self.is_retry else "")
        await jobs.submit(Submission(self.manifest, digest="d1", again=again, rejected=self.is_retry))
        workers = WorkerDesk(driver)
        if self.worker is not None:
            self.worker.desk = workers
        for _ in range(TURNS_MAX):
            status = jobs.status(name)
            if status.phase in ("Succeeded", "Failed"):
                await driver.close()
                return status.phase
            try:
                await self._turn(workers)
            except JobOver:
                self.worker = None
            except (Killed, HeadraceError, OSError):
                if not worker.is_dead:
                    raise
                worker.is_dead, worker.dies_at, self.worker = False, None, None
            self.clock.now += 0.5
            driver.tick()
            await quiet()
        raise AssertionError(f"the job doesn't end: {jobs.status(name)}")

    async def _turn(self, desk: WorkerDesk) -> None:
        if self.worker is None:
            self.worker = RetryWorker(desk, Incarnation(next(self._incarnations)), self.output)
        if not self.worker.term and not await self.worker.register():
            return
        answer = await self.worker.turn()
        if answer.directive == REGISTER:
            self.worker.term = 0
        elif answer.directive == STOP:
            self.worker = None

    def _plan(self, submission: Submission, **fields: object) -> PlannedJob:
        plan = plan_job(submission, **fields)  # type: ignore[arg-type]
        ends = ENDS if self.is_retry else BASE_ENDS
        if plan.dataset.units_total != ends[-1]:  # a retry that was complete when it was killed: the next one
            assert plan.dataset.units_total == len(STILL_REJECTED)
            return plan
        return PlannedJob(replace(plan.planned, shards=len(ends)), plan.dataset, np.array(ends, np.int64))


def units_of(files: dict[str, bytes], folder: str) -> collections.Counter[int]:
    """The rows that a stranger finds in a folder of the output."""
    bodies = [body for name, body in files.items() if name.rpartition("/")[0] == folder and name.endswith(".parquet")]
    return collections.Counter(
        unit for body in bodies for unit in pq.read_table(pa.BufferReader(body))["n"].to_pylist()
    )


def check_merged(story: Story) -> None:
    """The retry is complete: half of the rejects are out, nothing is doubled, and verify proves it."""
    found = verify(story.output.uri, story.output.storage)
    assert found.is_proven, found.findings
    files = story.output.files()
    assert units_of(files, "") == dict.fromkeys(sorted(set(range(UNITS)) - set(STILL_REJECTED)), 1)
    assert units_of(files, REJECTED) == dict.fromkeys(STILL_REJECTED, 1)
    assert (found.rows_read, found.rows_rejected) == (UNITS, len(STILL_REJECTED))
    assert (found.input_files, found.units) == (1, UNITS)
    left = {name.split("/")[1] for name in files if name.startswith("_headrace/") and "/manifest-" not in name}
    assert {name for name in left if not name.startswith(".")} | story.output.folders() == {"rejected"}
    assert json.loads(files["_SUCCESS"])["manifest"] == f"_headrace/{found.manifests[0]}"


def check_readable(story: Story) -> None:
    """Whatever happened: each row is there, and what is doubled isn't in any manifest."""
    files = story.output.files()
    assert set(units_of(files, "")) | set(units_of(files, REJECTED)) == set(range(UNITS))


@dataclass
class Scene:
    """A base that stories begin with a copy of; ledgers lie in the folder, and outputs that don't lie in the bucket."""

    folder: Path
    bucket: TestBucket | None
    stories: int = 0

    @property
    def stride(self) -> int:
        """Of how many places to die one is tried, if less than all: a request costs more than a system call."""
        return 1 if self.bucket is None else 9

    @cached_property
    def template(self) -> Lying:
        """A complete output."""
        base = self._story(is_retry=False)
        assert base.live(Part(), Part()) == "Succeeded"
        assert verify(base.output.uri, base.output.storage).rows_rejected == len(REJECTS)
        return base.output

    def fresh(self) -> RetryStory:
        """The rejects of a complete output, about to be run again."""
        template = self.template
        story = self._story(is_retry=True)
        story.output.copy_of(template)
        return story

    def _story(self, *, is_retry: bool) -> RetryStory:
        self.stories += 1
        folder = self.folder / f"{self.stories}"
        folder.mkdir()
        if self.bucket is None:
            return RetryStory(folder, Lying(str(folder / "out")), is_retry=is_retry)
        uri = f"s3://{self.bucket.name}/{self.stories}/out"
        return RetryStory(folder, Lying(uri, self.bucket.storage, self.bucket), is_retry=is_retry)


@pytest.fixture(params=["local", "s3"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """In memory where it can be: these tests sync thousands of files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="headrace-test-") as folder:
        yield Scene(Path(folder), request.getfixturevalue("bucket") if request.param == "s3" else None)


def test_nobody_dies(scene: Scene) -> None:
    story = scene.fresh()
    assert story.live(Part(), Part()) == "Succeeded"
    check_merged(story)


@pytest.mark.parametrize("worker_survives", [True, False])
def test_a_coordinator_killed_at_any_step_is_continued(scene: Scene, worker_survives: bool) -> None:
    for step in itertools.count(worker_survives, 2 * scene.stride):
        story = scene.fresh()
        coordinator = Part(dies_at=step)
        phase = story.live(coordinator, Part())
        check_readable(story)
        if coordinator.is_dead:
            if not worker_survives:
                story.worker = None
            phase = story.live(Part(), Part())
        assert phase == "Succeeded", coordinator.steps[-3:]
        check_merged(story)
        if not coordinator.is_dead:
            assert step > 40
            return


def test_a_worker_killed_at_any_step_is_replaced(scene: Scene) -> None:
    for step in itertools.count(0, scene.stride):
        story = scene.fresh()
        worker = Part(dies_at=step)
        assert story.live(Part(), worker) == "Succeeded"
        check_merged(story)
        if worker.dies_at is not None:
            assert step > 10
            return


def test_a_retry_killed_at_any_step_can_start_anew_or_is_all_but_complete(scene: Scene) -> None:
    anew = 0
    for step in itertools.count(0, 2 * scene.stride):
        story = scene.fresh()
        coordinator = Part(dies_at=step)
        story.live(coordinator, Part())
        if not coordinator.is_dead:
            assert anew > 10 // scene.stride
            return
        try:
            assert story.live(Part(), Part(), again=True) == "Succeeded", coordinator.steps[-3:]
            anew += 1
        except (WrongState, BadJob):  # its manifest may be all that tells of the rejects that it ran
            assert story.live(Part(), Part()) == "Succeeded", coordinator.steps[-3:]
        found = verify(story.output.uri, story.output.storage)
        assert found.is_proven, (coordinator.steps[-3:], found.findings)
        check_readable(story)
