"""The journal on a real disk: what was answered as durable survives, what isn't what was written is refused (law 4)."""

import fcntl
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.core import facts
from coordinator.core.facts import CommitDecided, Fact, Granted, JobChanged, JobPlanned, OutputFile, RowCounts
from coordinator.core.leases import LeaseTable
from coordinator.core.ledger import JobLedger, Ledger, plan_facts
from coordinator.journal import Journal, JournalDamaged, JournalFailed, JournalLocked, JournalTooNew
from headrace.dataset import Dataset
from headrace.words import Incarnation, WorkerName

ADA, INCARNATION = WorkerName("ada"), Incarnation("i1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal.open(path)
    assert list(opened.replay()) == []
    yield opened
    opened.close()


def planned_job(journal: Journal, shards: int = 20, job: int = 1) -> JobLedger:
    """A journaled job of ten rows a shard, two shards a file."""
    ends = np.arange(1, shards + 1, dtype=np.int64) * 10
    files = -(-shards // 2)
    dataset = Dataset(
        unit="row",
        paths=tuple(f"/data/caf\udce9 {i}.parquet" for i in range(files)),
        sizes=np.full(files, 1000),
        versions=tuple(str(i) for i in range(files)),
        origins=np.minimum(np.arange(files + 1) * 20, shards * 10),
        cuts=ends.copy(),
        divisible=True,
        bytes_total=files * 1000,
        rows_total=None,
    )
    planned = JobPlanned(
        job,
        files,
        len(ends),
        shards,
        4,
        1,
        files * 1000,
        -1,
        False,
        True,
        False,
        f"u{job}",
        "n",
        "d",
        "row",
        "{}",
        "",
        "",
    )
    journal.append(plan_facts(planned, dataset, ends))
    return JobLedger(planned, dataset, ends)


def commit_some(journal: Journal, table: LeaseTable, count: int) -> None:
    """Grants, commits and publishes so many shards, one turn each."""
    for _ in range(count):
        granted = table.grant(ADA, INCARNATION, 0.0, 60.0)
        assert isinstance(granted[-1], Granted)
        table.note_numbers(granted, journal.append(granted))
        begin, end = table.range_of(granted[-1].shard)
        decided = table.commit(
            ADA,
            INCARNATION,
            granted[-1].shard,
            granted[-1].epoch,
            begin=begin,
            end=end,
            counts=RowCounts(end - begin, 1, end - begin - 1, 0),
            files=[OutputFile(f"part-{begin}", "data", 99, "d1", end - begin - 1)],
        )
        assert isinstance(decided, list)
        table.note_numbers(decided, journal.append(decided))
        published = table.published(ADA, granted[-1].shard, granted[-1].epoch)
        assert isinstance(published, list)
        journal.append(published)


def durable(table: LeaseTable) -> object:
    leases = sorted((lease.shard, lease.epoch, lease.worker) for lease in table.leases())
    shards = table.shards(state=None, limit=10**6)
    return shards, leases, table.counts, table.rows, table.commit_numbers().tolist()


def replayed(journal: Journal) -> Ledger:
    ledger = Ledger()
    for number, fact in journal.replay():
        ledger.apply(fact, number)
    return ledger


def change_row(path: Path, sql: str, *values: object) -> None:
    """Damages a closed journal, as a bad disk might."""
    with sqlite3.connect(path) as connection:
        connection.execute(sql, values)
    connection.close()


def test_a_replay_gives_the_live_table_and_the_dataset(path: Path, journal: Journal) -> None:
    job = planned_job(journal)
    commit_some(journal, job.table, 7)
    granted = job.table.grant(ADA, INCARNATION, 0.0, 60.0, units_max=4)
    job.table.note_numbers(granted, journal.append(granted))
    journal.append([JobChanged(1, "running"), facts.OutputStep(1, "claimed", "{}"), facts.TermRaised(3)])
    journal.close()
    again = Journal.open(path)
    ledger = replayed(again)
    assert ledger.term == 3
    assert ledger.job_next == 2
    found = ledger.jobs[1]
    assert durable(found.table) == durable(job.table)
    assert found.changed == JobChanged(1, "running")
    assert found.steps == {"claimed": "{}"}
    assert found.planned == job.planned
    assert list(found.dataset.slices(0, 200)) == list(job.dataset.slices(0, 200))
    assert found.dataset.cuts.tolist() == job.dataset.cuts.tolist()
    assert again.last == 4 + 7 * 3 + 2 + 3
    again.close()


def test_a_replay_from_a_checkpoint_gives_the_live_table(path: Path, journal: Journal) -> None:
    jobs = [planned_job(journal, job=1), planned_job(journal, shards=5, job=2)]
    for job in jobs:
        commit_some(journal, job.table, 3)
    for _ in range(2):
        journal.checkpoint([fact for job in jobs for fact in job.table.checkpoint()])
        commit_some(journal, jobs[0].table, 2)
        granted = jobs[1].table.grant(ADA, INCARNATION, 0.0, 60.0, units_max=3)
        jobs[1].table.note_numbers(granted, journal.append(granted))
    assert journal.facts_since_checkpoint == 6 + 2
    journal.close()
    again = Journal.open(path)
    read = list(again.replay())
    assert sum(isinstance(fact, CommitDecided) for _, fact in read) == 2, "only those after the checkpoint"
    ledger = Ledger()
    for number, fact in read:
        ledger.apply(fact, number)
    for job in jobs:
        assert durable(ledger.jobs[job.planned.job].table) == durable(job.table)
    assert list(again.commits(ledger.jobs[1].table.commit_numbers())) == list(
        again.commits(jobs[0].table.commit_numbers())
    )
    again.close()


def test_commits_come_back_in_the_datasets_order(journal: Journal) -> None:
    job = planned_job(journal)
    first = job.table.grant(ADA, INCARNATION, 0.0, 60.0)
    job.table.note_numbers(first, journal.append(first))
    commit_some(journal, job.table, 5)
    assert isinstance(first[0], Granted)
    released = job.table.release(ADA, INCARNATION, first[0].shard, first[0].epoch, charged=False)
    assert isinstance(released, list)
    journal.append(released)
    commit_some(journal, job.table, 1)
    commits = list(journal.commits(job.table.commit_numbers()))
    assert [(commit.begin, commit.end) for commit in commits] == [(i, i + 10) for i in range(0, 60, 10)]
    assert commits[0].epoch == 2
    assert journal.commit_at(job.table.commit_number(commits[3].shard)) == commits[3]


def test_a_number_that_is_no_commit_is_damage(journal: Journal) -> None:
    journal.append([facts.TermRaised(1)])
    for number in (1, 7):
        with pytest.raises(JournalDamaged, match="should be a commit"):
            journal.commit_at(number)


def test_an_append_is_all_or_nothing(path: Path, journal: Journal) -> None:
    def stream() -> Iterator[Fact]:
        yield facts.TermRaised(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.append(stream())
    assert journal.append([facts.TermRaised(5)]) == 1
    journal.close()
    again = Journal.open(path)
    assert list(again.replay()) == [(1, facts.TermRaised(5))]
    again.close()


def test_a_torn_tail_costs_only_what_was_not_promised(path: Path, journal: Journal, tmp_path: Path) -> None:
    journal.append([facts.TermRaised(1)])
    journal.append([facts.TermRaised(2)])
    wal = path.with_name(path.name + "-wal")
    promised = wal.stat().st_size
    journal.append([facts.TermRaised(3)])
    written = wal.stat().st_size
    assert written > promised
    for size in range(promised, written, 397):
        torn = tmp_path / f"torn-{size}.db"
        shutil.copy(path, torn)
        shutil.copy(wal, f"{torn}-wal")
        with open(f"{torn}-wal", "r+b") as file:
            file.truncate(size)
        again = Journal.open(torn)
        assert [fact for _, fact in again.replay()] == [facts.TermRaised(1), facts.TermRaised(2)]
        assert again.append([facts.TermRaised(9)]) == 3
        again.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE facts SET body = (SELECT body FROM facts WHERE n = 9) WHERE n = 6",
        "UPDATE facts SET chain = zeroblob(16) WHERE n = 6",
        "DELETE FROM facts WHERE n = 6",
        "DELETE FROM facts WHERE n = 1",
        "UPDATE marks SET value = zeroblob(16) WHERE name = 'id'",
        "DELETE FROM marks",
    ],
)
def test_a_damaged_middle_is_refused(path: Path, journal: Journal, sql: str) -> None:
    commit_some(journal, planned_job(journal).table, 3)
    journal.close()
    change_row(path, sql)
    with pytest.raises(JournalDamaged):
        list(Journal.open(path).replay())


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE facts SET body = x'0600' WHERE n = 3",  # a part of the plan
        "DELETE FROM facts WHERE n = 3",
        "UPDATE facts SET body = x'0d' WHERE n = 5",  # the job's state, no longer seen as needed
        "UPDATE facts SET chain = zeroblob(16) WHERE n = 14",
        "DELETE FROM facts WHERE n >= 16",  # the checkpoint itself
    ],
)
def test_damage_before_a_checkpoint_is_seen_where_it_matters(path: Path, journal: Journal, sql: str) -> None:
    job = planned_job(journal)
    journal.append([JobChanged(1, "running")])
    commit_some(journal, job.table, 3)
    journal.append([facts.TermRaised(2)])
    journal.checkpoint(job.table.checkpoint())
    assert journal.last == 17
    commit_some(journal, job.table, 1)
    journal.close()
    change_row(path, sql)
    again = Journal.open(path)

    def restart_and_read_commits() -> None:
        list(again.commits(replayed(again).jobs[1].table.commit_numbers()))

    with pytest.raises(JournalDamaged):
        restart_and_read_commits()
    again.close()


