"""`headrace run` on input or output that turns out bad while running: rows are rejected, or the job goes on later."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.integration.faults_fixture import wait_for
from tests.integration.run_fixture import DOUBLE_STAGE, TIMEOUT_S, Ran, Site

ROWS = 40_000
GROUP = 5_000


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def failed(ran: Ran) -> str:
    """Reason and message of a job that failed with one JSON document and exit code 1."""
    assert ran.code == 1, ran.text
    assert ran.document["phase"] == "Failed"
    [condition] = [condition for condition in ran.document["conditions"] if condition["type"] == "Failed"]
    return f"{condition['reason']}: {condition['message']}"


def assert_doubled(site: Site, rows: int, output: Path | None = None) -> None:
    """Every x in order with its y, and the manifest proves it."""
    assert site.verify(output)["rows_out"] == rows
    table = site.rows(output)
    assert table["x"].to_pylist() == list(range(rows))
    assert table["y"].to_pylist() == list(range(0, 2 * rows, 2))


def damage(path: Path, group: int) -> None:
    """Overwrites the middle of one row group's data; size and modification time stay."""
    status = path.stat()
    column = pq.ParquetFile(path).metadata.row_group(group).column(0)
    with open(path, "r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size // 2)
        file.write(b"\xff" * 64)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_damaged_row_group_fails_the_job_which_goes_on_when_it_is_whole_again(site: Site) -> None:
    path = site.parquet("in.parquet", {"x": range(ROWS)}, row_group_size=GROUP, compression="zstd")
    whole, status = path.read_bytes(), path.stat()
    damage(path, 5)
    job = site.job(source={"format": "parquet", "uri": "in.parquet"}, retries={"attempts": 2})

    message = failed(site.run(job))

    assert "in.parquet" in message
    assert "CorruptInput" in message
    assert not (site.out / "_SUCCESS").exists()

    path.write_bytes(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    site.run_complete(job)
    assert_doubled(site, ROWS)


def test_a_csv_row_with_too_few_fields_is_rejected_with_its_address(site: Site) -> None:
    lines = ["x,name", *(f"{i},n{i}" for i in range(1000))]
    lines[1 + 400] = "400"
    text = "\n".join(lines) + "\n"
    site.write("in.csv", text)
    job = site.job(
        source={"format": "csv", "uri": "in.csv"},
        sink={"columns": {"x": "source.x", "n": "source.name", "y": "double.y"}},
    )

    done = site.run_complete(job)

    assert (done["rows_in"], done["rows_out"], done["rows_rejected"]) == (1000, 999, 1)
    assert site.verify()["rows_rejected"] == 1
    [reject] = site.rejects()
    assert reject["_file"] == str(site.folder / "in.csv")
    assert reject["_address"] == text.index("\n400\n") + 1
    assert reject["_stage"] == "source"
    assert "1 field" in reject["_message"]
    assert site.rows()["x"].to_pylist() == [i for i in range(1000) if i != 400]


def test_a_value_that_does_not_fit_an_inferred_type_fails_the_job_which_says_how_to_give_the_type(site: Site) -> None:
    site.write("in.csv", b"x\n" + b"1\n" * 600_000 + b"many\n" + b"1\n")
    source = {"format": "csv", "uri": "in.csv"}
    message = failed(site.run(site.job(source=source)))
    assert message.startswith("SchemaMismatch: ")
    assert "in.csv, line 600002 (byte 1200002): column 'x' was inferred to be int64" in message
    assert "{x: int64} rejects such rows" in message
    assert not site.rejects()

    job = site.job(source={**source, "csv": {"types": {"x": "int64"}}})
    assert site.run_complete(job, "--again")["rows_rejected"] == 1
    assert [row["_address"] for row in site.rejects()] == [1200002]


def test_more_rejects_than_the_budget_fail_the_job_and_a_larger_budget_continues_it(site: Site) -> None:
    site.write("in.csv", "x,name\n" + "".join(f"{i},n\n" if i % 2 else f"{i}\n" for i in range(100)))
    source = {"format": "csv", "uri": "in.csv"}

    assert "ErrorBudgetExceeded" in failed(site.run(site.job(source=source, errors={"maxRejected": 10})))

    done = site.run_complete(site.job(source=source, errors={"maxRejected": 50}))
    assert (done["rows_out"], done["rows_rejected"]) == (50, 50)
    site.verify()


WRONG = '''
class Raises:
    def __call__(self, batch):
        raise ValueError("this model needs a haircut")


class Forgets:
    def __call__(self, batch):
        return {"z": batch["x"], "w": batch["x"]}


class Wavers:
    """Whole numbers first, then fractions."""

    def __call__(self, batch):
        return {"y": batch["x"] if batch["x"][0] < 2000 else batch["x"] / 2}
'''


@pytest.mark.parametrize(("rows", "reason"), [(10, "ErrorBudgetExceeded"), (5000, "ModelFailed")])
def test_a_stage_that_fails_for_every_row_fails_the_job_with_its_own_words(site: Site, rows: int, reason: str) -> None:
    site.write("wrong.py", WRONG)
    site.parquet("in.parquet", {"x": range(rows)})
    stage = {**DOUBLE_STAGE, "python": "wrong:Raises"}

    message = failed(site.run(site.job(source={"format": "parquet", "uri": "in.parquet"}, pipeline=[stage])))

    assert message.startswith(f"{reason}: ")
    assert "double" in message
    assert "ValueError: this model needs a haircut" in message


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("wrong:Forgets", "SchemaMismatch: stage 'double' gives w, z, but the job reads its 'y'"),
        ("wrong:Wavers", "SchemaMismatch: Output column 'y' comes as double; it was int64 in the rows before."),
    ],
)
def test_a_stage_whose_output_is_not_what_the_job_reads_fails_the_job(site: Site, target: str, said: str) -> None:
    site.write("wrong.py", WRONG)
    site.parquet("in.parquet", {"x": range(5000)})
    stage = {**DOUBLE_STAGE, "python": target}

    ran = site.run(site.job(source={"format": "parquet", "uri": "in.parquet"}, pipeline=[stage]))

    assert failed(ran).startswith(said)
    assert ran.stderr == ""


