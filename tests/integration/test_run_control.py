"""A running job from another terminal, the same command again, several workers, stages that read each other."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults_fixture import ROWS, Faults, wait_for
from tests.integration.run_fixture import HEADRACE, Ran

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Faults]:
    made = Faults(tmp_path)
    yield made
    made.end()


def ask(site: Faults, *arguments: str) -> Any:
    """A command's JSON answer about the site's jobs."""
    ran = site.headrace(*arguments, "--state", str(site.state), "-o", "json")
    assert ran.code == 0, ran.text
    return ran.document


def output_files(site: Faults) -> dict[str, tuple[int, int]]:
    """Every file of the output, hidden ones too, with inode and time of its last change."""
    paths = [path for path in site.out.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


# ---------------------------------------------------------------------- the same command again


def test_the_same_job_twice_at_once_is_refused_and_the_first_goes_on(site: Faults) -> None:
    job = site.gate_job()
    run = site.start_marked(job)
    site.wait_held()
    second = site.run(job)
    assert second.code == 1, second.text
    assert second.stdout == ""
    assert f"'job' is being run already, by process {run.pid}" in second.stderr
    site.let_go()
    site.finish_complete(run)
    site.assert_once()
    assert site.times_computed(range(ROWS)) == {1}


def test_a_complete_job_is_said_to_be_complete_and_left_alone(site: Faults) -> None:
    site.let_go()
    job = site.gate_job()
    site.run_complete(job)
    before = output_files(site)
    assert site.run_complete(job)["rows_out"] == ROWS
    said = site.headrace("run", str(job), "--state", str(site.state))
    assert (said.code, "is complete already" in said.stdout) == (0, True), said.text
    assert output_files(site) == before
    assert site.times_computed(range(ROWS)) == {1}


@pytest.mark.parametrize("is_complete", [True, False])
def test_what_decides_the_output_may_not_change_on_the_way(site: Faults, is_complete: bool) -> None:
    job = site.gate_job()
    run = site.start_marked(job)
    site.wait_held()
    if is_complete:
        site.let_go()
        site.finish_complete(run)
    else:
        run.kill()
        run.communicate()
    before = output_files(site)
    limited = site.run(job, "--limit", "1000")
    source = (site.folder / "stages.py").read_text()
    (site.folder / "stages.py").write_text(source + "\n# another model\n")
    changed = site.run(job)
    for ran in (limited, changed):
        assert ran.code == 1, ran.text
        assert "--again" in ran.stderr
        assert "another name" in ran.stderr
    assert output_files(site) == before
    (site.folder / "stages.py").write_text(source)
    site.let_go()
    site.run_complete(job)
    site.assert_once()


@pytest.mark.parametrize("is_complete", [True, False])
def test_again_starts_anew(site: Faults, is_complete: bool) -> None:
    job = site.gate_job(sink={"mode": "replace"})
    run = site.start_marked(job)
    site.wait_held()
    if is_complete:
        site.let_go()
        site.finish_complete(run)
    else:
        run.kill()
        run.communicate()
        site.let_go()
    first = set(site.data_files())
    site.run_complete(job, "--again")
    site.assert_once()
    assert not first.intersection(site.data_files())


# ---------------------------------------------------------------------- from another terminal


def test_another_terminal_sees_the_job(site: Faults) -> None:
    run = site.start_marked(site.gate_job())
    site.wait_held()
    job = ask(site, "status", "job")
    assert (job["name"], job["phase"], job["workers"]) == ("job", "Running", 1)
    assert [found["name"] for found in ask(site, "status")] == ["job"]
    told = site.headrace("status", "--state", str(site.state))
    assert (told.code, "Running" in told.stdout) == (0, True), told.text
    shards = ask(site, "shards", "job")
    assert len(shards) >= 5
    assert (shards[0]["begin"], max(shard["end"] for shard in shards)) == (0, ROWS)
    (worker,) = ask(site, "workers", "job")
    assert (worker["name"], worker["state"]) == ("worker-0", "live")
    command = [HEADRACE, "status", "--watch", "--state", str(site.state)]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stderr is not None
    assert "rows/s" in watch.stderr.readline()
    site.let_go()
    site.finish_complete(run)
    out, _ = watch.communicate(timeout=30)
    assert (watch.returncode, "Succeeded" in out) == (0, True), out
    gone = site.headrace("status", "job", "--state", str(site.state))
    assert (gone.code, "isn't being run now" in gone.stderr) == (1, True), gone.text


def test_a_suspended_job_goes_on_when_it_is_resumed(site: Faults) -> None:
    run = site.start_marked(site.gate_job())
    (before,) = site.wait_held()
    running = ask(site, "suspend", "job")
    assert running["phase"] == "Pending"
    wait_for("it gives back what it hasn't begun", lambda: pending(site) > running["shards_pending"])
    site.let_go()
    wait_for("the worker has drained", lambda: before not in {found.pid for found in site.processes()})
    drained = ask(site, "status", "job")
    assert drained["shards_leased"] == 0
    assert 0 < drained["rows_out"] < ROWS
    assert ask(site, "resume", "job")["phase"] == "Running"
    site.finish_complete(run)
    site.assert_once()
    assert site.times_computed(range(ROWS)) == {1}


def pending(site: Faults) -> int:
    return int(ask(site, "status", "job")["shards_pending"])


def test_a_cancelled_job_fails_and_the_same_command_continues_it(site: Faults) -> None:
    job = site.gate_job()
    run = site.start_marked(job)
    site.wait_held()
    assert ask(site, "cancel", "job")["phase"] == "Failed"
    ran = site.finish(run)
    assert ran.code == 1, ran.text
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == "Cancelled"
    site.let_go()
    site.run_complete(job)
    site.assert_once()


# ---------------------------------------------------------------------- several workers


def test_two_workers_share_the_rows_and_one_may_die(site: Faults) -> None:
    run = site.start_marked(site.gate_job(hold=0), "--workers", "2")
    wait_for("both workers hold a batch", lambda: set(site.held().values()) == {"worker-0", "worker-1"})
    assert {found["name"] for found in ask(site, "workers", "job")} == {"worker-0", "worker-1"}
    os.kill(site.the_process("--worker worker-1"), signal.SIGKILL)
    site.let_go()
    site.finish_complete(run)
    site.assert_once()


def test_a_job_scaled_to_one_worker_still_completes(site: Faults) -> None:
    run = site.start_marked(site.gate_job(hold=0), "--workers", "2")
    wait_for("both workers hold a batch", lambda: set(site.held().values()) == {"worker-0", "worker-1"})
    assert ask(site, "scale", "job", "1")["workers_max"] == 1
    site.let_go()
    site.finish_complete(run)
    site.assert_once()
    assert site.times_computed(range(ROWS)) == {1}


# ---------------------------------------------------------------------- stages


def test_a_stage_reads_the_source_and_every_stage_before_it(site: Faults) -> None:
    write_affine(site.folder / "affine.onnx")
    site.write(
        "more.py",
        """
