"""`headrace retry --rejected`: what was rejected runs again and is merged; no row is lost, doubled or forgotten."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run_fixture import Ran, Site

pytestmark = pytest.mark.slow

ROWS = 1000

PICKY = '''
class Picky:
    """Twice the input, but for numbers that it doesn't like."""

    def __init__(self, refuses=()):
        self.refuses = set(refuses)

    def __call__(self, batch):
        for x in batch["x"].tolist():
            if x in self.refuses:
                raise ValueError(f"{x} is not for me")
        return {"y": batch["x"] * 2}
'''


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.write("picky.py", PICKY)
    for i in range(2):
        made.parquet(f"in/{i}.parquet", {"x": range(i * 500, i * 500 + 500), "t": [f"t{x}" for x in range(500)]})
    return made


def picky(site: Site, refuses: list[int], **spec: Any) -> Path:
    """The job, with a stage that refuses some numbers."""
    stage = {"name": "only", "python": "picky:Picky", "inputs": {"x": "source.x"}, "config": {"refuses": refuses}}
    given = {"source": {"format": "parquet", "uri": "in"}, "errors": {"maxRejected": "10%"}, **spec}
    sink = {"columns": {"x": "source.x", "t": "source.t", "y": "only.y"}, **given.pop("sink", {})}
    return site.job(pipeline=[stage], sink=sink, **given)


def retry(site: Site, job: Path, *arguments: str) -> Ran:
    """``headrace retry --rejected JOB``."""
    return site.headrace("retry", "--rejected", str(job), "--state", str(site.state), "-o", "json", *arguments)


def retried(site: Site, job: Path) -> tuple[int, int]:
    """A retry that must end complete: rows that came out, and rows still rejected."""
    ran = retry(site, job)
    assert ran.code == 0, ran.text + site.logs()
    assert ran.document["phase"] == "Succeeded"
    return ran.document["rows_out"], ran.document["rows_rejected"]


def assert_once(site: Site, rejected: list[int], rows: int = ROWS) -> None:
    """Every row is out or rejected, once, and the manifests prove it."""
    table = site.rows()
    assert sorted(table["x"].to_pylist()) == sorted(set(range(rows)) - set(rejected))
    assert table["y"].to_pylist() == [2 * x for x in table["x"].to_pylist()]
    assert sorted(row["x"] for row in site.rejects()) == rejected
    found = site.verify()
    assert (found["rows_read"], found["rows_out"]) == (rows, rows - len(rejected))
    assert (found["rows_rejected"], found["units"]) == (len(rejected), rows)


def test_another_model_predicts_what_the_first_one_refused(site: Site) -> None:
    site.run_complete(picky(site, [3, 4, 700]))
    assert retried(site, picky(site, [])) == (3, 0)
    assert_once(site, [])


def test_what_is_refused_again_stays_rejected_with_its_place_in_the_input(site: Site) -> None:
    site.run_complete(picky(site, [3, 4, 700]))
    before = site.rejects()
    assert retried(site, picky(site, [4, 700])) == (1, 2)
    assert_once(site, [4, 700])
    assert site.rejects() == [row for row in before if row["x"] != 3]
    assert retried(site, picky(site, [4, 700])) == (0, 2)
    assert_once(site, [4, 700])
    assert retried(site, picky(site, [])) == (2, 0)
    assert_once(site, [])
    assert len(site.verify()["manifests"]) == 4


def test_a_row_that_is_rejected_again_keeps_all_its_columns(site: Site) -> None:
    stage = {"name": "only", "python": "picky:Picky", "config": {"refuses": [3, 4]}}
    given: dict[str, Any] = {
        "source": {"format": "parquet", "uri": "in"},
        "sink": {"columns": {"x": "source.x", "y": "only.y"}},
        "errors": {"maxRejected": 2},
    }
    both, one = {"x": "source.x", "t": "source.t"}, {"x": "source.x"}
    site.run_complete(site.job(pipeline=[{**stage, "inputs": both}], **given))
    before = site.rejects()
    assert [(row["x"], row["t"]) for row in before] == [(3, "t3"), (4, "t4")]
    assert retried(site, site.job(pipeline=[{**stage, "inputs": one}], **given)) == (0, 2)
    assert site.rejects() == before


def test_nothing_is_done_where_nothing_is_rejected(site: Site) -> None:
    job = picky(site, [])
    site.run_complete(job)
    ran = retry(site, job)
    assert (ran.code, ran.document["rows_rejected"]) == (0, 0)
    assert len(site.verify()["manifests"]) == 1


def test_the_input_may_be_gone_by_then(site: Site) -> None:
    site.run_complete(picky(site, [3, 700]))
    for path in (site.folder / "in").iterdir():
        path.unlink()
    assert retried(site, picky(site, [])) == (2, 0)
    assert_once(site, [])


def test_the_job_itself_is_still_complete(site: Site) -> None:
    job = picky(site, [3])
    site.run_complete(job)
    assert retried(site, job) == (0, 1)
    assert site.run_complete(job)["rows_rejected"] == 1
    assert len(site.verify()["manifests"]) == 2


def test_rows_that_could_not_be_read_stay_rejected_for_their_reason(site: Site) -> None:
    lines = [json.dumps({"x": x, "t": "t"}) for x in range(100)]
    lines[50] = "{"
    site.write("in.jsonl", "\n".join(lines) + "\n")
    source = {"format": "jsonl", "uri": "in.jsonl"}
    site.run_complete(picky(site, [7, 60], source=source))
    unread = [row for row in site.rejects() if row["_class"] == "BadRecord"]
    assert len(unread) == 1
    assert retried(site, picky(site, [60], source=source)) == (1, 2)
    assert [row for row in site.rejects() if row["_class"] == "BadRecord"] == unread
    assert sorted(row["x"] for row in site.rejects() if row["x"] is not None) == [60]
    assert retried(site, picky(site, [], source=source)) == (1, 1)
    found = site.verify()
    assert (found["rows_read"], found["rows_out"], found["rows_rejected"]) == (100, 99, 1)


def test_an_output_that_was_appended_to_gives_the_rejects_of_all_its_jobs(site: Site) -> None:
    site.run_complete(picky(site, [3]))
    site.parquet("more/0.parquet", {"x": range(1000, 1500), "t": ["t"] * 500})
    more = {"source": {"format": "parquet", "uri": "more"}, "sink": {"mode": "append"}, "name": "more"}
    site.run_complete(picky(site, [1100, 1200], **more))
    assert retried(site, picky(site, [1200])) == (2, 1)
    assert_once(site, [1200], rows=1500)
    site.parquet("most/0.parquet", {"x": range(1500, 1600), "t": ["t"] * 100})
    most = {"source": {"format": "parquet", "uri": "most"}, "sink": {"mode": "append"}, "name": "most"}
    site.run_complete(picky(site, [1555], **most))
    assert_once(site, [1200, 1555], rows=1600)
    assert retried(site, picky(site, [])) == (2, 0)
    assert_once(site, [], rows=1600)


def test_rejects_that_only_hold_addresses_are_not_run_again(site: Site) -> None:
    job = picky(site, [3], errors={"maxRejected": 1, "onReject": "address"})
    site.run_complete(job)
    before = sorted(site.out.rglob("*"))
    ran = retry(site, job)
    assert ran.code == 42, ran.text
    assert "onReject: keep" in ran.stderr
    assert sorted(site.out.rglob("*")) == before
    site.verify()


def test_a_job_of_other_columns_is_refused(site: Site) -> None:
    site.run_complete(picky(site, [3]))
    before = sorted(site.out.rglob("*"))
    ran = retry(site, picky(site, [], sink={"columns": {"x": "source.x", "y": "only.y"}}))
    assert ran.code == 42, ran.text
    assert "have a column 't' (string), this job has not" in ran.stderr
    assert sorted(site.out.rglob("*")) == before


def test_a_model_that_cannot_be_loaded_is_the_only_mistake_told(site: Site) -> None:
    site.run_complete(picky(site, [3]))
    job = picky(site, [])
    job.write_text(job.read_text().replace("picky:Picky", "picky:Pucky"))
    ran = retry(site, job)
    assert ran.code == 42, ran.text
    assert "1 mistake." in ran.stderr
    assert "Pucky" in ran.stderr
    site.verify()


def test_two_workers_share_what_was_rejected(site: Site) -> None:
    refused = list(range(0, 1000, 7))
    site.run_complete(picky(site, refused, errors={"maxRejected": "20%"}))
    ran = retry(site, picky(site, refused[1:]), "--workers", "2")
    assert ran.code == 0, ran.text
    assert_once(site, refused[1:])


def test_an_output_that_is_not_there_is_refused(site: Site) -> None:
    ran = retry(site, picky(site, [3]))
    assert ran.code == 42, ran.text
    assert "has no complete output" in ran.stderr
    assert not site.out.exists()


def test_rejects_that_were_changed_are_not_run_again(site: Site) -> None:
    site.run_complete(picky(site, [3]))
    [path] = (site.out / "_headrace" / "rejected").iterdir()
    body = bytearray(path.read_bytes())
    body[20] ^= 1
    path.write_bytes(body)
    ran = retry(site, picky(site, []))
    assert ran.code == 1, ran.text
    assert "was changed: its digest isn't the manifest's" in ran.stderr


def test_the_budget_was_the_first_runs(site: Site) -> None:
    refused = list(range(0, 1000, 11))
    site.run_complete(picky(site, refused))
    assert retried(site, picky(site, refused, errors={"maxRejected": 0})) == (0, len(refused))
    assert_once(site, refused)
