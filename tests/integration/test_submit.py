"""`headrace submit`: a job for a coordinator and workers that were started by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.words import ExitCode
from tests.integration.by_hand_fixture import ByHand

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ByHand]:
    made = ByHand(tmp_path)
    made.parquet("numbers.parquet", {"x": list(range(1000))})
    yield made
    made.end()


def test_a_submitted_job_is_done_by_the_workers_that_are_there(site: ByHand) -> None:
    job = site.job(source={"format": "parquet", "uri": "numbers.parquet"})
    site.start_coordinator()
    accepted = site.headrace("submit", str(job), "--coordinator", site.address, "-o", "json")
    assert accepted.code == ExitCode.DONE, accepted.text
    assert (accepted.document["name"], accepted.document["phase"]) == ("job", "Running")
    site.start_worker("left")
    watched = site.headrace("submit", str(job), "--coordinator", site.address, "--watch", "-o", "json")
    assert watched.code == ExitCode.DONE, watched.text
    assert watched.document["phase"] == "Succeeded", "submitted again, it is the same job"
    assert site.verify()["rows_out"] == 1000


def test_all_mistakes_of_a_submitted_job_are_said_with_their_lines(site: ByHand) -> None:
    site.start_coordinator()
    sink = {"columns": {"x": "source.nope", "y": "double.y"}}
    wrong = site.job(source={"format": "parquet", "uri": "numbers.parquet"}, sink=sink)
    ran = site.headrace("submit", str(wrong), "--coordinator", site.address)
    assert ran.code == ExitCode.BAD_JOB
    assert "job.yaml:" in ran.stderr
    assert "source.nope" in ran.stderr or "'nope'" in ran.stderr
    assert not site.out.exists()


def test_nobody_to_submit_to_is_said(site: ByHand) -> None:
    job = site.job(source={"format": "parquet", "uri": "numbers.parquet"})
    ran = site.headrace("submit", str(job), "--coordinator", site.address)
    assert ran.code == ExitCode.FAILED
    assert f"No coordinator answers at {site.address}" in ran.stderr
