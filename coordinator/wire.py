"""Messages of the wire from and to the coordinator's own values; generated classes are used here and in `rpc` only."""

from collections.abc import Sequence

from coordinator.core.facts import OutputFile, RowCounts
from coordinator.core.lease_values import Held, ShardView
from coordinator.exchange import (
    Answer,
    CommitAsked,
    Grant,
    Introduction,
    Offer,
    Released,
    Report,
    Seat,
    StageLoad,
    StageMeasures,
    Verdict,
    Welcome,
)
from coordinator.jobs import JobStatus
from coordinator.metrics import worker_state
from headrace import v1
from headrace.dataset import CorruptUnits
from headrace.words import Epoch, Incarnation, ShardId, WorkerName

REASON_CHARS_MAX = 500
"""Of a corrupt range; it is journaled and goes into the manifest."""
STATES = ("pending", "leased", "committing", "committed", "quarantined")
"""Words of `ShardState` on the wire, by its number."""


def introduction(message: v1.RegisterRequest) -> Introduction:
    """A registration as a value."""
    return Introduction(
        worker=WorkerName(message.worker),
        incarnation=Incarnation(message.incarnation),
        held=tuple(map(_held, message.held)),
        ledger_seen=message.ledger_seen,
        job_uid=message.job_uid,
    )


def welcome(value: Welcome) -> v1.RegisterReply:
    """The answer to a registration as a message."""
    return v1.RegisterReply(
        term=value.term,
        job_uid=value.job_uid,
        job_name=value.job_name,
        program=value.program,
        lease_ttl_s=value.lease_ttl_s,
        heartbeat_s=value.heartbeat_s,
        keep=[v1.Held(h.shard, h.epoch, h.begin, h.end, h.position) for h in value.keep],
        staging=value.staging,
        ledger=value.ledger,
        coordinator_timeout_s=value.coordinator_timeout_s,
        retry_after_s=value.retry_after_s,
    )


def report(message: v1.ExchangeRequest) -> Report:
    """An exchange's request as a value."""
    return Report(
        worker=WorkerName(message.worker),
        incarnation=Incarnation(message.incarnation),
        term=message.term,
        sequence=message.sequence,
        held=tuple(map(_held, message.held)),
        want=message.want,
        commits=tuple(map(_commit, message.commits)),
        published=tuple((ShardId(item.shard), Epoch(item.epoch)) for item in message.published),
        releases=tuple(
            Released(ShardId(item.shard), Epoch(item.epoch), item.charged, item.error, item.exit_class)
            for item in message.releases
        ),
        offers=tuple(Offer(ShardId(item.shard), Epoch(item.epoch), item.at) for item in message.offers),
        stages=tuple(map(_load, message.stages)),
        rows_per_second=message.rows_per_second,
        read_busy_s=message.read_busy_s,
        write_busy_s=message.write_busy_s,
        is_draining=message.draining,
        fatal_reason=message.fatal_reason,
        fatal_message=message.fatal_message,
        reject_example=message.reject_example,
        arena_bytes=message.arena_bytes,
        arena_used_bytes=message.arena_used_bytes,
        measures=tuple(map(_measures, message.measures)),
    )


def answer(value: Answer) -> v1.ExchangeReply:
    """An exchange's answer as a message."""
    return v1.ExchangeReply(
        term=value.term,
        ledger=value.ledger,
        grants=list(map(_grant, value.grants)),
        commits=_verdicts(value.commits),
        published=_verdicts(value.published),
        stale=_verdicts(value.stale),
        asks=[v1.SplitAsk(shard, epoch) for shard, epoch in value.asks],
        answers=[v1.SplitAnswer(shard, epoch, end) for shard, epoch, end in value.ends],
        directive=value.directive,
        wait_s=value.wait_s,
        lease_ttl_s=value.lease_ttl_s,
    )


def job(status: JobStatus) -> v1.Job:
    """A job's status as a message."""
    return v1.Job(
        name=status.name,
        uid=status.uid,
        phase=status.phase,
        conditions=[v1.Condition(c.type, c.is_true, c.reason, c.message) for c in status.conditions],
        progress=status.progress,
        rows_total=status.rows_total,
        rows_estimated=status.rows_estimated,
        rows_read=status.rows_read,
        rows_filtered=status.rows_filtered,
        rows_out=status.rows_out,
        rows_rejected=status.rows_rejected,
        rows_corrupt=status.rows_corrupt,
        parts_lost=status.parts_lost,
        rows_lost=status.rows_lost,
        rows_per_second=status.rows_per_second,
        eta_low_s=status.eta_low_s,
        eta_high_s=status.eta_high_s,
        shards_pending=status.shards_pending,
        shards_leased=status.shards_leased,
        shards_committed=status.shards_committed,
        shards_quarantined=status.shards_quarantined,
        workers=status.workers,
        stages=list(map(_stage_stats, status.stages)),
        output=status.output,
        manifest_path=status.manifest_path,
        elapsed_s=status.elapsed_s,
        units_total=status.units_total,
        units_committed=status.units_committed,
        files=status.files,
        bytes_total=status.bytes_total,
        shards_recomputed=status.shards_recomputed,
        term=status.term,
        read_busy_s=status.read_busy_s,
        write_busy_s=status.write_busy_s,
        unit=status.unit,
        rows_live=status.rows_live,
        workers_max=status.workers_max,
        plan=status.plan,
    )