class Scale:
    def __call__(self, batch):
        return {"scaled": (batch["id"] * 0.5).astype("float32")}


class Sum:
    def __call__(self, batch):
        return {"total": batch["id"] + batch["scaled"] + batch["z"]}
""",
    )
    site.ids("ids-0.parquet", 0, 5000)
    pipeline = [
        {"name": "scale", "python": "more:Scale", "inputs": {"id": "source.id"}},
        {"name": "affine", "onnx": "affine.onnx", "inputs": {"x": "scale.scaled"}},
        {
            "name": "sum",
            "python": "more:Sum",
            "inputs": {"id": "source.id", "scaled": "scale.scaled", "z": "affine.z"},
        },
    ]
    sink = {"columns": {"id": "source.id", "scaled": "scale.scaled", "z": "affine.z", "total": "sum.total"}}
    job = site.job(source={"format": "parquet", "uri": "ids-*.parquet"}, pipeline=pipeline, sink=sink)
    site.run_complete(job)
    assert site.verify()["rows_out"] == 5000
    table = site.rows().to_pydict()
    assert table["id"] == list(range(5000))
    assert table["scaled"] == [i / 2 for i in range(5000)]
    assert table["z"] == [3 * i / 2 + 1 for i in range(5000)]
    assert table["total"] == [i + i / 2 + 3 * i / 2 + 1 for i in range(5000)]


def write_affine(path: Path) -> None:
    """An ONNX model: z = 3 x + 1, for any number of rows."""
    import onnx
    from onnx import TensorProto, helper

    def scalar(name: str, value: float) -> Any:
        return helper.make_tensor(name, TensorProto.FLOAT, [], [value])

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "three"], ["m"]), helper.make_node("Add", ["m", "one"], ["z"])],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows"])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["rows"])],
        [scalar("three", 3.0), scalar("one", 1.0)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_a_run_says_what_it_does_in_words(site: Faults) -> None:
    site.let_go()
    ran: Ran = site.headrace("run", str(site.gate_job()), "--state", str(site.state))
    assert ran.code == 0, ran.text
    assert "Job job: 1 files" in ran.stdout
    assert f"{ROWS:,} out" in ran.stdout
    assert str(site.out) in ran.stdout
