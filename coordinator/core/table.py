"""The state of one job's shards and live epochs, changed by facts alone.

    PENDING ──Granted──▶ LEASED ──CommitDecided──▶ COMMITTING ──Published──▶ COMMITTED
       ▲                   │                            │
       └── last EpochEnded ─┘◀───────── Revoked ────────┘        PENDING ──Quarantined──▶ QUARANTINED

`apply` is the only way in which durable state changes, so a replay of the facts gives an equal table. Deadlines and
positions are not durable: `leases.LeaseTable`, which decides, sets them on the live epochs.

Not here: whether a fact is lawful (`leases`), what is durable (`coordinator.journal`).
"""

import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, assert_never

import numpy as np

from coordinator.core.columns import PAGE_SHARDS, Ints, ShardColumns
from coordinator.core.facts import (
    AllPublished,
    ChargeReturned,
    Checkpoint,
    CommitDecided,
    Ended,
    EpochEnded,
    Fact,
    Granted,
    Published,
    Quarantined,
    Revoked,
    RowCounts,
    SchemaAgreed,
    SplitMade,
    TablePage,
)
from coordinator.core.lease_values import Counts, Lease, Publishing, ShardView
from coordinator.core.lost import NOTHING_LOST, Lost
from coordinator.core.pending import PendingShards
from headrace.dataset import CorruptUnits
from headrace.words import Epoch, Incarnation, ShardId, ShardState, WorkerName

_UINT8_MAX = 255
_ERROR_CHARS_MAX = 4_000
_CUT_OFF_MAX = 10_000  # expired epochs whose charge can still be taken back

TableFact = (
    Granted
    | EpochEnded
    | ChargeReturned
    | SplitMade
    | SchemaAgreed
    | CommitDecided
    | Published
    | AllPublished
    | Revoked
    | Quarantined
    | TablePage
    | Checkpoint
)


