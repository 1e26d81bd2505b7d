"""`headrace run`: one job on this machine, from the job file to `_SUCCESS`.

    headrace run ──lifeline──▶ coordinator ◀──gRPC── sidecar(s) ──▶ predictor hosts ──▶ predictors
         └──────────────gRPC──────┘

The coordinator is a child that is started again when it dies; so are workers. Shutdown order: workers drain, then the
coordinator ends (it must hear their last commits), then the lifeline is cut.

Not here: planning and everything durable (the coordinator), the work (`sidecar`).
"""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli.children import Child, Children
from coordinator.cli.interrupted import Interrupted
from coordinator.cli.progress import Progress
from coordinator.cli.show import warn
from coordinator.cli.state import JobFolder, job_folder
from coordinator.cli.words import complete_text
from coordinator.http import loopback_socket
from headrace import collector
from headrace.errors import BadJob, Fault, HeadraceError
from headrace.leftovers import RUN_MARK, Leftovers
from headrace.rejects import JOB_SUFFIX
from headrace.words import TERMINAL_PHASES, ExitCode

if TYPE_CHECKING:  # imported while the children already start
    from coordinator.planning import Probe
    from coordinator.spec import InferenceJob, LoadedJob
    from headrace import v1

RESTARTS_MAX = 10
"""Of one child within RESTART_SPAN_S; then the run ends, and the same command continues it."""
RESTART_SPAN_S = 60.0
SETTLED_S = 5.0
"""A child that lived for longer was well: the next is started at once, and no pause is added up."""
CHAOS_ATTEMPTS = 255
"""Of a shard under `headrace chaos`: as many as a ledger counts."""
ORPHANS_GRACE_S = 3.0
"""From a worker's end to the end of what it has left; its predictor hosts end by themselves within two."""
DRAINED_PAUSE_S = 1.0
"""Before a worker that has drained is started again."""
DRAIN_GRACE_S = 30.0
END_GRACE_S = 3.0
NEVER_AGAIN = (ExitCode.DONE, ExitCode.BAD_JOB, ExitCode.BAD_CONFIG, ExitCode.TEMPORARY)


class ChildFailed(HeadraceError):
    """A child keeps dying."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says."""

    path: Path
    state: Path
    workers: int
    limit_rows: int | None = None
    again: bool = False
    sets: Mapping[str, str] = field(default_factory=dict)
    predictors_max: int | None = None
    verbose: bool = False
    output: str = "table"
    http_port: int | None = None  # of metrics and probes; 0: a free one
    rejected: bool = False  # run the output's rejected rows again
    is_under_chaos: bool = False  # what dies is killed on purpose: no child and no shard is given up for it


def run_job(options: RunOptions, environ: Mapping[str, str]) -> int:
    """Runs the job to its end; prints; returns the exit code."""
    from coordinator.spec import examine_job

    begun = time.monotonic()
    loaded = examine_job(options.path, options.sets, environ)
    name = loaded.job.metadata.name + (JOB_SUFFIX if options.rejected else "")
    folder = job_folder(options.state, name)
    if loaded.faults and options.rejected:
        raise loaded.located(BadJob(loaded.faults))  # neither its source nor an empty output are wanted
    if loaded.faults:
        from coordinator.cli.plan import mistakes

        raise mistakes(loaded, folder, options.limit_rows)
    is_new = not folder.path.exists()
    folder.create()
    leftovers = Leftovers(RUN_MARK, folder.lock())  # held until this process ends
    folder.sweep()
    if not is_new:
        leftovers.end()  # of a killed run
    http = None if options.http_port is None else loopback_socket(options.http_port)
    if http is not None:
        warn(f"metrics: http://127.0.0.1:{http.getsockname()[1]}/metrics, beside /livez, /readyz")
    try:
        return asyncio.run(_Run(options, loaded, folder, begun, environ, leftovers, http).run())
    except BadJob:
        if is_new:  # a job that never was leaves nothing
            folder.remove()
        raise


