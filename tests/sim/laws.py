"""The laws of architecture section 7, asked after every step: each in its own words, from facts and files alone.

A witness keeps a second, naive record of what the ledger holds durably (`_Job`), hears what is decided, what leaves as
an answer and which names become visible, and never looks at how the code under test came to it.

    1  ranges tile the input at all times; the finished output has every row once
    2  one commit per shard that counts, epochs rise, an ended epoch stays ended
    3  what is committed is never touched again
    4  what was answered is durable, and still there after any kill
    6  no spinning, no pile of messages
    10 what a worker says changes nothing about another's lease

Not here: that a job ends at all (`world`, which gives it time without faults).
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from coordinator.core.columns import unpack_column
from coordinator.core.facts import (
    AllPublished,
    CommitDecided,
    Ended,
    EpochEnded,
    Fact,
    Granted,
    JobPlanned,
    Published,
    Quarantined,
    Revoked,
    ShardsPart,
    SplitMade,
)
from coordinator.core.leases import LeaseTable
from coordinator.exchange import Answer, Introduction, Report, Welcome
from coordinator.verify import verify
from headrace.publish import HIDDEN, REJECTED, parse_part_name
from headrace.words import ACCEPTED, WorkerName

IN_FLIGHT_MAX = 300


class LawBroken(AssertionError):
    """A law doesn't hold."""

    def __init__(self, law: int, what: str) -> None:
        super().__init__(law, what)
        self.law = law
        self.what = what

    def __str__(self) -> str:
        return f"law {self.law}: {self.what}"


@dataclass
class _Epoch:
    """One grant."""

    worker: str
    incarnation: str
    is_live: bool = True


@dataclass
class _Job:
    """What the durable facts say of one job, kept as naively as possible."""

    uid: str
    is_held: bool
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    epochs: dict[int, list[_Epoch]] = field(default_factory=dict)  # by shard; epoch e is entry e - 1
    won: dict[int, CommitDecided] = field(default_factory=dict)
    published: set[int] = field(default_factory=set)
    quarantined: set[int] = field(default_factory=set)

    def epoch(self, shard: int, epoch: int) -> _Epoch | None:
        """A grant that was made."""
        grants = self.epochs.get(shard, [])
        return grants[epoch - 1] if 1 <= epoch <= len(grants) else None

    def hear(self, fact: Fact) -> None:
        """Notes a fact that must follow from those before it."""
        match fact:
            case ShardsPart():
                ends = unpack_column(fact.packed, np.dtype(np.int64), fact.count).tolist()
                begin = max((end for _, end in self.ranges.values()), default=0)
                for end in ends:
                    self.ranges[len(self.ranges)] = (begin, end)
                    begin = end
            case Granted():
                grants = self.epochs.setdefault(fact.shard, [])
                check(2, fact.epoch == len(grants) + 1, f"epochs never go down: {fact}")
                check(2, fact.shard not in self.won, f"a shard whose commit counts is granted: {fact}")
                grants.append(_Epoch(fact.worker, fact.incarnation))
                check(2, sum(grant.is_live for grant in grants) <= 2, f"three live epochs: {fact}")
            case EpochEnded():
                grant = self.epoch(fact.shard, fact.epoch)
                check(2, grant is not None and grant.is_live, f"an epoch ends that isn't live: {fact}")
                assert grant is not None
                grant.is_live = False
            case SplitMade():
                begin, end = self.ranges[fact.shard]
                check(1, begin < fact.at < end, f"a split outside the shard: {fact}")
                check(
                    1, fact.rest not in self.ranges and fact.shard not in self.won, f"a split of what is over: {fact}"
                )
                self.ranges[fact.shard], self.ranges[fact.rest] = (begin, fact.at), (fact.at, end)
            case CommitDecided():
                self._hear_commit(fact)
            case Published():
                commit = self.won.get(fact.shard)
                check(2, commit is not None and commit.epoch == fact.epoch, f"published without a commit: {fact}")
                self.published.add(fact.shard)
            case AllPublished():
                self.published |= self.won.keys()
            case Revoked():
                check(3, fact.shard not in self.published, f"a published commit is revoked: {fact}")
                check(2, self.won.pop(fact.shard).epoch == fact.epoch, f"another's commit is revoked: {fact}")
            case Quarantined():
                check(1, fact.shard not in self.won, f"a committed shard is quarantined: {fact}")
                self.quarantined.add(fact.shard)

    def _hear_commit(self, fact: CommitDecided) -> None:
        grant = self.epoch(fact.shard, fact.epoch)
        check(2, fact.shard not in self.won, f"a second commit of a shard: {fact}")
        check(2, grant is not None and grant.is_live, f"an epoch that isn't live commits: {fact}")
        assert grant is not None
        check(10, (grant.worker, grant.incarnation) == (fact.worker, fact.incarnation), f"not its lease: {fact}")
        check(1, (fact.begin, fact.end) == self.ranges[fact.shard], f"not the shard's range: {fact}")
        counts = fact.counts
        check(1, counts.is_balanced and counts.read == fact.end - fact.begin, f"rows don't add up: {fact}")
        for file in fact.files:
            named = parse_part_name(file.name.rpartition("/")[2])
            check(2, named == (fact.shard, self.uid[:8], fact.epoch), f"{file.name} is another lease's: {fact}")
        grant.is_live = False
        self.won[fact.shard] = fact


