"""The systems: for each the command that scores a workload, and how its own clock is read."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import measure
import workloads
from workloads import HERE, WORK, Workload

BIN = Path(sys.executable).parent
TIMEOUT_S = 600

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True, slots=True)
class System:
    """One contender."""

    name: str  # in the table
    python: Path  # of its virtual environment
    script: str  # under peers/, "" for headrace
    workloads: tuple[str, ...] = ("w1", "w2", "w4")
    gives_rows: bool = True  # False: a limit, whose output is no answer


MAIN = BIN / "python"
SYSTEMS = {
    "headrace": System("Headrace", MAIN, ""),
    "hand": System("hand-written script", MAIN, "hand.py"),
    "naive": System("naive loop", MAIN, "naive.py"),
    "daft": System("Daft", HERE / ".venv-daft/bin/python", "daft_data.py"),
    "ray": System("Ray Data", HERE / ".venv-ray/bin/python", "ray_data.py"),
    "io": System("limit: reading and writing alone", MAIN, "limit_io.py", ("w1", "w2"), gives_rows=False),
    "model": System("limit: model or device alone", MAIN, "limit_model.py", gives_rows=False),
}


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one system gave."""

    startup_s: float  # from the shell to the first work on the input
    work_s: float  # from there to the last row being where it belongs
    wall_s: float  # from the shell to the end of the process
    peak_bytes: int  # of all its processes together; 0 if not sampled


class WrongRows(Exception):
    """A system's output is not the answer."""


@contextlib.contextmanager
def store(folder: Path) -> Iterator[str]:
    """A server of `folder` over HTTP (store.py); its URL."""
    with subprocess.Popen([MAIN, HERE / "store.py", folder], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def run(key: str, workload: Workload, *, memory: bool = False) -> Run:
    """Runs one system on one workload and checks its rows.

    Raises:
        WrongRows: they are not right.
        measure.CommandFailed: it failed.
    """
    out = WORK / "out" / f"{key}-{workload.name}"
    shutil.rmtree(out, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(store(workload.data)) if workload.http else str(workload.data)
        made = (
            _headrace(workload, where, out, memory) if key == "headrace" else _peer(key, workload, where, out, memory)
        )
    if SYSTEMS[key].gives_rows and (wrong := workloads.check(workload, out)):
        raise WrongRows(f"{key}, {workload.name}: {wrong}")
    shutil.rmtree(out, ignore_errors=True)
    return made


def _peer(key: str, workload: Workload, where: str, out: Path, memory: bool) -> Run:
    system = SYSTEMS[key]
    task = {
        "workload": workload.name,
        "inputs": [f"{where}/{path.name}" for path in workload.paths],
        "model": str(workload.model) if workload.model else None,
        "out": str(out),
        "rows": workload.rows,
        "spawned": time.time(),
    }
    command = [str(system.python), str(HERE / "peers" / system.script), json.dumps(task)]
    done = measure.run(command, os.environ | QUIET, HERE, timeout_s=TIMEOUT_S, memory=memory)
    clock = json.loads(done.stdout.strip().splitlines()[-1])
    return Run(clock["startup_s"], clock["work_s"], done.wall_s, done.peak_bytes)


def headrace_command(job: Path, sets: dict[str, str], state: str) -> list[str]:
    """`headrace run` with a state folder of its own, so that nothing is continued and nothing was learnt before."""
    options = [item for name, value in sets.items() for item in ("--set", f"{name}={value}")]
    return [str(BIN / "headrace"), "run", str(job), *options, "--state", state, "-o", "json"]


def _headrace(workload: Workload, where: str, out: Path, memory: bool) -> Run:
    sets = {"INPUT": where, "OUT": str(out)}
    if workload.model:
        sets["MODEL"] = str(workload.model)
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as state:
        command = headrace_command(HERE / "jobs" / f"{workload.name}.yaml", sets, state)
        done = measure.run(command, os.environ, HERE, timeout_s=TIMEOUT_S, memory=memory)
    elapsed_s = float(json.loads(done.stdout)["elapsed_s"])
    return Run(done.wall_s - elapsed_s, elapsed_s, done.wall_s, done.peak_bytes)