def test_a_lost_mark_of_the_checkpoint_costs_only_time(path: Path, journal: Journal) -> None:
    job = planned_job(journal)
    commit_some(journal, job.table, 3)
    journal.checkpoint(job.table.checkpoint())
    commit_some(journal, job.table, 1)
    journal.close()
    change_row(path, "DELETE FROM marks WHERE name = 'checkpoint'")
    again = Journal.open(path)
    assert durable(replayed(again).jobs[1].table) == durable(job.table)
    again.close()


def test_a_damaged_file_is_refused(path: Path, journal: Journal) -> None:
    commit_some(journal, planned_job(journal).table, 3)
    journal.close()
    body = bytearray(path.read_bytes())
    body[:100] = b"\0" * 100
    path.write_bytes(body)
    with pytest.raises(JournalDamaged, match=path.name):
        Journal.open(path)


def test_a_second_opener_is_refused_while_the_first_lives(path: Path, journal: Journal) -> None:
    with pytest.raises(JournalLocked):
        Journal.open(path)
    code = "import sys, pathlib; from coordinator.journal import Journal; Journal.open(pathlib.Path(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "JournalLocked" in other.stderr
    journal.close()
    Journal.open(path).close()


def test_the_lock_is_a_file_of_its_own(path: Path, journal: Journal) -> None:
    with open(path.with_name(path.name + ".lock")) as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert journal.last == 0


