"""Commands about jobs that run: each asks a coordinator and shows its answer."""

from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from coordinator.cli.client import NotFound, Unreachable, follow, job_service
from coordinator.cli.progress import Progress, line
from coordinator.cli.show import show, table
from coordinator.cli.state import job_folder, job_folders
from coordinator.cli.summary import job_json, message_plain
from headrace import collector, v1
from headrace.errors import HeadraceError
from headrace.words import ExitCode

PAGE = 1000
KNOWN_MAX = 20
"""Names of jobs that an error lists."""
NONE_LISTED = {
    "shards": "The job {name} has no shards.",
    "workers": "No worker has come for the job {name}.",
}
NOTHING_RUNS = "No job runs on this machine now; those that have ended left what they did in their outputs."
AWAY_MAX_S = 15.0
"""A coordinator that is started again is back within seconds; a run that has ended isn't."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which coordinator is asked: the one at `address`, or those of this machine's runs."""

    address: str | None
    token: str | None
    state: Path

    def of_job(self, name: str) -> str:
        """Address of the coordinator that knows the job `name`.

        Raises:
            NotFound: no job of that name has run here.
        """
        if self.address:
            return self.address
        known = [folder.path.name for folder in job_folders(self.state)]
        if name not in known:
            raise NotFound(unknown_job(name, known))
        return job_folder(self.state, name).address

    def all(self) -> list[str]:
        """All addresses to ask for a list."""
        return [self.address] if self.address else [folder.address for folder in job_folders(self.state)]


async def show_status(where: Where, name: str | None, output: str) -> int:
    """One job in full, or all in a table."""
    if name is not None:
        job = await _ask(where, name, "get", v1.JobRequest(name=name))
        show(job_json(job), output, lambda _: job_lines(job))
        return ExitCode.DONE
    jobs: list[v1.Job] = []
    for address in where.all():
        try:
            async with job_service(address, where.token) as service:
                jobs += (await service.list(v1.ListRequest())).jobs
        except Unreachable as error:
            if where.address:
                raise _nobody(where.address) from error
    show([job_json(job) for job in jobs], output, lambda _: _jobs_table(jobs) if jobs else [NOTHING_RUNS])
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
            if not running:
                raise HeadraceError(NOTHING_RUNS)
            raise HeadraceError(f"Say which job to watch: {', '.join(sorted(running))}.")
        name = running[0]
    job = await _ask(where, name, "get", v1.JobRequest(name=name))
    collector.resume()
    progress = Progress(quiet=output != "table")
    async for status in follow(where.of_job(name), where.token, name, AWAY_MAX_S):
        job = status
        progress.show(job)
    progress.close()
    show(job_json(job), output, lambda _: job_lines(job))
    return ExitCode.DONE if job.phase == "Succeeded" else ExitCode.FAILED


async def change_job(where: Where, name: str, verb: str, output: str) -> int:
    """cancel, suspend or resume."""
    job = await _ask(where, name, verb, v1.JobRequest(name=name))
    show(job_json(job), output, lambda _: job_lines(job))
    return ExitCode.DONE


async def scale_job(where: Where, name: str, workers: int, output: str) -> int:
    """Sets the most workers."""
    job = await _ask(where, name, "scale", v1.ScaleRequest(name=name, workers_max=workers))
    show(job_json(job), output, lambda _: job_lines(job))
    return ExitCode.DONE


async def show_listing(where: Where, name: str, what: str, output: str) -> int:
    """Shards or workers of a job."""
    rows: list[Any] = []
    after = 0
    while True:
        if what == "workers":
            reply = await _ask(where, name, "list_workers", v1.JobRequest(name=name))
            rows += reply.workers
            break
        reply = await _ask(where, name, "list_shards", v1.ShardsRequest(name=name, after=after, limit=PAGE))
        rows += reply.shards
        after = reply.next
        if not after:
            break
    plain = [message_plain(row) for row in rows]
    show(plain, output, lambda _: table(plain, list(plain[0])) if plain else [NONE_LISTED[what].format(name=name)])
    return ExitCode.DONE


async def list_rejects(where: Where, name: str) -> v1.RejectsReply:
    """The rejects files and corrupt ranges of a job's committed shards, all of them in one answer."""
    whole = v1.RejectsReply()
    after = 0
    while True:
        request = v1.RejectsRequest(name=name, after=after, limit=PAGE)
        reply: v1.RejectsReply = await _ask(where, name, "list_rejects", request)
        whole.files += reply.files
        whole.corrupt += reply.corrupt
        whole.rows, whole.unit, after = reply.rows, reply.unit, reply.next
        if not after:
            return whole


async def _ask(where: Where, name: str, method: str, request: object) -> Any:
    address = where.of_job(name)
    try:
        async with job_service(address, where.token) as service:
            try:
                return await getattr(service, method)(request)
            except GRPCError as error:
                if error.status is not Status.NOT_FOUND:
                    raise
                known = [job.name for job in (await service.list(v1.ListRequest())).jobs]
                raise NotFound(unknown_job(name, known, "runs at this coordinator")) from error
    except Unreachable as error:
        raise _nobody(address) from error


def unknown_job(name: str, known: list[str], where: str = "has run on this machine") -> str:
    """Says that there is no job of that name, and which ones may be meant."""
    said = f"No job {name!r} {where}"
    if near := get_close_matches(name, known, n=3):
        return f"{said}; did you mean {' or '.join(repr(other) for other in near)}?"
    if not known:
        return f"{said}, nor any other (--state or --coordinator may name another place)."
    more = f" and {len(known) - KNOWN_MAX} more" if len(known) > KNOWN_MAX else ""
    return f"{said}; known: {', '.join(known[:KNOWN_MAX])}{more}."


class NotRunning(HeadraceError):
    """No coordinator knows the job now."""


def _nobody(address: str) -> HeadraceError:
    return NotRunning(f"No coordinator answers at {address}: the job isn't being run now.")


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


def job_lines(job: v1.Job) -> list[str]:
    """A job in full, as text."""
    lines = [f"{job.name} ({job.uid}): {job.phase}", f"  {line(job)}"]
    lines += [
        f"  {condition.type}: {condition.reason} {condition.message}".rstrip(": ")
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
