"""What a worker says of its leases and stages in an exchange, taken from their live state.

Not here: when it is said (`sidecar.driver`), how it becomes a message (`sidecar.coordinator_client`).
"""

from sidecar.coordinator_client import CommitWish, HeldLease, StageMeasures, StageSummary
from sidecar.flow import Flow
from sidecar.shard_run import ShardRun

RATE_SPAN_S = 5.0


class Rate:
    """Rows per second over the last RATE_SPAN_S."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def add(self, now: float, rows: int) -> None:
        """`rows` more have gone through all stages."""
        self._marks.append((now, rows))

    def value(self, now: float) -> float:
        """Rows per second, 0.0 before the first."""
        self._marks = [mark for mark in self._marks if now - mark[0] <= RATE_SPAN_S]
        if not self._marks:
            return 0.0
        return sum(rows for _, rows in self._marks) / max(now - self._marks[0][0], 0.1)


def held_lease(run: ShardRun) -> HeldLease:
    """The lease as far as it is agreed, how far it has been read, and what became of its rows."""
    return HeldLease(
        run.key[0],
        run.key[1],
        run.lease.begin,
        run.agreed_end,
        run.position,
        rows_done=run.rows_done,
        rows_rejected=run.rows_rejected,
    )


def commit_wish(run: ShardRun) -> CommitWish:
    """The commit of everything that was read."""
    return CommitWish(
        key=run.key,
        begin=run.lease.begin,
        end=run.end,
        rows_read=run.rows_read,
        rows_filtered=run.rows_filtered,
        rows_out=run.rows_out,
        rows_rejected=run.rows_rejected,
        files=run.staged,
        corrupt=tuple(run.corrupt),
        schema=run.schema,
    )


def stage_summaries(flow: Flow, batch_rows: int, now: float) -> list[StageSummary]:
    """What each stage did until `now`, in the order of the pipeline."""
    return [
        StageSummary(
            stage=name,
            predictors=len(record.predictors),
            rows_in=record.rows_in,
            rows_out=record.rows_out,
            rows_judged=record.rows_judged,
            rows_nan=record.rows_nan,
            batches=record.batches,
            busy_s=record.busy_s,
            wait_input_s=record.wait_input_s(now),
            ready_s=record.predictor_s(now),
            queued=flow.queued(name),
            restarts=record.restarts,
            batch_rows=batch_rows,
        )
        for name, record in flow.records.items()
    ]


def stage_measures(flow: Flow, now: float) -> list[StageMeasures]:
    """What only metrics want to know of each stage, in the order of the pipeline."""
    return [
        StageMeasures(
            stage=name,
            rows_in_progress=record.rows_in_progress,
            wait_output_s=record.wait_output_s(now),
            last_done_ago_s=-1.0 if record.last_done_at is None else now - record.last_done_at,
            load_s=record.load_s,
            hangs=record.hangs,
            rows_tried_again=dict(record.rows_tried_again),
            seconds_counts=tuple(record.seconds_counts),
            rows_counts=tuple(record.rows_counts),
        )
        for name, record in flow.records.items()
    ]
