"""The pipeline's driver: owns the core, the arena and one predictor host per stage, and carries out what the core says.

Everything here runs on the event loop, so the core has one owner. Predictors report back through `_StageEvents`.

Not here: where batches come from (`sidecar.feed`), where they go (`sidecar.shard_run`).
"""

import asyncio
import bisect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from headrace.local.columns import Column
from headrace.local.messages import ERROR_OUTPUT, Specs, StageError
from headrace.program import Program, StageProgram
from headrace.words import MODEL_SUSPECT, Reason
from sidecar.arena import Arena
from sidecar.converter import column_to_arrow
from sidecar.core.ahead import Ahead
from sidecar.core.batches import (
    Action,
    Batch,
    Blame,
    FeedAgain,
    Finished,
    GiveSpace,
    Replace,
    Send,
    ShardKey,
    StageFailed,
)
from sidecar.core.deadlines import BatchDeadline, late_s
from sidecar.core.failures import Budget
from sidecar.core.pipeline import Admission, Pipeline, TooLarge
from sidecar.core.space import Space
from sidecar.core.starts import Starts
from sidecar.output_shapes import OutputShapes
from sidecar.predictors import Ended, Host
from sidecar.stage_record import StageRecord
from sidecar.wiring import Wiring, batch_is_auto, batch_rows_max, output_row_bytes

