"""`headrace submit`: gives a job to a coordinator that runs already; its workers do the work.

    headrace submit ──probes the stages here, gRPC──▶ headrace coordinator ◀── headrace worker ...

Paths in the job file become absolute: coordinator and workers see the same files under the same names as this command.

Not here: running all parts (`coordinator.cli.run`), following a job (`coordinator.cli.control`).
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.cli.client import SUBMIT_TIMEOUT_S, Unreachable, job_service
from coordinator.cli.plan import all_faults, probe_all
from coordinator.identity import job_digest
from coordinator.planning import Probe, check_system, probes_to_json
from coordinator.probing import find_probes
from coordinator.spec import examine_job
from headrace import v1
from headrace.errors import BadJob, Fault, HeadraceError

if TYPE_CHECKING:
    from coordinator.spec import InferenceJob


async def prepare(
    job: "InferenceJob",
    folder: Path,
    submitted: "InferenceJob",
    *,
    limit_rows: int | None,
    again: bool,
    environ: Mapping[str, str] | None = None,
) -> tuple[v1.SubmitRequest, Mapping[str, Probe], Sequence[Fault]]:
    """The request that submits a job, the probes of its stages, and what is wrong with those.

    Args:
        job: as its file says.
        folder: of the job file.
        submitted: the same, with what the command line says.
        limit_rows: take the first rows only.
        again: start anew, also if the job is complete or half done.
        environ: added to this process's own for the probes.
    """
    check_system(sys.platform)
    probing = asyncio.create_task(find_probes(job, folder, environ=environ), name="probe")
    digest = await asyncio.to_thread(job_digest, job, folder, limit_rows)
    manifest = submitted.to_manifest(folder)
    probes, faults = await probing
    text = probes_to_json(probes)
    request = v1.SubmitRequest(manifest=manifest, probes=text, limit_rows=limit_rows or 0, again=again, digest=digest)
    return request, probes, faults


async def submit_job(
    path: Path,
    sets: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    address: str,
    token: str | None,
    limit_rows: int | None,
    again: bool,
) -> v1.Job:
    """Submits a job; the coordinator's first word on it.

    Raises:
        BadJob: all that is wrong with it, as far as it can be found.
        HeadraceError: nobody answers, or the coordinator refuses.
    """
    loaded = examine_job(path, sets, environ)
    if loaded.faults:
        known, told = await probe_all(loaded)
        raise loaded.located(await asyncio.to_thread(all_faults, loaded, known, told, limit_rows, with_output=False))
    job, folder = loaded.job, loaded.folder
    request, probes, faults = await prepare(job, folder, job, limit_rows=limit_rows, again=again)
    if faults:
        from coordinator.examination import Told

        told = Told(tuple(faults))
        raise loaded.located(await asyncio.to_thread(all_faults, loaded, probes, told, limit_rows, with_output=False))
    try:
        async with job_service(address, token) as jobs:
            return await jobs.submit(request, timeout=SUBMIT_TIMEOUT_S)
    except BadJob as error:
        raise loaded.located(error) from error
    except Unreachable as error:
        raise HeadraceError(f"No coordinator answers at {address}.") from error
