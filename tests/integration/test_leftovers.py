"""Processes that nobody was left to end: those with the mark end, whatever they do; others aren't touched."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.cli.state import JobFolder
from headrace.leftovers import END_S, Leftovers
from tests.integration.faults_fixture import wait_for

VARIABLE = "HEADRACE_TEST_LEFT"

ADOPTS = """
import subprocess, sys
from headrace.leftovers import Leftovers
left = Leftovers({variable!r}, sys.argv[1])
left.adopt()
for environ in ({{}}, left.environment):
    subprocess.run(["sh", "-c", "sleep 7777 > /dev/null & echo $!"], env=environ | {{"PATH": "/usr/bin:/bin"}})
print("adopted", flush=True)
sys.stdin.readline()
left.{call}
print("done", flush=True)
sys.stdin.readline()
"""

IDLE = 200
FORKS = f"""
import os, time
for i in range({IDLE} + 5_000):
    if i == {IDLE} and os.fork():
        break
    if os.fork() == 0:
        break
    time.sleep(0.0002 if i > {IDLE} else 0)
time.sleep(60)
"""
"""One that forks has a higher number than many that are idle, all of which are killed before it."""

STARTS = """
import subprocess, sys, time
while True:
    for _ in range(5):
        subprocess.Popen(["/bin/sleep", "5"], env={sys.argv[1]: sys.argv[2]})
    time.sleep(0.002)
"""

TRACES = """
import ctypes, sys, time
seize = 0x4206
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
print(libc.ptrace(seize, int(sys.argv[1]), None, None), flush=True)
time.sleep(60)
"""
"""A process that is traced can't be reaped by its parent before the tracer has heard of its end."""


@pytest.fixture
def value() -> Iterator[str]:
    made = secrets.token_hex(8)
    yield made
    for pid in marked(made):
        os.kill(pid, 9)


def marked(value: str) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{VARIABLE}={value}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:
            continue  # it has ended
    return found


def start(code: str, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, env=os.environ | environ)  # type: ignore[call-overload]


@pytest.mark.parametrize("call", ["kill_orphans(())", "end()"])
def test_only_adopted_processes_with_the_mark_are_killed(value: str, call: str) -> None:
    with start(ADOPTS.format(variable=VARIABLE, call=call), value) as adopter:
        assert adopter.stdin is not None
        assert adopter.stdout is not None
        theirs, ours = int(adopter.stdout.readline()), int(adopter.stdout.readline())
        try:
            assert adopter.stdout.readline() == "adopted\n"
            assert marked(value) == {ours}
            adopter.stdin.write("\n")
            adopter.stdin.flush()
            assert adopter.stdout.readline() == "done\n"
            wait_for("the marked one has ended", lambda: not marked(value))
            assert Path(f"/proc/{theirs}/cmdline").read_bytes() == b"sleep\x007777\0"
        finally:
            os.kill(theirs, 9)
            adopter.stdin.write("\n")


def test_what_forks_while_it_is_ended_leaves_nothing(value: str) -> None:
    with start(FORKS, **{VARIABLE: value}):
        wait_for("it forks", lambda: len(marked(value)) > IDLE + 10)
        Leftovers(VARIABLE, value).end()
        assert marked(value) == set()


def test_an_end_that_never_comes_is_given_up(value: str) -> None:
    with start(STARTS, VARIABLE, value) as starter:
        wait_for("it starts marked ones", lambda: marked(value))
        begun = time.monotonic()
        Leftovers(VARIABLE, value).end()
        assert END_S <= time.monotonic() - begun < 2 * END_S
        starter.kill()


def test_one_that_cannot_be_reaped_is_not_waited_for(value: str) -> None:
    with start("input()", **{VARIABLE: value}) as process:
        wait_for("it has the mark", lambda: marked(value))
        with start(TRACES, str(process.pid)) as tracer:
            assert tracer.stdout is not None
            if tracer.stdout.readline() != "0\n":
                tracer.kill()
                pytest.skip("no process may be traced here")
            begun = time.monotonic()
            Leftovers(VARIABLE, value).end()
            assert time.monotonic() - begun < 2 * END_S
            assert marked(value) == set()
            assert process.poll() is None, "the tracer has not let go of it"
            tracer.kill()


# ---------------------------------------------------------------------- whose the mark is


def lock_in_another_process(folder: Path) -> str:
    code = "import sys, pathlib; from coordinator.cli.state import JobFolder; "
    code += "print(JobFolder(pathlib.Path(sys.argv[1])).lock())"
    return subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, text=True).stdout


def test_runs_under_one_lock_have_one_mark(tmp_path: Path) -> None:
    assert lock_in_another_process(tmp_path) == lock_in_another_process(tmp_path)


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.with_name("copy")))


def made_again(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("change", [copied, made_again])
def test_another_lock_file_has_another_mark(tmp_path: Path, change: Callable[[Path], Path]) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    first = lock_in_another_process(folder)
    assert lock_in_another_process(change(folder)) != first


def test_a_lock_whose_writing_was_cut_short_gets_a_mark(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_bytes(b"\0" * 3)
    first = lock_in_another_process(tmp_path)
    assert lock_in_another_process(tmp_path) == first
    assert JobFolder(tmp_path).lock() == first.strip()
    assert (tmp_path / "run.lock").stat().st_size == 16
