"""Runs that can be stopped at a known point: stages that hold on to a batch until told, processes found by a mark.

Everything is driven by files in the site's folder, so that a fault happens where the test says and not where the
machine's speed says. Every wait has a deadline.
"""

import os
import secrets
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq

from tests.integration.run_fixture import Ran, Site

T = TypeVar("T")

WAIT_S = 30.0
MARK = "HEADRACE_TEST_MARK"
WIDTH = 32
"""Columns of a row: 256 bytes, so that 4,096 rows are a shard's least."""
ROWS = 40_960
HELD_FROM = ROWS // 4

STAGES = '''
import os
import time


class Gate:
    """Doubles ids; notes those it is given, and holds those from `hold` on until the file `go` is there."""

    def __init__(self, folder, hold, pause_s=0.0):
        self.folder = folder
        self.hold = hold
        self.pause_s = pause_s
        self.worker = os.environ["HEADRACE_WORKER"]

    def __call__(self, batch):
        ids = batch["id"]
        with open(os.path.join(self.folder, "computed"), "ab", buffering=0) as file:
            file.write(ids.tobytes())
        time.sleep(self.pause_s)
        if ids.max() >= self.hold:
            open(os.path.join(self.folder, f"held-{self.worker}-{os.getpid()}"), "w").close()
            while not os.path.exists(os.path.join(self.folder, "go")):
                time.sleep(0.005)
        return {"y": ids * 2}


class SlowToLoad:
    """Its constructor waits for the file `go`."""

    def __init__(self, folder):
        open(os.path.join(folder, "loading"), "w").close()
        while not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.005)

    def __call__(self, batch):
        return {"y": batch["id"]}


class Leaves:
    """Starts two processes that never end, one in a session of its own; waits for the file `go` where it is told."""

    def __init__(self, folder, where):
        import subprocess

        for own_session in (False, True):
            subprocess.Popen(["sleep", "7777"], start_new_session=own_session)
        if (os.environ["HEADRACE_WORKER"] == "probe") == (where == "probe"):
            open(os.path.join(folder, "loading"), "w").close()
            while not os.path.exists(os.path.join(folder, "go")):
                time.sleep(0.005)

    def __call__(self, batch):
        return {"y": batch["id"]}


class Picky:
    """Doubles ids; on those it is told of it raises, leaves, or crashes."""

    def __init__(self, raises=(), exits=(), crashes=()):
        self.raises, self.exits, self.crashes = set(raises), set(exits), set(crashes)

    def __call__(self, batch):
        ids = batch["id"]
        for id in ids.tolist():
            if id in self.raises:
                raise ValueError(f"id {id} is not for me")
            if id in self.exits:
                os._exit(7)
            if id in self.crashes:
                os.kill(os.getpid(), 11)
        return {"y": ids * 2}


class OnlyWhenProbed:
    """Loads where the job is planned, and nowhere else."""

    def __init__(self):
        if os.environ["HEADRACE_WORKER"] != "probe":
            raise RuntimeError("no weights here")

    def __call__(self, batch):
        return {"y": batch["id"]}
'''


