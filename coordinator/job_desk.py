"""What users ask for: submissions, changes of a job's state, listings.

A submission is idempotent on the job's name and the digest of what decides its output: the same one continues the job
or answers that it is complete; another is refused until the user says `again`, which starts anew under a new uid.

Not here: leases and commits (`coordinator.worker_desk`), planning itself (`coordinator.submission`).
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from coordinator.continuing import is_complete, refusal
from coordinator.core.lease_values import ShardView
from coordinator.core.ledger import JobLedger, plan_facts
from coordinator.driver import CLEARED, Driver, NoSuchJob, WrongState
from coordinator.exchange import Seat
from coordinator.job_run import OUTPUT_COMMITTED, JobRun
from coordinator.jobs import JobState, JobStatus
from coordinator.manifest import RETRY
from coordinator.output import has_success
from coordinator.submission import Submission, changed_program, check_job, plan_job, read_job, read_options
from headrace.errors import BadJob, Fault
from headrace.words import Reason, ShardState

if TYPE_CHECKING:
    from coordinator.spec import InferenceJob
    from coordinator.submission import CheckedJob, PlannedJob

log = structlog.get_logger()

SCAN_MAX = 5000
"""Commits that one page of rejects looks at."""


@dataclass(frozen=True, slots=True)
class RejectsPage:
    """Rejects files of some commits; `rows` are the whole job's."""

    files: tuple[tuple[int, str, int], ...]  # shard, absolute path, rows
    rows: int
    next: int  # 0: no more
    corrupt: tuple[tuple[str, int, int, str], ...] = ()  # path, units of the file, reason
    unit: str = "row"


