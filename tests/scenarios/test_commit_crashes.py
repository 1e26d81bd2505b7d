"""Exactly once, whoever is killed wherever: every step of a small job is a place to die, then a restart goes on.

The job's shards take all ways that a commit can take: published by its worker, by the coordinator because the worker
never did, half by each, revoked because its staging was gone, and a prefix that is a split.
"""

import asyncio
import collections
import dataclasses
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from coordinator.core.facts import OutputFile, RowCounts
from coordinator.core.lease_values import Held
from coordinator.driver import Driver, WrongState
from coordinator.exchange import Answer, CommitAsked, Grant, Introduction, Report
from coordinator.job_desk import JobDesk
from coordinator.submission import PlannedJob, Submission, plan_job
from coordinator.verify import verify
from coordinator.worker_desk import WorkerDesk
from headrace.errors import BadJob, HeadraceError
from headrace.program import StorageOptions
from headrace.publish import REJECTED, part_name
from headrace.stores import open_store
from headrace.stores.port import Growing, OutputStore
from headrace.words import HELD_OUTPUT, REGISTER, STALE, STOP, Epoch, Incarnation, ShardId, WorkerName
from tests.contract.coordinator_fixture import job_text
from tests.object_store.bucket_fixture import TestBucket
from tests.scenarios.crash_points import KillableJournal, Killed, Part, as_worker, watching

UNITS = 292  # bytes of the source, each of which stands for a row here
ENDS = (50, 100, 150, 200, 250, UNITS)
NAME = "numbers"
TURNS_MAX = 300
TTL_S = 3.0
BACKGROUND = ("publish ", "finish ", "group commit")
"""Names of the tasks in which a coordinator goes on by itself."""

# What becomes of the first commit of the shard that begins at this unit.
SILENT, HALF, GONE, PREFIX = 50, 100, 150, 200


class JobOver(Exception):
    """Another job runs now: this worker's process ends."""


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Worker:
    """A sidecar's manners, step by step, with a file of rows and one of rejects for each lease."""

    desk: WorkerDesk
    incarnation: Incarnation
    output: "Lying"
    held: dict[tuple[int, int], Grant] = field(default_factory=dict)
    wishes: dict[tuple[int, int], CommitAsked] = field(default_factory=dict)
    published: list[tuple[ShardId, Epoch]] = field(default_factory=list)
    staged: dict[str, Growing] = field(default_factory=dict)
    store: OutputStore | None = None
    uid: str = ""
    term: int = 0
    sequence: int = 0
    seen: int = 0

    async def register(self) -> bool:
        held = tuple(Held(g.shard, g.epoch, g.begin, g.end, g.begin) for g in self.held.values())
        welcome = await self.desk.register(Introduction(WorkerName("w"), self.incarnation, held, ledger_seen=self.seen))
        self.seen = max(self.seen, welcome.ledger)
        if not welcome.job_uid:
            return False
        if self.uid not in ("", welcome.job_uid):
            raise JobOver
        self.term, self.uid = welcome.term, welcome.job_uid
        self.store = open_store(self.output.uri, self.uid, self.output.storage, welcome.staging)
        kept = {(held.shard, held.epoch) for held in welcome.keep}
        self.held = {key: grant for key, grant in self.held.items() if key in kept}
        return True

    async def turn(self) -> Answer:
        """One exchange, and what follows from its answer."""
        self.sequence += 1
        said = list(self.published)
        report = Report(
            WorkerName("w"),
            self.incarnation,
            self.term,
            self.sequence,
            held=tuple(Held(g.shard, g.epoch, g.begin, g.end, g.begin) for g in self.held.values()),
            want=2,
            commits=tuple(self.wishes.values()),
            published=tuple(said),
        )
        answer = await self.desk.exchange(report)
        self.seen = max(self.seen, answer.ledger)
        if answer.directive == REGISTER:
            return answer
        self.published = [key for key in self.published if key not in said]
        with as_worker():
            for verdict in answer.commits:
                wish = self.wishes.pop((verdict.shard, verdict.epoch))
                self.held.pop((verdict.shard, verdict.epoch), None)
                if verdict.outcome == STALE:
                    self.discard(wish)
                else:
                    assert verdict.outcome == "ACCEPTED", verdict
                    self.publish(wish, is_held=verdict.reason == HELD_OUTPUT)
            for stale in answer.stale:
                self.held.pop((stale.shard, stale.epoch), None)
            for grant in answer.grants:
                self.held[grant.shard, grant.epoch] = grant
                self.stage(grant)
        return answer

    def stage(self, grant: Grant) -> None:
        end = grant.end
        if grant.begin == PREFIX and grant.epoch == 1:
            end = grant.begin + 20
        rejected = [unit for unit in range(grant.begin, end) if unit % 10 == 7]
        rows = [unit for unit in range(grant.begin, end) if unit % 10 != 7]
        files = []
        for kind, units in (("data", rows), ("rejects", rejected)):
            name = part_name(grant.shard, self.uid, grant.epoch, self.incarnation, ".jsonl")
            name = f"{REJECTED}/{name}" if kind == "rejects" else name
            text = "".join(f'{{"n":{unit}}}\n' for unit in units).encode()
            assert self.store is not None
            self.staged[name] = self.store.stage(name)
            self.staged[name].append(memoryview(text))
            staged = self.staged[name].finish()
            digest = hashlib.blake2b(text, digest_size=16).hexdigest()
            files.append(OutputFile(name, kind, len(text), digest, len(units), staged))
        counts = RowCounts(len(rows) + len(rejected), 0, len(rows), len(rejected))
        self.wishes[grant.shard, grant.epoch] = CommitAsked(
            grant.shard, grant.epoch, grant.begin, end, counts, tuple(files), '[["n","int64"]]'
        )

    def publish(self, wish: CommitAsked, *, is_held: bool) -> None:
        is_first = wish.epoch == 1
        if is_first and wish.begin == GONE:
            self.discard(wish)
            return
        if is_held or (is_first and wish.begin == SILENT):
            return
        for file in wish.files[: 1 if is_first and wish.begin == HALF else None]:
            assert self.store is not None
            self.store.publish(file)
        if not (is_first and wish.begin == HALF):
            self.published.append((wish.shard, wish.epoch))

    def discard(self, wish: CommitAsked) -> None:
        for file in wish.files:
            self.staged[file.name].discard()