def wait_for(what: str, found: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """Asks until the answer is true; fails with `what` after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)
    return answer


@dataclass(frozen=True, slots=True)
class Found:
    """A live process."""

    pid: int
    command: str


def parent_of(pid: int) -> int:
    """The pid of its parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Faults(Site):
    """A site whose job can be held, and whose processes are known by a mark in their environment."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.mark = secrets.token_hex(8)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        (folder / "stages.py").write_text(STAGES)

    # ------------------------------------------------------------------ jobs

    def ids(self, name: str, first: int, rows: int, *, width: int = 0, group: int = 2048) -> None:
        """Writes a Parquet file of consecutive ids and `width` columns of noise."""
        noise = np.random.default_rng(first)
        columns: dict[str, Any] = {"id": np.arange(first, first + rows)}
        columns |= {f"f{i}": noise.standard_normal(rows) for i in range(width)}
        self.parquet(name, columns, row_group_size=group)

    def gate_job(self, hold: int = HELD_FROM, *, predictors: int = 1, pause_s: float = 0.0, **spec: Any) -> Path:
        """A job over ROWS ids in several shards, which holds the batches with ids from `hold` on."""
        if not (self.folder / "data.parquet").exists():
            self.ids("data.parquet", 0, ROWS, width=WIDTH)
        gate = {
            "name": "gate",
            "python": "stages:Gate",
            "inputs": {"id": "source.id", "x": [f"source.f{i}" for i in range(WIDTH)]},
            "config": {"folder": str(self.folder), "hold": hold, "pause_s": pause_s},
            "predictors": {"min": predictors, "max": predictors},
        }
        sink = {"columns": {"id": "source.id", "y": "gate.y"}, **spec.pop("sink", {})}
        return self.job(source={"format": "parquet", "uri": "data.parquet"}, pipeline=[gate], sink=sink, **spec)

    def stage_job(self, stage: str, config: dict[str, Any], **spec: Any) -> Path:
        """A job over ``ids-*.parquet`` with one stage of the module `stages`."""
        only = {"name": "only", "python": f"stages:{stage}", "inputs": {"id": "source.id"}, "config": config}
        return self.job(
            source={"format": "parquet", "uri": "ids-*.parquet"},
            pipeline=[only],
            sink={"columns": {"id": "source.id", "y": "only.y"}},
            **spec,
        )

    def start_marked(self, job: Path, *arguments: str, before: str = "", **environ: str) -> "subprocess.Popen[str]":
        """Starts ``headrace run``, by a shell where there is something `before`; `processes` finds all of it."""
        environ = {MARK: self.mark, "TMPDIR": str(self.temporary), **environ}
        return self.start(job, *arguments, before=before, **environ)

    def let_go(self) -> None:
        """No batch is held any more."""
        (self.folder / "go").touch()

    # ------------------------------------------------------------------ what is there

    def held(self) -> dict[int, str]:
        """Processes that hold or held a batch, and their worker."""
        found = {}
        for path in self.folder.glob("held-*"):
            _, worker, pid = path.name.split("-", 1)[0], *path.name.removeprefix("held-").rsplit("-", 1)
            found[int(pid)] = worker
        return found

    def wait_held(self, but: Sequence[int] = ()) -> set[int]:
        """Waits until a process not among `but` holds a batch; returns all such."""
        return wait_for("a predictor holds a batch", lambda: set(self.held()) - set(but))

    def wait_published(self) -> list[Path]:
        """Waits until some of the output is published; returns its files."""
        return wait_for("some output is published", self.data_files)

    def processes(self, word: str = "") -> list[Found]:
        """Live processes of this site's runs whose command line contains `word`; zombies don't count."""
        found = []
        mark = f"{MARK}={self.mark}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if word in command:
                        found.append(Found(int(folder.name), command))
            except OSError:
                continue  # it has ended
        return found

    def variable(self, pid: int, name: str) -> str | None:
        """The value of an environment variable that a process was started with."""
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return next((word.partition("=")[2] for word in words if word.partition("=")[0] == name), None)

    def the_process(self, word: str) -> int:
        """The pid of the one process whose command line contains `word`; its forks say the same of themselves."""
        pids = {found.pid for found in self.processes(word)}
        (eldest,) = [pid for pid in pids if parent_of(pid) not in pids]
        return eldest

    def wait_no_process(self, timeout_s: float) -> None:
        """Waits until no process of this site's runs is left."""
        try:
            wait_for("no process is left", lambda: not self.processes(), timeout_s)
        except AssertionError:
            raise AssertionError(f"still there after {timeout_s:g} s: {self.processes()}") from None

    def times_computed(self, ids: Iterable[int]) -> set[int]:
        """How often the gate was given these ids: all the numbers that occur."""
        computed = Counter(np.frombuffer((self.folder / "computed").read_bytes(), np.int64).tolist())
        return {computed[i] for i in ids}

    # ------------------------------------------------------------------ ends

    def finish(self, process: "subprocess.Popen[str]", timeout_s: float = 60.0) -> Ran:
        """Waits for a run's end."""
        out, err = process.communicate(timeout=timeout_s)
        return Ran(process.returncode, out, err)

    def finish_complete(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        """Waits for the end of a run that must be complete; its document."""
        ran = self.finish(process)
        assert ran.code == 0, ran.text + self.logs()
        assert ran.document["phase"] == "Succeeded"
        return ran.document

    def assert_once(self, rows: int = ROWS, rejected: Sequence[int] = ()) -> None:
        """Every id is out or rejected, once, with its own prediction; and the manifest proves it."""
        report = self.verify()
        assert (report["rows_out"], report["rows_rejected"]) == (rows - len(rejected), len(rejected))
        table = self.rows().sort_by("id")  # a file holds the input's order; a shard cut off later has a later name
        expected = [i for i in range(rows) if i not in set(rejected)]
        assert table["id"].to_pylist() == expected
        assert table["y"].to_pylist() == [2 * i for i in expected]
        assert sorted(row["id"] for row in self.rejects()) == sorted(rejected)

    def ids_in(self, files: Sequence[Path]) -> set[int]:
        """The ids in some of the output's files."""
        return {i for file in files for i in pq.read_table(file)["id"].to_pylist()}

    def end(self) -> None:
        """Ends what a failed test left."""
        for process in self.processes():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
