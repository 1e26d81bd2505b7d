"""The sidecar's driver: leases in, committed output out, one exchange with the coordinator at a time.

Life of a lease: granted → read by a feed → batches through the flow → rows written → files staged → commit asked for →
(accepted) published → reported. Whatever the coordinator takes away is dropped wherever it is on that way.

Shutdown order: feeds stop taking leases; leases end or are handed back; the last exchange says so; hosts are closed.

Not here: reading (`sidecar.feed`), the graph (`sidecar.flow`), writing (`sidecar.shard_run`).
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import structlog

from headrace.cores import core_share, within
from headrace.errors import BadJob, HeadraceError, InputError, SinkError
from headrace.program import Program
from headrace.stores import open_store
from headrace.words import ACCEPTED, DRAIN, HELD_OUTPUT, MODEL_SUSPECT, REGISTER, STOP, ExitCode, Reason
from sidecar.arena import Arena
from sidecar.assemble import empty_rows
from sidecar.converter import Converter
from sidecar.coordinator_client import (
    Abandoned,
    Answer,
    CoordinatorClient,
    Handback,
    Registration,
    Report,
)
from sidecar.core.batches import Batch, ShardKey
from sidecar.core.terms import Terms
from sidecar.feed import Feed
from sidecar.flow import Flow
from sidecar.news import News
from sidecar.reader import open_source, source_schema
from sidecar.report import Rate, commit_wish, held_lease, stage_measures, stage_summaries
from sidecar.shard_run import RunState, ShardRun
from sidecar.timed_threads import TimedThreads
from sidecar.wiring import Wiring, batch_rows_max, wire
from sidecar.writer import AgreedSchema, SchemaChanged

READERS = 2
"""Leases read at once: reading one overlaps with converting the other."""
LEASES_AHEAD = READERS + 1
"""Leases held that aren't read to their end: one waits while the others are read."""
WRITERS = 2
"""Threads that write; each lease is with one of them at a time."""
CALM_S = 0.1
"""Between two exchanges while all feeds have work: commits, publishes and wishes are said together."""
LOSSES = (InputError, SinkError, SchemaChanged, BadJob, pa.ArrowException)
"""What can go wrong on a lease's way; `Driver._lost` says what each costs."""

log = structlog.get_logger()


