"""The command as a hostile terminal and a new user meet it: wrong arguments, readers that leave, help, metrics."""

import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.cli.commands import cli
from coordinator.cli.options import GROUPS
from headrace.words import ExitCode
from tests.integration.faults_fixture import ROWS, Faults, wait_for
from tests.integration.run_fixture import HEADRACE

SIGPIPE_CODE = 128 + signal.SIGPIPE


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Faults]:
    made = Faults(tmp_path)
    yield made
    made.end()


# ---------------------------------------------------------------------- help


def test_the_help_names_every_command_once_and_where_to_start(site: Faults) -> None:
    assert sorted(cli.commands) == sorted(name for _, names in GROUPS for name in names)
    ran = site.headrace("--help", COLUMNS="80")
    assert ran.code == 0
    assert ran.stdout.index("Start here:") < ran.stdout.index("Options:")
    assert max(map(len, ran.stdout.splitlines())) <= 90
    for name in cli.commands:
        assert sum(line.startswith(f"  {name} ") for line in ran.stdout.splitlines()) == 1


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_teaches_with_examples(site: Faults, command: str) -> None:
    ran = site.headrace(command, "--help")
    assert ran.code == 0, ran.text
    assert ran.stdout.lower().startswith(f"usage: headrace {command} ")
    assert f"\n  headrace {command} " in ran.stdout.lower().partition("examples:")[2].replace("\n    ", "\n  ")


# ---------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rnu"], ExitCode.USAGE, "rnu"),
        (["status", "--coordinator", "localhost"], ExitCode.USAGE, "neither unix:PATH nor HOST:PORT"),
        (["worker", "--coordinator", "127.0.0.1:99999"], ExitCode.USAGE, "neither unix:PATH nor HOST:PORT"),
        (["coordinator", "--state", "s", "--http", "x"], ExitCode.USAGE, "from 0 to 65535"),
        (["run", "job.yaml", "--limit", "9" * 20], ExitCode.USAGE, "isn't a number from"),
        (["scale", "job", "9" * 10], ExitCode.USAGE, "isn't a number from"),
        (["run", "job.yaml", "--workers", "0"], ExitCode.USAGE, "isn't a number from 1 to"),
        (["run", "job.yaml", "--http", "65536"], ExitCode.USAGE, "isn't a number from 0 to 65,535"),
        (["cancel", "../jobs"], ExitCode.FAILED, "No job '../jobs' has run on this machine"),
        (["status", "--watch"], ExitCode.FAILED, "No job runs on this machine now"),
        (["verify", "nowhere"], ExitCode.FAILED, "nowhere doesn't exist."),
        (["verify", "stages.py"], ExitCode.FAILED, "stages.py isn't a folder."),
    ],
)
def test_a_wrong_argument_is_answered_in_words(site: Faults, arguments: list[str], code: int, said: str) -> None:
    ran = site.headrace(*arguments)
    assert ran.code == code, ran.text
    assert said in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_state_folder_that_cannot_be_made_is_bad_configuration(site: Faults) -> None:
    ran = site.headrace("run", str(site.gate_job()), "--state", "/proc/nowhere")
    assert ran.code == ExitCode.BAD_CONFIG, ran.text
    assert "can't be made" in ran.stderr
    assert not site.out.exists()


def test_a_port_in_use_is_said_before_anything_starts(site: Faults) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = site.run(site.gate_job(), "--http", str(taken.getsockname()[1]))
    assert ran.code == ExitCode.BAD_CONFIG, ran.text
    assert "can't be had: Address already in use." in ran.stderr
    assert not site.out.exists()


# ---------------------------------------------------------------------- readers that leave


def start_unread(site: Faults, *arguments: str) -> "subprocess.Popen[str]":
    """Starts a command whose stdout has no reader."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        return subprocess.Popen(
            [HEADRACE, *arguments], stdout=write_end, stderr=subprocess.PIPE, text=True, cwd=site.folder
        )
    finally:
        os.close(write_end)


def test_a_reader_that_has_gone_ends_an_answer_silently(site: Faults) -> None:
    process = start_unread(site, "schema")
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (SIGPIPE_CODE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_answer_that_cannot_be_written_is_an_error_in_words(site: Faults) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [HEADRACE, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "headrace: The answer can't be written to stdout: No space left on device.\n"


@pytest.mark.slow
def test_a_run_goes_on_when_its_reader_has_gone(site: Faults) -> None:
    site.let_go()
    process = start_unread(site, "run", str(site.gate_job()), "--state", str(site.state))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.DONE, errors + site.logs()
    site.assert_once()


# ---------------------------------------------------------------------- metrics


@pytest.mark.slow
def test_a_run_serves_its_metrics_through_a_restart_of_its_coordinator(site: Faults) -> None:
    run = site.start_marked(site.gate_job(), "--http", "0")
    assert run.stderr is not None
    first = run.stderr.readline()
    assert first.startswith("metrics: http://127.0.0.1:"), first
    address = first.split()[1].rstrip(",").removesuffix("/metrics")

    def samples() -> dict[str, float]:
        with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        families = text_string_to_metric_families(text)
        return {
            " ".join([sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))]): sample.value
            for family in families
            for sample in family.samples
        }

    labels = " job_name=job stage=gate"
    site.wait_held()
    socket_path = site.state / "jobs" / "job" / "coordinator.sock"
    unknown = site.headrace("status", "jbo", "--coordinator", f"unix:{socket_path}")
    assert (unknown.code, "did you mean 'job'?" in unknown.stderr) == (1, True), unknown.text
    none = site.headrace("rejects", "job", "--state", str(site.state))
    assert (none.code, none.stdout) == (0, "job: 0 rejected rows\n"), none.text
    wait_for("rows are in progress", lambda: samples().get("headrace_stage_rows_in_progress" + labels, 0) > 0)
    found = samples()
    assert found["headrace_predictor_ready" + labels] == 1
    assert found["headrace_batch_rows_count" + labels] == found["headrace_stage_batches_total" + labels] > 0
    assert found["headrace_batch_rows_sum" + labels] == found["headrace_stage_rows_out_total" + labels]
    assert found["headrace_batch_duration_seconds_count" + labels] == found["headrace_batch_rows_count" + labels]
    assert found["headrace_stage_last_progress_timestamp_seconds" + labels] > 1e9
    assert found["headrace_model_load_duration_seconds" + labels] > 0
    assert 0 < found["headrace_shm_used_bytes"] <= found["headrace_shm_size_bytes"]
    assert found["headrace_job_start_timestamp_seconds job_name=job"] > 1e9
    os.kill(site.the_process("-m coordinator"), signal.SIGKILL)
    wait_for("the worker is back", lambda: samples().get("headrace_workers state=live") == 1)
    for path in ("/livez", "/readyz"):
        with urllib.request.urlopen(address + path, timeout=30) as answer:
            assert answer.read() == b"ok\n"
    site.let_go()
    site.finish_complete(run)
    site.assert_once(ROWS)
