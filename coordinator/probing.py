"""Asks each stage, in a process of its own, what it takes and gives: the predictor's `probe` command.

User code and models are loaded there and nowhere near the coordinator. All stages are asked at once, at most as many as
there are cores; a probe ends with the process that asked, however that ends.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordinator.planning.probes import Probe, probe_from_plain
from coordinator.planning.stages import draft_stage
from coordinator.spec import InferenceJob
from coordinator.spec.document import nearest
from headrace.errors import BadJob, Fault
from headrace.program import StageProgram

PROBE_TIMEOUT_S = 600.0
"""A model of many gigabytes on a slow disk takes minutes to load; longer is a hang."""

_LAUNCHER = Path(__file__).resolve().parents[1] / "predictor" / "launcher.py"
_STDERR_CHARS = 2_000
_NO_CLASS = "BadStage"
"""The class of errors in which the predictor itself says what is wrong with a target."""

_FRAME = 'File "'
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


async def probe_stages(job: InferenceJob, folder: Path) -> dict[str, Probe]:
    """Probes of all stages by name; relative paths and user code are looked for in `folder`.

    Raises:
        BadJob: every stage that can't be loaded, with the traceback of the user's frames.
    """
    probes, faults = await find_probes(job, folder)
    if faults:
        raise BadJob(faults)
    return probes


async def find_probes(job: InferenceJob, folder: Path) -> tuple[dict[str, Probe], list[Fault]]:
    """The probes of the stages that can be loaded, and the faults of the others."""
    job = job.absolute(folder)
    cores = asyncio.Semaphore(max(1, len(os.sched_getaffinity(0))))
    probes: dict[str, Probe] = {}
    faults: dict[int, Fault] = {}

    async def ask(index: int) -> None:
        stage = job.spec.pipeline[index]
        field = f"spec.pipeline[{index}].{stage.kind}"
        program = draft_stage(job, index)
        if isinstance(program, Fault):
            faults[index] = program
            return
        async with cores:
            answer = await _run(program, _environment(job, program))
        if isinstance(answer, Probe):
            probes[stage.name] = answer
        else:
            faults[index] = Fault(field, answer.found, answer.expected)

    async with asyncio.TaskGroup() as tasks:
        for index, stage in enumerate(job.spec.pipeline):
            tasks.create_task(ask(index), name=f"probe {stage.name}")
    return probes, [faults[index] for index in sorted(faults)]


def _environment(job: InferenceJob, program: StageProgram) -> dict[str, str]:
    names = {"HEADRACE_JOB": job.metadata.name, "HEADRACE_STAGE": program.name, "HEADRACE_WORKER": "probe"}
    return {**os.environ, **names}


async def _run(program: StageProgram, environment: Mapping[str, str]) -> Probe | Fault:
    """The stage's probe, or what was wrong; the fault's field is left empty."""
    text = json.dumps(dataclasses.asdict(program), ensure_ascii=False)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(_LAUNCHER),
        "probe",
        text,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        return Fault("", "it didn't load in time", f"at most {PROBE_TIMEOUT_S:g} s")
    finally:
        # The whole group: what user code started must not outlive the answer.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return _answer(program, out, err, process.returncode)


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answer(program: StageProgram, out: bytes, err: bytes, status: int | None) -> Probe | Fault:
    try:
        plain = json.loads(out)
        if "error" in plain:
            return _told(program, plain["error"])
        return probe_from_plain(plain)
    except (ValueError, KeyError, TypeError):
        how = f"signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"exit status {status}"
        tail = err.decode(errors="replace").strip()[-_STDERR_CHARS:]
        return Fault("", f"its process ended while loading ({how}){_indented(tail)}")


def _told(program: StageProgram, error: Mapping[str, Any]) -> Fault:
    kind, message = str(error["class"]), str(error["message"])
    traceback = str(error.get("traceback") or "").strip()
    if program.kind == "onnx":
        if kind in ("ImportError", "ModuleNotFoundError"):
            return Fault("", f"{kind}: {message}", "onnxruntime, which headrace[cpu] or headrace[gpu] installs")
        return Fault("", f"{program.target} can't be loaded: {message}", "an ONNX model that ONNX Runtime can run")
    module = program.target.partition(":")[0]
    if kind == "ModuleNotFoundError" and message == f"No module named {module.split('.')[0]!r}":
        return Fault("", f"there is no module '{module}'", _modules_hint(program, module))
    if kind == _NO_CLASS:
        return Fault("", message, "a class of that module")
    return Fault("", f"{kind}: {message}{_indented(traceback)}" if _FRAME in traceback else f"{kind}: {message}")


def _modules_hint(program: StageProgram, module: str) -> str:
    folder = Path(program.search_path[0]) if program.search_path else None
    there = sorted(path.stem for path in folder.glob("*.py")) if folder else []
    close = nearest(module, there)
    if close:
        return f"did you mean '{close}'?"
    return f"{module}.py in {folder}, or an installed module" if folder else "an installed module"


def _indented(text: str) -> str:
    return "".join(f"\n    {line}" for line in text.splitlines())
