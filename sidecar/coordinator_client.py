"""The coordinator as the driver sees it: register and exchange, over gRPC, tried again until the job's time-out.

Messages of the wire stay in this file. An answer that didn't come is asked for again with the same content: everything
that a worker says is idempotent by (shard, epoch).

Not here: when to ask and what to do with the answer (`sidecar.driver`).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from headrace import v1
from headrace.channel import BROKEN, open_channel
from headrace.dataset import CorruptUnits, Slice
from headrace.errors import HeadraceError
from headrace.words import REGISTER
from sidecar.core.batches import ShardKey
from sidecar.core.terms import Terms
from sidecar.writer import Staged

PROTOCOL = 1
TRANSIENT = (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.CANCELLED, Status.INTERNAL, Status.UNKNOWN)
"""What a coordinator that restarts may answer; anything else will not change."""
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 1.0
"""A coordinator that is back gives its first lease within two seconds."""
BACKOFF_TTL_SHARE = 0.125
"""Of the lease time, at least: many workers have longer leases, and must not fall upon it all at once."""
CALL_TIMEOUT_S = 4.0
"""A reply waits for one fsync. Of a connection that swallows all, two such waits fit into one lease time."""

log = structlog.get_logger()
Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Refused(HeadraceError):
    """The coordinator answered, and will answer the same again."""


class Abandoned(HeadraceError):
    """The coordinator has been away for longer than the job allows (exit 75)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a shard."""

    shard: int
    epoch: int
    begin: int
    end: int
    slices: tuple[Slice, ...]

    @property
    def key(self) -> ShardKey:
        """Names the lease for ever."""
        return (self.shard, self.epoch)


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that this process holds in memory, and how far it has read."""

    shard: int
    epoch: int
    begin: int
    end: int
    position: int
    rows_done: int = 0  # through all stages, filtered, rejected or in a corrupt range
    rows_rejected: int = 0  # of these: rejected, or in a corrupt range


@dataclass(frozen=True, slots=True)
class Registration:
    """What a registration gave; `job_uid` is empty while there is nothing to do."""

    job_uid: str
    term: int
    program: str
    staging: str
    lease_ttl_s: float
    heartbeat_s: float
    coordinator_timeout_s: float
    retry_after_s: float
    kept: frozenset[ShardKey]


@dataclass(frozen=True, slots=True)
class CommitWish:
    """The output of the units ``[begin, end)`` of a lease, staged and ready to be decided on."""

    key: ShardKey
    begin: int
    end: int
    rows_read: int
    rows_filtered: int
    rows_out: int
    rows_rejected: int
    files: tuple[Staged, ...]
    schema: str  # of the data file (`AgreedSchema.text`); empty without one
    corrupt: tuple[CorruptUnits, ...] = ()  # what could not be read, by rising begin


@dataclass(frozen=True, slots=True)
class Handback:
    """A lease given back: drained, or failed with an error of the class `kind`."""

    key: ShardKey
    kind: str
    error: str
    is_charged: bool


@dataclass(frozen=True, slots=True)
class StageSummary:
    """What a stage did since this sidecar started; seconds are summed over its predictors."""

    stage: str
    predictors: int
    rows_in: int
    rows_out: int
    batches: int
    busy_s: float
    wait_input_s: float
    ready_s: float
    queued: int
    restarts: int
    batch_rows: int


@dataclass(frozen=True, slots=True)
class StageMeasures:
    """What only metrics want to know of a stage, since this sidecar started; seconds are summed over its predictors."""

    stage: str
    rows_in_progress: int
    wait_output_s: float
    last_done_ago_s: float  # < 0: no batch is done yet
    load_s: float  # the longest load of the model
    hangs: int
    rows_tried_again: Mapping[str, int]  # by reason: exception, crash, hang
    seconds_counts: tuple[int, ...]  # batches by headrace.buckets.BATCH_SECONDS
    rows_counts: tuple[int, ...]  # batches by headrace.buckets.BATCH_ROWS


@dataclass(slots=True)
class Report:
    """What a worker says in one exchange."""

    held: Sequence[HeldLease] = ()
    want: int = 0
    commits: Sequence[CommitWish] = ()
    published: Sequence[HeldLease] = ()
    releases: Sequence[Handback] = ()
    offers: Sequence[tuple[ShardKey, int]] = ()
    stages: Sequence[StageSummary] = ()
    rows_per_second: float = 0.0
    draining: bool = False
    read_busy_s: float = 0.0
    write_busy_s: float = 0.0
    fatal_reason: str = ""
    fatal_message: str = ""
    reject_example: str = ""  # one rejected row, where and why
    arena_bytes: int = 0
    arena_used_bytes: int = 0
    measures: Sequence[StageMeasures] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The coordinator's word on a commit or a publish: ACCEPTED, STALE or REFUSED."""

    outcome: str
    reason: str


