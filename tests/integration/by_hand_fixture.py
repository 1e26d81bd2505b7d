"""A coordinator and workers started by hand, as on machines of their own: nobody starts again what dies.

The stage `tended:Tended` doubles ids, waits as long as its worker is told to, and notes what it was given; so a test
decides who is slow, who is stuck, and until when.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from coordinator.spec import examine_job
from headrace import v1
from headrace.channel import open_channel
from tests.integration.faults_fixture import MARK, Faults, wait_for

T = TypeVar("T")

WIDTH = 32
"""Columns beside the id: 4,096 rows are a shard's least."""
ROWS = 81_920
BATCH_ROWS = 1024
TENDED = '''
import os
import subprocess
import time


class Tended:
    """Doubles ids. `pauses`: worker -> seconds for each batch; held while the file ``hold-WORKER`` is there.

    Leaves a process in a session of its own if the file `leave` is there.
    """

    def __init__(self, folder, pauses):
        self.folder = folder
        self.worker = os.environ["HEADRACE_WORKER"]
        self.pause_s = pauses.get(self.worker, 0.0)
        if os.path.exists(os.path.join(folder, "leave")):
            subprocess.Popen(["sleep", "7777"], start_new_session=True)

    def __call__(self, batch):
        ids = batch["id"]
        with open(os.path.join(self.folder, f"given-{self.worker}"), "ab", buffering=0) as file:
            file.write(ids.tobytes())
        time.sleep(self.pause_s)
        while os.path.exists(os.path.join(self.folder, f"hold-{self.worker}")):
            time.sleep(0.005)
        return {"y": ids * 2}
'''


class ByHand(Faults):
    """One coordinator, and workers by name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "tended.py").write_text(TENDED)
        self.ledger = folder / "ledger"
        self.address = f"unix:{folder / 'run' / 'socket'}"
        self.coordinator: subprocess.Popen[str]
        self.workers: dict[str, subprocess.Popen[str]] = {}

    # ------------------------------------------------------------------ processes

    def start_coordinator(self) -> None:
        """Starts one on the ledger; returns when it answers."""
        arguments = ["--state", str(self.ledger), "--socket", self.address.removeprefix("unix:")]
        self.coordinator = self._start("coordinator", *arguments, stdout=subprocess.PIPE)
        assert self.coordinator.stdout is not None
        line = self.coordinator.stdout.readline()
        assert line.startswith("ready "), self.log("coordinator")

    def start_worker(self, name: str, address: str | None = None) -> "subprocess.Popen[str]":
        """Starts the worker `name`, which may reach the coordinator by another address, such as a proxy's."""
        arguments = ["--coordinator", address or self.address, "--worker", name, "--verbose"]
        process = self._start("sidecar", *arguments, log=name)
        self.workers[name] = process
        return process

    def _start(self, module: str, *arguments: str, log: str = "", stdout: int | None = None) -> "subprocess.Popen[str]":
        environ = {**os.environ, MARK: self.mark, "TMPDIR": str(self.temporary)}
        with open(self.folder / f"{log or module}.log", "a") as err:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self.folder,
                env=environ,
                stdout=err if stdout is None else stdout,
                stderr=err,
                text=True,
            )

    def log(self, name: str) -> str:
        """What a process has logged so far."""
        return (self.folder / f"{name}.log").read_text()

    def kill_worker(self, name: str) -> None:
        """kill -9 of a sidecar; its hosts see their connection close and end."""
        self.workers[name].kill()
        self.workers[name].wait()

    def kill_coordinator(self) -> None:
        """kill -9."""
        self.coordinator.kill()
        self.coordinator.wait()

    def signal_worker(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a sidecar alone."""
        self.workers[name].send_signal(number)

    # ------------------------------------------------------------------ the job

    def submit(self, *, rows: int = ROWS, pauses: Mapping[str, float] | None = None, **spec: Any) -> None:
        """Submits a job over `rows` ids."""
        if not (self.folder / "data.parquet").exists():
            self.ids("data.parquet", 0, rows, width=WIDTH)
        tended = {
            "name": "tended",
            "python": "tended:Tended",
            "inputs": {"id": "source.id", "x": [f"source.f{i}" for i in range(WIDTH)]},
            "config": {"folder": str(self.folder), "pauses": dict(pauses or {})},
            "predictors": {"min": 1, "max": 1},
            "batch": {"rows": BATCH_ROWS},
        }
        source = spec.pop("source", {"format": "parquet", "uri": "data.parquet"})
        path = self.job(
            source=source, pipeline=[tended], sink={"columns": {"id": "source.id", "y": "tended.y"}}, **spec
        )
        loaded = examine_job(path, {}, {})
        self.ask(lambda jobs: jobs.submit(v1.SubmitRequest(loaded.job.to_manifest(loaded.folder), digest="by hand")))

    def hold(self, *workers: str) -> None:
        """The predictors of these workers keep what they are given from now on."""
        for worker in workers:
            (self.folder / f"hold-{worker}").touch()

    def let_go_of(self, worker: str) -> None:
        """The worker's predictors go on."""
        (self.folder / f"hold-{worker}").unlink()

    def given(self, worker: str) -> Counter[int]:
        """Ids that the worker's predictors were given, and how often."""
        path = self.folder / f"given-{worker}"
        return Counter(np.frombuffer(path.read_bytes(), np.int64).tolist()) if path.exists() else Counter()

    def wait_given(self, worker: str) -> None:
        """Waits until a predictor of the worker was given a batch."""
        wait_for(f"{worker} works", lambda: self.given(worker))

    # ------------------------------------------------------------------ what the coordinator says

    def ask(self, call: Callable[[v1.JobServiceStub], Awaitable[T]]) -> T:
        """One call of the job service."""

        async def asked() -> T:
            channel = open_channel(self.address)
            try:
                return await call(v1.JobServiceStub(channel, timeout=30))
            finally:
                channel.close()

        return asyncio.run(asked())

    def status(self) -> v1.Job:
        """The job now."""
        return self.ask(lambda jobs: jobs.get(v1.JobRequest("job")))

    def shards(self) -> list[v1.Shard]:
        """All shards."""
        return self.ask(lambda jobs: jobs.list_shards(v1.ShardsRequest("job", limit=1000))).shards

    def leased_by(self, worker: str) -> list[v1.Shard]:
        """Shards that the worker has leased."""
        return [shard for shard in self.shards() if shard.state == "leased" and worker in shard.worker.split(", ")]

    def wait_complete(self, timeout_s: float = 60.0) -> v1.Job:
        """Waits for the job's success."""

        def ended() -> v1.Job | None:
            job = self.status()
            assert job.phase != "Failed", [c for c in job.conditions if c.status]
            return job if job.phase == "Succeeded" else None

        found = wait_for("the job is complete", ended, timeout_s)
        assert found is not None
        return found

    def seconds_until(self, what: str, found: Callable[[], object]) -> float:
        """How long it takes from now on."""
        begun = time.monotonic()
        wait_for(what, found)
        return time.monotonic() - begun
