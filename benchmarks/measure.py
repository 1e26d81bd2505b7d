"""Runs one command and says how long it took and how much memory all its processes held together."""

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "HEADRACE_BENCHMARK_RUN"
"""Environment variable by which a run's processes are found, also those whose parent has gone."""

SAMPLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one command."""

    spawned: float  # time.time()
    wall_s: float
    stdout: str
    peak_bytes: int  # summed PSS; 0 if it was not sampled


class CommandFailed(Exception):
    """A command ended with another code than 0; the message holds the end of what it wrote."""


def run(command: Sequence[str], environ: Mapping[str, str], cwd: Path, *, timeout_s: float, memory: bool) -> Measured:
    """Runs a command to its end.

    `memory` samples the memory of its processes every SAMPLE_S. Reading it walks their page tables, which costs them
    time, so runs whose time counts are not sampled.

    Raises:
        CommandFailed: it didn't end well, or not in time.
    """
    mark = uuid.uuid4().hex
    began, spawned = time.monotonic(), time.time()
    with subprocess.Popen(
        command, cwd=cwd, env={**environ, MARK: mark}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        sampler = MemorySampler(process.pid, mark) if memory else None
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise CommandFailed(f"no end after {timeout_s} s") from error
        finally:
            peak_bytes = sampler.stop() if sampler else 0
    wall_s = time.monotonic() - began
    if process.returncode:
        raise CommandFailed(f"exit code {process.returncode}\n{stderr[-4000:]}")
    return Measured(spawned, wall_s, stdout, peak_bytes)


class MemorySampler:
    """Watches the proportional set size of a process tree: a page shared by n processes counts 1/n in each.

    RSS would count the arena once in every process that maps it.
    """

    def __init__(self, root: int, mark: str) -> None:
        self._root, self._mark = root, f"{MARK}={mark}".encode()
        self._belongs: dict[tuple[int, int], bool] = {}  # by pid and parent
        self._peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes."""
        self._stopped.set()
        self._thread.join()
        return self._peak_bytes

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            self._peak_bytes = max(self._peak_bytes, sum(pss_bytes(pid) for pid in self._pids()))

    def _pids(self) -> Iterator[int]:
        parents = dict(_processes())
        for pid, parent in parents.items():
            if (pid, parent) not in self._belongs:
                self._belongs[pid, parent] = self._descends(pid, parents) or self._is_marked(pid)
            if self._belongs[pid, parent]:
                yield pid

    def _descends(self, pid: int, parents: Mapping[int, int]) -> bool:
        while pid > 1:
            if pid == self._root:
                return True
            pid = parents.get(pid, 0)
        return False

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    except OSError:
        return 0


def _processes() -> Iterator[tuple[int, int]]:
    """All pids with their parents."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            # The command stands in parentheses and may hold any character.
            yield int(name), int(stat.rpartition(")")[2].split()[1])