class JobDesk:
    """Users' side of the driver, on the same loop."""

    def __init__(self, driver: Driver, plan: "Callable[..., PlannedJob]" = plan_job) -> None:
        self._driver = driver
        self._plan = plan
        self._submitting = asyncio.Lock()  # numbers and names are given one at a time

    # ------------------------------------------------------------------ submissions

    async def submit(self, submission: Submission) -> JobStatus:
        """Plans and starts a job, continues it, or says that it is complete.

        Raises:
            BadJob: the job can't run; nothing was touched.
            WrongState: a job of this name has other content.
        """
        async with self._submitting:
            job = await asyncio.to_thread(read_job, submission)
            run = self._named(job.metadata.name)
            checked: CheckedJob | None = None
            if run is not None and submission.rejected and is_complete(run.ledger):
                run = None  # what is still rejected is another job's to run
            if run is not None and submission.again:
                # What there is stays until the new job is known to be good, so that a bad one costs nothing.
                if run.state is JobState.SUCCEEDED:
                    await asyncio.to_thread(_check_room, run, job)
                else:
                    checked = await asyncio.to_thread(check_job, submission)
                    await self._abandon(run)
                run = None
            if run is None:
                run = await self._start(submission, job, checked)
            else:
                if text := await asyncio.to_thread(refusal, run.ledger, submission.digest, job):
                    raise WrongState(text)
                await self._continue(run, job)
            await self._driver.commits.durable()
            return self.status_of(run)

    async def _start(self, submission: Submission, job: "InferenceJob", checked: "CheckedJob | None") -> JobRun:
        driver = self._driver
        number, uid = driver.ledger.job_next, secrets.token_hex(8)
        plan = await asyncio.to_thread(
            self._plan, submission, number=number, uid=uid, ledger_path=driver.path, checked=checked
        )
        # The table keeps and changes `ends`, so it is made when they are written.
        await driver.commits.stream(plan_facts(plan.planned, plan.dataset, plan.ends))
        ledger = JobLedger(plan.planned, plan.dataset, plan.ends)
        driver.ledger.add(ledger)
        run = driver.add_run(JobRun(ledger, ledger_path=driver.path, now=driver.now()))
        await driver.open_output(run)
        driver.change(run, JobState.SUSPENDED if job.spec.suspend else JobState.RUNNING)
        log.info("job", job=run.name, uid=run.uid, state="Running", shards=plan.planned.shards)
        return run

    async def _continue(self, run: JobRun, job: "InferenceJob") -> None:
        if is_complete(run.ledger):
            return
        program = await asyncio.to_thread(changed_program, run.program, job)
        run.set_options(read_options(job), program.to_json())
        if run.state is JobState.FAILED:
            if OUTPUT_COMMITTED not in run.ledger.steps:
                await self._driver.reopen_output(run)
                run.is_unchecked = False
            # Publishes that failed are tried again.
            run.table.restart(self._driver.now(), self._driver.lease_ttl_s)
        run.is_awaited = False
        self._driver.change(run, JobState.SUSPENDED if job.spec.suspend else JobState.RUNNING)

    async def _abandon(self, run: JobRun) -> None:
        if run.finishing is not None or run.publishing:
            raise WrongState(f"The output of the job {run.name!r} is being finished; try again in a moment.")
        if run.plan.sink.mode == RETRY and await asyncio.to_thread(run.output.is_described):
            # The rejects that it ran again may be gone, and only its manifest tells what became of them.
            raise WrongState(f"The job {run.name!r} is all but complete; run it without --again.")
        self._driver.change(run, JobState.ABANDONED)
        await self._driver.clear(run)
        if CLEARED not in run.ledger.steps:
            raise WrongState(f"What the job {run.name!r} left in {run.output.place} can't be removed.")

    # ------------------------------------------------------------------ changes

    async def cancel(self, name: str) -> JobStatus:
        """Ends a job as Failed; nothing that was committed is lost, and a submission continues it.

        Raises:
            NoSuchJob: for this and every method that takes a name.
            WrongState: it is complete, or its output is being finished.
        """
        run = self._find(name)
        if run.finishing is not None or run.state is JobState.SUCCEEDED:
            raise WrongState(f"The job {name!r} is complete, or about to be.")
        self._driver.fail(run, Reason.CANCELLED, "It was cancelled.")
        return await self._durable(run)

    async def suspend(self, name: str) -> JobStatus:
        """Grants nothing more; workers hand back what they hold."""
        run = self._find(name)
        if run.state is JobState.RUNNING and run.finishing is None:
            self._driver.change(run, JobState.SUSPENDED)
        elif run.state is not JobState.SUSPENDED:
            raise WrongState(f"The job {name!r} isn't running.")
        return await self._durable(run)

    async def resume(self, name: str) -> JobStatus:
        """Goes on with a suspended job."""
        run = self._find(name)
        if run.state is JobState.SUSPENDED:
            self._driver.change(run, JobState.RUNNING)
        elif run.state is not JobState.RUNNING:
            raise WrongState(f"The job {name!r} is over; submit it again to continue it.")
        return await self._durable(run)

    async def scale(self, name: str, workers_max: int) -> JobStatus:
        """Sets the most workers that get leases; 0: no limit."""
        run = self._find(name)
        run.options = replace(run.options, workers_max=workers_max or None)
        self._driver.change(run, run.state, reason=run.reason, message=run.message)
        return await self._durable(run)

    # ------------------------------------------------------------------ queries

    def status(self, name: str) -> JobStatus:
        """One job as it is now."""
        return self.status_of(self._find(name))

    def statuses(self) -> list[JobStatus]:
        """All jobs, the newest of each name, in order of submission."""
        newest = {run.name: run for run in self._driver.runs.values() if not run.is_forgotten}
        return [self.status_of(run) for run in newest.values()]

    def status_of(self, run: JobRun) -> JobStatus:
        """One job as it is now."""
        driver = self._driver
        return run.status(driver.now(), driver.seats_of(run), driver.term)

    def next_change(self, name: str) -> "asyncio.Future[None]":
        """Done with the next change of anything that people see."""
        return self._find(name).next_change()

    def end_of(self, name: str) -> "asyncio.Future[None]":
        """Done while the job is complete or failed."""
        return self._find(name).ended

    def shards(self, name: str, state: ShardState | None, after: int, limit: int) -> list[ShardView]:
        """A page of shards with ids above `after`."""
        return self._find(name).table.shards(state=state, after=after, limit=limit)

    def workers(self, name: str) -> list[tuple[Seat, int, float]]:
        """Workers, how many leases each holds, and seconds since it was seen; of all jobs without a name."""
        driver = self._driver
        runs = [self._find(name)] if name else list(driver.runs.values())
        return [
            (seat, len(run.table.held_by(seat.name)), max(0.0, driver.now() - seat.seen_at))
            for run in runs
            for seat in driver.seats.values()
            if seat.job_uid == run.uid
        ]

    async def rejects(self, name: str, after: int, limit: int) -> RejectsPage:
        """Rejects files and corrupt ranges, in order of the dataset, from the `after`th commit on."""
        run, commits = self._find(name), self._driver.commits
        await commits.durable()
        numbers = run.table.commit_numbers()
        scanned = numbers[after : after + SCAN_MAX]

        def read() -> tuple[list[tuple[int, str, int]], list[tuple[str, int, int, str]], int]:
            found: list[tuple[int, str, int]] = []
            corrupt: list[tuple[str, int, int, str]] = []
            for i, commit in enumerate(commits.commits(scanned), after + 1):
                corrupt += [
                    (part.path, part.begin, part.end, damage.reason)
                    for damage in commit.corrupt
                    for part in run.ledger.dataset.slices(damage.begin, damage.end)
                ]
                found += [
                    (commit.shard, run.output.store.place_of(file.name), file.rows)
                    for file in commit.files
                    if file.kind == "rejects"
                ]
                if len(found) + len(corrupt) >= limit:
                    return found, corrupt, i
            return found, corrupt, after + len(scanned)

        files, corrupt, reached = await asyncio.to_thread(read)
        return RejectsPage(
            tuple(files),
            run.table.rows.rejected,
            reached if reached < len(numbers) else 0,
            tuple(corrupt),
            run.ledger.planned.unit,
        )

    # ------------------------------------------------------------------ inside

    async def _durable(self, run: JobRun) -> JobStatus:
        await self._driver.commits.durable()
        return self.status_of(run)

    def _named(self, name: str) -> JobRun | None:
        runs = [run for run in self._driver.runs.values() if run.name == name and not run.is_forgotten]
        return runs[-1] if runs else None

    def _find(self, name: str) -> JobRun:
        run = self._named(name)
        if run is None:
            raise NoSuchJob(f"No job is called {name!r} here.")
        return run


def _check_room(run: JobRun, job: "InferenceJob") -> None:
    """Checks that a complete job may be started anew: nothing but mode replace gives its output away.

    Raises:
        BadJob: the new job, of mode fail, would write where the complete output lies.
    """
    place = run.output.place
    if job.spec.sink.mode == "fail" and job.spec.sink.uri.rstrip("/") == place and has_success(run.output.store):
        found = f"{place} isn't empty: it has the output of the job {run.name!r}, which is complete"
        expected = "mode: replace, which puts the new output in its place, or an empty folder"
        raise BadJob([Fault("spec.sink.uri", found, expected)])
