"""`headrace chaos` as a user has it: what it breaks, what it prints, how it ends."""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from coordinator.cli.chaos import MEANINGS, Kind
from coordinator.cli.chaos_report import Broken, chaos_json, chaos_lines, recoveries
from coordinator.cli.chaos_victims import below, is_alive, kill_and_tear, set_file_limit, tear
from tests.integration.faults_fixture import ROWS, Faults, wait_for
from tests.integration.run_fixture import HEADRACE


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Faults]:
    made = Faults(tmp_path)
    yield made
    made.end()


@pytest.mark.slow
def test_it_tells_what_it_broke_how_long_that_took_and_that_nothing_is_lost(site: Faults) -> None:
    job = site.gate_job(hold=ROWS, pause_s=0.1)
    state = ["--state", str(site.state)]
    ran = site.headrace("chaos", str(job), "--faults", "kill-predictor", "--every", "0.2", "--seed", "3", *state)
    assert ran.code == 0, ran.text
    assert "seed 3" in ran.stderr
    assert "kill-predictor" in ran.stdout
    assert "MEDIAN_S" in ran.stdout
    assert f"Nothing is lost and nothing came twice: {ROWS:,} rows read = {ROWS:,} out" in ran.stdout
    site.assert_once()


@pytest.mark.slow
def test_as_json_it_is_one_document_and_the_seed_draws_the_same_kinds(site: Faults) -> None:
    kinds = []
    for number in range(2):
        job = site.gate_job(hold=ROWS, pause_s=0.15, sink={"mode": "replace"})
        arguments = ["--seed", "9", "--every", "0.05", "--faults-max", "3", "--state", str(site.folder / str(number))]
        faults = "kill-predictor,kill-coordinator,pause-coordinator"
        ran = site.headrace("chaos", str(job), "--faults", faults, "--pause", "0.2", *arguments, "-o", "json")
        assert ran.code == 0, ran.text
        document = json.loads(ran.stdout)
        assert document["is_nothing_lost"] is True
        assert document["seed"] == 9
        assert document["job"]["rows_out"] == ROWS
        kinds.append([fault["kind"] for fault in document["faults"]])
    assert len(kinds[0]) == 3
    assert kinds[0] == kinds[1]


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_and_the_same_command_continues_it(site: Faults) -> None:
    job = site.gate_job(hold=ROWS, pause_s=0.15)
    state = ["--state", str(site.state), "-o", "json"]
    ran = site.headrace("chaos", str(job), "--faults", "kill-run", "--every", "0.3", "--faults-max", "2", *state)
    assert ran.code == 0, ran.text
    document = json.loads(ran.stdout)
    assert [fault["kind"] for fault in document["faults"]] == ["kill-run"] * 2
    assert all(fault["recovered_s"] is not None for fault in document["faults"])
    assert document["job"]["term"] >= 3
    assert document["outlived"] == []
    site.assert_once()


def test_a_process_that_a_killed_run_has_left_is_told() -> None:
    job = {"rows_out": 1, "rows_filtered": 0, "rows_rejected": 0, "rows_read": 1, "rows_in": 1, "phase": "Succeeded"}
    plain = chaos_json(0, [], {**job, "conditions": []}, None, ["process 7"])
    assert plain["outlived"] == ["process 7"]
    assert chaos_lines(plain)[-1] == "A killed run has left process 7."


def test_all_that_stems_from_a_process_is_found_and_a_number_given_again_is_another_process() -> None:
    code = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        try:
            found = wait_for("it has started one", lambda: below(process.pid))
            ((pid, since),) = found.items()
            assert is_alive(pid)
            assert is_alive(pid, since)
            assert not is_alive(pid, f"{since}0")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    wait_for("it is gone", lambda: not is_alive(pid, since))