class Driver:
    """One job on one worker."""

    def __init__(
        self,
        client: CoordinatorClient,
        registration: Registration,
        program: Program,
        terms: Terms,
        arena: Arena,
        soft_bytes: int,
        cores: int,
    ) -> None:
        """`soft_bytes`: what is normally in flight in the arena; `cores`: CPUs of this worker's machine share."""
        self._client = client
        self._registration = registration
        self._program = program
        self._terms = terms
        self._arena = arena
        self._store = open_store(program.sink.uri, program.job_uid, program.sink.storage, staging=registration.staging)
        self._wiring: Wiring = wire(program)
        share = core_share(cores, len(program.stages), program.workers)
        self._predictors = {
            stage.name: within(share, stage.predictors_min, stage.predictors_max, program.predictors_max)
            for stage in program.stages
        }
        self._flow = Flow(
            program,
            self._wiring,
            arena,
            soft_bytes,
            self._predictors,
            on_finished=self._finished,
            on_again=self._again,
            on_fatal=self._fatal,
            on_host_lost=self._host_lost,
        )
        self._readers = TimedThreads(READERS, "read")
        self._writers = TimedThreads(WRITERS, "write")
        self._rows_max = batch_rows_max(program)
        self._source = open_source(program.source)
        self._feed = Feed(
            self._source,
            Converter(source_schema(program.source), self._wiring.tensors),
            self._flow,
            arena,
            self._readers,
        )
        self._runs: dict[ShardKey, ShardRun] = {}
        self._dropped: set[ShardRun] = set()  # no longer among them; staged files still to be removed
        self._unread: asyncio.Queue[ShardRun] = asyncio.Queue()  # bounded by LEASES_AHEAD: more are never asked for
        self._handbacks: list[Handback] = []
        self._news = News(CALM_S)
        self._order = 0
        self._is_draining = False
        self._fatal_error: tuple[str, str] = ("", "")
        self._reject_example = ""
        self._schema = AgreedSchema(program.sink.format)
        self._rate = Rate()
        self._ended: asyncio.Future[ExitCode] = asyncio.get_running_loop().create_future()

    # ------------------------------------------------------------------ life

    async def run(self, socket_folder: Path, env: Mapping[str, str]) -> ExitCode:
        """Works until the job is over, the worker has drained, or the coordinator is given up."""
        try:
            async with asyncio.TaskGroup() as group:  # waits for writes, discards and publishes under way
                self._group = group
                background = [
                    group.create_task(self._exchange_on(), name="exchange"),
                    group.create_task(self._flow.watch(), name="watch"),
                    *(group.create_task(self._read_on(), name=f"feed {i}") for i in range(READERS)),
                ]
                try:
                    await self._flow.open(socket_folder, env)
                    return await self._ended
                finally:
                    for task in background:
                        task.cancel()
                    self._source.close()  # remote reads under way end, which the feeds wait for
                    await self._flow.close()
                    for key, run in list(self._runs.items()):
                        if run.state is RunState.READING:
                            self._drop(key)  # also wakes who waits for room that will not come
        finally:
            for run in tuple(self._dropped):  # an error or a cancellation has ended the tasks that would have done it
                await self._discard(run)
            self._readers.close()
            self._writers.close()

    def drain(self) -> None:
        """Takes no more leases; what has been admitted is finished and committed, the rest goes back at once."""
        if self._is_draining:
            return
        self._is_draining = True
        for run in list(self._runs.values()):
            if run.state is RunState.READING and not run.is_read:
                run.end = run.cut(run.position)
                run.offered = run.end if run.end < run.agreed_end else None  # so that others needn't wait for the front
                run.changed()
                if run.end == run.lease.begin:
                    self._hand_back(run, Handback(run.key, "", "", is_charged=False))
        if not self._runs and not self._handbacks:
            self._end(ExitCode.DONE)  # nothing to say
        self._news.tell()

    def _end(self, code: ExitCode) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    # ------------------------------------------------------------------ exchange

    async def _exchange_on(self) -> None:
        try:
            while True:
                self._news.begin()
                report = self._report()
                answer = await self._client.exchange(report, self._terms)
                if answer.directive != REGISTER:  # else nothing of the report was taken
                    self._handbacks = [handback for handback in self._handbacks if handback not in report.releases]
                    if report.fatal_reason == MODEL_SUSPECT and answer.directive != STOP:
                        self._fatal_error = ("", "")  # the stage works for other rows of the job, so these are bad
                    elif report.fatal_reason:
                        self._end(ExitCode.BAD_JOB)
                await self._apply(answer)
                if (self._is_draining or answer.directive == DRAIN) and not self._runs and not self._handbacks:
                    self._end(ExitCode.DONE)
                await self._news.rest(answer.wait_s or self._registration.heartbeat_s, self._is_urgent)
        except Abandoned as error:
            log.error("coordinator given up", error=str(error))
            self._end(ExitCode.TEMPORARY)
        except HeadraceError as error:
            log.error("coordinator refuses this worker", error=str(error))
            self._end(ExitCode.FAILED)

    def _is_urgent(self) -> bool:
        """A feed has nothing to read, or somebody waits for an answer."""
        if self._is_draining or self._fatal_error[0] or self._handbacks:
            return True
        live = [run for run in self._runs.values() if run.state is RunState.READING]
        return sum(not run.is_read for run in live) < READERS or any(run.offered is not None for run in live)

    def _report(self) -> Report:
        now = asyncio.get_running_loop().time()
        runs = self._runs.values()
        live = [run for run in runs if run.state is RunState.READING]
        committing = [run for run in runs if run.state is RunState.COMMITTING]
        reading = sum(not run.is_read for run in live)
        self._reject_example = self._reject_example or next((run.first_reject for run in runs if run.first_reject), "")
        return Report(
            held=[held_lease(run) for run in (*live, *committing)],
            want=0 if self._is_draining or self._fatal_error[0] else max(0, LEASES_AHEAD - reading),
            commits=[commit_wish(run) for run in committing],
            published=[held_lease(run) for run in runs if run.state is RunState.PUBLISHED],
            releases=list(self._handbacks),
            offers=[(run.key, run.offered) for run in runs if run.offered is not None],
            stages=stage_summaries(self._flow, self._rows_max, now),
            rows_per_second=self._rate.value(now),
            draining=self._is_draining,
            read_busy_s=self._readers.busy_s,
            write_busy_s=self._writers.busy_s,
            fatal_reason=self._fatal_error[0],
            fatal_message=self._fatal_error[1],
            reject_example=self._reject_example,
            arena_bytes=self._arena.size,
            arena_used_bytes=self._flow.arena_used,
            measures=stage_measures(self._flow, now),
        )

    async def _apply(self, answer: Answer) -> None:
        for key in answer.stale:
            self._drop(key)
        for key, verdict in answer.commits.items():
            self._decided(key, verdict.outcome, verdict.reason)
        for key in answer.published:
            self._runs.pop(key, None)
        for key, end in answer.ends.items():
            self._split_answered(key, end)
        for key in answer.asks:
            self._offer_split(key)
        for lease in answer.leases:
            if self._is_draining:
                self._handbacks.append(Handback(lease.key, "", "", is_charged=False))
                continue
            run = ShardRun(
                lease,
                self._order,
                self._program,
                self._store,
                self._arena.view,
                self._schema,
                self._flow.free_axes,
            )
            self._order += 1
            self._runs[lease.key] = run
            self._unread.put_nowait(run)
        if answer.directive == REGISTER:
            await self._register_again()
        elif answer.directive == STOP:
            for key, run in list(self._runs.items()):
                if run.state is RunState.READING:  # what is past it may be in the ledger: only STALE deletes its files
                    self._drop(key)
            self._end(ExitCode.DONE)
        elif answer.directive == DRAIN:
            self.drain()

    async def _register_again(self) -> None:
        held = [held_lease(run) for run in self._runs.values() if run.state is not RunState.PUBLISHED]
        registration = await self._client.register(held, self._terms)
        if registration.job_uid != self._registration.job_uid:
            log.info("job is over for this worker", job=self._program.job_name)
            registration_kept: frozenset[ShardKey] = frozenset()
            self._end(ExitCode.DONE)
        else:
            self._registration = registration
            registration_kept = registration.kept
        for key, run in list(self._runs.items()):
            # A commit or publish that is on its way gets its own verdict.
            if key not in registration_kept and run.state is RunState.READING:
                self._drop(key)

    # ------------------------------------------------------------------ leases

    async def _read_on(self) -> None:
        while True:
            run = await self._unread.get()
            if run.is_cancelled or run.state is not RunState.READING:
                continue
            try:
                await self._feed.read(run)
                if run.lease.begin == 0 and not run.is_cancelled:
                    await self._read_first(run)
            except LOSSES as error:
                self._lost(run, error)
                continue
            run.is_read = True
            self._news.tell()
            self._settle(run)

    async def _read_first(self, run: ShardRun) -> None:
        """The dataset's first shard has a data file even without rows, so that an empty output can be read.

        Not where a stage's types aren't known for want of a batch, and files with types may follow: there the output
        of a job without rows is `_SUCCESS` and a manifest without data files.
        """
        await run.wait_written()
        if run.rows_out == 0 and not run.is_cancelled:
            specs = await self._flow.known_outputs()
            rows = empty_rows(self._program, specs)
            # A type that nobody knows yet would contradict the files of other shards, and those appended to.
            is_alone = run.end >= self._program.source.units and self._program.sink.mode != "append"
            if is_alone or not any(pa.types.is_null(kind) for kind in rows.schema.types):
                await self._writers.call(lambda: run.write_empty(rows))

    def _finished(self, batch: Batch) -> None:
        run = self._runs.get(batch.shard)
        if run is None or run.is_cancelled:
            asyncio.get_running_loop().call_soon(self._flow.written, batch)
            return
        run.finished.append(batch)
        run.rows_done += batch.rows
        self._rate.add(asyncio.get_running_loop().time(), batch.rows)
        self._settle(run)

    def _again(self, batch: Batch, rows_max: int) -> None:
        run = self._runs.get(batch.shard)
        if run is not None and not run.is_cancelled:
            self._spawn(self._feed_again(run, batch, rows_max), f"feed again {run.key}")

    async def _feed_again(self, run: ShardRun, batch: Batch, rows_max: int) -> None:
        try:
            await self._feed.feed_again(run, batch, rows_max)
        except LOSSES as error:
            self._lost(run, error)
        self._settle(run)

    def _settle(self, run: ShardRun) -> None:
        if run.is_settling or run.is_cancelled or run.state is not RunState.READING:
            return
        if run.has_writable:
            run.is_settling = True
            self._spawn(self._write_finished(run), f"write {run.key}")
        elif run.is_settled and run.offered is None:
            run.is_settling = True
            self._spawn(self._stage(run), f"stage {run.key}")

    async def _write_finished(self, run: ShardRun) -> None:
        try:
            while run.has_writable:
                batches, run.finished = run.finished, []
                try:
                    if not run.is_cancelled:
                        await self._writers.call(partial(run.collect, batches))
                finally:
                    for batch in batches:
                        self._flow.written(batch)
                run.changed()
        except LOSSES as error:
            self._lost(run, error)
        finally:
            run.is_settling = False
            run.changed()
        if run.is_cancelled:
            await self._discard(run)
        else:
            self._settle(run)

    async def _stage(self, run: ShardRun) -> None:
        try:
            await self._writers.call(run.close_files)
        except LOSSES as error:
            self._lost(run, error)
        else:
            if not run.is_cancelled:
                run.state = RunState.COMMITTING
                self._news.tell()
        finally:
            run.is_settling = False
        if run.is_cancelled:
            await self._discard(run)

    def _decided(self, key: ShardKey, outcome: str, reason: str) -> None:
        run = self._runs.get(key)
        if run is None or run.state is not RunState.COMMITTING:
            return
        if outcome != ACCEPTED:
            log.warning("commit not accepted", shard=key[0], epoch=key[1], outcome=outcome, reason=reason)
            self._drop(key)
        elif reason == HELD_OUTPUT:
            del self._runs[key]
        else:
            run.state = RunState.PUBLISHING
            self._spawn(self._publish(run), f"publish {key}")

    async def _publish(self, run: ShardRun) -> None:
        loop = asyncio.get_running_loop()
        if not self._terms.is_trusted(loop.time()):
            run.state = RunState.COMMITTING  # asked again with the next exchange, which renews the trust
            return

        def publish_all() -> None:
            for file in run.staged:
                self._store.publish(file)

        try:
            await self._writers.call(publish_all)
        except SinkError as error:
            # The coordinator publishes what isn't reported in time.
            log.error("publish failed", shard=run.key[0], epoch=run.key[1], error=str(error))
            self._runs.pop(run.key, None)
        else:
            run.state = RunState.PUBLISHED
        self._news.tell()

    def _offer_split(self, key: ShardKey) -> None:
        run = self._runs.get(key)
        if self._is_draining or run is None or run.state is not RunState.READING or run.offered is not None:
            return  # a drain commits the front and gives the rest back anyway
        run.offered = run.cut(run.position + (run.end - run.position + 1) // 2) if not run.is_read else run.end
        self._news.tell()

    def _split_answered(self, key: ShardKey, end: int) -> None:
        run = self._runs.get(key)
        if run is None:
            return
        run.agreed_end = end
        if run.offered is None:
            return
        if not self._is_draining:  # else it stops where it is, whatever was agreed: its commit is a split
            run.end = end
            run.cursor.end = end
        run.offered = None
        run.changed()
        self._settle(run)

    def _lost(self, run: ShardRun, error: Exception) -> None:
        """An error on a lease's way costs the lease, which may be tried again, or this worker's part in the job."""
        match error:
            case SchemaChanged() | BadJob():
                self._fatal(Reason.SCHEMA_MISMATCH, str(error))
                self._drop(run.key)  # rows of it are missing: it must not be committed
            case InputError() | SinkError():
                self._fail(run, error.kind, str(error))
            case _:  # a type that Arrow can't do something with; other shards may be fine
                self._fail(run, SinkError.kind, f"Output rows can't be put together: {error}")

    def _fail(self, run: ShardRun, kind: str, error: str) -> None:
        if run.key in self._runs and not run.is_cancelled:
            log.warning("shard failed", shard=run.key[0], epoch=run.key[1], kind=kind, error=error)
            self._hand_back(run, Handback(run.key, kind, error, is_charged=True))

    def _hand_back(self, run: ShardRun, handback: Handback) -> None:
        self._handbacks.append(handback)
        self._drop(run.key)
        self._news.tell()

    def _drop(self, key: ShardKey) -> None:
        """Forgets a lease wherever it is; its staged files go with it."""
        run = self._runs.pop(key, None)
        if run is None:
            return
        self._dropped.add(run)
        run.is_cancelled = True
        run.cursor.lower_end(run.cursor.position)
        run.changed()
        self._flow.cancel(key)
        batches, run.finished = run.finished, []
        for batch in batches:
            self._flow.written(batch)
        if not run.is_settling:
            run.is_settling = True
            self._spawn(self._discard(run), f"discard {key}")

    async def _discard(self, run: ShardRun) -> None:
        await self._writers.call(run.discard)
        self._dropped.remove(run)

    def _fatal(self, reason: str, message: str) -> None:
        if not self._fatal_error[0]:
            log.error("this worker can't do the job", reason=reason, message=message)
            self._fatal_error = (reason, message)
            self._news.tell()

    def _host_lost(self, message: str) -> None:
        """Without its host a stage is gone; whoever started this worker starts it again, with hosts of its own."""
        log.error("a predictor host is lost", message=message)
        self._end(ExitCode.FAILED)

    def _spawn(self, work: "asyncio._CoroutineLike[object]", name: str) -> None:
        try:
            self._group.create_task(work, name=name)
        except RuntimeError:  # an error has ended the group: what is left to do, `run` does
            work.close()
