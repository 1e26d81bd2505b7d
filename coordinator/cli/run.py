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
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli.children import Child, Children
from coordinator.cli.progress import Progress
from coordinator.cli.state import JobFolder, job_folder
from headrace import collector
from headrace.errors import BadJob, HeadraceError
from headrace.words import ExitCode

if TYPE_CHECKING:  # imported while the children already start
    from coordinator.spec import InferenceJob, LoadedJob
    from headrace import v1

RESTARTS_MAX = 10
"""Of one child within RESTART_SPAN_S; then the run ends, and the same command continues it."""
RESTART_SPAN_S = 60.0
DRAINED_PAUSE_S = 1.0
"""Before a worker that has drained is started again."""
DRAIN_GRACE_S = 30.0
END_GRACE_S = 3.0
NEVER_AGAIN = (ExitCode.DONE, ExitCode.BAD_JOB, ExitCode.BAD_CONFIG, ExitCode.TEMPORARY)


class Interrupted(HeadraceError):
    """A signal ended the run; the job can be continued."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__("Interrupted. Everything committed is kept: the same command continues.")


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


def run_job(options: RunOptions, environ: Mapping[str, str]) -> int:
    """Runs the job to its end; prints; returns the exit code."""
    from coordinator.spec import load_job

    begun = time.monotonic()
    loaded = load_job(options.path, options.sets, environ)
    folder = job_folder(options.state, loaded.job.metadata.name)
    folder.create()
    folder.lock()  # held until this process ends
    folder.sweep()
    return asyncio.run(_Run(options, loaded, folder, begun, environ).run())


class _Run:
    def __init__(
        self,
        options: RunOptions,
        loaded: "LoadedJob",
        folder: JobFolder,
        begun: float,
        environ: Mapping[str, str],
    ) -> None:
        self._options = options
        self._loaded = loaded
        self._folder = folder
        self._begun = begun
        self._progress = Progress(quiet=options.output != "table")
        self._children = Children(folder.logs, options.verbose, environ)
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
        from coordinator.cli.show import show
        from coordinator.cli.summary import job_json, plan_text, rows_in, summary_text

        job = await self._submit()
        self._is_submitted = True
        rows_before = rows_in(job)
        if self._options.output == "table":
            if job.phase == "Succeeded":
                print(f"Job {job.name} is complete already (--again starts it anew).")
            else:
                print(plan_text(job, self._options.workers), flush=True)
        from coordinator.cli.client import follow

        collector.resume()
        if job.phase not in ("Succeeded", "Failed"):
            async for status in follow(self._folder.address, None, job.name):
                job = status
                self._progress.show(job)
        self._is_decided = True
        self._progress.close()
        seconds = time.monotonic() - self._begun
        if self._options.output == "json":  # one line, for those who read lines
            print(json.dumps(job_json(job, seconds), ensure_ascii=False))
        else:
            show(job_json(job, seconds), self._options.output, lambda _: [summary_text(job, seconds, rows_before)])
        return ExitCode.DONE if job.phase == "Succeeded" else ExitCode.FAILED

    async def _submit(self) -> "v1.Job":
        from coordinator.identity import job_digest
        from coordinator.planning import check_system, probes_to_json
        from coordinator.probing import probe_stages

        job, folder = self._loaded.job, self._loaded.folder
        check_system(sys.platform)
        probes = asyncio.create_task(probe_stages(job, folder), name="probe")
        digest = await asyncio.to_thread(job_digest, job, folder, self._options.limit_rows)
        manifest = self._overridden().to_manifest(folder)

        from coordinator.cli.client import SUBMIT_TIMEOUT_S, Unreachable, job_service
        from headrace import v1

        probed = await probes
        deadline = time.monotonic() + SUBMIT_TIMEOUT_S
        while True:
            try:
                async with job_service(self._folder.address) as jobs:
                    return await jobs.submit(
                        v1.SubmitRequest(
                            manifest=manifest,
                            probes=probes_to_json(probed),
                            limit_rows=self._options.limit_rows or 0,
                            again=self._options.again,
                            digest=digest,
                        ),
                        timeout=SUBMIT_TIMEOUT_S,
                    )
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
        return job.model_copy(update={"spec": spec})

    # ------------------------------------------------------------------ children

    async def _keep_coordinator(self) -> None:
        def arguments() -> list[str]:
            places = ["--state", str(self._folder.path), "--socket", str(self._folder.socket)]
            # Before the submission is accepted, nobody knows that the job's model and code are what they were.
            return places if self._is_submitted else [*places, "--await-submission"]

        await self._keep("coordinator", "coordinator", arguments)

    async def _keep_worker(self, number: int) -> None:
        name = f"worker-{number}"
        arguments = ["--coordinator", self._folder.address, "--worker", name]
        arguments += ["--socket-folder", str(self._folder.sockets)]
        arguments += ["--verbose"] if self._options.verbose else []
        await self._keep(name, "sidecar", lambda: arguments)

    async def _keep(self, name: str, module: str, arguments: Callable[[], list[str]]) -> None:
        """Starts a child again whenever it dies; returns when the run is over."""
        ends: list[float] = []
        while not self._is_over:
            child = await self._children.start(name, module, arguments())
            if name == "coordinator":
                self._coordinator = child
            else:
                self._workers = [*(worker for worker in self._workers if worker.name != name), child]
            status = await child.process.wait()
            if self._is_over:
                return
            if status == ExitCode.DONE and module == "sidecar":
                # The job is over, which the watch says in a moment, or suspended: the next one waits for its end.
                await asyncio.sleep(DRAINED_PAUSE_S)
                continue
            now = time.monotonic()
            ends = [*(end for end in ends if now - end < RESTART_SPAN_S), now]
            if status in NEVER_AGAIN or len(ends) > RESTARTS_MAX:
                raise ChildFailed(f"The {name} ended with exit status {status}.\n{child.tail()}")
            print(f"{name} ended with status {status}; starting it again", file=sys.stderr)
            await asyncio.sleep(min(2.0, 0.05 * 2 ** len(ends)))

    async def _drain(self) -> None:
        print("Draining: finishing what has been read. A second Ctrl-C stops at once.", file=sys.stderr)
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
