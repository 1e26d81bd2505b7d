"""The lease table against a naive model, over any sequence of grants, ends, splits, commits, publishes and restarts."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.core.encoding import decode, encode
from coordinator.core.facts import LASTING, CommitDecided, Fact, OutputFile, RowCounts
from coordinator.core.lease_values import AlreadyWon, Held, OtherSchema, Refused, Renewed, Stale
from coordinator.core.leases import LeaseTable
from headrace.words import Epoch, Incarnation, ShardId, ShardState, WorkerName

TTL_S = 10.0
WORKERS = [WorkerName(name) for name in ("ada", "bob", "cyd")]
ATTEMPTS_MAX = 3


@dataclass
class Grant:
    """One grant that was ever made, as the model remembers it."""

    worker: WorkerName
    incarnation: Incarnation
    deadline: float
    is_live: bool = True
    has_won: bool = False
    is_published: bool = False
    rows: int = 0


@dataclass
class Model:
    """What the table should think, in plain dicts."""

    total: int
    ranges: dict[int, tuple[int, int]]
    grants: dict[tuple[int, int], Grant] = field(default_factory=dict)  # by (shard, epoch)
    quarantined: set[int] = field(default_factory=set)
    schema: str = ""

    def live(self, shard: int) -> list[int]:
        return [epoch for (of, epoch), grant in self.grants.items() if of == shard and grant.is_live]

    def winner(self, shard: int) -> Grant | None:
        won = [grant for (of, _), grant in self.grants.items() if of == shard and grant.has_won]
        assert len(won) <= 1, "law 2: at most one epoch of a shard counts"
        return won[0] if won else None

    def state(self, shard: int) -> ShardState:
        winner = self.winner(shard)
        if winner:
            return ShardState.COMMITTED if winner.is_published else ShardState.COMMITTING
        if shard in self.quarantined:
            return ShardState.QUARANTINED
        return ShardState.LEASED if self.live(shard) else ShardState.PENDING

    def split(self, shard: int, at: int) -> int:
        begin, end = self.ranges[shard]
        rest = len(self.ranges)
        self.ranges[shard], self.ranges[rest] = (begin, at), (at, end)
        return rest


def durable_state(table: LeaseTable) -> object:
    """All that a restart must bring back."""
    shards = table.shards(state=None, limit=10**6)
    granted = [(view.shard, Epoch(epoch)) for view in shards for epoch in range(1, view.epoch + 1)]
    return (
        shards,
        sorted((x.shard, x.epoch, x.worker, x.incarnation) for x in table.leases()),
        table.counts,
        table.rows,
        table.units_pending,
        table.units_won,
        table.shards_recomputed,
        table.schema,
        [lease for lease in granted if table.awaits_publish(*lease)],
        table.commit_numbers().tolist(),
    )


class LeaseMachine(RuleBasedStateMachine):
    """Each rule is one decision; what the model expects of it is checked at once, the laws after every step."""

    @initialize(
        sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
        divisible=st.booleans(),
        cut_steps=st.lists(st.integers(1, 30), max_size=8),
        held=st.booleans(),
    )
    def plan(self, sizes: list[int], divisible: bool, cut_steps: list[int], held: bool) -> None:
        ends = np.cumsum(np.array(sizes, np.int64))
        total = int(ends[-1])
        cuts = np.unique(np.concatenate((ends, np.cumsum(np.array(cut_steps, np.int64))))).astype(np.int64)
        self.new_table = lambda: LeaseTable(
            1,
            ends.copy(),
            cuts=cuts[cuts <= total],
            divisible=divisible,
            attempts_max=ATTEMPTS_MAX,
            tries_max=200,
            held=held,
        )
        self.cuts = None if divisible else set(cuts.tolist())
        self.held = held
        self.table = self.new_table()
        begins = [0, *ends[:-1].tolist()]
        self.model = Model(total, {i: (begins[i], int(ends[i])) for i in range(len(sizes))})
        self.now = 0.0
        self.incarnations = dict.fromkeys(WORKERS, 0)
        self.journal: list[Fact] = []
        self.checkpoint_at = 0
        self.epochs_max: dict[int, int] = {}

    # ---------------------------------------------------------------- what rules share

    def incarnation(self, worker: WorkerName) -> Incarnation:
        return Incarnation(f"{worker}-{self.incarnations[worker]}")

    def journaled(self, facts: list[Fact]) -> None:
        self.journal += [decode(encode(fact)) for fact in facts]
        self.table.note_numbers(facts, len(self.journal))

    def learn(self, facts: list[Fact]) -> None:
        """Takes the ends of epochs and quarantines over into the model, after checking that they are lawful."""
        self.journaled(facts)
        for fact in facts:
            match type(fact).__name__:
                case "EpochEnded":
                    grant = self.model.grants[fact.shard, fact.epoch]
                    assert grant.is_live, "an epoch ends once"
                    grant.is_live = False
                case "Quarantined":
                    assert not self.model.live(fact.shard)
                    self.model.quarantined.add(fact.shard)

    def pick(self, data: st.DataObject, *, live: bool = True) -> tuple[int, int, WorkerName, Incarnation]:
        """Mostly a live (or winning) epoch and its holder; else any epoch, or none that ever was, and anybody."""
        wanted = [key for key, g in self.model.grants.items() if (g.is_live if live else g.has_won)]
        if wanted and data.draw(st.integers(0, 5)):
            key = data.draw(st.sampled_from(sorted(wanted)))
            holder = self.model.grants[key]
            is_impostor = not data.draw(st.integers(0, 7))
            return *key, holder.worker, Incarnation("another") if is_impostor else holder.incarnation
        worker = data.draw(st.sampled_from(WORKERS))
        incarnation = Incarnation(f"{worker}-{data.draw(st.integers(0, self.incarnations[worker]))}")
        known = sorted(self.model.grants)
        return *data.draw(st.sampled_from([*known, (0, 99), (len(self.model.ranges) + 3, 1)])), worker, incarnation

    def unchanged(self, before: object) -> None:
        assert durable_state(self.table) == before, "what is refused changes nothing"

    # ---------------------------------------------------------------- rules

    @rule(worker=st.sampled_from(WORKERS), units_max=st.none() | st.integers(1, 20))
    def grant(self, worker: WorkerName, units_max: int | None) -> None:
        pending = [s for s in self.model.ranges if self.model.state(s) is ShardState.PENDING]
        facts = self.table.grant(worker, self.incarnation(worker), self.now, TTL_S, units_max=units_max)
        assert bool(facts) == bool(pending)
        if not facts:
            return
        granted = facts[-1]
        assert self.model.ranges[granted.shard] == min(self.model.ranges[s] for s in pending)
        if len(facts) == 2:
            self.check_cut(facts[0].at)
            assert self.model.split(granted.shard, facts[0].at) == facts[0].rest
        self.model.grants[granted.shard, granted.epoch] = Grant(worker, self.incarnation(worker), self.now + TTL_S)
        self.journaled(facts)

    def check_cut(self, at: int) -> None:
        assert self.cuts is None or at in self.cuts, "not divisible: cut only at cuts"

    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def twin(self, data: st.DataObject, worker: WorkerName) -> None:
        leased = [s for s in self.model.ranges if self.model.live(s)]
        shard = data.draw(st.sampled_from(leased or sorted(self.model.ranges)))
        live = self.model.live(shard)
        before = durable_state(self.table)
        decided = self.table.twin(worker, self.incarnation(worker), ShardId(shard), self.now, TTL_S)
        if len(live) == 1 and self.model.grants[shard, live[0]].worker != worker:
            assert isinstance(decided, list)
            epoch = decided[0].epoch
            self.model.grants[shard, epoch] = Grant(worker, self.incarnation(worker), self.now + TTL_S)
            self.journaled(decided)
        else:
            assert isinstance(decided, Refused)
            self.unchanged(before)

    @rule(data=st.data(), share=st.floats(0, 1))
    def renew(self, data: st.DataObject, share: float) -> None:
        shard, epoch, worker, incarnation = self.pick(data)
        begin, end = self.model.ranges.get(shard, (0, 1))
        held = Held(ShardId(shard), Epoch(epoch), begin, end, begin + int((end - begin) * share))
        before = durable_state(self.table)
        answer = self.table.renew(worker, incarnation, held, self.now, TTL_S)
        self.unchanged(before)
        grant = self.own(shard, epoch, worker, incarnation)
        assert isinstance(answer, Renewed if grant else Stale)
        if grant:
            grant.deadline = max(grant.deadline, self.now + TTL_S)

    def own(self, shard: int, epoch: int, worker: WorkerName, incarnation: Incarnation) -> Grant | None:
        grant = self.model.grants.get((shard, epoch))
        is_own = grant and grant.is_live and (grant.worker, grant.incarnation) == (worker, incarnation)
        return grant if is_own else None

    @rule(data=st.data(), charged=st.booleans())
    def release(self, data: st.DataObject, charged: bool) -> None:
        shard, epoch, worker, incarnation = self.pick(data)
        before = durable_state(self.table)
        decided = self.table.release(
            worker, incarnation, ShardId(shard), Epoch(epoch), charged=charged, error="it failed"
        )
        if self.own(shard, epoch, worker, incarnation):
            assert isinstance(decided, list)
            self.learn(decided)
        else:
            assert isinstance(decided, Stale)
            self.unchanged(before)

    @rule(seconds=st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        late = {key for key, grant in self.model.grants.items() if grant.is_live and grant.deadline <= self.now}
        facts = self.table.expire(self.now)
        assert {(f.shard, f.epoch) for f in facts if type(f).__name__ == "EpochEnded"} == late
        self.learn(facts)

    @rule(seconds=st.floats(0, 100))
    def the_loop_slept(self, seconds: float) -> None:
        self.now += seconds
        self.table.shift_deadlines(seconds)
        for grant in self.model.grants.values():
            grant.deadline += seconds

    @rule(worker=st.sampled_from(WORKERS))
    def worker_lost(self, worker: WorkerName) -> None:
        self.learn(self.table.worker_lost(worker))
        assert not [g for g in self.model.grants.values() if g.is_live and g.worker == worker]

    @rule(worker=st.sampled_from(WORKERS), is_new=st.booleans(), data=st.data())
    def register(self, worker: WorkerName, is_new: bool, data: st.DataObject) -> None:
        self.incarnations[worker] += is_new
        own = [key for key in self.model.grants if self.own(*key, worker, self.incarnation(worker))]
        named = data.draw(st.lists(st.sampled_from(own), unique=True)) if own else []
        held = [Held(ShardId(s), Epoch(e), *self.model.ranges[s], self.model.ranges[s][0]) for s, e in named]
        facts, keep = self.table.register(worker, self.incarnation(worker), held, self.now, TTL_S)
        self.learn(facts)
        assert {(x.shard, x.epoch) for x in keep} == set(named)
        live = {key for key, g in self.model.grants.items() if g.is_live and g.worker == worker}
        assert live == set(named), "a registration leaves nothing live that the sidecar doesn't hold"
        for key in named:
            grant = self.model.grants[key]
            grant.deadline = max(grant.deadline, self.now + TTL_S)

    @rule(data=st.data(), at=st.integers(-1, 130))
    def split(self, data: st.DataObject, at: int) -> None:
        shard, epoch, worker, incarnation = self.pick(data)
        begin, end = self.model.ranges.get(shard, (0, 0))
        before = durable_state(self.table)
        decided = self.table.split(worker, incarnation, ShardId(shard), Epoch(epoch), at)
        if not self.own(shard, epoch, worker, incarnation):
            assert isinstance(decided, Stale)
        elif at == end:
            assert decided == []
        elif begin < at < end and len(self.model.live(shard)) == 1 and (self.cuts is None or at in self.cuts):
            assert isinstance(decided, list)
            assert self.model.split(shard, at) == decided[0].rest
            self.journaled(decided)
            return
        else:
            assert isinstance(decided, Refused)
        self.unchanged(before)

    @rule(
        data=st.data(), short=st.sampled_from([0, 0, 0, 1, 3, 7, 12, -1]), schema=st.sampled_from(["", "a", "a", "b"])
    )
    def commit(self, data: st.DataObject, short: int, schema: str) -> None:
        shard, epoch, worker, incarnation = self.pick(data, live=bool(data.draw(st.integers(0, 4))))
        begin, last = self.model.ranges.get(shard, (0, 0))
        end = last - short
        before = durable_state(self.table)
        decided = self.table.commit(
            worker,
            incarnation,
            ShardId(shard),
            Epoch(epoch),
            begin=begin,
            end=end,
            counts=RowCounts(end - begin, 0, end - begin, 0) if end > begin else RowCounts(),
            files=[OutputFile(f"{shard}-{epoch}", "data", 1, "", max(end - begin, 0))],
            schema=schema,
            now=self.now,
            publish_ttl_s=TTL_S,
        )
        grant = self.model.grants.get((shard, epoch))
        is_ours = grant and (grant.worker, grant.incarnation) == (worker, incarnation)
        if grant and is_ours and grant.has_won:
            assert isinstance(decided, AlreadyWon if end == last else Refused)
        elif not self.own(shard, epoch, worker, incarnation):
            assert isinstance(decided, Stale)
        elif end == last or (begin < end < last and (self.cuts is None or end in self.cuts)):
            if schema and self.model.schema not in ("", schema):
                assert decided == OtherSchema(self.model.schema, schema)
                self.unchanged(before)
                return
            assert isinstance(decided, list)
            self.model.schema = self.model.schema or schema
            assert self.table.schema == self.model.schema, "one output has one schema"
            if end < last:
                self.model.split(shard, end)
            assert self.model.winner(shard) is None, "law 2"
            assert grant
            grant.is_live, grant.has_won, grant.rows = False, True, end - begin
            self.learn(decided)
            assert not self.model.live(shard), "the first to commit ends the other"
            return
        else:
            assert isinstance(decided, Refused)
        self.unchanged(before)

    @precondition(lambda self: not self.held)
    @rule(data=st.data(), is_coordinator=st.booleans())
    def published(self, data: st.DataObject, is_coordinator: bool) -> None:
        shard, epoch, said_by, _ = self.pick(data, live=False)
        worker = None if is_coordinator else said_by
        before = durable_state(self.table)
        decided = self.table.published(worker, ShardId(shard), Epoch(epoch))
        grant = self.model.grants.get((shard, epoch))
        if not grant or not grant.has_won or worker not in (None, grant.worker):
            assert isinstance(decided, Stale)
            self.unchanged(before)
        elif grant.is_published:
            assert decided == []
            self.unchanged(before)
        else:
            assert isinstance(decided, list)
            grant.is_published = True
            self.journaled(decided)

    @precondition(lambda self: self.held)
    @rule()
    def publish_all(self) -> None:
        self.journaled(self.table.publish_all())
        for grant in self.model.grants.values():
            grant.is_published = grant.has_won

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        unpublished = [key for key, g in self.model.grants.items() if g.has_won and not g.is_published]
        if not unpublished:
            return
        shard, epoch = data.draw(st.sampled_from(sorted(unpublished)))
        commit = self.journal[self.table.commit_number(ShardId(shard)) - 1]
        assert isinstance(commit, CommitDecided)
        assert (commit.shard, commit.epoch) == (shard, epoch)
        self.journaled(self.table.revoke(commit))
        self.model.grants[shard, epoch].has_won = False

    @rule()
    def checkpoint(self) -> None:
        self.journaled(list(self.table.checkpoint()))
        self.checkpoint_at = len(self.journal)

    @rule()
    def restart(self) -> None:
        """kill -9: what the journal holds is all there is; it gives the same table."""
        before = durable_state(self.table)
        self.table = self.new_table()
        for number, fact in enumerate(self.journal, 1):
            if number > self.checkpoint_at or isinstance(fact, LASTING):
                self.table.apply(fact, number)
        assert durable_state(self.table) == before
        self.table.restart(self.now, TTL_S)
        for grant in self.model.grants.values():
            grant.deadline = self.now + TTL_S

    # ---------------------------------------------------------------- laws

    @invariant()
    def shards_are_as_the_model_says(self) -> None:
        if not hasattr(self, "table"):
            return
        shards = self.table.shards(state=None, limit=10**6)
        assert {s.shard: (s.begin, s.end) for s in shards} == self.model.ranges
        assert {s.shard: s.state for s in shards} == {s: self.model.state(s) for s in self.model.ranges}

    @invariant()
    def ranges_tile_the_dataset(self) -> None:
        if not hasattr(self, "table"):
            return
        at = 0
        for begin, end in sorted((s.begin, s.end) for s in self.table.shards(state=None, limit=10**6)):
            assert begin == at
            at = end
        assert at == self.model.total == self.table.units_total

    @invariant()
    def counts_add_up(self) -> None:
        if not hasattr(self, "table"):
            return
        counts = self.table.counts
        assert counts.total == len(self.model.ranges)
        states = [self.model.state(s) for s in self.model.ranges]
        assert counts.committing == states.count(ShardState.COMMITTING)
        assert counts.pending == states.count(ShardState.PENDING)
        won = [g for g in self.model.grants.values() if g.has_won]
        assert self.table.rows == RowCounts(sum(g.rows for g in won), 0, sum(g.rows for g in won), 0)
        assert self.table.units_won == sum(g.rows for g in won)

    @invariant()
    def epochs_never_go_down_and_two_live_at_most(self) -> None:
        if not hasattr(self, "table"):
            return
        for shard in self.table.shards(state=None, limit=10**6):
            assert shard.epoch >= self.epochs_max.get(shard.shard, 0)
            self.epochs_max[shard.shard] = shard.epoch
            assert self.table.live_epochs(shard.shard) == len(self.model.live(shard.shard)) <= 2


LeaseMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestLeaseMachine = LeaseMachine.TestCase
