"""Publishing by the coordinator, and the finish of a job: steps that are each idempotent and journaled.

    publish_due     a commit whose worker didn't report: take its staging, look, publish or revoke
    finish          staging away ▶ publish what was held, or look for what was published ▶ sweep ▶ manifest ▶ old files
                    ▶ _SUCCESS ▶ claim

A crash before a step's fact is durable does the step again, which changes nothing.

Not here: what each step does to the output (`coordinator.output`), when a job is finished (`coordinator.driver`).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from coordinator.core.columns import Ints
from coordinator.core.facts import CommitDecided, Fact, OutputFile, OutputStep
from coordinator.core.ledger import UNDONE
from coordinator.core.schema import columns_of
from coordinator.group_commit import GroupCommit
from coordinator.job_run import OUTPUT_COMMITTED, JobRun
from coordinator.manifest import RETRY, Entry, Header, InputFile, QuarantinedEntry, ShardEntry, read_totals
from coordinator.output import manifest_name
from headrace.publish import HIDDEN, StagingGone
from headrace.words import Epoch, ShardId, ShardState

LIST_PAGE = 1000


class Decided(Protocol):
    """The driver, which applies facts and journals them."""

    def record(self, facts: Sequence[Fact]) -> None:
        """Takes facts that are applied already."""


async def publish_due(run: JobRun, shard: ShardId, epoch: Epoch, commits: GroupCommit, driver: Decided) -> None:
    """Publishes one commit in its worker's place, or revokes it when its staging is gone.

    Raises:
        SinkError: the store fails; nothing is decided.
    """
    await commits.durable()
    if not run.table.awaits_publish(shard, epoch):
        return
    commit = await commits.commit_at(run.table.commit_number(shard))
    await asyncio.to_thread(run.output.take, commit.files)
    try:
        await asyncio.to_thread(run.output.publish_taken, commit.files)
    except StagingGone:
        # Unless the worker's report came while this looked.
        if run.table.awaits_publish(shard, epoch):
            driver.record(run.table.revoke(commit))
        return
    found = run.table.published(None, shard, epoch)
    if isinstance(found, list):
        driver.record(found)


async def finish(run: JobRun, commits: GroupCommit, driver: Decided) -> bool:
    """Brings the output of a job whose last shard is done to its end. Call it again after a failure or a restart.

    Gives False where the job goes on: in a held mode, what was staged for some commits is gone, and they were revoked.

    Raises:
        SinkError: the store fails; the steps done so far stay done.
        ManifestDamaged: one that this output adds to can't be read.
    """
    await commits.durable()
    numbers = run.table.commit_numbers()
    is_held = run.table.is_held
    quarantined = run.table.counts.quarantined
    sink = run.plan.sink
    output = run.output

    async def step(name: str, work: Callable[[], object]) -> None:
        if name in run.ledger.steps:
            return
        await asyncio.to_thread(work)
        fact = OutputStep(run.number, name)
        run.ledger.apply(fact)
        driver.record([fact])

    await step("staging", output.take_staging)
    if is_held:
        if "publish" not in run.ledger.steps and await _revoke_gone(run, commits, numbers, driver):
            return False
        await step("old success", output.drop_success)
        await step("publish", lambda: output.publish_held(_files(commits, numbers)))
        driver.record(run.table.publish_all())
    else:
        await step("look", lambda: output.check_published(file.name for file in _files(commits, numbers)))
    await step("sweep", lambda: output.sweep((file.name for file in _files(commits, numbers)), sink.base))
    header = Header(
        job=run.name,
        uid=run.uid,
        number=sink.number,
        base=sink.base,
        mode=sink.mode,
        format=sink.format,
        unit=run.ledger.planned.unit,
        files=run.ledger.planned.files,
        units=run.table.units_total,
        columns=columns_of(run.table.schema),
    )
    inputs = _inputs(run)
    given_up = list(_quarantined(run))
    await step("manifest", lambda: output.write_manifest(header, inputs, _entries(commits, numbers, given_up)))
    if sink.old:
        await step("old files", lambda: output.delete_old(sink.old))
    if not quarantined:
        await step("success", lambda: output.write_success(_summary(run)))
    await step(OUTPUT_COMMITTED, output.clear)
    # Only a job that is known to be done gives its output free: after a crash it must not need the claim again.
    await commits.durable()
    await step("claim", output.release_claim)
    return True


async def _revoke_gone(run: JobRun, commits: GroupCommit, numbers: Ints, driver: Decided) -> bool:
    """Looks for every file of a held output before any is published; revokes the commits that miss one."""

    def look() -> list[CommitDecided]:
        missing = frozenset(run.output.missing(_files(commits, numbers)))
        if not missing:
            return []
        return [commit for commit in commits.commits(numbers) if any(file.name in missing for file in commit.files)]

    gone = await asyncio.to_thread(look)
    if not gone:
        return False
    undone = OutputStep(run.number, "staging", UNDONE)
    run.ledger.apply(undone)
    # Together: a restart finds shards to be done and knows that their workers need a staging folder.
    driver.record([*(fact for commit in gone for fact in run.table.revoke(commit)), undone])
    await commits.durable()
    await asyncio.to_thread(run.output.prepare)
    return True


def _summary(run: JobRun) -> dict[str, object]:
    name = manifest_name(run.plan.sink.number)
    return {"manifest": f"{HIDDEN}/{name}", "totals": read_totals(run.output.manifest(name))}


def _files(commits: GroupCommit, numbers: Ints) -> Iterator[OutputFile]:
    for commit in commits.commits(numbers):
        yield from commit.files


def _entries(commits: GroupCommit, numbers: Ints, given_up: Sequence[Entry]) -> Iterator[Entry]:
    yield from map(_entry, commits.commits(numbers))
    yield from given_up


def _entry(commit: CommitDecided) -> ShardEntry:
    counts = commit.counts
    return ShardEntry(
        shard=commit.shard,
        epoch=commit.epoch,
        begin=commit.begin,
        end=commit.end,
        rows_read=counts.read,
        rows_filtered=counts.filtered,
        rows_out=counts.out,
        children=counts.children,
        rows_rejected=counts.rejected,
        files=commit.files,
        corrupt=commit.corrupt,
    )


def _inputs(run: JobRun) -> Iterator[InputFile]:
    dataset, sink = run.ledger.dataset, run.plan.sink
    for i, path in enumerate(dataset.paths):
        origin, end = int(dataset.origins[i]), int(dataset.origins[i + 1])
        name = (path, dataset.versions[i]) if sink.mode != RETRY else (sink.old[i], sink.old_digests[i])
        yield InputFile(name[0], int(dataset.sizes[i]), name[1], origin, end - origin)


def _quarantined(run: JobRun) -> Iterator[QuarantinedEntry]:
    after = -1
    while page := run.table.shards(state=ShardState.QUARANTINED, after=after, limit=LIST_PAGE):
        for view in page:
            yield QuarantinedEntry(view.shard, view.begin, view.end, view.error)
        after = page[-1].shard