@pytest.mark.slow
def test_a_ledger_is_torn_under_a_runs_own_coordinator_only(site: Faults) -> None:
    run = site.start_marked(site.gate_job())
    site.wait_held()
    coordinator = site.the_process("-m coordinator")
    with subprocess.Popen(["sleep", "60"]) as other:
        assert not kill_and_tear(other.pid, coordinator, site.state / "jobs" / "job" / "ledger.sqlite", Random(0))
        other.kill()
    assert is_alive(coordinator)
    site.let_go()
    site.finish_complete(run)


@pytest.mark.slow
def test_interrupted_it_lets_go_of_everything_and_ends_as_a_run_does(site: Faults) -> None:
    job = site.gate_job()
    arguments = ["--faults", "pause-predictor", "--every", "0.05", "--pause", "30", "--state", str(site.state)]
    process = subprocess.Popen(
        [HEADRACE, "chaos", str(job), *arguments],
        cwd=site.folder,
        env=site._environ({"HEADRACE_TEST_MARK": site.mark, "TMPDIR": str(site.temporary)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for("a predictor is stopped", lambda: any(_is_stopped(found.pid) for found in site.processes()))
    process.send_signal(signal.SIGINT)
    site.let_go()
    assert site.finish(process).code == 130
    site.wait_no_process(5.0)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def test_what_it_does_not_know_it_says_with_what_there_is(site: Faults) -> None:
    ran = site.headrace("chaos", str(site.gate_job()), "--faults", "kill-network")
    assert ran.code == 2
    assert all(f"{kind} " in ran.stderr for kind in MEANINGS)
    assert set(MEANINGS) == set(Kind)
    assert not site.out.exists()


def test_a_bucket_is_on_no_disk_that_could_be_filled(site: Faults) -> None:
    job = site.gate_job(sink={"uri": "s3://bucket/out"})
    ran = site.headrace("chaos", str(job), "--faults", "fill-output-disk", "--state", str(site.state))
    assert (ran.code, "the output lies on no disk" in ran.stderr) == (2, True), ran.text


def test_recovery_times_leave_out_faults_that_fell_together() -> None:
    broken = [Broken("kill-host", "", 0.0, seconds, seconds < 5) for seconds in (1.0, 2.0, 3.0, 9.0)]
    (row,) = recoveries([*broken, Broken("kill-host", "", 0.0, None, alone=True)])
    assert (row["times"], row["median_s"], row["p99_s"]) == (5, 2.0, 3.0)


def test_a_torn_frame_is_what_a_killed_writer_leaves_and_costs_nothing_durable(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    code = f"""
import os, sqlite3
c = sqlite3.connect({str(path)!r})
c.execute("PRAGMA journal_mode = WAL")
c.execute("CREATE TABLE facts (n INTEGER PRIMARY KEY, body BLOB)")
for n in range(50):
    c.execute("INSERT INTO facts VALUES (?, ?)", (n, os.urandom(2000)))
    c.commit()
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    wal = tmp_path / "ledger.sqlite-wal"
    for seed in range(5):
        before = wal.read_bytes()
        tear(wal, Random(seed))
        assert wal.read_bytes()[: len(before)] == before
        assert wal.stat().st_size > len(before)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM facts").fetchone() == (50,)
    tear(tmp_path / "missing-wal", Random(0))


def test_a_process_under_a_file_limit_cannot_write_until_it_is_taken_back(tmp_path: Path) -> None:
    code = """
import sys
while True:
    try:
        with open(sys.argv[1], "a") as file:
            file.write("x")
    except OSError:
        open(sys.argv[1] + "-e", "w")
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "file")])
    try:
        wait_for("it writes", (tmp_path / "file").exists)
        assert set_file_limit(process.pid, 0)
        wait_for("it can't", (tmp_path / "file-e").exists)
        assert set_file_limit(process.pid, None)
        (tmp_path / "file-e").unlink()
        size = (tmp_path / "file").stat().st_size
        wait_for("it writes again", lambda: (tmp_path / "file").stat().st_size > size)
        hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        assert hard[0] == hard[1]
    finally:
        process.kill()
        process.wait()
    assert not set_file_limit(process.pid, 0), "it is gone"
