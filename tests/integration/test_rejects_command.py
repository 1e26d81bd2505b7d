"""`headrace rejects`: of a finished output without any coordinator, of a job that ran, of a job that runs."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.integration.faults_fixture import ROWS, Faults, wait_for
from tests.integration.run_fixture import Ran, Site

pytestmark = pytest.mark.slow

REFUSING = '''
from stages import Gate


class Refusing(Gate):
    """Holds as a gate does, and refuses some ids before that."""

    def __call__(self, batch):
        for i in batch["id"].tolist():
            if i % 1000 == 7:
                raise KeyError(f"{i}")
            if i % 1000 == 8:
                raise ValueError(f"{i} is not for me")
        return super().__call__(batch)
'''


def refusing_job(site: Faults, hold: int = 0) -> Path:
    """A gate's job that rejects two rows of each thousand."""
    site.write("refusing.py", REFUSING)
    job = site.gate_job(hold, errors={"maxRejected": "100%"})
    document = yaml.safe_load(job.read_text())
    document["spec"]["pipeline"][0]["python"] = "refusing:Refusing"
    job.write_text(yaml.safe_dump(document, sort_keys=False))
    return job


def refused(rows: int) -> list[int]:
    return [i for i in range(rows) if i % 1000 in (7, 8)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """A job that is complete, with some of its rows rejected."""
    site = Faults(tmp_path_factory.mktemp("done"))
    site.let_go()
    site.run_complete(refusing_job(site))
    yield site
    site.end()


def rejects(site: Site, *arguments: str) -> Ran:
    return site.headrace("rejects", *arguments, "--state", str(site.state))


def test_a_finished_output_tells_reasons_and_places(done: Faults) -> None:
    found = rejects(done, "out", "-o", "json", "--limit", "3").document
    each = len(refused(ROWS)) // 2
    assert found["rows"] == 2 * each
    assert sorted((group["stage"], group["class"], group["rows"]) for group in found["groups"]) == [
        ("gate", "KeyError", each),
        ("gate", "ValueError", each),
    ]
    assert [(row["address"], row["class"]) for row in found["rejects"]] == [
        (7, "KeyError"),
        (8, "ValueError"),
        (1007, "KeyError"),
    ]
    assert found["rejects"][1]["message"] == "8 is not for me"
    assert found["rejects"][1]["file"] == str(done.folder / "data.parquet")


def test_a_job_that_ran_here_is_found_by_its_name(done: Faults) -> None:
    assert rejects(done, "job", "-o", "json").document == rejects(done, str(done.out), "-o", "json").document


def test_the_table_shows_groups_first_and_says_that_there_is_more(done: Faults) -> None:
    said = rejects(done, "out", "--limit", "2").stdout.splitlines()
    assert said[0].endswith(f"out: {len(refused(ROWS))} rejected rows")
    assert said[2].split() == ["ROWS", "STAGE", "CLASS", "EXAMPLE"]
    assert said[-1] == "the first 2; --limit shows more, --export writes all"
    assert yaml.safe_load(rejects(done, "out", "-o", "yaml").stdout)["rows"] == len(refused(ROWS))


def test_all_rows_are_exported_in_three_forms(done: Faults) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        ran = rejects(done, "out", "--export", f"rejects.{suffix}", "-o", "json")
        assert ran.code == 0, ran.text
        assert ran.document["rows"] == len(refused(ROWS))
    table = pq.read_table(done.folder / "rejects.parquet")
    assert table["id"].to_pylist() == refused(ROWS)
    assert table.column_names[:6] == ["_file", "_address", "_stage", "_class", "_message", "id"]
    with open(done.folder / "rejects.csv", newline="") as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == refused(ROWS)
    with open(done.folder / "rejects.jsonl") as file:
        assert [json.loads(line) for line in file] == table.to_pylist()


def test_an_export_overwrites_nothing(done: Faults) -> None:
    path = done.write("mine.csv", "mine")
    ran = rejects(done, "out", "--export", "mine.csv")
    assert ran.code == 1, ran.text
    assert "mine.csv exists" in ran.stderr
    assert path.read_text() == "mine"
    assert rejects(done, "out", "--export", "rejects.xlsx").code == 2


def test_what_is_neither_job_nor_output_is_said(done: Faults, tmp_path: Path) -> None:
    assert "isn't the output of a job" in rejects(done, str(tmp_path)).stderr
    assert "No job 'jib' has run on this machine; did you mean 'job'?" in rejects(done, "jib").stderr


def test_a_running_job_tells_what_is_committed(tmp_path: Path) -> None:
    site = Faults(tmp_path)
    try:
        run = site.start_marked(refusing_job(site, 3 * ROWS // 4))
        site.wait_held()

        def told() -> dict[str, Any] | None:
            found = rejects(site, "job", "-o", "json", "--limit", "1").document
            return found if found["groups"] else None

        found = wait_for("rejects are committed", told)
        assert found["rejects"][0]["address"] == 7
        assert 0 < found["rows"] < len(refused(ROWS))
        unfinished = rejects(site, "out")
        assert unfinished.code == 1, unfinished.text
        assert "While it runs, ask by the job's name" in unfinished.stderr
        site.let_go()
        site.finish_complete(run)
        assert rejects(site, "job", "-o", "json").document["rows"] == len(refused(ROWS))
    finally:
        site.end()