def test_a_newer_version_is_refused(path: Path, journal: Journal) -> None:
    journal.close()
    change_row(path, "PRAGMA user_version = 99")
    with pytest.raises(JournalTooNew, match="99"):
        Journal.open(path)


def test_a_failed_write_is_final(path: Path, journal: Journal) -> None:
    journal.append([facts.TermRaised(1)])
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE facts")
    other.close()
    with pytest.raises(JournalFailed, match=path.name):
        journal.append([facts.TermRaised(2)])


def test_nothing_is_written_behind_a_checkpoint_that_failed(path: Path, journal: Journal) -> None:
    """Its disk was full for a moment, and a decision waited in the same queue: there must be no gap before it."""
    journal.append([facts.TermRaised(1)])
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalFailed, match="full"):
        journal.checkpoint([facts.TermRaised(term) for term in range(2, 20_000)])
    journal._connection.execute(f"PRAGMA max_page_count = {100 * pages}")
    with pytest.raises(JournalFailed, match="full"):
        journal.append([facts.TermRaised(2)])
    journal.close()
    again = Journal.open(path)
    assert [fact for _, fact in again.replay()] == [facts.TermRaised(1)]
    again.close()


def test_what_was_appended_survives_kill_9(path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from coordinator.core.facts import TermRaised\n"
        "from coordinator.journal import Journal\n"
        "journal = Journal.open(pathlib.Path(sys.argv[1]))\n"
        "list(journal.replay())\n"
        "for term in range(1, 50): journal.append([TermRaised(term)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    again = Journal.open(path)
    assert [number for number, _ in again.replay()] == list(range(1, 50))
    again.close()
