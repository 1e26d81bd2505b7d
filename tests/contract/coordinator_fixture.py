"""A coordinator in this process, its clients, and a worker that writes text files instead of predicting."""

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.driver import Driver
from coordinator.job_desk import JobDesk
from coordinator.journal import Journal
from coordinator.rpc import make_server
from coordinator.submission import PlannedJob, plan_job
from coordinator.worker_desk import WorkerDesk
from headrace import v1
from headrace.channel import listen_unix, open_channel
from headrace.program import program_from_json
from headrace.publish import part_name, publish, staged_name


@dataclass
class Clock:
    """Time that only moves when told, over the loop's own."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


@dataclass
class Coordinator:
    """What a test may reach."""

    driver: Driver
    desk: JobDesk
    address: str
    clock: Clock
    jobs: v1.JobServiceStub
    workers: v1.WorkerServiceStub

    def pass_time(self, seconds: float) -> None:
        """Lets time pass in steps, so that the driver doesn't think it slept."""
        for _ in range(round(seconds / 0.5)):
            self.clock.ahead_s += 0.5
            self.driver.tick()

    async def wait_phase(self, name: str, phase: str) -> v1.Job:
        """The job once it has that phase."""
        async for job in self.jobs.watch(v1.JobRequest(name)):
            if job.phase == phase:
                return job
        raise AssertionError(f"{name} ended without being {phase}")


@contextlib.asynccontextmanager
async def coordinator(state: Path, plan: Callable[..., PlannedJob] = plan_job) -> AsyncIterator[Coordinator]:
    """Starts on the ledger in `state` and ends cleanly."""
    state.mkdir(exist_ok=True, mode=0o700)
    clock = Clock()
    driver = Driver(Journal.open(state / "ledger.sqlite"), clock=clock)
    await driver.start()
    desk = JobDesk(driver, plan)
    server = make_server(WorkerDesk(driver), desk, token=None)
    path = state / "socket"
    sock = listen_unix(path)
    await server.start(sock=sock)
    channel = open_channel(f"unix:{path}")
    try:
        yield Coordinator(
            driver,
            desk,
            f"unix:{path}",
            clock,
            v1.JobServiceStub(channel, timeout=20),
            v1.WorkerServiceStub(channel, timeout=20),
        )
    finally:
        channel.close()
        server.close()
        await server.wait_closed()
        await driver.close()


def job_text(folder: Path, *, name: str = "numbers", mode: str = "fail", rows: int = 100, **spec: object) -> str:
    """A job of `rows` lines of CSV and one python stage, as the command line would submit it."""
    source = folder / "in.csv"
    if not source.exists():
        source.write_text("n\n" + "".join(f"{i}\n" for i in range(rows)))
    return json.dumps(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": name},
            "spec": {
                "source": {"format": "csv", "uri": str(source), "csv": {"lineBreaksInFields": False}},
                "pipeline": [{"name": "double", "python": "double:Double", "inputs": {"n": "source.n"}}],
                "sink": {"format": "jsonl", "uri": str(folder / "out"), "columns": {"n": "source.n"}, "mode": mode},
                **spec,
            },
        }
    )


SCHEMA = '[["n","int64"]]'
"""What a `FakeWorker` says of its files."""


