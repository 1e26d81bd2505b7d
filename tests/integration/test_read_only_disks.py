"""Disks that are read-only, or become it in the middle of a job: it is said which, and nothing is lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.words import ExitCode
from tests.integration.by_hand_fixture import ByHand
from tests.integration.disk_fixture import Disk, disk_at
from tests.integration.faults_fixture import ROWS, Faults

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with disk_at(tmp_path / "disk") as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, disk: Disk) -> Iterator[Faults]:
    made = Faults(tmp_path)
    yield made
    made.end()  # before the disk goes


def on_disk(site: Faults, disk: Disk, what: str) -> None:
    """The output or the state lies there; the job file is relative to the site."""
    if what == "output":
        site.out = disk.folder / "out"
    else:
        site.state = disk.folder / "state"


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("output", ExitCode.BAD_JOB, "spec.sink.uri: {disk} lies on a read-only file system"),
        ("state", ExitCode.BAD_CONFIG, "The state folder {disk}/state/jobs/job can't be made: Read-only file system"),
    ],
)
def test_from_the_start_it_is_a_mistake_that_names_the_folder(
    site: Faults, disk: Disk, what: str, code: ExitCode, words: str
) -> None:
    on_disk(site, disk, what)
    job = site.gate_job(hold=ROWS, sink={"uri": str(site.out)})
    disk.make_read_only()
    ran = site.run(job)
    assert ran.code == code, ran.text
    assert words.format(disk=disk.folder) in ran.stderr
    assert "Traceback" not in ran.stderr
    disk.make_writable()
    site.run_complete(job)
    site.assert_once()


def test_an_output_that_becomes_read_only_fails_the_job_and_the_same_command_continues(
    site: Faults, disk: Disk
) -> None:
    on_disk(site, disk, "output")
    job = site.gate_job(sink={"uri": str(site.out)})
    run = site.start_marked(job)
    site.wait_held()
    published = site.ids_in(site.wait_published())
    disk.fail()
    site.let_go()
    ran = site.finish(run)
    assert ran.code == ExitCode.FAILED, ran.text
    (failed,) = [x for x in json.loads(ran.stdout)["conditions"] if x["type"] == "Failed"]
    assert failed["reason"] == "SinkFailed"
    assert str(site.out) in failed["message"]
    assert "Read-only file system" in failed["message"]
    assert site.ids_in(site.data_files()) >= published
    disk.repair()
    site.run_complete(job)
    site.assert_once()


def test_a_state_folder_that_becomes_read_only_ends_the_run_and_the_same_command_continues(
    site: Faults, disk: Disk
) -> None:
    on_disk(site, disk, "state")
    job = site.gate_job()
    run = site.start_marked(job)
    site.wait_held()
    site.wait_published()
    disk.fail()
    site.let_go()
    ran = site.finish(run)
    assert ran.code == ExitCode.FAILED, ran.text
    assert f"{disk.folder}/state/jobs/job" in ran.stderr
    assert "Read-only file system" in ran.stderr
    assert "The same command continues" in ran.stderr
    assert "Traceback" not in ran.stderr
    site.wait_no_process(5.0)
    disk.repair()
    site.run_complete(job)
    site.assert_once()


@pytest.mark.parametrize("when", ["from the start", "in the middle"])
def test_a_run_needs_no_temporary_folder(site: Faults, disk: Disk, when: str) -> None:
    site.temporary = disk.folder
    job = site.gate_job()
    if when == "from the start":
        disk.make_read_only()
    run = site.start_marked(job)
    site.wait_held()
    if when == "in the middle":
        disk.fail()
    site.let_go()
    site.finish_complete(run)
    site.assert_once()


def test_a_worker_by_hand_finds_another_temporary_folder(tmp_path: Path, disk: Disk) -> None:
    site = ByHand(tmp_path)
    try:
        site.temporary = disk.folder
        disk.make_read_only()
        site.start_coordinator()
        site.submit()
        site.start_worker("only")
        site.wait_complete()
        rows = site.rows()
        assert len(rows) == len(set(rows["id"].to_pylist())) > 0
    finally:
        site.end()
