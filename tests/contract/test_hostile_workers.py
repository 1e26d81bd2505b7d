"""A worker that lies, over real gRPC: refused with a reason, logged once, nothing changed (law 10)."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from coordinator.verify import verify
from headrace import v1
from tests.contract.coordinator_fixture import Coordinator, FakeWorker, coordinator, one_lease, run, submit

HUGE = 2**64 - 1
"""What -1 is on the wire."""


class Scene:
    """An honest worker with a lease, and one that lies; what the coordinator holds of both."""

    def __init__(self, c: Coordinator, honest: FakeWorker, theirs: v1.Grant, liar: FakeWorker, own: v1.Grant) -> None:
        self.c, self.honest, self.theirs, self.liar, self.own = c, honest, theirs, liar, own

    async def state(self) -> tuple[object, ...]:
        """Everything that a lie could change: the ledger's length, the shards, the rows."""
        job = await self.c.jobs.get(v1.JobRequest("numbers"))
        shards = (await self.c.jobs.list_shards(v1.ShardsRequest("numbers", limit=1000))).shards
        rows = (job.phase, job.rows_read, job.rows_rejected, job.units_committed)
        return (self.c.driver.commits.last, tuple(map(str, shards)), rows)

    def held(self) -> list[v1.Held]:
        return [v1.Held(self.own.shard, self.own.epoch, self.own.begin, self.own.end, self.own.begin)]


async def scene(c: Coordinator, folder: Path) -> Scene:
    await submit(c, folder, rows=4000)
    honest, liar = FakeWorker(c.workers, "honest"), FakeWorker(c.workers, "liar")
    theirs = await one_lease(c, honest)
    await liar.register()
    c.pass_time(2.0)
    assert (await liar.exchange(want=1)).grants == []
    assert (await honest.exchange()).asks, "it is to share what it has with who has nothing"
    await honest.split(theirs, theirs.end // 2)
    (own,) = (await liar.exchange(want=1)).grants
    return Scene(c, honest, theirs, liar, own)


async def finish(s: Scene, folder: Path) -> None:
    """The honest worker does the job once the liar's own lease is over; what it puts out is proven."""
    s.c.pass_time(s.c.driver.lease_ttl_s + 1)
    await s.honest.work(lambda answer: answer.directive == "stop")
    assert verify(folder / "out").is_proven


# ---------------------------------------------------------------------- another's lease


LIES: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "releases it": lambda s: {"releases": [v1.Release(s.theirs.shard, s.theirs.epoch, "failed", "bad", charged=True)]},
    "says it is published": lambda s: {"published": [v1.Held(s.theirs.shard, s.theirs.epoch)]},
    "offers a split": lambda s: {"offers": [v1.SplitOffer(s.theirs.shard, s.theirs.epoch, s.theirs.begin + 1)]},
    "offers a split nowhere": lambda s: {"offers": [v1.SplitOffer(HUGE, 1, HUGE)]},
    "holds it": lambda s: {
        "held": [*s.held(), v1.Held(s.theirs.shard, s.theirs.epoch, s.theirs.begin, s.theirs.end, s.theirs.end)]
    },
    "commits it": lambda s: {"commits": [s.liar.stage(s.theirs)], "held": s.held()},
}


@pytest.mark.parametrize("lie", LIES)
def test_nothing_is_believed_about_anothers_lease(tmp_path: Path, lie: str) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            s = await scene(c, tmp_path)
            before = await s.state()
            answer = await s.liar.exchange(**LIES[lie](s))
            told = [verdict.outcome for verdict in (*answer.stale, *answer.published, *answer.commits)]
            assert told == ([] if lie == "releases it" else ["STALE"])
            assert await s.state() == before
            await finish(s, tmp_path)

    run(test)


# ---------------------------------------------------------------------- its own


def wrong(commit: v1.Commit, **fields: object) -> v1.Commit:
    return v1.Commit.from_dict({**commit.to_dict(), **fields})


COMMITS: dict[str, Callable[[v1.Commit], dict[str, object]]] = {
    "past its end": lambda c: {"end": str(c.end + 1)},
    "before its begin": lambda c: {"begin": str(c.begin + 1)},
    "backwards": lambda c: {"begin": str(c.end), "end": str(c.begin)},
    "rows that don't add up": lambda c: {"rowsFiltered": "1"},
    "rows that its files haven't": lambda c: {"rowsOut": str(c.rows_out - 1), "rowsFiltered": "1"},
    "no files": lambda c: {"files": [], "schema": ""},
}


@pytest.mark.parametrize("lie", COMMITS)
def test_a_commit_that_cannot_be_is_refused_with_a_reason_and_logged_once(tmp_path: Path, lie: str) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            s = await scene(c, tmp_path)
            before = await s.state()
            commit = s.liar.stage(s.own)
            with capture_logs() as logs:
                for _ in range(3):
                    bad = wrong(commit, **COMMITS[lie](commit))
                    (verdict,) = (await s.liar.exchange(commits=[bad], held=s.held())).commits
                    assert (verdict.outcome, bool(verdict.reason)) == ("REFUSED", True)
            assert [entry["worker"] for entry in logs if entry["event"] == "worker refused"] == ["liar"]
            assert await s.state() == before
            await finish(s, tmp_path)

    run(test)