class _Run:
    def __init__(
        self,
        options: RunOptions,
        loaded: "LoadedJob",
        folder: JobFolder,
        begun: float,
        environ: Mapping[str, str],
        leftovers: Leftovers,
        http: socket.socket | None,
    ) -> None:
        self._http = http  # listens here, so that it outlives a coordinator and its port stays the same
        self._options = options
        self._loaded = loaded
        self._folder = folder
        self._begun = begun
        self._progress = Progress(quiet=options.output != "table")
        self._children = Children(folder.logs, options.verbose, {**environ, **leftovers.environment})
        self._leftovers = leftovers
        leftovers.adopt()  # what a worker leaves that is killed with its hosts
        self._workers: list[Child] = []
        self._coordinator: Child | None = None
        self._is_submitted = False
        self._is_over = False
        self._is_decided = False
        self._interrupts = 0
        self._interrupted: asyncio.Future[int]

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._interrupted = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        # The children import while the stages are probed here.
        supervisors = [asyncio.create_task(self._keep_coordinator(), name="coordinator")]
        supervisors += [
            asyncio.create_task(self._keep_worker(i), name=f"worker {i}") for i in range(self._options.workers)
        ]
        work = asyncio.create_task(self._work(), name="work")
        try:
            ends: list[asyncio.Future[Any]] = [work, self._interrupted, *supervisors]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._is_over = True
            if work.done():
                return work.result()
            if self._interrupted.done():
                await self._drain()
                if work.done():  # the drain finished the job
                    return work.result()
                raise Interrupted(self._interrupted.result())
            return await self._after_failed_child(work, supervisors)
        except BadJob as error:
            raise self._loaded.located(error) from error
        finally:
            self._is_over = True
            self._progress.close()
            await self._end_all([work, *supervisors])

    async def _after_failed_child(self, work: "asyncio.Task[int]", supervisors: "list[asyncio.Task[None]]") -> int:
        """A child has failed for good: the job's own word on it, if it comes soon, says more than an exit code."""
        await asyncio.wait([work], timeout=END_GRACE_S)
        if work.done():
            return work.result()
        for supervisor in supervisors:
            if supervisor.done():
                supervisor.result()
        raise ChildFailed("A process of this run ended.")

    # ------------------------------------------------------------------ the job

    async def _work(self) -> int:
        from coordinator.cli.show import say_if_heard, text_of
        from coordinator.cli.summary import job_json, plan_text, rows_in, summary_text

        job = await self._submit()
        self._is_submitted = True
        rows_before = rows_in(job)
        if self._options.output == "table":
            if job.phase == "Succeeded":
                say_if_heard(complete_text(job.name))
            else:
                say_if_heard(plan_text(job, self._options.workers))
        from coordinator.cli.client import follow

        collector.resume()
        if job.phase not in TERMINAL_PHASES:
            async for status in follow(self._folder.address, None, job.name):
                job = status
                self._progress.show(job)
        self._is_decided = True
        self._progress.close()
        seconds = time.monotonic() - self._begun
        if self._options.output == "json":  # one line, for those who read lines
            say_if_heard(json.dumps(job_json(job, seconds), ensure_ascii=False))
        else:
            lines = [summary_text(job, seconds, rows_before)]
            say_if_heard(text_of(job_json(job, seconds), self._options.output, lambda _: lines))
        return ExitCode.DONE if job.phase == "Succeeded" else ExitCode.FAILED

    async def _submit(self) -> "v1.Job":
        from coordinator.cli.submit import prepare

        job, folder, options = self._loaded.job, self._loaded.folder, self._options
        request, probes, faults = await prepare(
            job,
            folder,
            self._overridden(),
            limit_rows=options.limit_rows,
            again=options.again,
            environ=self._leftovers.environment,
        )
        if faults:
            raise await self._mistakes(probes, faults)
        request.rejected = options.rejected

        from coordinator.cli.client import SUBMIT_TIMEOUT_S

        return await self._ask(lambda jobs: jobs.submit(request, timeout=SUBMIT_TIMEOUT_S))

    async def _mistakes(self, probes: "Mapping[str, Probe]", faults: Sequence[Fault]) -> BadJob:
        """Stages can't be loaded: what else is wrong with the job, unless it goes on, for which nothing else counts."""
        from coordinator.cli.client import NotFound
        from coordinator.cli.plan import all_faults
        from coordinator.examination import Told
        from headrace import v1

        name = self._folder.path.name
        if self._options.rejected:
            return BadJob(faults)
        try:
            await self._ask(lambda jobs: jobs.get(v1.JobRequest(name=name)))
        except NotFound:
            told, limit_rows = Told(tuple(faults)), self._options.limit_rows
            return await asyncio.to_thread(all_faults, self._loaded, probes, told, limit_rows, with_output=True)
        return BadJob(faults)

    async def _ask(self, call: "Callable[[v1.JobServiceStub], Awaitable[v1.Job]]") -> "v1.Job":
        from coordinator.cli.client import SUBMIT_TIMEOUT_S, Unreachable, job_service

        deadline = time.monotonic() + SUBMIT_TIMEOUT_S
        while True:
            try:
                async with job_service(self._folder.address) as jobs:
                    return await call(jobs)
            except Unreachable:  # it starts, or starts again
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.02)

    def _overridden(self) -> "InferenceJob":
        """The job with what the command line says about workers."""
        job = self._loaded.job
        changes: dict[str, int] = {"max": self._options.workers}
        if self._options.predictors_max is not None:
            changes["predictors_max"] = self._options.predictors_max
        workers = job.spec.workers.model_copy(update=changes)
        fields = workers.model_fields_set | set(changes)
        workers.model_fields_set.update(fields)
        spec = job.spec.model_copy(update={"workers": workers})
        spec.model_fields_set.add("workers")
        if self._options.is_under_chaos:
            retries = spec.retries.model_copy(update={"attempts": CHAOS_ATTEMPTS})
            retries.model_fields_set.add("attempts")
            spec = spec.model_copy(update={"retries": retries})
            spec.model_fields_set.add("retries")
        return job.model_copy(update={"spec": spec})

    # ------------------------------------------------------------------ children

    async def _keep_coordinator(self) -> None:
        def arguments() -> list[str]:
            places = ["--state", str(self._folder.path), "--socket", str(self._folder.socket)]
            places += [] if self._http is None else ["--http-fd", str(self._http.fileno())]
            # Before the submission is accepted, nobody knows that the job's model and code are what they were.
            return places if self._is_submitted else [*places, "--await-submission"]

        await self._keep("coordinator", "coordinator", arguments, () if self._http is None else (self._http.fileno(),))

    async def _keep_worker(self, number: int) -> None:
        name = f"worker-{number}"
        arguments = ["--coordinator", self._folder.address, "--worker", name]
        arguments += ["--socket-folder", str(self._folder.sockets)]
        arguments += ["--verbose"] if self._options.verbose else []
        await self._keep(name, "sidecar", lambda: arguments)

    async def _keep(
        self, name: str, module: str, arguments: Callable[[], list[str]], inherited: Sequence[int] = ()
    ) -> None:
        """Starts a child again whenever it dies; returns when the run is over."""
        ends: list[float] = []
        short_lives = 0
        while not self._is_over:
            begun = time.monotonic()
            try:
                child = await self._children.start(name, module, arguments(), inherited)
            except OSError as error:  # its log can't be opened, or the machine has no process left
                where = f"{error.filename}: " if error.filename else ""
                raise ChildFailed(
                    f"The {name} can't be started: {where}{error.strerror}. The same command continues when it can."
                ) from error
            if name == "coordinator":
                self._coordinator = child
            else:
                self._workers = [*(worker for worker in self._workers if worker.name != name), child]
            status = await child.process.wait()
            if self._is_over:
                return
            asyncio.get_running_loop().call_later(ORPHANS_GRACE_S, self._kill_orphans)
            if status == ExitCode.DONE and module == "sidecar":
                # The job is over, which the watch says in a moment, or suspended: the next one waits for its end.
                await asyncio.sleep(DRAINED_PAUSE_S)
                continue
            now = time.monotonic()
            ends = [*(end for end in ends if now - end < RESTART_SPAN_S), now]
            is_given_up = len(ends) > RESTARTS_MAX and not self._options.is_under_chaos
            # A coordinator's temporary trouble is a ledger that couldn't be written, or that its predecessor still has.
            is_final = status in NEVER_AGAIN and (module, status) != ("coordinator", ExitCode.TEMPORARY)
            if is_final or is_given_up:
                raise ChildFailed(f"The {name} ended with exit status {status}.\n{child.tail()}")
            self._progress.note(f"{name} ended with status {status}; starting it again")
            short_lives = short_lives + 1 if now - begun < SETTLED_S else 1
            await asyncio.sleep(min(2.0, 0.05 * 2**short_lives))

    def _kill_orphans(self) -> None:
        if self._is_over or not self._is_submitted:  # a probe may run; `_end_all` ends them
            return
        if self._children.is_starting:
            asyncio.get_running_loop().call_later(ORPHANS_GRACE_S, self._kill_orphans)
            return
        started = (*self._workers, self._coordinator)
        self._leftovers.kill_orphans(but=[child.process.pid for child in started if child is not None])

    async def _drain(self) -> None:
        self._progress.note("Draining: finishing what has been read. A second Ctrl-C stops at once.")
        await asyncio.gather(*(worker.end(DRAIN_GRACE_S) for worker in self._workers))

    async def _end_all(self, tasks: "list[asyncio.Task[int] | asyncio.Task[None]]") -> None:
        ends = [worker.end(END_GRACE_S) for worker in self._workers]
        last = [] if self._coordinator is None else [self._coordinator.end(END_GRACE_S)]
        if self._is_decided:  # nobody has anything to tell the coordinator any more
            await asyncio.gather(*ends, *last)
        else:
            await asyncio.gather(*ends)
            await asyncio.gather(*last)
        self._children.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._leftovers.end()

    def _on_signal(self, number: int) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._interrupted.set_result(number)
            return
        for child in (*self._workers, self._coordinator):
            if child is not None:
                with suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
        os._exit(128 + number)
