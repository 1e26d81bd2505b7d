"""Reading job files: what is right, and every way of being wrong that a file shows by itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coordinator.spec import InferenceJob, LoadedJob, examine_job, job_from_plain, job_schema
from headrace.errors import BadJob, Fault

GOOD = """\
apiVersion: headrace.dev/v1alpha1
kind: InferenceJob
metadata: {name: reviews}
spec:
  source:
    format: parquet
    uri: in/*.parquet
  pipeline:
    - name: embed
      onnx: models/m.onnx
      inputs: {x: [source.a, source.b]}
  sink:
    format: parquet
    uri: out/
    columns: {id: source.id, y: embed.y}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load_job(path: Path, sets: dict[str, str], environ: dict[str, str]) -> LoadedJob:
    """A job file that should be right."""
    loaded = examine_job(path, sets, environ)
    if loaded.faults:
        raise loaded.located(BadJob(loaded.faults))
    return loaded


def faults_in(folder: Path, text: str, **variables: str) -> list[str]:
    """Faults as texts, with the path of the file shortened to its name."""
    path = write(folder, text)
    with pytest.raises(BadJob) as caught:
        load_job(path, {}, variables)
    return [str(fault).replace(str(path), "job.yaml") for fault in caught.value.faults]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_a_job_has_absolute_paths_and_defaults(tmp_path: Path) -> None:
    loaded = load_job(write(tmp_path, GOOD), {}, {})
    spec = loaded.job.spec
    assert loaded.folder == tmp_path
    assert spec.source.uri == [f"{tmp_path}/in/*.parquet"]
    assert spec.sink.uri == f"{tmp_path}/out/"
    assert spec.pipeline[0].onnx == f"{tmp_path}/models/m.onnx"
    assert (spec.pipeline[0].kind, spec.pipeline[0].batch.rows, spec.pipeline[0].predictors.max) == ("onnx", None, None)
    assert (spec.errors.max_rejected.share, spec.retries.coordinator_timeout, spec.sink.codec) == (
        0.001,
        3600.0,
        "zstd",
    )


def test_a_manifest_is_the_same_job_again(tmp_path: Path) -> None:
    text = changed(
        "  sink:", "  errors: {maxRejected: 5%}\n  retries: {batchTimeout: 1m30s}\n  activeDeadline: 2h\n  sink:"
    )
    job = load_job(write(tmp_path, text), {}, {}).job
    manifest = job.to_manifest(Path("/elsewhere"))
    again = InferenceJob.from_manifest(manifest)
    assert again == job
    assert again.to_manifest(tmp_path) == manifest
    assert again.folder == tmp_path
    assert (again.spec.retries.batch_timeout, again.spec.active_deadline) == (90.0, 7200.0)


def test_a_manifest_that_is_no_json_is_a_bad_job() -> None:
    with pytest.raises(BadJob, match="not JSON"):
        InferenceJob.from_manifest("{")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    format: parquet\n    uri: in", "    formt: parquet\n    format: csv\n    uri: in",
         "job.yaml:6: spec.source.formt: unknown field; did you mean 'format'?"),
        ("    format: parquet\n    uri: in", "    zzz: 1\n    format: csv\n    uri: in",
         "job.yaml:6: spec.source.zzz: unknown field; "
            "known: format, uri, exclude, columns, filter, onCorrupt, csv, storage"),
        ("    uri: out/\n", "    uri: out/\n    on_reject: 1\n",
         "job.yaml:15: spec.sink.on_reject: unknown field; "
         "known: format, uri, columns, children, mode, compression, storage"),
        ("      onnx: models/m.onnx\n", "      onnx: models/m.onnx\n      batch: {row: 5}\n",
         "job.yaml:11: spec.pipeline[0].batch.row: unknown field; did you mean 'rows'?"),
        ("    uri: out/\n", "", "job.yaml:12: spec.sink.uri: missing; "
            "expected the output folder, relative to the job file, or in hdfs://; a prefix in s3://, gs:// or abfss://"),
        ("    uri: out/\n", "    uri: 5\n", "job.yaml:14: spec.sink.uri: found 5; expected a string"),
        ("format: parquet", "csv: {header: false}\n    format: arrow",
         "job.yaml:5: spec.source: found {csv, format, uri}; csv: only for format csv, not for arrow"),
        ("x: [source", "'*': [source",
         "job.yaml:9: spec.pipeline[0]: found {name, onnx, inputs}; inputs: expected names other than '' and '*'"),
        ("  sink:", "  retries: {attempts: 1.5}\n  sink:",
         "job.yaml:12: spec.retries.attempts: found 1.5; expected a whole number, got a number with a fractional part"),
        ("  sink:", "  retries: {attempts: 0}\n  sink:",
         "job.yaml:12: spec.retries.attempts: found 0; expected greater than or equal to 1"),
        ("kind: InferenceJob\n", "", "job.yaml: kind: missing; expected 'kind'"),
        ("format: parquet", "format: parqet",
         "job.yaml:6: spec.source.format: found 'parqet'; expected 'parquet', 'arrow', 'csv', 'jsonl' or 'files'; "
         "did you mean 'parquet'?"),
        ("name: reviews", "name: Re_views",
         "job.yaml:3: metadata.name: found 'Re_views'; expected up to 63 lower-case letters, digits and '-', "
         "such as reviews-nightly"),
        ("v1alpha1", "v2", "job.yaml:1: apiVersion: found 'headrace.dev/v2'; expected 'headrace.dev/v1alpha1'; "
         "did you mean 'headrace.dev/v1alpha1'?"),
        ("name: embed", "name: em.bed",
         "job.yaml:9: spec.pipeline[0].name: found 'em.bed'; "
            "expected letters, digits, '_' and '-', beginning with a letter; "
         "no dots"),
        ("name: embed", "name: source",
         "job.yaml:9: spec.pipeline[0].name: found 'source'; expected another name: 'source' names the source"),
        ("      onnx: models/m.onnx\n", "      python: m\n",
         "job.yaml:10: spec.pipeline[0].python: found 'm'; "
            "expected module:Class, such as tokenize:Tokens (no path, no .py)"),
        ("[source.a, source.b]", "source",
         "job.yaml:11: spec.pipeline[0].inputs.x: found 'source'; "
         "expected a reference such as source.COLUMN or STAGE.OUTPUT"),
        ("[source.a, source.b]", "{a: b}",
         "job.yaml:11: spec.pipeline[0].inputs.x: found {a}; expected a string or a list"),
        ("      onnx: models/m.onnx\n", "      onnx: m.onnx\n      cast: {x: {dtype: int65}}\n",
         "job.yaml:11: spec.pipeline[0].cast.x.dtype: found 'int65'; "
            "expected one of bool, int8, int16, int32, int64, uint8, "
         "uint16, uint32, uint64, float16, float32, float64, "
            "datetime64[s], datetime64[ms], datetime64[us], datetime64[ns], "
         "datetime64[D], timedelta64[s], timedelta64[ms], timedelta64[us], timedelta64[ns]"),
        ("      onnx: models/m.onnx\n", "      onnx: m.onnx\n      batch: {rows: 0}\n",
         "job.yaml:11: spec.pipeline[0].batch.rows: found 0; expected a whole number of at least 1, or auto"),
        ("      onnx: models/m.onnx\n", "      onnx: m.onnx\n      predictors: {min: 3, max: 2}\n",
         "job.yaml:11: spec.pipeline[0].predictors: found {min, max}; expected min (3) of at most max (2)"),
        ("      onnx: models/m.onnx\n", "",
         "job.yaml:9: spec.pipeline[0]: found {name, inputs}; "
         "expected exactly one of onnx, python, oip, sagemaker, vertex, found none"),
        ("id: source.id", '"*": embed',
         "job.yaml:15: spec.sink.columns: found {*, y}; \"*\": expected source, found embed"),
        ("  sink:", "  errors: {maxRejected: 200%}\n  sink:",
         "job.yaml:12: spec.errors.maxRejected: found '200%'; expected rows, such as 100, or a share, such as 0.1%"),
        ("  sink:", "  activeDeadline: 12\n  sink:",
         "job.yaml:12: spec.activeDeadline: found 12; expected a duration with its unit, such as 30s, 10m or 1h30m"),
        ("  sink:", "  workers: {arena: lots}\n  sink:",
         "job.yaml:12: spec.workers.arena: found 'lots'; expected a size such as 512Mi or 2Gi, or auto"),
        ("    uri: out/\n", "    uri: out/\n    mode: fail\n    format: arrow\n",
         "job.yaml:13: spec.sink.format: written twice; once; it is on line 16 too"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert faults_in(tmp_path, changed(old, new))[:1] == [expected]


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("spec.sink.children", "    uri: out", "    children: explode\n    uri: out"),
        ("spec.pipeline[0].when", "      inputs", "      when: a.b\n      inputs"),
        ("spec.pipeline[0].rows", "      inputs", "      rows: {many: true}\n      inputs"),
        ("spec.pipeline[0].container", "      inputs", "      container: {image: x}\n      inputs"),
        ("spec.pipeline[0].oip", "onnx: models/m.onnx", "oip: {model: x}"),
        ("spec.pipeline[0].sagemaker", "onnx: models/m.onnx", "sagemaker: {port: 1}"),
        ("spec.pipeline[0].vertex", "onnx: models/m.onnx", "vertex: {port: 1}"),
        ("spec.placement", "  sink:", "  placement: {pools: [a]}\n  sink:"),
        ("spec.after", "  sink:", "  after: [a]\n  sink:"),
        ("spec.priorityClassName", "  sink:", "  priorityClassName: a\n  sink:"),
        ("spec.ttlAfterFinished", "  sink:", "  ttlAfterFinished: 7d\n  sink:"),
        ("spec.workers.template", "  sink:", "  workers: {template: {}}\n  sink:"),
        ("spec.workers.min", "  sink:", "  workers: {min: 0}\n  sink:"),
    ],
)
def test_a_field_of_a_later_version_is_refused_not_ignored(tmp_path: Path, field: str, old: str, new: str) -> None:
    (fault,) = faults_in(tmp_path, changed(old, new))
    assert fault.endswith(f"{field}: not supported yet; leave it out")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("out/", "http://127.0.0.1/x", "spec.sink.uri: http:// is not supported yet here; "
         "a local path, s3://, gs://, abfs://, abfss:// or hdfs://"),
        ("models/m.onnx", "s3://m/x.onnx", "spec.pipeline[0].onnx: s3:// is not supported yet here; a local path or pkg://"),
        ("models/m.onnx", "hdfs://m/x.onnx",
         "spec.pipeline[0].onnx: hdfs:// is not supported yet here; a local path or pkg://"),
        ("in/*.parquet", "ftp://x/y", "spec.source.uri: unknown scheme ftp://; "
         "a local path, s3://, gs://, abfs://, abfss://, hdfs://, http:// or https://"),
    ],
)  # fmt: skip
def test_a_store_of_a_later_version_is_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    (fault,) = faults_in(tmp_path, changed(old, new))
    assert fault.endswith(expected)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gs:/bucket/x", "gs: without the two slashes of a URL; gs://bucket/x, or ./gs: for a folder of this name"),
        ("S3:bucket/x", "S3: without the two slashes of a URL; s3://bucket/x, or ./S3: for a folder of this name"),
        ("s3:/key:secret@b/x",
         "s3: without the two slashes of a URL; s3://***@b/x, or ./s3: for a folder of this name"),
        ("abfss:/c@a.dfs.core.windows.net/x", "abfss: without the two slashes of a URL; "
         "abfss://c@a.dfs.core.windows.net/x, or ./abfss: for a folder of this name"),
        ("hdfs:/x", "hdfs: without the two slashes of a URL; hdfs://HOST/x, or ./hdfs: for a folder of this name"),
        ("file:/x", "file: without the two slashes of a URL; file:///x, or ./file: for a folder of this name"),
        ("s3://arn:aws:s3:eu-west-1:123:accesspoint/ap/a@b.parquet",
         "an ARN as a bucket is not supported yet; the access point's alias: s3://ALIAS/PATH"),
        ("abfss://Cont@a.dfs.core.windows.net/x",
         "no container is called 'Cont'; a name of lower case letters, digits and hyphens"),
        ("wasbs://c@a/x", "unknown scheme wasbs://; a local path, "),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("old", "field"), [("in/*.parquet", "7: spec.source.uri"), ("out/", "14: spec.sink.uri")])
def test_a_uri_that_no_store_has_is_refused(tmp_path: Path, old: str, field: str, uri: str, expected: str) -> None:
    (fault,) = faults_in(tmp_path, changed(old, json.dumps(uri)))
    assert fault.startswith(f"job.yaml:{field}: {expected}")


def test_a_web_server_with_one_slash_is_a_mistake_too(tmp_path: Path) -> None:
    (fault,) = faults_in(tmp_path, changed("in/*.parquet", "[a.parquet, 'http:/host/b.parquet']"))
    assert fault.startswith("job.yaml:7: spec.source.uri[1]: http: without the two slashes of a URL; http://host/b.")
    (fault,) = faults_in(tmp_path, changed("out/", "http:/host/x"))
    assert fault.startswith("job.yaml:14: spec.sink.uri: http:// is not supported yet here; ")


@pytest.mark.parametrize("uri", ["abfss://$web@a.dfs.core.windows.net/x", "./gs:/x", "s3-files/a:b", "/gs:/x"])
def test_odd_uris_may_be_right(tmp_path: Path, uri: str) -> None:
    assert load_job(write(tmp_path, changed("out/", uri)), {}, {}).faults == ()


def test_a_scheme_may_be_written_in_capitals(tmp_path: Path) -> None:
    loaded = load_job(write(tmp_path, changed("in/*.parquet", "S3://bucket/In/*.parquet")), {}, {})
    assert loaded.job.absolute(tmp_path).spec.source.uri == ["s3://bucket/In/*.parquet"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:8000/a.parquet", "file:///data/*.parquet"])
def test_a_parquet_source_may_be_http_or_file(tmp_path: Path, uri: str) -> None:
    loaded = load_job(write(tmp_path, changed("in/*.parquet", uri)), {}, {})
    assert loaded.job.spec.source.uri == [uri.removeprefix("file://")]


def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    text = changed("format: parquet", "formt: x\n    format: parquet").replace(
        "uri: out/", "uri: out/\n    children: gather"
    )
    text = text.replace("embed.y", "embd.y")
    assert faults_in(tmp_path, text) == [
        "job.yaml:6: spec.source.formt: unknown field; did you mean 'format'?",
        "job.yaml:16: spec.sink.children: not supported yet; leave it out",
        "job.yaml:17: spec.sink.columns.y: no stage is called 'embd'; did you mean 'embed.y'?",
    ]


def test_variables_come_from_set_before_the_environment(tmp_path: Path) -> None:
    text = changed("in/*.parquet", "${DATA}/dt=${DAY}/*.parquet").replace("out/", '"$${DAY}"')
    job = load_job(write(tmp_path, text), {"DAY": "2026-11-22"}, {"DAY": "old", "DATA": "/lake"}).job
    assert job.spec.source.uri == ["/lake/dt=2026-11-22/*.parquet"]
    assert job.spec.sink.uri == f"{tmp_path}/${{DAY}}"


def test_a_variable_may_stand_for_a_number(tmp_path: Path) -> None:
    text = changed(
        "      inputs", "      batch:\n        rows: ${ROWS}\n      predictors: {max: '${MAX}'}\n      inputs"
    )
    stage = load_job(write(tmp_path, text), {"ROWS": "64", "MAX": "2"}, {}).job.spec.pipeline[0]
    assert (stage.batch.rows, stage.predictors.max) == (64, 2)


def test_a_value_for_a_variable_that_the_file_does_not_have_is_a_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, changed("in/*.parquet", "${DATA}/${DAY}/$${NOT}"))
    sets = {"DATE": "1", "NOT": "", "other-thing": "", "DATA": "/lake"}
    assert [str(fault) for fault in examine_job(path, sets, {"DAY": "2"}).faults] == [
        "--set DATE: no ${DATE} stands in the job file; did you mean DATA? there are: DATA, DAY",
        "--set NOT: no ${NOT} stands in the job file; there are: DATA, DAY",
        "--set other-thing: no ${other-thing} stands in the job file; there are: DATA, DAY",
    ]
    (fault,) = examine_job(write(tmp_path, GOOD), {"a": ""}, {}).faults
    assert str(fault) == "--set a: no ${a} stands in the job file; it has none"


def test_a_missing_variable_says_how_to_set_it(tmp_path: Path) -> None:
    (fault,) = faults_in(tmp_path, changed("in/*", "${DATE}/*"), DATES="x")
    assert fault == (
        "job.yaml:7: spec.source.uri: ${DATE} isn't set (did you mean ${DATES}?); "
        "--set DATE=VALUE, or DATE in the environment"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "job.yaml: this file: empty; an InferenceJob, as README.md shows one"),
        ("- a", "job.yaml: this file: found a list; an InferenceJob, as README.md shows one"),
        ("a: [", "job.yaml: line 2, column 1: not YAML: did not find expected node content"),
        ("a: {rows: ${N}}", "job.yaml: line 1, column 12: not YAML: did not find expected ',' or '}'; "
         'quotes around "${NAME}" within {...}'),
        ("a: &x [*x]", "job.yaml:1: a[0]: an alias to something around it; a value that ends"),
        ("kind: !!python/name:os.system x", "job.yaml:1: kind: the tag tag:yaml.org,2002:python/name:os.system; "
         "a plain value"),
    ],
)  # fmt: skip
def test_text_that_is_no_job_is_a_bad_job(tmp_path: Path, text: str, expected: str) -> None:
    assert faults_in(tmp_path, text)[0].startswith(expected)


def test_a_missing_or_binary_job_file_is_a_bad_job(tmp_path: Path) -> None:
    with pytest.raises(BadJob, match="No such file"):
        load_job(tmp_path / "none.yaml", {}, {})
    (tmp_path / "b.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(BadJob, match="isn't UTF-8"):
        load_job(tmp_path / "b.yaml", {}, {})


def test_plain_words_stay_words(tmp_path: Path) -> None:
    text = changed("{id: source.id, y: embed.y}", "{no: source.on, 2026-11-22: source.yes}")
    assert load_job(write(tmp_path, text), {}, {}).job.spec.sink.columns == {
        "no": "source.on",
        "2026-11-22": "source.yes",
    }


def test_columns_may_have_dots_and_a_source_a_list_of_uris(tmp_path: Path) -> None:
    text = changed("in/*.parquet", "[a.parquet, /b/é ü.parquet]").replace("source.id", "source.a.b.c")
    job = load_job(write(tmp_path, text), {}, {}).job
    assert job.spec.source.uri == [f"{tmp_path}/a.parquet", "/b/é ü.parquet"]
    assert job.spec.sink.columns["id"] == "source.a.b.c"


def test_faults_of_later_checks_are_given_their_line(tmp_path: Path) -> None:
    loaded = load_job(write(tmp_path, GOOD), {}, {})
    error = BadJob(
        [Fault("spec.pipeline[0].inputs.x[1]", "bad"), Fault("spec.sink.mode", "bad"), Fault("/a/file", "bad")]
    )
    fields = [fault.field for fault in loaded.located(error).faults]
    assert fields == [
        f"{loaded.path}:11: spec.pipeline[0].inputs.x[1]",
        f"{loaded.path}:12: spec.sink.mode",
        "/a/file",
    ]


def test_the_schema_knows_every_field_by_the_name_that_files_use() -> None:
    schema = job_schema()
    assert set(schema["$defs"]["SourceSpec"]["properties"]) == {
        "format", "uri", "exclude", "columns", "filter", "onCorrupt", "csv", "storage",
    }  # fmt: skip
    assert schema["$defs"]["SourceSpec"]["properties"]["uri"]["anyOf"][0] == {"type": "string"}
    assert schema["$defs"]["StageSpec"]["additionalProperties"] is False
    assert "as" in schema["$defs"]["BatchSpec"]["properties"]
    json.dumps(schema)


def test_importing_the_spec_loads_no_array_library() -> None:
    code = (
        "import sys, coordinator.spec; print(sorted({'pyarrow', 'numpy', 'onnxruntime', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


PLAIN = yaml.safe_load(GOOD)
PLAIN["spec"] |= {"errors": {"maxRejected": "5%"}, "retries": {"attempts": 3}, "workers": {"max": 3, "arena": "5Mi"}}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "x", "a.b", "auto", "1s", "source.a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@given(st.lists(st.tuples(st.sampled_from(places(PLAIN)[1:]), VALUES), min_size=1, max_size=3))
def test_whatever_a_document_holds_is_a_job_or_a_bad_job(changes: list[tuple[tuple[str | int, ...], object]]) -> None:
    plain = json.loads(json.dumps(PLAIN))
    for path, value in changes:
        at = plain
        for part in path[:-1]:
            at = at[part] if isinstance(at, dict | list) and part in places_of(at) else None
        if at is not None and path[-1] in places_of(at):
            at[path[-1]] = value
    try:
        job = job_from_plain(plain)
    except BadJob:
        return
    assert InferenceJob.from_manifest(job.to_manifest(Path("/a"))) == job.absolute(Path("/a"))


def places_of(value: object) -> list[object]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def test_storage_says_where_a_store_is_and_never_with_which_keys(tmp_path: Path) -> None:
    given = "    storage: {endpoint: 'http://127.0.0.1:9000', region: x, anonymous: true}\n    uri: s3://lake/in"
    storage = load_job(write(tmp_path, changed("    uri: in/*.parquet", given)), {}, {}).job.spec.source.storage
    assert (storage.endpoint, storage.region, storage.anonymous) == ("http://127.0.0.1:9000", "x", True)
    for wrong, said in (("{key: abc}", "spec.source.storage.key"), ("{endpoint: store}", "expected a URL such as")):
        (fault,) = faults_in(tmp_path, changed("    uri: in", f"    storage: {wrong}\n    uri: in"))
        assert said in fault