REPORTS: dict[str, dict[str, Any]] = {
    "negative rows": {"held": [v1.Held(0, 2, 0, 1, 0, rows_done=HUGE)]},
    "more rejects than rows there are": {"held": [v1.Held(0, 2, 0, 1, 0, rows_rejected=10**9)]},
    "a negative rate": {"rows_per_second": -5.0},
    "no number": {"read_busy_s": math.nan},
    "an endless time": {"stages": [v1.StageStats("double", busy_s=math.inf)]},
    "a stage that isn't there": {"stages": [v1.StageStats("gpu-miner")]},
    "a stage twice": {"stages": [v1.StageStats("double"), v1.StageStats("double")]},
    "measures of nothing": {"measures": [v1.StageMeasures("gpu-miner")]},
    "a thousand and one leases": {"held": [v1.Held(i, 1) for i in range(1001)]},
    "a commit of negative rows": {"commits": [v1.Commit(0, 1, 0, 1, rows_read=HUGE, rows_out=HUGE)]},
    "a file of negative size": {"commits": [v1.Commit(0, 1, 0, 1, files=[v1.StagedFile("x", "data", HUGE)])]},
}


@pytest.mark.parametrize("lie", REPORTS)
def test_a_report_that_cannot_be_is_refused_with_a_reason_and_logged_once(tmp_path: Path, lie: str) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            s = await scene(c, tmp_path)
            before = await s.state()
            with capture_logs() as logs:
                for _ in range(3):
                    with pytest.raises(GRPCError) as refused:
                        await s.liar.exchange(**REPORTS[lie])
                    assert refused.value.status is Status.INVALID_ARGUMENT
                    assert "liar" in str(refused.value.message)
            assert [entry["worker"] for entry in logs if entry["event"] == "worker refused"] == ["liar"]
            assert await s.state() == before
            await finish(s, tmp_path)

    run(test)


def test_a_position_beyond_its_shard_does_not_renew_the_lease(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            s = await scene(c, tmp_path)
            beyond = v1.Held(s.own.shard, s.own.epoch, s.own.begin, s.own.end, s.own.end + 1)
            answer = await s.liar.exchange(held=[beyond])
            assert [verdict.outcome for verdict in answer.stale] == ["STALE"]
            assert (await c.jobs.get(v1.JobRequest("numbers"))).rows_read == 0
            await finish(s, tmp_path)

    run(test)


def test_a_digest_that_does_not_match_is_not_published_and_its_shard_is_done_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            s = await scene(c, tmp_path)
            commit = s.liar.stage(s.own)
            commit.files[0].digest = "0" * 32
            (verdict,) = (await s.liar.exchange(commits=[commit])).commits
            assert verdict.outcome == "ACCEPTED"
            new = FakeWorker(c.workers, "liar")
            await new.register()  # the liar is gone; the coordinator looks at what it left, and finds it wrong
            await new.work(lambda answer: answer.directive == "stop")
            assert verify(tmp_path / "out").is_proven
            assert (await c.jobs.get(v1.JobRequest("numbers"))).shards_recomputed > 0

    run(test)


# ---------------------------------------------------------------------- anything

NUMBERS = st.one_of(st.integers(0, 3), st.sampled_from([2**31, 2**32 - 1, 2**53, 2**63, HUGE]), st.integers(0, 5000))
SHORT = st.one_of(st.integers(0, 3), st.sampled_from([2**31, 2**32 - 1]))
FLOATS = st.floats()
TEXTS = st.sampled_from(["", "liar", "honest", "double", "data", "rejects", "failed", "ModelSuspect", "a/../b", "\x00"])
HELD = st.builds(v1.Held, NUMBERS, SHORT, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
FILES = st.builds(v1.StagedFile, TEXTS, TEXTS, NUMBERS, TEXTS, NUMBERS)
COMMIT = st.builds(
    v1.Commit, NUMBERS, SHORT, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS,
    files=st.lists(FILES, max_size=2), schema=TEXTS,
)  # fmt: skip
REQUEST = st.builds(
    v1.ExchangeRequest,
    worker=st.sampled_from(["liar", "honest", "nobody", ""]),
    incarnation=TEXTS,
    term=NUMBERS,
    sequence=NUMBERS,
    held=st.lists(HELD, max_size=2),
    want=SHORT,
    commits=st.lists(COMMIT, max_size=2),
    published=st.lists(HELD, max_size=2),
    releases=st.lists(st.builds(v1.Release, NUMBERS, SHORT, TEXTS, TEXTS, st.booleans(), TEXTS), max_size=2),
    offers=st.lists(st.builds(v1.SplitOffer, NUMBERS, SHORT, NUMBERS), max_size=2),
    stages=st.lists(st.builds(v1.StageStats, TEXTS, SHORT, NUMBERS, NUMBERS, NUMBERS, FLOATS), max_size=2),
    rows_per_second=FLOATS,
    draining=st.booleans(),
)


async def outcome(c: Coordinator, request: v1.ExchangeRequest) -> Status:
    """What became of a call; INTERNAL or UNKNOWN would be a defect."""
    try:
        await c.workers.exchange(request)
    except GRPCError as error:
        return error.status
    return Status.OK


@settings(max_examples=25)
@given(st.lists(REQUEST, min_size=5, max_size=20), st.booleans())
def test_whatever_is_said_the_honest_worker_finishes(
    tmp_path_factory: pytest.TempPathFactory, requests: list[v1.ExchangeRequest], is_registered: bool
) -> None:
    async def test() -> None:
        folder = tmp_path_factory.mktemp("any")
        async with coordinator(folder / "state") as c:
            s = await scene(c, folder)
            for request in requests:
                if is_registered and request.worker == "liar":  # it knows how to be let in
                    request.incarnation, request.term = s.liar.incarnation, s.liar.welcome.term
                assert await outcome(c, request) in (Status.OK, Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION)
            (job,) = c.driver.runs.values()
            assert job.is_terminal or "honest" in {lease.worker for lease in job.table.live_on(s.theirs.shard)}
            if job.is_terminal:  # a worker may say that it can't do the job at all, and is believed
                return
            await finish(s, folder)
        shutil.rmtree(folder)

    run(test)
