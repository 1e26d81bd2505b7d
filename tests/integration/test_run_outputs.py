"""`headrace run` again, into an output that is there, and what it says to people and to programs."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.integration.run_fixture import DOUBLE_STAGE, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.slow
def test_a_complete_job_is_not_run_again_but_with_again(site: Site) -> None:
    site.parquet("in.parquet", {"x": [1, 2]})
    job = site.job(source={"format": "parquet", "uri": "in.parquet"})
    first = site.run_complete(job)
    before = [path.name for path in site.data_files()]

    assert site.run_complete(job)["uid"] == first["uid"]
    assert [path.name for path in site.data_files()] == before
    assert "complete already" in site.headrace("run", str(job), "--state", str(site.state)).stdout

    refused = site.run(job, "--again")
    assert refused.code == 42
    assert "isn't empty" in refused.stderr
    assert [path.name for path in site.data_files()] == before
    site.verify()

    replaced = site.run_complete(
        site.job(source={"format": "parquet", "uri": "in.parquet"}, sink={"mode": "replace"}), "--again"
    )
    assert replaced["uid"] != first["uid"]
    assert site.verify()["rows_out"] == 2
    assert site.rows()["y"].to_pylist() == [2, 4]
    assert [path.name for path in site.data_files()] != before


@pytest.mark.slow
def test_append_adds_and_replace_takes_away(site: Site) -> None:
    site.parquet("one.parquet", {"x": [1]})
    site.parquet("two.parquet", {"x": [2]})
    site.parquet("three.parquet", {"x": [3]})
    site.write("out/notes.txt", "somebody else's")

    def run(name: str, mode: str) -> list[int]:
        site.run_complete(
            site.job(name=name, source={"format": "parquet", "uri": f"{name}.parquet"}, sink={"mode": mode})
        )
        site.verify()
        return sorted(site.rows()["x"].to_pylist())

    assert run("one", "append") == [1]
    assert (site.out / "notes.txt").exists()
    assert run("two", "append") == [1, 2]
    assert run("three", "replace") == [3]
    assert not (site.out / "notes.txt").exists()


@pytest.mark.slow
def test_no_rows_appended_leave_an_output_that_readers_read(site: Site) -> None:
    site.write("one.jsonl", '{"x": 1}\n')
    site.write("none.jsonl", "")
    for i, name in enumerate(("one", "none", "one", "none")):
        site.run_complete(
            site.job(name=f"day-{i}", source={"format": "jsonl", "uri": f"{name}.jsonl"}, sink={"mode": "append"})
        )
    assert site.verify()["rows_out"] == 2
    assert pq.read_table(site.out).to_pylist() == [{"x": 1, "y": 2}] * 2
    assert pd.read_parquet(site.out)["y"].tolist() == [2, 2]


NOISY = """
import os

os.write(1, b"noise\\n")


class Noisy:
    def __init__(self):
        print("noise")

    def __call__(self, batch):
        print("noise")
        os.system("echo noise")
        return {"y": batch["x"]}
"""


def test_json_is_the_only_thing_on_stdout_and_text_is_for_people(site: Site) -> None:
    site.write("noisy.py", NOISY)
    site.parquet("in.parquet", {"x": list(range(2000))})
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"}, pipeline=[{**DOUBLE_STAGE, "python": "noisy:Noisy"}]
    )

    ran = site.run(job)
    again = site.headrace("run", str(job), "--state", str(site.state))

    assert ran.stdout.count("\n") == 1
    assert ran.document["rows_in"] == 2000
    assert ran.stderr == ""
    assert "[double/0] noise" in site.logs()
    assert "2,000 in = 2,000 out + 0 filtered + 0 rejected" in again.stdout