@dataclass
class Laws:
    """The witness of one world."""

    output: Path
    units: int
    last: int = 0  # number of the last durable fact that was told
    promised: int = 0  # the highest ledger number that an answer named
    jobs: dict[int, _Job] = field(default_factory=dict)
    visible: set[str] = field(default_factory=set)  # names of parts, relative to the output
    undurable: int = 0  # decided facts since the last look at the tables

    # ------------------------------------------------------------------ the ledger

    def durable(self, facts: list[tuple[int, Fact]]) -> None:
        """The disk holds these; told again after a restart."""
        for number, fact in facts:
            if number <= self.last:
                continue
            self.last = number
            if isinstance(fact, JobPlanned):
                self.jobs[fact.job] = _Job(fact.uid, fact.held)
            elif (job := self.jobs.get(getattr(fact, "job", 0))) is not None:
                job.hear(fact)

    def replayed(self, last: int) -> None:
        """A restart found this many facts."""
        check(4, last >= self.promised, f"fact {self.promised} was answered, the ledger ends at {last}")
        check(4, last >= self.last, f"fact {self.last} was synced, the ledger ends at {last}")

    def decided(self, facts: Iterable[Fact], asking: WorkerName | None) -> None:
        """Facts that were applied, perhaps while a worker's call was decided."""
        for fact in facts:
            self.undurable += 1
            job = self.jobs.get(getattr(fact, "job", 0))
            if job is None or asking is None:
                continue
            match fact:
                case CommitDecided():
                    check(10, fact.worker == asking, f"{asking} commits for another: {fact}")
                case EpochEnded(why=Ended.RELEASED):
                    grant = job.epoch(fact.shard, fact.epoch)
                    check(10, grant is None or grant.worker == asking, f"{asking} releases another's: {fact}")

    def table(self, table: LeaseTable) -> None:
        """Looks at a lease table: its shards are the input, whole and once."""
        shards = table.shards(state=None, limit=10**6)
        at = 0
        for begin, end in sorted((shard.begin, shard.end) for shard in shards):
            check(1, begin == at, f"units {min(at, begin)} to {max(at, begin)} belong to no shard, or to two")
            at = end
        check(1, at == self.units == table.units_total, f"the shards end at {at} of {self.units}")
        check(1, table.counts.total == len(shards), f"{table.counts} of {len(shards)} shards")
        for shard in shards:
            check(2, table.live_epochs(shard.shard) <= 2, f"three live epochs of {shard}")

    # ------------------------------------------------------------------ answers

    def welcomed(self, intro: Introduction, welcome: Welcome) -> None:
        """The answer to a registration is about to leave."""
        self._promise(welcome.ledger)
        job = self._named(welcome.job_uid)
        for held in welcome.keep:
            grant = job.epoch(held.shard, held.epoch) if job else None
            # It may have ended since this was decided, by the registration of a newer sidecar.
            is_own = grant is not None and (grant.worker, grant.incarnation) == (intro.worker, intro.incarnation)
            check(4, is_own, f"{intro.worker} keeps {held}, which was never durably its")

    def answered(self, report: Report, answer: Answer) -> None:
        """The answer to an exchange is about to leave."""
        self._promise(answer.ledger)
        job = self.jobs[max(self.jobs)] if self.jobs else None
        if job is None:
            return
        for grant in answer.grants:
            check(4, job.epoch(grant.shard, grant.epoch) is not None, f"a grant isn't durable: {grant}")
        for verdict in answer.commits:
            if verdict.outcome == ACCEPTED:
                commit = job.won.get(verdict.shard)
                is_won = commit is not None and (commit.epoch, commit.worker) == (verdict.epoch, report.worker)
                # A duplicate of a call may be answered after the commit was revoked.
                was_won = job.epoch(verdict.shard, verdict.epoch) is not None and not is_won
                check(4, is_won or was_won, f"an accepted commit isn't durable: {verdict}")
        granted = {(grant.shard, grant.epoch) for grant in answer.grants}  # after something was said about them
        for verdict in answer.stale:
            if (verdict.shard, verdict.epoch) in granted:
                continue
            lease = job.epoch(verdict.shard, verdict.epoch)
            is_own = lease is not None and (lease.worker, lease.incarnation) == (report.worker, report.incarnation)
            if is_own and lease is not None and verdict.shard not in job.won:
                begin, end = job.ranges[verdict.shard]
                said = [x for x in report.held if (x.shard, x.epoch) == (verdict.shard, verdict.epoch)]
                lied = any(not begin <= x.position <= end or x.begin != begin or x.end < end for x in said)
                check(4, not lease.is_live or lied, f"STALE leaves before its reason is durable: {verdict}")

    def _promise(self, number: int) -> None:
        check(4, number <= self.last, f"an answer names fact {number}, the disk has {self.last}")
        self.promised = max(self.promised, number)

    def _named(self, uid: str) -> _Job | None:
        return next((job for job in self.jobs.values() if job.uid == uid), None)

    # ------------------------------------------------------------------ files

    def changes(self, event: str, paths: tuple[str, ...]) -> None:
        """A change of the store is about to be made."""
        name = self._part(paths[-1])
        if event == "os.link" and name:
            self._appears(name)
        elif event in ("os.remove", "os.rename", "open") and (name := self._part(paths[0])) in self.visible:
            check(3, not self._commit_of(name), f"{name} is committed and visible, and changed by {event}")
            self.visible.discard(name)

    def _appears(self, name: str) -> None:
        # Names of files that were published before are linked again and again; that fails.
        check(4, self._commit_of(name), f"{name} becomes visible without a durable commit")
        job = self.jobs[max(self.jobs)]
        is_time = not job.is_held or job.won.keys() | job.quarantined == job.ranges.keys()
        check(3, is_time, f"{name} becomes visible in an output that isn't empty before all is done")
        self.visible.add(name)

    def _commit_of(self, name: str) -> bool:
        parsed = parse_part_name(name.rpartition("/")[2])
        if parsed is None:
            return False
        shard, uid, _ = parsed
        jobs = [job for job in self.jobs.values() if job.uid[:8] == uid]
        return any(file.name == name for job in jobs if (won := job.won.get(shard)) is not None for file in won.files)

    def _part(self, path: str) -> str:
        """Name of a visible part, relative to the output; empty for any other path."""
        folder, _, name = path.rpartition("/")
        if parse_part_name(name) is None:
            return ""
        if folder == str(self.output):
            return name
        return f"{REJECTED}/{name}" if folder == str(self.output / REJECTED) else ""

    # ------------------------------------------------------------------ the world, and its end

    def world(self, in_flight: int) -> None:
        """Looks at what waits."""
        check(6, in_flight <= IN_FLIGHT_MAX, f"{in_flight} messages are on their way")

    def finished(self, mode: str, *, is_degraded: bool) -> None:
        """The job is over: a stranger reads its output and finds each row, but for those in quarantined ranges."""
        job = self.jobs[max(self.jobs)]
        times = 2 if mode == "append" else 1
        rows: Counter[int] = Counter()
        for folder in (self.output, self.output / REJECTED):
            for path in folder.iterdir():
                if path.is_file() and not path.name.startswith(("_", ".")):
                    rows.update(json.loads(line)["n"] for line in path.read_text().splitlines())
        given_up = {unit for shard in job.quarantined for unit in range(*job.ranges[shard])}
        check(1, is_degraded == bool(given_up), f"quarantined {sorted(job.quarantined)}, degraded: {is_degraded}")
        for unit in range(self.units):
            expected = times - (unit in given_up)
            check(1, rows[unit] == expected, f"row {unit} is {rows[unit]} times in the output instead of {expected}")
        check(1, sum(rows.values()) == self.units * times - len(given_up), "rows that nobody asked for")
        check(1, (self.output / "_SUCCESS").exists() != is_degraded, "success is said of the degraded, or of nobody")
        check(2, set(job.won) | job.quarantined == set(job.ranges), "shards without an end")
        left = {path.name for path in (self.output / HIDDEN).iterdir() if not path.name.startswith((".", "manifest-"))}
        check(3, left <= {"rejected", "claim.json"}, f"left behind: {left}")
        if mode != "append" and not is_degraded:  # when appending, the older file is nobody's
            found = verify(self.output)
            check(1, found.is_proven, f"the output proves nothing: {found.findings}")


def check(law: int, is_kept: bool, what: str) -> None:
    """Says which law is broken, and how.

    Raises:
        LawBroken: it is.
    """
    if not is_kept:
        raise LawBroken(law, what)
