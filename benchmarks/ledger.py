"""The ledger at a million shards and more: seconds from submit to the first lease, seconds to restart, peak memory.

    python benchmarks/ledger.py [--shards 1000000] [--committed 0.9]

Each phase runs in a fresh process, timed inside it with imports included and the dataset's metadata given (reading
footers is the source's business): *submit* cuts the dataset, journals the plan and the first grant; *work* grants,
commits and publishes in group commits of 100 shards; *restart* opens the journal after a `kill -9` and replays it to
the next grant. Peak memory is VmHWM of the process. What was replayed is compared with what was written.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARD_BYTES = 32 << 20
SHARDS_PER_FILE = 64
ROWS_PER_SHARD = 100_000
GROUPS_PER_SHARD = 2
TURN = 100  # shards decided in one turn of the coordinator's loop
TTL_S = 60.0


def peak_mb() -> float:
    """Peak resident memory of this process, in MB of 10^6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("no VmHWM in /proc/self/status")


def submit(path: Path, shards: int) -> dict[str, object]:
    """Plans, journals, grants once."""
    started = time.perf_counter()
    import numpy as np

    from coordinator.core import planner
    from coordinator.core.facts import JobPlanned
    from coordinator.core.ledger import JobLedger, plan_facts
    from coordinator.journal import Journal
    from headrace.dataset import Dataset
    from headrace.words import Incarnation, WorkerName

    files = -(-shards // SHARDS_PER_FILE)
    # Row groups of uneven sizes, as in life: even ones would compress to nothing.
    low, high = ROWS_PER_SHARD // 3, ROWS_PER_SHARD * 2 // 3
    cuts = np.random.default_rng(7).integers(low, high, shards * GROUPS_PER_SHARD)
    np.cumsum(cuts, out=cuts)
    groups_per_file = SHARDS_PER_FILE * GROUPS_PER_SHARD
    origins = np.concatenate(([0], cuts[groups_per_file - 1 :: groups_per_file], cuts[-1:]))[: files + 1]
    dataset = Dataset(
        unit="row",
        paths=tuple(f"/data/warehouse/table/part-{i:08d}.parquet" for i in range(files)),
        sizes=np.full(files, SHARDS_PER_FILE * SHARD_BYTES),
        versions=tuple(str(1_790_000_000_000_000_000 + i) for i in range(files)),
        origins=origins,
        cuts=cuts,
        divisible=True,
        bytes_total=shards * SHARD_BYTES,
        rows_total=int(cuts[-1]),
    )
    given = time.perf_counter()
    ends = planner.cut(dataset, workers=1000)
    sizes = planner.sizes(dataset, workers=1000)
    cut = time.perf_counter()
    planned = JobPlanned(
        job=1,
        files=files,
        cuts=len(dataset.cuts),
        shards=len(ends),
        attempts_max=4,
        units_min=sizes.units_min,
        bytes_total=dataset.bytes_total,
        rows_total=dataset.rows_total or 0,
        held=False,
        divisible=True,
        rows_estimated=False,
        uid="benchmark",
        name="benchmark",
        digest="",
        unit="row",
        manifest="{}",
        program="{}",
        plan="{}",
    )
    journal = Journal.open(path)
    for _ in journal.replay():
        raise AssertionError("the journal isn't new")
    journal.append(plan_facts(planned, dataset, ends))
    journaled = time.perf_counter()
    job = JobLedger(planned, dataset, ends)
    granted = job.table.grant(WorkerName("w0"), Incarnation("i0"), 0.0, TTL_S, units_max=1000)
    job.table.note_numbers(granted, journal.append(granted))
    ended = time.perf_counter()
    return {
        "shards": len(ends),
        "seconds": ended - started,
        "cut_s": cut - given,
        "journal_s": journaled - cut,
        "first_grant_s": ended - journaled,
        "peak_mb": peak_mb(),
        "file_mb": (path.stat().st_size + wal_bytes(path)) / 1e6,
    }


def wal_bytes(path: Path) -> int:
    """Bytes of the write-ahead log beside the database."""
    wal = path.with_name(path.name + "-wal")
    return wal.stat().st_size if wal.exists() else 0


def work(path: Path, committed: float) -> dict[str, object]:
    """Commits a part of the shards, then dies by `kill -9` of itself."""
    from coordinator.core.facts import CommitDecided, Fact, Granted, OutputFile, RowCounts
    from coordinator.core.ledger import Ledger
    from coordinator.journal import CHECKPOINT_FACTS, Journal
    from headrace.words import Incarnation, WorkerName

    journal = Journal.open(path)
    ledger = Ledger()
    for number, fact in journal.replay():
        ledger.apply(fact, number)
    ledger.restart(0.0, TTL_S)
    table = ledger.jobs[1].table
    goal = int(table.counts.total * committed)
    started = time.perf_counter()
    checkpoint_s: list[float] = []
    facts_written = turn = 0
    while table.counts.committed < goal:
        now, turn = float(turn), turn + 1
        worker, incarnation = WorkerName(f"worker-{turn % 2000}"), Incarnation(f"{turn % 2000:016x}")
        grants: list[Fact] = []
        for _ in range(min(TURN, goal - table.counts.committed)):
            grants += table.grant(worker, incarnation, now, TTL_S)
        table.note_numbers(grants, journal.append(grants))
        commits: list[Fact] = []
        for grant in grants:
            assert isinstance(grant, Granted)
            begin, end = table.range_of(grant.shard)
            rows = end - begin
            file = OutputFile(
                f"part-{grant.shard:08d}-01234567-{grant.epoch}-89abcdef.parquet", "data", rows * 16, "0" * 32, rows
            )
            decided = table.commit(
                worker,
                incarnation,
                grant.shard,
                grant.epoch,
                begin=begin,
                end=end,
                counts=RowCounts(rows, 0, rows, 0),
                files=[file],
                now=now,
                publish_ttl_s=TTL_S,
            )
            assert isinstance(decided, list)
            commits += decided
        table.note_numbers(commits, journal.append(commits))
        publishes: list[Fact] = []
        for fact in commits:
            if isinstance(fact, CommitDecided):
                published = table.published(worker, fact.shard, fact.epoch)
                assert isinstance(published, list)
                publishes += published
        journal.append(publishes)
        facts_written += len(grants) + len(commits) + len(publishes)
        if journal.facts_since_checkpoint >= CHECKPOINT_FACTS and table.counts.committed < goal:
            begun = time.perf_counter()
            journal.checkpoint(table.checkpoint())
            checkpoint_s.append(time.perf_counter() - begun)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "facts": facts_written,
        "facts_per_s": facts_written / seconds,
        "checkpoints": len(checkpoint_s),
        "checkpoint_max_s": max(checkpoint_s, default=0.0),
        "facts_since_checkpoint": journal.facts_since_checkpoint,
        "committed": table.counts.committed,
        "rows": table.rows.out,
        "peak_mb": peak_mb(),
        "file_mb": (path.stat().st_size + wal_bytes(path)) / 1e6,
        "killed": True,
    }


