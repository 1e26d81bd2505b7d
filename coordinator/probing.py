"""Asks each stage, in a process of its own, what it takes and gives: the predictor's `probe` command.

User code and models are loaded there and nowhere near the coordinator. All stages are asked at once, at most as many as
there are cores; a probe ends with the process that asked, however that ends, and leaves no process behind.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from coordinator.planning.probes import Probe, probe_from_plain
from coordinator.planning.stages import draft_stage
from coordinator.spec import InferenceJob
from coordinator.spec.document import nearest
from headrace.errors import Fault
from headrace.program import StageProgram

PROBE_TIMEOUT_S = 600.0
"""A model of many gigabytes on a slow disk takes minutes to load; longer is a hang."""

_LAUNCHER = Path(__file__).resolve().parents[1] / "predictor" / "launcher.py"
_STDERR_CHARS = 2_000
_NO_CLASS = "BadStage"
"""The class of errors in which the predictor itself says what is wrong with a target."""

_FRAME = 'File "'
_END_S = 2.0
"""For a probe that is given up to end what it started, which takes milliseconds."""


async def find_probes(
    job: InferenceJob,
    folder: Path,
    *,
    skip: Collection[int] = (),
    doubtful: Collection[int] = (),
    environ: Mapping[str, str] | None = None,
) -> tuple[dict[str, Probe], list[Fault]]:
    """The probes by name of the stages that can be loaded, and the faults of the others.

    Relative paths and user code are looked for in `folder`; a fault has the traceback of the user's frames. Stages at
    the indexes `skip` aren't asked. Of those at `doubtful`, whose fields may be wrong, it isn't a fault that the user's
    code raises (faults of that kind don't say what would be right). Probes have `environ` beside this process's own.
    """
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
            answer = await _run(program, {**_environment(job, program), **(environ or {})})
        if isinstance(answer, Probe):
            probes[stage.name] = answer
        elif answer.expected or index not in doubtful:
            faults[index] = Fault(field, answer.found, answer.expected)

    async with asyncio.TaskGroup() as tasks:
        for index, stage in enumerate(job.spec.pipeline):
            if index in skip:
                continue
            tasks.create_task(ask(index), name=f"probe {stage.name}")
    return probes, [faults[index] for index in sorted(faults)]


def _environment(job: InferenceJob, program: StageProgram) -> dict[str, str]:
    names = {"HEADRACE_JOB": job.metadata.name, "HEADRACE_STAGE": program.name, "HEADRACE_WORKER": "probe"}
    return {**os.environ, **names}


async def _run(program: StageProgram, environment: Mapping[str, str]) -> Probe | Fault:
    """The stage's probe, or what was wrong; the fault's field is left empty."""
    text = json.dumps(dataclasses.asdict(program), ensure_ascii=False)
    # Files, not pipes: a pipe ends only with the last process that user code left with it.
    with _memory("probe's answer") as out, _memory("probe's log") as err:
        status = await _end_of(text, environment, out.fileno(), err.fileno())
        if status is None:
            return Fault("", "it didn't load in time", f"at most {PROBE_TIMEOUT_S:g} s")
        return _answer(program, _content(out), _content(err), status)


async def _end_of(text: str, environment: Mapping[str, str], out: int, err: int) -> int | None:
    """Runs a probe to its end: its exit status, negative for a signal; None after PROBE_TIMEOUT_S."""
    theirs, ours = os.pipe()
    with os.fdopen(theirs, "rb") as lifeline, os.fdopen(ours, "wb") as held:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_LAUNCHER),
            "probe",
            text,
            "--lifeline",
            stdin=lifeline,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await process.wait()
        except TimeoutError:
            return None
        finally:
            held.close()
            await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Waits for a probe whose lifeline has ended."""
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _memory(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b", buffering=0)


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


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