class ShardTable:
    """Shards and live epochs of one job."""

    def __init__(
        self,
        job: int,
        ends: Ints,
        *,
        cuts: Ints | None = None,
        divisible: bool = True,
        attempts_max: int,
        tries_max: int,
        units_min: int = 1,
        held: bool = False,
        lost_of: Callable[[Sequence[CorruptUnits]], Lost],
    ) -> None:
        """Shard i covers ``[ends[i - 1], ends[i])``, from 0 on.

        Args:
            job: the number that this table's facts carry.
            ends: int64 ``[shards]``, rising; kept, not copied.
            cuts: sorted units where cutting is free; elsewhere only if `divisible`.
            attempts_max: charged grants of a shard before it is quarantined; at most 255.
            tries_max: grants without progress, charged or not, before it is quarantined.
            units_min: no cut of a grant's front leaves a smaller part, unless the front is as small.
            held: publishing waits for the end of the job (modes append and replace).
            lost_of: what of a commit's corrupt ranges can't be counted.
        """
        self.job = job
        self.is_held = held
        self.is_divisible = divisible
        self.units_min = max(1, units_min)
        self.rows = RowCounts()  # of all commits that count
        self.lost = NOTHING_LOST  # of them, what of their corrupt ranges can't be counted
        self.schema = ""  # of all data files (`schema`); empty: none agreed
        self.shards_recomputed = 0  # shards that were granted more than once
        self._attempts_max = min(attempts_max, _UINT8_MAX)
        self._tries_max = min(tries_max, _UINT8_MAX)
        self._cuts = np.empty(0, np.int64) if cuts is None else cuts
        self._columns = ShardColumns(ends)
        self._pending = PendingShards(self._columns)
        self._shards = [self._columns.count, 0, 0, 0, 0]  # by ShardState
        self._units = [int(ends[-1]) if len(ends) else 0, 0, 0, 0, 0]
        self._holders: list[tuple[WorkerName, Incarnation]] = []
        self._holder_index: dict[tuple[WorkerName, Incarnation], int] = {}
        self._live: dict[int, list[Lease]] = {}
        self._by_worker: dict[WorkerName, dict[int, Lease]] = {}
        self._publishing: dict[int, Publishing] = {}  # COMMITTING shards, unless held
        self._errors: dict[int, str] = {}
        self._lost_of = lost_of
        self._lost: dict[int, Lost] = {}  # by shard
        self._cut_off: dict[tuple[int, int], tuple[WorkerName, Incarnation]] = {}
        self._deadline_min = math.inf  # no lease's deadline is earlier

    # ------------------------------------------------------------ queries

    @property
    def counts(self) -> Counts:
        """Shards by state."""
        pending, leased, committing, committed, quarantined = self._shards
        if self.is_held:
            return Counts(pending, leased, committing, committed + committing, quarantined)
        return Counts(pending, leased + committing, committing, committed, quarantined)

    @property
    def units_pending(self) -> int:
        """Units that nobody works on."""
        return self._units[ShardState.PENDING]

    @property
    def units_won(self) -> int:
        """Units of all commits that count, published or not."""
        return self._units[ShardState.COMMITTING] + self._units[ShardState.COMMITTED]

    @property
    def units_total(self) -> int:
        """Units of all shards; no decision changes it."""
        return sum(self._units)

    @property
    def is_finished(self) -> bool:
        """Every shard is COMMITTED (held: COMMITTING) or QUARANTINED."""
        counts = self.counts
        return counts.pending == 0 and counts.leased == 0

    def range_of(self, shard: ShardId) -> tuple[int, int]:
        """Units ``[begin, end)`` of the shard, as of now."""
        return self._columns.begins[shard], self._columns.ends[shard]

    @property
    def first_pending(self) -> ShardId | None:
        """The pending shard that is granted next."""
        return self._pending.first()

    def attempts(self, shard: ShardId) -> int:
        """How many grants of the shard were charged."""
        return self._columns.attempts[shard]

    def leases(self) -> Iterator[Lease]:
        """All live epochs."""
        return (lease for live in self._live.values() for lease in live)

    def held_by(self, worker: WorkerName) -> list[Lease]:
        """The worker's live epochs, in order of grant."""
        return list(self._by_worker.get(worker, {}).values())

    def rows_live(self, worker: WorkerName) -> tuple[int, int]:
        """Rows of the worker's live epochs, done and rejected, as far as they are known.

        Rows of a shard with two live epochs are the same rows: the larger number counts, for the first one's worker.
        """
        done = rejected = 0
        for lease in self.held_by(worker):
            both = self._live[lease.shard]
            if both[0] is lease:
                done += max(each.rows_done for each in both)
                rejected += max(each.rows_rejected for each in both)
        return done, rejected

    def live_on(self, shard: ShardId) -> Sequence[Lease]:
        """The shard's live epochs, in order of grant."""
        return tuple(self._live.get(shard, ()))

    def live_epochs(self, shard: ShardId) -> int:
        """How many epochs of the shard are live: 0, 1 or 2."""
        return len(self._live.get(shard, ()))

    def awaits_publish(self, shard: ShardId, epoch: Epoch) -> bool:
        """Whether this commit counts and its publish isn't journaled yet; never in held modes."""
        publishing = self._publishing.get(shard)
        return publishing is not None and publishing.epoch == epoch

    def explains(self, shard: ShardId, epoch: Epoch, *, is_published: bool) -> bool:
        """Whether the facts so far allow a file of this lease to exist: it was granted, and what is live isn't visible.

        Otherwise facts are missing that a worker was told of.
        """
        if shard >= self._columns.count or epoch > self._columns.epochs[shard]:
            return False
        return not is_published or all(lease.epoch != epoch for lease in self._live.get(shard, ()))

    def next_cut(self, unit: int) -> int:
        """The lowest unit at or past `unit` where a lease may be split; may lie past its end."""
        if self.is_divisible:
            return unit
        i = int(np.searchsorted(self._cuts, unit))
        return int(self._cuts[i]) if i < len(self._cuts) else self.units_total

    def shards(self, *, state: ShardState | None, after: int = -1, limit: int = 100) -> list[ShardView]:
        """Shards with ids above `after`, by id, of one state or of all."""
        columns = self._columns
        if state is None:
            ids: Iterable[int] = range(after + 1, min(columns.count, after + 1 + limit))
        else:
            ids = (np.flatnonzero(columns.array("states")[after + 1 :] == int(state))[:limit] + after + 1).tolist()
        return [
            ShardView(
                shard=ShardId(i),
                state=ShardState(columns.states[i]),
                epoch=Epoch(columns.epochs[i]),
                begin=columns.begins[i],
                end=columns.ends[i],
                attempts=columns.attempts[i],
                worker=self._holders[columns.owners[i]][0] if columns.epochs[i] else "",
                error=self._errors.get(i, ""),
            )
            for i in ids
        ]

    def commit_numbers(self) -> Ints:
        """Journal numbers of the commits that count, in dataset order (`Journal.commits` reads them back)."""
        states = self._columns.array("states")
        ids = np.flatnonzero((states == ShardState.COMMITTING) | (states == ShardState.COMMITTED))
        order = np.argsort(self._columns.array("begins")[ids], kind="stable")
        numbers: Ints = self._columns.array("numbers")[ids[order]].astype(np.int64, copy=False)
        return numbers

    # ------------------------------------------------------------ facts

    def apply(self, fact: TableFact, number: int = 0) -> None:
        """Changes the table as the fact says; `number` is its journal number, 0 while it has none."""
        columns = self._columns
        match fact:
            case Granted():
                self._apply_granted(fact)
            case EpochEnded():
                self._apply_ended(fact)
            case ChargeReturned():
                columns.attempts[fact.shard] = max(0, columns.attempts[fact.shard] - 1)
                columns.touch(fact.shard)
                self._cut_off.pop((fact.shard, fact.epoch), None)
            case SplitMade():
                self._apply_split(fact)
            case SchemaAgreed():
                self.schema = fact.schema
            case CommitDecided():
                self._apply_commit(fact, number)
            case Published():
                self._set_state(fact.shard, ShardState.COMMITTED)
                self._publishing.pop(fact.shard, None)
            case AllPublished():
                self._apply_all_published()
            case Revoked():
                self.rows -= fact.counts
                self.lost -= self._lost.pop(fact.shard, NOTHING_LOST)
                columns.won[fact.shard] = 0
                columns.numbers[fact.shard] = 0
                self._publishing.pop(fact.shard, None)
                self._set_state(fact.shard, ShardState.PENDING)
                self._pending.add(fact.shard)
            case Quarantined():
                self._set_state(fact.shard, ShardState.QUARANTINED)
                self._errors[fact.shard] = fact.error
            case TablePage():
                columns.unpack(fact.first, fact.count, fact.packed)
            case Checkpoint():
                self._restore(json.loads(zlib.decompress(fact.packed)))
            case _:
                assert_never(fact)

    def note_numbers(self, facts: Sequence[Fact], last: int) -> None:
        """The journal wrote `facts`, in this order, the last one under number `last`."""
        for number, fact in enumerate(facts, last - len(facts) + 1):
            if isinstance(fact, CommitDecided) and fact.job == self.job:
                self._columns.numbers[fact.shard] = number

    def commit_number(self, shard: ShardId) -> int:
        """Journal number of the commit that counts for this shard (`Journal.commit_at` reads it back)."""
        assert self._columns.won[shard], f"shard {shard} has no commit"
        return int(self._columns.numbers[shard])

    def _apply_granted(self, fact: Granted) -> None:
        columns, shard = self._columns, fact.shard
        assert fact.epoch == columns.epochs[shard] + 1, f"epochs never go down: {fact}"
        assert columns.states[shard] <= ShardState.LEASED, f"shard {shard} is decided: {fact}"
        columns.epochs[shard] = fact.epoch
        columns.tries[shard] = min(columns.tries[shard] + 1, _UINT8_MAX)
        columns.owners[shard] = self._holder(fact.worker, fact.incarnation)
        self._pending.note_granted(shard)
        self.shards_recomputed += fact.epoch == 2
        self._set_state(shard, ShardState.LEASED)
        self._add_lease(shard, fact.epoch, fact.worker, fact.incarnation)

    def _add_lease(self, shard: ShardId, epoch: Epoch, worker: WorkerName, incarnation: Incarnation) -> None:
        lease = Lease(shard, epoch, worker, incarnation, 0.0, 0.0, self._columns.begins[shard], is_seen=False)
        self._live.setdefault(shard, []).append(lease)
        self._by_worker.setdefault(worker, {})[shard] = lease

    def _drop_lease(self, shard: ShardId, epoch: Epoch) -> Lease:
        live = self._live[shard]
        (lease,) = [lease for lease in live if lease.epoch == epoch]
        live.remove(lease)
        if not live:
            del self._live[shard]
        held = self._by_worker[lease.worker]
        del held[shard]
        if not held:
            del self._by_worker[lease.worker]
        return lease

    def _apply_ended(self, fact: EpochEnded) -> None:
        columns, shard = self._columns, fact.shard
        lease = self._drop_lease(shard, fact.epoch)
        if fact.error:
            self._errors[shard] = fact.error[:_ERROR_CHARS_MAX]
        if fact.charged:
            columns.attempts[shard] = min(columns.attempts[shard] + 1, _UINT8_MAX)
            if fact.why is Ended.EXPIRED:
                self._cut_off[shard, fact.epoch] = (lease.worker, lease.incarnation)
                if len(self._cut_off) > _CUT_OFF_MAX:
                    del self._cut_off[next(iter(self._cut_off))]
        if fact.why is Ended.OUTAGE:
            columns.tries[shard] = max(columns.tries[shard] - 1, 0)
        columns.touch(shard)
        if columns.states[shard] == ShardState.LEASED and shard not in self._live:
            self._set_state(shard, ShardState.PENDING)
            self._pending.add(shard)

    def _apply_split(self, fact: SplitMade) -> None:
        columns = self._columns
        end, state = columns.ends[fact.shard], columns.states[fact.shard]
        assert columns.begins[fact.shard] < fact.at < end, f"not inside the shard: {fact}"
        columns.ends[fact.shard] = fact.at
        columns.touch(fact.shard)
        # What failed before may lie in the rest, so it inherits the charges; a split is progress, so not the tries.
        rest = columns.append(fact.at, end, columns.attempts[fact.shard])
        assert rest == fact.rest, f"the rest is shard {rest}: {fact}"
        self._units[state] -= end - fact.at
        self._units[ShardState.PENDING] += end - fact.at
        self._shards[ShardState.PENDING] += 1
        self._pending.add(fact.rest)

    def _apply_commit(self, fact: CommitDecided, number: int) -> None:
        columns, shard = self._columns, fact.shard
        assert not columns.won[shard], f"the shard has a winner: {fact}"
        assert (fact.begin, fact.end) == self.range_of(shard), f"not the shard's range: {fact}"
        self._drop_lease(shard, fact.epoch)
        columns.won[shard] = fact.epoch
        columns.numbers[shard] = number
        columns.owners[shard] = self._holder(fact.worker, fact.incarnation)
        self._set_state(shard, ShardState.COMMITTING)
        self.rows += fact.counts
        lost = self._lost_of(fact.corrupt) if fact.corrupt else NOTHING_LOST
        if lost.parts:
            self._lost[shard] = lost
            self.lost += lost
        if not self.is_held:
            self._publishing[shard] = Publishing(fact.epoch, fact.worker, fact.incarnation, math.inf, is_taken=False)

    def _apply_all_published(self) -> None:
        states = self._columns.array("states")
        ids = np.flatnonzero(states == ShardState.COMMITTING)
        states[ids] = ShardState.COMMITTED
        self._columns.dirty[np.unique(ids // PAGE_SHARDS)] = True
        for sums in (self._shards, self._units):
            sums[ShardState.COMMITTED] += sums[ShardState.COMMITTING]
            sums[ShardState.COMMITTING] = 0

    def _set_state(self, shard: ShardId, state: ShardState) -> None:
        columns = self._columns
        old, units = columns.states[shard], columns.ends[shard] - columns.begins[shard]
        columns.states[shard] = state
        columns.touch(shard)
        self._shards[old] -= 1
        self._shards[state] += 1
        self._units[old] -= units
        self._units[state] += units

    def _holder(self, worker: WorkerName, incarnation: Incarnation) -> int:
        index = self._holder_index.setdefault((worker, incarnation), len(self._holders))
        if index == len(self._holders):
            self._holders.append((worker, incarnation))
        return index

    # ------------------------------------------------------------ checkpoints

    def checkpoint(self) -> Iterator[Fact]:
        """The pages changed since the last one, then the rest; to be journaled in one transaction.

        A replay that begins with these facts (and older pages) makes an equal table. Call it when every fact so far is
        durable and `note_numbers` knows it.
        """
        columns = self._columns
        for page in np.flatnonzero(columns.dirty).tolist():
            first = page * PAGE_SHARDS
            count = min(PAGE_SHARDS, columns.count - first)
            if count > 0:
                yield TablePage(self.job, first, count, columns.pack(first, count))
            columns.dirty[page] = False
        rest = {
            "cursor": self._pending.cursor,
            "shards": self._shards,
            "units": self._units,
            "rows": dataclasses.astuple(self.rows),
            "schema": self.schema,
            "recomputed": self.shards_recomputed,
            "holders": self._holders,
            "live": [(x.shard, x.epoch, x.worker, x.incarnation) for x in self.leases()],
            "publishing": [(shard, x.epoch, x.worker, x.incarnation) for shard, x in self._publishing.items()],
            "errors": list(self._errors.items()),
            "lost": [(shard, lost.parts, lost.nbytes) for shard, lost in self._lost.items()],
            "cut_off": [(*lease, *holder) for lease, holder in self._cut_off.items()],
        }
        yield Checkpoint(self.job, zlib.compress(json.dumps(rest, separators=(",", ":")).encode(), 1))

    def _restore(self, rest: dict[str, Any]) -> None:
        self._pending.cursor, self._shards, self._units = rest["cursor"], rest["shards"], rest["units"]
        self.rows, self.shards_recomputed = RowCounts(*rest["rows"]), rest["recomputed"]
        self.schema = rest["schema"]
        self._holders = [(WorkerName(worker), Incarnation(incarnation)) for worker, incarnation in rest["holders"]]
        self._holder_index = {holder: i for i, holder in enumerate(self._holders)}
        self._live, self._by_worker = {}, {}
        for lease in rest["live"]:
            self._add_lease(*lease)
        self._publishing = {
            shard: Publishing(epoch, worker, incarnation, math.inf, is_taken=False)
            for shard, epoch, worker, incarnation in rest["publishing"]
        }
        self._errors = dict(rest["errors"])
        self._lost = {shard: Lost(parts, nbytes) for shard, parts, nbytes in rest.get("lost", ())}
        self.lost = sum(self._lost.values(), NOTHING_LOST)
        self._cut_off = {(shard, epoch): (w, i) for shard, epoch, w, i in rest["cut_off"]}
        self._pending.rebuild()
        self._columns.dirty[:] = False