def test_files_of_one_output_have_columns_of_one_type(site: Site) -> None:
    rows = 600_000
    site.write("wrong.py", WRONG.replace("2000", str(rows // 3)))
    site.parquet("in.parquet", {"x": range(rows)}, row_group_size=rows // 12)  # three shards, each of one type
    stage = {**DOUBLE_STAGE, "python": "wrong:Wavers"}

    message = failed(site.run(site.job(source={"format": "parquet", "uri": "in.parquet"}, pipeline=[stage])))

    assert message.startswith("SchemaMismatch: Output column 'y' comes as ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_fails_the_job_which_goes_on_when_there_is_room(site: Site, small_disk: Path) -> None:
    rows = 200_000
    noise = np.random.default_rng(1).random(rows)  # what no encoding makes smaller
    site.parquet("in.parquet", {"x": range(rows), "noise": noise}, row_group_size=GROUP)
    out = small_disk / "out"
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"},
        sink={"uri": str(out), "columns": {"x": "source.x", "noise": "source.noise", "y": "double.y"}},
        retries={"attempts": 2},
    )

    message = failed(site.run(job))

    assert "SinkFailed" in message
    assert "No space left on device" in message
    assert not (out / "_SUCCESS").exists()

    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    site.run_complete(job)
    assert_doubled(site, rows, out)


def test_a_file_changed_after_planning_fails_the_job_and_its_old_self_continues_it(site: Site) -> None:
    site.parquet("in/a.parquet", {"x": range(100)})
    path = site.parquet("in/b.parquet", {"x": range(100, 200)})
    content, status = path.read_bytes(), path.stat()
    suspended = site.job(source={"format": "parquet", "uri": "in/*.parquet"}, suspend=True, retries={"attempts": 2})
    run = site.start(suspended)
    try:
        wait_for_phase(site, "Pending")
        site.parquet("in/b.parquet", {"x": range(500, 700)})
        assert site.headrace("resume", "job", "--state", str(site.state)).code == 0
        stdout, stderr = run.communicate(timeout=TIMEOUT_S)
    finally:
        run.kill()

    message = failed(Ran(run.returncode, stdout, stderr))
    assert "InputChanged" in message
    assert "in/b.parquet" in message

    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    site.run_complete(site.job(source={"format": "parquet", "uri": "in/*.parquet"}))
    assert_doubled(site, 200)


def wait_for_phase(site: Site, phase: str) -> None:
    """Until `headrace status` shows the job in `phase`."""

    def is_there() -> bool:
        ran = site.headrace("status", "job", "--state", str(site.state), "-o", "json")
        return ran.code == 0 and json.loads(ran.stdout)["phase"] == phase

    wait_for(f"the job is {phase}", is_there)


GATED = '''
import os
import time


class Gated:
    """Answers when the file beside it named `go` is there."""

    def __call__(self, batch):
        while not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
            time.sleep(0.02)
        return {"y": batch["x"] * 2}
'''


def test_of_a_job_started_twice_at_once_one_runs_and_the_other_says_so(site: Site) -> None:
    site.parquet("in.parquet", {"x": range(1000)})
    site.write("gated.py", GATED)
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"},
        pipeline=[{**DOUBLE_STAGE, "python": "gated:Gated"}],
    )
    runs = [site.start(job), site.start(job)]
    try:
        wait_for("one of the two ends", lambda: any(run.poll() is not None for run in runs))
        [refused] = [run for run in runs if run.poll() is not None]
        [winner] = [run for run in runs if run is not refused]
        stdout, stderr = refused.communicate()
        assert (refused.returncode, stdout) == (1, "")
        assert f"is being run already, by process {winner.pid}" in stderr

        site.write("go", "")
        stdout, stderr = winner.communicate(timeout=TIMEOUT_S)
    finally:
        for run in runs:
            run.kill()
    assert winner.returncode == 0, stderr
    assert_doubled(site, 1000)


def test_two_jobs_never_share_an_output(site: Site) -> None:
    site.parquet("in.parquet", {"x": range(1000)})
    site.write("gated.py", GATED)
    source = {"format": "parquet", "uri": "in.parquet"}
    first = site.start(site.job(name="first", source=source, pipeline=[{**DOUBLE_STAGE, "python": "gated:Gated"}]))
    try:
        wait_for("the first job claims the output", (site.out / "_headrace" / "claim.json").exists)
        second = site.run(site.job(name="second", source=source))
        below = site.run(site.job(name="third", source=source, sink={"uri": "out/below"}))
        site.write("go", "")
        _, stderr = first.communicate(timeout=TIMEOUT_S)
    finally:
        first.kill()
    assert first.returncode == 0, stderr
    assert second.code == 42
    assert "first" in second.stderr
    assert below.code == 42
    assert "first" in below.stderr
    assert_doubled(site, 1000)


def test_an_output_that_disappears_and_comes_back_is_written_all_the_same(site: Site) -> None:
    site.parquet("in.parquet", {"x": range(1000)})
    job = site.job(source={"format": "parquet", "uri": "in.parquet"})
    site.run_complete(job)
    shutil.rmtree(site.out)

    gone = site.run(job)
    assert gone.code == 1
    assert "has no _SUCCESS any more. Start it anew with --again." in gone.stderr

    site.run_complete(job, "--again")
    assert_doubled(site, 1000)
