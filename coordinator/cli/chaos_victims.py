"""The processes below one `headrace run`, by what they are, and the strokes that break them; Linux only.

    run ── coordinator
        └─ sidecar(s) ── host(s) ── predictors

Not here: which stroke falls when (`chaos`), how one knows that it is over (`chaos_recovery`).
"""

import os
import resource
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

END_TIMEOUT_S = 10.0
"""For the kernel to end what was killed; a process in the middle of an fsync takes as long as that."""
WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24


@dataclass(frozen=True, slots=True)
class Predictor:
    """One forked predictor."""

    pid: int
    host: int  # pid of its host
    worker: str


@dataclass(frozen=True, slots=True)
class Tree:
    """What lives below a run at one moment."""

    coordinator: int | None
    sidecars: dict[str, int]  # worker name -> pid
    hosts: dict[int, str]  # pid -> worker name
    predictors: tuple[Predictor, ...]

    def predictors_of(self, host: int) -> frozenset[int]:
        """Pids of the predictors of one host."""
        return frozenset(predictor.pid for predictor in self.predictors if predictor.host == host)


def look(run: int) -> Tree:
    """Walks the tree below the process `run`; what ends meanwhile is left out."""
    coordinator, sidecars = None, {}
    hosts: dict[int, str] = {}
    predictors = []
    for child in _children(run):
        arguments = _arguments(child)
        if "coordinator" in arguments and "-m" in arguments:
            coordinator = child
        elif "sidecar" in arguments and "--worker" in arguments:
            worker = arguments[arguments.index("--worker") + 1]
            sidecars[worker] = child
            for host in _children(child):
                if "host" in _arguments(host):
                    hosts[host] = worker
                    predictors += [Predictor(pid, host, worker) for pid in _children(host)]
    return Tree(coordinator, sidecars, hosts, tuple(predictors))


def _children(pid: int) -> Iterator[int]:
    """Pids whose parent is any thread of `pid`; zombies don't count."""
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, listing.read_text().split()):
                if is_alive(child):
                    yield child


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def is_alive(pid: int, since: str = "") -> bool:
    """Whether the process runs or could run again; a zombie can't. `since`: it is no other than `below` found."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX" and since in ("", fields[_START_TIME])


def below(pid: int) -> dict[int, str]:
    """All processes that stem from this one and live, with their start times: a number may be given again."""
    found: dict[int, str] = {}
    parents = [pid]
    while parents:
        for child in _children(parents.pop()):
            if fields := _stat(child):
                found[child] = fields[_START_TIME]
                parents.append(child)
    return found


_START_TIME = 19  # field 22 of proc_pid_stat(5), counted from the state


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def send(pid: int, number: signal.Signals) -> bool:
    """Sends a signal; False if the process has gone by itself."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def set_file_limit(pid: int, nbytes: int | None) -> bool:
    """Bounds the files that a process may write, as a full disk would: EFBIG instead of ENOSPC; None takes it back."""
    try:
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if nbytes is None else nbytes, hard))
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_and_tear(run: int, coordinator: int, ledger: Path, random: Random) -> bool:
    """Kills the coordinator and leaves its ledger with half of a write that was under way.

    The run is stopped meanwhile, or it would start the next coordinator at once. A coordinator that isn't its own is
    left alone: the run's may wait for its ledger. Blocking for milliseconds.
    """
    send(run, signal.SIGSTOP)
    try:
        if coordinator not in _children(run) or not send(coordinator, signal.SIGKILL):
            return False
        deadline = time.monotonic() + END_TIMEOUT_S
        while is_alive(coordinator) and time.monotonic() < deadline:
            time.sleep(0.001)
        if is_alive(coordinator):
            return False
        tear(ledger.with_name(f"{ledger.name}-wal"), random)
        return True
    finally:
        send(run, signal.SIGCONT)


def tear(wal: Path, random: Random) -> None:
    """Writes a part of one more frame behind the last whole one, with the file's salts and a checksum that is wrong.

    Source: https://www.sqlite.org/fileformat2.html#the_write_ahead_log. Nothing durable is touched: only what a
    killed writer can leave.
    """
    try:
        with open(wal, "r+b") as file:
            header = file.read(WAL_HEADER_BYTES)
            if len(header) < WAL_HEADER_BYTES:
                return
            page_bytes = struct.unpack(">I", header[8:12])[0]
            salts = header[16:24]
            at = WAL_HEADER_BYTES
            while True:
                file.seek(at)
                frame = file.read(FRAME_HEADER_BYTES)
                if len(frame) < FRAME_HEADER_BYTES or frame[8:16] != salts:
                    break
                at += FRAME_HEADER_BYTES + page_bytes
            file.seek(at)
            torn = struct.pack(">II", random.randrange(1, 100), 0) + salts + random.randbytes(8)
            file.write(torn + random.randbytes(random.randrange(0, page_bytes)))
    except FileNotFoundError:
        return  # nothing has been written yet