@dataclass(frozen=True)
class Lying:
    """Where the output lies, looked at with means that know nothing of stores."""

    uri: str
    storage: StorageOptions = field(default_factory=StorageOptions)
    bucket: TestBucket | None = None

    def files(self) -> dict[str, bytes]:
        if self.bucket is None:
            folder = Path(self.uri)
            found = [path for path in folder.rglob("*") if path.is_file()]
            return {str(path.relative_to(folder)): path.read_bytes() for path in found}
        below = self.uri.removeprefix(f"s3://{self.bucket.name}/")
        return {key.removeprefix(f"{below}/"): body for key, body in self.bucket.objects(f"{below}/").items()}

    def folders(self) -> set[str]:
        """Folders that readers don't see, where a store has folders."""
        return {path.name for path in Path(self.uri, "_headrace").glob("*/")} if self.bucket is None else {"rejected"}

    def copy_of(self, other: "Lying") -> None:
        """Becomes what the other is."""
        if self.bucket is None:
            shutil.copytree(other.uri, self.uri)
            return
        below, theirs = (place.uri.removeprefix(f"s3://{self.bucket.name}/") for place in (self, other))
        for name in other.files():
            source = {"Bucket": self.bucket.name, "Key": f"{theirs}/{name}"}
            self.bucket.client.copy_object(Bucket=self.bucket.name, Key=f"{below}/{name}", CopySource=source)


