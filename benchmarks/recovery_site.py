"""What `recovery.py` breaks: a job that lasts, a run or processes by hand, and what the coordinator says of them."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from grpclib.exceptions import GRPCError

from headrace import v1
from headrace.channel import BROKEN, open_channel

ASK_S = 0.01
WAIT_S = 60.0
ROWS = 1_000_000
BATCH_ROWS = 64
PAUSE_S = 0.05
HEADRACE = str(Path(sys.executable).with_name("headrace"))
STAGE = """
import os
import time


class Timed:
    def __init__(self, file, pause_s):
        self.file = open(file, "ab", buffering=0)
        self.pause_s = pause_s

    def __call__(self, batch):
        time.sleep(self.pause_s)
        self.file.write(f"{time.monotonic()} {os.getpid()}\\n".encode())
        return {"y": batch["id"] * 2}
"""


class RecoverySite:
    """A folder with a job of some hours, and whatever runs it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes = folder / "results"
        self._loop = asyncio.new_event_loop()
        self._address = f"unix:{folder / 'state' / 'jobs' / 'lasting' / 'coordinator.sock'}"
        self._run: subprocess.Popen[bytes] | None = None
        self._coordinator: subprocess.Popen[str] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        ids = np.arange(ROWS)
        columns = {"id": ids, **{f"f{i}": np.random.default_rng(i).standard_normal(ROWS) for i in range(7)}}
        pq.write_table(pa.table(columns), folder / "in.parquet", row_group_size=16_384)
        (folder / "timed.py").write_text(STAGE)

    # ------------------------------------------------------------------ a run

    def start_run(self, pause_s: float) -> None:
        """Starts ``headrace run``; returns when results come."""
        job = self._job(pause_s)
        command = [HEADRACE, "run", str(job), "--state", str(self._folder / "state"), "-o", "json"]
        self._run = subprocess.Popen(command, cwd=self._folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.wait_results()

    def end_run(self) -> None:
        """Ends the run at once."""
        assert self._run is not None
        self._run.kill()  # its children see their lifeline end
        self._run.wait()

    def the_child(self, module: str) -> int:
        """The pid of the run's coordinator or its one sidecar."""
        assert self._run is not None
        for listing in Path(f"/proc/{self._run.pid}/task").glob("*/children"):
            for pid in listing.read_text().split():
                if f"-m\0{module}\0" in Path(f"/proc/{pid}/cmdline").read_text():
                    return int(pid)
        raise ProcessLookupError(module)

    # ------------------------------------------------------------------ by hand

    def start_coordinator(self) -> None:
        """Starts a coordinator by hand; returns when it is ready."""
        self._address = f"unix:{self._folder / 'hand' / 'socket'}"
        command = [sys.executable, "-m", "coordinator", "--state", str(self._folder / "hand")]
        self._coordinator = subprocess.Popen(
            [*command, "--socket", self._address.removeprefix("unix:")],
            cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._coordinator.stdout is not None
        assert self._coordinator.stdout.readline().startswith("ready")

    def kill_coordinator(self) -> None:
        """kill -9."""
        assert self._coordinator is not None
        self._coordinator.kill()
        self._coordinator.wait()

    def submit(self, workers_max: int = 1) -> None:
        """Submits the job."""
        from coordinator.spec import examine_job

        loaded = examine_job(self._job(PAUSE_S, workers={"max": workers_max}), {}, {})
        request = v1.SubmitRequest(loaded.job.to_manifest(loaded.folder), digest="by hand")

        async def submit() -> None:
            channel = open_channel(self._address)
            await v1.JobServiceStub(channel, timeout=WAIT_S).submit(request)
            channel.close()

        self._loop.run_until_complete(submit())

    def start_worker(self, name: str) -> None:
        """Starts a worker by hand."""
        command = [sys.executable, "-m", "sidecar", "--coordinator", self._address, "--worker", name]
        self.workers[name] = subprocess.Popen(command, cwd=self._folder, stderr=subprocess.DEVNULL)

    # ------------------------------------------------------------------ what is seen

    def results(self) -> list[tuple[float, int]]:
        """Instants of results and the processes that gave them."""
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return [(float(at), int(pid)) for at, pid in map(str.split, lines)]

    def wait_results(self) -> None:
        """Waits until one more result comes."""
        before = len(self.results())
        self.wait(lambda: len(self.results()) > before, "a result")

    def wait_result_of_new(self, known: set[int]) -> float:
        """Waits for the first result of a process that isn't among `known`; when it came."""
        self.wait(lambda: {pid for _, pid in self.results()} - known, "a result of another process")
        return next(at for at, pid in self.results() if pid not in known)

    def sight(self) -> tuple[str, str]:
        """The coordinator's term and the incarnation of the first worker; empty while nobody answers."""
        job, workers = self._asked()
        return (str(job.term), workers[0].incarnation) if job and workers else ("", "")

    def leases(self, worker: str) -> int:
        """How many leases a worker holds; 0 while nobody answers."""
        return sum(found.leases for found in self._asked()[1] if found.name == worker)

    def wait_leases(self, worker: str) -> None:
        """Waits until the worker holds a lease."""
        self.wait(lambda: self.leases(worker), f"a lease of {worker}")

    def wait_worker(self, worker: str) -> None:
        """Waits until the worker has registered."""
        self.wait(lambda: worker in {found.name for found in self._asked()[1]}, worker)

    def wait(self, found: Callable[[], object], what: str) -> None:
        """Asks every ASK_S.

        Raises:
            TimeoutError: it didn't come.
        """
        deadline = time.monotonic() + WAIT_S
        while not found():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(ASK_S)

    def end_all(self) -> None:
        """Ends whatever still runs."""
        processes = [self._run, self._coordinator, *self.workers.values()]
        for process in processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self._loop.close()

    # ------------------------------------------------------------------ inside

    def _asked(self) -> tuple[v1.Job | None, list[v1.Worker]]:
        async def ask() -> tuple[v1.Job | None, list[v1.Worker]]:
            channel = open_channel(self._address)
            try:
                stub = v1.JobServiceStub(channel, timeout=1)
                job = await stub.get(v1.JobRequest("lasting"))
                return job, (await stub.list_workers(v1.JobRequest("lasting"))).workers
            except (*BROKEN, GRPCError):
                return None, []
            finally:
                channel.close()

        return self._loop.run_until_complete(ask())

    def _job(self, pause_s: float, **spec: object) -> Path:
        path = self._folder / "job.yaml"
        stage = {
            "name": "timed",
            "python": "timed:Timed",
            "inputs": {"id": "source.id", "x": [f"source.f{i}" for i in range(7)]},
            "config": {"file": str(self._notes), "pause_s": pause_s},
            "predictors": {"min": 1, "max": 1},
            "batch": {"rows": BATCH_ROWS},
        }
        document = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": "lasting"},
            "spec": {
                "source": {"format": "parquet", "uri": "in.parquet"},
                "pipeline": [stage],
                "sink": {"format": "parquet", "uri": "out", "columns": {"id": "source.id", "y": "timed.y"}},
                "retries": {"attempts": 255},
                **spec,
            },
        }
        path.write_text(yaml.safe_dump(document))
        return path


class W2Site:
    """W2's files several times over, for runs that are long beside their start."""

    def __init__(self, folder: Path, repeat: int) -> None:
        import workloads

        self._folder = folder
        self._workload = workloads.FULL["w2"]
        workloads.prepare(self._workload)
        (folder / "data").mkdir()
        for path in self._workload.paths:
            for copy in range(repeat):
                os.symlink(path, folder / "data" / f"{copy}-{path.name}")

    def run(self, kill_every_s: float | None) -> tuple[float, int]:
        """Rows per second of one run, and how many predictors were killed in it."""
        import shutil

        for name in ("out", "state"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        job = Path(__file__).parent / "jobs" / "w2.yaml"
        sets = {"INPUT": self._folder / "data", "OUT": self._folder / "out", "MODEL": self._workload.model}
        options = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
        options += ["--state", str(self._folder / "state"), "-o", "json"]
        if kill_every_s is None:
            command = [HEADRACE, "run", str(job), *options]
        else:
            command = [
                HEADRACE,
                "chaos",
                str(job),
                "--faults",
                "kill-predictor",
                "--every",
                str(kill_every_s),
                *options,
            ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        document = json.loads(done.stdout)
        kills = 0
        if kill_every_s is not None:
            assert document["is_nothing_lost"]
            kills, document = len(document["faults"]), document["job"]
        return document["rows_out"] / document["elapsed_s"], kills