@dataclass(slots=True)
class Answer:
    """What the coordinator answered in one exchange."""

    term: int
    directive: str
    wait_s: float
    leases: list[Lease] = field(default_factory=list)
    commits: dict[ShardKey, Verdict] = field(default_factory=dict)
    published: dict[ShardKey, Verdict] = field(default_factory=dict)
    stale: list[ShardKey] = field(default_factory=list)
    asks: list[ShardKey] = field(default_factory=list)
    ends: dict[ShardKey, int] = field(default_factory=dict)


class CoordinatorClient:
    """One connection to a coordinator, with this sidecar's name and incarnation on every message."""

    def __init__(self, address: str, token: str | None, worker: str, incarnation: str, job_uid: str) -> None:
        self._channel = open_channel(address, token)
        self._stub = v1.WorkerServiceStub(self._channel, timeout=CALL_TIMEOUT_S)
        self._worker = worker
        self._incarnation = incarnation
        self._job_uid = job_uid
        self._term = 0
        self._sequence = 0
        self._ledger_seen = 0

    async def register(self, held: Sequence[HeldLease], terms: Terms | None) -> Registration:
        """Says who this is and what it holds.

        Raises:
            Refused: the coordinator won't have this worker.
            Abandoned: it can't be reached for longer than `terms` allow (None: until somebody ends this process).
        """
        request = v1.RegisterRequest(
            worker=self._worker,
            incarnation=self._incarnation,
            protocol=PROTOCOL,
            held=[_held_message(lease) for lease in held],
            ledger_seen=self._ledger_seen,
            job_uid=self._job_uid,
        )
        reply: v1.RegisterReply
        reply, asked_at = await self._persist(self._stub.register, request, terms)
        if terms:
            terms.renewed(asked_at, asyncio.get_running_loop().time())
        self._term = reply.term
        self._ledger_seen = max(self._ledger_seen, reply.ledger)
        return Registration(
            job_uid=reply.job_uid,
            term=reply.term,
            program=reply.program,
            staging=reply.staging,
            lease_ttl_s=reply.lease_ttl_s,
            heartbeat_s=reply.heartbeat_s,
            coordinator_timeout_s=reply.coordinator_timeout_s,
            retry_after_s=reply.retry_after_s,
            kept=frozenset((lease.shard, lease.epoch) for lease in reply.keep),
        )

    async def exchange(self, report: Report, terms: Terms) -> Answer:
        """Says everything new and hears everything new; renews `terms`.

        Raises:
            Refused, Abandoned: as for `register`.
        """
        self._sequence += 1
        request = v1.ExchangeRequest(
            worker=self._worker,
            incarnation=self._incarnation,
            term=self._term,
            sequence=self._sequence,
            held=[_held_message(lease) for lease in report.held],
            want=report.want,
            commits=[_commit_message(wish) for wish in report.commits],
            published=[_held_message(lease) for lease in report.published],
            releases=[_release_message(handback) for handback in report.releases],
            offers=[v1.SplitOffer(shard=key[0], epoch=key[1], at=at) for key, at in report.offers],
            stages=[_stage_message(summary) for summary in report.stages],
            rows_per_second=report.rows_per_second,
            draining=report.draining,
            read_busy_s=report.read_busy_s,
            write_busy_s=report.write_busy_s,
            fatal_reason=report.fatal_reason,
            fatal_message=report.fatal_message,
            reject_example=report.reject_example,
            arena_bytes=report.arena_bytes,
            arena_used_bytes=report.arena_used_bytes,
            measures=[_measures_message(measures) for measures in report.measures],
        )
        reply: v1.ExchangeReply
        reply, asked_at = await self._persist(self._stub.exchange, request, terms)
        if reply.directive == REGISTER:
            terms.heard(asyncio.get_running_loop().time())
        else:
            terms.lease_ttl_s = reply.lease_ttl_s or terms.lease_ttl_s
            terms.renewed(asked_at, asyncio.get_running_loop().time())
        self._ledger_seen = max(self._ledger_seen, reply.ledger)
        return Answer(
            term=reply.term,
            directive=reply.directive,
            wait_s=reply.wait_s,
            leases=[_lease(grant) for grant in reply.grants],
            commits={(v.shard, v.epoch): Verdict(v.outcome, v.reason) for v in reply.commits},
            published={(v.shard, v.epoch): Verdict(v.outcome, v.reason) for v in reply.published},
            stale=[(v.shard, v.epoch) for v in reply.stale],
            asks=[(ask.shard, ask.epoch) for ask in reply.asks],
            ends={(answer.shard, answer.epoch): answer.end for answer in reply.answers},
        )

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    async def _persist(
        self, call: Callable[[Request], Awaitable[Reply]], request: Request, terms: Terms | None
    ) -> tuple[Reply, float]:
        """The answer, and when it was asked for first: a lost answer to that try may be the one that renewed."""
        backoff_s = BACKOFF_FIRST_S
        backoff_max_s = max(BACKOFF_MAX_S, BACKOFF_TTL_SHARE * terms.lease_ttl_s if terms else 0.0)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        while True:
            try:
                return await call(request), asked_at
            except GRPCError as error:
                if error.status not in TRANSIENT:
                    raise Refused(f"The coordinator refused this worker: {error.message}") from error
                reason = str(error.message)
            except BROKEN as error:
                reason = repr(error)
                self._channel.close()  # it may be dead without saying so: the next call opens another
            if terms and terms.is_abandoned(loop.time()):
                raise Abandoned(f"The coordinator has been away for over {terms.coordinator_timeout_s:g} s: {reason}")
            log.info("coordinator away", reason=reason, again_in_s=round(backoff_s, 2))
            await asyncio.sleep(random.uniform(0, backoff_s))  # full jitter: workers must not come back in step
            backoff_s = min(backoff_s * 2, backoff_max_s)