def restart(path: Path) -> dict[str, object]:
    """Replays to the next grant, then streams all commits as the manifest does."""
    started = time.perf_counter()
    from coordinator.core.facts import TermRaised
    from coordinator.core.ledger import Ledger
    from coordinator.journal import Journal
    from headrace.words import Incarnation, WorkerName

    journal = Journal.open(path)
    ledger = Ledger()
    facts = 0
    for number, fact in journal.replay():
        ledger.apply(fact, number)
        facts += 1
    ledger.restart(0.0, TTL_S)
    journal.append([TermRaised(ledger.term + 1)])
    table = ledger.jobs[1].table
    granted = table.grant(WorkerName("w0"), Incarnation("i1"), 0.0, TTL_S)
    if granted:
        journal.append(granted)
    ended = time.perf_counter()
    peak = peak_mb()
    end = rows = commits = 0
    for commit in journal.commits(table.commit_numbers()):
        assert commit.begin >= end, "commits are not in dataset order"
        end, rows, commits = commit.end, rows + commit.counts.out, commits + 1
    assert rows == table.rows.out
    return {
        "seconds": ended - started,
        "facts_replayed": facts,
        "committed": table.counts.committed,
        "rows": rows,
        "commits_read_s": time.perf_counter() - ended,
        "peak_mb": peak,
        "peak_with_commits_mb": peak_mb(),
    }


def run_phase(phase: str, path: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs this file once more for one phase and returns what it measured."""
    command = [sys.executable, __file__, "--phase", phase, "--path", str(path)]
    command += ["--shards", str(arguments.shards), "--committed", str(arguments.committed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, -signal.SIGKILL) or not done.stdout:
        raise SystemExit(f"phase {phase} ended with {done.returncode}")
    result: dict[str, object] = json.loads(done.stdout)
    return result


def main() -> None:
    """Runs the phases one after another and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--committed", type=float, default=0.9, help="part of the shards committed before the restart")
    parser.add_argument("--phase", choices=["submit", "work", "restart"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        phases = {
            "submit": lambda: submit(arguments.path, arguments.shards),
            "work": lambda: work(arguments.path, arguments.committed),
            "restart": lambda: restart(arguments.path),
        }
        result = phases[arguments.phase]()
        print(json.dumps(result), flush=True)
        if result.get("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return
    with tempfile.TemporaryDirectory(prefix="headrace-ledger-") as folder:
        path = Path(folder) / "ledger.db"
        results = {phase: run_phase(phase, path, arguments) for phase in ("submit", "work", "restart")}
        for phase, result in results.items():
            print(phase, {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()})
        assert results["work"]["rows"] == results["restart"]["rows"]


if __name__ == "__main__":
    main()
