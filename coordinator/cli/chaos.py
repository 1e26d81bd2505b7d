"""`headrace chaos`: runs a job on this machine, breaks what runs it, and proves that nothing was lost.

    chaos ──starts──▶ headrace run ──▶ coordinator, workers
      │                                    ▲
      ├── signals, limits, a torn ledger ──┘        (chaos_victims)
      ├── asks the coordinator until work goes on   (chaos_recovery)
      └── verifies the output, prints               (chaos_report)

One fault at a time, or up to N together; the next falls when the last are recovered from. The same seed draws the same
kinds, pauses and victims in the same order; when they fall is up to the machine. A run that is killed is followed by
the same command, and nothing of it may be left.

What is broken on purpose is charged to nobody: the run starts its processes again however often they die, and a shard
has as many attempts as a ledger can count.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from coordinator.cli.chaos_recovery import Sight, Watcher
from coordinator.cli.chaos_report import Broken, chaos_json, chaos_lines
from coordinator.cli.chaos_victims import Predictor, Tree, below, is_alive, kill_and_tear, look, send, set_file_limit
from coordinator.cli.show import say, text_of, warn
from coordinator.cli.state import JobFolder
from headrace.program import StorageOptions
from headrace.words import ExitCode, Reason


class Kind(StrEnum):
    """What can be broken."""

    KILL_PREDICTOR = "kill-predictor"
    PAUSE_PREDICTOR = "pause-predictor"
    KILL_HOST = "kill-host"
    KILL_SIDECAR = "kill-sidecar"
    STOP_SIDECAR = "stop-sidecar"
    PAUSE_SIDECAR = "pause-sidecar"
    KILL_COORDINATOR = "kill-coordinator"
    PAUSE_COORDINATOR = "pause-coordinator"
    TEAR_LEDGER = "tear-ledger"
    FILL_LEDGER_DISK = "fill-ledger-disk"
    FILL_OUTPUT_DISK = "fill-output-disk"
    KILL_RUN = "kill-run"


MEANINGS = {
    Kind.KILL_PREDICTOR: "kill -9 of one predictor",
    Kind.PAUSE_PREDICTOR: "SIGSTOP of one predictor for a while",
    Kind.KILL_HOST: "kill -9 of a stage's predictor host",
    Kind.KILL_SIDECAR: "kill -9 of a worker's sidecar",
    Kind.STOP_SIDECAR: "SIGTERM to a worker's sidecar, which drains",
    Kind.PAUSE_SIDECAR: "SIGSTOP of a sidecar for a while, also for longer than its leases with a long --pause",
    Kind.KILL_COORDINATOR: "kill -9 of the coordinator",
    Kind.PAUSE_COORDINATOR: "SIGSTOP of the coordinator for a while",
    Kind.TEAR_LEDGER: "kill -9 of the coordinator with half a write at the end of its ledger",
    Kind.FILL_LEDGER_DISK: "the coordinator can write no more",
    Kind.FILL_OUTPUT_DISK: "a sidecar can write no more for a while; a job that fails of it is continued",
    Kind.KILL_RUN: "kill -9 of `headrace run` itself; nothing of it may be left, and the same command continues",
}
PREDICTORS = (Kind.KILL_PREDICTOR, Kind.PAUSE_PREDICTOR)
SIDECARS = (Kind.KILL_HOST, Kind.KILL_SIDECAR, Kind.STOP_SIDECAR, Kind.PAUSE_SIDECAR, Kind.FILL_OUTPUT_DISK)

RECOVERED_TIMEOUT_S = 60.0
"""A fault from which the run hasn't recovered by then is reported as such, and the next one falls."""
LEFT_TIMEOUT_S = 10.0
"""For what a killed run started to end, once nothing of it is stopped."""
PAUSE_MIN_S = 0.1
DISK_FULL_MAX_S = 0.5
LOOK_S = 0.005
ASK_S = 0.03


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What the command line says."""

    run_arguments: Sequence[str]  # of `headrace run`, the job first
    folder: JobFolder
    job: str
    storage: StorageOptions  # of the output
    kinds: tuple[Kind, ...]
    every_s: float
    pause_max_s: float
    seed: int
    faults_max: int | None
    together_max: int
    output: str


def run_chaos(options: ChaosOptions, environ: Mapping[str, str]) -> int:
    """Runs the job under faults to its end; prints; returns the exit code."""
    warn(f"seed {options.seed}")
    return asyncio.run(_Chaos(options, environ).run())


class _Chaos:
    def __init__(self, options: ChaosOptions, environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = environ
        self._random = Random(options.seed)
        self._watcher = Watcher(options.folder.address, options.job)
        self._broken: list[Broken] = []
        self._begun = time.monotonic()
        self._stopped: set[int] = set()  # pids under SIGSTOP
        self._run_pid = 0
        self._has_filled_disk = False  # since the run began
        self._has_killed_run = False  # likewise
        self._tearing = asyncio.Lock()  # meanwhile no run begins: its coordinator would open the ledger that is torn
        self._outlived: list[str] = []  # what a killed run has left
        self._interrupt = 0  # the signal

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._pass_on, number)
        arguments = list(self._options.run_arguments)
        strokes: asyncio.Task[None] | None = None
        try:
            while True:
                async with self._tearing:
                    process = await self._start(arguments)
                strokes = strokes or asyncio.create_task(self._strike_on(), name="strokes")
                out = (await process.communicate())[0].decode()
                code = process.returncode
                assert code is not None
                if self._has_killed_run and code == -signal.SIGKILL:
                    self._has_killed_run = False
                    if self._interrupt:
                        code = 128 + self._interrupt
                        break
                elif self._failed_of_a_full_disk(code, out):
                    warn("The job failed of the full disk, as it should; the same command continues it.")
                else:
                    break
                arguments = [part for part in arguments if part != "--again"]
        finally:
            if strokes is not None:
                strokes.cancel()
                await asyncio.gather(strokes, return_exceptions=True)
            self._let_go()
            self._watcher.close()
        return self._conclude(code, out)

    async def _start(self, arguments: Sequence[str]) -> asyncio.subprocess.Process:
        command = [sys.executable, "-c", "from coordinator.cli import main; main()", "run", *arguments]
        # In a session of its own, so that Ctrl-C comes to it once, from here.
        process = await asyncio.create_subprocess_exec(
            *command,
            "--under-chaos",
            "-o",
            "json",
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._environ),
            start_new_session=True,
        )
        self._run_pid = process.pid
        return process

    def _failed_of_a_full_disk(self, code: int, out: str) -> bool:
        """Whether the job failed because this process let no output be written; then there is space again by now."""
        if code != ExitCode.FAILED or not out or not self._has_filled_disk or self._interrupt:
            return False
        self._has_filled_disk = False
        failed = [x for x in json.loads(out)["conditions"] if x["type"] == "Failed" and x["status"]]
        return any(x["reason"] == Reason.SINK_FAILED for x in failed)

    def _pass_on(self, number: int) -> None:
        self._interrupt = number
        self._let_go()
        send(self._run_pid, signal.Signals(number))

    def _let_go(self) -> None:
        for pid in self._stopped:
            send(pid, signal.SIGCONT)
        self._stopped.clear()

    def _conclude(self, code: int, out: str) -> int:
        from coordinator.verify import verify

        self._broken.sort(key=lambda fault: fault.at_s)
        if not out:  # the run has said on stderr why it ended
            if self._broken:
                plain = chaos_json(self._options.seed, self._broken, None, None, self._outlived)
                say(text_of(plain, self._options.output, chaos_lines))
            return code
        job: dict[str, Any] = json.loads(out)
        report = verify(job["output"], self._options.storage) if code == ExitCode.DONE else None
        plain = chaos_json(self._options.seed, self._broken, job, report, self._outlived)
        say(text_of(plain, self._options.output, chaos_lines))
        if code == ExitCode.DONE and (self._outlived or not plain["is_nothing_lost"]):
            return ExitCode.FAILED
        return code

    # ------------------------------------------------------------------ strokes

    async def _strike_on(self) -> None:
        faults_max = self._options.faults_max
        while faults_max is None or len(self._broken) < faults_max:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._options.every_s)
            count = self._random.randint(1, self._options.together_max)
            kinds = [self._random.choice(self._options.kinds) for _ in range(count)]
            drawn = [(kind, self._random.random(), self._random.random()) for kind in kinds]
            sight, tree = await self._wait_working()
            struck = [self._strike(*draw, tree, sight, alone=count == 1) for draw in drawn]
            self._broken += [broken for broken in await asyncio.gather(*struck) if broken is not None]

    async def _wait_working(self) -> tuple[Sight, Tree]:
        """The run, once all its parts are there and somebody holds a lease."""
        while True:
            sight, tree = await self._watcher.look(), look(self._run_pid)
            if sight and not sight.is_ended and sight.is_working and tree.coordinator and tree.predictors:
                return sight, tree
            await asyncio.sleep(ASK_S)

    async def _strike(
        self, kind: Kind, which: float, how_long: float, tree: Tree, sight: Sight, *, alone: bool
    ) -> Broken | None:
        """Breaks one thing and waits until it is well again; None if there was nothing to break."""
        pause_s = PAUSE_MIN_S + how_long * (self._options.pause_max_s - PAUSE_MIN_S)
        at = time.monotonic()
        coordinator = tree.coordinator
        assert coordinator is not None
        if kind in PREDICTORS:
            predictors = sorted(tree.predictors, key=lambda x: (x.worker, x.pid))
            victim = predictors[int(which * len(predictors))]
            what = f"of {victim.worker}, process {victim.pid}"
            if kind is Kind.PAUSE_PREDICTOR:
                if not await self._pause(victim.pid, pause_s):
                    return None
                return Broken(kind, f"{what}, for {pause_s:.1f} s", at - self._begun, None, alone)
            before = tree.predictors_of(victim.host)
            if not send(victim.pid, signal.SIGKILL):
                return None
            recovered_s = await self._until(lambda: self._is_replaced(victim, before), at)
            return Broken(kind, what, at - self._begun, recovered_s, alone)
        if kind in SIDECARS:
            workers = sorted(tree.sidecars)
            worker = workers[int(which * len(workers))]
            return await self._strike_worker(kind, worker, pause_s, tree, sight, alone=alone)
        if kind is Kind.KILL_RUN:
            return await self._kill_run(sight, alone=alone)
        what = f"process {coordinator}"
        match kind:
            case Kind.PAUSE_COORDINATOR:
                if not await self._pause(coordinator, pause_s):
                    return None
                at, what = time.monotonic(), f"{what}, for {pause_s:.1f} s"
                recovered_s = await self._until_sight(lambda seen: seen.is_working, at)
                return Broken(kind, what, at - self._begun, recovered_s, alone)
            case Kind.TEAR_LEDGER:
                async with self._tearing:
                    struck = await asyncio.to_thread(
                        kill_and_tear, self._run_pid, coordinator, self._options.folder.ledger, self._random
                    )
            case Kind.FILL_LEDGER_DISK:
                struck = set_file_limit(coordinator, 0)
                # It is felt as soon as something has to be written.
                if struck and await self._until(lambda: not is_alive(coordinator), at) is None:
                    set_file_limit(coordinator, None)
                    return Broken(kind, what, at - self._begun, None, alone)
                at = time.monotonic()
            case _:
                struck = send(coordinator, signal.SIGKILL)
        if not struck:
            return None
        recovered_s = await self._until_sight(lambda seen: seen.term > sight.term and seen.is_working, at)
        return Broken(kind, what, at - self._begun, recovered_s, alone)

    async def _strike_worker(
        self, kind: Kind, worker: str, pause_s: float, tree: Tree, sight: Sight, *, alone: bool
    ) -> Broken | None:
        pid, at, what = tree.sidecars[worker], time.monotonic(), worker
        before = sight.incarnations.get(worker, "")
        is_new = True  # the worker comes back as another process
        match kind:
            case Kind.KILL_HOST:
                hosts = sorted(host for host, of in tree.hosts.items() if of == worker)
                struck = bool(hosts) and send(hosts[0], signal.SIGKILL)
            case Kind.KILL_SIDECAR:
                struck = send(pid, signal.SIGKILL)
            case Kind.STOP_SIDECAR:
                struck = send(pid, signal.SIGTERM)
            case Kind.PAUSE_SIDECAR:
                is_new, struck = False, await self._pause(pid, pause_s)
                at, what = time.monotonic(), f"{worker}, for {pause_s:.1f} s"
            case _:
                full_s = min(pause_s, DISK_FULL_MAX_S)
                self._has_filled_disk = True
                is_new, struck = False, set_file_limit(pid, 0)
                await asyncio.sleep(full_s)
                set_file_limit(pid, None)
                at, what = time.monotonic(), f"{worker}, for {full_s:.1f} s"
        if not struck:
            return None
        recovered_s = await self._until_sight(
            lambda seen: seen.works(worker) and (not is_new or seen.incarnations[worker] != before), at
        )
        return Broken(kind, what, at - self._begun, recovered_s, alone)

    async def _kill_run(self, sight: Sight, *, alone: bool) -> Broken | None:
        """Kills the run; `run` starts the next one at once, also while the last one's processes still end."""
        run, at = self._run_pid, time.monotonic()
        left = below(run)
        self._has_killed_run = True
        if not send(run, signal.SIGKILL):
            return None
        what = f"process {run}, {len(left)} processes below it"
        waits = [self._wait_ended(left), self._until_sight(lambda seen: seen.term > sight.term and seen.is_working, at)]
        _, recovered_s = await asyncio.gather(*waits)
        return Broken(Kind.KILL_RUN, what, at - self._begun, recovered_s, alone)

    async def _wait_ended(self, left: Mapping[int, str]) -> None:
        """Waits until these processes have ended; notes those that don't."""
        stopped_at = time.monotonic()
        while still := {pid: name for pid, name in left.items() if is_alive(pid, name)}:
            now = time.monotonic()
            stopped_at = now if self._stopped & still.keys() else stopped_at
            if now - stopped_at > LEFT_TIMEOUT_S:
                self._outlived += [f"process {pid}" for pid in still]
                return
            await asyncio.sleep(LOOK_S)

    async def _pause(self, pid: int, seconds: float) -> bool:
        if not send(pid, signal.SIGSTOP):
            return False
        self._stopped.add(pid)
        try:
            await asyncio.sleep(seconds)
        finally:
            if pid in self._stopped:
                self._stopped.discard(pid)
                send(pid, signal.SIGCONT)
        return True

    # ------------------------------------------------------------------ recovery

    def _is_replaced(self, victim: Predictor, before: frozenset[int]) -> bool:
        tree = look(self._run_pid)
        # Another fault may have taken its host: then the worker's next one counts.
        is_there = victim.host in tree.hosts
        hosts = [host for host, of in tree.hosts.items() if (host == victim.host if is_there else of == victim.worker)]
        return any(now - before and len(now) >= len(before) for now in map(tree.predictors_of, hosts))

    async def _until(self, is_well: Callable[[], bool], since: float) -> float | None:
        while time.monotonic() - since < RECOVERED_TIMEOUT_S:
            if is_well():
                return time.monotonic() - since
            await asyncio.sleep(LOOK_S)
        return None

    async def _until_sight(self, is_well: Callable[[Sight], bool], since: float) -> float | None:
        while time.monotonic() - since < RECOVERED_TIMEOUT_S:
            seen = await self._watcher.look()
            if seen is not None and is_well(seen):
                return time.monotonic() - since
            await asyncio.sleep(ASK_S)
        return None
