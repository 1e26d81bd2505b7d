"""`headrace plan`: mistakes of all phases in one list, and what a run would do with a job that it knows."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.plan import make_plan
from headrace.errors import BadJob
from tests.integration.faults_fixture import Faults
from tests.integration.run_fixture import DOUBLE_STAGE, Ran, Site

STAGES = """
class NeedsWeights:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, batch):
        return batch
"""
PARQUET = {"format": "parquet", "uri": "in/*.parquet"}
CSV = {"format": "csv", "uri": "in/a.csv"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(tmp_path_factory.mktemp("plans"))
    made.parquet("in/a.parquet", {"x": [1.5, 2.5], "name": ["one", "two"]})
    made.write("in/a.csv", "x;name\n1.5;one\n")
    made.write("stages.py", STAGES)
    made.write("full/results.txt", "of last week")
    made.write("torn/a.parquet", b"PAR1")
    return made


def mistakes(site: Site, **spec: Any) -> list[str]:
    """Where the mistakes are that planning lists, each as ``LINE: FIELD`` or a field or path alone."""
    with pytest.raises(BadJob) as raised:
        make_plan(site.job(**spec), {}, os.environ, None, site.state)
    return [fault.field.removeprefix(f"{site.folder}/") for fault in raised.value.faults]


def plan(site: Site, job: Path) -> Ran:
    return site.headrace("plan", str(job), "--state", str(site.state))


def stage(target: str, **more: Any) -> dict[str, Any]:
    return {"name": "second", "python": target, "inputs": {"x": "double.y"}, **more}


def test_mistakes_of_all_phases_are_told_at_once_by_plan_and_by_run(site: Site) -> None:
    job = site.job(
        source={**PARQUET, "uri": ["in/a.parquet", "in/b.parquet"], "filter": "nam == 'one'"},
        pipeline=[DOUBLE_STAGE, stage("stages:NeedWeights")],
        sink={"uri": "full", "columns": {"y": "double.y", "n": "source.nmae"}},
        errors={"onRejcet": "keep"},
    )
    expected = [
        "job.yaml:10: spec.source.uri[1]: ",
        "job.yaml:11: spec.source.filter: there is no column 'nam'",
        "job.yaml:18: spec.pipeline[1].python: stages has no NeedWeights; it has ",
        "job.yaml:23: spec.sink.uri: ",
        "job.yaml:26: spec.sink.columns.n: the source has no column 'nmae'; did you mean 'name'?",
        "job.yaml:28: spec.errors.onRejcet: unknown field; did you mean 'onReject'?",
    ]
    for ran in (plan(site, job), site.run(job)):
        assert ran.code == 42, ran.text
        head, *lines = ran.stderr.splitlines()
        assert head == "The job can't run: 6 mistakes."
        told = [line.strip().removeprefix(f"{site.folder}/") for line in lines]
        assert [line[: len(start)] for line, start in zip(told, expected, strict=True)] == expected
    assert not (site.folder / "out").exists()


def test_a_run_whose_stage_cannot_be_loaded_tells_the_rest_too(site: Site) -> None:
    job = site.job(source={**PARQUET, "uri": "in/b.parquet"}, pipeline=[DOUBLE_STAGE, stage("stages:NeedWeights")])
    for _ in range(2):  # also when there is a ledger already
        ran = site.run(job)
        assert ran.code == 42, ran.text
        assert "spec.source.uri" in ran.stderr
        assert "spec.pipeline[1].python" in ran.stderr


def test_a_damaged_file_hides_no_other_mistake(site: Site) -> None:
    found = mistakes(site, source={**PARQUET, "uri": ["in/a.parquet", "torn"]}, sink={"columns": {"z": "source.z"}})
    assert [name.rpartition(" ")[2] for name in found] == ["spec.sink.columns.z", "torn/a.parquet"]


def test_an_output_whose_uri_is_wrong_is_not_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    found = mistakes(site, source=PARQUET, sink={"uri": "abfss://Cont/out"})
    assert [name.rpartition(" ")[2] for name in found] == ["spec.sink.uri"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        # A mistyped delimiter or mode, weights that went into a field of another name: one mistake, not several.
        ({"source": {**CSV, "csv": {"delimeter": ";"}}}, ["spec.source.csv.delimeter"]),
        ({"source": {**CSV, "delimiter": ";"}, "sink": {"columns": {"n": "source.none"}}}, ["spec.source.delimiter"]),
        ({"source": PARQUET, "sink": {"uri": "full", "moed": "replace"}}, ["spec.sink.moed"]),
        (
            {"source": PARQUET, "pipeline": [DOUBLE_STAGE, stage("stages:NeedsWeights", confg={"weights": 1})]},
            ["spec.pipeline[1].confg"],
        ),
        # What no other field could mend is told all the same.
        (
            {"source": PARQUET, "pipeline": [DOUBLE_STAGE, stage("stages:Nothing", confg={})]},
            ["spec.pipeline[1].python", "spec.pipeline[1].confg"],
        ),
        (
            {"source": {**PARQUET, "fitler": "x > 1"}, "sink": {"columns": {"n": "source.none"}}},
            ["spec.source.fitler", "spec.sink.columns.n"],
        ),
        # A section that can't be read is left alone; the others are looked at.
        (
            {"source": {"format": "paquet", "uri": "none"}, "sink": {"uri": "full"}},
            ["spec.source.format", "spec.sink.uri"],
        ),
        (
            {"source": {**PARQUET, "uri": "none"}, "sink": {"columns": {"y": "nodot"}}},
            ["spec.source.uri", "spec.sink.columns"],
        ),
        (
            {"source": PARQUET, "pipeline": [{"name": "double", "python": "no class"}], "sink": {"uri": "full"}},
            ["spec.pipeline[0].inputs", "spec.pipeline[0].python", "spec.sink.uri"],
        ),
        (
            {"source": {**PARQUET, "uri": "none"}, "workers": {"max": "many"}, "retries": {"attempts": -1}},
            ["spec.source.uri", "spec.workers.max", "spec.retries.attempts"],
        ),
    ],
)
def test_what_follows_from_a_mistake_is_not_told_and_the_rest_is(
    site: Site, spec: dict[str, Any], expected: list[str]
) -> None:
    assert sorted(name.rpartition(" ")[2] for name in mistakes(site, **spec)) == sorted(expected)


def test_a_good_job_is_planned_and_nothing_is_made(tmp_path: Path) -> None:
    site = Site(tmp_path / "new")
    site.parquet("in/a.parquet", {"x": [1.5, 2.5]})
    ran = plan(site, site.job(source=PARQUET))
    assert (ran.code, ran.stdout.startswith("Job job can run: 1 files, ")) == (0, True), ran.text
    assert sorted(path.name for path in site.folder.iterdir()) == ["double.py", "in", "job.yaml"]


def test_plan_says_what_a_run_would_do_with_a_job_that_it_knows(tmp_path: Path) -> None:
    site = Faults(tmp_path)
    job = site.gate_job()
    running = site.start_marked(job)
    site.wait_held()
    said = plan(site, job)
    assert (said.code, said.stdout) == (1, "")
    assert f"Job 'job' is being run already, by process {running.pid}; `headrace status job`" in said.stderr
    running.kill()
    running.communicate()
    site.wait_no_process(10.0)

    said = plan(site, job)
    assert said.code == 0, said.text
    told = re.match(r"Job job continues: (\d+) of (\d+) shards are committed\n", said.stdout)
    assert told is not None, said.text
    assert 0 < int(told[1]) < int(told[2])

    # A stage that can't be loaded is what a run would tell, and not that the output has the job's own files.
    code = (site.folder / "stages.py").read_text()
    site.write("stages.py", "import nothing_of_that_name\n")
    for ran in (plan(site, job), site.run(job)):
        assert (ran.code, ran.stderr.splitlines()[0]) == (42, "The job can't run: 1 mistake."), ran.text
    site.write("stages.py", code + "\n# another model\n")
    said = plan(site, job)
    assert (said.code, said.stderr) == (1, site.run(job).stderr)
    assert "what decides its output has changed" in said.stderr
    site.write("stages.py", code)

    site.let_go()
    site.run_complete(job)
    said = plan(site, job)
    assert (said.code, said.stdout.splitlines()[0]) == (0, "Job job is complete already (--again starts it anew).")
    (site.out / "_SUCCESS").unlink()
    said = plan(site, job)
    assert (said.code, said.stderr) == (1, site.run(job).stderr)
    assert "has no _SUCCESS any more" in said.stderr


def test_planning_a_job_that_was_interrupted_touches_nothing(tmp_path: Path) -> None:
    site = Faults(tmp_path)
    job = site.gate_job()
    running = site.start_marked(job)
    site.wait_held()
    running.kill()
    running.communicate()
    site.wait_no_process(10.0)
    before = files_of(site)
    assert plan(site, job).code == 0
    assert files_of(site) == before


def files_of(site: Site) -> dict[Path, tuple[int, int]]:
    """Size and time of every file, the state included."""
    found = ((path, path.lstat()) for path in site.folder.rglob("*") if "__pycache__" not in path.parts)
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found}
