"""From a job file and real input to the program; and input that can't be planned."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.planning import Probe, resolve, source_columns
from coordinator.spec import InferenceJob, examine_job
from headrace.errors import BadJob
from headrace.local.messages import TensorSpec
from headrace.program import (
    Cast,
    ErrorPolicy,
    Program,
    Ref,
    SinkColumn,
    SinkProgram,
    StageInput,
    StageProgram,
    program_from_json,
)
from tests.integration.source_fixture import plan_source

JOB = """\
apiVersion: headrace.dev/v1alpha1
kind: InferenceJob
metadata: {name: reviews}
spec:
  source: {format: parquet, uri: in/*.parquet}
  pipeline:
    - name: score
      onnx: m.onnx
      inputs: {x: tokens.y, z: [source.a, source.b]}
      batch: {rows: 7}
      predictors: {min: 2, max: 3}
    - name: tokens
      python: text:Tokens
      inputs: {text: source.text}
      config: {size: 3}
      cast: {text: {fill: ""}}
  sink:
    format: jsonl
    uri: out
    columns: {"*": source, score: score.s}
    compression: gzip
  errors: {maxRejected: 5, onReject: address, nan: reject}
  retries: {batchTimeout: 30s}
  workers: {arena: 64Mi, predictorsMax: 4}
"""
PROBES = {
    "tokens": Probe({}, None),
    "score": Probe(
        {"x": TensorSpec("int64", (None, 3)), "z": TensorSpec("float32", (None, 2))},
        {"s": TensorSpec("float32", (None,))},
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "m.onnx").touch()
    (tmp_path / "in").mkdir()
    table = pa.table(
        {"id": [1, 2], "text": ["a", "b"], "a": pa.array([1, 2], pa.float32()), "b": pa.array([1, 2], pa.int8())}
    )
    pq.write_table(table, tmp_path / "in/a.parquet")
    return tmp_path


def planned(folder: Path, text: str = JOB) -> Program:
    (folder / "job.yaml").write_text(text)
    job = examine_job(folder / "job.yaml", {}, {}).job
    return resolved(job)


def resolved(job: InferenceJob) -> Program:
    source = plan_source(job.spec.source, columns=source_columns(job), limit_rows=None)
    return resolve(job, source, PROBES, limit_rows=None, workers=2)


def test_a_job_becomes_a_program_with_nothing_left_open(folder: Path) -> None:
    program = planned(folder)
    assert program.job_name == "reviews"
    assert program.source.columns == ("id", "text", "a", "b")
    assert program.stages == (
        StageProgram(
            name="tokens",
            kind="python",
            target="text:Tokens",
            inputs=(StageInput("text", (Ref("source", "text"),), cast=Cast(fill="")),),
            config='{"size": 3}',
            search_path=(str(folder),),
            batch_auto=True,
        ),
        StageProgram(
            name="score",
            kind="onnx",
            target=f"{folder}/m.onnx",
            inputs=(
                StageInput("x", (Ref("tokens", "y"),), dtype="int64", shape=(None, 3)),
                StageInput("z", (Ref("source", "a"), Ref("source", "b")), True, dtype="float32", shape=(None, 2)),
            ),
            batch_rows=7,
            predictors_min=2,
            predictors_max=3,
        ),
    )
    assert program.sink == SinkProgram(
        format="jsonl",
        uri=f"{folder}/out",
        columns=(
            *(SinkColumn(name, Ref("source", name)) for name in ("id", "text", "a", "b")),
            SinkColumn("score", Ref("score", "s")),
        ),
        compression="gzip",
    )
    assert program.errors == ErrorPolicy(5, None, keep_rows=False, nan="reject")
    assert (program.arena_bytes, program.predictors_max, program.batch_timeout_s, program.workers) == (
        2**26,
        4,
        30.0,
        2,
    )
    assert program_from_json(program.to_json()) == program


def test_a_manifest_makes_the_same_program_as_the_file(folder: Path) -> None:
    loaded = examine_job(folder / "job.yaml", {}, {})
    again = InferenceJob.from_manifest(loaded.job.to_manifest(loaded.folder))
    assert resolved(again) == resolved(loaded.job)


def test_only_the_columns_that_are_named_are_read(folder: Path) -> None:
    text = JOB.replace('"*": source', "i: source.id").replace("[source.a, source.b]", "[source.b, source.b]")
    assert planned(folder, text).source.columns == ("id", "text", "b")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: os.unlink(folder / "in/a.parquet"), "no file"),
        (lambda folder: os.truncate(folder / "in/a.parquet", 40), "a.parquet"),
        (lambda folder: (folder / "in/a.parquet").write_text("id,text"), "a.parquet"),
    ],
)
def test_input_that_cannot_be_planned_is_a_bad_job(folder: Path, damage: object, expected: str) -> None:
    assert callable(damage)
    damage(folder)
    with pytest.raises(BadJob, match=expected):
        planned(folder)


def test_a_missing_file_is_a_bad_job(folder: Path) -> None:
    with pytest.raises(BadJob, match=r"none\.parquet"):
        planned(folder, JOB.replace("in/*.parquet", "in/none.parquet"))


def test_an_unreadable_file_is_a_bad_job(folder: Path) -> None:
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    (folder / "in/a.parquet").chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        job = examine_job(folder / "job.yaml", {}, {}).job
        with pytest.raises(BadJob, match=r"a\.parquet.*[Pp]ermission"):
            plan_source(job.spec.source, columns=None, limit_rows=None)
    finally:
        os.seteuid(user)


def test_resolving_a_bad_job_raises_all_its_faults(folder: Path) -> None:
    text = JOB.replace("score: score.s", "score: score.q").replace("source.text", "source.txt")
    with pytest.raises(BadJob) as caught:
        planned(folder, text)
    assert [fault.field for fault in caught.value.faults] == [
        "spec.pipeline[1].inputs.text",
        "spec.sink.columns.score",
    ]


def test_a_model_that_went_away_since_its_probe_is_a_bad_job(folder: Path) -> None:
    (folder / "m.onnx").unlink()
    with pytest.raises(BadJob, match=r"spec\.pipeline\[0\]\.onnx: .*m\.onnx doesn't exist"):
        planned(folder)
