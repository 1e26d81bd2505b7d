"""`headrace run` with rows that can't be predicted: exactly they are rejected, with where and why, up to the budget."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults_fixture import Faults
from tests.integration.run_fixture import Ran

pytestmark = pytest.mark.slow

FILE_ROWS = 3000
ROWS = 2 * FILE_ROWS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Faults]:
    made = Faults(tmp_path)
    for i in range(2):
        made.ids(f"ids-{i}.parquet", i * FILE_ROWS, FILE_ROWS)
    yield made
    made.end()


def rejects(site: Faults) -> list[dict[str, Any]]:
    return sorted(site.rejects(), key=lambda row: int(row["id"]))


def place(site: Faults, i: int) -> dict[str, Any]:
    """Where the row of an id is, and the row."""
    return {"_file": str(site.folder / f"ids-{i // FILE_ROWS}.parquet"), "_address": i % FILE_ROWS, "id": i}


def failure(ran: Ran) -> tuple[str, str]:
    """Reason and message of a failed job."""
    assert ran.code == 1, ran.text
    assert ran.document["phase"] == "Failed"
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    return failed["reason"], failed["message"]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param([0], id="first row"),
        pytest.param([ROWS - 1], id="last row"),
        pytest.param([17, 18, 19, 500, 1000], id="several in one batch"),
        pytest.param(list(range(5, ROWS, 512)), id="every batch"),
        pytest.param(list(range(1024)), id="a whole batch"),
    ],
)
def test_exactly_the_rows_on_which_a_stage_raises_are_rejected(site: Faults, bad: list[int]) -> None:
    job = site.stage_job("Picky", {"raises": bad}, errors={"maxRejected": len(bad)})
    site.run_complete(job)
    site.assert_once(ROWS, rejected=bad)
    assert rejects(site) == [
        place(site, i) | {"_stage": "only", "_class": "ValueError", "_message": f"id {i} is not for me"} for i in bad
    ]


def test_a_row_that_ends_its_process_is_found_and_rejected(site: Faults) -> None:
    job = site.stage_job("Picky", {"exits": [100], "crashes": [4000]}, errors={"maxRejected": 2})
    document = site.run_complete(job)
    site.assert_once(ROWS, rejected=[100, 4000])
    left, crashed = rejects(site)
    assert left | place(site, 100) == left
    assert crashed | place(site, 4000) == crashed
    assert [row["_stage"] for row in (left, crashed)] == ["only", "only"]
    assert [row["_class"] for row in (left, crashed)] == ["PredictorDied", "PredictorDied"]
    assert "status 7" in left["_message"]
    assert "signal 11" in crashed["_message"]
    assert document["stages"][0]["restarts"] > 2


@pytest.mark.parametrize("budget", [4, "0.08%"])
def test_a_spent_budget_fails_the_job_and_a_larger_one_continues_it(site: Faults, budget: int | str) -> None:
    bad = [10, 11, 2000, 3000, 5999]
    reason, message = failure(site.run(site.stage_job("Picky", {"raises": bad}, errors={"maxRejected": budget})))
    assert reason == "ErrorBudgetExceeded"
    assert "errors.maxRejected allows" in message
    assert not (site.out / "_SUCCESS").exists()
    site.run_complete(site.stage_job("Picky", {"raises": bad}, errors={"maxRejected": 5}))
    site.assert_once(ROWS, rejected=bad)


def test_a_share_that_is_not_exceeded_completes(site: Faults) -> None:
    site.run_complete(site.stage_job("Picky", {"raises": [1, 2, 3]}, errors={"maxRejected": "0.05%"}))
    site.assert_once(ROWS, rejected=[1, 2, 3])


def test_a_model_that_loads_only_where_it_is_probed_fails_the_job_with_its_traceback(site: Faults) -> None:
    reason, message = failure(site.run(site.stage_job("OnlyWhenProbed", {})))
    assert reason == "ModelLoadFailed"
    assert "RuntimeError: no weights here" in message
    assert "stages.py" in message
    assert "raise RuntimeError" in message


def test_a_failed_job_is_continued_once_the_cause_is_gone(site: Faults) -> None:
    job = site.stage_job("OnlyWhenProbed", {})
    failure(site.run(job))
    source = (site.folder / "stages.py").read_text()
    shutil.copy(site.folder / "stages.py", site.folder / "kept.py")
    (site.folder / "stages.py").write_text(source.replace('!= "probe"', '== "never"'))
    ran = site.run(job)
    assert ran.code == 1, ran.text
    assert "--again" in ran.stderr, "other code may make other output"
    site.run_complete(job, "--again")
    assert site.verify()["rows_out"] == ROWS