def shard(view: ShardView) -> v1.Shard:
    """One shard of a listing as a message."""
    return v1.Shard(
        shard=view.shard,
        state=STATES[view.state],
        epoch=view.epoch,
        begin=view.begin,
        end=view.end,
        attempts=view.attempts,
        worker=view.worker,
        error=view.error,
    )


def worker(seat: Seat, leases: int, seen_ago_s: float) -> v1.Worker:
    """One worker of a listing as a message."""
    return v1.Worker(
        name=seat.name,
        incarnation=seat.incarnation,
        leases=leases,
        rows_per_second=seat.rows_per_second,
        seen_ago_s=seen_ago_s,
        state=worker_state(seat),
    )


def _held(message: v1.Held) -> Held:
    return Held(
        ShardId(message.shard),
        Epoch(message.epoch),
        message.begin,
        message.end,
        message.position,
        message.rows_done,
        message.rows_rejected,
    )


def _commit(message: v1.Commit) -> CommitAsked:
    return CommitAsked(
        shard=ShardId(message.shard),
        epoch=Epoch(message.epoch),
        begin=message.begin,
        end=message.end,
        counts=RowCounts(
            read=message.rows_read,
            filtered=message.rows_filtered,
            out=message.rows_out,
            rejected=message.rows_rejected,
            children=message.children,
        ),
        files=tuple(OutputFile(f.name, f.kind, f.size, f.digest, f.rows, f.staged) for f in message.files),
        schema=message.schema,
        corrupt=tuple(CorruptUnits(c.begin, c.end, c.reason[:REASON_CHARS_MAX]) for c in message.corrupt),
    )


def _load(message: v1.StageStats) -> StageLoad:
    return StageLoad(
        stage=message.stage,
        predictors=message.predictors,
        rows_in=message.rows_in,
        rows_out=message.rows_out,
        batches=message.batches,
        busy_s=message.busy_s,
        wait_input_s=message.wait_input_s,
        queue_batches=message.queue_batches,
        restarts=message.restarts,
        predictor_s=message.predictor_s,
        batch_rows=message.batch_rows,
        rows_judged=message.rows_judged,
        rows_nan=message.rows_nan,
    )


def _measures(message: v1.StageMeasures) -> StageMeasures:
    return StageMeasures(
        stage=message.stage,
        rows_in_progress=message.rows_in_progress,
        wait_output_s=message.wait_output_s,
        last_done_ago_s=message.last_done_ago_s,
        load_s=message.load_s,
        hangs=message.hangs,
        rows_tried_again={
            "exception": message.rows_after_exception,
            "crash": message.rows_after_crash,
            "hang": message.rows_after_hang,
        },
        seconds_counts=tuple(message.seconds_counts),
        rows_counts=tuple(message.rows_counts),
    )


def _stage_stats(load: StageLoad) -> v1.StageStats:
    return v1.StageStats(
        stage=load.stage,
        predictors=load.predictors,
        rows_in=load.rows_in,
        rows_out=load.rows_out,
        batches=load.batches,
        busy_s=load.busy_s,
        wait_input_s=load.wait_input_s,
        queue_batches=load.queue_batches,
        restarts=load.restarts,
        predictor_s=load.predictor_s,
        batch_rows=load.batch_rows,
        rows_judged=load.rows_judged,
        rows_nan=load.rows_nan,
    )


def _grant(value: Grant) -> v1.Grant:
    return v1.Grant(
        shard=value.shard,
        epoch=value.epoch,
        begin=value.begin,
        end=value.end,
        slices=v1.FileSlices(
            paths=[part.path for part in value.slices],
            sizes=[part.size for part in value.slices],
            versions=[part.version for part in value.slices],
            begins=[part.begin for part in value.slices],
            ends=[part.end for part in value.slices],
            units=[part.units for part in value.slices],
            origins=[part.origin for part in value.slices],
        ),
    )


def _verdicts(values: Sequence[Verdict]) -> list[v1.Verdict]:
    return [v1.Verdict(value.shard, value.epoch, value.outcome, value.reason) for value in values]