WATCH_INTERVAL_S = 0.25
LAST_WORDS_CHARS = 2000
"""Of a predictor's standard error, beside each row that made it end."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Waiter:
    order: int
    shard: ShardKey
    attempt: Callable[[], Admission | TooLarge | None]
    future: "asyncio.Future[Admission | TooLarge | None]"


class Flow:
    """Batches from admission to `on_finished`."""

    def __init__(
        self,
        program: Program,
        wiring: Wiring,
        arena: Arena,
        soft_bytes: int,
        predictors: Mapping[str, int],
        *,
        on_finished: Callable[[Batch], None],
        on_again: Callable[[Batch, int], None],
        on_fatal: Callable[[str, str], None],
        on_host_lost: Callable[[str], None],
    ) -> None:
        """Makes a flow that hasn't started.

        Args:
            soft_bytes: what is normally in flight in the arena.
            predictors: how many each stage starts with.
            on_finished: takes a batch that has gone through all stages.
            on_again: takes a batch that was dropped to make room, and how many of its rows may come together.
            on_fatal: takes the reason and message of what ends the worker's part in the job.
            on_host_lost: takes the message of what ends this flow, but not the job.
        """
        self._program = program
        self._arena = arena
        self._predictors = predictors
        self._on_finished = on_finished
        self._on_again = on_again
        self._on_fatal = on_fatal
        self._on_host_lost = on_host_lost
        self._rows_max = batch_rows_max(program)
        self._rows_are_wish = batch_is_auto(program)
        self._space = Space(arena.size, soft_bytes)
        in_flight = sum(predictors.values())
        self._ahead = Ahead(predictors, most=4 * in_flight + 4 * len(program.stages) + 4)
        self._pipeline = Pipeline(
            wiring.stages,
            wiring.sink_reads,
            self._space,
            window=self._ahead.batches,
            budget=Budget(program.errors.max_rejected_rows, program.errors.max_rejected_share, program.errors.min_rows),
        )
        self._reads = wiring.columns_read
        self._hosts: dict[str, Host] = {}
        self._waiters: list[_Waiter] = []
        self._closing = False
        self._all_ready = asyncio.Event()
        self.records = {stage.name: StageRecord() for stage in program.stages}
        self._deadlines = {stage.name: BatchDeadline(program.batch_timeout_s) for stage in program.stages}
        self._starts = {name: Starts(count) for name, count in predictors.items()}
        self._shapes = {stage.name: OutputShapes(program.sink, stage.name) for stage in program.stages}
        self._hung: set[tuple[str, int]] = set()  # predictors ended for that
        self._last_words: dict[str, str] = {}  # stage -> how it failed last, with traceback or standard error

    # ------------------------------------------------------------------ life

    async def open(self, socket_folder: Path, env: Mapping[str, str]) -> None:
        """Starts the hosts together; returns when every host listens, before the models are loaded."""
        async with asyncio.TaskGroup() as group:
            for stage in self._program.stages:
                group.create_task(self._open_stage(stage, socket_folder, env), name=f"host {stage.name}")

    async def _open_stage(self, stage: StageProgram, socket_folder: Path, env: Mapping[str, str]) -> None:
        events = _StageEvents(self, stage)
        self._hosts[stage.name] = await Host.start(stage, self._arena, socket_folder, events, env)
        for _ in range(self._predictors[stage.name]):
            self._add_predictor(stage.name)

    async def known_outputs(self) -> dict[str, dict[str, tuple[str | None, Sequence[int | None] | None]]]:
        """(dtype, shape) of each stage's outputs as far as its specs tell; waits for the models to be loaded."""
        await self._all_ready.wait()
        return {
            name: {output: (spec.dtype, spec.shape) for output, spec in (record.specs.outputs or {}).items()}
            for name, record in self.records.items()
            if record.specs
        }

    def free_axes(self, stage: str, output: str) -> tuple[int, ...]:
        """Axes within a row of an output that the stage's specs leave open: rows of it become plain lists there."""
        specs = self.records[stage].specs
        spec = (specs.outputs or {}).get(output) if specs else None
        if spec is None or spec.shape is None:
            return ()
        return tuple(axis for axis, size in enumerate(spec.shape) if axis and size is None)

    async def close(self) -> None:
        """Ends all predictors and hosts."""
        self._closing = True
        await asyncio.gather(*(host.close() for host in self._hosts.values()))

    async def watch(self) -> None:
        """Ends predictors that hold a batch for longer than its deadline; runs until cancelled."""
        loop = asyncio.get_running_loop()
        woke_at = loop.time()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now = loop.time()
            late = late_s(now - woke_at, WATCH_INTERVAL_S)
            woke_at = now
            for name, deadline in self._deadlines.items():
                deadline.move(late)
                for predictor, allowed_s in deadline.overdue(now, partial(self._pipeline.is_searching, name)):
                    deadline.paused(predictor)
                    log.warning("predictor hangs", stage=name, predictor=predictor, seconds=allowed_s)
                    self._pipeline.predictor_ending(name, predictor)
                    self._hung.add((name, predictor))
                    self._hosts[name].end_predictor(predictor, f"it gave no answer within {allowed_s:g} s")

    # ------------------------------------------------------------------ batches

    async def admit(
        self, order: int, shard: ShardKey, rows: int, source_bytes: int, age: int | None = None
    ) -> Admission | TooLarge | None:
        """Waits for room for a batch; of those who wait, the lowest `order` (the oldest lease) is served first.

        None: the lease was cancelled meanwhile. `age`: of a batch that is fed again.
        """
        admission = self.try_admit(order, shard, rows, source_bytes, age)
        if admission is not None:
            return admission
        future: asyncio.Future[Admission | TooLarge | None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(order, shard, lambda: self._pipeline.admit(shard, rows, source_bytes, age), future)
        bisect.insort(self._waiters, waiter, key=lambda item: item.order)
        return await future

    def fit_rows(self, source_row_bytes: float) -> int:
        """Rows of the next batches, whose rows take `source_row_bytes` in the arena."""
        predictors = sum(self._predictors.values())
        return self._pipeline.fit_rows(self._rows_max, source_row_bytes, predictors, is_wish=self._rows_are_wish)

    def try_admit(
        self, order: int, shard: ShardKey, rows: int, source_bytes: int, age: int | None = None
    ) -> Admission | TooLarge | None:
        """Room for a batch if there is some at once and no older lease waits for it."""
        if age is None and self._waiters and self._waiters[0].order <= order:
            return None
        return self._pipeline.admit(shard, rows, source_bytes, age)

    def withdraw(self, admission: Admission) -> None:
        """An admitted batch won't come."""
        self._pipeline.withdraw(admission)
        self._serve_waiters()

    def start(self, admission: Admission, columns: Mapping[str, Column], blamed: Mapping[int, Blame]) -> None:
        """The batch's source columns are in the arena."""
        self._execute(self._pipeline.start(admission, columns, blamed))

    def written(self, batch: Batch) -> None:
        """The batch has been copied out of the arena."""
        self._execute(self._pipeline.written(batch))
        self._serve_waiters()

    def cancel(self, shard: ShardKey) -> None:
        """The lease is gone."""
        for waiter in [waiter for waiter in self._waiters if waiter.shard == shard]:
            self._waiters.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_result(None)
        self._execute(self._pipeline.cancel(shard))
        self._serve_waiters()

    @property
    def arena_used(self) -> int:
        """Bytes of the arena in use."""
        return self._space.used

    def queued(self, stage: str) -> int:
        """Pieces that wait for a predictor of `stage`."""
        return self._pipeline.queued(stage)

    def _serve_waiters(self) -> None:
        while self._waiters:
            first = self._waiters[0]
            if not first.future.done():  # else its task was cancelled
                admission = first.attempt()
                if admission is None:
                    return
                first.future.set_result(admission)
            self._waiters.pop(0)

    def _execute(self, actions: Sequence[Action]) -> None:
        if self._closing:
            return
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case GiveSpace():
                    host = self._hosts[action.stage]
                    host.give_space(action.predictor, action.piece, action.offset, action.nbytes)
                    now = asyncio.get_running_loop().time()
                    self.records[action.stage].unblocked(action.predictor, now)
                    if action.nbytes == 0:
                        self._came_back(action.stage, action.predictor, action.piece, now)
                    else:
                        self._deadlines[action.stage].began(action.predictor, now)
                case Finished():
                    self._on_finished(action.batch)
                case FeedAgain():
                    self._on_again(action.batch, action.rows_max)
                case Replace():
                    log.warning("predictor fails on everything", stage=action.stage, predictor=action.predictor)
                    reason = "it failed on everything that it was given lately"
                    self._hosts[action.stage].end_predictor(action.predictor, reason)
                case StageFailed():
                    self._stage_failed(action)
                    if action.is_certain:
                        return

    def _send(self, send: Send) -> None:
        now = asyncio.get_running_loop().time()
        record = self.records[send.stage]
        if not record.pieces.get(send.predictor):
            self._deadlines[send.stage].began(send.predictor, now)
        record.sent(send.predictor, send.piece, send.rows, now)
        self._hosts[send.stage].send_batch(
            send.predictor, send.piece, send.rows, send.inputs, send.offset, send.nbytes
        )  # fmt: skip

    def _came_back(self, stage: str, predictor: int, piece: int, now: float) -> int:
        """A piece came back from a predictor, whose clock starts anew if it has another; returns the piece's rows."""
        record = self.records[stage]
        rows = record.came_back(predictor, piece, now)
        if record.pieces[predictor]:
            self._deadlines[stage].began(predictor, now)
        else:
            self._deadlines[stage].paused(predictor)
        return rows

    def _stage_failed(self, failed: StageFailed) -> None:
        blame = failed.blame
        if failed.is_certain:
            self._closing = True  # what it gave for other rows is no result either
        words = self._last_words.get(blame.stage, "")
        reason = Reason.MODEL_FAILED if failed.is_certain else MODEL_SUSPECT
        self._on_fatal(reason, f"stage {blame.stage!r}: {failed.why}: {blame.kind}: {blame.message}\n{words}")

    # ------------------------------------------------------------------ events of predictors

    def predictor_ready(self, stage: str, predictor: int, specs: Specs) -> None:
        """A predictor has loaded its model."""
        self.records[stage].ready(predictor, specs, asyncio.get_running_loop().time())
        if all(other.specs for other in self.records.values()):
            self._all_ready.set()
        row_bytes = output_row_bytes(specs)
        if row_bytes is not None:
            self._pipeline.expect_output(stage, row_bytes)
        self._execute(self._pipeline.predictor_ready(stage, predictor))
        self._serve_waiters()

    def batch_done(self, stage: str, predictor: int, piece: int, columns: Mapping[str, Column], busy_s: float) -> None:
        """A predictor has written a piece's outputs."""
        record = self.records[stage]
        now = asyncio.get_running_loop().time()
        self._deadlines[stage].answered(predictor, now)
        self._starts[stage].worked()
        record.done(self._came_back(stage, predictor, piece, now), busy_s, now)
        self._ahead.done(stage, busy_s)
        self._pipeline.window = self._ahead.batches
        missing = self._reads[stage] - columns.keys()
        if missing:
            given = ", ".join(sorted(columns.keys() - {ERROR_OUTPUT})) or "nothing"
            self._on_fatal(
                Reason.SCHEMA_MISMATCH, f"stage {stage!r} gives {given}, but the job reads its {min(missing)!r}"
            )
            return
        changed = self._shapes[stage].changed(columns, lambda output: self.free_axes(stage, output))
        if changed:
            self._on_fatal(Reason.SCHEMA_MISMATCH, changed)
            return
        blamed = self._row_errors(stage, columns[ERROR_OUTPUT]) if ERROR_OUTPUT in columns else {}
        self._execute(self._pipeline.done(stage, predictor, piece, columns, blamed))
        self._serve_waiters()

    def _row_errors(self, stage: str, column: Column) -> dict[int, Blame]:
        messages = column_to_arrow(column, self._arena.view)
        rows = messages.is_valid().to_numpy(zero_copy_only=False).nonzero()[0].tolist()
        return {row: Blame(stage, "RowError", str(messages[row])) for row in rows}

    def batch_failed(self, stage: str, predictor: int, piece: int, error: StageError) -> None:
        """The stage raised an exception on a piece."""
        rows = self._came_back(stage, predictor, piece, asyncio.get_running_loop().time())
        self.records[stage].failed(rows)
        self._last_words[stage] = error.traceback
        self._execute(self._pipeline.failed(stage, predictor, piece, error.kind, error.message))
        self._count_again(stage, "exception", [(piece, rows)])
        self._serve_waiters()

    def space_needed(self, stage: str, predictor: int, piece: int, nbytes: int) -> None:
        """A result is larger than its slot."""
        self.records[stage].blocked(predictor, asyncio.get_running_loop().time())
        self._deadlines[stage].paused(predictor)  # waiting for space is no hanging
        self._execute(self._pipeline.space_needed(stage, predictor, piece, nbytes))

    def predictor_ended(self, stage: str, predictor: int, ended: Ended) -> None:
        """A predictor's whole process group is gone."""
        record = self.records[stage]
        loop = asyncio.get_running_loop()
        is_hang = (stage, predictor) in self._hung
        self._hung.discard((stage, predictor))
        held = record.ended(predictor, loop.time(), is_hang=is_hang)
        was_of_use = self._deadlines[stage].has_answered(predictor) or bool(held)
        self._deadlines[stage].ended(predictor)
        if self._closing:
            return
        message = describe(ended)
        log.warning("predictor ended", stage=stage, predictor=predictor, how=message)
        if was_of_use:
            self._add_predictor(stage)
        else:  # it couldn't be loaded, or ended by itself before its first batch
            delay_s = self._starts[stage].failed(len(record.predictors), random.random())
            if delay_s is None:
                self._on_fatal(Reason.MODEL_LOAD_FAILED, f"stage {stage!r}: {message}")
                return
            loop.call_later(delay_s, self._replace, stage)
        self._last_words[stage] = ended.stderr_tail
        kind = "PredictorHung" if is_hang else "PredictorDied"
        self._execute(self._pipeline.predictor_ended(stage, predictor, kind, _in_short(ended)))
        self._count_again(stage, "hang" if is_hang else "crash", held)
        self._serve_waiters()

    def _count_again(self, stage: str, reason: str, pieces: Sequence[tuple[int, int]]) -> None:
        again = sum(rows for piece, rows in pieces if self._pipeline.is_tried_again(piece, rows))
        self.records[stage].rows_tried_again[reason] += again

    def host_ended(self, stage: StageProgram, reason: str) -> None:
        """A stage's host is gone, and with it this flow; its predictors are reported one by one as well."""
        if self._closing:
            return
        self._closing = True
        self._on_host_lost(f"stage {stage.name!r}: its predictor host ended: {reason}")

    def _replace(self, stage: str) -> None:
        if not self._closing:
            self._add_predictor(stage)

    def _add_predictor(self, stage: str) -> None:
        self.records[stage].started(self._hosts[stage].add_predictor(), asyncio.get_running_loop().time())


def describe(ended: Ended) -> str:
    """How a predictor ended, with the model's own words."""
    if ended.load_error is not None:
        error = ended.load_error
        return f"the model can't be loaded: {error.kind}: {error.message}\n{error.traceback}"
    return str(ended) + (f"; its last words:\n{ended.stderr_tail}" if ended.stderr_tail else "")


def _in_short(ended: Ended) -> str:
    """How it ended, for the row that made it end: what was said to standard error last says why."""
    last = ended.stderr_tail.strip()[-LAST_WORDS_CHARS:]
    return f"{ended}; its last words:\n{last}" if last else str(ended)


class _StageEvents:
    """What one stage's host reports, with the stage's name put to it."""

    def __init__(self, flow: Flow, stage: StageProgram) -> None:
        self._flow = flow
        self._program = stage
        self._stage = stage.name

    def predictor_ready(self, predictor: int, specs: Specs) -> None:
        self._flow.predictor_ready(self._stage, predictor, specs)

    def batch_done(self, predictor: int, batch: int, columns: dict[str, Column], busy_s: float) -> None:
        self._flow.batch_done(self._stage, predictor, batch, columns, busy_s)

    def batch_failed(self, predictor: int, batch: int, error: StageError) -> None:
        self._flow.batch_failed(self._stage, predictor, batch, error)

    def space_needed(self, predictor: int, batch: int, nbytes: int) -> None:
        self._flow.space_needed(self._stage, predictor, batch, nbytes)

    def predictor_ended(self, predictor: int, ended: Ended) -> None:
        self._flow.predictor_ended(self._stage, predictor, ended)

    def host_ended(self, reason: str) -> None:
        self._flow.host_ended(self._program, reason)