@dataclass
class FakeWorker:
    """A sidecar's manners without its work: each lease becomes one small file."""

    stub: v1.WorkerServiceStub
    name: str = "w1"
    incarnation: str = field(default_factory=lambda: secrets.token_hex(4))
    sequence: int = 0
    welcome: v1.RegisterReply = field(default_factory=v1.RegisterReply)
    held: dict[tuple[int, int], v1.Grant] = field(default_factory=dict)
    schema: str = SCHEMA

    async def register(self, **fields: object) -> v1.RegisterReply:
        """Introduces itself with what it holds."""
        held = [v1.Held(g.shard, g.epoch, g.begin, g.end, g.begin) for g in self.held.values()]
        self.welcome = await self.stub.register(
            v1.RegisterRequest(self.name, self.incarnation, protocol=1, held=held, **fields)  # type: ignore[arg-type]
        )
        return self.welcome

    async def exchange(self, *, repeat: bool = False, **fields: object) -> v1.ExchangeReply:
        """Says what it holds and `fields`; takes the grants."""
        self.sequence += not repeat
        commits = {(c.shard, c.epoch) for c in fields.get("commits", ())}  # type: ignore[attr-defined]
        held = [
            v1.Held(g.shard, g.epoch, g.begin, g.end, g.begin) for key, g in self.held.items() if key not in commits
        ]
        fields = {"held": held, **fields}
        answer = await self.stub.exchange(
            v1.ExchangeRequest(self.name, self.incarnation, self.welcome.term, self.sequence, **fields)  # type: ignore[arg-type]
        )
        for grant in answer.grants:
            self.held[grant.shard, grant.epoch] = grant
        for verdict in answer.commits:
            self.held.pop((verdict.shard, verdict.epoch), None)
        return answer

    def stage(self, grant: v1.Grant, *, rejected: int = 0) -> v1.Commit:
        """Writes the grant's units as its rows and asks for the commit."""
        program = program_from_json(self.welcome.program)
        text = "".join(f'{{"n":{i}}}\n' for i in range(grant.begin, grant.end)).encode()
        name = part_name(grant.shard, program.job_uid, grant.epoch, secrets.token_hex(4), ".jsonl")
        (Path(self.welcome.staging) / staged_name(name)).write_bytes(text)
        rows = grant.end - grant.begin
        digest = hashlib.blake2b(text, digest_size=16).hexdigest()
        return v1.Commit(
            grant.shard,
            grant.epoch,
            grant.begin,
            grant.end,
            rows_read=rows + rejected,
            rows_out=rows,
            rows_rejected=rejected,
            files=[v1.StagedFile(name, "data", len(text), digest, rows)],
            schema=self.schema,
        )

    def publish(self, commit: v1.Commit) -> None:
        """Publishes a commit's files, as a sidecar does after ACCEPTED."""
        output = Path(program_from_json(self.welcome.program).sink.uri)
        for file in commit.files:
            staged = Path(self.welcome.staging) / staged_name(file.name)
            publish(staged, output / file.name, file.size, file.digest)

    async def deliver(self, grant: v1.Grant) -> v1.Commit:
        """A lease's whole way: staged, committed, published, reported."""
        commit = self.stage(grant)
        await self.exchange(commits=[commit])
        self.publish(commit)
        await self.exchange(published=[v1.Held(commit.shard, commit.epoch)])
        return commit

    async def split(self, grant: v1.Grant, at: int) -> None:
        """Keeps the lease's units before `at`, which the coordinator must take."""
        answer = await self.exchange(offers=[v1.SplitOffer(grant.shard, grant.epoch, at)])
        assert [(a.shard, a.epoch, a.end) for a in answer.answers] == [(grant.shard, grant.epoch, at)]
        grant.end = at

    async def work(self, until: Callable[[v1.ExchangeReply], bool]) -> v1.ExchangeReply:
        """Leases, commits and publishes until an answer fits."""
        published: list[v1.Held] = []
        while True:
            answer = await self.exchange(want=2, published=published)
            published = []
            if until(answer):
                return answer
            for grant in list(self.held.values()):
                commit = self.stage(grant)
                verdicts = (await self.exchange(commits=[commit])).commits
                if [v.outcome for v in verdicts] == ["ACCEPTED"] and verdicts[0].reason != "held":
                    self.publish(commit)
                    published.append(v1.Held(commit.shard, commit.epoch, commit.begin, commit.end, commit.end))


def holding(grant: v1.Grant, rows_done: int, rows_rejected: int) -> v1.Held:
    """What a worker says of a lease some rows of which are done."""
    return v1.Held(
        grant.shard, grant.epoch, grant.begin, grant.end, grant.begin, rows_done=rows_done, rows_rejected=rows_rejected
    )


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def submit(c: Coordinator, folder: Path, digest: str = "d1", again: bool = False, **job: Any) -> v1.Job:
    return await c.jobs.submit(v1.SubmitRequest(job_text(folder, **job), digest=digest, again=again))


async def one_lease(c: Coordinator, worker: FakeWorker) -> v1.Grant:
    await worker.register()
    answer = await worker.exchange(want=1)
    assert len(answer.grants) == 1
    return answer.grants[0]


def condition(job: v1.Job, kind: str) -> v1.Condition:
    return next(c for c in job.conditions if c.type == kind)
