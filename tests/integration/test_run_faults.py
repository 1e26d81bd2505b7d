"""`headrace run` when its processes die: nothing is lost, nothing comes twice, nothing committed is done again."""

import contextlib
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.leftovers import RUN_MARK
from tests.integration.faults_fixture import HELD_FROM, ROWS, Faults, parent_of, wait_for

pytestmark = pytest.mark.slow

KILLS_MAX = 8
"""A run whose children die more often than ten times in a minute ends; every kind of kill has fallen twice by then."""
VICTIMS = (["-m sidecar"], ["-m coordinator"], [" host --socket"], ["-m sidecar", "-m coordinator"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Faults]:
    made = Faults(tmp_path)
    yield made
    made.end()


# ---------------------------------------------------------------------- predictors


@pytest.mark.parametrize("victims", [1, 2])
def test_a_killed_predictor_is_replaced_and_its_batch_tried_again(site: Faults, victims: int) -> None:
    run = site.start_marked(site.gate_job(predictors=victims))
    held = wait_for("every predictor holds a batch", lambda: len(site.held()) >= victims and set(site.held()))
    for pid in held:
        os.kill(pid, signal.SIGKILL)
    wait_for("replacements hold their batches", lambda: len(set(site.held()) - held) >= victims)
    site.let_go()
    document = site.finish_complete(run)
    site.assert_once()
    assert document["stages"][0]["restarts"] == victims
    assert document["shards_recomputed"] == 0


def test_a_killed_predictor_host_costs_its_worker_only_what_was_not_committed(site: Faults) -> None:
    run = site.start_marked(site.gate_job())
    before = site.wait_held()
    committed = site.ids_in(site.wait_published())
    os.kill(site.the_process(" host --socket"), signal.SIGKILL)
    site.wait_held(but=list(before))
    site.let_go()
    site.finish_complete(run)
    site.assert_once()
    assert site.times_computed(committed) == {1}


# ---------------------------------------------------------------------- sidecar, coordinator


def test_a_killed_sidecar_is_started_again_and_its_shards_leased_again(site: Faults) -> None:
    run = site.start_marked(site.gate_job())
    before = site.wait_held()
    committed = site.ids_in(site.wait_published())
    os.kill(site.the_process("-m sidecar"), signal.SIGKILL)
    site.wait_held(but=list(before))
    site.let_go()
    document = site.finish_complete(run)
    site.assert_once()
    assert document["shards_recomputed"] > 0
    assert site.times_computed(committed) == {1}


def test_a_killed_coordinator_is_started_again_and_nothing_is_computed_twice(site: Faults) -> None:
    run = site.start_marked(site.gate_job())
    site.wait_held()
    site.wait_published()
    first = site.the_process("-m coordinator")
    os.kill(first, signal.SIGKILL)
    wait_for("another coordinator", lambda: [p for p in site.processes("-m coordinator") if p.pid != first])
    wait_for("it answers, in a new term", lambda: term(site) >= 2)
    site.let_go()
    document = site.finish_complete(run)
    site.assert_once()
    assert document["term"] >= 2
    assert site.times_computed(range(ROWS)) == {1}


def term(site: Faults) -> int:
    answer = site.headrace("status", "job", "--state", str(site.state), "-o", "json")
    return int(answer.document["term"]) if answer.code == 0 else 0


@pytest.mark.parametrize("victim", ["-m sidecar", "-m coordinator"])
def test_a_child_killed_three_times_still_leaves_every_row_once(site: Faults, victim: str) -> None:
    run = site.start_marked(site.gate_job())
    site.wait_held()
    for _ in range(3):
        pid = site.the_process(victim)
        os.kill(pid, signal.SIGKILL)
        wait_for("another one", lambda pid=pid: [p for p in site.processes(victim) if p.pid != pid])
    site.let_go()
    site.finish_complete(run)
    site.assert_once()


def test_whatever_is_killed_whenever_output_appears_every_row_comes_once(site: Faults) -> None:
    job = site.gate_job(hold=ROWS, predictors=2, pause_s=0.02)
    run = site.start_marked(job)
    published, kills = 0, 0
    while run.poll() is None:
        if (now := len(site.data_files())) > published and kills < KILLS_MAX:
            published = now
            victims = {found.pid for word in VICTIMS[kills % len(VICTIMS)] for found in site.processes(word)}
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            kills += 1
        time.sleep(0.01)
    site.finish_complete(run)
    site.assert_once()
    assert kills >= 3


# ---------------------------------------------------------------------- the whole run


def test_a_killed_run_leaves_no_process_and_goes_on_where_it_was(site: Faults) -> None:
    job = site.gate_job()
    run = site.start_marked(job)
    site.wait_held()
    site.wait_published()
    run.kill()
    site.wait_no_process(5.0)
    run.communicate()
    assert list(site.temporary.iterdir()) == []
    assert list((site.state / "jobs" / "job" / "sockets").iterdir()) == []
    committed = site.ids_in(site.data_files())
    site.let_go()
    site.finish_complete(site.start_marked(job))
    assert list((site.state / "jobs" / "job" / "sockets").iterdir()) == []
    site.assert_once()
    assert site.times_computed(committed) == {1}


def test_a_run_killed_while_models_load_leaves_no_process(site: Faults) -> None:
    site.ids("ids-0.parquet", 0, 1000)
    run = site.start_marked(site.stage_job("SlowToLoad", {"folder": str(site.folder)}))
    wait_for("the model is being loaded", (site.folder / "loading").exists)
    run.kill()
    site.wait_no_process(5.0)
    run.communicate()


@pytest.mark.parametrize("where", ["probe", "worker"])
def test_a_killed_run_leaves_no_process_that_its_stages_started(site: Faults, where: str) -> None:
    site.ids("ids-0.parquet", 0, 1000)
    run = site.start_marked(site.stage_job("Leaves", {"folder": str(site.folder), "where": where}))
    wait_for("the model is being loaded", (site.folder / "loading").exists)
    assert len(site.processes("sleep 7777")) >= 2
    run.kill()
    site.wait_no_process(5.0)
    run.communicate()


def test_a_run_ends_what_its_stages_started(site: Faults) -> None:
    site.ids("ids-0.parquet", 0, 1000)
    run = site.start_marked(site.stage_job("Leaves", {"folder": str(site.folder), "where": "probe"}))
    site.let_go()
    site.finish_complete(run)
    assert site.processes() == []


@pytest.mark.parametrize("victims", [[" host --socket"], [" host --socket", "-m sidecar"]], ids=["host", "both"])
def test_what_the_stages_of_a_killed_host_started_ends_too(site: Faults, victims: list[str]) -> None:
    site.ids("ids-0.parquet", 0, 1000)
    run = site.start_marked(site.stage_job("Leaves", {"folder": str(site.folder), "where": "worker"}))
    wait_for("the model is being loaded", (site.folder / "loading").exists)
    left = {found.pid for found in site.processes("sleep 7777")}
    assert len(left) >= 2
    for pid in [site.the_process(word) for word in victims]:
        os.kill(pid, signal.SIGKILL)
    wait_for("nothing of its tree is left", lambda: not left & {x.pid for x in site.processes("sleep 7777")})
    site.let_go()
    site.finish_complete(run)
    assert site.processes() == []


@pytest.mark.parametrize("where", ["probe", "worker"])
def test_the_next_run_ends_what_no_process_of_a_killed_one_was_left_to_end(site: Faults, where: str) -> None:
    site.ids("ids-0.parquet", 0, 1000)
    job = site.stage_job("Leaves", {"folder": str(site.folder), "where": where})
    run = site.start_marked(job)
    wait_for("the model is being loaded", (site.folder / "loading").exists)
    for number in (signal.SIGSTOP, signal.SIGKILL):  # none sees another's end
        for found in site.processes():
            if "sleep 7777" not in found.command:
                os.kill(found.pid, number)
    run.communicate()
    left = {found.pid for found in site.processes("sleep 7777")}
    assert left, "nobody was left to end them"
    site.let_go()
    site.finish_complete(site.start_marked(job))
    assert site.processes() == []


def test_a_daemon_that_is_not_the_run_s_outlives_it(site: Faults) -> None:
    for name in ("begin", "end"):
        os.mkfifo(site.folder / name)
    daemon = f"( read line < {site.folder}/begin; cat {site.folder}/end & ) > /dev/null 2>&1 & exec "
    run = site.start_marked(site.gate_job(), before=daemon)
    site.wait_held()
    (site.folder / "begin").write_text("\n")
    (cat,) = wait_for("it runs", lambda: [x.pid for x in site.processes() if x.command.startswith("cat ")])
    wait_for("the run has adopted it", lambda: parent_of(cat) == run.pid)
    os.kill(site.the_process("-m sidecar"), signal.SIGKILL)
    site.let_go()
    site.finish_complete(run)
    assert {found.pid for found in site.processes()} == {cat}


def test_a_run_touches_nothing_of_a_run_with_the_same_folder_and_another_lock(site: Faults) -> None:
    first = site.start_marked(site.gate_job())
    site.wait_held()
    before = {found.pid for found in site.processes()}
    site.state.rename(site.folder / "elsewhere")
    site.parquet("x.parquet", {"x": [1, 2]})
    site.run_complete(site.job(source={"format": "parquet", "uri": "x.parquet"}, sink={"uri": "out-2"}))
    assert {found.pid for found in site.processes()} == before
    first.kill()
    site.wait_no_process(5.0)
    first.communicate()


def test_all_that_a_run_starts_has_its_own_mark_also_below_another_run(site: Faults) -> None:
    site.ids("ids-0.parquet", 0, 1000)
    job = site.stage_job("Leaves", {"folder": str(site.folder), "where": "probe"})
    run = site.start_marked(job, **{RUN_MARK: "outer"})
    wait_for("the model is being loaded", (site.folder / "loading").exists)
    wait_for("the worker has been started", lambda: site.processes("-m sidecar"))
    marks = {found.pid: site.variable(found.pid, RUN_MARK) for found in site.processes()}
    assert marks.pop(run.pid) == "outer"
    assert len(marks) >= 6  # the coordinator, the worker, the probe in two, what it has left
    assert len(set(marks.values())) == 1
    assert "outer" not in marks.values()
    site.let_go()
    site.finish_complete(run)


# ---------------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_and_the_same_command_continues_without_doing_anything_twice(
    site: Faults, number: signal.Signals, code: int
) -> None:
    job = site.gate_job()
    run = site.start_marked(job)
    site.wait_held()
    run.send_signal(number)
    assert run.stderr is not None
    assert "Draining" in run.stderr.readline()
    site.let_go()
    ran = site.finish(run)
    assert ran.code == code, ran.text
    assert "the same command continues" in ran.stderr
    assert ran.stdout == ""
    assert site.processes() == []
    drained = site.ids_in(site.data_files())
    assert max(drained) >= HELD_FROM, "what had been read was finished"
    assert len(drained) < ROWS
    site.finish_complete(site.start_marked(job))
    site.assert_once()
    assert site.times_computed(range(ROWS)) == {1}


