"""The coordinator in a simulated world: the real driver, desks, group commit, lease tables and output.

Only what lies below is simulated: the journal's disk, the clock, the threads. A user submits the job, again after every
restart and every failure, until it is complete.

Not here: the file of the ledger (`disk`), what the laws ask of it (`laws`).
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from coordinator.core.columns import Ints
from coordinator.core.facts import CommitDecided, Fact, JobPlanned
from coordinator.core.leases import LeaseTable
from coordinator.driver import Driver, WrongState
from coordinator.exchange import Answer, Introduction, Report, Welcome
from coordinator.group_commit import GroupCommit
from coordinator.job_desk import JobDesk
from coordinator.job_run import JobRun
from coordinator.jobs import Options, Plan, SinkPlan
from coordinator.journal import JournalFailed
from coordinator.submission import CheckedJob, PlannedJob, Submission
from coordinator.worker_desk import WorkerDesk
from headrace.dataset import Dataset
from headrace.errors import BadJob, SinkError
from headrace.program import ErrorPolicy, Program, Ref, SinkColumn, SinkProgram, SourceProgram, StageInput, StageProgram
from headrace.words import WorkerName
from tests.sim.disk import SimDisk, SimJournal
from tests.sim.laws import Laws
from tests.sim.processes import Process
from tests.sim.story import Story
from tests.sim.telling import tell_answer, tell_report

LEASE_TTL_S = 3.0
NAME = "numbers"
SCHEMA: Final = base64.b64encode(pa.schema([("n", pa.int64())]).serialize().to_pybytes()).decode()
"""Of the source, as a program has it."""
OLDER = "older.jsonl"
"""What lies in an output that isn't empty."""
LOOK_EVERY_S = 0.4
"""How often the user looks."""

asking: ContextVar[WorkerName | None] = ContextVar("asking", default=None)
"""Whose call is being decided."""


class Environment(Protocol):
    """What the coordinator finds in its world."""

    now: float
    story: Story
    disk: SimDisk
    laws: Laws
    output: Path

    def decided(self, facts: Sequence[Fact], asking: WorkerName | None) -> None:
        """Facts were decided, perhaps in the call of a worker."""

    def coordinator_ready(self, coordinator: "CoordinatorActor") -> None:
        """Workers may call."""

    def job_complete(self, *, is_degraded: bool) -> None:
        """The user has heard that the job is over."""

    def note(self, who: str, what: str) -> None:
        """For the transcript."""


class UnthreadedCommit(GroupCommit):
    """The group commit; threads are simulated already where it is called."""

    def commits(self, numbers: Ints) -> Iterator[CommitDecided]:
        return self._journal.commits(numbers)


class WatchedDriver(Driver):
    """The driver, with a witness of all that it decides."""

    def __init__(
        self,
        journal: SimJournal,
        environment: Environment,
        table: type[LeaseTable],
        commits: type[UnthreadedCommit],
    ) -> None:
        super().__init__(journal, clock=lambda: environment.now, lease_ttl_s=LEASE_TTL_S)  # type: ignore[arg-type]
        self.commits = commits(journal, self._note_numbers, self._break)  # type: ignore[arg-type]
        self._environment = environment
        self._table = table

    def add_run(self, run: JobRun) -> JobRun:
        run.table.__class__ = self._table  # the same state, perhaps with a decision gone wrong
        return super().add_run(run)

    def record(self, facts: Iterable[Fact]) -> None:
        facts = list(facts)
        self._environment.decided(facts, asking.get())
        super().record(facts)