class Story:
    """One job in one folder, over the lives of coordinators and workers."""

    def __init__(self, folder: Path, output: Lying, mode: str) -> None:
        self.folder = folder
        self.output = output
        job = json.loads(job_text(folder, name=NAME, mode=mode, errors={"maxRejected": "100%"}))
        job["spec"]["sink"] |= {"uri": output.uri, "storage": dataclasses.asdict(output.storage)}
        self.manifest = json.dumps(job)
        self.clock = Clock()
        self.worker: Worker | None = None
        self._incarnations = map("i{:07}".format, itertools.count())

    def live(self, coordinator: Part, worker: Part, *, again: bool = False) -> str:
        """One life of a coordinator; gives the job's phase at its end, "" if it was killed."""
        KillableJournal.part = Part()
        journal = KillableJournal.open(self.folder / "ledger.sqlite")
        try:
            with watching(self.output.uri, coordinator, worker):
                KillableJournal.part = coordinator
                return asyncio.run(self._live(journal, coordinator, worker, again))
        finally:
            journal.close()

    async def _live(self, journal: KillableJournal, coordinator: Part, worker: Part, again: bool) -> str:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # what a killed part leaves behind
        loop.set_default_executor(ThreadPoolExecutor(1))  # one step at a time, always in the same order
        death: asyncio.Future[None] = loop.create_future()
        coordinator.on_death = lambda: loop.call_soon_threadsafe(death.set_result, None)
        work = asyncio.create_task(self._work(journal, worker, again))
        await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
        if coordinator.is_dead:
            work.cancel()
            return ""
        return work.result()

    async def _work(self, journal: KillableJournal, worker: Part, again: bool) -> str:
        driver = Driver(journal, clock=self.clock, lease_ttl_s=TTL_S)
        await driver.start()
        jobs = JobDesk(driver, plan_in_parts)
        status = await jobs.submit(Submission(self.manifest, digest="d1", again=again))
        workers = WorkerDesk(driver)
        if self.worker is not None:
            self.worker.desk = workers
        for _ in range(TURNS_MAX):
            status = jobs.status(NAME)
            if status.phase in ("Succeeded", "Failed"):
                await driver.close()
                return status.phase
            try:
                await self._turn(workers)
            except JobOver:
                self.worker = None
            except (Killed, HeadraceError, OSError):  # a dead part's requests to a bucket fail in other words
                if not worker.is_dead:
                    raise
                worker.is_dead, worker.dies_at, self.worker = False, None, None
            self.clock.now += 0.5
            driver.tick()
            await quiet()
        raise AssertionError(f"the job doesn't end: {jobs.status(NAME)}")

    async def _turn(self, desk: WorkerDesk) -> None:
        if self.worker is None:
            self.worker = Worker(desk, Incarnation(next(self._incarnations)), self.output)
        if not self.worker.term and not await self.worker.register():
            return
        answer = await self.worker.turn()
        if answer.directive == REGISTER:
            self.worker.term = 0
        elif answer.directive == STOP:
            self.worker = None


async def quiet() -> None:
    """Waits for what the coordinator does in the background, so that every life takes the same steps."""
    while tasks := [task for task in asyncio.all_tasks() if task.get_name().startswith(BACKGROUND)]:
        await asyncio.wait(tasks)


def plan_in_parts(submission: Submission, **fields: object) -> PlannedJob:
    plan = plan_job(submission, **fields)  # type: ignore[arg-type]
    assert plan.dataset.units_total == UNITS
    return PlannedJob(replace(plan.planned, shards=len(ENDS)), plan.dataset, np.array(ENDS, np.int64))


def rows_read_by_a_stranger(files: Mapping[str, bytes]) -> collections.Counter[int]:
    """What somebody sees who knows nothing of manifests, rows and rejects together."""
    bodies = [
        body
        for name, body in files.items()
        if name.startswith(REJECTED) or ("/" not in name and not name.startswith(("_", ".")))
    ]
    return collections.Counter(json.loads(line)["n"] for body in bodies for line in body.splitlines())


def check_complete(story: Story, times: int) -> None:
    output = story.output
    found = verify(output.uri, output.storage)
    assert found.is_proven, found.findings
    files = output.files()
    assert rows_read_by_a_stranger(files) == dict.fromkeys(range(UNITS), times)
    left = {name.split("/")[1] for name in files if name.startswith("_headrace/") and "/manifest-" not in name}
    assert {name for name in left if not name.startswith(".")} | output.folders() == {"rejected"}
    assert output.bucket is None or not output.bucket.uploads()
    success = json.loads(files["_SUCCESS"])
    assert f"_headrace/{found.manifests[0]}" == success["manifest"]


