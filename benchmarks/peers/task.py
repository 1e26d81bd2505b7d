"""What a peer is asked to do and how it says when it began. One script of this folder is one system.

    python peers/hand.py '{"workload": "w1", "inputs": [...], "model": "...", "out": "...", "rows": 1, "spawned": 1.5}'

A peer reads `inputs` (Parquet paths or URLs), scores every row and writes `id` and `score` as Parquet with zstd under
`out`. It calls `ready()` when all that is needed once is done (imports, processes, models) and the first byte of the
input is not yet read; what it prints at the end is its start-up and its working time.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

IMAGE_SHAPE = (3, 224, 224)
FEATURES = [f"f{i:02d}" for i in range(32)]
PROCESSES = 2
"""As many as this machine has cores; every system gets them."""

DEADLINE_S = 900
"""After it a process that waits for the others takes them for dead."""

_HERE = os.path.dirname(os.path.abspath(__file__))
_JOBS = os.path.join(_HERE, "..", "jobs")  # device.py
sys.path.append(_JOBS)
os.environ["PYTHONPATH"] = os.pathsep.join([_HERE, _JOBS])  # for the processes that an engine starts


@dataclass
class Task:
    workload: str
    inputs: list[str]
    model: str | None
    out: str
    rows: int
    spawned: float  # time.time() when the shell command began
    _ready: float = field(default=0.0, init=False)

    @property
    def columns(self) -> list[str]:
        return ["id", "image"] if self.workload == "w2" else ["id", *FEATURES]

    def ready(self) -> None:
        self._ready = time.time()

    def done(self) -> None:
        """Prints the two durations, the last line of stdout."""
        now = time.time()
        print(json.dumps({"startup_s": self._ready - self.spawned, "work_s": now - self._ready}), flush=True)


def task_from_argv() -> Task:
    task = Task(**json.loads(sys.argv[1]))
    os.makedirs(task.out, exist_ok=True)
    return task


def onnx_session(model: str, threads: int = 1):
    """An ONNX Runtime session on the CPU whose idle threads sleep."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def http_filesystem():
    """Reads URLs with pyarrow, by fsspec."""
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(fsspec.filesystem("http")))


def run_processes(task: Task, work: Callable[..., None], *arguments: object) -> None:
    """Runs `work(task, *arguments, counter, barrier, number)` in PROCESSES processes.

    They wait at the barrier before they begin and after their last row, so neither their start nor their end is timed.
    """
    context = multiprocessing.get_context("spawn")
    counter, barrier = context.Value("q", 0), context.Barrier(PROCESSES + 1)
    workers = [
        context.Process(target=work, args=(task, *arguments, counter, barrier, number)) for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    barrier.wait(DEADLINE_S)
    task.ready()
    barrier.wait(DEADLINE_S)
    task.done()
    for worker in workers:
        worker.join()


def taken(counter) -> int:
    """The next number of a counter that the processes share."""
    with counter.get_lock():
        counter.value += 1
        return counter.value - 1
