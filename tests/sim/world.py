"""A simulated world: one clock, one source of chance, processes, a network, disks, and faults as its story says.

    story ──▶ world ──steps──▶ processes, network, store ──witnessed by──▶ laws
                └─ when the last fault is over: every job must end

Two runs of one story make the same steps (`Outcome.digest`).

Not here: what the faults are (`story`), what must hold (`laws`).
"""

import contextlib
import hashlib
import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from random import seed as seed_all

from coordinator.core.facts import Ended, EpochEnded, Fact, OutputStep
from coordinator.core.leases import LeaseTable
from headrace.words import Incarnation, WorkerName
from tests.sim.coordinator_actor import OLDER, CoordinatorActor, UnthreadedCommit
from tests.sim.disk import SimDisk, SimJournal
from tests.sim.laws import LawBroken, Laws, check
from tests.sim.liar import Liar
from tests.sim.network import Link, Network
from tests.sim.processes import Process
from tests.sim.sidecar_actor import SidecarActor
from tests.sim.stalls import Killed, Steps
from tests.sim.store import Store
from tests.sim.story import COORDINATOR, Fault, Kind, Story
from tests.sim.telling import tell_fact
from tests.sim.worker_actor import WorkerActor

LIVENESS_S = 120.0
"""Without faults, in which a job must end: many times what its work takes."""
TURNS_MAX = 2_000
"""Steps within one instant before they are spinning."""
RESTART_S = 0.5
"""Until whoever started a process that ended by itself starts it again."""
STORE_ERRORS = 0.5


_DEADLY = (Kind.KILLED, Kind.KILLED_WRITING, Kind.KILLED_FINISHING, Kind.LEDGER_FULL)


@dataclass(frozen=True)
class Defect:
    """Decisions of a world that may have gone wrong on purpose."""

    name: str = ""
    table: type[LeaseTable] = LeaseTable
    journal: type[SimJournal] = SimJournal
    commits: type[UnthreadedCommit] = UnthreadedCommit
    worker: type[WorkerActor] | type[SidecarActor] = SidecarActor


@dataclass(frozen=True)
class Outcome:
    """How a world ended."""

    broken: LawBroken | None
    digest: str  # of the transcript
    ended_at: float
    transcript: tuple[str, ...]
    seen: frozenset[str]  # kinds of facts and other things that happened