@dataclass
class Scene:
    """Where stories happen: a folder for ledgers, and for outputs that don't lie in `bucket`."""

    folder: Path
    bucket: TestBucket | None
    stories: int = 0

    @property
    def stride(self) -> int:
        """Of how many places to die one is tried, if less than all: a request costs more than a system call."""
        return 1 if self.bucket is None else 13

    def output(self, story: str) -> Lying:
        if self.bucket is None:
            return Lying(str(self.folder / story / "out"))
        self.stories += 1
        return Lying(f"s3://{self.bucket.name}/{story}-{self.stories}/out", self.bucket.storage, self.bucket)

    @cached_property
    def template(self) -> Lying:
        """A complete output."""
        folder = self.folder / "template"
        folder.mkdir()
        before = Story(folder, self.output("template"), "fail")
        assert before.live(Part(), Part()) == "Succeeded"
        return before.output

    def fresh(self, mode: str) -> Story:
        """A story whose output has a complete job in it, but in mode `fail`."""
        folder = self.folder / "job"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        output = self.output("job")
        if mode != "fail":
            output.copy_of(self.template)
        return Story(folder, output, mode)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """In memory where it can be: these tests sync thousands of files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="headrace-test-") as folder:
        yield Scene(Path(folder), request.getfixturevalue("bucket") if request.param == "s3" else None)


@pytest.fixture(params=["fail", "append", "replace"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def times_complete(mode: str) -> int:
    return 2 if mode == "append" else 1


def test_nobody_dies(scene: Scene, mode: str) -> None:
    story = scene.fresh(mode)
    assert story.live(Part(), Part()) == "Succeeded"
    check_complete(story, times_complete(mode))


@pytest.mark.parametrize("worker_survives", [True, False])
def test_a_coordinator_killed_at_any_step_is_continued(scene: Scene, mode: str, worker_survives: bool) -> None:
    for step in itertools.count(worker_survives, 2 * scene.stride):
        story = scene.fresh(mode)
        coordinator = Part(dies_at=step)
        phase = story.live(coordinator, Part())
        if coordinator.is_dead:
            if not worker_survives:
                story.worker = None
            phase = story.live(Part(), Part())
        assert phase == "Succeeded", coordinator.steps[-3:]
        check_complete(story, times_complete(mode))
        if not coordinator.is_dead:
            assert step > 40
            return


def test_a_job_killed_at_any_step_can_start_anew(scene: Scene, mode: str) -> None:
    for step in itertools.count(0, 3 * scene.stride):
        story = scene.fresh(mode)
        coordinator = Part(dies_at=step)
        story.live(coordinator, Part())
        if not coordinator.is_dead:
            return
        files = story.output.files()
        was_complete = "_SUCCESS" in files and "_headrace/claim.json" not in files
        try:
            phase = story.live(Part(), Part(), again=True)
        except BadJob:
            assert (mode, was_complete) == ("fail", True)  # it isn't empty
            phase = "Succeeded"
        assert phase == "Succeeded", coordinator.steps[-3:]
        check_complete(story, len(verify(story.output.uri, story.output.storage).manifests))


def test_a_coordinator_killed_while_a_job_starts_anew_is_continued(scene: Scene, mode: str) -> None:
    for step in itertools.count(0, 4 * scene.stride):
        story = scene.fresh(mode)
        story.live(Part(dies_at=32), Part())
        coordinator = Part(dies_at=step)
        phase = story.live(coordinator, Part(), again=True)
        if coordinator.is_dead:
            phase = story.live(Part(), Part())
        assert phase == "Succeeded", coordinator.steps[-3:]
        check_complete(story, times_complete(mode))
        if not coordinator.is_dead:
            return


def test_a_worker_killed_at_any_step_is_replaced(scene: Scene, mode: str) -> None:
    for step in itertools.count(0, scene.stride):
        story = scene.fresh(mode)
        worker = Part(dies_at=step)
        assert story.live(Part(), worker) == "Succeeded"
        check_complete(story, times_complete(mode))
        if worker.dies_at is not None:
            assert step > 10
            return


def test_a_ledger_behind_its_output_stops_the_job(scene: Scene) -> None:
    story = scene.fresh("fail")
    story.live(Part(dies_at=14), Part())
    ledger = {path: path.read_bytes() for path in story.folder.glob("ledger.sqlite*")}
    published = Part(dies_at=30)
    story.live(published, Part())
    assert any(name.startswith("part-") for name in story.output.files())
    for path in story.folder.glob("ledger.sqlite*"):
        path.unlink()
    for path, body in ledger.items():
        path.write_bytes(body)
    story.worker = None
    with pytest.raises(WrongState, match="lost facts"):
        story.live(Part(), Part())
    assert story.live(Part(), Part(), again=True) == "Succeeded"
    check_complete(story, 1)
