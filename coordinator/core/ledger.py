"""What the facts add up to: term and incarnations, and for each job its plan, its dataset, its table and its state.

The plan of a job is journaled in parts, streamed, in one transaction: `JobPlanned`, then files, cuts and shard ends.

Not here: where facts are kept (`coordinator.journal`), what a job's state means (`coordinator.jobs`).
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final, assert_never

import numpy as np
import numpy.typing as npt

from coordinator.core.columns import Ints, pack_column, unpack_column
from coordinator.core.facts import (
    CutsPart,
    Fact,
    FilesPart,
    JobChanged,
    JobPlanned,
    OutputStep,
    ShardsPart,
    TermRaised,
    WorkerSeated,
)
from coordinator.core.leases import LeaseTable
from coordinator.core.lost import Losses, Lost
from coordinator.core.roster import Roster
from headrace.dataset import CorruptUnits, Dataset
from headrace.program import program_from_json

_PART: Final = 262_144  # entries of one part: 2 MB of int64 before compression
_FILES_PART: Final = 16_384
_INT64: Final = np.dtype(np.int64)

UNDONE: Final = "undone"
"""Detail of an `OutputStep` that takes the step back: it is to be done again."""


def plan_facts(planned: JobPlanned, dataset: Dataset, ends: Ints) -> Iterator[Fact]:
    """The whole plan as facts, made one at a time: ten million shards are never in memory twice."""
    assert (planned.files, planned.cuts, planned.shards) == (len(dataset.paths), len(dataset.cuts), len(ends))
    yield planned
    for i in range(0, planned.files, _FILES_PART):
        part = slice(i, i + _FILES_PART)
        columns = {
            "paths": dataset.paths[part],
            "sizes": dataset.sizes[part].tolist(),
            "versions": dataset.versions[part],
            "ends": dataset.origins[1:][part].tolist(),
        }
        count = len(columns["paths"])
        yield FilesPart(planned.job, count, zlib.compress(json.dumps(columns, separators=(",", ":")).encode(), 1))
    for i in range(0, planned.cuts, _PART):
        cuts = dataset.cuts[i : i + _PART]
        yield CutsPart(planned.job, len(cuts), pack_column(cuts))
    for i in range(0, planned.shards, _PART):
        part_ends = ends[i : i + _PART]
        yield ShardsPart(planned.job, len(part_ends), pack_column(part_ends))


class JobLedger:
    """One job, as the facts tell it."""

    def __init__(self, planned: JobPlanned, dataset: Dataset, ends: Ints) -> None:
        """`ends` is kept by the table, not copied."""
        self.planned = planned
        self.dataset = dataset
        self.changed: JobChanged | None = None  # the last one
        self.steps: dict[str, str] = {}  # output steps so far, step to detail, in order
        self.table = LeaseTable(
            planned.job,
            ends,
            cuts=dataset.cuts,
            divisible=dataset.divisible,
            attempts_max=planned.attempts_max,
            units_min=planned.units_min,
            held=planned.held,
            lost_of=self._lost_of,
        )

    @property
    def rows_per_byte(self) -> float:
        """Rows in a byte of the input, as the plan knows it or, of text, as the commits that count have found it."""
        if self.planned.unit != "byte":
            return self._losses.planned_rows_per_byte
        readable = self.table.units_won - self.table.lost.nbytes
        return self.table.rows.read / readable if readable > 0 else 0.0

    @cached_property
    def _losses(self) -> Losses:
        may_end_early = program_from_json(self.planned.program).source.format == "arrow"
        return Losses(self.dataset, may_end_early=may_end_early)

    def _lost_of(self, ranges: Sequence[CorruptUnits]) -> Lost:
        return self._losses.of(ranges)

    def apply(self, fact: Fact, number: int = 0) -> None:
        """Applies a fact of this job, but for those of its plan."""
        match fact:
            case JobChanged():
                self.changed = fact
            case OutputStep():
                self.steps.pop(fact.step, None)
                if fact.detail != UNDONE:
                    self.steps[fact.step] = fact.detail
            case TermRaised() | WorkerSeated() | JobPlanned() | FilesPart() | CutsPart() | ShardsPart():
                raise AssertionError(f"not a fact of a planned job: {fact}")
            case _:
                self.table.apply(fact, number)


class _Planning:
    """A plan whose parts are being read back."""

    def __init__(self, planned: JobPlanned) -> None:
        self.planned = planned
        self.paths: list[str] = []
        self.versions: list[str] = []
        self.sizes = np.empty(planned.files, np.int64)
        self.origins = np.zeros(planned.files + 1, np.int64)
        self.cuts = np.empty(planned.cuts, np.int64)
        self.ends = np.empty(planned.shards, np.int64)
        self.cuts_read = 0
        self.ends_read = 0

    def add(self, fact: FilesPart | CutsPart | ShardsPart) -> None:
        match fact:
            case FilesPart():
                columns: dict[str, Any] = json.loads(zlib.decompress(fact.packed))
                part = slice(len(self.paths), len(self.paths) + fact.count)
                self.paths += columns["paths"]
                self.versions += columns["versions"]
                self.sizes[part] = columns["sizes"]
                self.origins[1:][part] = columns["ends"]
            case CutsPart():
                self.cuts_read = _fill(self.cuts, self.cuts_read, fact)
            case ShardsPart():
                self.ends_read = _fill(self.ends, self.ends_read, fact)
            case _:
                assert_never(fact)

    def finished(self) -> JobLedger | None:
        planned = self.planned
        if (len(self.paths), self.cuts_read, self.ends_read) != (planned.files, planned.cuts, planned.shards):
            return None
        dataset = Dataset(
            unit=planned.unit,
            paths=tuple(self.paths),
            sizes=self.sizes,
            versions=tuple(self.versions),
            origins=self.origins,
            cuts=self.cuts,
            divisible=planned.divisible,
            bytes_total=planned.bytes_total,
            rows_total=planned.rows_total if planned.rows_total >= 0 else None,
            rows_estimated=planned.rows_estimated,
        )
        return JobLedger(planned, dataset, self.ends)


def _fill(column: Ints, at: int, part: CutsPart | ShardsPart) -> int:
    values: npt.NDArray[np.generic] = unpack_column(part.packed, _INT64, part.count)
    column[at : at + part.count] = values
    return at + part.count


class Ledger:
    """All jobs of one journal. Live: `add`, and what the jobs' tables decide; after a restart: `apply` each fact."""

    def __init__(self) -> None:
        self.term = 0
        self.roster = Roster()
        self.jobs: dict[int, JobLedger] = {}
        self._planning: dict[int, _Planning] = {}

    @property
    def job_next(self) -> int:
        """The number for a new job."""
        return max((*self.jobs, *self._planning), default=0) + 1

    def add(self, job: JobLedger) -> None:
        """A job that was planned just now; its facts are `plan_facts`."""
        assert job.planned.job not in self.jobs
        self.jobs[job.planned.job] = job

    def apply(self, fact: Fact, number: int = 0) -> None:
        """Applies a fact read from the journal.

        Raises:
            ValueError, KeyError, AssertionError: facts that don't follow from one another.
        """
        match fact:
            case TermRaised():
                self.term = fact.term
            case WorkerSeated():
                self.roster.apply(fact)
            case JobPlanned():
                self._planning[fact.job] = _Planning(fact)
            case FilesPart() | CutsPart() | ShardsPart():
                planning = self._planning[fact.job]
                planning.add(fact)
                job = planning.finished()
                if job is not None:
                    self.jobs[fact.job] = job
                    del self._planning[fact.job]
            case _:
                self.jobs[fact.job].apply(fact, number)

    def restart(self, now: float, ttl_s: float) -> None:
        """After the last fact of a replay: fresh lease times for every live epoch of every job.

        Raises:
            ValueError: a plan is incomplete, which one transaction should have prevented.
        """
        if self._planning:
            raise ValueError(f"the plan of job {next(iter(self._planning))} is incomplete")
        for job in self.jobs.values():
            job.table.restart(now, ttl_s)