class CoordinatorActor:
    """One life of the coordinator."""

    def __init__(
        self,
        process: Process,
        environment: Environment,
        journal: SimJournal,
        table: type[LeaseTable],
        commits: type[UnthreadedCommit],
    ) -> None:
        """`table` and `commits` decide, rightly or not."""
        self.process = process
        self.driver: WatchedDriver | None = None
        self._jobs: JobDesk | None = None
        self._workers: WorkerDesk | None = None
        self._environment = environment
        self._journal = journal
        self._table = table
        self._commits = commits

    async def main(self) -> None:
        """Lives until its ledger can't be written."""
        driver = WatchedDriver(self._journal, self._environment, self._table, self._commits)
        await driver.start()
        self.driver, self._jobs, self._workers = driver, JobDesk(driver, self._plan), WorkerDesk(driver)
        self._environment.coordinator_ready(self)
        self.process.spawn(self._use(self._jobs))
        raise await driver.broken

    # ------------------------------------------------------------------ workers

    async def register(self, intro: Introduction) -> Welcome | None:
        """None: this worker must end."""
        assert self._workers is not None
        asking.set(intro.worker)
        try:
            welcome = await self._workers.register(intro)
        except WrongState:
            return None
        self._environment.laws.welcomed(intro, welcome)
        return welcome

    async def exchange(self, report: Report) -> Answer:
        """As the desk; the answer is the caller's own."""
        assert self._workers is not None
        asking.set(report.worker)
        for told in tell_report(report):
            self._environment.note(report.worker, told)
        answer = await self._workers.exchange(report)
        self._environment.laws.answered(report, answer)
        for told in tell_answer(report, answer):
            self._environment.note("coordinator", told)
        return replace(answer)

    # ------------------------------------------------------------------ the user

    async def suspend(self) -> None:
        """The user suspends the job for a while."""
        assert self._jobs is not None
        with contextlib.suppress(WrongState):
            await self._jobs.suspend(NAME)

    async def resume(self) -> None:
        """And goes on."""
        assert self._jobs is not None
        with contextlib.suppress(WrongState):
            await self._jobs.resume(NAME)

    async def _use(self, jobs: JobDesk) -> None:
        submission = Submission(_manifest(self._environment), digest="d1")
        while True:
            try:
                status = await jobs.submit(submission)
                while status.phase in ("Pending", "Running"):
                    await asyncio.sleep(LOOK_EVERY_S)
                    status = jobs.status(NAME)
            except (BadJob, SinkError, WrongState) as error:
                self._environment.note("user", f"can't submit: {type(error).__name__}")
            except JournalFailed:
                return
            else:
                is_committed = any(c.type == "OutputCommitted" and c.is_true for c in status.conditions)
                if status.phase == "Succeeded" or (is_committed and status.shards_quarantined):
                    self._environment.job_complete(is_degraded=status.phase != "Succeeded")
                    return
                reason = next((c.reason for c in status.conditions if c.type == "Failed"), "")
                self._environment.note("user", f"finds the job {status.phase}: {reason}")
            await asyncio.sleep(LOOK_EVERY_S)

    def _plan(
        self, submission: Submission, *, number: int, uid: str, ledger_path: Path, checked: CheckedJob | None
    ) -> PlannedJob:
        story, output = self._environment.story, self._environment.output
        uid = f"{number:04d}sim{story.seed}"
        is_held = story.mode != "fail"
        dataset, ends = plan(story)
        sink = SinkPlan(
            uri=str(output),
            mode=story.mode,
            format="jsonl",
            number=1,
            base=None,
            old=(OLDER,) if story.mode == "replace" else (),
        )
        program = Program(
            job_name=NAME,
            job_uid=uid,
            source=SourceProgram(format="csv", columns=("n",), schema=SCHEMA, units=story.units),
            stages=(StageProgram("double", "python", "double:Double", (StageInput("n", (Ref("source", "n"),)),)),),
            sink=SinkProgram(format="jsonl", uri=str(output), columns=(SinkColumn("n", Ref("source", "n")),)),
            errors=ErrorPolicy(max_rejected_share=None),
        )
        options = Options(on_quarantine="degrade", coordinator_timeout_s=story.coordinator_timeout_s)
        planned = JobPlanned(
            job=number,
            files=len(dataset.paths),
            cuts=len(dataset.cuts),
            shards=len(ends),
            attempts_max=story.attempts_max,
            units_min=3,
            bytes_total=dataset.bytes_total,
            rows_total=story.units,
            held=is_held,
            divisible=dataset.divisible,
            rows_estimated=False,
            uid=uid,
            name=NAME,
            digest=submission.digest,
            unit=dataset.unit,
            manifest=submission.manifest,
            program=program.to_json(),
            plan=Plan(sink, options).to_json(),
        )
        return PlannedJob(planned, dataset, ends)


def plan(story: Story) -> tuple[Dataset, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """The dataset of a story, and its shards."""
    origins = np.linspace(0, story.units, story.files + 1).astype(np.int64)
    ends = np.linspace(0, story.units, story.shards + 1).astype(np.int64)[1:]
    cuts = np.unique(np.concatenate((origins[1:], ends)))
    dataset = Dataset(
        unit="row",
        paths=tuple(f"in/{i}" for i in range(story.files)),
        sizes=np.diff(origins) * 10,
        versions=("1",) * story.files,
        origins=origins,
        cuts=cuts,
        divisible=story.is_divisible,
        bytes_total=story.units * 10,
        rows_total=story.units,
    )
    return dataset, ends


def _manifest(environment: Environment) -> str:
    """The job as its user wrote it."""
    return json.dumps(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": NAME},
            "spec": {
                "source": {"format": "csv", "uri": "/in.csv"},
                "pipeline": [{"name": "double", "python": "double:Double", "inputs": {"n": "source.n"}}],
                "sink": {"format": "jsonl", "uri": str(environment.output), "columns": {"n": "source.n"}},
                "errors": {"maxRejected": "100%", "onQuarantine": "degrade"},
                "retries": {"coordinatorTimeout": f"{environment.story.coordinator_timeout_s:g}s"},
            },
        }
    )