def _held_message(lease: HeldLease) -> v1.Held:
    return v1.Held(
        shard=lease.shard,
        epoch=lease.epoch,
        begin=lease.begin,
        end=lease.end,
        position=lease.position,
        rows_done=lease.rows_done,
        rows_rejected=lease.rows_rejected,
    )


def _commit_message(wish: CommitWish) -> v1.Commit:
    return v1.Commit(
        shard=wish.key[0],
        epoch=wish.key[1],
        begin=wish.begin,
        end=wish.end,
        rows_read=wish.rows_read,
        rows_filtered=wish.rows_filtered,
        rows_out=wish.rows_out,
        rows_rejected=wish.rows_rejected,
        files=[
            v1.StagedFile(name=f.name, kind=f.kind, size=f.size, digest=f.digest, rows=f.rows, staged=f.staged)
            for f in wish.files
        ],
        schema=wish.schema,
        corrupt=[v1.CorruptRange(begin=c.begin, end=c.end, reason=c.reason) for c in wish.corrupt],
    )


def _release_message(handback: Handback) -> v1.Release:
    return v1.Release(
        shard=handback.key[0],
        epoch=handback.key[1],
        reason="failed" if handback.kind else "drained",
        error=handback.error,
        charged=handback.is_charged,
        exit_class=handback.kind,
    )


def _stage_message(summary: StageSummary) -> v1.StageStats:
    return v1.StageStats(
        stage=summary.stage,
        predictors=summary.predictors,
        rows_in=summary.rows_in,
        rows_out=summary.rows_out,
        batches=summary.batches,
        busy_s=summary.busy_s,
        wait_input_s=summary.wait_input_s,
        predictor_s=summary.ready_s,
        queue_batches=summary.queued,
        restarts=summary.restarts,
        batch_rows=summary.batch_rows,
    )


def _measures_message(measures: StageMeasures) -> v1.StageMeasures:
    return v1.StageMeasures(
        stage=measures.stage,
        rows_in_progress=measures.rows_in_progress,
        wait_output_s=measures.wait_output_s,
        last_done_ago_s=measures.last_done_ago_s,
        load_s=measures.load_s,
        hangs=measures.hangs,
        rows_after_exception=measures.rows_tried_again["exception"],
        rows_after_crash=measures.rows_tried_again["crash"],
        rows_after_hang=measures.rows_tried_again["hang"],
        seconds_counts=list(measures.seconds_counts),
        rows_counts=list(measures.rows_counts),
    )


def _lease(grant: v1.Grant) -> Lease:
    parts = grant.slices
    columns = (parts.paths, parts.sizes, parts.versions, parts.begins, parts.ends, parts.units, parts.origins)
    slices = tuple(map(Slice, *columns)) if parts.paths else ()
    assert all(len(column) == len(slices) for column in columns), "the lists of FileSlices are parallel"
    return Lease(grant.shard, grant.epoch, grant.begin, grant.end, slices)