class World:
    """One run of one story."""

    def __init__(self, story: Story, defect: Defect = Defect()) -> None:
        self.story = story
        self.now = 0.0
        self.random = Random(f"world {story.seed}")
        seed_all(f"jitter {story.seed}")  # the sidecar's client draws its own
        self.disk = SimDisk(bytearray())
        self.network = Network(self)
        self._defect = defect
        self._store = Store(self._store_changes)
        self.output = self._store.output
        self.laws = Laws(self.output, story.units)
        self._steps = Steps()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._incarnations = itertools.count(1)
        self._processes: dict[str, Process] = {}
        self._down_until: dict[str, float] = {}
        self._active: list[Fault] = []
        self._coordinator: CoordinatorActor | None = None
        self._workers: dict[str, WorkerActor | SidecarActor] = {}
        self._sidecars: dict[Incarnation, WorkerActor | SidecarActor] = {}  # all that ever lived
        self._broken: LawBroken | None = None
        self._is_complete = False
        self._is_degraded = False
        self._transcript: list[tuple[float, str, str]] = []
        self._seen: set[str] = set()
        self._sleepers: dict[Fault, Process] = {}
        self._finish_killed: set[Fault] = set()
        self._writes_left: dict[str, int] = {}  # of processes that are killed at a write
        self._zombies: list[Process] = []  # whose name another process has by now

    # ------------------------------------------------------------------ for those who live here

    def call_at(self, at: float, callback: Callable[[], None]) -> None:
        """Calls back at that time."""
        heapq.heappush(self._queue, (at, next(self._numbers), callback))

    def disk_s(self, process: Process) -> float:
        """How long a call in a thread takes."""
        mean = 0.5 if self._is_under(process.name, Kind.SLOW_DISK) else 0.004
        return self.random.expovariate(1 / mean)

    def held_up(self, process: Process) -> int | None:
        """Where a call in a thread waits while its process sleeps, or while its disk is slow."""
        is_likely = process.is_paused or self._is_under(process.name, Kind.SLOW_DISK)
        return self.random.choice((None, 0, 1, 2, 3)) if is_likely else None

    def cut_off(self, process: Process) -> int | None:
        """Where a call in a thread ends when its process is killed."""
        return self.random.choice((0, 1, 2, 3, 5, None))

    def note(self, who: str, what: str) -> None:
        """For the transcript."""
        self._transcript.append((self.now, who, what))

    def coordinator_ready(self, coordinator: CoordinatorActor) -> None:
        """Workers may call."""
        self.network.server = coordinator

    def job_complete(self, *, is_degraded: bool) -> None:
        """The user has heard that the job is over."""
        self._is_complete, self._is_degraded = True, is_degraded

    # ------------------------------------------------------------------ the run

    def run(self) -> Outcome:
        """Runs to the end of the job, or to the first law that is broken."""
        broken = None
        try:
            if self.story.mode != "fail":
                self._fill_output()
            for fault in self.story.faults:
                self.call_at(fault.at, partial(self._begin, fault))
                self.call_at(fault.until, partial(self._end, fault))
            for name in (COORDINATOR, *self.story.workers):
                self._start(name)
            self._go_on()
            self.laws.finished(self.story.mode, is_degraded=self._is_degraded)
        except LawBroken as error:
            broken = error
        finally:
            for process in (*self._processes.values(), *self._zombies):
                process.kill()
            self._store.close()
        told = tuple(f"t={at:.3f} {who} {what}" for at, who, what in self._transcript)
        digest = hashlib.blake2b("\n".join(told).encode(), digest_size=8).hexdigest()
        return Outcome(broken, digest, self.now, told, frozenset(self._seen))

    def _go_on(self) -> None:
        turns, end_at = 0, self.story.calm_at + LIVENESS_S
        while not self._is_complete:
            before = self.now
            self._step()
            turns = turns + 1 if self.now == before else 0
            if turns > TURNS_MAX:
                raise LawBroken(6, "the world spins")
            if self.now > end_at:
                raise LawBroken(6, f"the job doesn't end within {LIVENESS_S:g} s without faults")

    def _step(self) -> None:
        at, process = math.inf, None
        for candidate in (*self._processes.values(), *self._zombies):
            wake_at = candidate.wake_at()
            if wake_at is not None and wake_at < at:
                at, process = wake_at, candidate
        if self._queue and self._queue[0][0] <= at:
            at, _, callback = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            callback()
        else:
            assert process is not None, "nothing will ever happen again"
            self.now = max(self.now, at)
            process.turn()
        self._look()

    def _look(self) -> None:
        if self._broken is not None:
            raise self._broken
        self.laws.world(self.network.in_flight)
        driver = self._coordinator.driver if self._coordinator else None
        if driver is not None and self.laws.undurable:
            self.laws.undurable = 0
            for run in driver.runs.values():
                if not run.is_forgotten:
                    self.laws.table(run.table)
        for name, process in self._processes.items():
            if process.is_dead and name not in self._down_until:
                self._died(name, process)
        for process in [zombie for zombie in self._zombies if zombie.is_dead]:
            self._zombies.remove(process)
            self.note(process.name, "ended, the former one")
            if process.exit is not None:
                self._check_exit(process.name, process.exit)

    # ------------------------------------------------------------------ processes

    def _start(self, name: str) -> None:
        self._down_until.pop(name, None)
        process = Process(name, self, self._steps)
        self._processes[name] = process
        if name == COORDINATOR:
            journal = self._defect.journal(self.disk, self._write, self)
            self._coordinator = CoordinatorActor(process, self, journal, self._defect.table, self._defect.commits)
            process.start(self._coordinator.main())
            return
        index = self.story.workers.index(name)
        is_liar = self.story.has_liar and index == len(self.story.workers) - 1
        incarnation = Incarnation(f"i{next(self._incarnations)}")
        worker = (Liar if is_liar else self._defect.worker)(process, self, incarnation, self.story.speeds[index])
        self._workers[name] = self._sidecars[incarnation] = worker
        self.note(name, f"starts as {incarnation}")
        process.start(worker.main())

    def _died(self, name: str, process: Process) -> None:
        if process.exit is not None:
            self._check_exit(name, process.exit)
        self.note(name, "ended" if process.exit is None else f"ended of {process.exit!r}")
        if name == COORDINATOR:
            self.network.server, self._coordinator = None, None
            self.disk.tear(self.random)
        at = self.now + RESTART_S
        for fault in self._active:
            if fault.who == name and fault.kind in _DEADLY:
                at = max(at, fault.until)
        self._down_until[name] = at
        self.call_at(at, partial(self._start, name))

    def _check_exit(self, name: str, error: BaseException) -> None:
        if isinstance(error, LawBroken):
            raise error
        is_expected = type(error).__name__ in ("JournalFailed", "Killed")
        if not is_expected:
            raise LawBroken(0, f"{name} ended of an error that nobody expects: {error!r}") from error

    # ------------------------------------------------------------------ faults

    def _begin(self, fault: Fault) -> None:
        self._active.append(fault)
        self._seen.add(fault.kind.name)
        process = self._processes.get(fault.who)
        is_up = process is not None and not process.is_dead
        worker = self._workers.get(fault.who)
        self.note(fault.who, f"{fault.kind}, for {fault.for_s:.2f} s")
        match fault.kind:
            case Kind.KILLED if is_up and process:
                process.kill()
            case Kind.KILLED_WRITING:
                self._writes_left.setdefault(fault.who, fault.writes)
            case Kind.PAUSED if is_up and process:
                self._put_to_sleep(fault, process)
            case Kind.REPLACED if is_up and process:
                self._put_to_sleep(fault, process)
                self._zombies.append(process)
                self._start(fault.who)
            case Kind.DRAINED if is_up and process and worker:
                process.deliver(partial(process.call_soon, worker.drain))
            case Kind.FAILING if worker:
                worker.fails_next = True
            case Kind.STAGING_LOST if worker:
                for staged in worker.staged_paths():
                    staged.unlink(missing_ok=True)
            case Kind.LEDGER_FULL:
                self.disk.is_full = True
            case Kind.SUSPENDED if (coordinator := self.network.server) is not None:
                coordinator.process.deliver(lambda: coordinator.process.spawn(coordinator.suspend()))
        self._set_links()

    def _end(self, fault: Fault) -> None:
        if fault.kind is Kind.KILLED_FINISHING and fault not in self._finish_killed:
            return  # waits for it
        self._active.remove(fault)
        match fault.kind:
            case Kind.PAUSED | Kind.REPLACED if (sleeper := self._sleepers.pop(fault, None)) is not None:
                if sleeper not in self._sleepers.values():
                    sleeper.resume()
            case Kind.KILLED_WRITING:
                self._writes_left.pop(fault.who, None)
            case Kind.LEDGER_FULL:
                self.disk.is_full = self._is_under(COORDINATOR, Kind.LEDGER_FULL)
            case Kind.SUSPENDED if (coordinator := self.network.server) is not None:
                coordinator.process.deliver(lambda: coordinator.process.spawn(coordinator.resume()))
        self._set_links()

    def _put_to_sleep(self, fault: Fault, process: Process) -> None:
        process.pause()
        self._sleepers[fault] = process

    def _is_under(self, who: str, *kinds: Kind) -> bool:
        return any(fault.who == who and fault.kind in kinds for fault in self._active)

    def _set_links(self) -> None:
        for name in self.story.workers:
            self.network.links[name] = Link(
                is_up_cut=self._is_under(name, Kind.CUT, Kind.UP_CUT),
                is_down_cut=self._is_under(name, Kind.CUT, Kind.DOWN_CUT),
                is_lossy=self._is_under(name, Kind.LOSSY),
                is_slow=self._is_under(name, Kind.SLOW_LINK),
                is_doubling=self._is_under(name, Kind.DOUBLING),
            )

    # ------------------------------------------------------------------ what is witnessed

    def decided(self, facts: Sequence[Fact], asking: WorkerName | None) -> None:
        """The coordinator decided this, perhaps in the call of a worker."""
        with self._witnessed():
            self.laws.decided(facts, asking)
            for fact in facts:
                if isinstance(fact, EpochEnded) and fact.why is Ended.EXPIRED:
                    self._check_trust(fact)

    def _check_trust(self, fact: EpochEnded) -> None:
        """The lessee stops trusting a lease before the lessor does (architecture 3.2)."""
        for sidecar in self._sidecars.values():
            if (fact.shard, fact.epoch) in sidecar.runs and not sidecar.process.is_dead:
                is_trusted = sidecar.terms.is_trusted(self.now)
                check(0, not is_trusted, f"{sidecar.name} still trusts {fact}")

    def _store_changes(self, event: str, paths: tuple[str, ...]) -> None:
        process = self._steps.acting
        if process is None:
            return  # the world's own
        self._write()
        if self._is_under(process.name, Kind.STORE_FAILS) and self.random.random() < STORE_ERRORS:
            raise OSError(5, "the simulated store fails")
        with self._witnessed():
            self.laws.changes(event, paths)

    def _note_finish(self) -> None:
        """The finish has begun; whoever is to be killed in it soon is."""
        for fault in self._active:
            if fault.kind is Kind.KILLED_FINISHING and fault not in self._finish_killed:
                self._finish_killed.add(fault)
                self._writes_left.setdefault(COORDINATOR, fault.writes)

    def _write(self) -> None:
        """A process is about to change a disk.

        Raises:
            Killed: it doesn't live to see it.
        """
        self._steps.step()
        process = self._steps.acting
        left = self._writes_left.get(process.name) if process is not None else None
        if left is not None and not process.is_dead:
            self._writes_left[process.name] = left - 1
            if left <= 0:
                del self._writes_left[process.name]
                self._seen.add("killed at a write")
                self.note(process.name, "is killed at a write")
                self.call_at(self.now, process.kill)
                raise Killed

    def durable(self, facts: list[tuple[int, Fact]]) -> None:
        """The ledger's disk holds these facts."""
        for number, fact in facts:
            if number > self.laws.last:
                self._seen.add(type(fact).__name__)
                if isinstance(fact, OutputStep):
                    self._note_finish()
                if isinstance(fact, EpochEnded):
                    self._seen.add(f"Ended.{Ended(fact.why).name}")
                self.note("ledger", f"{number}: {tell_fact(fact)}")
        with self._witnessed():
            self.laws.durable(facts)

    def replayed(self, last: int) -> None:
        """A coordinator has read the ledger."""
        self.note(COORDINATOR, f"starts on a ledger of {last} facts")
        with self._witnessed():
            self.laws.replayed(last)

    @contextlib.contextmanager
    def _witnessed(self) -> Iterator[None]:
        """Keeps a broken law, whatever becomes of the call that broke it."""
        try:
            yield
        except LawBroken as error:
            self._broken = self._broken or error
            raise

    def _fill_output(self) -> None:
        """What an earlier job left: every row once."""
        self.output.mkdir()
        rows = "".join(f'{{"n": {n}}}\n' for n in range(self.story.units))
        Path(self.output / OLDER).write_text(rows)
