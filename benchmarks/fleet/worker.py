"""One simulated sidecar: what `sidecar.driver` and `sidecar.feed` do with leases, without the rows.

    granted ──two are read at once, block by block──▶ computed in order of grant ──▶ staged ──▶ committed ──▶ published

Reading runs ahead of the model by what the arena holds, so a lease's position says what has been read, not what is
computed; a block that is being read can't be given away.

Not here: what the coordinator makes of it (`run`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import Protocol

from benchmarks.fleet.speeds import Speed
from coordinator.core.facts import RowCounts
from coordinator.core.lease_values import Held
from coordinator.exchange import Answer, CommitAsked, Offer, Report
from headrace.words import Epoch, Incarnation, ShardId, WorkerName
from sidecar.driver import CALM_S, LEASES_AHEAD, READERS

Key = tuple[ShardId, Epoch]


@dataclass(frozen=True, slots=True)
class Costs:
    """What work costs besides the model's own time."""

    block_rows: int = 131_072  # most that are read at once
    read_speed: float = 30.0  # reading, by the model's mean speed
    open_s: float = 0.05  # before the first block of a lease
    ahead_s: float = 3.0  # seconds of the model's work that the arena holds
    shard_s: float = 0.05  # of the model's time, for each lease: its last batches aren't full, its file is encoded
    stage_s: float = 0.3  # from the last row computed to the staged file
    publish_s: float = 0.1
    one_way_s: tuple[float, float] = (0.001, 0.005)  # of a message
    decide_s: float = 0.001  # of the coordinator's one core, for each call
    fsync_s: float = 0.005  # before an answer leaves


class State(Enum):
    """As the sidecar's `RunState`."""

    READING = auto()
    COMMITTING = auto()
    PUBLISHING = auto()
    PUBLISHED = auto()


@dataclass(slots=True, eq=False)
class Run:
    """The work on one lease."""

    key: Key
    begin: int
    end: int
    agreed_end: int
    position: int
    cost_rows: float  # work beyond its rows
    claimed: int
    done: float = 0.0  # work done of it, `cost_rows` included
    is_read: bool = False
    is_fed: bool = False  # by one of the readers
    is_reading: bool = False  # a block of it
    is_staging: bool = False
    is_dropped: bool = False
    offered: int | None = None
    state: State = State.READING

    @property
    def rows_done(self) -> float:
        """Rows of it that are computed."""
        return max(0.0, self.done - self.cost_rows)

    @property
    def undone(self) -> float:
        """Work that has been read and isn't done."""
        return self.position - self.begin + self.cost_rows - self.done if self.position > self.begin else 0.0


