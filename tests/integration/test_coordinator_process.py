"""The coordinator as a process: when it is ready, how it ends, what it refuses, what a kill leaves."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.verify import verify
from headrace import v1
from headrace.channel import open_channel
from headrace.words import ExitCode
from tests.contract.coordinator_fixture import FakeWorker, job_text

TIMEOUT_S = 20


class Process:
    """One coordinator; `address` is known when it is ready."""

    def __init__(self, state: Path, *arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        self.socket = state / "sockets" / "coordinator"
        self.address = f"unix:{self.socket}"
        self.child = subprocess.Popen(
            [sys.executable, "-m", "coordinator", "--state", state, "--socket", self.socket, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )

    def wait_ready(self) -> str:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert line.startswith("ready "), self.child.communicate(timeout=TIMEOUT_S)
        return line.removeprefix("ready ").strip()

    def wait_end(self) -> tuple[int, str]:
        _, errors = self.child.communicate(timeout=TIMEOUT_S)
        return self.child.returncode, errors


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Process]]:
    """Processes to be ended whatever the test did."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        if process.child.poll() is None:
            process.child.kill()
            process.child.communicate(timeout=TIMEOUT_S)


def test_the_socket_is_there_when_it_answers_and_gone_at_the_end(tmp_path: Path, started: list[Process]) -> None:
    process = Process(tmp_path / "state")
    started.append(process)
    assert process.wait_ready() == process.address
    assert (process.socket.stat().st_mode & 0o777, process.socket.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    process.child.send_signal(signal.SIGTERM)
    assert process.wait_end()[0] == ExitCode.DONE
    assert not process.socket.exists()


def test_it_ends_with_its_lifeline(tmp_path: Path, started: list[Process]) -> None:
    theirs, ours = os.pipe()
    process = Process(tmp_path / "state", "--lifeline-fd", str(theirs), pass_fds=(theirs,))
    started.append(process)
    os.close(theirs)
    process.wait_ready()
    os.close(ours)
    assert process.wait_end()[0] == ExitCode.DONE


def test_a_second_one_on_the_same_ledger_is_temporary_trouble(tmp_path: Path, started: list[Process]) -> None:
    started.append(Process(tmp_path / "state"))
    started[0].wait_ready()
    started.append(Process(tmp_path / "state"))
    code, errors = started[1].wait_end()
    assert code == ExitCode.TEMPORARY
    assert "another coordinator" in errors
    assert started[0].child.poll() is None


def test_a_socket_that_others_could_reach_is_refused(tmp_path: Path, started: list[Process]) -> None:
    folder = tmp_path / "state" / "sockets"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    started.append(Process(tmp_path / "state"))
    code, errors = started[0].wait_end()
    assert code == ExitCode.BAD_CONFIG
    assert "0700" in errors
    assert len(errors.splitlines()) == 1, errors


def test_a_token_file_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    token = tmp_path / "token"
    where = ["--state", tmp_path, "--listen", "127.0.0.1:0", "--token-file", token]
    command = [sys.executable, "-m", "coordinator", *where]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ran.returncode == ExitCode.BAD_CONFIG
    assert ran.stderr.startswith(f"headrace coordinator: The token file {token} can't be read: ")
    assert len(ran.stderr.splitlines()) == 1, ran.stderr


@pytest.mark.parametrize("arguments", [["--listen", "0.0.0.0:0", "--token-file", "t"], ["--listen", "127.0.0.1:0"]])
def test_a_port_for_everybody_is_refused(tmp_path: Path, started: list[Process], arguments: list[str]) -> None:
    started.append(Process(tmp_path / "state", *arguments))
    assert started[0].wait_end()[0] == ExitCode.BAD_CONFIG


def test_a_damaged_ledger_is_not_guessed_about(tmp_path: Path, started: list[Process]) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    started.append(Process(tmp_path / "state"))
    code, errors = started[0].wait_end()
    assert code == ExitCode.BAD_CONFIG
    assert "ledger.sqlite" in errors


def test_metrics_and_probes_are_served(tmp_path: Path, started: list[Process]) -> None:
    process = Process(tmp_path / "state", "--http", "0")
    started.append(process)
    http = process.wait_ready().split()[1]

    def get(path: str) -> tuple[int, str]:
        with urllib.request.urlopen(http + path, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read().decode()

    assert get("/livez") == (200, "ok\n")
    assert get("/readyz") == (200, "ok\n")
    status, text = get("/metrics")
    assert status == 200
    for line in (
        'headrace_rows_total{outcome="rejected"} 0',
        'headrace_shards{state="pending"} 0',
        "headrace_leases_expired_total 0",
        "headrace_fenced_commits_total 0",
        'headrace_lease_duration_seconds_bucket{le="+Inf"} 0',
        'headrace_workers{state="live"} 0',
    ):
        assert line in text.splitlines()
    with pytest.raises(urllib.error.HTTPError):
        get("/else")


def test_a_killed_coordinator_is_continued_by_the_next(tmp_path: Path, started: list[Process]) -> None:
    async def begin(address: str, worker: FakeWorker) -> None:
        channel = open_channel(address)
        try:
            job = v1.SubmitRequest(job_text(tmp_path), digest="d1")
            assert (await v1.JobServiceStub(channel, timeout=TIMEOUT_S).submit(job)).phase == "Running"
            worker.stub = v1.WorkerServiceStub(channel, timeout=TIMEOUT_S)
            await worker.register()
            (grant,) = (await worker.exchange(want=1)).grants
            await worker.exchange(commits=[worker.stage(grant)])
        finally:
            channel.close()

    async def go_on(address: str, worker: FakeWorker) -> v1.Job:
        channel = open_channel(address)
        try:
            worker.stub = v1.WorkerServiceStub(channel, timeout=TIMEOUT_S)
            assert (await worker.exchange()).directive == "register"
            worker.incarnation = "another"
            assert (await worker.register()).term == 2
            jobs = v1.JobServiceStub(channel, timeout=TIMEOUT_S)
            return [job async for job in jobs.watch(v1.JobRequest("numbers"))][-1]
        finally:
            channel.close()

    worker = FakeWorker(v1.WorkerServiceStub(None))
    started.append(Process(tmp_path / "state"))
    started[0].wait_ready()
    asyncio.run(begin(started[0].address, worker))
    started[0].child.kill()
    started[0].wait_end()
    started.append(Process(tmp_path / "state"))
    started[1].wait_ready()
    job = asyncio.run(go_on(started[1].address, worker))
    assert (job.phase, job.shards_recomputed) == ("Succeeded", 0)
    assert verify(tmp_path / "out").is_proven