def test_a_second_interrupt_stops_at_once(site: Faults) -> None:
    job = site.gate_job()
    run = site.start_marked(job)
    site.wait_held()
    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    assert "Draining" in run.stderr.readline()
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=1.0) == 130
    site.wait_no_process(5.0)
    run.communicate()
    site.let_go()
    site.finish_complete(site.start_marked(job))
    site.assert_once()


def test_an_interrupt_while_models_load_ends_the_run(site: Faults) -> None:
    site.ids("ids-0.parquet", 0, 1000)
    run = site.start_marked(site.stage_job("SlowToLoad", {"folder": str(site.folder)}))
    wait_for("the model is being loaded", (site.folder / "loading").exists)
    run.send_signal(signal.SIGINT)
    ran = site.finish(run, timeout_s=10.0)
    assert ran.code == 130, ran.text
    site.wait_no_process(5.0)


def test_the_state_of_a_run_is_for_its_user_only(site: Faults) -> None:
    run = site.start_marked(site.gate_job())
    site.wait_held()
    folder = site.state / "jobs" / "job"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    if os.geteuid() == 0:  # another user tries
        code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        python = ["/usr/bin/env", "python3", "-c", code, str(folder / "coordinator.sock")]
        tried = subprocess.run(python, cwd="/", user=65534, capture_output=True, text=True, check=False)
        assert "PermissionError" in tried.stderr, tried
    site.let_go()
    site.finish_complete(run)