class Surroundings(Protocol):
    """What a worker needs of its world."""

    now: float

    def call_at(self, at: float, callback: Callable[[], None]) -> None:
        """Calls back at that time."""

    def send(self, worker: "Worker", report: Report) -> None:
        """Brings the report to the coordinator; `Worker.answered` follows."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker, from its registration on."""

    name: WorkerName
    speed: Speed
    costs: Costs
    world: Surroundings
    random: Random
    incarnation: Incarnation = field(init=False)
    sequence: int = 0
    heartbeat_s: float = 1.0
    rows_computed: float = 0.0  # rows of dropped leases too
    _runs: dict[Key, Run] = field(default_factory=dict)
    _is_told: bool = False
    _rests_until: float | None = None  # None: an exchange is under way
    _rest: int = 0  # number of the timer that counts
    _answered_at: float = 0.0
    _turn: int = 0
    _work: float = 0.0  # of the speed's, up to which `_compute` has come

    def __post_init__(self) -> None:
        self.incarnation = Incarnation(f"{self.name}-1")

    # ------------------------------------------------------------------ exchange

    def exchange(self) -> None:
        """Says all there is to say."""
        self._rests_until, self._is_told = None, False
        self._compute()
        self.sequence += 1
        runs = self._runs.values()
        live = [run for run in runs if run.state is State.READING]
        committing = [run for run in runs if run.state is State.COMMITTING]
        reading = sum(not run.is_read for run in live)
        report = Report(
            self.name,
            self.incarnation,
            term=1,
            sequence=self.sequence,
            held=tuple(_held(run) for run in (*live, *committing)),
            want=max(0, LEASES_AHEAD - reading),
            commits=tuple(_commit(run) for run in committing),
            published=tuple(run.key for run in runs if run.state is State.PUBLISHED),
            offers=tuple(Offer(*run.key, run.offered) for run in live if run.offered is not None),
        )
        self.world.send(self, report)

    def answered(self, answer: Answer) -> None:
        """The coordinator's word on the report."""
        self._compute()
        for verdict in answer.stale:
            self._drop((verdict.shard, verdict.epoch))
        for verdict in answer.commits:
            self._decided((verdict.shard, verdict.epoch), verdict.outcome)
        for verdict in answer.published:
            self._runs.pop((verdict.shard, verdict.epoch), None)
        for shard, epoch, end in answer.ends:
            self._split_answered((shard, epoch), end)
        for key in answer.asks:
            self._offer_split(key)
        for grant in answer.grants:
            key = (grant.shard, grant.epoch)
            cost = self.costs.shard_s * self.speed.base
            self._runs[key] = Run(key, grant.begin, grant.end, grant.end, grant.begin, cost, grant.begin)
        self._answered_at = self.world.now
        self._rest_until(self.world.now + (answer.wait_s or self.heartbeat_s))
        self._go_on()
        if self._is_told:
            self._tell()

    def _tell(self) -> None:
        """As `sidecar.news`: said at once where something waits for the answer, else a moment later with the rest."""
        self._is_told = True
        if self._rests_until is None:
            return
        if self._is_urgent():
            self.exchange()
        else:
            self._rest_until(min(self._rests_until, self._answered_at + CALM_S))

    def _rest_until(self, until: float) -> None:
        self._rests_until = until
        self._rest += 1
        rest = self._rest
        self.world.call_at(max(until, self.world.now), lambda: self._rested(rest))

    def _rested(self, rest: int) -> None:
        if rest == self._rest and self._rests_until is not None:
            self.exchange()

    def _is_urgent(self) -> bool:
        live = [run for run in self._runs.values() if run.state is State.READING]
        return sum(not run.is_read for run in live) < READERS or any(run.offered is not None for run in live)

    # ------------------------------------------------------------------ reading and computing

    def _compute(self) -> None:
        """Brings what is computed up to the present."""
        work = self.speed.work_at(self.world.now)
        left, self._work = work - self._work, work
        for run in self._runs.values():
            if left <= 0:
                return
            if run.state is State.READING and run.undone > 0:
                part, rows_before = min(left, run.undone), run.rows_done
                run.done += part
                left -= part
                self.rows_computed += run.rows_done - rows_before
                if run.undone < 0.5:  # of a row: times are rounded
                    run.done += run.undone

    def _go_on(self) -> None:
        """Takes every step that is due, and comes back when the next one is."""
        fed = [run for run in self._runs.values() if run.state is State.READING and run.is_fed and not run.is_read]
        for run in self._runs.values():
            if len(fed) < READERS and run.state is State.READING and not run.is_fed:
                run.is_fed = True
                fed.append(run)
                self._read(run, self.costs.open_s)
        before = 0.0
        goals = []  # work until something is due
        room = self.costs.ahead_s * self.speed.base
        for run in list(self._runs.values()):
            if run.state is not State.READING:
                continue
            before += run.undone
            if run.undone > 0:
                goals.append(before)
            if run.is_fed and not run.is_read and not run.is_reading:
                if before <= room + 0.5:
                    self._fed(run)
                else:
                    goals.append(before - room)
            self._settle(run)
        self._turn += 1
        if goals:
            turn = self._turn
            at = self.speed.time_of(self._work + min(goals))
            self.world.call_at(max(at, self.world.now), lambda: self._due(turn))

    def _due(self, turn: int) -> None:
        if turn == self._turn:
            self._compute()
            self._go_on()

    def _read(self, run: Run, first_s: float = 0.0) -> None:
        run.is_reading = True
        run.claimed = min(run.position + self.costs.block_rows, run.end)
        rate = self.costs.read_speed * self.speed.base
        took = first_s + (run.claimed - run.position) / rate
        self.world.call_at(self.world.now + took, lambda: self._block_read(run))

    def _block_read(self, run: Run) -> None:
        run.is_reading = False
        if run.is_dropped:
            return
        self._compute()
        run.position = run.claimed
        self._go_on()

    def _fed(self, run: Run) -> None:
        """All that was read of it is in the arena."""
        if run.position < run.end:
            self._read(run)
        elif run.offered is None:
            run.is_read = True
            self.world.call_at(self.world.now, self._now_read)

    def _now_read(self) -> None:
        self._compute()
        self._go_on()
        self._tell()

    def _settle(self, run: Run) -> None:
        if run.is_read and run.undone <= 0 and run.offered is None and not run.is_staging:
            run.is_staging = True
            self.world.call_at(self.world.now + self.costs.stage_s, lambda: self._staged(run))

    def _staged(self, run: Run) -> None:
        if run.is_dropped:
            return
        run.state = State.COMMITTING
        self._tell()

    # ------------------------------------------------------------------ leases

    def _decided(self, key: Key, outcome: str) -> None:
        run = self._runs.get(key)
        if run is None or run.state is not State.COMMITTING:
            return
        if outcome != "ACCEPTED":
            self._drop(key)
            return
        run.state = State.PUBLISHING
        self.world.call_at(self.world.now + self.costs.publish_s, lambda: self._published(run))

    def _published(self, run: Run) -> None:
        run.state = State.PUBLISHED
        self._tell()

    def _offer_split(self, key: Key) -> None:
        run = self._runs.get(key)
        if run is None or run.state is not State.READING or run.offered is not None:
            return
        run.offered = run.end
        if not run.is_read:
            run.offered = max(run.position + (run.end - run.position + 1) // 2, run.claimed)
            run.end = run.offered
        self._is_told = True

    def _split_answered(self, key: Key, end: int) -> None:
        run = self._runs.get(key)
        if run is not None:
            run.agreed_end = run.end = end
            run.offered = None

    def _drop(self, key: Key) -> None:
        run = self._runs.pop(key, None)
        if run is not None:
            run.is_dropped = True


def _held(run: Run) -> Held:
    return Held(*run.key, run.begin, run.agreed_end, run.position, rows_done=int(run.rows_done))


def _commit(run: Run) -> CommitAsked:
    rows = run.end - run.begin
    return CommitAsked(*run.key, run.begin, run.end, RowCounts(read=rows, out=rows), ())
