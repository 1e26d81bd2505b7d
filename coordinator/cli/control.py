"""Commands about jobs that run: each asks a coordinator and shows its answer."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.cli.client import NotFound, Unreachable, follow, job_service
from coordinator.cli.progress import Progress, line
from coordinator.cli.show import show, table
from coordinator.cli.state import job_folder, job_folders
from coordinator.cli.summary import job_json, message_plain
from headrace import collector, v1
from headrace.errors import HeadraceError
from headrace.words import ExitCode

PAGE = 1000
AWAY_MAX_S = 15.0
"""A coordinator that is started again is back within seconds; a run that has ended isn't."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which coordinator is asked: the one at `address`, or those of this machine's runs."""

    address: str | None
    token: str | None
    state: Path

    def of_job(self, name: str) -> str:
        """Address of the coordinator that knows the job `name`."""
        return self.address or job_folder(self.state, name).address

    def all(self) -> list[str]:
        """All addresses to ask for a list."""
        return [self.address] if self.address else [folder.address for folder in job_folders(self.state)]


async def show_status(where: Where, name: str | None, output: str) -> int:
    """One job in full, or all in a table."""
    if name is not None:
        job = await _ask(where, name, "get", v1.JobRequest(name=name))
        show(job_json(job), output, lambda _: _job_lines(job))
        return ExitCode.DONE
    jobs: list[v1.Job] = []
    for address in where.all():
        try:
            async with job_service(address, where.token) as service:
                jobs += (await service.list(v1.ListRequest())).jobs
        except Unreachable as error:
            if where.address:
                raise _nobody(where.address) from error
    show([job_json(job) for job in jobs], output, lambda _: _jobs_table(jobs))
    return ExitCode.DONE


async def watch_job(where: Where, name: str | None, output: str) -> int:
    """Follows one job to its end; without a name, the only one that runs."""
    if name is None:
        running = []
        for address in where.all():
            with suppress(*Unreachable):
                async with job_service(address, where.token) as service:
                    running += [job.name for job in (await service.list(v1.ListRequest())).jobs]
        if len(running) != 1:
            raise HeadraceError(f"Say which job to watch: {', '.join(running) or 'none runs here'}.")
        name = running[0]
    job = await _ask(where, name, "get", v1.JobRequest(name=name))
    collector.resume()
    progress = Progress(quiet=output != "table")
    async for status in follow(where.of_job(name), where.token, name, AWAY_MAX_S):
        job = status
        progress.show(job)
    progress.close()
    show(job_json(job), output, lambda _: _job_lines(job))
    return ExitCode.DONE if job.phase == "Succeeded" else ExitCode.FAILED


async def change_job(where: Where, name: str, verb: str, output: str) -> int:
    """cancel, suspend or resume."""
    job = await _ask(where, name, verb, v1.JobRequest(name=name))
    show(job_json(job), output, lambda _: _job_lines(job))
    return ExitCode.DONE


async def scale_job(where: Where, name: str, workers: int, output: str) -> int:
    """Sets the most workers."""
    job = await _ask(where, name, "scale", v1.ScaleRequest(name=name, workers_max=workers))
    show(job_json(job), output, lambda _: _job_lines(job))
    return ExitCode.DONE


async def show_listing(where: Where, name: str, what: str, output: str) -> int:
    """shards, workers or rejects of a job."""
    rows: list[Any] = []
    after = 0
    while True:
        if what == "workers":
            reply = await _ask(where, name, "list_workers", v1.JobRequest(name=name))
            rows += reply.workers
            break
        if what == "shards":
            reply = await _ask(where, name, "list_shards", v1.ShardsRequest(name=name, after=after, limit=PAGE))
            rows += reply.shards
        else:
            reply = await _ask(where, name, "list_rejects", v1.RejectsRequest(name=name, after=after, limit=PAGE))
            rows += reply.files
        after = reply.next
        if not after:
            break
    plain = [message_plain(row) for row in rows]
    show(plain, output, lambda _: table(plain, list(plain[0]) if plain else []))
    return ExitCode.DONE


async def _ask(where: Where, name: str, method: str, request: object) -> Any:
    address = where.of_job(name)
    try:
        async with job_service(address, where.token) as service:
            return await getattr(service, method)(request)
    except Unreachable as error:
        known = ", ".join(folder.path.name for folder in job_folders(where.state)) or "none"
        if where.address is None and not job_folder(where.state, name).path.is_dir():
            raise NotFound(f"No job {name!r} has run on this machine; known: {known}.") from error
        raise _nobody(address) from error


def _nobody(address: str) -> HeadraceError:
    return HeadraceError(f"No coordinator answers at {address}: the job isn't being run now.")


def _jobs_table(jobs: list[v1.Job]) -> list[str]:
    rows = [
        {
            "name": job.name,
            "phase": job.phase,
            "progress": job.progress,
            "rows/s": job.rows_per_second,
            "rejected": job.rows_rejected,
            "workers": job.workers,
            "output": job.output,
        }
        for job in jobs
    ]
    return table(rows, ["name", "phase", "progress", "rows/s", "rejected", "workers", "output"])


def _job_lines(job: v1.Job) -> list[str]:
    lines = [f"{job.name} ({job.uid}): {job.phase}", f"  {line(job)}"]
    lines += [
        f"  {condition.type}: {condition.reason} {condition.message}".rstrip()
        for condition in job.conditions
        if condition.status
    ]
    lines.append(
        f"  shards  {job.shards_pending:,} pending, {job.shards_leased:,} leased, "
        f"{job.shards_committed:,} committed, {job.shards_quarantined:,} quarantined"
    )
    for stage in job.stages:
        busy = stage.busy_s / stage.predictor_s if stage.predictor_s else 0.0
        lines.append(
            f"  stage   {stage.stage}: {stage.predictors} predictors, busy {busy:.0%}, "
            f"{stage.queue_batches} batches queued"
        )
    lines.append(f"  output  {job.output}")
    return lines
